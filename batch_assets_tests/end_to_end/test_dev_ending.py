"""However `batch-assets dev` ends, nothing of it stays; and whatever of it ends, it comes back."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from batch_assets_tests.end_to_end.processes import COMMAND, Dev, environment, running_dev
from batch_assets_tests.end_to_end.test_dev import processes_that_mention, wait_until
from batch_assets_tests.project import DAY

pytestmark = pytest.mark.end_to_end

CLOSED_PORT = "http://127.0.0.1:9/v1"


@pytest.mark.parametrize("ending", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_though_a_step_waits_for_its_retry(tmp_path: Path, ending: signal.Signals) -> None:
    with running_dev(tmp_path, OPENAI_BASE_URL=CLOSED_PORT) as dev:
        run_id = dev.materialize(DAY)
        wait_until(lambda: step_status(dev, run_id, "openai_batch") == "IN_PROGRESS", seconds=90)
        dev.process.send_signal(ending)
        assert dev.process.wait(30) == (-ending if ending is signal.SIGKILL else 0)
        assert processes_that_mention(tmp_path) == ""


def test_every_child_that_is_killed_comes_back(tmp_path: Path) -> None:
    with running_dev(tmp_path, BATCH_ASSETS_POLL_SECONDS="4") as dev:
        first = children_of(tmp_path)
        assert len(first) == 6
        for process in first.values():
            os.kill(process, signal.SIGKILL)
        wait_until(
            lambda: (
                children_of(tmp_path).keys() == first.keys()
                and not {*children_of(tmp_path).values()} & {*first.values()}
            ),
            seconds=60,
        )
        launch_when_it_is_there(dev, DAY)
        dev.wait_for("summaries", [DAY], seconds=120)
        # the code server hands on to this one, which it does not watch
        os.kill(children_of(tmp_path)["dagster api grpc"], signal.SIGKILL)
        launch_when_it_is_there(dev, "2026-01-06")
        dev.wait_for("summaries", ["2026-01-06"], seconds=120)
        for name in ("daemon", "webserver", "code server"):
            assert f"The {name} has ended by SIGKILL, and is started again" in (tmp_path / "dev.log").read_text()
    assert dev.process.returncode == 0
    assert processes_that_mention(tmp_path) == ""


def test_a_child_that_does_not_stay_ends_dev_with_a_sentence(tmp_path: Path) -> None:
    with running_dev(tmp_path) as dev:
        deadline = time.monotonic() + 60
        while dev.process.poll() is None:
            assert time.monotonic() < deadline
            daemon = children_of(tmp_path).get("dagster._daemon")
            if daemon is not None:
                os.kill(daemon, signal.SIGKILL)
            time.sleep(0.2)
        assert dev.process.returncode == 1
        sentence = "Error: The daemon has ended by SIGKILL, after 3 restarts in a minute; its output is above.\n"
        assert (tmp_path / "dev.log").read_text().endswith(sentence)
    assert processes_that_mention(tmp_path) == ""


def test_a_killed_demo_leaves_nothing(tmp_path: Path) -> None:
    demo = subprocess.Popen([*COMMAND, "demo"], env=environment(tmp_path), stdout=subprocess.DEVNULL)
    wait_until((tmp_path / "local_api" / "server.json").exists, seconds=60)
    demo.kill()
    demo.wait(10)
    assert processes_that_mention(tmp_path) == ""


def children_of(folder: Path) -> dict[str, int]:
    """What `dev` has started for this data folder, by a part of its command, as `ps` shows it."""
    names = (
        "guardian.py",
        "dagster._daemon",
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


def launch_when_it_is_there(dev: Dev, day: str) -> None:
    """Materialize as soon as the UI answers, and knows the code again."""
    deadline = time.monotonic() + 60
    while True:
        try:
            dev.materialize(day)
        except (OSError, AssertionError):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        else:
            return


def step_status(dev: Dev, run_id: str, step: str) -> str | None:
    run = dev.graphql(
        "query ($run: ID!) { runOrError(runId: $run) { ... on Run { stepStats { stepKey status } } } }", run=run_id
    )["runOrError"]
    return next((found["status"] for found in run["stepStats"] if found["stepKey"] == step), None)
