"""A locked database delays a run, and does not fail it: DuckDB refuses a second process at once, so this code waits."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from batch_assets.batching.ledger.database import (
    Database,
    DatabaseBusyError,
    fixed_join_order,
    parsed,
    release_cached_blocks,
    transaction,
)
from batch_assets.batching.ledger.instances import ROW_GROUP_ROWS

LOCK_DATABASE = """
import duckdb, sys, time
with duckdb.connect(sys.argv[1]) as connection:
    connection.execute("CREATE TABLE IF NOT EXISTS other (x INTEGER)")
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(str(tmp_path / "folder" / "test.duckdb"), lock_timeout_seconds=20)


@contextmanager
def locked_by_another_program(database: Database, seconds: float) -> Iterator[None]:
    """As a DuckDB shell locks it, which does not know the lock file of this project."""
    Path(database.path).parent.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", LOCK_DATABASE, database.path, str(seconds)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            assert process.stdout.readline() == b"held\n"
            yield
        finally:
            process.kill()
            process.wait(10)


def add(database: Database, title: str) -> None:
    with database.writing() as connection:
        connection.execute(
            "INSERT INTO raw_articles (partition_date, article_id, title, body) VALUES ('2026-11-20', 'a', ?, 'body')",
            [title],
        )


def titles(database: Database) -> list[str]:
    with database.reading() as connection:
        return [row[0] for row in connection.execute("SELECT title FROM raw_articles ORDER BY title").fetchall()]


def test_a_run_waits_for_the_lock_of_another_program(database: Database) -> None:
    started = time.monotonic()
    with locked_by_another_program(database, 2.0):
        add(database, "written")
    assert titles(database) == ["written"]
    assert 1.5 < time.monotonic() - started < 10


def test_after_the_timeout_the_error_says_what_to_do(database: Database) -> None:
    impatient = Database(database.path, lock_timeout_seconds=0.3)
    with locked_by_another_program(database, 30):
        for opening in (impatient.writing, impatient.reading):
            with pytest.raises(DatabaseBusyError, match=r"Close the shell or program .* nothing was lost"), opening():
                pass


def test_the_timeout_applies_to_other_runs_too(database: Database) -> None:
    impatient = Database(database.path, lock_timeout_seconds=0.3)
    with (
        database.writing(),
        pytest.raises(DatabaseBusyError, match=r"another run of this project holds .*\.lock"),
        impatient.writing(),
    ):
        pass


def test_an_error_that_is_no_lock_is_raised_at_once(database: Database) -> None:
    Path(database.path).parent.mkdir()
    Path(database.path).write_text("not a database " * 1000)
    started = time.monotonic()
    with pytest.raises(duckdb.Error), database.writing():
        pass
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("method", ["writing", "reading"])
def test_the_file_is_free_after_an_exception(database: Database, method: str) -> None:
    with pytest.raises(ZeroDivisionError), getattr(database, method)():
        raise ZeroDivisionError
    with locked_by_another_program(database, 0):
        pass  # the other program does not wait, so it fails if the file is locked
    add(database, "written")


def test_a_database_that_does_not_exist_yet_reads_as_empty(database: Database) -> None:
    assert titles(database) == []


def test_reading_cannot_write(database: Database) -> None:
    with database.reading() as connection, pytest.raises(duckdb.InvalidInputException, match="read-only"):
        connection.execute("DELETE FROM raw_articles")


def test_opening_again_keeps_all_rows(database: Database) -> None:
    add(database, "one")
    add(database, "two")
    assert titles(database) == ["one", "two"]


def delete_and_raise(connection: duckdb.DuckDBPyConnection, statement: str) -> None:
    with transaction(connection):
        connection.execute("DELETE FROM raw_articles")
        connection.execute(statement)
        raise KeyboardInterrupt


