"""Folders that only the user can open. `local_api` has its own module for this: neither imports the other."""

from pathlib import Path


def make_private_folder(folder: Path) -> None:
    """Create the folder and its missing parents with mode 0700; existing folders do not change."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
