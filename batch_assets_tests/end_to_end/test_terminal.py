"""`batch-assets` at a real terminal, on full disks and in folders that can't be written."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from batch_assets_tests.conftest import serving
from batch_assets_tests.end_to_end.processes import COMMAND, environment, run_command
from batch_assets_tests.nasty_texts import ESCAPES, MARKUP

pytestmark = pytest.mark.end_to_end
# What rich and click write to steer a terminal: colours, the cursor, and clearing of a line. Nothing else may come.
OF_RICH = re.compile(r"\x1b\[(?:[\d;]*m|\?25[lh]|\d*A|2K|1A)")
ACTS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]")


def hostile_source(folder: Path) -> str:
    source = folder / "articles.jsonl"
    rows = [
        {
            "id": f"a{number}{ESCAPES}",
            "title": f"{text} {ESCAPES}",
            "body": f"{text} was said by the mayor{ESCAPES}. It was a long day. [/b] It ended well.",
            "published_at": "2026-02-03",
        }
        for number, text in enumerate(MARKUP)
    ]
    source.write_text("\n".join(map(json.dumps, rows)))
    return str(source)


def at_a_terminal(data: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """The exit code and all that the terminal got."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(data, TERM="xterm-256color", **variables),
        stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True,
    )  # fmt: skip
    os.close(theirs)
    got = b""
    try:
        while block := os.read(ours, 65536):
            got += block
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(ours)
    return process.wait(120), got.decode()


def test_nothing_that_acts_reaches_the_terminal(tmp_path: Path) -> None:
    variables = {"BATCH_ASSETS_SOURCE": hostile_source(tmp_path), "BATCH_ASSETS_START_DATE": "2026-02-03"}
    code, got = at_a_terminal(tmp_path / "data", "demo", **variables)
    assert code == 0, got
    assert f"{len(MARKUP)} articles: {len(MARKUP)} answered" in got
    shown = OF_RICH.sub("", got)
    assert not ACTS.findall(shown), sorted(set(ACTS.findall(shown)))
    for text in MARKUP:
        assert text.split()[0] in shown, text


def test_what_is_printed_of_settings_has_no_secret_in_it(tmp_path: Path) -> None:
    secret = "pass-word-of-mine"
    source = f"http://me:{secret}@127.0.0.1:9/a.parquet?sig={secret}"
    code, got = at_a_terminal(tmp_path, "demo", BATCH_ASSETS_SOURCE=source, BATCH_ASSETS_START_DATE="2026-02-03")
    assert code == 1
    assert secret not in got
    assert "http://…@127.0.0.1:9/a.parquet?sig=…" in got
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert len(kept) > 10_000
    assert secret.encode() not in kept


def sentence_of(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    assert "Exception ignored" not in done.stderr
    return " ".join(done.stderr.split())


@pytest.mark.parametrize(
    "arguments", [["demo"], ["dev"], ["serve"], ["cancel", "2026-01-05"], ["adopt", "x"], ["prune"]]
)
@pytest.mark.parametrize("folder", ["file/data", "/proc/data"])
def test_a_folder_that_cannot_be_written_is_said_in_a_sentence(
    tmp_path: Path, arguments: list[str], folder: str
) -> None:
    (tmp_path / "file").touch()
    said = sentence_of(run_command(tmp_path / folder, *arguments))
    assert str(tmp_path / folder).rpartition("/")[0].replace("//", "/") in said
    assert "Error: " in said


def run_with_small_files(data: Path, kilobytes: int, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """As on a disk that is full: no file may grow beyond so much, so writes fail with EFBIG."""
    limited = ["bash", "-c", f'trap "" XFSZ; ulimit -f {kilobytes}; exec "$@"', "bash", *COMMAND, *arguments]
    return subprocess.run(
        limited, env=environment(data), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize("kilobytes", [4, 64, 300])
def test_a_disk_that_is_full_is_said_in_a_sentence(tmp_path: Path, kilobytes: int) -> None:
    assert sentence_of(run_with_small_files(tmp_path, kilobytes, "demo")).startswith("Error: ")
    done = run_command(tmp_path, "demo")  # there is room again
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 articles: 9 answered" in done.stdout


def test_output_that_cannot_be_written_loses_nothing(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "demo"], env=environment(tmp_path), stdin=subprocess.DEVNULL, stdout=full,
            stderr=subprocess.PIPE, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "what it prints could not be written: No space left on device" in done.stderr
    again = run_command(tmp_path, "demo")
    assert "9 articles: 9 answered" in again.stdout


FULL_ONCE_PAID = """
import os, sys
from batch_assets.cli.main import main
class Output:
    def __getattr__(self, name):
        return getattr(sys.__stdout__, name)
    def write(self, text):
        if "openai_batch" in text:  # what follows goes to a disk without room
            os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        return sys.__stdout__.write(text)
sys.stdout = Output()
main()
"""


def test_output_that_fails_after_the_batch_was_paid_loses_nothing(tmp_path: Path) -> None:
    said = sentence_of(
        subprocess.run(
            [sys.executable, "-c", FULL_ONCE_PAID, "demo"],
            env=environment(tmp_path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    )
    assert "what it prints could not be written: No space left on device" in said
    again = run_command(tmp_path, "demo")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "9 articles: 9 answered" in again.stdout
    with serving(tmp_path / "local_api") as api:
        assert api.stats()["batches_created"] == 1


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    command = subprocess.run(
        ["bash", "-c", '"$@" | true; exit ${PIPESTATUS[0]}', "bash", *COMMAND, "demo"],
        env=environment(tmp_path), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert command.returncode == 1
    assert command.stderr == ""
