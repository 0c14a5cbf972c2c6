"""Random files of articles, and what a reader must find in them: each row, with its file, row and line."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from batch_assets_tests.batching.conftest import DAY, NEXT_DAY

COLUMNS = ("id", "title", "body", "url", "published_at")
FURTHER = ("author", "file")  # further columns, which a task may use
# What a file has as the time, and what it means.
TIMES: dict[str | None, datetime | None] = {
    DAY: datetime.fromisoformat("2026-11-20"),  # UTC, as in the tables
    f"{DAY}T23:59:59Z": datetime.fromisoformat("2026-11-20 23:59:59"),
    f" {DAY} 01:30:00+01:00 ": datetime.fromisoformat("2026-11-20 00:30"),
    "Fri, 20 Nov 2026 08:00:00 GMT": datetime.fromisoformat("2026-11-20 08:00"),
    "1795132800": datetime.fromisoformat("2026-11-20"),
    "1795132800000": datetime.fromisoformat("2026-11-20"),
    NEXT_DAY: datetime.fromisoformat("2026-11-21"),
    f"{DAY}T23:30:00-05:00": datetime.fromisoformat("2026-11-21 04:30"),
    "2026-11-02": datetime.fromisoformat("2026-11-02"),  # a day that no test reads
    "11/20/26": None,
    "0001-01-01": None,
    "infinity": None,
    "soon": None,
    "": None,
    None: None,
}
BROKEN_CSV = {
    "too few": "lonely",
    "too many": "{delimiter}".join("1234567890123456789"),
    "spaces": "  ",
    "no UTF-8": "{delimiter}".join(["caf\udce9"] * 7),
}
BROKEN_JSON = [
    '{"id": "1", "body": ',
    "no json",
    "[1]",
    '"text"',
    "5",
    "null",
    '{"id": "\udce9"}',
    '{"body": "\\ud83d"}',
]


@dataclass(frozen=True)
class Article:
    """A row, before it is written to a file.

    spelling: a number from which each format takes how it writes the row. further: values that JSON can have.
    """

    id: str | None
    title: str | None
    body: str | None
    url: str | None
    time: str | None
    spelling: int = 0
    further: tuple[Any, ...] = (None, None)


@dataclass(frozen=True)
class Broken:
    """A row that no reader can read. kind: a number, of which each format makes an error."""

    kind: int


@dataclass(frozen=True)
class Found:
    """A row as it must be read. place: its file, row and line. time: None if it cannot be read."""

    place: tuple[str | None, int | None, int | None]
    id: str | None = None
    title: str | None = None
    body: str | None = None
    url: str | None = None
    time: datetime | None = None
    further: tuple[str | None, ...] = (None, None)
    is_text: bool = True
    is_malformed: bool = False


@dataclass(frozen=True)
class File:
    """How the rows are written. spelling: a number for the order and the case of the columns.

    has_further: whether it has the further columns. further_type: their type in Parquet.
    """

    format: str
    delimiter: str = ","
    quotes_all: bool = False
    line_ends: tuple[str, ...] = ("\n",)
    encoding: str = "utf-8"
    is_compressed: bool = False
    blank_lines: bool = False
    ends_with_line: bool = True
    types: tuple[str, ...] = ("VARCHAR", "VARCHAR", "VARCHAR")
    has_further: bool = True
    further_type: str = "VARCHAR"
    spelling: int = 0
    rows: Sequence[Article | Broken] = field(default_factory=tuple)

    def write(self, folder: Path, number: int, names: dict[str, str], connection: duckdb.DuckDBPyConnection) -> Written:
        """Write the file. names: the source's names of our columns."""
        ending = {"array": ".json", "pretty": ".json", "tsv": ".tsv"}.get(self.format, f".{self.format}")
        path = folder / f"f{number}{ending}{'.gz' if self.is_compressed and self.format != 'parquet' else ''}"
        if self.format == "parquet":
            return Written(path, write_parquet(self, path, names, connection))
        text, found = (csv_text if self.format in ("csv", "tsv") else json_text)(self, path.name, names)
        content = text.encode(self.encoding, "surrogateescape" if self.encoding == "utf-8" else "strict")
        if self.encoding.endswith(("le", "be")):
            content = "\ufeff".encode(self.encoding) + content
        path.write_bytes(gzip.compress(content, 1) if self.is_compressed else content)
        return Written(path, found)


@dataclass(frozen=True)
class Written:
    path: Path
    found: list[Found]


