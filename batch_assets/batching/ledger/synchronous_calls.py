"""The table `synchronous_call`: a request that was asked outside of a batch, and what became of it.

The row of a call is committed before the call, so that no other process asks the same request, and so that a budget
counts it. If its answer is lost, OpenAI may bill it: it counts as possibly billed, and the request is asked once more
at most. From then on, only a batch asks it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

import duckdb

from batch_assets.batching.ledger.states import OPEN
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.task_day import TaskDay
from batch_assets.batching.timing import Timing

CALL_PREFIX = "synchronous/"  # of what an answer of a call has in place of the id of a batch
# After that, a batch may have the request, whether or not the process still runs.
CALL_LIFETIME = Timing.call_lifetime
CALL_LIFETIME_SQL = f"INTERVAL {CALL_LIFETIME // timedelta(minutes=1)} MINUTE"
MAX_LOST_ANSWERS = 2  # of one request


class CallState(StrEnum):
    """The state of a synchronous call. It changes once, from `sent` to one of the others."""

    SENT = "sent"  # a process waits for the answer
    ANSWERED = "answered"  # the answer is loaded: `completion` or `failed_request` has it, `spending` its cost
    REFUSED = "refused"  # the API refused the request, or could not be reached: nothing was billed
    POSSIBLY_BILLED = "possibly_billed"  # no answer came, or the process ended before it came


class NotAsked(StrEnum):
    """Why a request is not asked outside of a batch."""

    ANSWERED = "answered"  # meanwhile
    IN_FLIGHT = "in_flight"  # it is in a request file or in a batch
    ASKED_NOW = "asked_now"  # another process waits for the answer
    LOST_TWICE = "lost_twice"  # two answers were lost, and may be billed


@dataclass(frozen=True)
class Call:
    """A call, as its row is written before it.

    caller: the process that waits for the answer.
    max_cost_usd: an upper estimate at the standard price; None: the price is not known.
    output_schema, vector_length: what an answer must be; see `EndedBatch`.
    path: where its answer will be stored, relative to the data folder.
    """

    call_id: str
    custom_id: str
    day: TaskDay
    caller: str
    api: str
    endpoint: str
    model: str
    called_at: datetime
    sent_at: datetime
    estimated_input_tokens: int
    max_output_tokens: int
    max_cost_usd: float | None
    output_schema: Mapping[str, Any] | None
    vector_length: int | None
    path: str

    @property
    def batch_id(self) -> str:
        """What its answer has in place of the id of a batch."""
        return CALL_PREFIX + self.call_id


class Refusal(NamedTuple):
    """Why the API did not answer. http_status: None: it could not be reached."""

    http_status: int | None
    code: str | None
    message: str


COLUMNS = (
    "call_id, custom_id, task, partition_date, caller, api, endpoint, model, called_at, sent_at, "
    "estimated_input_tokens, max_output_tokens, max_cost_usd, output_schema, vector_length, path"
)
IS_ANSWERED = """
    SELECT 1 FROM valid_completion($api)
    WHERE custom_id = $custom_id AND NOT is_cut_below(finish_reason, max_output_tokens, $max_output_tokens) LIMIT 1
"""
IS_IN_FLIGHT = """
    SELECT 1 FROM in_flight_request JOIN openai_batch USING (submission_id)
    WHERE custom_id = $custom_id AND list_contains($open_states, state) LIMIT 1
"""


def why_not_to_ask(
    connection: duckdb.DuckDBPyConnection, custom_id: str, api: str, max_output_tokens: int
) -> NotAsked | None:
    """Why no call may ask the request now; None if one may.

    Needs the macros of `requests.create_macros`. Call it in the transaction that records the call.
    """
    of_request = {"custom_id": custom_id, "api": api}
    if connection.execute(IS_ANSWERED, {**of_request, "max_output_tokens": max_output_tokens}).fetchone():
        return NotAsked.ANSWERED
    if connection.execute(IS_IN_FLIGHT, {"custom_id": custom_id, "open_states": list(OPEN)}).fetchone():
        return NotAsked.IN_FLIGHT
    asked_now = connection.execute(
        "SELECT 1 FROM synchronous_call WHERE custom_id = ? AND state = ? AND sent_at > ?",
        [custom_id, CallState.SENT, now_utc() - CALL_LIFETIME],
    ).fetchone()
    if asked_now:
        return NotAsked.ASKED_NOW
    return NotAsked.LOST_TWICE if lost_answers(connection, custom_id, api) >= MAX_LOST_ANSWERS else None


def lost_answers(connection: duckdb.DuckDBPyConnection, custom_id: str, api: str) -> int:
    """How many answers of this API to the request were lost."""
    row = connection.execute(
        "SELECT count(*) FROM synchronous_call WHERE custom_id = ? AND api = ? AND state = ?",
        [custom_id, api, CallState.POSSIBLY_BILLED],
    ).fetchone()
    return 0 if row is None else int(row[0])


def record_call(connection: duckdb.DuckDBPyConnection, call: Call) -> None:
    """Record that a process is about to make the call."""
    schema = None if call.output_schema is None else json.dumps(call.output_schema)
    connection.execute(
        f"""
        INSERT INTO synchronous_call ({COLUMNS}, state)
        VALUES (?, ?, ?, CAST(? AS DATE), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        """,
        [
            call.call_id, call.custom_id, *call.day, call.caller, call.api, call.endpoint, call.model, call.called_at,
            call.sent_at, call.estimated_input_tokens, call.max_output_tokens, call.max_cost_usd, schema,
            call.vector_length, call.path, CallState.SENT,
        ],
    )  # fmt: skip


def end_call(
    connection: duckdb.DuckDBPyConnection,
    call: Call,
    state: CallState,
    *,
    refusal: Refusal | None = None,
    api: str | None = None,
) -> bool:
    """Record what became of the call; False if this is recorded already.

    api: the name of the API that answered, if it is another one than that of the call.
    """
    status, code, message = refusal or (None, None, None)
    changed = connection.execute(
        """
        UPDATE synchronous_call
        SET state = ?, ended_at = ?, http_status = ?, code = ?, message = ?, api = coalesce(?, api)
        WHERE call_id = ? AND state = ?
        """,
        [state, now_utc(), status, code, message, api, call.call_id, CallState.SENT],
    ).fetchone()
    return changed == (1,)


def sent_calls(connection: duckdb.DuckDBPyConnection) -> list[Call]:
    """The calls without an end: a process waits for the answer, or ended before it came."""
    rows = connection.execute(
        f"""
        SELECT {COLUMNS.replace("partition_date", "partition_date::VARCHAR")} FROM synchronous_call
        WHERE state = ? ORDER BY sent_at, call_id
        """,
        [CallState.SENT],
    ).fetchall()
    return [_call(*row) for row in rows]


def _call(call_id: str, custom_id: str, task: str, day: str, *rest: Any) -> Call:
    caller, api, endpoint, model, called_at, sent_at, input_tokens, output_tokens, usd, schema, length, path = rest
    output_schema = None if schema is None else json.loads(schema)
    return Call(
        call_id, custom_id, TaskDay(task, day), caller, api, endpoint, model, called_at, sent_at, input_tokens,
        output_tokens, usd, output_schema, length, path,
    )  # fmt: skip
