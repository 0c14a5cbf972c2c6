"""DuckDB instances in memory, which a process keeps and attaches the database file to.

`duckdb.connect` makes an instance: it registers all functions and types of DuckDB, which takes 25 ms. To attach a file
to an instance takes 2 ms; to detach the file closes it, which releases its lock. ATTACH is also safer. If another
connection of this process has the file open, ATTACH fails before it opens the file. `duckdb.connect` opens the file,
fails and closes it, which releases the lock that the other connection holds.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

# A quarter of DuckDB's default. One core compresses a row group, so with smaller groups all cores work on a batch or
# two, and DuckDB compresses less again when the last group grows. https://duckdb.org/docs/current/guides/performance/how_to_tune_workloads
ROW_GROUP_ROWS = 30_720
ATTACHED = "batch_assets"  # the name of the database in an instance, whatever the file's name is
_idle: list[duckdb.DuckDBPyConnection] = []  # instances with no file attached
_of_parent_process: list[duckdb.DuckDBPyConnection] = []  # never closed here: their threads are in the other process


def _forget_instances() -> None:
    _of_parent_process.extend(_idle)
    _idle.clear()


os.register_at_fork(after_in_child=_forget_instances)


@dataclass(frozen=True)
class Attached:
    """An instance with a database file."""

    instance: duckdb.DuckDBPyConnection
    path: str
    read_only: bool

    @property
    def has_temporary_files(self) -> bool:
        """Whether DuckDB wrote into the temporary folder of the file. It deletes the folder with the instance."""
        return Path(f"{self.path}.tmp").exists()

    @contextmanager
    def connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self.instance.cursor() as connection:
            connection.execute(f"USE {ATTACHED}")
            yield connection


def attach(path: str, *, read_only: bool) -> Attached:
    """An instance with this file.

    Raises duckdb.IOException if another process has locked the file, and duckdb.ResourceInUseException if another
    connection of this process has it open.
    """
    instance = _idle.pop() if _idle else duckdb.connect(":memory:")
    option = "READ_ONLY" if read_only else f"ROW_GROUP_SIZE {ROW_GROUP_ROWS}"
    try:
        instance.execute("RESET threads")
        instance.execute("SET temp_directory = ?", [f"{path}.tmp"])
        instance.execute(f"ATTACH ? AS {ATTACHED} ({option})", [path])
    except BaseException as error:
        if isinstance(error, (duckdb.IOException, duckdb.ResourceInUseException)):
            _idle.append(instance)  # the caller tries again
        else:
            instance.close()
        raise
    return Attached(instance, path, read_only)


def end(attached: Attached) -> None:
    """Close the file, and keep the instance for the next use, unless DuckDB wrote into the file's temporary folder."""
    is_closed = _detach(attached.instance)
    if is_closed and not attached.has_temporary_files:
        _idle.append(attached.instance)
    else:
        attached.instance.close()


@contextmanager
def attached(path: str, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the file, which is closed afterwards. After an error, the instance is not used again."""
    opened = attach(path, read_only=read_only)
    try:
        with opened.connection() as connection:
            yield connection
    except BaseException:
        opened.instance.close()
        raise
    end(opened)


@contextmanager
def confined(path: str, memory_limit: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection for a SELECT of the user, in an instance of its own: it reads the tables of this file, opens no file
    outside of its folder for temporary files, reaches no network, and changes no setting. Raises what `attach` raises.

    Execute nothing but SELECT: DuckDB allows every access to the path of an attached file, read-only or not, so that
    `COPY … TO` overwrites it.
    """
    with duckdb.connect(":memory:") as instance:
        instance.execute("SET temp_directory = ?", [f"{path}.tmp"])
        instance.execute("SET memory_limit = ?", [memory_limit])
        instance.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        instance.execute("SET python_enable_replacements = false")  # else the name of a table may be a Python variable
        instance.execute(f"ATTACH ? AS {ATTACHED} (READ_ONLY)", [path])
        instance.execute(f"USE {ATTACHED}")
        instance.execute("SET enable_external_access = false; SET lock_configuration = true")
        yield instance


def _detach(instance: duckdb.DuckDBPyConnection) -> bool:
    """Close the file. False if it cannot be written, as on a full disk: the next use reads the rest from its WAL."""
    try:
        instance.execute(f"DETACH {ATTACHED}")
    except duckdb.Error:
        return False
    return True
