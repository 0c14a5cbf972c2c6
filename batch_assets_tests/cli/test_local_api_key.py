"""Our own clients of the local Batch API send its key, and what they make is closed to other users."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import click
import dagster as dg
import pytest

from batch_assets.cli.by_hand import adopt_by_hand
from batch_assets.cli.dagster_home import dagster_home, local_api
from batch_assets.resources import openai_resource
from batch_assets.settings import Settings, read_settings
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api_client import LocalApi


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Of a data folder that does not exist yet, on a system that leaves everything open."""
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("DAGSTER_HOME", "")
    before = os.umask(0o022)
    yield read_settings()
    os.umask(before)


@pytest.fixture
def closed_api(settings: Settings) -> Iterator[LocalApi]:
    """The local Batch API of the data folder, which demands its key."""
    with serving(settings.local_api_folder, without_key=False) as api:
        yield api


def test_the_assets_send_the_key_of_the_folder(settings: Settings, closed_api: LocalApi) -> None:
    with (
        dg.build_resources({"openai": openai_resource(settings)}) as resources,
        resources.openai.get_client(dg.build_op_context()) as client,
    ):
        assert str(client.base_url) == f"{closed_api.url}/"
        assert list(client.batches.list()) == []


def test_commands_send_the_key_of_the_folder(settings: Settings, closed_api: LocalApi) -> None:
    with pytest.raises(click.ClickException, match="knows no batch batch_none"):
        adopt_by_hand(settings, "batch_none")


def test_a_server_that_runs_is_found_without_its_key(settings: Settings, closed_api: LocalApi) -> None:
    with local_api(settings) as url:
        assert url == closed_api.url


def test_the_data_folder_and_the_home_of_dagster_are_closed_to_others(settings: Settings) -> None:
    home = dagster_home(settings)
    assert [mode_of(path) for path in (settings.data_folder, home)] == [0o700, 0o700]
    settings.data_folder.chmod(0o755)  # as an earlier version has left it
    dagster_home(settings)
    assert mode_of(settings.data_folder) == 0o700


def test_a_home_of_the_users_own_stays_as_it_is(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    assert dagster_home(settings) == home
    assert mode_of(home) == 0o755


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
