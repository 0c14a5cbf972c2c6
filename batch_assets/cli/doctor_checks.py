"""The checks of `batch-assets doctor`. Each is independent: one that fails, or takes too long, stops no other."""

import os
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import duckdb
import openai

from batch_assets.api_client import client_of_running_api
from batch_assets.batching.counting import counted
from batch_assets.batching.ingest.articles import preview_day
from batch_assets.batching.ingest.source import Kind
from batch_assets.batching.ledger.database import BUSY_PHRASES, Database, DatabaseBusyError, is_url
from batch_assets.batching.ledger.known_batches import why_no_stand_in
from batch_assets.batching.ledger.migrations import MIGRATIONS
from batch_assets.batching.ledger.schema import read_warehouse_id
from batch_assets.batching.ledger.upgrade import migrations_of
from batch_assets.batching.provider.batches import error_message
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE, ORGANIZATION, api_name, normalized_url
from batch_assets.batching.provider.model_options import OPENAI_API
from batch_assets.batching.provider.prices import batch_rates
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.local_api.serving.discovery import running_url
from batch_assets.settings import SettingError, Settings, read_settings

CHECK_SECONDS = 10
REQUEST_SECONDS = 5.0
LEAST_BYTES, FEW_BYTES = 200_000_000, 2_000_000_000  # free on the disk: too few for a day, few for many
PACKAGES = ("batch-assets", "dagster", "duckdb", "openai")


