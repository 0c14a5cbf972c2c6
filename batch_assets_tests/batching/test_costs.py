"""Guards against a day that costs more than somebody allowed, or one that is refused for a price that nobody knows."""

from __future__ import annotations

import pytest

from batch_assets.batching.costs import Estimate, estimate_day
from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.spending import Budget
from batch_assets.batching.prices import BYTES_PER_TOKEN, batch_rates
from batch_assets.batching.task import Task
from batch_assets_tests.batching.conftest import API, DAY, NEXT_DAY, PRICES, TASK, Workspace
from batch_assets_tests.local_api_client import LocalApi


def estimated(workspace: Workspace, day: str = DAY) -> Estimate:
    with workspace.database.reading() as connection:
        return estimate_day(connection, day, api=API, own_prices=PRICES)


def articles(workspace: Workspace, count: int) -> dict[str, str]:
    return {str(number): f"Article {number:04d} of {workspace.folder.name}. " * 20 for number in range(count)}


def test_before_the_first_batch_the_estimate_is_a_bound(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(articles(workspace, 3))
    plan = workspace.plan()
    estimate = estimated(workspace)
    rates = batch_rates(TASK.model, api=API, own_prices=PRICES)
    assert rates is not None
    bound = sum(shard.bytes for shard in plan.shards) / BYTES_PER_TOKEN * rates.input_usd
    bound += 3 * TASK.max_output_tokens * rates.output_usd
    assert (estimate.requests, estimate.spent_usd, estimate.is_calibrated) == (3, 0, False)
    assert estimate.total_usd == pytest.approx(bound)
    assert estimate.is_within(Budget(bound * 1.001, bound * 1.001))
    assert not estimate.is_within(Budget(bound * 0.999))
    assert not estimate.is_within(Budget(None, bound * 0.999))
    workspace.whole_day(api)
    assert 0 < estimated(workspace).spent_usd < bound


def test_after_a_batch_came_back_its_tokens_are_the_measure(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(articles(workspace, 10))
    workspace.whole_day(api)
    (cost,) = workspace.column("SELECT sum(cost_usd) FROM completion")
    new = {f"new {name}": text.replace("Article", "Nothing") for name, text in articles(workspace, 5).items()}
    workspace.ingest(new, day=NEXT_DAY)
    workspace.plan(day=NEXT_DAY)
    estimate = estimated(workspace, NEXT_DAY)
    assert estimate.is_calibrated
    assert estimate.total_usd == pytest.approx(cost / 2, rel=0.05)


def test_what_is_spent_and_what_is_expected_add_up_and_nothing_counts_twice(
    workspace: Workspace, api: LocalApi
) -> None:
    texts = articles(workspace, 4)
    workspace.ingest(dict(list(texts.items())[:2]))
    workspace.whole_day(api)
    done = estimated(workspace)
    assert (done.requests, done.expected_usd) == (0, 0)
    assert done.is_within(Budget(0.0, 0.0))  # nothing is left to send
    workspace.ingest(texts)
    workspace.plan()
    planned = estimated(workspace)
    assert planned.requests == 2
    assert planned.spent_usd == done.spent_usd
    workspace.submit(api.client, limits=Limits(own_prices=PRICES))
    submitted = estimated(workspace)
    assert (submitted.requests, submitted.planned_requests, planned.planned_requests) == (2, 0, 2)
    assert submitted.total_usd == planned.total_usd
    assert submitted.month_usd == pytest.approx(planned.month_usd + (planned.planned_usd or 0))


def test_an_unknown_price_is_never_within(workspace: Workspace) -> None:
    workspace.ingest({"a": "text"})
    workspace.plan(task=Task("mistral-small"))
    estimate = estimated(workspace)
    assert estimate.total_usd is None
    for budget in (Budget(1e9), Budget(None, 1e9)):
        assert not estimate.is_within(budget)
        assert "the price of `mistral-small` in batches isn't known" in (estimate.why_not_within(budget) or "")
    assert estimate.why_not_within(Budget()) is None


def test_the_sentence_says_how_much_and_what_to_do(workspace: Workspace) -> None:
    workspace.ingest({"a": "text"})
    workspace.plan()
    estimate = estimated(workspace)
    sentence = estimate.why_not_within(Budget(0.00001, 1.0)) or ""
    assert sentence.startswith(f"1 requests of {DAY} would bring the day to an estimated $0.0000 ")
    assert "BATCH_ASSETS_MAX_COST_USD allows $0.0000. Nothing was submitted. Raise the limit" in sentence
    sentence = estimate.why_not_within(Budget(1.0, 0.00001)) or ""
    assert sentence.startswith(f"1 requests of {DAY} would bring the month to an estimated $0.0000 ")
    assert "BATCH_ASSETS_MAX_COST_USD_PER_MONTH allows $0.0000. Nothing was submitted." in sentence


def test_a_day_without_request_files_costs_nothing(workspace: Workspace) -> None:
    assert estimated(workspace) == Estimate(DAY, 0, 0, 0.0, 0.0, 0.0, 0.0, "", False)
