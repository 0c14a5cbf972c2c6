"""The rows of JSON files as SQL. Each row is read as a whole, so keys may come late, and in any case."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import duckdb

from batch_assets.batching.ingest.files import Format, SourceFile
from batch_assets.batching.ingest.globbing import escaped
from batch_assets.batching.ingest.json_keys import check_keys, json_pointer
from batch_assets.batching.ingest.source import ARTICLE_COLUMNS, Source
from batch_assets.batching.ingest.values import (
    has_day_in_path,
    is_whole_number,
    json_text,
    numbered,
    time_in_path,
)
from batch_assets.batching.sql_text import literal


def json_rows(
    connection: duckdb.DuckDBPyConnection, source: Source, files: Sequence[SourceFile]
) -> tuple[str, frozenset[str], Sequence[str]]:
    """The rows of JSON files of one format, with the result of `check_keys`. Raises SourceError."""
    paths = ", ".join(literal(escaped(file.path)) for file in files)
    is_lines = files[0].format is Format.JSON_LINES
    reader = (
        f"read_json_objects([{paths}], format = '{files[0].format.value}', ignore_errors = {str(is_lines).lower()}, "
        "filename = 'file', hive_partitioning = false)"
    )
    extra, keys = check_keys(connection, source, files, reader)
    pointers, places = _pointers(source)
    read = numbered(
        f"SELECT file, json, json_extract_string(json, [{', '.join(map(literal, pointers))}]) AS x FROM {reader}",
        len(files),
    )
    names = {name: source.column(ours) for name, ours in source.sql_names.items()}
    any_missing = " OR ".join(f"x[{places[name][0] + 1}] IS NULL" for name in names)
    in_any_case = Counter(map(str.lower, set(names.values())))
    # a key that is the name of one column, and of another in another case, has the values of both
    exact = [name for name in names.values() if in_any_case[name.lower()] == 1]
    # the keys of ours that the row has in another case; looked for only where a column has no value
    with_other_keys = f"""
        SELECT *, CASE WHEN {any_missing} THEN list_filter(json_keys(json), lambda key:
            list_contains({_list(name.lower() for name in names.values())}, lower(key))
            AND NOT list_contains({_list(exact)}, key)) END AS other_keys
        FROM ({read})
    """
    values = {
        name: _Value(name, theirs, [(place + 1, pointers[place]) for place in places[name]])
        for name, theirs in names.items()
    }
    # DuckDB needs long to plan an expression that is repeated in others, so each text is a column first
    with_texts = f"""
        SELECT file, row, json, x, other_keys,
            {", ".join(f"{value.text} AS {value.column}" for value in values.values())}
        FROM ({with_other_keys})
    """
    none = " AND ".join(f"{values[ours].column} IS NULL" for ours in ARTICLE_COLUMNS)
    not_text = " OR ".join(values[ours].is_not_text for ours in ("id", "title", "body", "url"))
    published = values["published_at"].column
    if has_day_in_path(source, [file.name for file in files]):
        published = f"coalesce({published}, {time_in_path(source, files)})"
    # objects and lists are JSON
    further = "".join(f", {values[name].column} AS {name}" for name in source.extra_names)
    select = f"""
        SELECT file, row, {values["id"].identity} AS id,
            {", ".join(f"{values[ours].words} AS {ours}" for ours in ("title", "body", "url"))},
            NULL::TIMESTAMPTZ AS time, {published} AS time_text,
            CASE
                WHEN json IS NULL THEN 'malformed'
                WHEN {none} THEN CASE WHEN json_type(json) <> 'OBJECT' THEN 'malformed' END
                WHEN {not_text} THEN 'not_text'
            END AS problem{further}
        FROM ({with_texts})
    """
    return select, extra, keys


class _Value:
    """SQL of the value of one key of a row."""

    def __init__(self, column: str, name: str, places: Sequence[tuple[int, str]]) -> None:
        """places: where `x` has the value, and its JSON pointer; the first that is not NULL counts."""
        in_other_case = f"list_filter(other_keys, lambda key: lower(key) = {literal(name.lower())})[1]"
        other_pointer = f"'/' || replace(replace({in_other_case}, '~', '~0'), '/', '~1')"
        cases = " ".join(f"WHEN x[{place}] IS NOT NULL THEN {literal(pointer)}" for place, pointer in places)
        first = ", ".join(f"x[{place}]" for place, _ in places)
        self.column = f"{column}_text"
        self.text = (
            f"coalesce({first}, CASE WHEN len(other_keys) > 0 THEN json_extract_string(json, {other_pointer}) END)"
        )
        self._value = f"json_extract(json, CASE {cases} ELSE {other_pointer} END)"
        self._may_be_nested = f"(starts_with({self.column}, '[') OR starts_with({self.column}, '{{'))"

    @property
    def words(self) -> str:
        return f"CASE WHEN {self._may_be_nested} THEN {json_text(self._value)} ELSE {self.column} END"

    @property
    def identity(self) -> str:
        """As the text, but of a number: 1001.0 is 1001, and NaN is no id."""
        return f"""CASE
            WHEN regexp_full_match({self.column}, '[0-9.-]+[.eE][0-9eE+-]+')
                THEN CASE json_type({self._value})
                    WHEN 'DOUBLE' THEN {is_whole_number(self.column)} ELSE {self.column} END
            WHEN regexp_full_match({self.column}, '(?i)-?(nan|inf|infinity)')
                THEN CASE json_type({self._value}) WHEN 'VARCHAR' THEN {self.column} END
            ELSE {self.words}
        END"""

    @property
    def is_not_text(self) -> str:
        # CASE: of AND, DuckDB evaluates both sides for each row
        return f"CASE WHEN {self._may_be_nested} THEN ({json_text(self._value)}) IS NULL ELSE false END"


def _pointers(source: Source) -> tuple[list[str], Mapping[str, list[int]]]:
    """The JSON pointers of our columns, and the places of each column's in this list. `a.b` is a key, or a path."""
    pointers: list[str] = []
    places: dict[str, list[int]] = {}
    for column, ours in source.sql_names.items():
        name = source.column(ours)
        paths = [[name], name.split(".")] if "." in name else [[name]]
        for path in paths:
            places.setdefault(column, []).append(len(pointers))
            pointers.append(json_pointer(path))
    return pointers, places


def _list(names: Iterable[str]) -> str:
    return "[" + ", ".join(map(literal, names)) + "]"
