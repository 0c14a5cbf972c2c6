"""JSON from clients, read strictly.

Python's parser accepts NaN, makes infinity of 1e400, guesses UTF-16, and raises RecursionError on deep nesting. Here
each of these is a ValueError, like all text that isn't JSON. So is an integer of more than 4,300 digits, and a text of
more than a million arrays and objects: megabytes of brackets would need gigabytes of memory.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

_MAXIMUM_CONTAINERS = 1_000_000


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is more than a number can hold")
    return number


# Made once: json.loads(parse_constant=…) would make a decoder for each line of a 50,000-line file.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def loads(data: bytes) -> Any:
    """The value of UTF-8 JSON. Raises ValueError for other data, also for a byte order mark."""
    # Brackets within strings count too. No request has so many of either kind.
    if len(data) > _MAXIMUM_CONTAINERS and data.count(b"[") + data.count(b"{") > _MAXIMUM_CONTAINERS:
        raise ValueError("too many arrays and objects")
    try:
        return _DECODER.decode(data.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def dumps(value: Any) -> bytes:
    """ASCII with Python's spacing, like OpenAI's result files. No newline at the end."""
    return json.dumps(value).encode("ascii")
