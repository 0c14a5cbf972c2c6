"""Guards against money that no table knows of: whatever a batch billed is in `spending`, and budgets read nothing else.

The results of the real server are changed on their way, so that each kind of line comes with a usage of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from batch_assets.batching.creation import SubmissionError
from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.spending import Budget, spending_of_day, unattributed_batches, used_on_day
from batch_assets.batching.prices import ModelPrice, batch_rates
from batch_assets.batching.shards import ShardWriter
from batch_assets.batching.submission import Submitted
from batch_assets.batching.task import Task
from batch_assets_tests.batching.conftest import (
    API,
    DAY,
    NEXT_DAY,
    PRICES,
    TASK,
    Call,
    Reply,
    Workspace,
    called,
    changed_lines,
    proxy,
)
from batch_assets_tests.local_api_client import LocalApi

USAGE = {
    "prompt_tokens": 1_000,
    "completion_tokens": 100,
    "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 60},
}
COST = 1_000 * 0.05e-6 + 100 * 0.2e-6  # of one such line
FIGURES = "kind, requests, input_tokens, output_tokens, reasoning_tokens"


def texts(workspace: Workspace, names: str = "ab") -> dict[str, str]:
    return {name: f"{name} of {workspace.folder.name}" for name in names}


def answer(body: dict[str, Any]) -> None:
    pass


def refuse(body: dict[str, Any]) -> None:
    body["choices"][0]["message"].update(content=None, refusal="I won't.")


def filter_content(body: dict[str, Any]) -> None:
    body["choices"][0].update(finish_reason="content_filter", message={"role": "assistant", "content": None})


def cut(body: dict[str, Any]) -> None:
    body["choices"][0]["finish_reason"] = "length"


def begin_no_answer(body: dict[str, Any]) -> None:
    body["choices"][0].update(finish_reason="length", message={"role": "assistant", "content": ""})


def be_empty(body: dict[str, Any]) -> None:
    body["choices"][0]["message"]["content"] = " "


def billed(change: Callable[[dict[str, Any]], None], *, status: int = 200, usage: Any = None) -> Callable[[Any], None]:
    def bill(line: dict[str, Any]) -> None:
        line["response"]["status_code"] = status
        body = line["response"]["body"]
        change(body)
        body["usage"] = USAGE if usage is None else usage
        if status != 200:
            line["response"]["body"] = {"error": {"code": "server_error", "message": "Oops"}, "usage": body["usage"]}

    return bill


LINES = {
    "answered": (billed(answer), "answered"),
    "cut": (billed(cut), "answered"),
    "refused": (billed(refuse), "failed"),
    "filtered": (billed(filter_content), "failed"),
    "no answer began": (billed(begin_no_answer), "failed"),
    "empty": (billed(be_empty), "failed"),
    "error 500": (billed(answer, status=500), "failed"),
    "error 400": (billed(answer, status=400), "failed"),
}


def collect_changed(workspace: Workspace, api: LocalApi, change: Callable[[Any], object], **options: Any) -> None:
    with proxy(api.url, changed_lines(change)) as client:
        workspace.send(client, api, **options)


@pytest.mark.parametrize("kind", LINES)
def test_the_usage_of_every_kind_of_line_is_counted(workspace: Workspace, api: LocalApi, kind: str) -> None:
    change, counted_as = LINES[kind]
    workspace.ingest(texts(workspace))
    workspace.plan()
    collect_changed(workspace, api, change)
    assert workspace.rows(f"SELECT {FIGURES} FROM spending WHERE requests > 0") == [(counted_as, 2, 2_000, 200, 120)]
    ((cost, task, model, submitted, name),) = workspace.rows(
        "SELECT cost_usd, task, model, submitted_at IS NOT NULL, api FROM spending WHERE requests > 0"
    )
    assert cost == pytest.approx(2 * COST)
    assert (task, model, submitted, name) == ("summaries", TASK.model, True, API)
    table = "completion" if counted_as == "answered" else "failed_request"
    assert workspace.column(f"SELECT sum(cost_usd) FROM {table}") == [pytest.approx(2 * COST)]
    assert workspace.rows(f"SELECT DISTINCT input_tokens, output_tokens, max_output_tokens FROM {table}") == [
        (1_000, 100, TASK.max_output_tokens)
    ]


def test_each_round_is_counted(workspace: Workspace, api: LocalApi) -> None:
    """Three rounds of empty answers were billed, and no table said so."""
    workspace.ingest(texts(workspace))
    for _ in range(3):
        workspace.plan()
        collect_changed(workspace, api, billed(be_empty))
    assert workspace.statuses() == {"failed": 2}
    with workspace.database.reading() as connection:
        spending = spending_of_day(connection, DAY)
        assert used_on_day(connection, DAY, API).spent_usd == pytest.approx(6 * COST)
    assert (spending.requests, spending.input_tokens, spending.output_tokens) == (6, 6_000, 600)
    assert spending.cost_usd == pytest.approx(6 * COST)
    assert spending.reasoning_share == pytest.approx(0.6)


def more_than_the_lines(call: Call) -> Reply:
    reply = call.forward()
    if "/batches/" not in call.path:
        return reply
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 7}}
    usage = {"input_tokens": 5_000, "output_tokens": 900, "total_tokens": 5_900, **details}
    return Reply.of({**reply.json, "usage": usage})


@pytest.mark.parametrize("lines_left", [2, 1, 0])
def test_what_a_batch_reports_beyond_its_lines_is_a_row_of_its_own(
    workspace: Workspace, api: LocalApi, lines_left: int
) -> None:
    seen: list[str] = []

    def drop_some(line: dict[str, Any]) -> bool:
        billed(answer)(line)
        seen.append(line["custom_id"])
        return len(seen) <= lines_left

    change = changed_lines(drop_some)
    workspace.ingest(texts(workspace))
    workspace.plan()
    (batch_id,) = workspace.submit(api.client).batch_ids
    api.wait(batch_id)

    def both(call: Call) -> Reply:
        return more_than_the_lines(call) if "/batches/" in call.path else change(call)

    with proxy(api.url, both) as client:
        workspace.collect(client)
    with workspace.database.reading() as connection:
        spending = spending_of_day(connection, DAY)
        ((found, input_tokens, output_tokens),) = unattributed_batches(connection, DAY)
    assert (found, input_tokens, output_tokens) == (batch_id, 5_000 - lines_left * 1_000, 900 - lines_left * 100)
    assert (spending.input_tokens, spending.output_tokens) == (5_000, 900)
    assert spending.unattributed_tokens == 5_900 - lines_left * 1_100
    assert spending.cost_usd == pytest.approx(5_000 * 0.05e-6 + 900 * 0.2e-6)


@pytest.mark.parametrize("times", [1, 3])
def test_loading_a_file_again_adds_nothing(workspace: Workspace, api: LocalApi, times: int) -> None:
    workspace.ingest(texts(workspace))
    workspace.whole_day(api)
    before = workspace.rows("SELECT * FROM spending")
    for _ in range(times):
        workspace.execute("UPDATE openai_batch SET state = 'ended', collected_at = NULL")
        workspace.execute(
            "INSERT INTO in_flight_request SELECT custom_id, submission_id FROM batch_request, openai_batch"
        )
        workspace.collect(api.client)
    assert workspace.column("SELECT state FROM openai_batch") == ["collected"]
    assert workspace.rows("SELECT * FROM spending") == before
    assert workspace.statuses() == {"answered": 2}


@pytest.mark.parametrize(
    ("read", "written", "usd"),
    [
        (0, 0, 1_000 * 1.0),
        (400, 0, 600 * 1.0 + 400 * 0.1),
        (0, 900, 100 * 1.0 + 900 * 1.25),
        (300, 700, 300 * 0.1 + 700 * 1.25),
    ],
)
def test_reads_and_writes_of_the_cache_are_recorded_and_priced(
    workspace: Workspace, api: LocalApi, read: int, written: int, usd: float
) -> None:
    usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written}}
    prices = (ModelPrice(TASK.model, 1.0, 2.0, 0.1, 1.25),)
    workspace.ingest(texts(workspace, "a"))
    workspace.plan()
    api.wait(workspace.submit(api.client).batch_ids[0])
    with proxy(api.url, changed_lines(billed(answer, usage=usage))) as client:
        workspace.collect(client, prices=prices)
    assert workspace.rows("SELECT input_tokens, cached_input_tokens, cache_write_tokens FROM spending") == [
        (1_000, read, written)
    ]
    assert workspace.column("SELECT cost_usd FROM spending") == [pytest.approx((usd + 100 * 2.0) / 1e6)]


@pytest.mark.parametrize("tokens", [272_000, 272_001, 500_000])
def test_a_long_prompt_costs_what_long_prompts_cost(workspace: Workspace, api: LocalApi, tokens: int) -> None:
    model, name = "gpt-5.6-luna", "https://api.openai.com/v1"
    rates = batch_rates(model, api=name)
    assert rates is not None
    assert rates.long_context_tokens == 272_000
    usage = {**USAGE, "prompt_tokens": tokens}
    workspace.ingest(texts(workspace, "a"))
    workspace.plan(task=replace(TASK, model=model), api=name)
    change = changed_lines(billed(answer, usage=usage))
    with proxy(api.url, called(name, change)) as client:
        workspace.send(client, api)
    is_long = tokens > 272_000
    expected = tokens * (rates.long_input_usd if is_long else rates.input_usd)
    expected += 100 * (rates.long_output_usd if is_long else rates.output_usd)
    assert workspace.column("SELECT cost_usd FROM spending WHERE kind = 'answered'") == [pytest.approx(expected)]


@pytest.mark.parametrize("change", [billed(answer), billed(refuse), billed(answer, status=500)])
def test_an_unknown_price_is_null_and_not_zero(
    workspace: Workspace, api: LocalApi, change: Callable[..., None]
) -> None:
    workspace.ingest(texts(workspace))
    workspace.plan(task=Task("a-model-of-our-own"))
    collect_changed(workspace, api, change)
    assert workspace.rows("SELECT cost_usd, simulated_cost_usd, input_tokens FROM spending WHERE requests > 0") == [
        (None, None, 2_000)
    ]
    with workspace.database.reading() as connection:
        assert spending_of_day(connection, DAY).cost_usd is None
    workspace.plan(task=Task("a-model-of-our-own"), refresh=True)
    with pytest.raises(SubmissionError, match="so no budget can hold"):
        workspace.submit(api.client, limits=Limits(budget=Budget(100.0)))


def test_the_built_in_engine_bills_nothing(workspace: Workspace, local_api: LocalApi) -> None:
    workspace.ingest({name: f"{text}. A second sentence." for name, text in texts(workspace).items()})
    workspace.plan(api="local")
    workspace.send(local_api.client, local_api)
    ((cost, simulated, requests),) = workspace.rows("SELECT cost_usd, simulated_cost_usd, requests FROM spending")
    assert (cost, requests) == (None, 2)
    assert simulated > 0
    assert workspace.rows("SELECT DISTINCT cost_usd, simulated_cost_usd > 0 FROM completion") == [(None, True)]
    with workspace.database.reading() as connection:
        spending = spending_of_day(connection, DAY)
        assert spending.cost_usd == 0
        assert spending.simulated_cost_usd == pytest.approx(simulated)
        assert used_on_day(connection, DAY, API).total_usd == 0  # of no model
        assert used_on_day(connection, DAY, "local").total_usd == pytest.approx(simulated)


# --- budgets


def one_request_per_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch_assets.batching.requests.ShardWriter", partial(ShardWriter, max_requests=1))


def expected_cost(workspace: Workspace) -> float:
    """USD of the largest planned file, by its bytes and its limit: nothing has been measured yet."""
    (size, tokens) = workspace.rows("SELECT max(bytes), max(max_output_tokens) FROM batch_request_file")[0]
    return float(size / 4 * 0.05e-6 + tokens * 0.2e-6)


def limits(*, day: float | None = None, month: float | None = None) -> Limits:
    return Limits(budget=Budget(day, month), own_prices=PRICES)


@pytest.mark.parametrize("period", ["day", "month"])
@pytest.mark.parametrize("runs", [2, 4])
def test_runs_at_once_never_pass_a_budget_together(
    workspace: Workspace, api: LocalApi, monkeypatch: pytest.MonkeyPatch, period: str, runs: int
) -> None:
    one_request_per_file(monkeypatch)
    days = [DAY] if period == "day" else [DAY, NEXT_DAY]
    for day in days:
        workspace.ingest({str(n): f"{n} of {day} {workspace.folder.name}" for n in range(4)}, day=day)
        workspace.plan(day=day)
    limit = 2.5 * expected_cost(workspace)
    start = threading.Barrier(runs)
    done: list[Submitted] = []
    errors: list[SubmissionError] = []

    def submit(number: int) -> None:
        start.wait(20)
        try:
            done.append(
                workspace.submit(
                    api.client,
                    day=days[number % len(days)],
                    run_id=f"run {number}",
                    is_run_alive=lambda run_id: True,
                    limits=limits(**{period: limit}),
                )
            )
        except SubmissionError as error:
            errors.append(error)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    setting = "BATCH_ASSETS_MAX_COST_USD" + ("_PER_MONTH" if period == "month" else "")
    assert errors
    assert all(f"that {setting} allows for" in str(error) and error.is_final for error in errors)
    assert api.stats()["batches_created"] == 2
    assert workspace.column("SELECT sum(expected_cost_usd) FROM openai_batch")[0] <= limit


@pytest.mark.parametrize("kind", ["a refresh", "an earlier prompt", "a batch in flight", "a failed round"])
def test_everything_that_was_spent_on_the_day_counts(workspace: Workspace, api: LocalApi, kind: str) -> None:
    workspace.ingest(texts(workspace))
    workspace.plan()
    cost = expected_cost(workspace)
    if kind == "a batch in flight":
        workspace.submit(api.client, limits=limits(day=1.0))
        workspace.ingest(texts(workspace, "abcd"))
        workspace.plan()
        spent = 0.0
    else:
        change = billed(be_empty if kind == "a failed round" else answer)
        collect_changed(workspace, api, change)
        workspace.plan(refresh=kind == "a refresh", task=replace(TASK, temperature=0.5) if "prompt" in kind else TASK)
        spent = 2 * COST
    created = api.stats()["batches_created"]
    with pytest.raises(SubmissionError, match=r"Nothing of .* was sent") as said:
        workspace.submit(api.client, limits=limits(day=max(spent, cost)))
    assert f"${spent:.4f} is spent" in str(said.value)
    assert api.stats()["batches_created"] == created
    assert workspace.submit(api.client, limits=limits(day=1.0)).created == 1


@pytest.mark.parametrize("period", ["day", "month"])
def test_what_another_api_billed_does_not_count(workspace: Workspace, api: LocalApi, period: str) -> None:
    workspace.ingest(texts(workspace))
    workspace.plan()
    with proxy(api.url, called("https://elsewhere.example/v1", changed_lines(billed(be_empty)))) as client:
        workspace.send(client, api)
    assert workspace.column("SELECT sum(cost_usd) FROM spending") == [pytest.approx(2 * COST)]
    workspace.plan()
    limit = {period: 3 * COST}  # by what was measured, this day costs 2 more
    assert workspace.submit(api.client, limits=limits(**limit)).created == 1


def test_a_month_is_that_of_the_submission(workspace: Workspace, api: LocalApi) -> None:
    """Whatever the days' own dates are."""
    for day in ("2025-01-31", "2025-02-01"):
        workspace.ingest({"a": f"a of {day} {workspace.folder.name}"}, day=day)
        workspace.plan(day=day)
    month = 1.5 * expected_cost(workspace)
    assert workspace.submit(api.client, day="2025-01-31", limits=limits(month=month)).created == 1
    with pytest.raises(SubmissionError, match="BATCH_ASSETS_MAX_COST_USD_PER_MONTH"):
        workspace.submit(api.client, day="2025-02-01", limits=limits(month=month))
    workspace.execute("UPDATE openai_batch SET claimed_at = claimed_at - INTERVAL 40 DAY")
    assert workspace.submit(api.client, day="2025-02-01", limits=limits(month=month)).created == 1
