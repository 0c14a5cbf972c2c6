"""`batch-assets cancel`: stop the batches of a day."""

import click

from batch_assets.cli.common import check_day, checked_settings, errors_in_one_sentence, open_client, task_option


@click.command()
@click.argument("day")
@task_option
def cancel(day: str, task: str) -> None:
    """Cancel the batches of DAY. Answers are kept; the sensor does not send the other requests again."""
    settings = checked_settings()
    from batch_assets.batching.ledger.database import Database
    from batch_assets.batching.operations.cancel import cancel_day
    from batch_assets.batching.task_day import TaskDay

    check_day(day)
    with errors_in_one_sentence(), open_client(settings) as client:
        of_task = TaskDay(task, day)
        cancelled = cancel_day(Database(settings.database), client, day=of_task, data_folder=settings.data_folder)
    click.echo(str(cancelled))
