"""Our own clients of the local Batch API send its key, and other users cannot read the files that they make."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from batch_assets.batching.ledger.database import Database
from batch_assets.cli.dagster_home.home import local_api, make_dagster_home
from batch_assets.cli.main import main
from batch_assets.resources import OPENAI, openai_resource
from batch_assets.settings import Settings, read_settings
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api_client import LocalApi


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings with a data folder that does not exist yet, and a umask that lets all users read."""
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("DAGSTER_HOME", "")
    before = os.umask(0o022)
    yield read_settings()
    os.umask(before)


@pytest.fixture
def closed_api(settings: Settings) -> Iterator[LocalApi]:
    """The local Batch API of the data folder, which needs its key."""
    with serving(settings.local_api_folder, without_key=False) as api:
        yield api


def test_the_assets_send_the_key_in_the_folder(settings: Settings, closed_api: LocalApi) -> None:
    with (
        dg.build_resources({OPENAI: openai_resource(settings)}) as resources,
        getattr(resources, OPENAI).get_client(dg.build_op_context()) as client,
    ):
        assert str(client.base_url) == f"{closed_api.url}/"
        assert list(client.batches.list()) == []


def test_the_commands_send_the_key_in_the_folder(settings: Settings, closed_api: LocalApi) -> None:
    Database(settings.database).warehouse_id()  # creates it
    done = CliRunner().invoke(main, ["adopt", "batch_none"])
    assert done.exit_code == 1
    assert "knows no batch batch_none" in done.output


def test_a_running_server_is_found_without_its_key(settings: Settings, closed_api: LocalApi) -> None:
    with local_api(settings) as url:
        assert url == closed_api.url


def test_other_users_cannot_read_the_data_folder_and_the_dagster_home(settings: Settings) -> None:
    dagster_home = make_dagster_home(settings)
    assert [mode_of(path) for path in (settings.data_folder, dagster_home)] == [0o700, 0o700]
    settings.data_folder.chmod(0o755)  # as an earlier version made it
    make_dagster_home(settings)
    assert mode_of(settings.data_folder) == 0o700


def test_the_mode_of_the_users_dagster_home_stays_unchanged(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dagster_home = tmp_path / "dagster_home"
    dagster_home.mkdir(mode=0o755)
    monkeypatch.setenv("DAGSTER_HOME", str(dagster_home))
    assert make_dagster_home(settings) == dagster_home
    assert mode_of(dagster_home) == 0o755


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
