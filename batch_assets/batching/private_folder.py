"""Folders for the user's eyes only: articles and answers are nobody else's business."""

from pathlib import Path


def make_private_folder(folder: Path) -> None:
    """Make the folder, and those above it that are missing, with mode 0700; what exists stays as it is."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
