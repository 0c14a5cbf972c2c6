"""`batch-assets` as a user runs it: real processes on a temporary data folder, queried over HTTP."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from batch_assets.local_api.serving.keys import local_api_key

# For every wait: on a slow CI machine runs stay QUEUED for minutes. A module that waits several times in a test raises
# pytest's timeout (300 s).
WAIT_SECONDS = 280.0
UPSTREAM = ("raw_articles", "batch_request_file", "openai_batch")
DEMO = ("demo", "--day", "2026-01-05")  # of the bundled sample: nine articles
COMMAND = [sys.executable, "-m", "batch_assets.cli.main"]


def environment(data: Path, **variables: str) -> dict[str, str]:
    """Our environment, without the variables that name an API or another project."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OPENAI_", "BATCH_ASSETS_", "DAGSTER_"))
    }
    return {**kept, "BATCH_ASSETS_DATA_DIR": str(data), "COLUMNS": "120", **variables}


def run_command(data: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run `batch-assets …` to its end."""
    return run_program([*COMMAND, *arguments], data, variables)


def run_program(
    command: Sequence[str],
    data: Path,
    variables: Mapping[str, str] | None = None,
    *,
    stdout: IO[str] | int = subprocess.PIPE,
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, in the environment of a data folder."""
    return subprocess.run(
        command,
        env=environment(data, **(variables or {})),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )


def wait_until(condition: Callable[[], bool], failure: Callable[[], object] = str) -> None:
    """Wait until the condition holds. Fails the test after WAIT_SECONDS, with what `failure` gives."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, failure()
        time.sleep(0.1)


@dataclass
class Dev:
    """A running `batch-assets dev`."""

    process: "subprocess.Popen[bytes]"
    ui_url: str
    api_url: str
    data: Path

    def stats(self) -> Mapping[str, int]:
        """The counts of the local Batch API."""
        request = urllib.request.Request(
            f"{self.api_url.removesuffix('/v1')}/stats",
            headers={"Authorization": f"Bearer {local_api_key(self.data / 'local_api')}"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, int] = json.load(answer)
        return found

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.ui_url}/graphql",
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        assert "errors" not in found, found["errors"]
        data: dict[str, Any] = found["data"]
        return data

    def materialize(self, day: str, assets: Sequence[str] = UPSTREAM) -> str:
        """Do what the button Materialize does; returns the run's id."""
        launched = self.graphql(
            """
            mutation ($day: String!, $assets: [AssetKeyInput!]!) {
                launchRun(executionParams: {
                    selector: {
                        repositoryName: "__repository__", repositoryLocationName: "batch_assets",
                        pipelineName: "__ASSET_JOB", assetSelection: $assets, assetCheckSelection: []
                    }
                    mode: "default"
                    runConfigData: {}
                    executionMetadata: { tags: [{ key: "dagster/partition", value: $day }] }
                }) {
                    __typename
                    ... on LaunchRunSuccess { run { runId } }
                    ... on PythonError { message }
                    ... on InvalidSubsetError { message }
                }
            }
            """,
            day=day,
            assets=[{"path": [asset]} for asset in assets],
        )["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run_id: str = launched["run"]["runId"]
        return run_id

    def backfill(self, days: Sequence[str]) -> str:
        """Launch a backfill of the job `submit_batches`; returns its id."""
        launched = self.graphql(
            """
            mutation ($days: [String!]!) {
                launchPartitionBackfill(backfillParams: {
                    selector: {
                        partitionSetName: "submit_batches_partition_set",
                        repositorySelector: {
                            repositoryName: "__repository__", repositoryLocationName: "batch_assets"
                        }
                    }
                    partitionNames: $days
                }) {
                    __typename
                    ... on LaunchBackfillSuccess { backfillId }
                    ... on PythonError { message }
                }
            }
            """,
            days=list(days),
        )["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        backfill_id: str = launched["backfillId"]
        return backfill_id

    def materializations(self, asset: str) -> dict[str, float]:
        """day → when it was last materialized, in Unix seconds."""
        node = self.graphql(
            """
            query ($asset: [String!]!) {
                assetOrError(assetKey: { path: $asset }) {
                    ... on Asset { assetMaterializations(limit: 1000) { partition timestamp } }
                }
            }
            """,
            asset=[asset],
        )["assetOrError"]
        newest_first = node.get("assetMaterializations", [])
        return {event["partition"]: float(event["timestamp"]) / 1000 for event in reversed(newest_first)}

    def runs(self) -> list[dict[str, Any]]:
        """All runs: runId, status, tags."""
        found = self.graphql(
            "{ runsOrError { ... on Runs { results { runId status pipelineName startTime endTime } } } }"
        )["runsOrError"]
        runs: list[dict[str, Any]] = found["results"]
        return runs

    def process_of(self, run_id: str) -> int:
        """The id of the run's process, from the run's log."""
        found = self.graphql(
            """
            query ($run: ID!) {
                logsForRun(runId: $run) { ... on EventConnection { events { ... on MessageEvent { message } } } }
            }
            """,
            run=run_id,
        )["logsForRun"]
        messages = " ".join(event.get("message", "") for event in found["events"])
        return int(_match(r"Executing steps in process \(pid: (\d+)\)", messages))

    def terminate(self, run_id: str) -> None:
        """Do what the button Terminate does."""
        ended = self.graphql(
            "mutation ($run: String!) { terminateRun(runId: $run, terminatePolicy: SAFE_TERMINATE) { __typename } }",
            run=run_id,
        )["terminateRun"]
        assert ended["__typename"] == "TerminateRunSuccess", ended

    def wait_for(self, asset: str, days: Sequence[str], *, seconds: float = WAIT_SECONDS) -> dict[str, float]:
        """Wait until the asset is materialized for all of these days; fails the test after so many seconds."""
        deadline = time.monotonic() + seconds
        while not set(days) <= (found := self.materializations(asset)).keys():
            assert time.monotonic() < deadline, f"{sorted(set(days) - found.keys())} missing; runs: {self.runs()}"
            assert self.process.poll() is None, "batch-assets dev has ended"
            time.sleep(1)  # each query takes the webserver 30 ms
        return found


@contextmanager
def running_dev(data: Path, **variables: str) -> Iterator[Dev]:
    """`batch-assets dev` on a free port. At the end it gets SIGINT, as by Ctrl-C."""
    data.mkdir(parents=True, exist_ok=True)
    log = data / "dev.log"  # a pipe that no process reads would fill up, and block every run that logs
    with log.open("w") as output:
        process = subprocess.Popen(
            [*COMMAND, "dev"],
            env=environment(data, PYTHONUNBUFFERED="1", **variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        output_text = _read_until_ready(process, log)
        ui_url, api_url = _match(r"Ready: (http://[^/]+)", output_text), _match(r"Batch API +(\S+)", output_text)
        yield Dev(process, ui_url, api_url, data)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(WAIT_SECONDS)
        finally:
            process.kill()


def _read_until_ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    def is_ready() -> bool:
        assert process.poll() is None, f"batch-assets dev ended: {log.read_text()}"
        return "Ready:" in log.read_text()

    wait_until(is_ready, log.read_text)
    return log.read_text()


def processes_of(folder: Path) -> str:
    """The processes of this data folder that still run, by their environment. Waits until none does; "" then."""
    deadline = time.monotonic() + WAIT_SECONDS
    while running := [process.name for process in Path("/proc").glob("[0-9]*") if _mentions(process, folder)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return ", ".join(running)


def _mentions(process: Path, folder: Path) -> bool:
    try:
        return str(folder).encode() in (process / "environ").read_bytes()
    except OSError:  # it has ended
        return False


def _match(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, text
    return match.group(1)
