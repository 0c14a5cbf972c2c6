"""The processes of `batch-assets dev`: none is left when `dev` ends, and `dev` restarts each that ends."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_assets_tests.end_to_end.processes import (
    COMMAND,
    WAIT_SECONDS,
    Dev,
    environment,
    processes_of,
    running_dev,
    wait_until,
)
from batch_assets_tests.project import DAY

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]


@pytest.mark.parametrize("ending", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_dev_leaves_no_process_while_a_step_waits_for_the_api(tmp_path: Path, ending: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, running_dev(tmp_path, OPENAI_BASE_URL=url_of(silent)) as dev:
        run_id = dev.materialize(DAY)
        wait_until(lambda: step_status(dev, run_id, "submission") == "IN_PROGRESS")
        dev.process.send_signal(ending)
        assert dev.process.wait(WAIT_SECONDS) == (-ending if ending is signal.SIGKILL else 0)
        assert processes_of(tmp_path) == ""


def url_of(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}/v1"


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """One `dev` for both tests that kill its children: a start takes 10 s of CPU time. The second test ends it."""
    with running_dev(tmp_path_factory.mktemp("data"), BATCH_ASSETS_POLL_SECONDS="4") as dev:
        yield dev


def test_dev_restarts_each_child_that_is_killed(dev: Dev) -> None:
    first = children_of(dev.data)
    assert len(first) == 6
    for process in first.values():
        os.kill(process, signal.SIGKILL)

    def are_restarted() -> bool:
        children = children_of(dev.data)
        return children.keys() == first.keys() and not {*children.values()} & {*first.values()}

    wait_until(are_restarted)
    materialize_when_ready(dev, DAY)
    dev.wait_for("summaries", [DAY])
    # the code server passes calls on to this process, and does not monitor it
    os.kill(children_of(dev.data)["dagster api grpc"], signal.SIGKILL)
    materialize_when_ready(dev, "2026-01-06")
    dev.wait_for("summaries", ["2026-01-06"])
    for name in ("daemon", "webserver", "code server"):
        assert f"The {name} has ended by SIGKILL, and is restarted" in (dev.data / "dev.log").read_text()


def test_dev_ends_with_a_sentence_when_a_child_ends_too_often(dev: Dev) -> None:
    def has_ended() -> bool:
        daemon = children_of(dev.data).get("batch_assets.cli.dagster_home.daemon")
        if daemon is not None:
            os.kill(daemon, signal.SIGKILL)
        return dev.process.poll() is not None

    wait_until(has_ended)
    assert dev.process.returncode == 1
    sentence = "Error: The daemon has ended by SIGKILL, after 3 restarts in a minute; its output is above.\n"
    assert (dev.data / "dev.log").read_text().endswith(sentence)
    assert processes_of(dev.data) == ""


def test_a_killed_demo_leaves_no_process(tmp_path: Path) -> None:
    demo = subprocess.Popen([*COMMAND, "demo"], env=environment(tmp_path), stdout=subprocess.DEVNULL)
    wait_until((tmp_path / "local_api" / "server.json").exists)
    demo.kill()
    demo.wait(WAIT_SECONDS)
    assert processes_of(tmp_path) == ""


def children_of(folder: Path) -> dict[str, int]:
    """The children of `dev` for this data folder: part of the command, as `ps` shows it → process id."""
    names = (
        "process_reaper.py",
        "batch_assets.cli.dagster_home.daemon",
        "dagster_home.webserver",
        "cli.main serve",
        "code-server",
        "dagster api grpc",
    )
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() not in (process / "environ").read_bytes():
                continue
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        found.update({name: int(process.name) for name in names if name in command})
    return found


def materialize_when_ready(dev: Dev, day: str) -> None:
    """Materialize the day as soon as the UI answers and has loaded the code again."""

    def has_launched() -> bool:
        try:
            dev.materialize(day)
        except (OSError, AssertionError):
            return False
        return True

    wait_until(has_launched)


def step_status(dev: Dev, run_id: str, step: str) -> str | None:
    run = dev.graphql(
        "query ($run: ID!) { runOrError(runId: $run) { ... on Run { stepStats { stepKey status } } } }", run=run_id
    )["runOrError"]
    return next((found["status"] for found in run["stepStats"] if found["stepKey"] == step), None)
