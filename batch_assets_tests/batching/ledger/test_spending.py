"""Everything that a batch billed is in the table `spending`, and budgets read only this table.

A proxy changes the results of the real server, so that each kind of line has a usage.
"""

from __future__ import annotations

import multiprocessing
import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from batch_assets.batching.counting import usd
from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.day_spending import spending_of_day, unattributed_batches
from batch_assets.batching.ledger.spending import (
    Budget,
    UsedBudget,
    used_in_month,
    used_on_day,
)
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.provider.prices import ModelPrice, batch_rates, estimated_input_tokens
from batch_assets.batching.submission.adoption import adopt_batch
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets.batching.submission.submit import Submitted
from batch_assets_tests.batching.conftest import (
    API,
    DAY,
    NEXT_DAY,
    PRICES,
    TASK,
    Call,
    Reply,
    Workspace,
    changed_lines,
    hiding_batches,
    proxy,
    still_running,
    with_api_name,
)
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.task_days import of

USAGE = {
    "prompt_tokens": 1_000,
    "completion_tokens": 100,
    "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 60},
}
COST = 1_000 * 0.05e-6 + 100 * 0.2e-6  # of a line with this usage
COUNTS = "kind, requests, input_tokens, output_tokens, reasoning_tokens"


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


def return_empty_answer(body: dict[str, Any]) -> None:
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
    "empty": (billed(return_empty_answer), "failed"),
    "error 500": (billed(answer, status=500), "failed"),
    "error 400": (billed(answer, status=400), "failed"),
}


def collect_changed(workspace: Workspace, api: LocalApi, change: Callable[[Any], object], **options: Any) -> None:
    with proxy(api.url, changed_lines(change)) as client:
        workspace.send(client, api, **options)


@pytest.mark.parametrize("kind", LINES)
def test_the_usage_of_every_kind_of_line_is_recorded(workspace: Workspace, api: LocalApi, kind: str) -> None:
    change, counted_as = LINES[kind]
    workspace.ingest(workspace.texts())
    workspace.plan()
    collect_changed(workspace, api, change)
    assert workspace.rows(f"SELECT {COUNTS} FROM spending WHERE requests > 0") == [(counted_as, 2, 2_000, 200, 120)]
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


def test_the_spending_of_each_round_is_recorded(workspace: Workspace, api: LocalApi) -> None:
    """Once, the rounds of empty answers were billed, and no table had their cost."""
    workspace.ingest(workspace.texts())
    for _ in range(2):
        workspace.plan()
        collect_changed(workspace, api, billed(return_empty_answer))
    assert workspace.statuses() == {"failed": 2}
    with workspace.database.reading() as connection:
        spending = spending_of_day(connection, of(DAY))
        assert used_on_day(connection, DAY, API).spent_usd == pytest.approx(4 * COST)
    assert (spending.requests, spending.input_tokens, spending.output_tokens) == (4, 4_000, 400)
    assert spending.cost_usd == pytest.approx(4 * COST)
    assert spending.reasoning_tokens / spending.output_tokens == pytest.approx(0.6)


def more_than_the_lines(call: Call) -> Reply:
    reply = call.forward()
    if "/batches/" not in call.path:
        return reply
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 7}}
    usage = {"input_tokens": 5_000, "output_tokens": 900, "total_tokens": 5_900, **details}
    return Reply.of({**reply.json, "usage": usage})


@pytest.mark.parametrize("lines_left", [2, 1, 0])
def test_usage_that_a_batch_reports_beyond_its_lines_has_its_own_row(
    workspace: Workspace, api: LocalApi, lines_left: int
) -> None:
    seen: list[str] = []

    def drop_some(line: dict[str, Any]) -> bool:
        billed(answer)(line)
        seen.append(line["custom_id"])
        return len(seen) <= lines_left

    change = changed_lines(drop_some)
    workspace.ingest(workspace.texts())
    workspace.plan()
    (batch_id,) = workspace.submit(api.client).batch_ids
    api.wait(batch_id)

    def both(call: Call) -> Reply:
        return more_than_the_lines(call) if "/batches/" in call.path else change(call)

    with proxy(api.url, both) as client:
        workspace.collect(client)
    with workspace.database.reading() as connection:
        spending = spending_of_day(connection, of(DAY))
        ((found, input_tokens, output_tokens),) = unattributed_batches(connection, of(DAY))
    assert (found, input_tokens, output_tokens) == (batch_id, 5_000 - lines_left * 1_000, 900 - lines_left * 100)
    assert (spending.input_tokens, spending.output_tokens) == (5_000, 900)
    assert spending.unattributed_tokens == 5_900 - lines_left * 1_100
    assert spending.cost_usd == pytest.approx(5_000 * 0.05e-6 + 900 * 0.2e-6)


