"""Identifiers in OpenAI's forms. The server makes all of them, so each is safe as a file name."""

from __future__ import annotations

import random
import re
import secrets
import string

# Eight of the characters are a quarter more likely than the others, which is of no consequence.
_TO_BASE62 = ((string.ascii_letters + string.digits) * 5)[:256].encode()
_FILE_ID = re.compile(r"file-[A-Za-z0-9]{22}", re.ASCII)
_BATCH_ID = re.compile(r"batch_[0-9a-f]{32}", re.ASCII)


# For what is made with every line: a system call for each would let go of Python's lock each time, and the
# threads that execute lines would do little else than pass it around. Nobody gains by guessing these ids.
_QUICK = random.Random(secrets.randbits(256))  # noqa: S311


def _base62(length: int, source: random.Random = _QUICK) -> str:
    return source.randbytes(length).translate(_TO_BASE62).decode("ascii")


def _hex(length: int) -> str:
    return f"{_QUICK.getrandbits(4 * length):0{length}x}"


def new_file_id() -> str:
    return "file-" + _base62(22, random.SystemRandom())


def new_batch_id() -> str:
    return "batch_" + secrets.token_hex(16)


def new_batch_request_id() -> str:
    return "batch_req_" + _hex(32)


def new_request_id() -> str:
    """The header's; a result line's lacks the prefix [rec]."""
    return "req_" + new_line_request_id()


def new_line_request_id() -> str:
    return _hex(32)


def new_completion_id() -> str:
    return "chatcmpl-" + _base62(29)


def new_response_id() -> str:
    return "resp_" + _hex(50)


def new_message_id() -> str:
    return "msg_" + _hex(50)


def is_file_id(text: str) -> bool:
    """Whether this server could have made the id; what it couldn't is never looked up anywhere."""
    return _FILE_ID.fullmatch(text) is not None


def is_batch_id(text: str) -> bool:
    return _BATCH_ID.fullmatch(text) is not None
