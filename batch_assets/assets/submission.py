"""`raw_articles`, `batch_request_file` and `openai_batch`: one step of Dagster, for one day or many.

With a step for each asset, a day that fails would end the step, and so the later steps of all days; and a step that
succeeds would materialize all days. In one step, a day fails alone: the run logs a materialization of each day and
asset, and names the failed days in its error at the end.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import dagster as dg

from batch_assets.assets.batch_request_file import RequestFileConfig, request_file_spec, write_request_files
from batch_assets.assets.day_run import DayRun, TaskRun, for_each_task, on_each_day, raise_failures
from batch_assets.assets.missing_key import stop_until_there_is_a_key
from batch_assets.assets.openai_batch import batch_spec, submission, submit
from batch_assets.assets.raw_articles import articles_spec, ingest
from batch_assets.batching.ingest.articles import Ingested, read_source
from batch_assets.batching.once import Once
from batch_assets.batching.planning.estimate import Estimate
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.checks import BUDGET, budget_check, check_budget
from batch_assets.figure_checks import (
    ARTICLES_CHECKS,
    UNIQUE,
    USABLE,
    WITHIN_LIMITS,
    articles_checks,
    check_limits,
    request_file_checks,
    rows_of_day,
    rows_of_ingested,
)
from batch_assets.resources import WAREHOUSE
from batch_assets.task_set import Feed, TaskSet


def make_submit_days(tasks: TaskSet, feed: Feed, *, with_articles: bool = True) -> dg.AssetsDefinition:
    """The articles of the feed, and the request files and batches of each task that reads them: one step of Dagster.

    with_articles: without, a project has its own asset with the articles.
    """
    declared = tasks.reading(feed)

    @without_secrets_in_errors
    def submit_days(context: dg.AssetExecutionContext, config: RequestFileConfig) -> Iterator[dg.MaterializeResult]:
        """Take each day of the run from the source to its batches, as far as the run's assets go.

        Several days at a time wait for the API. The stages of a day follow each other. The run reads its source once.
        """
        resources = context.resources
        run = DayRun(context, getattr(resources, WAREHOUSE), getattr(resources, declared[0].openai), tasks)
        _submit(run, config, feed, [run.of(one) for one in declared])
        yield from ()  # the materializations are in the event log

    specs = [spec for one in declared for spec in (request_file_spec(one), batch_spec(one))]
    return dg.multi_asset(
        name=feed.step,
        specs=[*([articles_spec(declared[0])] if with_articles else []), *specs],
        check_specs=[
            *(articles_checks(declared[0]) if with_articles else []),
            *(check for one in declared for check in (budget_check(one), *request_file_checks(one))),
        ],
        can_subset=True,
        partitions_def=declared[0].partitions_def,
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=tasks.days_per_run),
        required_resource_keys={WAREHOUSE, *(one.openai for one in declared)},
    )(submit_days)


def _check_articles(run: DayRun, feed: Feed, day: str, ingested: Ingested | None) -> None:
    """Evaluate the checks of the articles. A run that has not read them counts those of the tables."""
    names = [name for name in (USABLE, UNIQUE) if run.checks(feed.key, name)]
    if not names:
        return
    if ingested is None:
        with run.warehouse.tables.reading() as connection:
            rows = rows_of_day(connection, feed.name, day)
    else:
        rows = rows_of_ingested(ingested)
    for name in names:
        run.report(ARTICLES_CHECKS[name](feed, rows, day))


def _check_request_files(task: TaskRun, day: str) -> Estimate | None:
    """Evaluate the checks of the request files; the estimate of the day, if the run has checked the budget."""
    run, key = task.run, task.keys.batch_request_file
    names = [name for name in (WITHIN_LIMITS, BUDGET) if run.checks(key, name)]
    if not names:
        return None
    api, estimate = run.api(), None
    with run.warehouse.tables.reading() as connection:
        evaluations = []
        if WITHIN_LIMITS in names:
            evaluations.append(check_limits(connection, task.declared, task.limits.max_enqueued_tokens, day))
        if BUDGET in names:
            evaluation, estimate = check_budget(connection, task.declared, task.limits, api, day)
            evaluations.append(evaluation)
    for evaluation in evaluations:
        run.report(evaluation)
    return estimate


def _submit(run: DayRun, config: RequestFileConfig, feed: Feed, tasks: Sequence[TaskRun]) -> None:
    with ExitStack() as stack:
        source = run.tasks.source_of(feed)
        articles = Once(lambda: stack.enter_context(read_source(run.warehouse.tables, source, run.days)))
        shared = stack.enter_context(submission(run, tasks))

        def one_task(task: TaskRun, day: str) -> None:
            declared = task.declared
            if run.makes(declared.keys.batch_request_file):
                stop_until_there_is_a_key(task, day)
                write_request_files(task, config, day)
            estimate = _check_request_files(task, day)
            if run.makes(declared.keys.openai_batch):
                budget = task.limits.budget
                submit(shared, task, day, None if estimate is None else estimate.why_not_within(budget))

        def one_day(day: str) -> None:
            ingested = ingest(run, articles, feed, day) if run.makes(feed.key) else None
            _check_articles(run, feed, day, ingested)
            for_each_task(tasks, lambda task: one_task(task, day))

        errors = on_each_day(run, one_day)
    raise_failures(run, errors)
