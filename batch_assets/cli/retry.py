"""`batch-assets retry`: send the requests of a day again that failed for good or are blocked."""

from datetime import UTC, datetime

import click

from batch_assets.batching.counting import counted
from batch_assets.cli.common import (
    check_day,
    checked_settings,
    errors_in_one_sentence,
    existing_database,
    find_task,
    open_client,
    task_option,
)


@click.command()
@click.argument("day")
@click.option("--code", metavar="CODE", help="Only the requests that failed with this code (`summaries.error_code`).")
@task_option
def retry(day: str, code: str | None, task: str) -> None:
    """Send the requests of DAY again that failed for good or whose results are missing, and no answered one.

    Pauses of the day end.
    """
    settings = checked_settings()
    import dagster as dg

    from batch_assets.batching.ledger.requests import RequestStateRules
    from batch_assets.batching.ledger.retries import retry_day
    from batch_assets.batching.planning.plan import planned_task
    from batch_assets.batching.provider.identity import identify
    from batch_assets.batching.task_day import TaskDay
    from batch_assets.cli.dagster_home.home import make_dagster_home
    from batch_assets.day_events import DEFAULT_LOCATION, REQUESTS_PENDING, Origin
    from batch_assets.project_tasks import keys_of, read_tasks
    from batch_assets.runless_events import report_of_submission

    check_day(day)
    tasks, of_task = read_tasks(settings), TaskDay(task, day)
    keys = keys_of(tasks, task)
    label = of_task.label
    database = existing_database(settings)
    with errors_in_one_sentence():
        planned = planned_task(database, of_task)
        if planned is None:
            find_task(tasks, task)  # a misspelt name; a task that `defs/` no longer has may have a plan
            raise click.ClickException(f"{label} has no plan: materialize `batch_request_file` first.")
        with open_client(settings) as client:
            api = identify(client, database.warehouse_id())
        rules = RequestStateRules(api.name, planned.max_output_tokens, settings.max_rounds)
        retried = retry_day(database, of_task, rules, code)
        origin = Origin(DEFAULT_LOCATION, database.warehouse_id(), api.name)
        event: dg.AssetMaterialization | None = None
        if retried.requests:
            event = dg.AssetMaterialization(
                keys.results, partition=day, metadata={REQUESTS_PENDING: retried.requests, **origin.as_metadata()}
            )
        elif retried.files:
            now = datetime.now(UTC)
            event = report_of_submission(keys.openai_batch, database, settings.data_folder, origin, of_task, now)
        if event is not None:
            with dg.DagsterInstance.from_config(str(make_dagster_home(settings))) as instance:
                instance.report_runless_asset_event(event)
    if event is None:
        click.echo(f"No request of {label} failed for good or is blocked{'' if code is None else ' with this code'}.")
    if retried.requests:
        click.echo(f"{counted(retried.requests, 'request')} of {label} pending again. The sensor starts a run.")
    if retried.files:
        click.echo(f"{counted(retried.files, 'request file')} of {label} no longer deferred. The sensor starts a run.")
