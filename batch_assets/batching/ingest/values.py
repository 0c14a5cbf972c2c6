"""The values of a source's columns as SQL: text, ids and times, whatever types the columns have."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from batch_assets.batching.ingest.errors import MAX_NAME, SourceError, shortened
from batch_assets.batching.ingest.files import SourceFile
from batch_assets.batching.ingest.globbing import escaped
from batch_assets.batching.ingest.source import ARTICLE_COLUMNS, Source
from batch_assets.batching.sql_text import literal

PARAGRAPHS = "chr(10) || chr(10)"  # between the texts of a list
FRACTIONS = re.compile(r"FLOAT|DOUBLE|DECIMAL.*")
INSTANTS = re.compile(r"DATE|TIMESTAMP.*")
NESTED = re.compile(r"(STRUCT|TUPLE|MAP|UNION)\(.*|.*\]", re.DOTALL)
BYTES = re.compile(r"\b(BLOB|GEOMETRY)\b")
PLAIN = re.compile(
    r"VARCHAR|BOOLEAN|U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|VARINT|BIGNUM|UUID|TIME.*|INTERVAL|ENUM.*|NULL|\"NULL\""
)


def quoted(identifier: str) -> str:
    """An identifier of SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def staged_rows(paths: Iterable[Path]) -> str:
    """SQL of the rows of Parquet files that we wrote, in their order. Names of folders give no columns."""
    files = ", ".join(literal(escaped(str(path))) for path in paths)
    return f"read_parquet([{files}], hive_partitioning = false)"


def find_columns(source: Source, names: Iterable[str]) -> dict[str, str]:
    """The source's columns by our names in SQL: SQL that selects each. The exact name counts first, then one in another
    case.

    A name with dots may be a path: `content.rendered` is the field `rendered` of the column `content`.
    """
    existing = list(names)
    found = {}
    for name, ours in source.sql_names.items():
        wanted = source.column(ours)
        column = find_name(existing, wanted)
        if column is not None:
            found[name] = quoted(column)
            continue
        first, dot, rest = wanted.partition(".")
        column = find_name(existing, first)
        if dot and column is not None:
            found[name] = ".".join([quoted(column), *map(quoted, rest.split("."))])
    return found


def find_name(names: Iterable[str], wanted: str) -> str | None:
    """The name that is `wanted`, or else the first one that is it in another case."""
    existing = list(names)
    same = [name for name in existing if name == wanted] or [
        name for name in existing if name.lower() == wanted.lower()
    ]
    return same[0] if same else None


def has_day_in_path(source: Source, paths: Iterable[str]) -> bool:
    """Whether a folder gives the time, as Hive names partitions: `…/published_at=2026-01-05/…`.

    Only for rows that have no such column. Folders give no other column: `id=7/` would give all articles one id.
    """
    folder = f"/{source.column('published_at')}="
    return any(folder in path for path in paths)


def time_in_path(source: Source, files: Sequence[SourceFile], column: str = "file") -> str:
    """SQL of the time that a folder gives; column: SQL of what DuckDB reads, which may be a copy of a file."""
    if not source.column("published_at").replace("_", "").isalnum():
        return "NULL"
    copies = ", ".join(f"{literal(file.path)}: {literal(file.name)}" for file in files if file.path != file.name)
    name = f"coalesce(MAP {{{copies}}}[{column}], {column})" if copies else column
    return f"nullif(url_decode(regexp_extract({name}, '/{source.column('published_at')}=([^/]+)/', 1)), '')"


def numbered(select: str, files: int) -> str:
    """The SELECT with the column row: the number of the row in its file, from 1. It has the column file.

    With one thread, the rows come file by file and in their order, so DuckDB numbers them as they pass.
    """
    if files == 1:
        return f"SELECT *, row_number() OVER () AS row FROM ({select})"
    return f"""
        SELECT *, place - max(first_place) OVER (ROWS UNBOUNDED PRECEDING) + 1 AS row
        FROM (
            SELECT *, CASE WHEN file IS DISTINCT FROM lag(file) OVER () THEN place END AS first_place
            FROM (SELECT *, row_number() OVER () AS place FROM ({select}))
        )
    """


def is_whole_number(text: str) -> str:
    """SQL of a number's text, without a fraction that is zero: 1001.0 is the id 1001 of a column with empty values."""
    number = f"try_cast({text} AS DOUBLE)"
    return f"""CASE
        WHEN regexp_full_match({text}, '-?\\d+\\.0*') THEN regexp_replace({text}, '\\.0*$', '')
        WHEN regexp_matches({text}, '[eE]') AND {number} = trunc({number}) AND abs({number}) < 1e37
            THEN CAST(CAST({number} AS HUGEINT) AS VARCHAR)
        ELSE {text}
    END"""


