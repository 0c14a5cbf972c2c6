"""`batch-assets prune`: show what is older than its retention, and delete it if the user says so."""

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import click

from batch_assets.batching.counting import counted
from batch_assets.cli.common import checked_settings, errors_in_one_sentence, existing_database, open_client
from batch_assets.settings import Settings

if TYPE_CHECKING:
    from batch_assets.batching.operations.prune import RetentionPolicy


@click.command()
@click.option("--keep-days", type=click.IntRange(min=0), default=90, show_default=True, help="How old files may get.")
@click.option(
    "--compress-days", type=click.IntRange(min=0), default=7, show_default=True, help="Older result files are gzipped."
)
@click.option("--tables", is_flag=True, help="Also delete the articles and requests of the old days in the tables.")
@click.option("--answers", is_flag=True, help="With --tables: also delete answers that no other day needs.")
@click.option("--remote", is_flag=True, help="Also delete OpenAI's copies of the old files.")
@click.option("--runs", is_flag=True, help="Also delete Dagster's runs of the old days and their logs.")
@click.option("--yes", is_flag=True, help="Delete. Without it, the command only shows what it would delete.")
def prune(keep_days: int, compress_days: int, tables: bool, answers: bool, remote: bool, runs: bool, yes: bool) -> None:
    """Delete old request and result files. Unfinished days and `summaries` are never touched."""
    if answers and not tables:
        raise click.UsageError("--answers goes with --tables.")
    settings = checked_settings()
    from batch_assets.batching.operations.prune import RetentionPolicy

    policy = RetentionPolicy(
        compress_after_days=compress_days, keep_days=keep_days, tables=tables, answers=answers, remote=remote
    )
    with errors_in_one_sentence():
        _prune(settings, policy, runs=runs, delete=yes)


def _prune(settings: Settings, policy: "RetentionPolicy", *, runs: bool, delete: bool) -> None:
    """Print what is older than the policy allows and, if `delete`, delete it.

    runs: of Dagster, too. Raises DatabaseBusyError, NoDagsterHomeError, OpenAIError, click.ClickException.
    """
    from batch_assets.batching.operations import prune as operation
    from batch_assets.batching.operations.remote_deletion import delete_remote_files

    database, today = existing_database(settings), datetime.now(UTC).date()
    found = operation.plan_pruning(database, data_folder=settings.data_folder, policy=policy, today=today)
    lines_of_runs = _prune_runs(settings, policy, today, delete=False) if runs else []
    if not found.lines and not lines_of_runs:
        click.echo(f"Nothing to delete: no finished day has anything older than {counted(policy.keep_days, 'day')}.")
        return
    if not delete:
        click.echo("Would be deleted or compressed, of finished days (--yes does it):")
        _print_list(found.lines + lines_of_runs)
        return
    found = operation.prune(database, data_folder=settings.data_folder, policy=policy, today=today)
    click.echo("Deleted or compressed, of finished days:")
    _print_list(found.lines_here)
    if lines_of_runs:
        _print_list(_prune_runs(settings, policy, today, delete=True))
    # last, since the API may fail
    if found.remote_files:
        with open_client(settings) as client:
            kept = delete_remote_files(database, client, found)
        _print_list(found.lines_remote)
        for sentence in kept:
            click.echo(sentence)


def _prune_runs(settings: Settings, policy: "RetentionPolicy", today: date, *, delete: bool) -> list[str]:
    """Find the old runs in Dagster and, if `delete`, delete them. Returns the lines to print."""
    import dagster as dg
    from sqlalchemy.exc import SQLAlchemyError

    from batch_assets.batching.ledger.database import Database
    from batch_assets.batching.operations.prune import first_kept_day, unfinished_days
    from batch_assets.batching.safety.outside_text import as_message
    from batch_assets.cli.dagster_home.home import find_dagster_home
    from batch_assets.old_runs import FinishedDays, delete_runs, find_old_runs
    from batch_assets.project_tasks import read_tasks
    from batch_assets.stored_runs import StorageError

    dagster_home, database = find_dagster_home(settings), Database(settings.database)
    finished = FinishedDays(
        first_kept_day(today, policy.keep_days), unfinished_days(database), warehouse_id=database.warehouse_id()
    )
    try:
        with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
            old_runs = find_old_runs(instance, finished, read_tasks(settings))
            if delete:
                delete_runs(instance, old_runs)
    except StorageError as error:
        raise click.ClickException(str(error)) from error
    except (SQLAlchemyError, dg.DagsterError, OSError) as error:
        # without the statement of an error of SQLAlchemy
        reason = as_message(str(getattr(error, "orig", None) or error))
        raise click.ClickException(
            f"The storage of the Dagster home {dagster_home} cannot be read or changed: {reason}. Run it again: it "
            "goes on with the runs that are left."
        ) from error
    return old_runs.lines


def _print_list(lines: list[str]) -> None:
    for line in lines:
        click.echo(f"  {line}")
