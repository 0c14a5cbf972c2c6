"""JSON as other people's software sends it, read strictly and without surprises.

Python's parser takes NaN, makes infinity of 1e400, guesses UTF-16, and raises RecursionError on deep nesting;
here each of these is a ValueError like any other text that isn't JSON. So is an integer of more than 4,300 digits,
and a text of more than a million arrays and objects, which is what megabytes of brackets would take gigabytes for.
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


# Built once: json.loads(parse_constant=…) would build a decoder for every line of a 50,000-line file.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def loads(data: bytes) -> Any:
    """The value of UTF-8 JSON; raises ValueError for anything else (also for a byte order mark)."""
    # Brackets within strings count too; no request has so many of either kind.
    if len(data) > _MAXIMUM_CONTAINERS and data.count(b"[") + data.count(b"{") > _MAXIMUM_CONTAINERS:
        raise ValueError("too many arrays and objects")
    try:
        return _DECODER.decode(data.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def dumps(value: Any) -> bytes:
    """ASCII with Python's spacing, the way that OpenAI's result files look; no newline at the end."""
    return json.dumps(value).encode("ascii")
