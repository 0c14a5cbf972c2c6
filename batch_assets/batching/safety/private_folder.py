"""Folders that only the user can open. `local_api.private` has the same for itself: neither imports the other."""

from pathlib import Path


def make_private_folder(folder: Path) -> None:
    """Make the folder, and those above it that are missing, with mode 0700; what exists stays as it is."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