class Status(StrEnum):
    """ok; warning: works, with a restriction; failed: a run would fail."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """The result of a check. what_to_do: None if nothing is."""

    name: str
    status: Status
    message: str
    what_to_do: str | None = None


Finding = tuple[Status, str, str | None]


def run_checks() -> Iterator[Check]:
    """All checks, one after the other, each within `CHECK_SECONDS`."""
    yield Check("versions", Status.OK, ", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    try:
        settings = read_settings()
    except SettingError as error:
        yield Check("settings", Status.FAILED, as_message(str(error)), "The other checks need the settings.")
        return
    yield Check("settings", Status.OK, f"data folder {settings.data_folder}, model {settings.model}")
    checks: dict[str, Callable[[Settings], Iterator[Finding]]] = {
        "data folder": _data_folder,
        "disk": _disk,
        "database": _database,
        "api": _api,
        "models": _models,
        "source": _source,
        "dagster": _dagster,
        "local api": _local_api,
    }
    for name, check in checks.items():
        yield from _run(name, check, settings)


def _run(name: str, check: Callable[[Settings], Iterator[Finding]], settings: Settings) -> Iterator[Check]:
    is_late = False

    def stop(*_: object) -> None:
        nonlocal is_late
        is_late = True
        raise TimeoutError

    found: list[Finding] = []
    try:
        with _alarm(stop):
            found.extend(check(settings))
    except DatabaseBusyError:  # a run would wait for it; the check of the database says who has it open
        found.append((Status.WARNING, "left out in part, since another process has the database open", None))
    except Exception as error:
        if is_late:
            found.append((Status.WARNING, f"the check did not end within {CHECK_SECONDS} s", None))
        else:
            found.append((Status.FAILED, str(error) or type(error).__name__, None))
    for status, message, what_to_do in found:  # DuckDB and the API repeat what they were given
        yield Check(name, status, as_message(message, settings.database, settings.source), what_to_do)


@contextmanager
def _alarm(handler: Callable[..., None]) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, CHECK_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "is not installed as a package"


def _data_folder(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_folder
    if not folder.exists():
        yield Status.OK, f"{folder} does not exist yet: the first run makes it", None
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        yield Status.FAILED, f"{folder} cannot be written", "Change its owner or its permissions."
    elif stat.S_IMODE(folder.stat().st_mode) & 0o077:
        yield (
            Status.WARNING,
            f"other users can read {folder} ({stat.filemode(folder.stat().st_mode)})",
            f"chmod 700 {folder}",
        )
    else:
        yield Status.OK, f"only this user can read {folder}", None


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = next(path for path in (settings.data_folder, *settings.data_folder.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    status = Status.FAILED if free < LEAST_BYTES else Status.WARNING if free < FEW_BYTES else Status.OK
    advice = None if status is Status.OK else "`batch-assets prune` deletes and compresses files of finished days."
    yield status, f"{free / 1e9:,.1f} GB free", advice


def _database(settings: Settings) -> Iterator[Finding]:
    if is_url(settings.database):
        with duckdb.connect(settings.database) as connection:
            yield from _tables("the database", "", connection)
        return
    path = Path(settings.database)
    if not path.exists():
        yield Status.OK, f"{path} does not exist yet: the first run makes it", None
        return
    try:
        connection = duckdb.connect(str(path), read_only=True)
    except duckdb.IOException as error:
        if not any(phrase in str(error).lower() for phrase in BUSY_PHRASES):
            raise
        holder = str(error).partition("Conflicting lock is held in ")[2].partition(". ")[0] or "another process"
        yield (
            Status.WARNING,
            f"{path} is in use by {holder}: the other checks of it were left out",
            "If that is a run, wait. If it is a shell or another program, close it: runs wait for it.",
        )
        return
    with connection:
        yield from _tables(str(path), f", {path.stat().st_size / 1e6:,.1f} MB", connection)


def _tables(name: str, size: str, connection: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    applied = migrations_of(connection)
    pending = [migration for migration in MIGRATIONS if migration not in (applied or ())]
    later = sorted((applied or set()) - MIGRATIONS.keys())
    if later:
        yield (
            Status.WARNING,
            f"a later version of batch_assets has changed {name} ({', '.join(later)})",
            "Use that version.",
        )
    if pending:
        yield (
            Status.WARNING,
            f"{counted(len(pending), 'migration')} of {name} to be applied: {', '.join(pending)}",
            "The next run or command applies them. Copy the file before, if an earlier version uses it, too.",
        )
    if applied is not None:
        yield Status.OK, f"{name}{size}, warehouse id {read_warehouse_id(connection)}", None


def _api(settings: Settings) -> Iterator[Finding]:
    if not settings.has_remote_api and _can_be_read(settings) and (why := why_no_stand_in(_quick(settings))):
        yield Status.FAILED, why, None
        return
    with client_of_running_api(settings) as client:
        if client is None:
            yield Status.OK, "no key is set: the local Batch API stands in for OpenAI", None
            return
        address = normalized_url(str(client.base_url))
        asking = client.with_options(timeout=REQUEST_SECONDS, max_retries=0)
        try:
            headers = asking.batches.with_raw_response.list(limit=1).headers
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            yield (
                Status.FAILED,
                f"{address} refuses the key: {error_message(error)}",
                "Set OPENAI_API_KEY to a valid key.",
            )
            return
        except openai.APIStatusError as error:
            status = Status.WARNING if error.status_code in (404, 405, 501) else Status.FAILED
            yield status, f"{address} answers {error.status_code} to a list of batches: {error_message(error)}", None
            return
        except openai.OpenAIError as error:
            yield (
                Status.FAILED,
                f"{address} does not answer: {error_message(error)}",
                "Check OPENAI_BASE_URL, the network and the proxy.",
            )
            return
        organization = headers.get(ORGANIZATION)
        account = f", organization {organization}" if organization else ""
        yield Status.OK, f"{api_name(client, headers)} answers, and accepts the key{account}", None


def _models(settings: Settings) -> Iterator[Finding]:
    from batch_assets.project_tasks import read_tasks

    tasks = read_tasks(settings)
    with client_of_running_api(settings) as client:
        api = BUILT_IN_ENGINE if client is None else normalized_url(str(client.base_url))
        for model in dict.fromkeys(declared.task.model for declared in tasks.tasks):
            of_tasks = ", ".join(declared.name for declared in tasks.tasks if declared.task.model == model)
            if client is not None and api == OPENAI_API:
                try:
                    client.with_options(timeout=REQUEST_SECONDS, max_retries=0).models.retrieve(model)
                except openai.NotFoundError:
                    yield (
                        Status.FAILED,
                        f"this key has no model {model} ({of_tasks})",
                        "Give the project access to it, or set BATCH_ASSETS_MODEL.",
                    )
                    continue
                except openai.OpenAIError:
                    pass  # the check of the API has the reason
            is_local = not settings.has_remote_api
            rates = batch_rates(model, api=BUILT_IN_ENGINE if is_local else api, own_prices=tasks.limits.own_prices)
            if rates is None:
                yield (
                    Status.WARNING,
                    f"the price of {model} ({of_tasks}) in batches is not known: its cost is unknown",
                    "Set it in `prices` of the task. A budget allows nothing until then.",
                )
            else:
                cost = f"${rates.input_usd * 1e6:g} and ${rates.output_usd * 1e6:g} per million tokens in a batch"
                yield Status.OK, f"{model} ({of_tasks}): {cost}", None


def _source(settings: Settings) -> Iterator[Finding]:
    from batch_assets.partitions import daily_partitions
    from batch_assets.project_tasks import read_tasks

    tasks, day = read_tasks(settings), daily_partitions.get_last_partition_key()
    for feed in tasks.feeds:
        name = feed.key.to_user_string()
        if day is None:
            yield Status.WARNING, f"{name} has no day yet: BATCH_ASSETS_START_DATE is {settings.first_day}", None
            continue
        source = tasks.source_of(feed)
        if source.kind is Kind.TABLE and not _can_be_read(settings):
            yield Status.WARNING, f"{name} is a table of the database, which cannot be read now", None
            continue
        rows = preview_day(_quick(settings), source, day)
        status = Status.OK if rows.articles else Status.WARNING
        rejected = sum(rows.rejected.values())
        rest = f", and {counted(rejected, 'row that is', 'rows that are')} no article" if rejected else ""
        yield status, f"{name} has {counted(rows.articles, 'article')} of {day}{rest}", None


def _dagster(settings: Settings) -> Iterator[Finding]:
    import dagster as dg
    from dagster._core.scheduler.instigation import InstigatorStatus, InstigatorType

    from batch_assets.cli.dagster_home.home import NoDagsterHomeError, find_dagster_home
    from batch_assets.sensors import SENSOR

    try:
        home = find_dagster_home(settings)
    except NoDagsterHomeError:
        yield Status.OK, "there is no Dagster home yet: `batch-assets dev` makes it", None
        return
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield Status.OK, f"its home is {home}", None
        beats = instance.get_daemon_heartbeats()
        newest = max((beat.timestamp for beat in beats.values()), default=None)
        age = None if newest is None else int(time.time() - newest)
        if age is None or age > 300:
            when = "has never run here" if age is None else f"was last seen {age:,} s ago"
            yield (
                Status.WARNING,
                f"the daemon {when}: nothing polls batches, and no sensor starts a run",
                "Start `batch-assets dev`, or the daemon of your Dagster.",
            )
        else:
            yield Status.OK, f"the daemon was seen {age:,} s ago", None
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
            if state.instigator_name != SENSOR:
                continue  # no other sensor collects
            if state.status is InstigatorStatus.STOPPED:
                yield (
                    Status.WARNING,
                    f"the sensor {state.instigator_name} is switched off: no run collects ended batches",
                    "Switch it on in Dagster's UI.",
                )
            else:
                yield Status.OK, f"the sensor {state.instigator_name} is on", None


def _local_api(settings: Settings) -> Iterator[Finding]:
    url = running_url(settings.local_api_folder)
    if url is not None:
        yield Status.OK, f"runs at {url}", None
    elif settings.has_remote_api:
        yield Status.OK, "does not run: another API is configured", None
    else:
        yield Status.OK, "does not run: `batch-assets dev`, `demo` and `serve` start it", None


def _quick(settings: Settings) -> Database:
    """The database, with a short wait for its lock."""
    return Database(settings.database, lock_timeout_seconds=2.0)


def _can_be_read(settings: Settings) -> bool:
    """Whether there is a database file with today's tables, and no process has it: a check must not migrate it."""
    if is_url(settings.database) or not Path(settings.database).exists():
        return False
    try:
        with duckdb.connect(settings.database, read_only=True) as connection:
            return (migrations_of(connection) or set()) >= MIGRATIONS.keys()
    except duckdb.Error:
        return False
