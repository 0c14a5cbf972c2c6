"""`raw_articles`, `batch_request_file` and `openai_batch`: one step of Dagster, for one day or many.

With a step for each asset, a day that fails would end the step, and so the later steps of all days; and a step that
succeeds would materialize all days. In one step, a day fails alone: the run logs a materialization of each day and
asset, and names the failed days in its error at the end.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import dagster as dg

from batch_assets.asset_keys import BATCH_REQUEST_FILE, OPENAI_BATCH, RAW_ARTICLES
from batch_assets.assets.batch_request_file import RequestFileConfig, batch_request_file, write_request_files
from batch_assets.assets.day_run import DayRun, on_each_day, raise_failures
from batch_assets.assets.missing_key import stop_until_there_is_a_key
from batch_assets.assets.openai_batch import openai_batch, submission, submit
from batch_assets.assets.raw_articles import ingest, raw_articles
from batch_assets.batching.ingest.articles import read_source
from batch_assets.batching.once import Once
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.checks import check_budget, day_is_within_budget
from batch_assets.partitions import daily_partitions, days_per_run
from batch_assets.resources import ArticleSource, BatchApi, SummaryTask, Warehouse


def _submit_days(
    context: dg.AssetExecutionContext,
    config: RequestFileConfig,
    warehouse: dg.ResourceParam[Warehouse],
    article_source: dg.ResourceParam[ArticleSource],
    task: dg.ResourceParam[SummaryTask],
    openai: dg.ResourceParam[BatchApi],
) -> Iterator[dg.MaterializeResult]:
    """Take each day of the run from the source to its batches, as far as the run's assets go.

    Several days at a time wait for the API. The stages of a day follow each other. The run reads its source once.
    """
    run = DayRun(context, warehouse, openai, task)
    with ExitStack() as stack:
        source = article_source.as_source()
        articles = Once(lambda: stack.enter_context(read_source(warehouse.tables, source, run.days)))
        shared = stack.enter_context(submission(run))

        def one_day(day: str) -> None:
            estimate = None
            if run.makes(RAW_ARTICLES):
                ingest(run, articles, article_source, day)
            if run.makes(BATCH_REQUEST_FILE):
                stop_until_there_is_a_key(run, day)
                write_request_files(run, config, day)
            if run.checks(day_is_within_budget.key):
                evaluation, estimate = check_budget(warehouse, task, run.api(), day)
                run.report(evaluation)
            if run.makes(OPENAI_BATCH):
                submit(shared, day, None if estimate is None else estimate.why_not_within(task.limits.budget))

        errors = on_each_day(run, one_day)
    raise_failures(run, errors)
    yield from ()  # the materializations are in the event log


def make_submit_days(*specs: dg.AssetSpec) -> dg.AssetsDefinition:
    """The assets with these specifications: all three, or those that a project does not replace by its own."""
    return dg.multi_asset(
        name="submission",
        specs=specs,
        check_specs=[day_is_within_budget],
        can_subset=True,
        partitions_def=daily_partitions,
        backfill_policy=days_per_run,
    )(without_secrets_in_errors(_submit_days))


submit_days = make_submit_days(raw_articles, batch_request_file, openai_batch)
