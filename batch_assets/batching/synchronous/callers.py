"""Whether a process that makes synchronous calls still runs: it holds the lock of a file for as long.

The system releases the lock when the process ends, also if it was killed. A process of another machine has its file
there: for its calls, `CALL_LIFETIME` decides.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from batch_assets.batching.provider.download import RESULTS_FOLDER
from batch_assets.batching.safety.private_folder import make_private_folder

CALLS_FOLDER = f"{RESULTS_FOLDER}/calls"  # in the data folder: the stored answers, and the locks of the processes


@contextmanager
def registered_caller(data_folder: Path) -> Iterator[str]:
    """The id of a caller, which counts as running until the end of the `with`."""
    caller = uuid.uuid4().hex
    path = _lock_path(data_folder, caller)
    make_private_folder(path.parent)
    with FileLock(str(path)):
        try:
            yield caller
        finally:
            path.unlink(missing_ok=True)


def has_ended(data_folder: Path, caller: str) -> bool:
    """Whether the caller is known to have ended without an orderly end: its file is here, and nothing locks it."""
    path = _lock_path(data_folder, caller)
    if not path.exists():
        return False
    with suppress(Timeout), FileLock(str(path), timeout=0):
        return True
    return False


def forget(data_folder: Path, caller: str) -> None:
    """Delete the file of a caller that has ended, after the ends of its calls are recorded."""
    _lock_path(data_folder, caller).unlink(missing_ok=True)


def _lock_path(data_folder: Path, caller: str) -> Path:
    return data_folder / CALLS_FOLDER / f"{caller}.lock"
