"""Guards against a day that costs more than its budget, and against an unknown price that counts as zero."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.spending import Budget
from batch_assets.batching.planning.estimate import Estimate, estimate_day
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.prices import ModelPrice, batch_rates, estimated_input_tokens
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets_tests.batching.conftest import (
    API,
    DAY,
    NEXT_DAY,
    PRICES,
    TASK,
    Workspace,
    changed_lines,
    proxy,
)
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.task_days import of


def estimated(workspace: Workspace, day: str = DAY) -> Estimate:
    with workspace.database.reading() as connection:
        return estimate_day(connection, of(day), api=API, own_prices=PRICES)


def articles(workspace: Workspace, count: int) -> dict[str, str]:
    return {str(number): f"Article {number:04d} of {workspace.folder.name}. " * 20 for number in range(count)}


def by_the_built_in_engine(workspace: Workspace, api: LocalApi, built_in: LocalApi) -> None:
    workspace.plan(api="local")
    workspace.send(built_in.client, built_in)


def by_the_built_in_engine_twice(workspace: Workspace, api: LocalApi, built_in: LocalApi) -> None:
    for _ in range(2):
        workspace.plan(api="local", refresh=True)
        workspace.send(built_in.client, built_in)


def by_another_model(workspace: Workspace, api: LocalApi, built_in: LocalApi) -> None:
    workspace.ingest(articles(workspace, 3), day=NEXT_DAY)
    workspace.plan(day=NEXT_DAY, task=replace(TASK, model="gpt-4.1-mini"))
    workspace.send(api.client, api, day=NEXT_DAY)


@pytest.mark.parametrize("answer", [by_the_built_in_engine, by_the_built_in_engine_twice, by_another_model])
def test_what_another_engine_or_model_used_lets_no_day_through(
    workspace: Workspace,
    api: LocalApi,
    local_api: LocalApi,
    answer: Callable[[Workspace, LocalApi, LocalApi], None],
) -> None:
    """The estimate of a day must not use the token counts of a demo, which are lower than those of a model."""
    workspace.ingest(articles(workspace, 3))
    answer(workspace, api, local_api)
    before = api.stats()
    assert workspace.plan().requests == {"pending": 3}
    estimate = estimated(workspace)
    assert (estimate.spent_usd, estimate.is_calibrated) == (0, False)
    assert estimate.total_usd == pytest.approx(bound(workspace))
    too_little = Budget(0.99 * bound(workspace))
    assert not estimate.is_within(too_little)
    with pytest.raises(SubmissionError, match="would exceed"):
        workspace.submit(api.client, limits=Limits(budget=too_little, own_prices=PRICES))
    assert api.stats() == before
    enough = Limits(budget=Budget(1.01 * bound(workspace)), own_prices=PRICES)
    assert workspace.submit(api.client, limits=enough).created == 1


def test_a_demo_after_a_models_batches_changes_no_estimate(
    workspace: Workspace, api: LocalApi, local_api: LocalApi
) -> None:
    workspace.ingest(articles(workspace, 4))
    workspace.whole_day(api)
    workspace.ingest({name: f"{text} Another one." for name, text in articles(workspace, 4).items()}, day=NEXT_DAY)
    workspace.plan(day=NEXT_DAY)
    before = estimated(workspace, NEXT_DAY)
    assert before.is_calibrated
    workspace.plan(api="local", refresh=True)
    workspace.send(local_api.client, local_api)
    assert workspace.column("SELECT DISTINCT api FROM spending ORDER BY api") == ["local", API]
    assert estimated(workspace, NEXT_DAY) == before


def bound(workspace: Workspace) -> float:
    """USD of all that is planned, by its bytes and the limit on its output."""
    rates = batch_rates(TASK.model, api=API, own_prices=PRICES)
    assert rates is not None
    ((size, tokens),) = workspace.rows(
        """
        SELECT sum(bytes), sum(max_output_tokens) FROM batch_request_file JOIN openai_batch USING (submission_id)
        WHERE state = 'planned'
        """
    )
    return float(estimated_input_tokens(size) * rates.input_usd + tokens * rates.output_usd)


def test_before_the_first_batch_the_estimate_is_a_bound(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(articles(workspace, 3))
    plan = workspace.plan()
    estimate = estimated(workspace)
    rates = batch_rates(TASK.model, api=API, own_prices=PRICES)
    assert rates is not None
    bound = sum(estimated_input_tokens(shard.bytes) for shard in plan.shards) * rates.input_usd
    bound += 3 * TASK.max_output_tokens * rates.output_usd
    assert (estimate.requests, estimate.spent_usd, estimate.is_calibrated) == (3, 0, False)
    assert estimate.total_usd == pytest.approx(bound)
    assert estimate.is_within(Budget(bound * 1.001, bound * 1.001))
    assert not estimate.is_within(Budget(bound * 0.999))
    assert not estimate.is_within(Budget(None, bound * 0.999))
    workspace.whole_day(api)
    assert 0 < estimated(workspace).spent_usd < bound


def test_after_a_batch_was_collected_its_tokens_calibrate_the_estimate(workspace: Workspace, api: LocalApi) -> None:
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


def sentence_of(estimate: Estimate, budget: Budget) -> str:
    refusal = estimate.why_not_within(budget)
    return "" if refusal is None else refusal.message


def test_an_unknown_price_is_never_within(workspace: Workspace) -> None:
    workspace.ingest({"a": "text"})
    workspace.plan(task=Task("mistral-small"))
    estimate = estimated(workspace)
    assert estimate.total_usd is None
    for budget in (Budget(1e9), Budget(None, 1e9)):
        assert not estimate.is_within(budget)
        assert "the price of `mistral-small` in batches isn't known" in sentence_of(estimate, budget)
    assert estimate.why_not_within(Budget()) is None


def test_the_sentence_says_how_much_and_what_to_do(workspace: Workspace) -> None:
    workspace.ingest({"a": "text"})
    workspace.plan()
    estimate = estimated(workspace)
    sentence = sentence_of(estimate, Budget(0.00001, 1.0))
    assert sentence.startswith(f"The budget check stopped {DAY}: $0.00 is spent, the expected cost of 1 request is ")
    assert "BATCH_ASSETS_MAX_COST_USD allows $0.000010. Nothing was submitted. Raise the limit" in sentence
    sentence = sentence_of(estimate, Budget(1.0, 0.00001))
    assert sentence.startswith(f"The budget check stopped {DAY}: $0.00 is spent or in flight in the month, ")
    assert "BATCH_ASSETS_MAX_COST_USD_PER_MONTH allows $0.000010. Nothing was submitted." in sentence
    assert estimate.total_usd is not None
    just_below = estimate.total_usd * 0.9999
    amounts = re.findall(r"\$[\d.]+\d", sentence_of(estimate, Budget(just_below)))
    assert len(set(amounts)) == len(amounts) == 3  # spent, expected and the limit


def test_a_day_without_request_files_costs_nothing(workspace: Workspace) -> None:
    assert estimated(workspace) == Estimate(of(DAY), 0, 0, 0.0, 0.0, 0.0, 0.0, "", False, API)


# --- what measures a request


def answer_with(
    workspace: Workspace,
    api: LocalApi,
    change: Callable[[int, dict[str, Any]], None],
    *,
    day: str = DAY,
    **options: Any,
) -> None:
    """Send the day's requests; each line tells 1,000 input and 100 output tokens, unless `change` makes it another."""
    workspace.plan(day=day, **options)
    number = 0

    def change_line(line: dict[str, Any]) -> None:
        nonlocal number
        line["response"]["body"]["usage"] = {"prompt_tokens": 1_000, "completion_tokens": 100}
        change(number, line)
        number += 1

    with proxy(api.url, changed_lines(change_line)) as client:
        workspace.send(client, api, day=day)


