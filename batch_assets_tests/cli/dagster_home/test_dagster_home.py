"""`dagster.yaml` of the Dagster home: it is complete or absent, and the user's own file is never changed."""

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from batch_assets.cli.dagster_home.home import is_unfinished, make_dagster_home, packaged_file, write_whole
from batch_assets.settings import Settings, read_settings

OURS = packaged_file("dagster.yaml").read_bytes()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("DAGSTER_HOME", "")
    return replace(read_settings(), data_folder=tmp_path)


def written(settings: Settings, content: bytes) -> bytes:
    """The content of `dagster.yaml` after `make_dagster_home`, if it was this before."""
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    (settings.dagster_home / "dagster.yaml").write_bytes(content)
    make_dagster_home(settings)
    return (settings.dagster_home / "dagster.yaml").read_bytes()


def test_a_new_dagster_home_has_our_file_and_no_other(settings: Settings) -> None:
    dagster_home = make_dagster_home(settings)
    assert [path.name for path in dagster_home.iterdir()] == ["dagster.yaml"]
    assert (dagster_home / "dagster.yaml").read_bytes() == OURS


def test_only_a_beginning_of_our_file_is_unfinished() -> None:
    for length in range(len(OURS)):
        assert is_unfinished(OURS[:length], OURS)
        assert not is_unfinished(OURS[:length] + b"\xff", OURS)
    assert not is_unfinished(OURS, OURS)
    assert not is_unfinished(OURS + b"# mine\n", OURS)


@pytest.mark.parametrize("content", [b"", b" \n\t\r\n", b"\0" * len(OURS), OURS[:1], OURS[: len(OURS) // 2], OURS[:-1]])
def test_a_file_that_a_full_disk_or_a_crash_cut_is_repaired(settings: Settings, content: bytes) -> None:
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
def test_the_users_own_file_is_never_changed(settings: Settings, content: bytes) -> None:
    assert written(settings, content) == content


def test_a_symbolic_link_of_the_user_stays_a_link(settings: Settings, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_bytes(b"")
    settings.dagster_home.mkdir(parents=True)
    (settings.dagster_home / "dagster.yaml").symlink_to(elsewhere)
    make_dagster_home(settings)
    assert (settings.dagster_home / "dagster.yaml").is_symlink()
    assert elsewhere.read_bytes() == OURS


def test_a_full_disk_leaves_no_part_of_the_file(settings: Settings) -> None:
    """The limit on the size of files is 1,000 bytes: a write beyond it fails, as on a full disk."""
    script = (
        "from batch_assets.cli.dagster_home.home import *; from batch_assets.settings import *; "
        "make_dagster_home(read_settings())"
    )
    environment = {"BATCH_ASSETS_DATA_DIR": str(settings.data_folder), "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-B", "-c", script]  # so that Python writes no part of a module to its cache
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


def test_a_kill_before_the_rename_leaves_no_part_of_the_file(tmp_path: Path) -> None:
    """SIGKILL ends the process when the content is written and the file is not yet renamed."""
    script = (
        "import os, pathlib, signal; from batch_assets.cli.dagster_home.home import write_whole; "
        "pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
        f"write_whole(pathlib.Path({str(tmp_path / 'dagster.yaml')!r}), b'whole')"
    )
    killed = subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": ":".join(sys.path)}, check=False)
    assert killed.returncode < 0
    assert not (tmp_path / "dagster.yaml").exists()
    write_whole(tmp_path / "dagster.yaml", b"whole")
    assert (tmp_path / "dagster.yaml").read_bytes() == b"whole"
