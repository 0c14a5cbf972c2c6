"""`batch-assets dev`: Dagster's UI and daemon, with the local Batch API beside them unless a key is set."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import FrameType

import click
import dagster as dg
from filelock import BaseFileLock, FileLock, Timeout

from batch_assets.home import StartError, dagster_home, local_api, shipped, stop
from batch_assets.in_process import bury_dead_runs
from batch_assets.settings import Settings, read_settings

USUAL_PORT = 3000
UI_START_SECONDS = 180.0
GROUP_PAGE = "/locations/batch_assets/asset-groups/articles/lineage"


def run_dev(settings: Settings, *, host: str, port: int | None) -> None:
    """Run until Ctrl-C or SIGTERM, or until Dagster ends. Raises click.ClickException if something won't start."""
    home = dagster_home(settings)
    # Every process that Dagster starts reads these again, in whatever folder it runs.
    os.environ["BATCH_ASSETS_DATA_DIR"] = str(settings.data_folder)
    os.environ["BATCH_ASSETS_DUCKDB"] = settings.database
    port = port or (USUAL_PORT if _is_free(host, USUAL_PORT) else _any_free_port(host))
    # SIGINT too: a shell that starts us in the background ignores it, and Dagster's processes would inherit that
    signal.signal(signal.SIGTERM, _as_interrupt)
    signal.signal(signal.SIGINT, _as_interrupt)
    try:
        with _only_one(home), local_api(settings) as url:
            click.echo(f"Data        {settings.data_folder}")
            click.echo(f"Dagster     {home}")
            click.echo(f"Batch API   {url or 'OpenAI'}")
            click.echo(f"Starting the UI on http://{host}:{port} (10 to 30 s); Ctrl-C ends everything.\n")
            with dg.DagsterInstance.from_config(str(home)) as instance:
                bury_dead_runs(instance, of_a_daemon=True)
            dagster = subprocess.Popen(
                [
                    *(sys.executable, "-W", "ignore", "-m", "dagster", "dev"),
                    *("--workspace", str(shipped("workspace.yaml")), "--log-level", "error"),
                    *("--host", host, "--port", str(port)),
                ],
                start_new_session=True,  # a Ctrl-C is for us; we end Dagster before the API that it uses
            )
            try:
                threading.Thread(target=_say_when_ready, args=(dagster, host, port), daemon=True).start()
                dagster.wait()
            finally:
                stop(dagster)
    except StartError as error:
        raise click.ClickException(str(error)) from error
    except Timeout:
        raise click.ClickException(
            f"`batch-assets dev` is already running on {home}. Use that, or set BATCH_ASSETS_DATA_DIR."
        ) from None
    except KeyboardInterrupt:
        click.echo("\nStopped. Batches that were submitted go on; start again, and they are collected.")
        return
    if dagster.returncode:
        raise click.ClickException(f"Dagster ended with exit code {dagster.returncode}; its words are above.")


def _only_one(home: Path) -> BaseFileLock:
    """Two daemons on one Dagster home would fight over its sensors; the lock dies with the process."""
    return FileLock(home / "dev.lock", timeout=0)


def _as_interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say_when_ready(dagster: "subprocess.Popen[bytes]", host: str, port: int) -> None:
    deadline = time.monotonic() + UI_START_SECONDS
    while dagster.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/server_info", timeout=2):
                break
        except OSError:
            time.sleep(0.5)
    else:
        return
    broken = _load_error(f"http://{host}:{port}")
    if broken:
        click.echo(f"The UI is there, but the project does not load:\n{broken}", err=True)
        return
    click.echo(f"Ready: http://{host}:{port}{GROUP_PAGE}\n")
    click.echo(
        f"Shift-click raw_articles, batch_request_file and openai_batch, then Materialize selected, for example for\n"
        f"{read_settings().first_day}; a sensor brings summaries."
    )


def _load_error(url: str) -> str:
    """Why Dagster could not load our definitions; empty if it could."""
    query = """
        { workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError {
            ... on PythonError { message }
        } } } } }
    """
    request = urllib.request.Request(  # noqa: S310 - our own
        f"{url}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            entries = json.load(answer)["data"]["workspaceOrError"]["locationEntries"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return "\n".join((entry["locationOrLoadError"] or {}).get("message", "") for entry in entries).strip()


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as candidate:
        try:
            candidate.bind((host, port))
        except OSError:
            return False
    return True


def _any_free_port(host: str) -> int:
    with socket.socket() as candidate:
        candidate.bind((host, 0))
        port: int = candidate.getsockname()[1]
    return port
