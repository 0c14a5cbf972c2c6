"""`batch-assets` in a real terminal, on full disks and in folders that cannot be written."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from batch_assets_tests.conftest import serving
from batch_assets_tests.end_to_end.processes import COMMAND, DEMO, WAIT_SECONDS, environment, run_command, run_program
from batch_assets_tests.nasty_texts import ESCAPES, MARKUP

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]
# The control sequences of rich and click: colors, the cursor, and clearing of a line. No others are allowed.
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
    """Run the command in a terminal; returns the exit code and all that the terminal received."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(data, TERM="xterm-256color", **variables),
        stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True,
    )  # fmt: skip
    os.close(theirs)
    received = b""
    try:
        while block := os.read(ours, 65536):
            received += block
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(ours)
    return process.wait(WAIT_SECONDS), received.decode()


def test_no_control_sequence_of_a_text_reaches_the_terminal(tmp_path: Path) -> None:
    variables = {"BATCH_ASSETS_SOURCE": hostile_source(tmp_path), "BATCH_ASSETS_START_DATE": "2026-02-03"}
    code, received = at_a_terminal(tmp_path / "data", "demo", **variables)
    assert code == 0, received
    assert f"{len(MARKUP)} articles: {len(MARKUP)} answered" in received
    shown = OF_RICH.sub("", received)
    assert not ACTS.findall(shown), sorted(set(ACTS.findall(shown)))
    for text in MARKUP:
        assert text.split()[0] in shown, text


def test_the_demo_prints_and_stores_its_settings_without_secrets(tmp_path: Path) -> None:
    secret = "pass-word-of-mine"
    source = f"http://me:{secret}@127.0.0.1:9/a.parquet?sig={secret}"
    code, received = at_a_terminal(tmp_path, "demo", BATCH_ASSETS_SOURCE=source, BATCH_ASSETS_START_DATE="2026-02-03")
    assert code == 1
    assert secret not in received
    assert "http://…@127.0.0.1:9/a.parquet?sig=…" in received
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert len(stored) > 10_000
    assert secret.encode() not in stored


def sentence_of(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    assert "Exception ignored" not in done.stderr
    return " ".join(done.stderr.split())


@pytest.mark.parametrize(
    "arguments", [["demo"], ["dev"], ["serve"], ["cancel", "2026-01-05"], ["adopt", "x"], ["prune"]]
)
def test_a_command_whose_folder_cannot_be_written_prints_one_sentence(arguments: list[str]) -> None:
    """batch_assets_tests/cli has the same for a folder below a file, in one process."""
    sentence = sentence_of(run_command(Path("/proc/data"), *arguments))
    assert "/proc" in sentence
    assert "Error: " in sentence


def run_with_small_files(data: Path, kilobytes: int, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command as on a full disk: no file may become larger than this, so writes fail with EFBIG."""
    limited = ["bash", "-c", f'trap "" XFSZ; ulimit -f {kilobytes}; exec "$@"', "bash", *COMMAND, *arguments]
    return run_program(limited, data)


@pytest.mark.parametrize("kilobytes", [4, 32, 64])
def test_a_demo_on_a_full_disk_prints_one_sentence_and_the_next_one_succeeds(tmp_path: Path, kilobytes: int) -> None:
    assert sentence_of(run_with_small_files(tmp_path, kilobytes, *DEMO)).startswith("Error: ")
    done = run_command(tmp_path, *DEMO)  # the disk has room again
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 articles: 9 answered" in done.stdout


def test_a_demo_whose_output_cannot_be_written_prints_one_sentence_and_loses_no_answer(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = run_program([*COMMAND, *DEMO], tmp_path, stdout=full)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "what it prints could not be written: No space left on device" in done.stderr
    again = run_command(tmp_path, *DEMO)
    assert "9 articles: 9 answered" in again.stdout


FULL_AFTER_THE_BATCH = """
import os, sys
from batch_assets.cli.main import main
class Output:
    def __getattr__(self, name):
        return getattr(sys.__stdout__, name)
    def write(self, text):
        if "openai_batch" in text:  # the rest of the output goes to a full disk
            os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        return sys.__stdout__.write(text)
sys.stdout = Output()
main()
"""


def test_a_demo_whose_output_fails_after_the_batch_was_created_does_not_create_it_again(tmp_path: Path) -> None:
    sentence = sentence_of(run_program([sys.executable, "-c", FULL_AFTER_THE_BATCH, *DEMO], tmp_path))
    assert "what it prints could not be written: No space left on device" in sentence
    again = run_command(tmp_path, *DEMO)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "9 articles: 9 answered" in again.stdout
    with serving(tmp_path / "local_api") as api:
        assert api.stats()["batches_created"] == 1


def test_a_demo_whose_reader_has_ended_ends_without_a_message(tmp_path: Path) -> None:
    piped = ["bash", "-c", '"$@" | true; exit ${PIPESTATUS[0]}', "bash", *COMMAND, "demo"]
    done = run_program(piped, tmp_path)
    assert done.returncode == 1
    assert done.stderr == ""