@pytest.mark.parametrize("kind", ["answers", "failures", "beyond the lines"])
def test_two_batches_with_one_id_are_recorded_separately(workspace: Workspace, api: LocalApi, kind: str) -> None:
    """Servers that number their batches all begin at one, and begin again after a new installation."""
    change = changed_lines(billed(answer if kind == "answers" else return_empty_answer))

    def answer_call(call: Call) -> Reply:
        return more_than_the_lines(call) if kind == "beyond the lines" and "/batches/" in call.path else change(call)

    workspace.ingest(workspace.texts())
    workspace.plan()
    with proxy(api.url, with_api_name("https://one.example/v1", changed_lines(billed(return_empty_answer)))) as client:
        workspace.send(client, api)
    workspace.plan()
    (second_id,) = workspace.submit(api.client).batch_ids
    api.wait(second_id)
    for table in ("openai_batch", "spending", "failed_request"):  # as if the batch at the first API had the same id
        workspace.execute(f"UPDATE {table} SET batch_id = ?", [second_id])
    with proxy(api.url, answer_call) as client:
        workspace.collect(client)
    billed_by = dict(workspace.rows("SELECT api, sum(input_tokens) FROM spending GROUP BY api"))
    assert billed_by == {"https://one.example/v1": 2_000, API: 5_000 if kind == "beyond the lines" else 2_000}
    assert workspace.column("SELECT DISTINCT batch_id FROM spending") == [second_id]


@pytest.mark.parametrize("times", [1, 3])
def test_loading_a_file_again_records_no_further_spending(workspace: Workspace, api: LocalApi, times: int) -> None:
    workspace.ingest(workspace.texts())
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
    workspace.ingest(workspace.texts("a"))
    workspace.plan()
    api.wait(workspace.submit(api.client).batch_ids[0])
    with proxy(api.url, changed_lines(billed(answer, usage=usage))) as client:
        workspace.collect(client, prices=prices)
    assert workspace.rows("SELECT input_tokens, cached_input_tokens, cache_write_tokens FROM spending") == [
        (1_000, read, written)
    ]
    assert workspace.column("SELECT cost_usd FROM spending") == [pytest.approx((usd + 100 * 2.0) / 1e6)]


@pytest.mark.parametrize("rounds", [1, 2])
def test_tokens_of_the_built_in_engine_are_not_added_to_those_of_a_model(
    workspace: Workspace, api: LocalApi, local_api: LocalApi, rounds: int
) -> None:
    for number in range(rounds):
        workspace.ingest(workspace.texts("abcd"[: number + 1]))
        workspace.plan(api="local")
        workspace.send(local_api.client, local_api)
    with workspace.database.reading() as connection:
        assert spending_of_day(connection, of(DAY)).requests == rounds
    workspace.ingest(workspace.texts())
    workspace.plan()
    with proxy(api.url, changed_lines(billed(answer))) as client:
        workspace.send(client, api)
    with workspace.database.reading() as connection:
        spending = spending_of_day(connection, of(DAY))
    assert (spending.requests, spending.input_tokens, spending.output_tokens) == (2, 2_000, 200)
    assert spending.cost_usd == pytest.approx(2 * COST)