def end_by_itself(number: int, line: dict[str, Any]) -> None:
    pass


def be_cut(number: int, line: dict[str, Any]) -> None:
    line["response"]["body"]["choices"][0]["finish_reason"] = "length"


def begin_no_answer(number: int, line: dict[str, Any]) -> None:
    be_cut(number, line)
    line["response"]["body"]["choices"][0]["message"]["content"] = ""


def one_be_cut(number: int, line: dict[str, Any]) -> None:
    if number == 0:
        be_cut(number, line)


def fail_with(status: int) -> Callable[[int, dict[str, Any]], None]:
    def fail(number: int, line: dict[str, Any]) -> None:
        if number > 0:
            line["response"].update(status_code=status, body={"error": {"code": "some_code", "message": "Oops"}})

    return fail


def be_not_run(number: int, line: dict[str, Any]) -> None:
    if number > 0:
        line.update(response=None, error={"code": "batch_expired", "message": "Not executed."})


@pytest.mark.parametrize("change", [fail_with(500), fail_with(400), be_not_run], ids=["500", "400", "not run"])
def test_a_request_that_was_not_billed_is_no_measure(
    workspace: Workspace, api: LocalApi, change: Callable[[int, dict[str, Any]], None]
) -> None:
    """Nine of ten lines have no usage. They must not count as requests without tokens."""
    workspace.ingest(articles(workspace, 10))
    answer_with(workspace, api, change)
    new = {name: text.replace("Article", "Nothing") for name, text in articles(workspace, 10).items()}
    workspace.ingest(new, day=NEXT_DAY)
    workspace.plan(day=NEXT_DAY)
    estimate = estimated(workspace, NEXT_DAY)
    assert estimate.is_calibrated
    assert estimate.expected_usd == pytest.approx(10 * (1_000 * 0.05e-6 + 100 * 0.2e-6), rel=0.01)


