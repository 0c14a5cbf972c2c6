"""Identifiers in OpenAI's forms. Only the server makes them, so each is safe as a file name."""

from __future__ import annotations

import random
import re
import secrets
import string

# Eight of the characters are a quarter more likely than the others, which does not matter.
_TO_BASE62 = ((string.ascii_letters + string.digits) * 5)[:256].encode()
_FILE_ID = re.compile(r"file-[A-Za-z0-9]{22}", re.ASCII)
_BATCH_ID = re.compile(r"batch_[0-9a-f]{32}", re.ASCII)


# For the ids of lines. A system call for each would release Python's global lock each time, and the worker threads
# would mostly wait for it. A client can do no harm by guessing these ids.
_FAST_RANDOM = random.Random(secrets.randbits(256))  # noqa: S311


def _base62(length: int, source: random.Random = _FAST_RANDOM) -> str:
    return source.randbytes(length).translate(_TO_BASE62).decode("ascii")


def _hex(length: int) -> str:
    return f"{_FAST_RANDOM.getrandbits(4 * length):0{length}x}"


def new_file_id() -> str:
    return "file-" + _base62(22, random.SystemRandom())


def new_batch_id() -> str:
    return "batch_" + secrets.token_hex(16)


def new_batch_request_id() -> str:
    return "batch_req_" + _hex(32)


def new_request_id() -> str:
    """For the header. In a result line, it lacks the prefix [rec]."""
    return "req_" + new_line_request_id()


def new_line_request_id() -> str:
    return _hex(32)


def new_completion_id() -> str:
    return "chatcmpl-" + _base62(29)


def new_text_completion_id() -> str:
    return "cmpl-" + _base62(29)


def new_response_id() -> str:
    return "resp_" + _hex(50)


def new_message_id() -> str:
    return "msg_" + _hex(50)


def is_file_id(text: str) -> bool:
    """Whether this server could have made the id. The server never uses another one in a path or a query."""
    return _FILE_ID.fullmatch(text) is not None


def is_batch_id(text: str) -> bool:
    return _BATCH_ID.fullmatch(text) is not None
