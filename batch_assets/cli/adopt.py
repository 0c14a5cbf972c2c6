"""`batch-assets adopt`: enter a batch into the ledger that the user created from one of our request files."""

from datetime import UTC, datetime

import click

from batch_assets.cli.common import checked_settings, errors_in_one_sentence, existing_database, open_client


@click.command()
@click.argument("batch_id")
def adopt(batch_id: str) -> None:
    """Adopt BATCH_ID, a batch that you created from one of our request files, on OpenAI's web page or with curl."""
    settings = checked_settings()
    import dagster as dg

    from batch_assets.batching.provider.identity import identify
    from batch_assets.batching.safety.outside_text import printable
    from batch_assets.batching.submission.adoption import adopt_batch
    from batch_assets.cli.dagster_home.home import make_dagster_home
    from batch_assets.day_events import DEFAULT_LOCATION, Origin
    from batch_assets.project_tasks import keys_of, read_tasks
    from batch_assets.runless_events import report_of_submission

    database, data_folder = existing_database(settings), settings.data_folder
    with errors_in_one_sentence():
        with open_client(settings) as client:
            days = adopt_batch(database, client, batch_id=batch_id, data_folder=data_folder)
            api = identify(client, database.warehouse_id())
        tasks = read_tasks(settings)
        origin = Origin(DEFAULT_LOCATION, database.warehouse_id(), api.name)
        with dg.DagsterInstance.from_config(str(make_dagster_home(settings))) as instance:
            for day in days:
                now = datetime.now(UTC)
                key = keys_of(tasks, day.task).openai_batch
                event = report_of_submission(key, database, data_folder, origin, day, now, batches_adopted=1)
                instance.report_runless_asset_event(event)
    click.echo(
        f"{printable(batch_id)} belongs to {', '.join(day.label for day in days)} now. "
        "The sensor materializes the results when the batch has ended."
    )
