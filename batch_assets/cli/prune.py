"""`batch-assets prune`: show what is older than its retention, and delete it if the user says so."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from batch_assets.batching.counting import counted
from batch_assets.cli.common import checked_settings, errors_in_one_sentence, open_client
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
@click.option("--yes", is_flag=True, help="Delete. Without it, the command only shows what it would delete.")
def prune(keep_days: int, compress_days: int, tables: bool, answers: bool, remote: bool, yes: bool) -> None:
    """Delete old request and result files. Unfinished days and `summaries` are never touched."""
    if answers and not tables:
        raise click.UsageError("--answers goes with --tables.")
    settings = checked_settings()
    from batch_assets.batching.operations.prune import RetentionPolicy

    policy = RetentionPolicy(
        compress_after_days=compress_days, keep_days=keep_days, tables=tables, answers=answers, remote=remote
    )
    with errors_in_one_sentence():
        _prune(settings, policy, delete=yes)


def _prune(settings: Settings, policy: "RetentionPolicy", *, delete: bool) -> None:
    """Print what is older than the policy allows and, if `delete`, delete it. Raises DatabaseBusyError, OpenAIError."""
    from batch_assets.batching.ledger.database import Database
    from batch_assets.batching.operations import prune as operation
    from batch_assets.batching.operations.remote_deletion import delete_remote_files

    database, today = Database(settings.database), datetime.now(UTC).date()
    found = operation.plan_pruning(database, data_folder=settings.data_folder, policy=policy, today=today)
    if not found.lines:
        click.echo(f"Nothing to delete: no finished day has anything older than {counted(policy.keep_days, 'day')}.")
        return
    if not delete:
        click.echo("Would be deleted or compressed, of finished days (--yes does it):")
        _print_list(found.lines)
        return
    found = operation.prune(database, data_folder=settings.data_folder, policy=policy, today=today)
    click.echo("Deleted or compressed, of finished days:")
    _print_list(found.lines_here)  # before the API is called, which may fail
    if found.remote_files:
        with open_client(settings) as client:
            kept = delete_remote_files(database, client, found)
        _print_list(found.lines_remote)
        for sentence in kept:
            click.echo(sentence)


def _print_list(lines: list[str]) -> None:
    for line in lines:
        click.echo(f"  {line}")
