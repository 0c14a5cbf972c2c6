"""Short, patient connections to the one DuckDB file.

DuckDB lets one process write, or many read, and refuses everyone else at once. So connections are opened
late, closed early, never held across a network call, and opened with patience: our own processes queue at a
lock file beside the database; a stranger (somebody's DuckDB shell) is waited for until a deadline.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb
from filelock import FileLock, Timeout

from batch_assets.batching.ledger.migrations import MIGRATIONS
from batch_assets.batching.ledger.schema import read_warehouse_id
from batch_assets.batching.ledger.upgrade import bring_up_to_date, is_up_to_date
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.batching.safety.private_folder import make_private_folder

RETRY_SECONDS = 0.2
# Of DuckDB's own memory. It takes four fifths of the machine if it isn't told, and our runs share theirs.
MEMORY_LIMIT = "360MB"
# A quarter of DuckDB's default. One core packs a row group, so smaller ones give all cores work on a batch or two, and
# less is packed again when the last one grows. https://duckdb.org/docs/current/guides/performance/how_to_tune_workloads
ROW_GROUP_ROWS = 30_720
# DuckDB says "Could not set lock on file" between processes, and "different configuration" within one.
_KNOWN_TO_BE_UP_TO_DATE: set[str] = set()  # databases, by path, in this process
BUSY_SIGNS = ("could not set lock", "conflicting lock", "different configuration", "being used by another")


class DatabaseBusyError(Exception):
    """The database stayed locked by somebody else for longer than we wait. Nothing was changed."""


def is_url(path: str) -> bool:
    """Whether it names something else than a file on this machine; it may hold a signature or a token then."""
    return "://" in path or path.startswith("md:")


@dataclass(frozen=True)
class Database:
    """Where the tables are, and how long to wait for them.

    `path` is a file, or anything else that `duckdb.connect` opens (`md:…` for MotherDuck): only a file is
    queued for. `lock_timeout_seconds` bounds the wait for a lock; the default outlasts the ten minutes for which
    somebody's forgotten shell, or another day's big load, may hold the file. What needs more than `memory_limit`
    spills into a folder beside the file, `<path>.tmp`, which goes with the connection. `threads` None: one per core.
    """

    path: str
    lock_timeout_seconds: float = 900.0
    memory_limit: str = MEMORY_LIMIT
    threads: int | None = None

    @property
    def is_file(self) -> bool:
        return not is_url(self.path)

    @property
    def file_bytes(self) -> int | None:
        """The size of the file; None if there is none, or it is elsewhere."""
        return Path(self.path).stat().st_size if self.is_file and Path(self.path).exists() else None

    @contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection that may write; the tables exist. Raises DatabaseBusyError."""
        with self._process_lock(), self._opened(read_only=False) as connection:
            if self.is_file:  # of a run that was killed: whoever may write is alone
                shutil.rmtree(f"{self.path}.tmp", ignore_errors=True)
            bring_up_to_date(connection, MIGRATIONS)
            yield connection

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection that only reads. Raises DatabaseBusyError."""
        if not self._is_up_to_date():
            with self.writing():
                pass
        with self._process_lock(), self._opened(read_only=self.is_file) as connection:
            yield connection

    def warehouse_id(self) -> str:
        """The identity of the database, which the batches that were made from it bear."""
        with self.reading() as connection:
            return read_warehouse_id(connection)

    def _is_up_to_date(self) -> bool:
        """Whether the tables are those of this version; asked once for each database and process."""
        if self.path in _KNOWN_TO_BE_UP_TO_DATE and (not self.is_file or Path(self.path).exists()):
            return True
        if self.is_file and not Path(self.path).exists():
            return False
        with self._process_lock(), self._opened(read_only=self.is_file) as connection:
            if not is_up_to_date(connection, MIGRATIONS):
                return False
        _KNOWN_TO_BE_UP_TO_DATE.add(self.path)
        return True

    @contextmanager
    def _process_lock(self) -> Iterator[None]:
        if not self.is_file:
            yield
            return
        path = Path(self.path)
        make_private_folder(path.parent)
        lock = FileLock(f"{path}.lock", timeout=self.lock_timeout_seconds, poll_interval=0.02)
        try:
            lock.acquire()
        except Timeout:
            raise self._busy(f"another run of this project holds {path}.lock") from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _opened(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        connection = self._open_waiting_for_lock(read_only=read_only)
        try:
            connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
            if self.is_file:
                connection.execute("SET memory_limit = ?", [self.memory_limit])
                connection.execute("SET VARIABLE memory_limit = ?", [self.memory_limit])  # the setting is rounded
                if self.threads is not None:
                    connection.execute("SET threads = ?", [self.threads])
            yield connection
        finally:
            connection.close()

    def _open_waiting_for_lock(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        deadline = time.monotonic() + self.lock_timeout_seconds
        while True:
            connection = None
            try:
                connection = duckdb.connect(self.path, read_only=read_only)
                if self.is_file and not read_only:
                    _use_smaller_row_groups(connection, self.path)
                return connection
            except (duckdb.IOException, duckdb.ConnectionException) as error:
                if connection is not None:
                    connection.close()
                if not any(sign in str(error).lower() for sign in BUSY_SIGNS):
                    raise
                if time.monotonic() > deadline:
                    raise self._busy(str(error)) from error
            time.sleep(RETRY_SECONDS)

    def _busy(self, detail: str) -> DatabaseBusyError:
        where = f" {self.path}" if self.is_file else ""  # a URL may bear a token
        return DatabaseBusyError(
            f"The DuckDB database{where} stayed locked for {self.lock_timeout_seconds:.0f} s. Close the shell or "
            f"program that has it open, then run this again: nothing was lost. "
            f"DuckDB says: {as_message(detail, self.path)}"
        )


def _use_smaller_row_groups(connection: duckdb.DuckDBPyConnection, path: str) -> None:
    """What is written from now on is in groups of ROW_GROUP_ROWS.

    Only ATTACH can say so. A file that ATTACH has opened can't be shared with other connections of this process, so it
    is opened as usual, and then attached once more. If somebody shares it already, it stays as it is.
    """
    row = connection.execute("SELECT current_database(), count FROM duckdb_connection_count()").fetchone()
    if row is None or row[1] > 1:
        return
    file, meanwhile = ('"' + name.replace('"', '""') + '"' for name in (row[0], f"not {row[0]}"))
    connection.execute(f"ATTACH ':memory:' AS {meanwhile}; USE {meanwhile}; DETACH {file}")
    connection.execute(f"ATTACH ? AS {file} (ROW_GROUP_SIZE {ROW_GROUP_ROWS})", [path])
    connection.execute(f"USE {file}; DETACH {meanwhile}")


@contextmanager
def fixed_join_order(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """The right side of each join goes into memory, whichever DuckDB takes for the smaller one.

    It guesses wrong where the left side is filtered, and then holds a day's texts. Write the texts on the left.
    """
    connection.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
    try:
        yield
    finally:
        with connection.cursor() as beside:  # the connection's transaction may have failed
            beside.execute("RESET disabled_optimizers")


def forget_what_was_read(connection: duckdb.DuckDBPyConnection) -> None:
    """Give back the memory of blocks that were read. Only between statements.

    DuckDB keeps them until the limit is reached; from then on it goes slowly, since for each block that it drops it
    gives back all that it might have used again (`malloc_trim`).
    """
    row = connection.execute("SELECT getvariable('memory_limit')").fetchone()
    if row is None or row[0] is None:
        return
    with connection.cursor() as beside:  # what goes wrong in here isn't to end the connection's transaction
        with suppress(duckdb.OutOfMemoryException):  # it says so where it needs more, having dropped the rest
            beside.execute("SET memory_limit = '1MB'")
        beside.execute("SET memory_limit = ?", list(row))


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """All of the statements inside, or none of them."""
    connection.execute("BEGIN")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