@pytest.mark.parametrize("tokens", [272_000, 272_001, 500_000])
def test_a_prompt_over_the_long_context_limit_has_the_long_rates(
    workspace: Workspace, api: LocalApi, tokens: int
) -> None:
    model, name = "gpt-5.6-luna", "https://api.openai.com/v1"
    rates = batch_rates(model, api=name)
    assert rates is not None
    assert rates.long_context_tokens == 272_000
    usage = {**USAGE, "prompt_tokens": tokens}
    workspace.ingest(workspace.texts("a"))
    workspace.plan(task=replace(TASK, model=model), api=name)
    change = changed_lines(billed(answer, usage=usage))
    with proxy(api.url, with_api_name(name, change)) as client:
        workspace.send(client, api)
    is_long = tokens > 272_000
    expected = tokens * (rates.long_input_usd if is_long else rates.input_usd)
    expected += 100 * (rates.long_output_usd if is_long else rates.output_usd)
    assert workspace.column("SELECT cost_usd FROM spending WHERE kind = 'answered'") == [pytest.approx(expected)]


@pytest.mark.parametrize("change", [billed(answer), billed(refuse), billed(answer, status=500)])
def test_an_unknown_price_is_null_and_not_zero(
    workspace: Workspace, api: LocalApi, change: Callable[..., None]
) -> None:
    workspace.ingest(workspace.texts())
    workspace.plan(task=Task("a-model-without-price"))
    collect_changed(workspace, api, change)
    assert workspace.rows("SELECT cost_usd, simulated_cost_usd, input_tokens FROM spending WHERE requests > 0") == [
        (None, None, 2_000)
    ]
    with workspace.database.reading() as connection:
        assert spending_of_day(connection, of(DAY)).cost_usd is None
    workspace.plan(task=Task("a-model-without-price"), refresh=True)
    with pytest.raises(SubmissionError, match="so no budget can be checked"):
        workspace.submit(api.client, limits=Limits(budget=Budget(100.0)))


def test_the_built_in_engine_bills_nothing(workspace: Workspace, local_api: LocalApi) -> None:
    workspace.ingest({name: f"{text}. A second sentence." for name, text in workspace.texts().items()})
    workspace.plan(api="local")
    workspace.send(local_api.client, local_api)
    ((cost, simulated, requests),) = workspace.rows("SELECT cost_usd, simulated_cost_usd, requests FROM spending")
    assert (cost, requests) == (None, 2)
    assert simulated > 0
    assert workspace.rows("SELECT DISTINCT cost_usd, simulated_cost_usd > 0 FROM completion") == [(None, True)]
    with workspace.database.reading() as connection:
        spending = spending_of_day(connection, of(DAY))
        assert spending.cost_usd == 0
        assert spending.simulated_cost_usd == pytest.approx(simulated)
        assert used_on_day(connection, DAY, API).total_usd == 0  # of no model
        assert used_on_day(connection, DAY, "local").total_usd == pytest.approx(simulated)


# --- budgets


def expected_cost(workspace: Workspace) -> float:
    """USD of the largest planned file, by its bytes and its limit: nothing has been measured yet."""
    (size, tokens) = workspace.rows("SELECT max(bytes), max(max_output_tokens) FROM batch_request_file")[0]
    return float(estimated_input_tokens(size) * 0.05e-6 + tokens * 0.2e-6)


def amounts(used: UsedBudget) -> tuple[float, float]:
    """USD spent and reserved, where all of it has a known price."""
    assert used.unpriced_models == ()
    return used.spent_usd, used.reserved_usd


def limits(*, day: float | None = None, month: float | None = None) -> Limits:
    return Limits(budget=Budget(day, month), own_prices=PRICES)


@pytest.mark.parametrize("period", ["day", "month"])
@pytest.mark.parametrize("runs", [2, 4])
def test_runs_at_the_same_time_do_not_exceed_a_budget_together(
    workspace: Workspace, api: LocalApi, period: str, runs: int
) -> None:
    workspace = workspace.with_file_limits(max_requests=1)
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


def submit_in_a_process(folder: Path, database: str, url: str, day: str, run_id: str, limit: float) -> str | None:
    """Submit the day from another process; returns the error, if there is one."""
    workspace = Workspace(folder, Database(database, lock_timeout_seconds=30))
    client = openai.OpenAI(api_key="key", base_url=url)
    try:
        workspace.submit(client, day=day, run_id=run_id, is_run_alive=lambda run_id: True, limits=limits(month=limit))
    except SubmissionError as error:
        return str(error)
    return None


