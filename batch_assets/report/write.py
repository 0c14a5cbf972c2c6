"""Writes the page into a file."""

import os
import tempfile
from pathlib import Path

FILE_NAME = "report.html"  # in the data folder


def write_page(path: Path, page: str) -> None:
    """Write all of the page or nothing, for this user only (mode 0600). Raises OSError."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(page)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
