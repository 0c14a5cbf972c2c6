"""What reaches a terminal: texts of others without control characters, and failures in one sentence."""

import errno
import io
import sqlite3
from contextlib import nullcontext
from pathlib import Path

import click
import dagster as dg
import duckdb
import pytest
from click.testing import CliRunner
from dagster import DagsterInvariantViolationError
from rich.console import Console
from sqlalchemy.exc import OperationalError

from batch_assets.batching.collection.report import DayReport, PreviewRow
from batch_assets.batching.ledger.day_figures import DayFigures
from batch_assets.cli import demo_day
from batch_assets.cli.dagster_home.home import StartError, local_api_log, wait_for_local_api
from batch_assets.cli.local_daemon import failure_message
from batch_assets.cli.main import main
from batch_assets.cli.terminal import CommandLine
from batch_assets.settings import read_settings
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.nasty_texts import ESCAPES, MARKUP

pytestmark = pytest.mark.server  # commands that load Dagster

KEY = "sk-proj-0123456789"
CONTROLS = set(ESCAPES) & {
    chr(code) for code in [*range(9), *range(11, 32), *range(127, 160), 0x202E, 0x2066, 0xFEFF, 0xE0041]
}
PASSWORD = "pass-word-of-mine"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("DAGSTER_HOME", "")  # the commands set it


def printed(preview: list[tuple[str, str, str, str]]) -> str:
    """The report of the demo on a wide terminal, without the styles that rich itself adds."""
    output = io.StringIO()
    console = Console(file=output, width=400, force_terminal=True, color_system=None)
    report = DayReport(
        "2026-01-05", DayFigures("summaries", "2026-01-05"), 0, [], [PreviewRow(*row) for row in preview]
    )
    demo_day._print_report(console, report, read_settings(), "summaries")
    return output.getvalue()


@pytest.mark.parametrize("text", MARKUP)
def test_markup_in_a_title_an_answer_or_a_message_is_printed_as_text(text: str) -> None:
    for row in (("a", text, "answered", "x"), ("a", "", "answered", text), (text, "", "failed", text)):
        assert text in printed([row])


def test_no_control_character_and_no_key_reaches_the_terminal() -> None:
    nasty = f"before{ESCAPES}after {KEY}"
    shown = printed([(nasty, nasty, "answered", nasty), (nasty, "", "failed", nasty)])
    assert shown.count("before[2J[31m]0;title]52;c;YmFpdA==2J0;xgnp.exeafter …") == 4
    assert not set(shown) & CONTROLS
    assert KEY not in shown


