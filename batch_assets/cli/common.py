"""What the commands share: the settings, a client of the API, and errors as one sentence.

The heavy imports are inside the functions. So `--help` is fast, and the settings are checked before Dagster loads: our
definitions read the settings too, and would answer a wrong one with a stack trace.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_assets.batching.task_day import FIRST_TASK
from batch_assets.settings import SettingError, Settings, read_settings

if TYPE_CHECKING:
    import openai

    from batch_assets.batching.ledger.database import Database
    from batch_assets.task_set import DeclaredTask, TaskSet


task_option = click.option(
    "--task", default=FIRST_TASK, show_default=True, metavar="NAME", help="The task: the name of its table."
)

day_option = click.option(
    "--day",
    metavar="YYYY-MM-DD",
    help="The day.  [default: yesterday for the bundled sample, BATCH_ASSETS_START_DATE for your own source]",
)


def checked_settings() -> Settings:
    """The settings of the environment. Raises click.ClickException."""
    try:
        return read_settings()
    except SettingError as error:
        raise click.ClickException(str(error)) from error


def check_day(day: str) -> str:
    """The day, if it is a partition. Raises click.ClickException."""
    from batch_assets.partitions import daily_partitions

    if not daily_partitions.has_partition_key(day):
        first, last = daily_partitions.get_first_partition_key(), daily_partitions.get_last_partition_key()
        raise click.ClickException(f"There is no day {day!r}: from {first} (BATCH_ASSETS_START_DATE) to {last}.")
    return day


def chosen_day(day: str | None, settings: Settings, task: "DeclaredTask") -> str:
    """The day that the user named, or the default of `day_option`. Raises click.ClickException."""
    return check_day(day or settings.default_day(task.feed.source.source))


def find_task(tasks: "TaskSet", name: str) -> "DeclaredTask":
    """The task of this name in `defs/`. Raises click.ClickException."""
    from batch_assets.batching.safety.outside_text import printable
    from batch_assets.project_tasks import declared_task

    declared = declared_task(tasks, name)
    if declared is None:
        known = ", ".join(sorted(tasks.keys))
        raise click.ClickException(f"There is no task {printable(name)} in `defs/`: it has {known}.")
    return declared


def existing_database(settings: Settings) -> "Database":
    """The database. Raises click.ClickException if it is a file that does not exist: to read it would create it."""
    from batch_assets.batching.ledger.database import Database

    database = Database(settings.database)
    if not database.exists:
        raise click.ClickException(f"There is no database {settings.database} yet: materialize a day first.")
    return database


def target_file(out: Path) -> Path:
    """The absolute path of a file to write. Raises click.ClickException if a command cannot write it.

    A device or a pipe is refused: the finished file would take its place.
    """
    from batch_assets.batching.safety.outside_text import printable

    target = out.expanduser().absolute()
    if target.exists() and not target.is_file():
        raise click.ClickException(f"{printable(str(out))} is no ordinary file: name another one.")
    folder = printable(str(target.parent))
    if not target.parent.is_dir():
        raise click.ClickException(f"There is no folder {folder}: create it, or name a file in another one.")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise click.ClickException(f"The folder {folder} cannot be written: name a file in another one.")
    return target


@contextmanager
def open_client(settings: Settings) -> Iterator["openai.OpenAI"]:
    """A client of the API that the settings name. The local Batch API runs for as long as the `with` if it is that."""
    from batch_assets.api_client import client_at
    from batch_assets.cli.dagster_home.home import local_api

    with local_api(settings) as url, client_at(settings, url) as client:
        yield client


@contextmanager
def errors_in_one_sentence() -> Iterator[None]:
    """Let the errors that a user can do something about be a click.ClickException."""
    import openai

    from batch_assets.batching.collection.comparison import ComparisonError
    from batch_assets.batching.collection.given_files import ReloadError
    from batch_assets.batching.ingest.errors import SourceError
    from batch_assets.batching.ledger.database import DatabaseBusyError
    from batch_assets.batching.operations.abandon import AbandonError
    from batch_assets.batching.operations.export import ExportError
    from batch_assets.batching.planning.task import TaskError
    from batch_assets.batching.submission.adoption import AdoptionError
    from batch_assets.cli.dagster_home.home import NoDagsterHomeError, StartError

    try:
        yield
    except (
        *(AbandonError, AdoptionError, ComparisonError, DatabaseBusyError, ExportError),
        *(NoDagsterHomeError, ReloadError, SourceError, StartError, TaskError),
    ) as error:
        raise click.ClickException(str(error)) from error
    except openai.OpenAIError as error:
        raise click.ClickException(_sentence_of_api(error)) from error


def _sentence_of_api(error: "openai.OpenAIError") -> str:
    """What the API says; without an answer of it, why there is none, and what to do."""
    import openai

    from batch_assets.batching.provider.batches import error_message
    from batch_assets.batching.provider.connection import WHAT_TO_START, refused_address

    if not isinstance(error, openai.APIConnectionError):
        return f"The API says: {error_message(error)}"
    if address := refused_address(error):
        return f"Nothing listens at {address}. {WHAT_TO_START}"
    reason = error_message(error)
    return f"The API did not answer: {reason}. Check OPENAI_BASE_URL, the network and the proxy, and try again."
