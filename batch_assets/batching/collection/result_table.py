"""The table of a task's results, named after the task: one row for each article of a day.

The columns of the answer follow the output schema of the task. Of a later schema, they are added or become wider, and
none is dropped: earlier rows keep their values.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import duckdb

from batch_assets.batching.collection.column_types import VECTOR, converted, merged, structure_of_type
from batch_assets.batching.ledger.result_tables import (
    ADDED_LATER,
    COLUMNS_AFTER,
    FIXED_COLUMNS,
    KEY_COLUMNS,
    article_columns,
    why_not_a_name,
)
from batch_assets.batching.ledger.schema import COMPRESSED_TEXT
from batch_assets.batching.ledger.table_comments import comment_on_table
from batch_assets.batching.sql_text import literal
from batch_assets.batching.task_day import FIRST_TASK
from batch_assets.output_schema.columns import AnswerColumn, Structure, folded, quoted

FIND_COLUMNS = """
    SELECT column_name, data_type, comment FROM duckdb_columns()
    WHERE database_name = current_database() AND schema_name = current_schema() AND table_name = $table
    ORDER BY column_index
"""


class _Column(NamedTuple):
    """A column that the table has."""

    name: str
    structure: Structure
    comment: str | None


class TypedAnswers(NamedTuple):
    """The parts of a statement that makes columns of answers.

    value: an expression by the column `text`, to be computed once for each row, with the name `answer`.
    columns: the columns of the table, to be inserted into.
    values: their values by `answer`, with the types of the table. Both lists are separated by commas.

        INSERT INTO … (partition_date, {columns})
        WITH typed AS MATERIALIZED (SELECT …, {value} AS answer FROM completion)
        SELECT …, {values} FROM typed

    `value` has the parameter $structure: see `output_schema.columns.structure`. A task without a schema has none.
    """

    value: str
    columns: str
    values: str


def prepare_result_table(
    connection: duckdb.DuckDBPyConnection, table: str, columns: Sequence[AnswerColumn], *, has_schema: bool
) -> tuple[AnswerColumn, ...]:
    """Create the table, or add what it lacks, in the present transaction; returns these columns as the table has them.

    columns: of the answers, in their order, without `column_problems`. A type that the table has may be a wider one: a
    DOUBLE for integers, a STRUCT with more fields. A type that does not fit the earlier one becomes JSON, for all rows.

    Raises ValueError if the task cannot have a table of this name.
    """
    if why := why_not_a_name(table):
        raise ValueError(why)
    present = _present(connection, table)
    names = {column.name for column in present}
    of_article = article_columns(has_schema=has_schema)
    if not present:
        _create(connection, table, columns, of_article)
        present = [_Column(column.name, column.structure, None) for column in columns]
    elif missing := set(FIXED_COLUMNS) - set(ADDED_LATER) - names:
        raise ValueError(
            f"The database has a table or view {table} that is no table of results: it has no column {min(missing)}. "
            "Rename it, or give the task another name."
        )
    else:
        later = {**of_article, **{name: COLUMNS_AFTER[name] for name in ADDED_LATER}}
        for name in later.keys() - names:
            connection.execute(f"ALTER TABLE {quoted(table)} ADD COLUMN {quoted(name)} {later[name]}")
    before = {folded(column.name): column for column in present}
    return tuple(_prepare_column(connection, table, column, before) for column in columns)


def typed_answers(columns: Sequence[AnswerColumn], present: Sequence[AnswerColumn]) -> TypedAnswers:
    """The parts of a statement that makes these columns of `completion.text`.

    present: the same columns as the table has them, as `prepare_result_table` returns them.
    """
    values = [
        converted(f"struct_extract(answer, {literal(column.name)})", column.structure, found.structure)
        for column, found in zip(columns, present, strict=True)
    ]
    return TypedAnswers(
        "TRY(from_json_strict(text, $structure::VARCHAR))",
        ", ".join(quoted(column.name) for column in present),
        ", ".join(values),
    )


def text_answers(present: Sequence[AnswerColumn]) -> TypedAnswers:
    """The same for a task without a schema, whose answer is the text in one column."""
    [column] = present
    return TypedAnswers("text", quoted(column.name), converted("answer", "VARCHAR", column.structure))


def vector_answers(present: Sequence[AnswerColumn]) -> TypedAnswers:
    """The same for a task whose answer is a vector, in one column."""
    [column] = present
    return TypedAnswers("vector", quoted(column.name), converted("answer", VECTOR, column.structure))


def _present(connection: duckdb.DuckDBPyConnection, table: str) -> list[_Column]:
    """The columns of the table; none if there is no table."""
    rows = connection.execute(FIND_COLUMNS, {"table": table}).fetchall()
    return [_Column(name, structure_of_type(connection.type(data_type)), comment) for name, data_type, comment in rows]


def _create(
    connection: duckdb.DuckDBPyConnection, table: str, columns: Sequence[AnswerColumn], of_article: Mapping[str, str]
) -> None:
    is_one_text = [column.structure for column in columns] == ["VARCHAR"]  # then the text is long
    answer = {column.name: COMPRESSED_TEXT if is_one_text else column.type for column in columns}
    types = {**KEY_COLUMNS, **of_article, **answer, **COLUMNS_AFTER}
    definitions = ", ".join(f"{quoted(name)} {type_text}" for name, type_text in types.items())
    connection.execute(f"CREATE TABLE {quoted(table)} ({definitions})")
    comment_on_table(connection, table, described_as=FIRST_TASK)


def _prepare_column(
    connection: duckdb.DuckDBPyConnection, table: str, column: AnswerColumn, before: Mapping[str, _Column]
) -> AnswerColumn:
    """Add the column, or change its type and its comment; returns it as the table has it.

    before: the columns of the table, by their names in lower case.
    """
    present = before.get(folded(column.name))
    name = column.name if present is None else present.name
    found = column.structure if present is None else merged(present.structure, column.structure)
    result = AnswerColumn(name, found, column.description)
    comment = None if present is None else present.comment
    if present is None:
        connection.execute(f"ALTER TABLE {quoted(table)} ADD COLUMN {quoted(name)} {result.type}")
    elif found != present.structure:
        _change_type(connection, table, present, result, before)
        comment = None
    if column.description != comment:
        text = "NULL" if column.description is None else literal(_storable(column.description))
        connection.execute(f"COMMENT ON COLUMN {quoted(table)}.{quoted(name)} IS {text}")
    return result


def _change_type(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    present: _Column,
    wanted: AnswerColumn,
    taken: Collection[str],
) -> None:
    """Replace the column by one of another type with the same values.

    No ALTER TYPE: DuckDB 2.0 writes its expression into the WAL. After a crash, it opens the file before it has loaded
    the functions of JSON, and then cannot open it.
    """
    other = "changed"
    while other in taken:
        other += "_"
    value = converted(quoted(present.name), present.structure, wanted.structure)
    connection.execute(f"ALTER TABLE {quoted(table)} ADD COLUMN {quoted(other)} {wanted.type}")
    connection.execute(f"UPDATE {quoted(table)} SET {quoted(other)} = {value}")
    connection.execute(f"ALTER TABLE {quoted(table)} DROP COLUMN {quoted(present.name)}")
    connection.execute(f"ALTER TABLE {quoted(table)} RENAME COLUMN {quoted(other)} TO {quoted(present.name)}")


def _storable(text: str) -> str:
    """The text without what no string of SQL can have: half of a surrogate pair, and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")