def test_settings_are_printed_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_ASSETS_DUCKDB", f"md:ours?motherduck_token={PASSWORD}")
    assert "md:ours?motherduck_token=…" in printed([])
    assert PASSWORD not in printed([])
    for url, name in {
        f"https://me:{PASSWORD}@gateway.example/v1": "gateway.example",
        f"https://me:{PASSWORD}/with@slash@gateway.example:8443/secret/path?key={PASSWORD}": "gateway.example:8443",
        f"https://gateway.example/v1?key=a@{PASSWORD}": "gateway.example",
        "http://[::1]:8000/v1": "[::1]:8000",
        "http://[::1": "[::1",
        "": "OpenAI",
    }.items():
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        assert demo_day.api_name() == name


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"md:ours?motherduck_token={PASSWORD}", "md:ours?motherduck_token=…"),
        (f"postgres://me:{PASSWORD}@db.example/ours", "postgres://…@db.example/ours"),
        ("postgresql://me:pw@db.example:5432/ours", "postgresql://…@db.example:5432/ours"),
        (f"https://db.example/ours.duckdb?X-Amz-Signature={PASSWORD}", "ours.duckdb?X-Amz-Signature=…"),
        (f"ducklake:postgres:dbname=ours password={PASSWORD} host=h", "dbname=ours password=… host=h"),
        (f"ducklake:postgres:dbname=ours password='{PASSWORD} two' host=h", "dbname=ours password='…' host=h"),
    ],
)
def test_the_database_is_printed_without_its_password(monkeypatch: pytest.MonkeyPatch, url: str, shown: str) -> None:
    monkeypatch.setenv("BATCH_ASSETS_DUCKDB", url)
    assert shown in printed([])


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--yes"],
        ["doctor", "--new-warehouse-id"],
        ["prune"],
        ["cancel", "2026-01-05"],
        ["retry", "2026-01-05"],
        ["adopt", "batch_x"],
        ["abandon", "batch_x"],
        ["move-api", "https://old.example/v1", "https://new.example/v1"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command_that_cannot_open_the_database_prints_no_password(
    arguments: list[str], local_api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB itself repeats the whole URL in its error."""
    monkeypatch.setenv("BATCH_ASSETS_DUCKDB", f"postgres://me:{PASSWORD}@db.example/ours?token={PASSWORD}")
    monkeypatch.setenv("OPENAI_BASE_URL", local_api.url)
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert "postgres://…@db.example/ours?token=…" in done.output.replace("\n", "")
    assert PASSWORD not in done.output


def test_the_end_of_the_servers_log_has_no_secret_and_no_control_character(tmp_path: Path) -> None:
    class Ended:
        def poll(self) -> int:
            return 1

    log = local_api_log(read_settings())
    log.parent.mkdir(parents=True)
    log.write_bytes(f"{KEY}\n{ESCAPES} refused {KEY}\n".encode() + b"\xff" + b"x" * 1_985)
    with pytest.raises(StartError) as raised:
        wait_for_local_api(Ended(), read_settings())  # type: ignore[arg-type]
    assert not any(KEY[start:] in str(raised.value) for start in range(len(KEY) - 6))
    assert not set(str(raised.value)) & CONTROLS


def command_that_raises(error: BaseException) -> CommandLine:
    group = CommandLine()

    @group.command()
    def fail() -> None:
        raise error

    return group


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device", f"/data/{KEY}"), "No space left on device (/data/…)"),
        (OSError(errno.EROFS, "Read-only file system", b"/data"), "Read-only file system (b'/data')"),
        (PermissionError(errno.EACCES, "Permission denied", Path("/data/x")), "Permission denied (/data/x)"),
        (OSError(errno.ENOSPC, "No space left on device"), "what it prints could not be written"),
        (EOFError(f"cut {KEY}"), "a file or folder could not be used: cut …"),
        (OSError(f"odd {KEY}"), "a file or folder could not be used: odd …"),
        (
            OperationalError("SELECT", {}, sqlite3.OperationalError(f"disk full {KEY}")),
            "database could not be used: disk full …",
        ),
        (sqlite3.OperationalError("unable to open database file"), "unable to open database file"),
        (duckdb.IOException(f"Could not write to file {KEY}{ESCAPES}"), "Could not write to file …[2J"),
        (DagsterInvariantViolationError("DAGSTER_HOME is none"), "Dagster reported an error: DAGSTER_HOME is none"),
        (click.ClickException(f"said {KEY}{ESCAPES}"), "said …[2J"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_of_a_disk_or_a_database_is_one_sentence(error: BaseException, sentence: str) -> None:
    done = CliRunner().invoke(command_that_raises(error), ["fail"])
    assert done.exit_code == 1
    assert sentence in done.output
    assert len(done.output.splitlines()) == 1
    assert KEY not in done.output
    assert not set(done.output) & CONTROLS


def test_a_mistake_of_ours_has_its_traceback_without_secrets() -> None:
    done = CliRunner().invoke(command_that_raises(ValueError(f"wrong: {KEY}")), ["fail"])
    assert isinstance(done.exception, ValueError)
    assert str(done.exception) == "wrong: …"


def test_a_closed_pipe_is_no_message() -> None:
    done = CliRunner().invoke(command_that_raises(BrokenPipeError(errno.EPIPE, "Broken pipe")), ["fail"])
    assert (done.exit_code, done.output) == (1, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo"],
        ["serve"],
        ["estimate", "2026-01-05"],
    ],
    ids=str,
)
def test_a_data_folder_that_cannot_be_made_is_one_sentence(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path below a file: not even root can write there."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(tmp_path / "file" / "data"))
    monkeypatch.delenv("OPENAI_API_KEY")
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1, done.exception
    assert isinstance(done.exception, SystemExit)
    assert str(tmp_path / "file") in done.output.replace("\n", "")
    assert "Not a directory" in done.output or "File exists" in done.output
    assert "Traceback" not in done.output


def test_the_message_of_a_failed_run_has_no_secret_and_no_control_character() -> None:
    @dg.op
    def fail() -> None:
        raise dg.Failure(f"refused {KEY}{ESCAPES}")

    @dg.job
    def failing() -> None:
        fail()

    message = failure_message(failing.execute_in_process(raise_on_error=False))
    assert message.startswith("refused …[2J")
    assert not set(message) & CONTROLS


def test_the_demo_prints_its_source_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("BATCH_ASSETS_SOURCE", f"http://me:{PASSWORD}@127.0.0.1:9/a.parquet?sig={PASSWORD}")
    monkeypatch.setattr("batch_assets.cli.dagster_home.home.local_api", lambda _: nullcontext("http://127.0.0.1:9/v1"))
    monkeypatch.setenv("COLUMNS", "300")
    done = CliRunner().invoke(main, ["demo"])
    assert "from http://…@127.0.0.1:9/a.parquet?sig=…" in done.stdout
    assert PASSWORD not in done.output
