"""Threads hand the open database over, and still one has it at a time; other processes get their turn."""

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest

from batch_assets.batching.ledger import turns
from batch_assets.batching.ledger.database import Database, DatabaseBusyError, transaction
from batch_assets.batching.ledger.instances import Attached, attach

OTHER_PROCESS = """
import sys
from batch_assets.batching.ledger.database import Database
with Database(sys.argv[1], lock_timeout_seconds=30).writing() as connection:
    connection.execute("INSERT INTO counted VALUES (1000)")
print("done", flush=True)
"""


@pytest.fixture
def database(tmp_path: Path) -> Database:
    made = Database(str(tmp_path / "turns.duckdb"), lock_timeout_seconds=30, threads=1)
    with made.writing() as connection:
        connection.execute("CREATE TABLE counted (number INTEGER)")
    return made


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the file was opened to read only, for each time that it was opened."""
    opened: list[bool] = []

    def counted(path: str, *, read_only: bool) -> Attached:
        opened.append(read_only)
        return attach(path, read_only=read_only)

    monkeypatch.setattr(turns, "attach", counted)
    return opened


def numbers(database: Database) -> int:
    with database.reading() as connection:
        [(count,)] = connection.execute("SELECT count(*) FROM counted").fetchall()
        return int(count)


def insert(database: Database) -> None:
    with database.writing() as connection, transaction(connection):
        connection.execute("INSERT INTO counted SELECT count(*) FROM counted")


def in_threads(work: Callable[[], object], *, threads: int = 4, times: int = 40) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work) for _ in range(times)]:
            future.result()


def test_threads_open_the_file_fewer_times_than_they_use_it_and_lose_nothing(
    database: Database, attached: list[bool]
) -> None:
    def work() -> None:
        insert(database)
        numbers(database)

    in_threads(work)
    assert len(attached) < 40
    attached.clear()
    assert numbers(database) == 40
    assert attached == [True]  # alone, a thread that reads shares the file with other readers
    with database.reading() as connection:
        found = connection.execute("SELECT number FROM counted ORDER BY ALL").fetchall()
    assert found == [(number,) for number in range(40)]  # each transaction saw those before it


def test_the_file_is_closed_and_unlocked_when_no_thread_waits(database: Database) -> None:
    in_threads(lambda: insert(database))
    with duckdb.connect(database.path) as shell:
        assert shell.execute("SELECT count(*) FROM counted").fetchall() == [(40,)]
    assert turns._turn_of(database.path).file_lock is None


def test_an_error_of_one_thread_is_its_own(database: Database) -> None:
    failures: list[Exception] = []

    def work() -> None:
        insert(database)
        try:
            with database.writing() as connection, transaction(connection):
                connection.execute("INSERT INTO counted VALUES (-1)")
                connection.execute("SELECT error('no')")
        except duckdb.Error as error:
            failures.append(error)

    in_threads(work, times=20)
    assert len(failures) == 20
    assert numbers(database) == 20


def test_another_process_gets_its_turn_while_threads_take_turns_all_the_time(database: Database) -> None:
    stop = threading.Event()

    def insert_until_stopped() -> None:
        while not stop.is_set():
            insert(database)

    pool = [threading.Thread(target=insert_until_stopped) for _ in range(4)]
    for thread in pool:
        thread.start()
    try:
        other = subprocess.run(
            [sys.executable, "-c", OTHER_PROCESS, database.path], capture_output=True, text=True, timeout=60
        )
    finally:
        stop.set()
        for thread in pool:
            thread.join()
    assert other.stdout == "done\n", other.stderr
    with database.reading() as connection:
        assert connection.execute("SELECT count(*) FROM counted WHERE number = 1000").fetchall() == [(1,)]


def test_a_thread_that_waits_too_long_says_so_and_leaves_nothing_locked(database: Database) -> None:
    impatient = Database(database.path, lock_timeout_seconds=0.2, threads=1)
    holds, release = threading.Event(), threading.Event()

    def hold() -> None:
        with database.writing():
            holds.set()
            release.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    holds.wait(20)
    with pytest.raises(DatabaseBusyError, match=r"stayed locked for 0 s"):
        numbers(impatient)
    release.set()
    holder.join()
    assert turns._turn_of(database.path).waiting == 0
    assert numbers(impatient) == 0


def test_a_turn_that_lasted_long_ends_although_threads_wait(
    database: Database, attached: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "LONGEST_SECONDS", 0.0)
    in_threads(lambda: insert(database), times=10)
    assert len(attached) == 10
    numbers(database)
    assert turns._turn_of(database.path).pause_seconds == 0.0
