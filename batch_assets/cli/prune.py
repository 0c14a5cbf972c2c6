"""`batch-assets cancel`, `adopt` and `prune`: what people do from a terminal, beside a running Dagster."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click
import dagster as dg
import openai

from batch_assets.assets.openai_batch import openai_batch
from batch_assets.batching.ledger.aliases import move_api
from batch_assets.batching.ledger.database import Database, DatabaseBusyError
from batch_assets.batching.ledger.schema import create_warehouse_id
from batch_assets.batching.operations.cancel import cancel_day
from batch_assets.batching.operations.prune import RetentionPolicy, delete_remote_files, plan_pruning, prune
from batch_assets.batching.provider.batches import error_message
from batch_assets.batching.provider.identity import identify
from batch_assets.batching.safety.outside_text import printable
from batch_assets.batching.submission.adoption import AdoptionError, adopt_batch
from batch_assets.cli.dagster_home import StartError, dagster_home, local_api
from batch_assets.day_events import DEFAULT_LOCATION, Origin
from batch_assets.local_api.serving.keys import NO_KEY, local_api_key
from batch_assets.partitions import daily_partitions
from batch_assets.runless_events import report_of_submission
from batch_assets.settings import Settings


def cancel_by_hand(settings: Settings, day: str) -> None:
    """Cancel the day's batches, and say what became of them. Raises click.ClickException."""
    if not daily_partitions.has_partition_key(day):
        raise click.ClickException(f"There is no day {day!r}.")
    with _said_in_a_sentence(), _client(settings) as client:
        done = cancel_day(Database(settings.database), client, day=day, data_folder=settings.data_folder)
    click.echo(str(done))


def adopt_by_hand(settings: Settings, batch_id: str) -> None:
    """Enter the batch into the ledger, and tell the sensor to watch it. Raises click.ClickException."""
    database = Database(settings.database)
    with _said_in_a_sentence():
        with _client(settings) as client:
            days = adopt_batch(database, client, batch_id=batch_id, data_folder=settings.data_folder)
            api = identify(client, database.warehouse_id())
        origin = Origin(DEFAULT_LOCATION, database.warehouse_id(), api.name)
        with dg.DagsterInstance.from_config(str(dagster_home(settings))) as instance:
            for day in days:
                now = datetime.now(UTC)
                event = report_of_submission(
                    openai_batch.key, database, settings.data_folder, origin, day, now, batches_adopted=1
                )
                instance.report_runless_asset_event(event)
    click.echo(
        f"{printable(batch_id)} belongs to {', '.join(days)} now; the sensor brings `summaries` when it has ended."
    )


def prune_by_hand(settings: Settings, policy: RetentionPolicy, *, really: bool) -> None:
    """Say what has outlived its life and, if `really`, delete it. Raises click.ClickException."""
    database, today = Database(settings.database), datetime.now(UTC).date()
    kept: list[str] = []
    with _said_in_a_sentence():
        found = plan_pruning(database, data_folder=settings.data_folder, policy=policy, today=today)
        if not found.lines:
            click.echo(f"Nothing to do: no day that is done has anything older than {policy.keep_days} days.")
            return
        if not really:
            click.echo("Would go, of days that are done (--yes does it):")
        else:
            found = prune(database, data_folder=settings.data_folder, policy=policy, today=today)
            if found.remote_files:
                with _client(settings) as client:
                    kept = delete_remote_files(database, client, found)
            click.echo("Gone, of days that are done:")
        for line in found.lines:
            click.echo(f"  {line}")
        for sentence in kept:
            click.echo(sentence)


def move_api_by_hand(settings: Settings, old: str, new: str) -> None:
    """Note that an API has another address now. Raises click.ClickException."""
    with _said_in_a_sentence():
        moved = move_api(Database(settings.database), old, new)
    if not moved:
        raise click.ClickException(f"No submission was made at {old}. `openai_batch.api` names the APIs.")
    click.echo(f"{moved} submissions that were made at {old} are looked for at {new} now.")


def new_warehouse_id_by_hand(settings: Settings) -> None:
    """Give a copied database an identity of its own. Raises click.ClickException."""
    with _said_in_a_sentence(), Database(settings.database).writing() as connection:
        create_warehouse_id(connection)
    click.echo("The database has a new identity. Batches that are in flight belong to the database it was copied from.")


@contextmanager
def _client(settings: Settings) -> Iterator[openai.OpenAI]:
    with local_api(settings) as url:
        if url is not None:
            client = openai.OpenAI(api_key=local_api_key(settings.local_api_folder), base_url=url)
        else:  # the client reads OPENAI_BASE_URL, and the key if there is one, by itself
            client = openai.OpenAI(api_key=None if settings.has_key else NO_KEY)
        with client:
            yield client


@contextmanager
def _said_in_a_sentence() -> Iterator[None]:
    try:
        yield
    except (AdoptionError, DatabaseBusyError, StartError) as error:
        raise click.ClickException(str(error)) from error
    except openai.OpenAIError as error:
        raise click.ClickException(f"OpenAI says: {error_message(error)}") from error
