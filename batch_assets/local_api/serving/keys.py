"""The server's own key: made once, and kept in its folder, where only this user can read it.

A program that can read the key can use the server: `demo`, `dev` and the assets read it there. Other users cannot.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from batch_assets.local_api.storage.private import read_private_file, write_private_file

KEY_VARIABLE = "BATCH_ASSETS_SERVE_KEY"
# OpenAI's client needs a key. A server without a key accepts this one, another server refuses it.
NO_KEY = "local"
_OWN_KEY = re.compile(r"sk-local-[0-9a-f]{64}")


def key_path(directory: Path) -> Path:
    return directory / "key"


def provide_key(directory: Path) -> str:
    """The folder's key: a new one if it is missing or damaged, or if other users could read it. Raises OSError."""
    key = _key_in(read_private_file(key_path(directory)) or "")
    if key is None:
        key = f"sk-local-{secrets.token_hex(32)}"
        write_private_file(key_path(directory), key + "\n")
    return key


def local_api_key(directory: Path) -> str:
    """The key for a client of this folder's server; NO_KEY if this process can read none."""
    try:
        return _key_in(key_path(directory).read_text(encoding="ascii", errors="replace")) or NO_KEY
    except OSError:
        return NO_KEY


def given_key() -> str | None:
    """The key from the environment, if there is one."""
    return os.environ.get(KEY_VARIABLE, "").strip() or None


def _key_in(text: str) -> str | None:
    return text.strip() if _OWN_KEY.fullmatch(text.strip()) else None