@pytest.mark.parametrize(
    ("change", "limit", "is_calibrated"),
    [
        (be_cut, 10_000, False),
        (one_be_cut, 101, False),
        (begin_no_answer, 10_000, False),
        (end_by_itself, 10_000, True),
        (be_cut, 100, True),
        (be_cut, 50, True),
    ],
)
def test_what_was_cut_under_a_lower_limit_is_no_measure(
    workspace: Workspace,
    api: LocalApi,
    change: Callable[[int, dict[str, Any]], None],
    limit: int,
    is_calibrated: bool,
) -> None:
    """The estimate must not expect answers of the length at which an earlier limit cut them."""
    workspace.ingest(articles(workspace, 4))
    answer_with(workspace, api, change)
    workspace.ingest({"new": articles(workspace, 1)["0"].replace("Article", "Nothing")}, day=NEXT_DAY)
    workspace.plan(day=NEXT_DAY, task=replace(TASK, max_output_tokens=limit))
    estimate = estimated(workspace, NEXT_DAY)
    assert estimate.is_calibrated is is_calibrated
    if is_calibrated:
        assert estimate.expected_usd == pytest.approx(1_000 * 0.05e-6 + min(100, limit) * 0.2e-6, rel=0.05)
    else:
        assert estimate.expected_usd == pytest.approx(bound(workspace))


def test_batches_under_the_higher_limit_measure_again(workspace: Workspace, api: LocalApi) -> None:
    raised = replace(TASK, max_output_tokens=10_000)
    workspace.ingest(articles(workspace, 4))
    answer_with(workspace, api, be_cut)
    workspace.plan(task=raised)
    assert not estimated(workspace).is_calibrated
    answer_with(workspace, api, end_by_itself, task=raised)
    new = {name: text.replace("Article", "Nothing") for name, text in articles(workspace, 4).items()}
    workspace.ingest(new, day=NEXT_DAY)
    workspace.plan(day=NEXT_DAY, task=raised)
    assert estimated(workspace, NEXT_DAY).is_calibrated


# --- what was billed, or is in flight, at a price that was not known


@pytest.mark.parametrize("budget", [Budget(1e9), Budget(None, 1e9)], ids=["day", "month"])
@pytest.mark.parametrize("is_collected", [True, False])
def test_a_day_of_unknown_spending_is_never_within(
    workspace: Workspace, api: LocalApi, budget: Budget, is_collected: bool
) -> None:
    workspace.ingest(articles(workspace, 2))
    other = Task("a-model-of-our-own")
    workspace.plan(task=other)
    if is_collected:
        workspace.send(api.client, api)
    else:
        workspace.submit(api.client)
    workspace.plan()
    estimate = estimated(workspace)
    sentence = sentence_of(estimate, budget)
    assert sentence.startswith("What `a-model-of-our-own` used in batches for")
    assert f"at {API} has no known price, so no budget can be checked" in sentence
    assert estimate.why_not_within(Budget()) is None
    with pytest.raises(SubmissionError, match="has no known price, so no budget can be checked"):
        workspace.submit(api.client, limits=Limits(budget=budget, own_prices=PRICES))
    prices = (*PRICES, ModelPrice(other.model, 1.0, 2.0))
    assert workspace.submit(api.client, limits=Limits(budget=budget, own_prices=prices)).created == 1
