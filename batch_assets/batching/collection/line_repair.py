"""Repairs lines of result files that DuckDB cannot read as they are, and says why the others cannot be used."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from batch_assets.batching.collection.answer_bodies import ANSWER_BODIES, AnswerBody
from batch_assets.batching.collection.other_bodies import in_known_form
from batch_assets.batching.provider.endpoint import CHAT_COMPLETIONS

LONGEST_LINE_BYTES = 32_000_000
KEPT_OF_A_LONGER_LINE_BYTES = 1_000_000


def lines_of(path: Path) -> Iterator[tuple[int, bytes, int]]:
    """(number from 1, line, its size) of the lines that are not blank. A line ends at \\n, not at U+2028 or similar.

    Of a line that is too long, only the beginning.
    """
    with path.open("rb") as file:
        for number in count(1):
            if not (line := file.readline(LONGEST_LINE_BYTES + 1)):
                return
            line_bytes = len(line)
            if line_bytes > LONGEST_LINE_BYTES:
                rest = line
                line = line[:KEPT_OF_A_LONGER_LINE_BYTES]
                while rest and not rest.endswith(b"\n"):
                    rest = file.readline(LONGEST_LINE_BYTES)
                    line_bytes += len(rest)
            if line.strip():
                yield number, line.rstrip(b"\r\n"), line_bytes


def repair_line(
    line: bytes, line_bytes: int, requested: set[str], endpoint: str = CHAT_COMPLETIONS.path
) -> tuple[str | None, str]:
    """The line as JSON that DuckDB can read, None if that is impossible, and why the line cannot be used.

    The reason is empty for a line that can be used. A line that no request of the batch has may still tell its usage,
    and so may a line whose body is no answer.
    """
    if line_bytes > LONGEST_LINE_BYTES:
        kept = f"its first {len(line):,} bytes are kept here, the whole line in the result file"
        return None, f"a line of {line_bytes:,} bytes, more than {LONGEST_LINE_BYTES:,}: {kept}"
    result, reason = _result(line, requested, ANSWER_BODIES[endpoint])
    if result is None:
        return None, reason
    repaired = json.dumps(result)
    if len(repaired) > LONGEST_LINE_BYTES:
        return None, reason or f"more than {LONGEST_LINE_BYTES:,} bytes in ASCII"
    return repaired, reason


def _result(line: bytes, requested: set[str], body: AnswerBody) -> tuple[dict[str, Any] | None, str]:
    """The result on this line, None if there is none, and why it cannot be used; the reason is empty if it can."""
    text = line.decode("utf-8-sig", errors="replace")
    try:
        result = json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        return None, f"malformed JSON: {error}"
    if not isinstance(result, dict):
        return None, "not a JSON object"
    custom_id = result.get("custom_id")
    if not isinstance(custom_id, str):
        return None, "no custom_id"
    # JSON allows a lone half of a surrogate pair, which is no text; DuckDB refuses it
    whole = json.dumps(result, ensure_ascii=False).encode("utf-16", "surrogatepass")
    known, reason = in_known_form(json.loads(whole.decode("utf-16", "replace")), body)
    return known, reason if custom_id in requested else "unknown custom_id: no request of this batch has it"
