"""The answer of a synchronous call: stored as a line of a result file, loaded as such a line, and read for the user."""

import json
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from batch_assets.batching.collection.ended_batches import EndedBatch
from batch_assets.batching.collection.load import load_call
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.outcomes import Scope, outcome_of
from batch_assets.batching.ledger.synchronous_calls import Call, CallState, Refusal, end_call
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.provider.synchronous import ApiAnswer
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.batching.safety.private_folder import make_private_folder

OK = 200
# First what this call has brought: an earlier answer may be one that does not count. An answer of another process that
# was loaded during the call stays in place of this one.
READ_ANSWER = """
    SELECT * EXCLUDE (is_of_call) FROM (
        SELECT
            text, len(vector) AS vector_length, NULL AS code, NULL AS message, finish_reason,
            input_tokens, output_tokens, cost_usd, simulated_cost_usd, batch_id = $batch_id AS is_of_call
        FROM completion WHERE custom_id = $custom_id
        UNION ALL
        SELECT NULL, NULL, code, message, NULL, input_tokens, output_tokens, cost_usd, simulated_cost_usd, true
        FROM failed_request WHERE custom_id = $custom_id AND batch_id = $batch_id
    )
    WHERE is_of_call OR NOT $is_refused
    ORDER BY is_of_call DESC LIMIT 1
"""


class Answer(NamedTuple):
    """An answer, or a failure with its code; with tokens and USD at the standard price, None if they are not known.

    vector_length: of a vector, in place of the text. simulated_cost_usd: of the built-in engine, which bills nothing.
    """

    text: str | None
    vector_length: int | None
    code: str | None
    message: str | None
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    simulated_cost_usd: float | None


def store_answer(data_folder: Path, call: Call, answer: ApiAnswer) -> None:
    """Store the answer before anything of it counts. The file appears whole, or not at all. Raises OSError."""
    path = data_folder / call.path
    make_private_folder(path.parent)
    unfinished = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        with unfinished.open("wb") as file:
            file.write(_line(call, answer))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _line(call: Call, answer: ApiAnswer) -> bytes:
    """The line that a result file would have: the body byte for byte, but for its line ends, which only separate.

    A body that is no JSON is a string in the line.
    """
    try:
        json.loads(answer.body)
        body = answer.body.replace(b"\n", b" ").replace(b"\r", b" ")
    except ValueError:
        body = json.dumps(answer.body.decode("utf-8", "replace")).encode()
    before = {"id": call.call_id, "custom_id": call.custom_id, "error": None, "api": answer.api}
    response = {"status_code": answer.status, "request_id": answer.request_id}
    opened = f'{json.dumps(before)[:-1]}, "response": {json.dumps(response)[:-1]}, "body": '
    return opened.encode() + body + b"}}\n"


def is_stored(data_folder: Path, call: Call) -> bool:
    """Whether the answer came, and was not loaded before its process ended."""
    return (data_folder / call.path).exists()


def refusal_of(answer: ApiAnswer) -> Refusal | None:
    """Why the API refused the request; None if it answered."""
    if answer.status == OK:
        return None
    error: Any = None
    with suppress(ValueError, TypeError, KeyError):
        error = json.loads(answer.body)["error"]
    if not isinstance(error, dict):
        error = {"message": error if isinstance(error, str) else None}
    code = error.get("code") or error.get("type") or f"http_{answer.status}"
    message = error.get("message") or f"The API answered with the status {answer.status}."
    return Refusal(answer.status, as_message(str(code)), as_message(str(message)))


def load_answer(database: Database, data_folder: Path, call: Call) -> None:
    """Load what is stored in one transaction, unless another process has done it.

    A refusal that the API would repeat in a batch makes the request fail, as in a batch. Any other one says nothing
    about the request.
    """
    stored = _read_stored(data_folder, call)
    refusal = refusal_of(stored)
    state = CallState.ANSWERED if refusal is None else CallState.REFUSED
    api = stored.api if refusal is None else call.api  # a gateway that refuses does not name the API
    with database.writing() as connection, transaction(connection):
        is_first = end_call(connection, call, state, refusal=refusal, api=api)
        if is_first and (refusal is None or _is_of_request(refusal)):
            load_call(connection, _as_batch(data_folder, call, api), call.custom_id)


def _is_of_request(refusal: Refusal) -> bool:
    outcome = outcome_of(refusal.code, refusal.message, refusal.http_status)
    return outcome.scope in (Scope.REQUEST, Scope.TASK) and not outcome.is_retryable


def read_answer(connection: duckdb.DuckDBPyConnection, call: Call, *, is_refused: bool) -> Answer | None:
    """The answer to the request of the call, or the failure of this call; None if it has neither."""
    parameters = {"custom_id": call.custom_id, "batch_id": call.batch_id, "is_refused": is_refused}
    row = connection.execute(READ_ANSWER, parameters).fetchone()
    return None if row is None else Answer(*row)


def _read_stored(data_folder: Path, call: Call) -> ApiAnswer:
    line = json.loads((data_folder / call.path).read_bytes())
    response = line["response"]
    return ApiAnswer(
        response["status_code"], json.dumps(response["body"]).encode(), line["api"], response["request_id"]
    )


def _as_batch(data_folder: Path, call: Call, api: str) -> EndedBatch:
    return EndedBatch(
        submission_id=call.call_id,
        batch_id=call.batch_id,
        model=call.model,
        status="completed",
        ended_at=now_utc(),
        files={"output": data_folder / call.path},
        api=api,
        max_output_tokens=call.max_output_tokens,
        planned_at=call.sent_at,
        endpoint=call.endpoint,
        output_schema=call.output_schema,
        vector_length=call.vector_length,
        is_synchronous=True,
    )