def test_processes_at_the_same_time_do_not_exceed_a_budget_together(
    tmp_path: Path, new_database: Path, api: LocalApi
) -> None:
    path = str(shutil.copy(new_database, tmp_path))
    # no `OpenDatabase`: the processes open the file in turn
    workspace = Workspace(tmp_path, Database(path, lock_timeout_seconds=30)).with_file_limits(max_requests=1)
    workspace.renew_warehouse_id()
    days = [DAY, NEXT_DAY]
    for day in days:
        workspace.ingest({str(n): f"{n} of {day} {workspace.folder.name}" for n in range(4)}, day=day)
        workspace.plan(day=day)
    limit = 2.5 * expected_cost(workspace)
    with ProcessPoolExecutor(len(days), mp_context=multiprocessing.get_context("spawn")) as processes:
        runs = [
            processes.submit(submit_in_a_process, tmp_path, path, str(api.client.base_url), day, f"run of {day}", limit)
            for day in days
        ]
        sentences = [run.result(120) for run in runs]
    assert all("that BATCH_ASSETS_MAX_COST_USD_PER_MONTH allows for" in sentence for sentence in sentences if sentence)
    assert any(sentences)
    assert api.stats()["batches_created"] == 2
    assert workspace.column("SELECT sum(expected_cost_usd) FROM openai_batch")[0] <= limit


@pytest.mark.parametrize("kind", ["a refresh", "an earlier prompt", "a batch in flight", "a failed round"])
def test_a_budget_of_a_day_counts_all_its_spending(workspace: Workspace, api: LocalApi, kind: str) -> None:
    workspace.ingest(workspace.texts())
    workspace.plan()
    cost = expected_cost(workspace)
    if kind == "a batch in flight":
        workspace.submit(api.client, limits=limits(day=1.0))
        workspace.ingest(workspace.texts("abcd"))
        workspace.plan()
        spent = 0.0
    else:
        change = billed(return_empty_answer if kind == "a failed round" else answer)
        collect_changed(workspace, api, change)
        workspace.plan(refresh=kind == "a refresh", task=replace(TASK, temperature=0.5) if "prompt" in kind else TASK)
        spent = 2 * COST
    created = api.stats()["batches_created"]
    with pytest.raises(SubmissionError, match=r"sent nothing of") as refused:
        workspace.submit(api.client, limits=limits(day=max(spent, cost)))
    assert f"{usd(spent)} is spent" in str(refused.value)
    assert api.stats()["batches_created"] == created
    assert workspace.submit(api.client, limits=limits(day=1.0)).created == 1


@pytest.mark.parametrize("period", ["day", "month"])
@pytest.mark.parametrize(
    ("change", "rounds"),
    [(billed(return_empty_answer), 1), (billed(answer, status=500), 2), (billed(answer, status=429), 2)],
    ids=["empty", "error 500", "error 429"],
)
def test_billed_rounds_without_an_answer_end_at_the_budget(
    workspace: Workspace, api: LocalApi, change: Callable[[Any], None], rounds: int, period: str
) -> None:
    """The budget allows so many rounds and a half. Once, all were sent, since no table had their cost."""
    workspace.ingest(workspace.texts())
    budget = limits(**{period: (rounds + 0.5) * 2 * COST})
    for _ in range(rounds):
        workspace.plan()
        collect_changed(workspace, api, change, limits=budget)
    assert workspace.plan().requests == {"pending": 2}
    with pytest.raises(SubmissionError, match=re.escape(f"{usd(rounds * 2 * COST)} is spent and $0.00 is in flight")):
        workspace.submit(api.client, limits=budget)
    assert workspace.column("SELECT sum(cost_usd) FROM spending") == [pytest.approx(rounds * 2 * COST)]
    assert workspace.statuses() == {"pending": 2}
    assert api.stats() == {**api.stats(), "batches_created": rounds, "requests_executed": 2 * rounds}


@pytest.mark.parametrize("period", ["day", "month"])
def test_a_budget_does_not_count_the_spending_at_another_api(workspace: Workspace, api: LocalApi, period: str) -> None:
    workspace.ingest(workspace.texts())
    workspace.plan()
    with proxy(
        api.url, with_api_name("https://elsewhere.example/v1", changed_lines(billed(return_empty_answer)))
    ) as client:
        workspace.send(client, api)
    assert workspace.column("SELECT sum(cost_usd) FROM spending") == [pytest.approx(2 * COST)]
    workspace.plan()
    limit = {period: 3 * COST}  # by the calibration, this day costs 2 more
    assert workspace.submit(api.client, limits=limits(**limit)).created == 1


