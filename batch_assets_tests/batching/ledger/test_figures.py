"""The figures that users see agree with the tables, at each moment of a day, and with what was billed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batch_assets.batching.ledger.batch_figures import BatchFigures, batches_of_days
from batch_assets.batching.ledger.costs import Cost, CostGroup, costs
from batch_assets.batching.ledger.day_errors import errors_of_day
from batch_assets.batching.ledger.day_figures import (
    DayFigures,
    figures_of_collected_day,
    figures_of_days,
    unfinished_days,
)
from batch_assets.batching.ledger.day_spending import spending_of_day
from batch_assets.batching.ledger.synchronous_calls import CALL_PREFIX
from batch_assets.batching.planning.task import Task
from batch_assets_tests.batching.conftest import API, DAY, NEXT_DAY, TASK, Workspace
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.task_days import of

STATUSES = ("answered", "in_flight", "pending", "blocked", "cancelled", "failed")


def figures(workspace: Workspace) -> list[DayFigures]:
    with workspace.database.reading() as connection:
        return figures_of_days(connection, DAY, NEXT_DAY)


def batches(workspace: Workspace) -> list[BatchFigures]:
    with workspace.database.reading() as connection:
        return batches_of_days(connection, DAY, NEXT_DAY)


def costs_by(workspace: Workspace, *by: CostGroup) -> list[Cost]:
    with workspace.database.reading() as connection:
        return costs(connection, DAY, NEXT_DAY, by)


def statuses(day: DayFigures) -> dict[str, int]:
    return {name: number for name in STATUSES if (number := getattr(day, name))}


def test_a_day_is_in_flight_until_its_results_are_loaded_and_then_as_its_table_says(
    workspace: Workspace, api: LocalApi
) -> None:
    assert figures(workspace) == []
    workspace.ingest({**workspace.texts("ab"), "c": workspace.texts("a")["a"]})
    workspace.plan()
    [planned] = figures(workspace)
    assert (planned.articles, statuses(planned), planned.requests) == (3, {"in_flight": 3}, 2)
    assert (planned.batches, planned.submitted_at, planned.cost_usd, planned.is_finished) == (0, None, 0, False)
    [batch_id] = workspace.submit(api.client).batch_ids
    [submitted] = figures(workspace)
    assert (statuses(submitted), submitted.batches, submitted.batches_running) == ({"in_flight": 3}, 1, 1)
    with workspace.database.reading() as connection:
        assert unfinished_days(connection) == [DAY]
    api.wait(batch_id)
    workspace.collect(api.client)
    [done] = figures(workspace)
    with workspace.database.reading() as connection:
        spent = spending_of_day(connection, of(DAY))
        assert unfinished_days(connection) == []
    with workspace.database.reading() as connection:
        assert figures_of_collected_day(connection, of(DAY)) == done
    assert statuses(done) == workspace.statuses() == {"answered": 3}
    assert (done.is_finished, done.batches, done.batches_running, done.requests_cached) == (True, 1, 0, 0)
    assert (done.input_tokens, done.output_tokens) == (spent.input_tokens, spent.output_tokens)
    assert done.cost_usd == pytest.approx(spent.cost_usd)
    assert done.saving_usd == pytest.approx(spent.cost_usd)  # the standard price is twice that of a batch
    assert None not in (done.seconds_queued, done.seconds_running, done.seconds_at_api)
    [batch] = batches(workspace)
    assert (batch.batch_id, batch.status, batch.requests_total, batch.requests_completed) == (
        batch_id, "completed", 2, 2,
    )  # fmt: skip
    assert batch.cost_usd == pytest.approx(spent.cost_usd)


def test_an_answer_that_another_day_bought_is_cached_and_costs_nothing(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("ab"))
    workspace.whole_day(api)
    workspace.ingest(workspace.texts("bc"), day=NEXT_DAY)
    workspace.whole_day(api, day=NEXT_DAY)
    first, second = figures(workspace)
    with workspace.database.reading() as connection:
        assert figures_of_collected_day(connection, of(NEXT_DAY)) == second
    assert (first.requests, first.requests_cached) == (2, 0)
    assert (second.requests, second.requests_cached, second.answered) == (2, 1, 2)
    billed = (first.cost_usd or 0.0) + (second.cost_usd or 0.0)
    assert billed == pytest.approx(sum(workspace.column("SELECT cost_usd FROM spending")))
    assert [cost.group for cost in costs_by(workspace, CostGroup.DAY)] == [(DAY,), (NEXT_DAY,)]
    by_all = costs_by(workspace, CostGroup.MONTH, CostGroup.TASK, CostGroup.MODEL, CostGroup.KIND, CostGroup.API)
    assert [cost.group[1:] for cost in by_all] == [("summaries", TASK.model, "answered", API)]
    assert by_all[0].cost_usd == pytest.approx(by_all[0].saving_usd) != 0


def test_a_planned_change_of_the_prompt_is_in_flight_although_the_table_has_the_old_text(
    workspace: Workspace, api: LocalApi
) -> None:
    workspace.ingest(workspace.texts("ab"))
    workspace.whole_day(api)
    workspace.plan(task=replace(TASK, system_prompt="Another prompt."))
    [day] = figures(workspace)
    assert statuses(day) == {"in_flight": 2}
    assert workspace.statuses() == {"answered": 2}


def test_a_price_that_is_not_known_makes_the_cost_unknown_and_not_zero(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("a"))
    workspace.whole_day(api, task=Task("mistral-small"))
    [day] = figures(workspace)
    with workspace.database.reading() as connection:
        assert figures_of_collected_day(connection, of(DAY)) == day
    assert (day.cost_usd, day.saving_usd) == (None, None)
    [cost] = costs_by(workspace, CostGroup.MODEL)
    assert (cost.cost_usd, cost.unpriced_tokens) == (0, day.input_tokens + day.output_tokens)
    assert batches(workspace)[0].cost_usd is None


def test_the_batches_of_a_day_have_the_attempts_that_failed_as_a_whole(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("a"))
    workspace.plan()
    [first_id] = workspace.submit(api.client).batch_ids
    api.wait(first_id)
    workspace.execute(
        "UPDATE openai_batch SET earlier_batch_ids = ['batch_of_before'], attempt = 2",
    )
    workspace.execute(
        """
        INSERT INTO submission_event (submission_id, moved_at, move, to_state, batch_id, message)
        SELECT submission_id, '2026-11-20', 'requeue', 'deferred', 'batch_of_before', 'token_limit_exceeded: Full.'
        FROM openai_batch
        """
    )
    earlier, last = batches(workspace)
    assert (earlier.batch_id, earlier.state, earlier.status) == ("batch_of_before", "requeued", "failed")
    assert (earlier.message, earlier.cost_usd) == ("token_limit_exceeded: Full.", None)
    assert last.batch_id == first_id


BILL = """
    INSERT INTO spending (
        batch_id, submission_id, partition_date, task, kind, api, model, submitted_at, requests, input_tokens,
        cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_usd, simulated_cost_usd,
        recorded_at
    )
    VALUES ($batch, 's', $day, 'summaries', $kind, $api, 'a model', now(), 1, $tokens, 0, 0, $tokens, 0, $usd,
        $simulated, now())