def text_of(value: Any) -> str | None:
    """The text that a further column keeps of a value of JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def spelled(name: str, chance: random.Random) -> str:
    """The name in another case."""
    return chance.choice([name, name, name.upper(), name.capitalize(), name.swapcase()])


def csv_text(file: File, name: str, names: dict[str, str]) -> tuple[str, list[Found]]:
    chance = random.Random(file.spelling)
    delimiter = "\t" if file.format == "tsv" else file.delimiter
    further = FURTHER if file.has_further else ()
    columns = [*COLUMNS, *further, 'extra, or \n"two"', "other"]
    chance.shuffle(columns)

    def quoted(value: str | None) -> str:
        text = value or ""
        must = any(sign in text for sign in ('"', delimiter, "\n", "\r"))
        return '"' + text.replace('"', '""') + '"' if must or (file.quotes_all and value is not None) else text

    text = ("\n" if file.blank_lines else "") + ("sep=;\n" if delimiter == ";" and file.blank_lines else "")
    text += delimiter.join(quoted(spelled(names.get(column, column), chance)) for column in columns)
    found: list[Found] = []
    row = 0
    for number, item in enumerate(file.rows):
        text += file.line_ends[number % len(file.line_ends)]
        text += "\n" if file.blank_lines and number % 2 else ""
        line = text.count("\n") + 1
        if isinstance(item, Broken):
            kinds = list(BROKEN_CSV) if file.encoding == "utf-8" else list(BROKEN_CSV)[:3]
            text += BROKEN_CSV[kinds[item.kind % len(kinds)]].replace("{delimiter}", delimiter)
            found.append(Found((name, None, line), is_malformed=True))
            continue
        row += 1
        values = {"id": item.id, "title": item.title, "body": item.body, "url": item.url, "published_at": item.time}
        values |= {name: text_of(value) for name, value in zip(further, item.further, strict=False)}
        text += delimiter.join(quoted(values.get(column, "x")) for column in columns)
        read = (item.id or None, item.title or None, item.body or None, item.url or None)  # "" is NULL
        texts = tuple(values.get(column) or None for column in FURTHER)
        found.append(Found((name, row, line), *read, TIMES[item.time], texts))
    return text + (file.line_ends[-1] if file.ends_with_line else ""), found


def json_text(file: File, name: str, names: dict[str, str]) -> tuple[str, list[Found]]:
    lines: list[str] = []
    found: list[Found] = []
    rows = [row for row in file.rows if isinstance(row, Article) or file.format != "pretty"]  # DuckDB refuses the file
    for row, item in enumerate(rows, start=1):
        if file.blank_lines and row % 2:
            lines.append(" \t")
        is_lines = file.format == "jsonl"
        place = (name, row, sum(line.count("\n") + 1 for line in lines) + 1 if is_lines else None)
        if isinstance(item, Broken):
            kinds = BROKEN_JSON if is_lines and file.encoding == "utf-8" else BROKEN_JSON[3:6]
            kinds = (
                kinds if len(rows) > 1 else [kind for kind in kinds if kind[0] != "["]
            )  # a file with [1] only is an array
            lines.append(kinds[item.kind % len(kinds)])
            found.append(Found(place, is_malformed=True))
            continue
        is_first = not any(not read.is_malformed for read in found)
        further = FURTHER if file.has_further else ()
        value, read = json_row(item, place, names, further, has_all_keys=is_first)
        lines.append(json.dumps(value, ensure_ascii=item.spelling % 2 == 0, indent=None if is_lines else 1))
        found.append(read)
    end = file.line_ends[0]
    if file.format == "array":
        objects = [line for line in lines if line.strip()]
        return "[" + ("," + end).join(objects) + "]" + end, found
    return end.join(lines) + (end if file.ends_with_line else ""), found


def json_row(
    item: Article,
    place: tuple[str, int, int | None],
    names: dict[str, str],
    further: Sequence[str],
    *,
    has_all_keys: bool,
) -> tuple[Any, Found]:
    """A JSON object, with what it means. has_all_keys: a file in which no row has a text or a time is refused."""
    chance = random.Random(item.spelling)
    values: dict[str, Any] = {
        "id": item.id,
        "title": item.title,
        "body": item.body,
        "url": item.url,
        "published_at": item.time,
    }
    expected = dict(values)
    is_text = True
    if item.id is not None and item.id.isdigit() and item.id[0] != "0" and len(item.id) < 15:
        values["id"] = chance.choice([item.id, int(item.id), float(item.id)])
    elif item.id is None:
        values["id"] = chance.choice([None, float("nan")])
    if item.body is not None and chance.random() < 0.3:
        values["body"] = item.body.split("\n\n")
    elif chance.random() < 0.1:
        values["body"], expected["body"], is_text = {"text": item.body}, None, False
    if item.time is not None and item.time.isdigit():
        values["published_at"] = chance.choice([item.time, int(item.time), float(item.time)])
    values |= dict(zip(further, item.further, strict=False))
    names_of_columns = (*COLUMNS, *further)
    keys = [key for key in names_of_columns if values[key] is not None or has_all_keys or chance.random() < 0.5]
    chance.shuffle(keys)
    row: dict[str, Any] = {"extra": {"body": [1]}} if chance.random() < 0.2 else {}
    row |= {spelled(names.get(key, key), chance): values[key] for key in keys}
    del expected["published_at"]
    texts = tuple(text_of(values.get(name)) for name in FURTHER)
    return row, Found(place, time=TIMES[item.time], further=texts, is_text=is_text, **expected)


def write_parquet(file: File, path: Path, names: dict[str, str], connection: duckdb.DuckDBPyConnection) -> list[Found]:
    """Write the rows that are articles. Each of `types` is that of a column: the id, the body, the time."""
    chance = random.Random(file.spelling)
    articles = [row for row in file.rows if isinstance(row, Article)]
    id_type, body_type, time_type = file.types
    found, rows = [], []
    for number, item in enumerate(articles, start=1):
        identity, time = item.id, TIMES[item.time]
        if id_type in ("DOUBLE", "BIGINT"):
            identity = identity if (identity or "").isdigit() else None
        further, texts = zip(*(parquet_value(value, file) for value in item.further), strict=True)
        written_time = item.time if time_type == "VARCHAR" else str(time)
        rows.append((identity, item.title, item.body, item.url, written_time, *further))
        plain_id = identity if id_type in ("VARCHAR", "BLOB") or identity is None else str(int(identity))
        read = (plain_id, item.title, item.body, item.url)
        found.append(Found((path.name, number, None), *read, time, texts if file.has_further else (None, None)))
    sql = {
        "id": f"CAST(id AS {id_type})" if id_type != "BLOB" else "encode(id)",
        "body": {"BLOB": "encode(body)", "VARCHAR[]": "string_split(body, chr(10) || chr(10))"}.get(body_type, "body"),
        "published_at": {
            "VARCHAR": "time",
            "TIMESTAMP": "try_cast(time AS TIMESTAMP)",
            "TIMESTAMPTZ": "try_cast(time AS TIMESTAMP)::TIMESTAMPTZ",
            "BIGINT": "epoch_ms(try_cast(time AS TIMESTAMP))",
            "DOUBLE": "epoch(try_cast(time AS TIMESTAMP))",
        }[time_type],
    }
    columns = [*COLUMNS, *(FURTHER if file.has_further else ()), "row", "day"]
    chance.shuffle(columns)
    sql |= {"row": "1", "day": "'x'"}
    for name in FURTHER:
        sql[name] = {
            "BLOB": f"encode({name})",
            "VARCHAR[]": f"CASE WHEN {name} IS NOT NULL THEN [{name}] END",
            "STRUCT": f"CASE WHEN {name} IS NOT NULL THEN {{'name': {name}}} END",
        }.get(file.further_type, f"CAST({name} AS {file.further_type})")
    selected = ", ".join(
        f'{sql.get(key, key)} AS "{spelled(names.get(key, key), chance).replace(chr(34), chr(34) * 2)}"'
        for key in columns
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE article (id VARCHAR, title VARCHAR, body VARCHAR, url VARCHAR, time VARCHAR, "
        "author VARCHAR, file VARCHAR)"
    )
    if rows:
        lists = [list(values) for values in zip(*rows, strict=True)]
        connection.execute(f"INSERT INTO article SELECT {', '.join(['unnest(CAST(? AS VARCHAR[]))'] * 7)}", lists)
    connection.execute(f"COPY (SELECT {selected} FROM article) TO '{path}' (FORMAT parquet)")
    return found


def parquet_value(value: Any, file: File) -> tuple[str | None, str | None]:
    """A value of a further column as a text that DuckDB casts to the column's type, and the text that it is read as."""
    text = text_of(value)
    if file.further_type == "UBIGINT":
        text = text if isinstance(value, int) and not isinstance(value, bool) else None
    read = {"VARCHAR[]": [text], "STRUCT": {"name": text}}.get(file.further_type, text)
    return text, None if text is None else text_of(read)
