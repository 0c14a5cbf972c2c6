"""The key of a server that was given none: made once, kept in its folder, where only this user can read it.

A program that can read it can use the server: `demo`, `dev` and the assets read it there. Other users cannot.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from batch_assets.local_api.storage.private import read_private_file, write_private_file

KEY_VARIABLE = "BATCH_ASSETS_SERVE_KEY"
# The client wants one. A server that admits anyone takes this, another one refuses it.
NO_KEY = "local"
_MADE = re.compile(r"sk-local-[0-9a-f]{64}")


def key_path(directory: Path) -> Path:
    return directory / "key"


def provide_key(directory: Path) -> str:
    """The folder's key. Made anew where there is none, or where it is cut, or was open to others. Raises OSError."""
    key = _key_in(read_private_file(key_path(directory)) or "")
    if key is None:
        key = f"sk-local-{secrets.token_hex(32)}"
        write_private_file(key_path(directory), key + "\n")
    return key


def local_api_key(directory: Path) -> str:
    """What a client sends to the server of this folder: its key, or NO_KEY where there is none that can be read."""
    try:
        return _key_in(key_path(directory).read_text(encoding="ascii", errors="replace")) or NO_KEY
    except OSError:
        return NO_KEY


def given_key() -> str | None:
    """The key that the environment gives a server, if it does."""
    return os.environ.get(KEY_VARIABLE, "").strip() or None


def _key_in(text: str) -> str | None:
    return text.strip() if _MADE.fullmatch(text.strip()) else None