"""


@pytest.mark.parametrize(
    ("kind", "batch", "at", "tokens", "usd", "simulated"),
    [
        ("failed", "batch_later", API, 0, None, None),  # expired, at an unknown price
        ("answered", f"{CALL_PREFIX}1", API, 100, 0.5, None),
        ("answered", "batch_of_demo", "local", 100, None, 0.25),
        ("unattributed", "batch_later", API, 100, 0.125, None),
        ("answered", "batch_later", API, 100, None, None),
    ],
)
def test_figures_costs_and_spending_count_the_same_rows(
    workspace: Workspace, api: LocalApi, kind: str, batch: str, at: str, tokens: int, usd: float, simulated: float
) -> None:
    workspace.ingest(workspace.texts("ab"))
    workspace.whole_day(api)
    row = {"kind": kind, "batch": batch, "api": at, "tokens": tokens, "usd": usd, "simulated": simulated, "day": DAY}
    workspace.execute(BILL, row)
    [day] = figures(workspace)
    with workspace.database.reading() as connection:
        assert figures_of_collected_day(connection, of(DAY)) == day
        spent = spending_of_day(connection, of(DAY))
    [cost] = costs_by(workspace, CostGroup.DAY, CostGroup.TASK)
    assert cost.requests == spent.requests
    for name in ("input_tokens", "output_tokens", "simulated_cost_usd"):
        assert getattr(day, name) == getattr(cost, name) == getattr(spent, name), name
    if usd is None and at != "local" and tokens:
        assert (day.cost_usd, day.saving_usd, spent.cost_usd, cost.unpriced_tokens) == (None, None, None, 2 * tokens)
    else:
        assert day.cost_usd == cost.cost_usd == spent.cost_usd
        assert day.saving_usd == cost.saving_usd == spent.saving_usd
        assert cost.unpriced_tokens == 0


def test_a_pruned_day_has_the_figures_that_it_had(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("ab"))
    workspace.whole_day(api)
    before = figures(workspace)
    workspace.execute("DELETE FROM batch_request; DELETE FROM completion; DELETE FROM raw_articles")
    assert figures(workspace) == before


def test_errors_and_figures_name_the_same_state_of_each_article(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("a"))
    workspace.whole_day(api)
    workspace.ingest(workspace.texts("abc"), day=NEXT_DAY)
    workspace.plan(day=NEXT_DAY)  # planned and not sent; the answer of `a` is here already
    for _ in range(2):
        with workspace.database.reading() as connection:
            [day] = figures_of_days(connection, DAY, NEXT_DAY, only=[NEXT_DAY])
            groups = errors_of_day(connection, of(NEXT_DAY), "raw_articles").articles
        assert (day.day, statuses(day)) == (NEXT_DAY, {"answered": 1, "in_flight": 2})
        assert [(group.status, group.articles, group.article_ids) for group in groups] == [("in_flight", 2, ["b", "c"])]
        workspace.submit(api.client, day=NEXT_DAY)
