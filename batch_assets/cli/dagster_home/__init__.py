"""A Dagster home that persists, and the local Batch API beside it: what `demo` and `dev` stand on.

`processes` starts children that end with us, which `guardian` sees to and `child` reports to; `lock` lets one `dev`
run on a home.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batch_assets.batching.safety.outside_text import printable
from batch_assets.batching.safety.secrets import without_secrets
from batch_assets.cli.dagster_home.processes import Family, Process, family
from batch_assets.local_api.serving.discovery import running_url
from batch_assets.local_api.storage.private import make_private_folder
from batch_assets.settings import Settings, make_data_folder

HERE = Path(__file__).parent
SERVER_START_SECONDS = 60.0


class StartError(Exception):
    """Something that we need did not come up; the message says what, and what it printed."""


def shipped(name: str) -> Path:
    """Our `dagster.yaml` or `workspace.yaml`: in an installed package beside this file, in a checkout at the top."""
    installed = HERE / name
    return installed if installed.exists() else HERE.parents[2] / name


def dagster_home(settings: Settings) -> Path:
    """The user's DAGSTER_HOME, or ours in the data folder, with our `dagster.yaml` in it if it has none.

    Raises OSError. Afterwards the file is there whole, or as it was.
    """
    named = os.environ.get("DAGSTER_HOME")
    home = Path(named).expanduser().absolute() if named else settings.dagster_home
    make_data_folder(settings)
    make_private_folder(home)
    ours = shipped("dagster.yaml").read_bytes()
    target = (home / "dagster.yaml").resolve()
    if not target.exists() or is_unfinished(target.read_bytes(), ours):
        write_whole(target, ours)
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def is_unfinished(found: bytes, ours: bytes) -> bool:
    """Whether a file is what a full disk or a crash left of ours: nothing, zeros, or its beginning."""
    return not found.strip(b"\0 \t\r\n") or (len(found) < len(ours) and ours.startswith(found))


def write_whole(target: Path, content: bytes) -> None:
    """Write a file so that no crash and no full disk leaves a part of it under its name. Raises OSError."""
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
    """The URL of the local Batch API, which runs inside the `with`; None where a real one is configured.

    One that runs already, for another `demo` or `dev` of the same data folder, is used and left running.
    """
    url = None if settings.has_remote_api else running_url(settings.local_api_folder)
    if settings.has_remote_api or url is not None:
        yield url
        return
    with family() as children:
        yield wait_for_local_api(start_local_api(settings, children), settings)


def local_api_log(settings: Settings) -> Path:
    """What the local Batch API prints goes there."""
    return settings.local_api_folder / "server.log"


def start_local_api(settings: Settings, children: Family) -> Process:
    """Start the local Batch API. Raises OSError."""
    make_data_folder(settings)
    make_private_folder(settings.local_api_folder)
    return children.start("batch_assets.cli.main", "serve", output=local_api_log(settings))


def wait_for_local_api(server: Process | None, settings: Settings) -> str:
    """The URL of a local Batch API that is starting, or was there already. Raises StartError."""
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
    # cleaned before it is cut: half of a secret could not be told from other text
    said = without_secrets(printable(content, lines=True))[-2000:] or "(nothing, as when the disk is full)"
    raise StartError(f"The local Batch API did not start. The end of {log}:\n{said}")
