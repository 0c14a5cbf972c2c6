"""A process keeps DuckDB instances in memory, and the file that it attaches to one is closed after each use."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest

from batch_assets.batching.ledger import instances
from batch_assets.batching.ledger.instances import attached

OPEN = "import duckdb, sys; duckdb.connect(sys.argv[1])"


@pytest.fixture(autouse=True)
def no_instances() -> Iterator[None]:
    """No instance from earlier tests."""
    instances._idle.clear()
    yield
    instances._idle.clear()


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = str(tmp_path / "test.duckdb")
    with attached(path, read_only=False) as connection:
        connection.execute("CREATE TABLE number AS SELECT 1 AS n")
    return path


def is_free(path: str) -> bool:
    """Whether another process can write to the file."""
    return subprocess.run([sys.executable, "-c", OPEN, path], stderr=subprocess.DEVNULL, check=False).returncode == 0


def numbers(path: str) -> list[int]:
    with attached(path, read_only=True) as connection:
        return [n for (n,) in connection.execute("SELECT n FROM number ORDER BY n").fetchall()]


def open_files() -> list[str]:
    return [str(link.resolve()) for link in Path("/proc/self/fd").iterdir()]


def test_one_instance_opens_the_file_again_and_again(path: str) -> None:
    (instance,) = instances._idle
    for n in (2, 3):
        with attached(path, read_only=False) as connection:
            assert not is_free(path)
            connection.execute("INSERT INTO number VALUES (?)", [n])
        assert is_free(path)
    assert numbers(path) == [1, 2, 3]
    assert instances._idle == [instance]


def test_the_file_is_closed_while_no_one_uses_it(path: str) -> None:
    for read_only in (False, True):
        with attached(path, read_only=read_only):
            assert path in open_files()
        assert path not in open_files()


def test_what_a_connection_did_not_commit_is_undone(path: str) -> None:
    with attached(path, read_only=False) as connection:
        connection.execute("BEGIN; INSERT INTO number VALUES (2)")
    assert numbers(path) == [1]


def test_temporary_tables_and_variables_end_with_the_connection(path: str) -> None:
    with attached(path, read_only=False) as connection:
        connection.execute("CREATE TEMP TABLE mine AS SELECT 1; SET VARIABLE x = 1; SET TimeZone = 'Asia/Tokyo'")
    with attached(path, read_only=False) as connection:
        assert connection.execute("SELECT getvariable('x')").fetchone() == (None,)
        assert connection.execute("SELECT current_setting('TimeZone')").fetchone() != ("Asia/Tokyo",)
        with pytest.raises(duckdb.CatalogException):
            connection.execute("SELECT * FROM mine")


def insert_and_raise(path: str) -> None:
    with attached(path, read_only=False) as connection:
        connection.execute("INSERT INTO number VALUES (2)")
        raise ZeroDivisionError


def test_an_instance_is_not_used_again_after_an_error(path: str) -> None:
    (instance,) = instances._idle
    with pytest.raises(ZeroDivisionError):
        insert_and_raise(path)
    assert is_free(path)
    assert instances._idle == []
    with pytest.raises(duckdb.ConnectionException):
        instance.execute("SELECT 1")
    assert numbers(path) == [1, 2]


@pytest.mark.parametrize("is_dropped", [False, True])
def test_the_temporary_folder_of_a_file_is_deleted_and_the_next_file_has_its_own(path: str, is_dropped: bool) -> None:
    for file in (path, f"{path}2"):
        with attached(file, read_only=False) as connection:
            connection.execute("SET memory_limit = '64MB'")
            connection.execute("CREATE TEMP TABLE big AS SELECT md5(n::VARCHAR) AS x FROM range(3000000) AS t(n)")
            assert any(Path(f"{file}.tmp").iterdir())
            if is_dropped:
                connection.execute("DROP TABLE big")
        assert not Path(f"{file}.tmp").exists()


ON_A_FULL_DISK = """
import os, resource, signal, sys
from batch_assets.batching.ledger import instances
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = sys.argv[1]
with instances.attached(path, read_only=False) as connection:
    connection.execute("SET wal_autocheckpoint = '1GB'")
    connection.execute("INSERT INTO number SELECT n FROM range(2, 20001) AS t(n)")
    assert os.path.getsize(path + ".wal") > 50_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path), resource.RLIM_INFINITY))
assert instances._idle == []
assert path not in [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
"""


def test_what_was_committed_stays_if_the_file_cannot_be_written_when_it_is_closed(path: str) -> None:
    subprocess.run([sys.executable, "-c", ON_A_FULL_DISK, path], check=True)
    assert numbers(path) == list(range(1, 20_001))
    with attached(path, read_only=False) as connection:
        connection.execute("DELETE FROM number WHERE n > 1")
    assert numbers(path) == [1]
    assert not Path(f"{path}.wal").exists()


def test_a_file_that_this_process_has_open_stays_locked(path: str) -> None:
    with duckdb.connect(path):
        with pytest.raises(duckdb.ResourceInUseException), attached(path, read_only=False):
            pass
        assert not is_free(path)
    assert numbers(path) == [1]


def test_threads_use_instances_of_their_own(path: str) -> None:
    def fill(name: str) -> list[int]:
        for n in (2, 3):
            with attached(f"{path}{name}", read_only=False) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS number (n INTEGER)")
                connection.execute("INSERT INTO number VALUES (?)", [n])
        return numbers(f"{path}{name}")

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(fill, "abcdefgh")) == [[2, 3]] * 8
    assert len(instances._idle) <= 4


def _numbers_in_child(path: str, found: multiprocessing.Queue[list[int]]) -> None:
    found.put(numbers(path))


def test_a_forked_process_makes_an_instance_of_its_own(path: str) -> None:
    fork = multiprocessing.get_context("fork")
    found = fork.Queue()
    child = fork.Process(target=_numbers_in_child, args=(path, found))
    child.start()
    assert found.get(timeout=30) == [1]
    child.join(30)
    assert child.exitcode == 0
    assert numbers(path) == [1]
