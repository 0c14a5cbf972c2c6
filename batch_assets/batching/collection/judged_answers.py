"""Judges the answers of batches whose task has an output schema.

An answer must be valid by the schema, and DuckDB must be able to make columns of it.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import duckdb
import pydantic_core

from batch_assets.batching.ledger.database import parsed
from batch_assets.batching.ledger.outcomes import INVALID_ANSWER
from batch_assets.output_schema.columns import answer_columns, has_json, structure
from batch_assets.output_schema.judge import Judge

FETCH_ROWS = 2_000
FAILED_AT_ONCE = 10_000  # so that a batch without a valid answer does not need more memory

# Streamed: DuckDB makes the columns of the next texts while Python judges these.
READ_ANSWERS = """
    SELECT rowid, finish_reason, text, TRY(from_json_strict(text, $structure::VARCHAR)) IS NULL
    FROM result_line WHERE batch = $batch AND code IS NULL AND rowid > $after
"""
FAIL = """
    UPDATE result_line SET code = failed.code, message = failed.message
    FROM (
        SELECT unnest($places::BIGINT[]) AS place, unnest($codes::VARCHAR[]) AS code,
            unnest($messages::VARCHAR[]) AS message
    ) AS failed
    WHERE result_line.rowid = failed.place
"""
FAIL_VECTORS = """
    UPDATE result_line
    SET code = $code, message = 'The vector has ' || len(vector) || ' numbers, and not ' || $length::BIGINT || '.'
    WHERE batch = $batch AND code IS NULL AND len(vector) <> $length
"""
# A valid answer is complete, whatever its server says: white space may have filled the rest up to the limit. As a cut
# one, it would be bought again under a higher limit.
MARK_COMPLETE = """
    UPDATE result_line SET finish_reason = 'stop' WHERE batch = $batch AND code IS NULL AND finish_reason = 'length'
"""


class FailedAnswer(NamedTuple):
    """A line, by its rowid in `result_line`, whose text is no answer, and why."""

    place: int
    code: str
    message: str


def judge_answers(connection: duckdb.DuckDBPyConnection, schemas: Mapping[int, Mapping[str, Any]]) -> None:
    """Give each line of `result_line` that has no valid answer a code and a message; its tokens stay.

    schemas: by the number of the batch in `ended_batch`. Each remaining answer is valid by the schema, and
    `from_json_strict` makes columns of it. Raises ValueError if a schema is no schema.
    """
    for batch, schema in schemas.items():
        judge = _AnswerJudge(schema)
        after: int | None = -1
        while after is not None:
            failed, after = _read_failed(connection, batch, judge, after)
            if failed:
                places, codes, messages = (list(values) for values in zip(*failed, strict=True))
                connection.execute(parsed(FAIL), {"places": places, "codes": codes, "messages": messages})
        connection.execute(parsed(MARK_COMPLETE), {"batch": batch})


def judge_vectors(connection: duckdb.DuckDBPyConnection, lengths: Mapping[int, int]) -> None:
    """Give each line of `result_line` whose vector has another length a code and a message; its tokens stay.

    lengths: how many numbers a vector must have, by the number of the batch in `ended_batch`.
    """
    for batch, length in lengths.items():
        connection.execute(parsed(FAIL_VECTORS), {"batch": batch, "length": length, "code": INVALID_ANSWER})


def _read_failed(
    connection: duckdb.DuckDBPyConnection, batch: int, judge: "_AnswerJudge", after: int
) -> tuple[list[FailedAnswer], int | None]:
    """The next lines without a valid answer, and after which rowid to go on; None: all lines are judged."""
    failed: list[FailedAnswer] = []
    parameters = {"structure": judge.structure, "batch": batch, "after": after}
    rows = connection.execute(parsed(READ_ANSWERS), parameters)
    while block := rows.fetchmany(FETCH_ROWS):
        for place, finish_reason, text, has_no_columns in block:
            if reason := judge.failure(text, finish_reason, has_no_columns=has_no_columns):
                failed.append(FailedAnswer(place, *reason))
        if len(failed) >= FAILED_AT_ONCE:
            return failed, block[-1][0]
    return failed, None


class _AnswerJudge:
    """Judges the texts of one task."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        columns = answer_columns(schema)
        self.structure = structure(schema)
        self._judge = Judge(schema)
        self._names = {column.name for column in columns}
        self._has_json = any(has_json(column.structure) for column in columns)

    def failure(self, text: str, finish_reason: str | None, *, has_no_columns: bool) -> tuple[str, str] | None:
        """The code and the message of a text that is no valid answer; None for an answer.

        has_no_columns: DuckDB cannot make columns of it.
        """
        if reason := self._judge.why_invalid(text):
            if finish_reason == "length":
                return "max_output_tokens", _cut_message(text, self._names)
            if finish_reason == "content_filter":
                return "content_refused", "The content filter cut the answer."
            return INVALID_ANSWER, reason
        # Into a JSON column, DuckDB copies a repeated key, and later reads its first value. Python judged the last one.
        if not has_no_columns and not self._has_json:
            return None
        why = _why_not_unique(text) or (has_no_columns and "an integer has over 64 bits, or a time is none of DuckDB's")
        return (INVALID_ANSWER, f"The answer fits the schema, but not into columns: {why}.") if why else None


def _cut_message(text: str, names: Collection[str]) -> str:
    """The message of an answer that was cut. It names the last field that began if that is one of the schema."""
    place = ""
    try:
        begun = pydantic_core.from_json(text, allow_partial="trailing-strings")
    except ValueError:
        begun = None
    if isinstance(begun, dict) and begun and (last := list(begun)[-1]) in names:
        place = f" at or after the field {json.dumps(last, ensure_ascii=False)}"
    return f"The answer was cut at the limit on output tokens{place}. Raise max_output_tokens."


def _why_not_unique(text: str) -> str | None:
    """Why the keys of a JSON text may name two values; None if they do not."""
    try:
        json.loads(text, object_pairs_hook=_refuse_repeated_keys)
    except _RepeatedKeyError:
        return "an object has a key twice"
    except RecursionError:
        return "it is nested too deeply"
    return None


class _RepeatedKeyError(Exception):
    """An object has a key twice."""


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise _RepeatedKeyError
