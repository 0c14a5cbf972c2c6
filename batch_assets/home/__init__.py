"""A Dagster home that persists, and the local Batch API beside it: what `demo` and `dev` stand on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batch_assets.batching.outside_text import printable
from batch_assets.batching.secrets import without_secrets
from batch_assets.local_api.discovery import running_url
from batch_assets.settings import Settings

HERE = Path(__file__).parent
SERVER_START_SECONDS = 60.0
STOP_SECONDS = 15.0


class StartError(Exception):
    """Something that we need did not come up; the message says what, and what it printed."""


def shipped(name: str) -> Path:
    """Our `dagster.yaml` or `workspace.yaml`: in an installed package beside this file, in a checkout at the top."""
    installed = HERE / name
    return installed if installed.exists() else HERE.parents[1] / name


def dagster_home(settings: Settings) -> Path:
    """The user's DAGSTER_HOME, or ours in the data folder, with our `dagster.yaml` in it if it has none."""
    named = os.environ.get("DAGSTER_HOME")
    home = Path(named).expanduser().absolute() if named else settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        shutil.copyfile(shipped("dagster.yaml"), home / "dagster.yaml")
    os.environ["DAGSTER_HOME"] = str(home)
    return home


@contextmanager
def local_api(settings: Settings) -> Iterator[str | None]:
    """The URL of the local Batch API, which runs inside the `with`; None where a real one is configured.

    One that runs already, for another `demo` or `dev` of the same data folder, is used and left running.
    """
    if settings.has_remote_api:
        yield None
        return
    url = running_url(settings.local_api_folder)
    if url is not None:
        yield url
        return
    settings.local_api_folder.mkdir(parents=True, exist_ok=True)
    log = settings.local_api_folder / "server.log"
    with log.open("ab") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "batch_assets.cli", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C is for us; we stop the server last
        )
    try:
        yield _wait_for(server, settings.local_api_folder, log)
    finally:
        stop(server)


def _wait_for(server: subprocess.Popen[bytes], folder: Path, log: Path) -> str:
    deadline = time.monotonic() + SERVER_START_SECONDS
    while time.monotonic() < deadline:
        url = running_url(folder)
        if url is not None:
            return url
        if server.poll() is not None:
            break
        time.sleep(0.05)
    # cleaned before it is cut: half of a secret could not be told from other text
    said = without_secrets(printable(log.read_bytes()[-100_000:].decode(errors="replace"), lines=True))
    raise StartError(f"The local Batch API did not start. The end of {log}:\n{said[-2000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that we started: politely, and after a while for certain."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with whatever it has started: it leads a session of its own
        process.wait()
