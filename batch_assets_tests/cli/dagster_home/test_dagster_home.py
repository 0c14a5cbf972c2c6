"""`dagster.yaml` of the Dagster home: whole or not there, and never taken from the user."""

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from batch_assets.cli.dagster_home import dagster_home, is_unfinished, shipped, write_whole
from batch_assets.settings import Settings, read_settings

OURS = shipped("dagster.yaml").read_bytes()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("DAGSTER_HOME", "")
    return replace(read_settings(), data_folder=tmp_path)


def written(settings: Settings, content: bytes) -> bytes:
    """What becomes of a file with this content."""
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    (settings.dagster_home / "dagster.yaml").write_bytes(content)
    dagster_home(settings)
    return (settings.dagster_home / "dagster.yaml").read_bytes()


def test_a_new_home_gets_our_file_and_nothing_else(settings: Settings) -> None:
    home = dagster_home(settings)
    assert [path.name for path in home.iterdir()] == ["dagster.yaml"]
    assert (home / "dagster.yaml").read_bytes() == OURS


def test_every_beginning_of_our_file_counts_as_unfinished_and_only_those() -> None:
    for length in range(len(OURS)):
        assert is_unfinished(OURS[:length], OURS)
        assert not is_unfinished(OURS[:length] + b"\xff", OURS)
    assert not is_unfinished(OURS, OURS)
    assert not is_unfinished(OURS + b"# mine\n", OURS)


@pytest.mark.parametrize("content", [b"", b" \n\t\r\n", b"\0" * len(OURS), OURS[:1], OURS[: len(OURS) // 2], OURS[:-1]])
def test_what_a_full_disk_or_a_crash_left_is_repaired(settings: Settings, content: bytes) -> None:
    assert written(settings, content) == OURS


@pytest.mark.parametrize(
    "content",
    [
        b"telemetry:\n  enabled: true\n",
        b"# nothing yet\n",
        OURS.replace(b"max_concurrent_runs: 4", b"max_concurrent_runs: 9"),
        OURS + b"\nstorage: {}\n",
        OURS[10:],
        b"{",
        b"not: [closed",
    ],
)
def test_the_users_own_file_is_never_touched(settings: Settings, content: bytes) -> None:
    assert written(settings, content) == content


def test_a_link_of_the_user_stays_one(settings: Settings, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_bytes(b"")
    settings.dagster_home.mkdir(parents=True)
    (settings.dagster_home / "dagster.yaml").symlink_to(elsewhere)
    dagster_home(settings)
    assert (settings.dagster_home / "dagster.yaml").is_symlink()
    assert elsewhere.read_bytes() == OURS


def test_a_full_disk_leaves_no_part_of_the_file(settings: Settings) -> None:
    """Full after a thousand bytes: a limit on the size of files, which the system keeps as it keeps that of a disk."""
    script = (
        "from batch_assets.cli.dagster_home import *; from batch_assets.settings import *; "
        "dagster_home(read_settings())"
    )
    environment = {"BATCH_ASSETS_DATA_DIR": str(settings.data_folder), "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-B", "-c", script]  # no half module may stay in the cache of Python
    full = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert "OSError" in full.stderr, full.stderr
    assert list(settings.dagster_home.iterdir()) == []
    subprocess.run(command, env=environment, check=True)
    assert (settings.dagster_home / "dagster.yaml").read_bytes() == OURS


def test_a_kill_before_the_name_is_given_leaves_no_part_of_the_file(tmp_path: Path) -> None:
    """The process dies, as by kill -9, at the moment when everything is written, and the name is not given."""
    script = (
        "import os, pathlib, signal; from batch_assets.cli.dagster_home import write_whole; "
        "pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
        f"write_whole(pathlib.Path({str(tmp_path / 'dagster.yaml')!r}), b'whole')"
    )
    killed = subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": ":".join(sys.path)}, check=False)
    assert killed.returncode < 0
    assert not (tmp_path / "dagster.yaml").exists()
    write_whole(tmp_path / "dagster.yaml", b"whole")
    assert (tmp_path / "dagster.yaml").read_bytes() == b"whole"