def test_a_monthly_budget_counts_by_the_date_of_submission(workspace: Workspace, api: LocalApi) -> None:
    """The dates of the days do not matter."""
    for day in ("2025-01-31", "2025-02-01"):
        workspace.ingest({"a": f"a of {day} {workspace.folder.name}"}, day=day)
        workspace.plan(day=day)
    month = 1.5 * expected_cost(workspace)
    assert workspace.submit(api.client, day="2025-01-31", limits=limits(month=month)).created == 1
    with pytest.raises(SubmissionError, match="BATCH_ASSETS_MAX_COST_USD_PER_MONTH"):
        workspace.submit(api.client, day="2025-02-01", limits=limits(month=month))
    workspace.execute("UPDATE openai_batch SET submitted_at = submitted_at - INTERVAL 40 DAY")
    assert workspace.submit(api.client, day="2025-02-01", limits=limits(month=month)).created == 1


LAST_MONTH = "date_trunc('month', now()::TIMESTAMP) - INTERVAL 1 SECOND"


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (f"claimed_at = {LAST_MONTH}", True),
        (f"claimed_at = {LAST_MONTH}, submitted_at = NULL, batch_id = NULL, state = 'claimed'", True),
        (f"claimed_at = {LAST_MONTH}, submitted_at = {LAST_MONTH}", False),
        (f"submitted_at = {LAST_MONTH}", False),
    ],
    ids=["claimed just before", "claimed and not submitted yet", "submitted just before", "by another clock"],
)
def test_a_reservation_counts_in_the_month_of_its_submission(
    workspace: Workspace, api: LocalApi, change: str, counts: bool
) -> None:
    """Once, a batch that was claimed at the end of a month and created in the next one counted in neither budget."""
    workspace.ingest(workspace.texts())
    workspace.plan()
    workspace.submit(api.client, limits=limits(month=1.0))
    workspace.execute(f"UPDATE openai_batch SET {change}")
    with workspace.database.reading() as connection:
        used = used_in_month(connection, now_utc(), API, PRICES)
    assert (used.reserved_usd > 0) is counts


@pytest.mark.parametrize("state", ["lost", "abandoned"])
def test_a_lost_or_abandoned_batch_stays_reserved_until_it_is_collected(
    workspace: Workspace, api: LocalApi, state: str
) -> None:
    """OpenAI may have billed it."""
    workspace.ingest(workspace.texts())
    workspace.plan()
    cost = expected_cost(workspace)
    (batch_id,) = workspace.submit(api.client, limits=limits(day=1.0)).batch_ids
    api.wait(batch_id)
    workspace.execute("UPDATE openai_batch SET state = ?", [state])
    with workspace.database.reading() as connection:
        used = [used_on_day(connection, DAY, API), used_in_month(connection, now_utc(), API)]
    assert [amounts(one) for one in used] == [pytest.approx((0, cost))] * 2
    workspace.ingest(workspace.texts("xyz"))
    workspace.plan()
    with (
        pytest.raises(SubmissionError, match="is in flight, lost or abandoned"),
        proxy(api.url, hiding_batches(batch_id)) as client,
    ):
        workspace.submit(client, limits=limits(day=cost))
    workspace.execute("UPDATE openai_batch SET state = 'submitted' WHERE batch_id = ?", [batch_id])
    with proxy(api.url, changed_lines(billed(answer))) as client:
        workspace.collect(client)
    with workspace.database.reading() as connection:
        assert amounts(used_on_day(connection, DAY, API)) == pytest.approx((2 * COST, 0))


# --- a cost that was not known when it was recorded


