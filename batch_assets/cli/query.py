"""`batch-assets query`: SQL over the tables, which can change nothing and read no other file."""

import csv
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batch_assets.batching.counting import counted
from batch_assets.batching.safety.formulas import without_formula
from batch_assets.batching.safety.outside_text import as_shown
from batch_assets.batching.safety.secrets import without_known_secrets
from batch_assets.cli.common import checked_settings, errors_in_one_sentence, existing_database
from batch_assets.cli.day_range import json_option
from batch_assets.cli.terminal import wide_console

if TYPE_CHECKING:
    import duckdb
    from rich.console import Console

FETCH_ROWS = 1000
IN_MEMORY_BYTES = 16_000_000  # of a result; the rest is in a temporary file
MIN_COLUMN_CHARACTERS = 12  # a terminal that has fewer for each column shows a row as lines
Called = TypeVar("Called")
NUMBERS = ("INT", "DOUBLE", "FLOAT", "DECIMAL")


@click.command(epilog='\b\nExample: batch-assets query "SELECT status, count(*) FROM summaries GROUP BY ALL"')
@click.argument("sql")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option(
    "--limit", type=click.IntRange(min=0), default=1000, show_default=True, help="The most rows to print; 0: all."
)
def query(sql: str, as_json: bool, as_csv: bool, limit: int) -> None:
    """Print what one SQL statement reads from the tables: `SELECT …`, `FROM …`, `WITH …`, `DESCRIBE …`.

    It cannot change a table, read a file or open a connection. It waits for a run that writes.
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other.")
    settings = checked_settings()
    database = existing_database(settings)
    if not database.is_file:
        raise click.ClickException("`query` reads a database file. For another database, use its own shell.")
    with errors_in_one_sentence(), SpooledTemporaryFile(IN_MEMORY_BYTES, "w+", encoding="utf-8") as spool:
        # the result is printed after the database is closed: a pipe may be read slowly, and runs would wait for it
        with database.querying() as connection:
            result = _Result(connection, sql, limit)
            rows: list[tuple[Any, ...]] = []
            if as_json:
                _write_json(result, spool)
            elif as_csv:
                _write_csv(result, spool)
            else:
                rows = [row for block in result.blocks() for row in block]
        spool.seek(0)
        for block in iter(lambda: spool.read(1 << 20), ""):
            click.echo(block, nl=False)
    if not (as_json or as_csv):
        _print_table(wide_console(), result, rows)
    if result.is_cut:
        click.echo(f"The first {counted(limit, 'row')}: `--limit` prints more, `--limit 0` all.", err=True)


class _Result:
    """The rows of one statement. Raises click.ClickException with DuckDB's words; click.Abort after Ctrl-C.

    is_cut: whether there are more rows than the limit; known after the last one.
    """

    def __init__(self, connection: "duckdb.DuckDBPyConnection", sql: str, limit: int) -> None:
        import duckdb

        self.limit, self.is_cut = limit, False
        with _errors_of_sql():
            statements = connection.extract_statements(sql)
            if len(statements) != 1:
                raise click.ClickException(f"`query` runs one statement; this text has {len(statements)}.")
            # the connection may write the file of the database, as COPY does: see `instances.confined`
            if statements[0].type is not duckdb.StatementType.SELECT:
                raise click.ClickException("`query` only reads: SELECT …, FROM …, WITH …, DESCRIBE … or SHOW TABLES.")
            self._connection = connection
            self._found = self._until_ctrl_c(lambda: connection.execute(statements[0]))
            description = self._found.description or []
        self.names = _distinct([str(column[0]) for column in description])
        self.types = [str(column[1]) for column in description]

    def blocks(self) -> Iterator[list[tuple[Any, ...]]]:
        left = self.limit or math.inf
        with _errors_of_sql():
            while block := self._until_ctrl_c(lambda: self._found.fetchmany(FETCH_ROWS)):
                self.is_cut = len(block) > left
                yield block[: int(left)] if self.is_cut else block
                left -= len(block)
                if self.is_cut:
                    return

    def _until_ctrl_c(self, call: Callable[[], Called]) -> Called:
        """What the call returns. In a thread of its own: DuckDB may look for signals only after minutes."""
        with ThreadPoolExecutor(1) as thread:
            running = thread.submit(call)
            try:
                return running.result()
            except KeyboardInterrupt:
                self._connection.interrupt()
                raise click.Abort from None


@contextmanager
def _errors_of_sql() -> Iterator[None]:
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise click.ClickException(f"DuckDB says: {error}") from None


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind those that came before: JSON has each once."""
    found: list[str] = []
    for name in names:
        number, distinct = 1, name
        while distinct in found:
            distinct, number = f"{name}_{number}", number + 1
        found.append(distinct)
    return found


def _write_json(result: _Result, file: "SpooledTemporaryFile[str]") -> None:
    """An object with columns (name, type), rows as objects, and is_cut."""
    columns = [{"name": name, "type": kind} for name, kind in zip(result.names, result.types, strict=True)]
    file.write(f'{{"columns": {without_known_secrets(json.dumps(columns))}, "rows": [')
    before = "\n"
    for block in result.blocks():
        rows = (json.dumps(dict(zip(result.names, map(_plain, row), strict=True))) for row in block)
        file.write(before + without_known_secrets(",\n".join(rows)))
        before = ",\n"
    file.write(f'\n], "is_cut": {json.dumps(result.is_cut)}}}\n')


def _write_csv(result: _Result, file: "SpooledTemporaryFile[str]") -> None:
    header: Sequence[Sequence[object]] = [result.names]
    for block in itertools.chain([header], result.blocks()):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([_csv_cell(value) for value in row] for row in block)
        file.write(as_shown(text.getvalue(), lines=True))


def _csv_cell(value: object) -> object:
    """`as_shown` follows, which may take away characters before one that begins a formula."""
    if value is None or isinstance(value, (int, float)):
        return value
    text = _shown(value)
    return text if text[:1].isalnum() else without_formula(as_shown(text, lines=True))


def _print_table(console: "Console", result: _Result, rows: Sequence[tuple[Any, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    names = [Text(as_shown(name)) for name in result.names]
    if console.is_terminal and console.width < MIN_COLUMN_CHARACTERS * len(names):
        for number, row in enumerate(rows, start=1):
            console.rule(f"{number:,}", style="dim")
            for name, value in zip(names, row, strict=True):
                console.print(Text.assemble((name.plain, "bold"), ": ", _cell(value)), soft_wrap=True)
        return
    table = Table()
    for name, kind in zip(names, result.types, strict=True):
        is_number = any(part in kind for part in NUMBERS) and "[" not in kind
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    console.print(table)


def _cell(value: object) -> Any:
    from rich.text import Text

    return Text("NULL", style="dim") if value is None else Text(as_shown(_shown(value), lines=True))


def _shown(value: object) -> str:
    """A value in one cell; nested ones as JSON."""
    plain = _plain(value)
    if isinstance(plain, str):
        return plain
    return json.dumps(plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """The value as JSON has it: times in ISO 8601, bytes as hexadecimal digits, exact decimals as text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
