"""JSON as other people's software sends it, read strictly and without surprises.

Python's parser takes NaN, guesses UTF-16, and raises RecursionError on deep nesting;
here each of these is a ValueError like any other text that isn't JSON.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Built once: json.loads(parse_constant=…) would build a decoder for every line of a 50,000-line file.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def loads(data: bytes) -> Any:
    """The value of UTF-8 JSON; raises ValueError for anything else (also for a byte order mark)."""
    try:
        return _DECODER.decode(data.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def dumps(value: Any) -> bytes:
    """ASCII with Python's spacing, the way that OpenAI's result files look; no newline at the end."""
    return json.dumps(value).encode("ascii")
