"""Short connections to the one DuckDB file, which wait for its lock.

DuckDB lets one process write, or many read, and refuses all others at once. So this code opens a connection late,
closes it early, and has none open during a network call. A process of this project opens the file only while it holds
a lock file beside it; another process of this project waits until the lock file is free. A DuckDB shell does not use
the lock file: if it has the database open, the process tries again until a deadline.
"""

import functools
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb
from filelock import Timeout

from batch_assets.batching.ledger.instances import confined
from batch_assets.batching.ledger.migrations import MIGRATIONS
from batch_assets.batching.ledger.schema import read_warehouse_id
from batch_assets.batching.ledger.turns import opened_in_turn, turn
from batch_assets.batching.ledger.upgrade import bring_up_to_date, is_up_to_date
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.batching.safety.private_folder import make_private_folder

RETRY_SECONDS = 0.2
# Of DuckDB's own memory. By default, DuckDB uses four fifths of the machine's memory, which several runs share.
MEMORY_LIMIT = "360MB"
# DuckDB's error is "Could not set lock on file" between processes, and "different configuration" within one.
BUSY_PHRASES = ("could not set lock", "conflicting lock", "different configuration", "being used by another")
_UP_TO_DATE_PATHS: set[str] = set()  # of databases that this process has found up to date


class DatabaseBusyError(Exception):
    """Another program had the database locked for longer than `lock_timeout_seconds`. Nothing was changed."""


def is_url(path: str) -> bool:
    """Whether the path is no file on this machine; it may contain a signature or a token then."""
    return "://" in path or path.startswith("md:")


@dataclass(frozen=True)
class Database:
    """Where the tables are, and how long to wait for them.

    path: a file, or anything else that `duckdb.connect` opens (`md:…` for MotherDuck). Only a file has a lock.
    lock_timeout_seconds: the longest wait for a lock. The default is longer than the ten minutes for which a forgotten
        shell, or the load of another day, may lock the file.
    memory_limit: DuckDB writes what needs more into a folder beside the file, `<path>.tmp`, and deletes the folder with
        the connection.
    threads: None: one per core.
    """

    path: str
    lock_timeout_seconds: float = 900.0
    memory_limit: str = MEMORY_LIMIT
    threads: int | None = None

    @property
    def is_file(self) -> bool:
        return not is_url(self.path)

    @property
    def exists(self) -> bool:
        """Whether there is a file to read: without one, `reading` creates it. One that is no file counts as there."""
        return not self.is_file or Path(self.path).exists()

    @property
    def file_bytes(self) -> int | None:
        """The size of the file; None if it does not exist, or if the database is no file on this machine."""
        return Path(self.path).stat().st_size if self.is_file and Path(self.path).exists() else None

    @contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection that can write, to a database that has the tables. Raises DatabaseBusyError."""
        with self._process_lock(), self._opened(read_only=False) as connection:
            if self.is_file:  # left by a killed run; no other run has the database open now
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

    @contextmanager
    def querying(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for SQL of the user: see `instances.confined`. Only for a file. Raises DatabaseBusyError."""
        if not self._is_up_to_date():
            with self.writing():
                pass
        with self._process_lock(), ExitStack() as stack:
            yield self._waiting_for_lock(lambda: stack.enter_context(confined(self.path, self.memory_limit)))

    def warehouse_id(self) -> str:
        """The identity of the database, which is in the metadata of its batches."""
        with self.reading() as connection:
            return read_warehouse_id(connection)

    def _is_up_to_date(self) -> bool:
        """Whether the tables are those of this version; each process checks a database once."""
        if self.path in _UP_TO_DATE_PATHS and (not self.is_file or Path(self.path).exists()):
            return True
        if self.is_file and not Path(self.path).exists():
            return False
        with self._process_lock(), self._opened(read_only=self.is_file) as connection:
            if not is_up_to_date(connection, MIGRATIONS):
                return False
        _UP_TO_DATE_PATHS.add(self.path)
        return True

    @contextmanager
    def _process_lock(self) -> Iterator[None]:
        if not self.is_file:
            yield
            return
        path = Path(self.path)
        make_private_folder(path.parent)
        with ExitStack() as stack:
            try:
                stack.enter_context(turn(self.path, self.lock_timeout_seconds))
            except Timeout:
                raise self._busy_error(f"another run of this project holds {path}.lock") from None
            yield

    @contextmanager
    def _opened(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        with ExitStack() as stack:
            connection = self._waiting_for_lock(lambda: self._open(stack, read_only=read_only))
            connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
            if self.is_file:
                connection.execute("SET memory_limit = ?", [self.memory_limit])
                connection.execute("SET VARIABLE memory_limit = ?", [self.memory_limit])  # the setting is rounded
                if self.threads is not None:
                    connection.execute("SET threads = ?", [self.threads])
            yield connection

    def _waiting_for_lock(self, open_file: Callable[[], duckdb.DuckDBPyConnection]) -> duckdb.DuckDBPyConnection:
        deadline = time.monotonic() + self.lock_timeout_seconds
        while True:
            try:
                return open_file()
            except (duckdb.IOException, duckdb.ConnectionException) as error:
                if not any(phrase in str(error).lower() for phrase in BUSY_PHRASES):
                    raise
                if time.monotonic() > deadline:
                    raise self._busy_error(str(error)) from error
            time.sleep(RETRY_SECONDS)

    def _open(self, stack: ExitStack, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        """A connection that the stack closes. It shares the file if another connection of this process has it open."""
        if self.is_file:
            with suppress(duckdb.ResourceInUseException):
                return stack.enter_context(opened_in_turn(self.path, read_only=read_only))
        return stack.enter_context(duckdb.connect(self.path, read_only=read_only))

    def _busy_error(self, detail: str) -> DatabaseBusyError:
        where = f" {self.path}" if self.is_file else ""  # a URL may contain a token
        return DatabaseBusyError(
            f"The DuckDB database{where} stayed locked for {self.lock_timeout_seconds:.0f} s. Close the shell or "
            f"program that has it open, then run this again: nothing was lost. "
            f"DuckDB says: {as_message(detail, self.path)}"
        )


@functools.cache
def parsed(statement: str) -> duckdb.Statement:
    """The one statement of a text, for `execute`. A process parses it once: that takes a quarter of its time."""
    [found] = duckdb.extract_statements(statement)
    return found


@contextmanager
def fixed_join_order(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Make DuckDB load the right side of each join into memory, whichever side it estimates to be smaller.

    Its estimate is wrong if the left side is filtered: it then holds a day's texts in memory. Write the texts on the
    left.
    """
    connection.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
    try:
        yield
    finally:
        with connection.cursor() as other:  # the connection's transaction may have failed
            other.execute("RESET disabled_optimizers")


def release_cached_blocks(connection: duckdb.DuckDBPyConnection) -> None:
    """Release the memory of blocks that DuckDB has read and still keeps. Call it only between statements.

    DuckDB keeps these blocks until they reach the memory limit. From then on it is slow: for each block that it drops
    it returns all free memory to the system (`malloc_trim`).
    """
    row = connection.execute("SELECT getvariable('memory_limit')").fetchone()
    if row is None or row == (None,):
        return
    with connection.cursor() as other:  # an error in here must not end the connection's transaction
        with suppress(
            duckdb.OutOfMemoryException
        ):  # DuckDB raises it if 1 MB is too little, after it dropped the blocks
            other.execute("SET memory_limit = '1MB'")
        other.execute("SET memory_limit = ?", list(row))


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


@contextmanager
def rolled_back(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """The statements inside change nothing: what they write can be read until the end of the `with`."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
