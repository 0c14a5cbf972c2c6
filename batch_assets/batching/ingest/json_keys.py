"""Finds out whether the rows of JSON files have the keys that are needed. Keys may come late, and differ by row."""

from collections.abc import Sequence

import duckdb

from batch_assets.batching.ingest.errors import no_column
from batch_assets.batching.ingest.files import SourceFile
from batch_assets.batching.ingest.source import Source
from batch_assets.batching.ingest.values import has_day_in_path
from batch_assets.batching.sql_text import literal

SAMPLED_ROWS = 1_000
# What APIs call the list of rows in an object around it.
NAMES_OF_LISTS = ("articles", "data", "docs", "entries", "items", "posts", "response", "results", "rows")


def check_keys(
    connection: duckdb.DuckDBPyConnection, source: Source, files: Sequence[SourceFile], reader: str
) -> tuple[frozenset[str], Sequence[str]]:
    """The further columns that rows have, by their names in SQL, and the keys of the rows; none if no row is an object.

    All rows are looked at only if the first ones lack a column. Raises SourceError if no row has a column of ours that
    is needed.
    """
    needed = ["body"] if source.needs_body else []
    if not source.has_partition and not has_day_in_path(source, [file.name for file in files]):
        needed.append("published_at")
    keys: list[str] = []
    missing, extra = needed, frozenset[str]()
    for limit in (f"LIMIT {SAMPLED_ROWS}", ""):
        rows = f"(SELECT json FROM {reader} {limit})"
        found = connection.execute(f"SELECT DISTINCT unnest(json_keys(json)) FROM {rows}").fetchall()
        keys = sorted(key for (key,) in found)
        missing = [ours for ours in needed if not _is_key(source.column(ours), keys)]
        extra = frozenset(
            name
            for name, ours in zip(source.extra_names, source.extra, strict=True)
            if _is_column(connection, source.column(ours), keys, rows, are_all_rows=not limit)
        )
        if not missing and len(extra) == len(source.extra):
            break
    if not keys or not missing:
        return extra, keys  # without keys, no row is an object: each is counted as malformed
    lists = [key for key in keys if key.lower() in NAMES_OF_LISTS]
    hint = ""
    if missing[0] == "body" and lists:
        hint = (
            # JSON[], for DuckDB would give each text the type that it seems to have, and lose the keys of later files
            f"If the rows are in the list `{lists[0]}`, make BATCH_ASSETS_SOURCE the query SELECT unnest({lists[0]}) "
            f"AS item FROM read_json('…', columns = {{{lists[0]}: 'JSON[]'}}), and BATCH_ASSETS_COLUMNS 'body=item.…'."
        )
    raise no_column(files[0].name, missing[0], source.column(missing[0]), keys, hint=hint)


def json_pointer(path: Sequence[str]) -> str:
    """The JSON pointer of a path of keys."""
    return "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in path)


def _is_key(name: str, keys: Sequence[str]) -> bool:
    """Whether a name, or the column of a path such as `content.rendered`, is a key in any case."""
    wanted = {name.lower(), name.partition(".")[0].lower()}
    return any(key.lower() in wanted for key in keys)


def _is_column(
    connection: duckdb.DuckDBPyConnection, name: str, keys: Sequence[str], rows: str, *, are_all_rows: bool
) -> bool:
    """Whether a name is a key in any case, or a path such as `byline.name` leads to a field of a row.

    A path is also right if it goes on where all rows have NULL. A wrong path would make the column empty in each row,
    without a message.
    """
    if any(key.lower() == name.lower() for key in keys):
        return True
    path = name.split(".")
    if len(path) == 1 or path[0] not in keys:
        return False
    pointers = [literal(json_pointer(path[:length])) for length in range(1, len(path) + 1)]
    found = connection.execute(
        "SELECT "
        + ", ".join(
            f"bool_or(json_exists(json, {each})), bool_or(json_type(json, {each}) <> 'NULL')" for each in pointers
        )
        + f" FROM {rows}"
    ).fetchone()
    assert found is not None  # aggregates have one row
    for exists, has_values in zip(found[::2], found[1::2], strict=True):
        if not exists:
            return False
        if not has_values:
            return are_all_rows
    return True
