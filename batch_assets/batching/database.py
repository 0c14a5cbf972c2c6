"""Short, patient connections to the one DuckDB file.

DuckDB lets one process write, or many read, and refuses everyone else at once. So connections are opened
late, closed early, never held across a network call, and opened with patience: our own processes queue at a
lock file beside the database; a stranger (somebody's DuckDB shell) is waited for until a deadline.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
from filelock import FileLock, Timeout

from batch_assets.batching.tables import create_tables

RETRY_SECONDS = 0.2
# Of DuckDB's own memory. It takes four fifths of the machine if it isn't told, and our runs share theirs.
MEMORY_LIMIT = "512MB"
# DuckDB says "Could not set lock on file" between processes, and "different configuration" within one.
BUSY_SIGNS = ("could not set lock", "conflicting lock", "different configuration", "being used by another")


class DatabaseBusyError(Exception):
    """The database stayed locked by somebody else for longer than we wait. Nothing was changed."""


@dataclass(frozen=True)
class Database:
    """Where the tables are, and how long to wait for them.

    `path` is a file, or anything else that `duckdb.connect` opens (`md:…` for MotherDuck): only a file is
    queued for. `patience_seconds` bounds the wait for a lock; the default outlasts the ten minutes for which
    somebody's forgotten shell, or another day's big load, may hold the file. What needs more than `memory_limit`
    spills into a folder beside the file, `<path>.tmp`, which goes with the connection. `threads` None: one per core.
    """

    path: str
    patience_seconds: float = 900.0
    memory_limit: str = MEMORY_LIMIT
    threads: int | None = None

    @property
    def is_file(self) -> bool:
        return "://" not in self.path and not self.path.startswith("md:")

    @property
    def file_bytes(self) -> int | None:
        """The size of the file; None if there is none, or it is elsewhere."""
        return Path(self.path).stat().st_size if self.is_file and Path(self.path).exists() else None

    @contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection that may write; the tables exist. Raises DatabaseBusyError."""
        with self._turn(), self._opened(read_only=False) as connection:
            if self.is_file:  # of a run that was killed: whoever may write is alone
                shutil.rmtree(f"{self.path}.tmp", ignore_errors=True)
            create_tables(connection)
            yield connection

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection that only reads. Raises DatabaseBusyError."""
        if self.is_file and not Path(self.path).exists():
            with self.writing():
                pass
        with self._turn(), self._opened(read_only=self.is_file) as connection:
            yield connection

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self.is_file:
            yield
            return
        path = Path(self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock", timeout=self.patience_seconds, poll_interval=0.02)
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
        connection = self._open_patiently(read_only=read_only)
        try:
            connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
            if self.is_file:
                connection.execute("SET memory_limit = ?", [self.memory_limit])
                if self.threads is not None:
                    connection.execute("SET threads = ?", [self.threads])
            yield connection
        finally:
            connection.close()

    def _open_patiently(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        deadline = time.monotonic() + self.patience_seconds
        while True:
            try:
                return duckdb.connect(self.path, read_only=read_only)
            except (duckdb.IOException, duckdb.ConnectionException) as error:
                if not any(sign in str(error).lower() for sign in BUSY_SIGNS):
                    raise
                if time.monotonic() > deadline:
                    raise self._busy(str(error)) from error
            time.sleep(RETRY_SECONDS)

    def _busy(self, detail: str) -> DatabaseBusyError:
        where = f" {self.path}" if self.is_file else ""  # a URL may bear a token
        return DatabaseBusyError(
            f"The DuckDB database{where} stayed locked for {self.patience_seconds:.0f} s. Close the shell or program "
            f"that has it open, then run this again: nothing was lost. DuckDB says: {detail}"
        )


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
