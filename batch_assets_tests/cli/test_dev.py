"""`batch-assets dev` before it starts a process: access to the UI, and the sentence if `dev` cannot start."""

import os
import socket
from pathlib import Path

import pytest

from batch_assets.cli.dagster_home.home import StartError
from batch_assets.cli.dagster_home.processes import PASSWORD_VARIABLE
from batch_assets.cli.dagster_home.ui import Ui, make_ui
from batch_assets_tests.end_to_end.processes import run_command

pytestmark = pytest.mark.server  # commands that load Dagster


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "build.example"])
@pytest.mark.parametrize("password", [None, "", "  "])
def test_other_machines_need_a_password(host: str, password: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if password is not None:
        monkeypatch.setenv(PASSWORD_VARIABLE, password)
    with pytest.raises(StartError, match=r"BATCH_ASSETS_UI_PASSWORD .* not encrypted"):
        make_ui(host, None)


def test_the_password_is_removed_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("127.0.0.1", "localhost", "0.0.0.0"):
        monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
        assert make_ui(host, 0).password == "secret"
        assert PASSWORD_VARIABLE not in os.environ
    assert make_ui("127.0.0.1", 0).password is None


def test_a_taken_port_is_an_error_and_a_taken_usual_port_is_replaced() -> None:
    """Another `dev` takes its port when it begins to start; its webserver starts seconds later."""
    with make_ui("127.0.0.1", 0).listener as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=rf"cannot listen on 127.0.0.1, port {port}: Address already in use"):
            make_ui("127.0.0.1", port)
        assert make_ui("127.0.0.1", None, usual_port=port).port not in (0, port)


def test_an_address_of_another_machine_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
    with pytest.raises(StartError, match=r"The UI cannot listen on 192\.0\.2\.1"):
        make_ui("192.0.2.1", None)


@pytest.mark.parametrize(("host", "url"), [("127.0.0.1", "http://127.0.0.1"), ("0.0.0.0", "http://127.0.0.1")])
def test_the_printed_address_can_be_opened(host: str, url: str) -> None:
    with socket.create_server((host, 0)) as listener:
        assert Ui(host, listener, None).url == f"{url}:{listener.getsockname()[1]}"


def test_dev_does_not_start_for_other_machines_without_a_password(tmp_path: Path) -> None:
    refused = run_command(tmp_path, "dev", "--host", "0.0.0.0")
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: The UI on 0.0.0.0 would let other machines start runs")


def test_dev_ends_with_a_sentence_when_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    blocked = run_command(tmp_path / "file", "dev")
    assert blocked.returncode == 1
    assert blocked.stderr.startswith("Error: `batch-assets dev` has ended, since a file cannot be written or read")
    assert "Traceback" not in blocked.stderr
