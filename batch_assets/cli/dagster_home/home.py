"""The folder of the Dagster home, and the local Batch API that runs beside it."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batch_assets.batching.safety.outside_text import printable
from batch_assets.batching.safety.secrets import without_secrets
from batch_assets.cli.dagster_home.processes import ChildProcesses, Process, child_processes
from batch_assets.local_api.serving.discovery import running_url
from batch_assets.local_api.storage.private import make_private_folder
from batch_assets.settings import Settings, make_data_folder

HERE = Path(__file__).parent
SERVER_START_SECONDS = 60.0


class StartError(Exception):
    """A service did not start. The message names it, and has the end of what it printed."""


class NoDagsterHomeError(Exception):
    """There is no Dagster home. The message names the folder."""


def packaged_file(name: str) -> Path:
    """Our `dagster.yaml` or `workspace.yaml`: beside this file in an installed package, at the top of a checkout."""
    installed = HERE / name
    return installed if installed.exists() else HERE.parents[2] / name


def make_dagster_home(settings: Settings) -> Path:
    """The user's DAGSTER_HOME, or ours in the data folder. Adds our `dagster.yaml` if it has none. Raises OSError.

    Whenever this stops, the file is either complete or as it was before.
    """
    dagster_home = _dagster_home(settings)
    make_data_folder(settings)
    make_private_folder(dagster_home)
    ours = packaged_file("dagster.yaml").read_bytes()
    target = (dagster_home / "dagster.yaml").resolve()
    if not target.exists() or is_unfinished(target.read_bytes(), ours):
        write_whole(target, ours)
    os.environ["DAGSTER_HOME"] = str(dagster_home)
    return dagster_home


def find_dagster_home(settings: Settings) -> Path:
    """The same, if it exists. Creates nothing. Raises NoDagsterHomeError."""
    dagster_home = _dagster_home(settings)
    if not any((dagster_home / name).exists() for name in ("dagster.yaml", "history")):
        raise NoDagsterHomeError(
            f"There is no Dagster home in {dagster_home}: it has no `dagster.yaml`. Set DAGSTER_HOME to the folder of "
            "your Dagster, or leave out --runs."
        )
    os.environ["DAGSTER_HOME"] = str(dagster_home)
    return dagster_home


def _dagster_home(settings: Settings) -> Path:
    variable = os.environ.get("DAGSTER_HOME")
    return Path(variable).expanduser().absolute() if variable else settings.dagster_home


def is_unfinished(found: bytes, ours: bytes) -> bool:
    """Whether a full disk or a crash cut our file short: it is empty, zeros, or only the beginning."""
    return not found.strip(b"\0 \t\r\n") or (len(found) < len(ours) and ours.startswith(found))


def write_whole(target: Path, content: bytes) -> None:
    """Write a file atomically: a crash or a full disk leaves no part of it under its name. Raises OSError."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def local_api(settings: Settings) -> Iterator[str | None]:
    """The URL of the local Batch API, which runs inside the `with`; None where another API is configured.

    If one already runs for the same data folder, it is used, and goes on after the `with`.
    """
    url = None if settings.has_remote_api else running_url(settings.local_api_folder)
    if settings.has_remote_api or url is not None:
        yield url
        return
    with child_processes() as children:
        yield wait_for_local_api(start_local_api(settings, children), settings)


def local_api_log(settings: Settings) -> Path:
    """The file that the local Batch API prints to."""
    return settings.local_api_folder / "server.log"


def start_local_api(settings: Settings, children: ChildProcesses) -> Process:
    """Start the local Batch API. Raises OSError."""
    make_data_folder(settings)
    make_private_folder(settings.local_api_folder)
    return children.start("batch_assets.cli.main", "serve", output=local_api_log(settings))


def wait_for_local_api(server: Process | None, settings: Settings) -> str:
    """The URL of a local Batch API that is starting or already runs. Raises StartError."""
    deadline = time.monotonic() + SERVER_START_SECONDS
    while time.monotonic() < deadline:
        url = running_url(settings.local_api_folder)
        if url is not None:
            return url
        if server is not None and server.poll() is not None:
            break
        time.sleep(0.05)
    log = local_api_log(settings)
    content = log.read_bytes()[-100_000:].decode(errors="replace") if log.exists() else ""
    # secrets are removed before the text is cut: half of a secret could not be recognized
    output = without_secrets(printable(content, lines=True))[-2000:] or "(nothing: the disk may be full)"
    raise StartError(f"The local Batch API did not start. The end of {log}:\n{output}")
