"""The assets, checks and sensor of the task `summaries` alone, as the definitions have them with the other tasks."""

from typing import Any

import dagster as dg

from batch_assets.assets.batch_request_file import request_file_spec
from batch_assets.assets.openai_batch import batch_spec
from batch_assets.assets.raw_articles import articles_spec
from batch_assets.assets.results import make_results, results_spec
from batch_assets.assets.submission import make_submit_days
from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.spending import Budget
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.prices import ModelPrice
from batch_assets.checks import articles_check, budget_check, usage_check
from batch_assets.jobs import cancel_job, submit_job
from batch_assets.partitions import daily_partitions
from batch_assets.resources import ArticleSource
from batch_assets.schedules import nightly_schedule
from batch_assets.sensors import build_sensor
from batch_assets.task_set import DeclaredTask, Feed, TaskSet

MODEL = "gpt-6-luna"


def first_task(
    source: str = "unused",
    *,
    max_cost_usd: float | None = None,
    prices: tuple[ModelPrice, ...] = (),
    max_rounds: int = 3,
    days_per_run: int = 30,
    task: Task | None = None,
    **settings: Any,
) -> TaskSet:
    """The task `summaries` of this source. max_cost_usd: the budget of a day. settings: of the task."""
    asked = task or Task(**{"model": MODEL, **settings})
    declared = DeclaredTask(asked, Feed(ArticleSource(source)), daily_partitions, max_rounds=max_rounds, prices=prices)
    return TaskSet((declared,), Limits(budget=Budget(max_cost_usd), own_prices=prices), days_per_run)


def assets_of(tasks: TaskSet) -> list[dg.AssetsDefinition]:
    """The steps of all these tasks."""
    return [
        *(make_submit_days(tasks, feed) for feed in tasks.feeds),
        *(make_results(tasks, declared) for declared in tasks.tasks),
    ]


TASKS = first_task()
[DECLARED] = TASKS.tasks
RESULTS = DECLARED.results
raw_articles, batch_request_file = articles_spec(DECLARED), request_file_spec(DECLARED)
openai_batch, summaries = batch_spec(DECLARED), results_spec(DECLARED)
day_is_within_budget, every_article_is_accounted_for = budget_check(DECLARED), articles_check(DECLARED)
usage_adds_up = usage_check(DECLARED)
openai_batch_sensor = build_sensor(TASKS, 30)
submit_batches, cancel_batches = submit_job(DECLARED), cancel_job(DECLARED)
daily_submission = nightly_schedule(DECLARED, submit_batches)
