"""`batch-assets serve` as a user runs it: the printed lines can be copied, and errors are one sentence."""

from __future__ import annotations

import os
import re
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from openai import AuthenticationError, OpenAI

from batch_assets.local_api.serving.discovery import page_url, running_url
from batch_assets.local_api.serving.keys import local_api_key
from batch_assets_tests.end_to_end.processes import COMMAND, environment


def failing_serve(
    data: Path, *arguments: str, before: Callable[[], None] | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """`batch-assets serve` with options with which it can't start."""
    return subprocess.run(
        [*COMMAND, "serve", *arguments],
        env=environment(data, **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=before,
    )


@contextmanager
def serving_command(data: Path, *arguments: str, **variables: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """The URL and the output of a running `batch-assets serve`, which SIGTERM ends."""
    log = data.parent / f"{data.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*COMMAND, "serve", *arguments],
            env=environment(data, **variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 60
        while (url := running_url(data / "local_api")) is None or "listens on" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield url, log.read_text
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait(10)


def exported(printed: str, **variables: str) -> dict[str, str]:
    """The variables of a shell after the printed lines that begin with `export`."""
    lines = "\n".join(line for line in printed.splitlines() if line.strip().startswith("export "))
    shown = subprocess.check_output(["sh", "-c", f"{lines}\nenv"], env={**os.environ, **variables}, text=True)
    return dict(line.partition("=")[::2] for line in shown.splitlines())


@pytest.mark.parametrize("name", ["data of 'mine' $HOME \"and\" `yours`"])
def test_the_printed_lines_work_by_copy_and_paste(tmp_path: Path, name: str) -> None:
    with serving_command(tmp_path / name, "--webhook", "http://127.0.0.1:9/") as (url, printed):
        assert "without" not in printed()
        found = exported(printed())
        assert found["OPENAI_API_KEY"] == local_api_key(tmp_path / name / "local_api")
        assert found["OPENAI_API_KEY"] not in printed(), "the key itself is not printed"
        assert f"In a browser: {url.removesuffix('/v1')}/ui/\n" in printed(), "no token in a file"
        assert found["OPENAI_WEBHOOK_SECRET"].startswith("whsec_")
        with OpenAI(base_url=found["OPENAI_BASE_URL"], api_key=found["OPENAI_API_KEY"], max_retries=0) as client:
            assert list(client.files.list()) == []
        with OpenAI(base_url=url, api_key="local", max_retries=0) as client, pytest.raises(AuthenticationError):
            client.files.list()


@pytest.mark.end_to_end
@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals")
def test_on_a_terminal_the_address_of_the_web_page_has_its_token(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [*COMMAND, "serve"], env=environment(tmp_path), stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    )
    try:
        printed = b""
        while b"In a browser: " not in printed or not printed.endswith(b"\n"):
            printed += os.read(ours, 4096)
        address = page_url(tmp_path / "local_api", with_token=True)
        assert f"In a browser: {address}" in printed.decode()
        assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+/ui/#[0-9a-f]{64}", address or "")
    finally:
        process.kill()
        process.wait(10)
        os.close(ours)
        os.close(theirs)


@pytest.mark.end_to_end
def test_with_a_user_key_the_printed_lines_name_its_variable(tmp_path: Path) -> None:
    variables = {"BATCH_ASSETS_SERVE_KEY": "of two words"}
    with serving_command(tmp_path / "data", **variables) as (_, printed):
        assert 'OPENAI_API_KEY="$BATCH_ASSETS_SERVE_KEY"' in printed()
        assert exported(printed(), **variables)["OPENAI_API_KEY"] == "of two words"
        assert "of two words" not in printed()


@pytest.mark.end_to_end
def test_without_a_key_every_user_of_the_machine_may_use_it(tmp_path: Path) -> None:
    with serving_command(tmp_path / "data", "--without-key") as (_, printed):
        found = exported(printed())
        with OpenAI(base_url=found["OPENAI_BASE_URL"], api_key=found["OPENAI_API_KEY"], max_retries=0) as client:
            assert list(client.files.list()) == []
        assert not (tmp_path / "data" / "local_api" / "key").exists()


@pytest.mark.parametrize("existing", [False, True])
def test_all_files_and_folders_of_the_server_are_private(tmp_path: Path, existing: bool) -> None:
    data = tmp_path / "data"
    if existing:  # others may read a folder that is not ours, but not our files in it
        data.mkdir(mode=0o755)
        (data / "thesis.odt").touch()
    with serving_command(data) as (url, _):
        with OpenAI(base_url=url, api_key=local_api_key(data / "local_api"), max_retries=0) as client:
            client.files.create(file=("a", b"{}"), purpose="user_data")
        made = [path for path in (data, *data.rglob("*")) if path.name != "thesis.odt"]
        modes = {str(path): path.stat().st_mode for path in made if existing is False or path != data}
        assert {path: oct(mode) for path, mode in modes.items() if stat.S_IMODE(mode) & 0o077} == {}
        assert len(modes) >= 8


@pytest.mark.parametrize(
    ("arguments", "variables", "sentence"),
    [
        (["--without-key", "--host", "0.0.0.0"], {}, "lets other machines in"),
        (
            ["--without-key"],
            {"BATCH_ASSETS_SERVE_KEY": "x"},
            "unset BATCH_ASSETS_SERVE_KEY, or leave out --without-key",
        ),
        (["--host", "0.0.0.0"], {}, "Set BATCH_ASSETS_SERVE_KEY"),
        (["--engine", "evil\x1b]0;mine\x07\x9b2J\u202e"], {}, r"evil\x1b]0;mine\x07\x9b2J\u202e"),
    ],
)
def test_invalid_options_are_refused_with_an_error_message(
    tmp_path: Path, arguments: list[str], variables: dict[str, str], sentence: str
) -> None:
    done = failing_serve(tmp_path / "data", *arguments, **variables)  # type: ignore[arg-type]
    assert_one_error_line(done, sentence)


def assert_one_error_line(done: subprocess.CompletedProcess[str], sentence: str) -> None:
    """Exit code 1 and one line on standard error."""
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert sentence in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.strip().isprintable()


@pytest.mark.parametrize("in_the_way", ["server.lock", "server.json"])
def test_a_path_that_the_server_cannot_write_is_an_error_message(tmp_path: Path, in_the_way: str) -> None:
    (tmp_path / "data" / "local_api" / in_the_way / "x").mkdir(parents=True)
    assert_one_error_line(failing_serve(tmp_path / "data"), "The local Batch API can't keep its files in ")


@pytest.mark.end_to_end
def test_a_database_of_another_version_is_an_error_message(tmp_path: Path) -> None:
    (tmp_path / "data" / "local_api").mkdir(parents=True)
    with sqlite3.connect(tmp_path / "data" / "local_api" / "local_api.sqlite3") as connection:
        connection.execute("PRAGMA user_version = 99")
    assert_one_error_line(failing_serve(tmp_path / "data"), "another version of the local Batch API")


@pytest.mark.end_to_end
@pytest.mark.skipif(sys.platform != "linux", reason="how large files may be is another matter elsewhere")
def test_a_full_disk_is_an_error_message_and_damages_nothing(tmp_path: Path) -> None:
    done = failing_serve(tmp_path / "data", before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16)))
    assert_one_error_line(done, "File too large. Free some space")
    with serving_command(tmp_path / "data"):
        pass  # it starts without the limit
