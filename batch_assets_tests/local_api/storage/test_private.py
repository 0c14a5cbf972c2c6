"""Other users can't read our folders and files. The modes of all other folders stay."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_assets.batching.safety import private_folder
from batch_assets.local_api.storage import private
from batch_assets.local_api.storage.private import make_private_folder, read_private_file, write_private_file
from batch_assets.settings import make_data_folder, read_settings
from batch_assets_tests.conftest import serving

pytestmark = pytest.mark.usefixtures("usual_umask")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("make", [make_private_folder, private_folder.make_private_folder])
def test_each_new_folder_is_private(tmp_path: Path, make: Callable[[Path], None]) -> None:
    tmp_path.chmod(0o755)
    make(tmp_path / "a" / "b" / "c")
    make(tmp_path / "a" / "b" / "c")
    assert [mode_of(path) for path in (tmp_path, tmp_path / "a", tmp_path / "a/b", tmp_path / "a/b/c")] == [
        0o755,
        0o700,
        0o700,
        0o700,
    ]


def data_folder_with(monkeypatch: pytest.MonkeyPatch, folder: Path, names: list[str], mode: int = 0o755) -> int:
    """Make a data folder with this mode and these files, use it, and return its mode."""
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    folder.chmod(mode)
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(folder))
    make_data_folder(read_settings())
    return mode_of(folder)


@pytest.mark.parametrize(
    "names",
    [
        ["batch_assets.duckdb"],
        ["local_api"],
        ["requests", "results", "dagster_home", "local_api", "batch_assets.duckdb", "batch_assets.duckdb.lock"],
    ],
)
@pytest.mark.parametrize("mode", [0o755, 0o775, 0o750])
def test_a_data_folder_that_others_may_read_becomes_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], mode: int
) -> None:
    assert data_folder_with(monkeypatch, tmp_path / "data", names, mode) == 0o700


@pytest.mark.parametrize(
    ("names", "mode"),
    [
        ([], 0o755),  # its owner is not clear
        (["batch_assets.duckdb", "thesis.odt"], 0o755),
        ([".bashrc", "local_api"], 0o755),
        (["requests"], 0o500),  # gets no further rights
        (["requests"], 0o1777),  # like /tmp
        (["requests"], 0o1755),
        (["requests"], 0o2775),  # shared by a team
        (["requests"], 0o757),
    ],
)
def test_a_folder_that_is_not_ours_keeps_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], mode: int
) -> None:
    assert data_folder_with(monkeypatch, tmp_path / "home", names, mode) == mode


@pytest.mark.parametrize(("user", "group", "mode"), [(65534, -1, 0o755), (-1, 65534, 0o775)])
def test_the_folder_of_another_user_or_group_keeps_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, group: int, mode: int
) -> None:
    details = Path.stat

    def of_others(path: Path) -> os.stat_result:
        """A mock, since only root can change the owner of a folder."""
        found = list(details(path))
        if path.name == "data":
            found[stat.ST_UID] = user if user >= 0 else found[stat.ST_UID]
            found[stat.ST_GID] = group if group >= 0 else found[stat.ST_GID]
        return os.stat_result(found)

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "requests").touch()
    (tmp_path / "data").chmod(mode)
    monkeypatch.setattr(Path, "stat", of_others)
    private.make_private_folder(tmp_path / "data", holds=["requests"])
    monkeypatch.undo()
    assert mode_of(tmp_path / "data") == mode


def test_a_servers_folder_that_others_may_read_becomes_private(tmp_path: Path) -> None:
    folder = tmp_path / "local_api"
    with serving(folder):
        pass
    folder.chmod(0o755)
    with serving(folder):
        assert mode_of(folder) == 0o700


def test_in_a_shared_folder_our_files_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "something else").touch()
    with serving(folder, without_key=False):
        assert mode_of(folder) == 0o755
        made = [path for path in folder.iterdir() if path.name != "something else"]
        assert {path.name: oct(mode_of(path)) for path in made if mode_of(path) & 0o077} == {}
        assert len(made) >= 7


def test_a_private_file_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    assert read_private_file(path) is None
    write_private_file(path, "first")
    assert (read_private_file(path), mode_of(path)) == ("first", 0o600)
    path.chmod(0o644)
    assert read_private_file(path) is None
    write_private_file(path, "second")
    assert (read_private_file(path), mode_of(path)) == ("second", 0o600)
    (tmp_path / "secret.partial").mkdir()
    with pytest.raises(OSError, match=r"secret\.partial"):
        write_private_file(path, "third")
    assert read_private_file(path) == "second"
