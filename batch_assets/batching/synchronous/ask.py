"""Asks one request outside of a batch. Its answer, or why there is none, is in the tables when `ask` returns.

    1. in one transaction: nothing else has or asks the request, the budget allows it → the row of the call
    2. the call, without a connection to the database
    3. the answer, byte for byte, in a file
    4. in one transaction: the state of the call, the answer or the failure, the spending

A process that ends between 1 and 3 leaves a row that is `sent`: `settle` makes it possibly billed. One that ends
between 3 and 4 leaves the file: `settle` loads it.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path

import duckdb
import openai

from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.outcomes import Scope, outcome_of
from batch_assets.batching.ledger.requests import create_macros
from batch_assets.batching.ledger.spending import Budget, why_over_budget
from batch_assets.batching.ledger.synchronous_calls import (
    CALL_LIFETIME,
    Call,
    CallState,
    NotAsked,
    Refusal,
    end_call,
    record_call,
    sent_calls,
    why_not_to_ask,
)
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.provider.identity import ApiIdentity
from batch_assets.batching.provider.prices import ModelPrice, standard_rates
from batch_assets.batching.provider.synchronous import LostAnswerError, NotSentError, send
from batch_assets.batching.safety.outside_text import as_code, as_message
from batch_assets.batching.synchronous.answers import (
    Answer,
    is_stored,
    load_answer,
    read_answer,
    refusal_of,
    store_answer,
)
from batch_assets.batching.synchronous.callers import CALLS_FOLDER, forget, has_ended
from batch_assets.batching.synchronous.pending import PendingRequest
from batch_assets.batching.task_day import TaskDay
from batch_assets.batching.timing import Timing

OVER_BUDGET, NOT_SENT = "over_budget", "not_sent"
WHY_NOT_ASKED = {
    NotAsked.ANSWERED: "Another run or command has its answer by now.",
    NotAsked.IN_FLIGHT: "It is in a request file or a batch by now.",
    NotAsked.ASKED_NOW: "Another process asks it now.",
    NotAsked.LOST_TWICE: "Two answers were lost, and may be billed. It is left to the batch.",
}


class AskResult(StrEnum):
    """How `ask` ended."""

    ANSWERED = "answered"
    FAILED = "failed"  # the answer is none, or the API refused the request as it would in a batch
    REFUSED = "refused"  # the API refused it now: limits, an error of the account or of the server
    LOST = "lost"  # two answers were lost: each may be billed
    NOT_ASKED = "not_asked"  # `code` says why


@dataclass(frozen=True)
class Asker:
    """The process that asks, and what it asks with. caller: its id, of `registered_caller`."""

    database: Database
    client: openai.OpenAI
    data_folder: Path
    api: ApiIdentity
    caller: str
    budget: Budget = field(default_factory=Budget)
    own_prices: tuple[ModelPrice, ...] = ()
    timing: Timing = field(default_factory=Timing)


@dataclass(frozen=True)
class Asked:
    """What became of a request.

    code, message: why there is no answer. answer: also of a failed one, which was billed. lost: how many answers this
    process has waited for in vain. refuses_all: whether the API would refuse other requests now, too.
    """

    request: PendingRequest
    result: AskResult
    code: str | None = None
    message: str | None = None
    answer: Answer | None = None
    lost: int = 0
    refuses_all: bool = False


@dataclass(frozen=True)
class Settled:
    """The calls of earlier processes that had no end. running: another process waits for their answers."""

    loaded: list[Call]
    lost: list[Call]
    running: list[Call]


def max_cost_usd(requests: Sequence[PendingRequest], api: str) -> float | None:
    """What these requests cost at most at standard prices (estimated); None if a price is not known."""
    costs = [_max_cost_usd(request.task, request.estimated_input_tokens, api) for request in requests]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _max_cost_usd(task: Task, input_tokens: int, api: str) -> float | None:
    rates = standard_rates(task.model, api=api)
    if rates is None:
        return None
    return input_tokens * max(rates.input_usd, rates.cache_write_usd) + task.max_output_tokens * rates.output_usd


def why_not_within_budget(asker: Asker, day: TaskDay, requests: Sequence[PendingRequest]) -> str | None:
    """Why a budget does not allow these calls together, as a sentence; None if it does."""
    with asker.database.reading() as connection:
        return _why_over_budget(connection, asker, day, max_cost_usd(requests, asker.api.name), requests)


def _why_over_budget(
    connection: duckdb.DuckDBPyConnection,
    asker: Asker,
    day: TaskDay,
    usd: float | None,
    requests: Sequence[PendingRequest],
) -> str | None:
    if not requests or not asker.budget.limits(day.task):
        return None
    model = requests[0].task.model
    if usd is None:
        return (
            f"The standard price of {as_code(model)} at {asker.api.name} is not known, so no budget can be checked. "
            "The prices of a task are those of batches. Choose another model, or set no budget."
        )
    return why_over_budget(
        connection,
        asker.budget,
        day=day,
        api=asker.api.name,
        moment=asker.api.now(),
        expected_usd=usd,
        model=model,
        own_prices=asker.own_prices,
    )


def ask(asker: Asker, day: TaskDay, request: PendingRequest) -> Asked:
    """Ask the request; after a lost answer, once more. Raises nothing of the API."""
    lost = 0
    while True:
        call = _begin(asker, day, request)
        if not isinstance(call, Call):
            is_lost = call.code == NotAsked.LOST_TWICE
            result = AskResult.LOST if is_lost else AskResult.NOT_ASKED
            return Asked(request, result, call.code, call.message, lost=lost)
        try:
            answer = send(asker.client, call.endpoint, request.body, asker.timing)
        except LostAnswerError as error:
            _end(asker, call, CallState.POSSIBLY_BILLED, Refusal(None, "lost", as_message(str(error))))
            lost += 1
            continue
        except NotSentError as error:
            refusal = Refusal(None, NOT_SENT, f"The API could not be reached: {as_message(str(error))}")
            _end(asker, call, CallState.REFUSED, refusal)
            return _refused(request, refusal, lost)
        except BaseException:  # the user has pressed Ctrl-C
            _end(asker, call, CallState.POSSIBLY_BILLED, Refusal(None, "interrupted", "The command was interrupted."))
            raise
        store_answer(asker.data_folder, call, answer)
        load_answer(asker.database, asker.data_folder, call)
        return _asked(asker, call, request, refusal_of(answer), lost)


def _asked(asker: Asker, call: Call, request: PendingRequest, refusal: Refusal | None, lost: int) -> Asked:
    with asker.database.reading() as connection:
        answer = read_answer(connection, call, is_refused=refusal is not None)
    if answer is None and refusal is not None:
        return _refused(request, refusal, lost)
    if answer is None or answer.code is not None:
        code, message = (None, None) if answer is None else (answer.code, answer.message)
        return Asked(request, AskResult.FAILED, code, message, answer, lost)
    return Asked(request, AskResult.ANSWERED, answer=answer, lost=lost)


def _refused(request: PendingRequest, refusal: Refusal, lost: int) -> Asked:
    outcome = outcome_of(refusal.code, refusal.message, refusal.http_status)
    refuses_all = (
        refusal.code == NOT_SENT
        or refusal.http_status == HTTPStatus.TOO_MANY_REQUESTS
        or outcome.scope is Scope.ACCOUNT
    )
    return Asked(request, AskResult.REFUSED, refusal.code, refusal.message, lost=lost, refuses_all=refuses_all)


def settle(asker: Asker) -> Settled:
    """Record the ends of the calls whose processes ended before they could."""
    with asker.database.reading() as connection:
        calls = sent_calls(connection)
    settled = Settled([], [], [])
    ended = {caller for caller in {call.caller for call in calls} if has_ended(asker.data_folder, caller)}
    for call in calls:
        if is_stored(asker.data_folder, call):
            load_answer(asker.database, asker.data_folder, call)
            settled.loaded.append(call)
        elif call.caller in ended or now_utc() - call.sent_at > CALL_LIFETIME:
            _end(asker, call, CallState.POSSIBLY_BILLED, Refusal(None, "lost", "The process ended before the answer."))
            settled.lost.append(call)
        else:
            settled.running.append(call)
    for caller in ended:
        forget(asker.data_folder, caller)
    return settled


def _begin(asker: Asker, day: TaskDay, request: PendingRequest) -> Call | Refusal:
    """Record the call that is about to be made; a Refusal if none may be."""
    with asker.database.writing() as connection, transaction(connection):
        create_macros(connection)
        task = request.task
        why = why_not_to_ask(connection, request.custom_id, asker.api.name, task.max_output_tokens)
        if why is not None:
            return Refusal(None, why, WHY_NOT_ASKED[why])
        usd = _max_cost_usd(task, request.estimated_input_tokens, asker.api.name)
        over_budget = _why_over_budget(connection, asker, day, usd, [request])
        if over_budget is not None:
            return Refusal(None, OVER_BUDGET, over_budget)
        call_id = uuid.uuid4().hex
        call = Call(
            call_id=call_id,
            custom_id=request.custom_id,
            day=day,
            caller=asker.caller,
            api=asker.api.name,
            endpoint=task.endpoint,
            model=task.model,
            called_at=asker.api.now(),
            sent_at=now_utc(),
            estimated_input_tokens=request.estimated_input_tokens,
            max_output_tokens=task.max_output_tokens,
            max_cost_usd=usd,
            output_schema=task.output_schema,
            vector_length=task.vector_length,
            path=f"{CALLS_FOLDER}/{call_id}.jsonl",
        )
        record_call(connection, call)
        return call


def _end(asker: Asker, call: Call, state: CallState, refusal: Refusal) -> None:
    with asker.database.writing() as connection:
        end_call(connection, call, state, refusal=refusal)