@pytest.mark.parametrize("kind", ["failures", "an answer and a refresh", "beyond the lines"])
def test_tokens_of_an_unknown_price_count_once_the_price_is_known(
    workspace: Workspace, api: LocalApi, kind: str
) -> None:
    """Once, they counted as no cost."""
    change = changed_lines(billed(answer if "refresh" in kind else return_empty_answer))

    def answer_call(call: Call) -> Reply:
        return more_than_the_lines(call) if kind == "beyond the lines" and "/batches/" in call.path else change(call)

    spent = 5_000 * 0.05e-6 + 900 * 0.2e-6 if kind == "beyond the lines" else 2 * COST
    workspace.ingest(workspace.texts())
    workspace.plan()
    for batch_id in workspace.submit(api.client).batch_ids:
        api.wait(batch_id)
    with proxy(api.url, answer_call) as client:
        workspace.collect(client, prices=())
    assert set(workspace.column("SELECT cost_usd FROM spending")) == {None}
    with workspace.database.reading() as connection:
        for used in (
            used_on_day(connection, DAY, API, PRICES),
            used_in_month(connection, now_utc(), API, PRICES),
        ):
            assert amounts(used) == pytest.approx((spent, 0))
        assert used_on_day(connection, DAY, API) == UsedBudget(0, 0, (TASK.model,))
    workspace.plan(refresh="refresh" in kind)
    with pytest.raises(SubmissionError, match=re.escape(f"{usd(spent)} is spent")):
        workspace.submit(api.client, limits=limits(day=1.1 * spent))
    assert set(workspace.column("SELECT cost_usd FROM spending")) == {None}


def submit_without_a_price(workspace: Workspace, api: LocalApi) -> None:
    workspace.plan()
    workspace.submit(api.client)


def adopt_batch_of_another_program(workspace: Workspace, api: LocalApi) -> None:
    (shard,) = workspace.plan().shards
    file = api.client.files.create(file=("x.jsonl", shard.path.read_bytes()), purpose="batch")
    made = api.client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    with proxy(api.url, still_running) as client:
        adopt_batch(workspace.database, client, batch_id=made.id, data_folder=workspace.folder)


def submit_by_an_earlier_version(workspace: Workspace, api: LocalApi) -> None:
    submit_without_a_price(workspace, api)
    workspace.execute("UPDATE openai_batch SET api = NULL, expected_cost_usd = NULL")


@pytest.mark.parametrize("send", [submit_without_a_price, adopt_batch_of_another_program, submit_by_an_earlier_version])
def test_a_batch_in_flight_without_an_expected_cost_is_reserved(
    workspace: Workspace, api: LocalApi, send: Callable[[Workspace, LocalApi], None]
) -> None:
    """Once, it reserved nothing until it was collected."""
    workspace.ingest(workspace.texts())
    send(workspace, api)
    assert workspace.column("SELECT expected_cost_usd FROM openai_batch WHERE batch_id IS NOT NULL") == [None]
    ((size, tokens),) = workspace.rows(
        """
        SELECT bytes, max_output_tokens FROM batch_request_file JOIN openai_batch USING (submission_id)
        WHERE batch_id IS NOT NULL
        """
    )
    with workspace.database.reading() as connection:
        used = [used_on_day(connection, DAY, API, PRICES), used_in_month(connection, now_utc(), API, PRICES)]
        assert used_on_day(connection, DAY, API) == UsedBudget(0, 0, (TASK.model,))
    assert [amounts(one) for one in used] == [
        pytest.approx((0, estimated_input_tokens(size) * 0.05e-6 + tokens * 0.2e-6))
    ] * 2


@pytest.mark.parametrize("is_planned", [True, False])
def test_a_batch_that_a_backup_does_not_know_is_reserved_when_it_is_adopted(
    workspace: Workspace, api: LocalApi, is_planned: bool
) -> None:
    backup = workspace.back_up()
    workspace.ingest(workspace.texts())
    workspace.plan()
    backup = workspace.back_up() if is_planned else backup
    cost = expected_cost(workspace)
    workspace.submit(api.client, limits=limits(day=1.0))
    with workspace.restore(backup) as restored:
        if not is_planned:
            restored.ingest(workspace.texts())
            restored.plan()
        with proxy(api.url, still_running) as client:
            assert restored.submit(client, limits=limits(day=1.0)).recovered == 1
        with restored.database.reading() as connection:
            assert amounts(used_on_day(connection, DAY, API, PRICES)) == pytest.approx((0, cost))
