"""`batch-assets abandon`: give up a batch, so that its requests are sent again."""

import click

from batch_assets.cli.common import checked_settings, errors_in_one_sentence, existing_database


@click.command()
@click.argument("batch_id")
@click.option("--yes", is_flag=True, help="Don't ask.")
def abandon(batch_id: str, yes: bool) -> None:
    """Give up BATCH_ID, which does not end or is not found. A run buys its requests again.

    First it says what that may cost. It cancels nothing: that is `batch-assets cancel`.
    """
    settings = checked_settings()
    import dagster as dg

    from batch_assets.batching.operations.abandon import abandon_batch, find_submission, warning_of
    from batch_assets.batching.safety.outside_text import as_message
    from batch_assets.cli.dagster_home.home import make_dagster_home
    from batch_assets.day_events import DEFAULT_LOCATION, Origin
    from batch_assets.project_tasks import read_tasks
    from batch_assets.runless_events import announce_abandoned_batch

    database, data_folder = existing_database(settings), settings.data_folder
    with errors_in_one_sentence():
        dagster_home = make_dagster_home(settings)
        submission = find_submission(database, batch_id, data_folder)
        warning = warning_of(database, submission)
        shown = as_message(submission.batch_id or "")
        if not warning.is_done:
            click.echo(str(warning))
            if not yes:
                click.confirm("Give it up?", abort=True)
            abandon_batch(database, submission)
        origin = Origin(DEFAULT_LOCATION, database.warehouse_id(), submission.api)
        # also if it was given up before: that command may have been killed before it reported the days
        with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
            announce_abandoned_batch(
                instance,
                read_tasks(settings).keys,
                database,
                data_folder,
                origin,
                batch_id=submission.batch_id or "",
                days=warning.days,
            )
    if warning.is_done:
        click.echo(f"{shown} of {submission.day} was given up before. Nothing changed.")
    else:
        click.echo(f"{shown} of {submission.day} is given up. The sensor requests the runs that come next.")
