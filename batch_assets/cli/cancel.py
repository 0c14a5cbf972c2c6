"""`batch-assets cancel`: stop the batches of a day."""

import click

from batch_assets.cli.common import check_day, checked_settings, errors_in_one_sentence, open_client


@click.command()
@click.argument("day")
def cancel(day: str) -> None:
    """Cancel the batches of DAY. Answers are kept; the sensor does not send the other requests again."""
    settings = checked_settings()
    from batch_assets.batching.ledger.database import Database
    from batch_assets.batching.operations.cancel import cancel_day

    check_day(day)
    with errors_in_one_sentence(), open_client(settings) as client:
        cancelled = cancel_day(Database(settings.database), client, day=day, data_folder=settings.data_folder)
    click.echo(str(cancelled))