def typed_columns(place: str, source: Source, types: Mapping[str, tuple[str, str]]) -> str:
    """SQL of the columns id, title, body, url, time or time_text, problem, and those of the further columns.

    types: the SQL and the DuckDB type of each of our columns that the source has, by our names in SQL. Raises
    SourceError for a type that is no text.
    """
    selected, unreadable = [], []
    for ours in ARTICLE_COLUMNS:
        sql, kind = types.get(ours, ("NULL", "NULL"))
        if ours == "published_at":
            time, time_text = _time(place, source.column(ours), sql, kind)
            selected.append(f"{time} AS time, {time_text} AS time_text")
            continue
        text = (
            _id(place, source.column(ours), sql, kind) if ours == "id" else _text(place, source.column(ours), sql, kind)
        )
        selected.append(f"{text} AS {ours}")
        if kind in ("BLOB", "JSON") and ours != "id":
            unreadable.append(f"({sql} IS NOT NULL AND {_is_a_value(sql, kind)} AND ({text}) IS NULL)")
    extra = []
    for name, ours in zip(source.extra_names, source.extra, strict=True):
        sql, kind = types.get(name, ("NULL", "NULL"))
        text = _further_text(place, ours, source.column(ours), sql, kind)
        extra.append(f"{text} AS {name}")
        if kind == "BLOB":
            unreadable.append(f"({sql} IS NOT NULL AND ({text}) IS NULL)")
    problem = f"CASE WHEN {' OR '.join(unreadable)} THEN 'not_text' END" if unreadable else "NULL::VARCHAR"
    return ", ".join([*selected, f"{problem} AS problem", *extra])


def json_text(value: str) -> str:
    """SQL of the text of a JSON value: a list of texts is paragraphs; NULL for another list or object."""
    return f"""CASE json_type({value})
        WHEN 'ARRAY' THEN CASE WHEN json_structure({value}) IN ('["VARCHAR"]', '["NULL"]')
            THEN array_to_string(from_json({value}, '["VARCHAR"]'), {PARAGRAPHS}) END
        WHEN 'OBJECT' THEN NULL
        ELSE {value} ->> '$'
    END"""


def _is_a_value(sql: str, kind: str) -> str:
    return f"json_type({sql}) <> 'NULL'" if kind == "JSON" else "true"


def _text(place: str, name: str, sql: str, kind: str) -> str:
    if kind == "BLOB":
        return f"try(decode({sql}))"
    if kind == "JSON":
        return json_text(sql)
    if kind == "VARCHAR[]":
        return f"array_to_string({sql}, {PARAGRAPHS})"
    if PLAIN.fullmatch(kind) or FRACTIONS.fullmatch(kind) or INSTANTS.fullmatch(kind):
        return f"CAST({sql} AS VARCHAR)"
    raise _wrong_type(place, name, kind, "a text or a list of texts")


def _further_text(place: str, ours: str, name: str, sql: str, kind: str) -> str:
    """SQL of the text of a further column: lists and structs are JSON."""
    if kind == "BLOB":
        return f"try(decode({sql}))"
    if kind == "JSON":
        return f"({sql} ->> '$')"
    if kind == "VARIANT":
        return f"(to_json({sql}) ->> '$')"
    if PLAIN.fullmatch(kind) or FRACTIONS.fullmatch(kind) or INSTANTS.fullmatch(kind):
        return f"CAST({sql} AS VARCHAR)"
    # JSON has no bytes: DuckDB would write \\xC3\\xA9
    if NESTED.fullmatch(kind) and not BYTES.search(kind):
        return f"CAST(to_json({sql}) AS VARCHAR)"
    raise _wrong_type(place, name, kind, "a text, a number, a time, or a list or struct of these", ours)


def _id(place: str, name: str, sql: str, kind: str) -> str:
    if FRACTIONS.fullmatch(kind):  # NaN stands for an empty value
        text = f"CAST({sql} AS VARCHAR)"
        return f"CASE WHEN isfinite(CAST({sql} AS DOUBLE)) THEN {is_whole_number(text)} END"
    if kind == "BLOB":
        return f"coalesce(try(decode({sql})), lower(hex({sql})))"
    if kind == "VARCHAR[]":
        raise _wrong_type(place, name, kind, "a text or a number")
    return _text(place, name, sql, kind)


def _time(place: str, name: str, sql: str, kind: str) -> tuple[str, str]:
    """SQL of a TIMESTAMPTZ, and SQL of a text with a time: one of them, and NULL."""
    if INSTANTS.fullmatch(kind):
        return f"try_cast({sql} AS TIMESTAMPTZ)", "NULL::VARCHAR"
    if kind == "JSON":
        return "NULL::TIMESTAMPTZ", f"({sql} ->> '$')"
    if kind == "BLOB":
        return "NULL::TIMESTAMPTZ", f"try(decode({sql}))"
    if PLAIN.fullmatch(kind) or FRACTIONS.fullmatch(kind):
        return "NULL::TIMESTAMPTZ", f"CAST({sql} AS VARCHAR)"
    raise _wrong_type(place, name, kind, "a time, a text or a number")


def _wrong_type(place: str, name: str, kind: str, wanted: str, ours: str = "body") -> SourceError:
    return SourceError(
        f"{shortened(place, MAX_NAME)}: the column `{shortened(name, 40)}` has the type {shortened(kind, 80)}; it must "
        f"be {wanted}. Name a field of it, such as BATCH_ASSETS_COLUMNS='{ours}={shortened(name, 40)}.text', or make "
        "BATCH_ASSETS_SOURCE a query that selects a text."
    )