def test_an_error_undoes_a_transaction(database: Database) -> None:
    add(database, "kept")
    with database.writing() as connection:
        for error, statement in ((KeyboardInterrupt, "SELECT 1"), (duckdb.ConversionException, "SELECT 'x'::INTEGER")):
            with pytest.raises(error):
                delete_and_raise(connection, statement)
        with transaction(connection):
            connection.execute("UPDATE raw_articles SET title = title || '!'")
    assert titles(database) == ["kept!"]


def test_times_are_utc_in_any_time_zone(database: Database) -> None:
    for opening in (database.writing, database.reading):
        with opening() as connection:
            assert connection.execute("SELECT current_setting('TimeZone')").fetchone() == ("UTC",)


def add_ten(path: str, name: str) -> None:
    for number in range(10):
        add(Database(path, lock_timeout_seconds=60), f"{name}{number}")


def test_several_processes_can_write_at_once(database: Database) -> None:
    spawn = multiprocessing.get_context("spawn")  # a DuckDB connection must not be forked
    writers = [spawn.Process(target=add_ten, args=(database.path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert titles(database) == [f"{name}{number}" for name in "abc" for number in range(10)]


KILLED_IN_A_TRANSACTION = """
import os, sys
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets_tests.batching.ledger.test_database import add
database = Database(sys.argv[1])
add(database, "kept")
with database.writing() as connection, transaction(connection):
    connection.execute("DELETE FROM raw_articles")
    os.kill(os.getpid(), 9)
"""


def test_a_killed_process_leaves_no_lock_and_no_part_of_a_transaction(database: Database) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED_IN_A_TRANSACTION, database.path], check=False).returncode == -9
    assert titles(database) == ["kept"]


def test_threads_of_one_process_take_turns(database: Database) -> None:
    with ThreadPoolExecutor(4) as threads:
        for _ in threads.map(add, [database] * 12, [f"{number:02d}" for number in range(12)]):
            pass
        read = list(threads.map(titles, [database] * 4))
    assert read == [[f"{number:02d}" for number in range(12)]] * 4


def test_memory_and_threads_have_limits(database: Database) -> None:
    small = Database(database.path, memory_limit="100MB", threads=1)
    for opening in (small.writing, small.reading):
        with opening() as connection:
            settings = connection.execute("SELECT current_setting('memory_limit'), current_setting('threads')")
            assert settings.fetchone() == ("95.3 MiB", 1)


def test_data_over_the_memory_limit_is_in_a_temporary_folder_beside_the_file(database: Database) -> None:
    small = Database(database.path, memory_limit="64MB")
    spill = Path(f"{database.path}.tmp")
    with small.writing() as connection:
        connection.execute(
            "CREATE TEMP TABLE big AS SELECT md5(number::VARCHAR) || md5(number::VARCHAR) FROM range(1500000) t(number)"
        )
        assert any(spill.iterdir())
    assert not spill.exists()
    spill.mkdir()
    (spill / "left over by a killed run").touch()
    add(small, "written")
    assert not spill.exists()


def test_row_groups_are_small_enough_for_all_cores(database: Database) -> None:
    with database.writing() as connection:
        connection.execute("INSERT INTO in_flight_request SELECT md5(n::VARCHAR), 'key' FROM range(100000) AS t(n)")
    with database.reading() as connection:
        rows = connection.execute(
            "SELECT row_group_id, max(count) FROM pragma_storage_info('in_flight_request') GROUP BY 1"
        )
        counts = [count for _, count in rows.fetchall()]
    assert len(counts) >= 4
    assert max(counts) <= ROW_GROUP_ROWS


@pytest.mark.parametrize("is_busy", [False, True])
def test_two_connections_of_one_process_share_a_file(database: Database, is_busy: bool) -> None:
    add(database, "first")
    with duckdb.connect(database.path) as other:
        if is_busy:
            other.execute(
                "BEGIN; INSERT INTO rejected_article (partition_date, reason) VALUES ('2026-11-20', 'empty_body')"
            )
        add(database, "second")
        add(database, "third")
        if is_busy:
            other.execute("COMMIT")
        assert other.execute("SELECT count(*) FROM raw_articles").fetchone() == (3,)
        other.execute("CREATE TABLE other AS SELECT 1")
    assert titles(database) == ["first", "second", "third"]


@pytest.mark.parametrize(
    "name", ["it's.duckdb", 'we"ird.duckdb', "memory.duckdb", "temp.duckdb", "no suffix", "a b.c.db"]
)
def test_the_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    database = Database(str(tmp_path / name))
    add(database, "kept")
    assert titles(database) == ["kept"]


def cached_bytes(connection: duckdb.DuckDBPyConnection) -> int:
    row = connection.execute("SELECT sum(memory_usage_bytes) FROM duckdb_memory() WHERE tag = 'BASE_TABLE'").fetchone()
    return int(row[0]) if row else 0


def test_cached_blocks_can_be_released_in_a_transaction(database: Database) -> None:
    with database.writing() as connection:
        connection.execute("INSERT INTO in_flight_request SELECT md5(n::VARCHAR), 'key' FROM range(300000) AS t(n)")
    with database.writing() as connection, transaction(connection):
        connection.execute("DELETE FROM in_flight_request WHERE custom_id < '1'")
        left = connection.execute("SELECT count(*), max(custom_id) FROM in_flight_request").fetchone()
        before = cached_bytes(connection)
        release_cached_blocks(connection)
        assert cached_bytes(connection) < before / 2
        assert connection.execute("SELECT current_setting('memory_limit')").fetchone() == ("343.3 MiB",)
        assert connection.execute("SELECT count(*), max(custom_id) FROM in_flight_request").fetchone() == left
    with database.reading() as connection:
        assert connection.execute("SELECT count(*), max(custom_id) FROM in_flight_request").fetchone() == left


def test_joins_keep_the_written_order_only_inside_the_context(database: Database) -> None:
    build_side = """
        EXPLAIN SELECT count(*)
        FROM (SELECT range AS x FROM range(10)) AS few JOIN (SELECT range AS x FROM range(100000)) AS many USING (x)
    """
    with database.writing() as connection:
        usual = connection.execute(build_side).fetchall()
        with fixed_join_order(connection):
            assert connection.execute(build_side).fetchall() != usual
        with pytest.raises(duckdb.Error), transaction(connection), fixed_join_order(connection):
            connection.execute("SELECT error('this ends the transaction')")
        assert connection.execute(build_side).fetchall() == usual


def test_a_statement_is_parsed_once_for_all_connections_tables_and_parameters(database: Database) -> None:
    statement = "SELECT title || $more FROM raw_articles"
    add(database, "one")
    for path, title in ((database.path, "one"), (f"{database.path}2", "two")):
        another = Database(path)
        if title == "two":
            add(another, "two")
        for more in ("!", "?"):
            with another.reading() as connection:
                assert connection.execute(parsed(statement), {"more": more}).fetchall() == [(title + more,)]
    with ThreadPoolExecutor(4) as threads:

        def read(more: str) -> object:
            with duckdb.connect() as connection:
                connection.execute("CREATE TABLE raw_articles AS SELECT 'three' AS title")
                return connection.execute(parsed(statement), {"more": more}).fetchall()

        assert list(threads.map(read, "abcd")) == [[(f"three{more}",)] for more in "abcd"]
    assert parsed(statement) is parsed(statement)


def test_a_text_of_two_statements_is_not_parsed() -> None:
    with pytest.raises(ValueError, match="unpack"):
        parsed("SELECT 1; SELECT 2")


def test_the_error_of_a_locked_database_has_no_secrets_of_its_url() -> None:
    database = Database("md:ours?motherduck_token=pass-word-of-mine")
    assert "pass-word" not in str(database._busy_error("conflicting lock: pass-word-of-mine, md:ours?token=pass-word"))
