"""`batch-assets cancel`: stop the batches of a day."""

import click

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
@task_option
def cancel(day: str, task: str) -> None:
    """Cancel the batches of DAY. Answers are kept; the sensor does not send the other requests again."""
    settings = checked_settings()
    from batch_assets.batching.operations.cancel import Cancelled, cancel_day
    from batch_assets.batching.task_day import TaskDay
    from batch_assets.project_tasks import read_tasks

    check_day(day)
    database = existing_database(settings)
    with errors_in_one_sentence(), open_client(settings) as client:
        cancelled = cancel_day(database, client, day=TaskDay(task, day), data_folder=settings.data_folder)
    if cancelled == Cancelled(task=task):
        find_task(read_tasks(settings), task)  # a misspelt name; a task that `defs/` no longer has may have batches
    click.echo(str(cancelled))
