"""`batch-assets demo`: one day from articles to summaries, with the real assets, instance and sensor.

The one thing that it does not run is Dagster's daemon: it evaluates the sensor and carries out what that asks
for in this process. Everything it does is in the persistent Dagster home, and to be seen there in the UI.
"""

import os
import re
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import click
import dagster as dg
import openai
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from batch_assets.assets import batch_request_file, openai_batch, raw_articles
from batch_assets.batching.collection.report import DayReport, day_report
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.provider.batches import error_message
from batch_assets.batching.safety.outside_text import as_message, printable
from batch_assets.cli.dagster_home import StartError, dagster_home, local_api
from batch_assets.cli.local_daemon import Sensor, is_done, materialize, opened_instance, reasons
from batch_assets.cli.terminal import shown
from batch_assets.local_api.serving.keys import NO_KEY
from batch_assets.partitions import daily_partitions
from batch_assets.settings import Settings

LOOK_SECONDS = 0.5  # between two evaluations of the sensor
REMOTE_LOOK_SECONDS = 15.0
ROWS_SHOWN = 50


def run_demo(settings: Settings, *, day: str | None, ask: bool) -> None:
    """Do the day, and print its summaries. Raises click.ClickException where that can't be."""
    console = Console()
    warnings.filterwarnings("ignore", module="dagster")
    day = _checked_day(day or settings.first_day)
    with ExitStack() as stack:
        home = dagster_home(settings)
        try:
            url = stack.enter_context(local_api(settings))
        except StartError as error:
            raise click.ClickException(str(error)) from error
        if url is None:
            _reach_openai(settings)
        instance = stack.enter_context(opened_instance(str(home)))
        console.print(Text.assemble((day, "bold"), " from ", as_message(settings.source)))
        console.print(Text(f"sent to {'the local Batch API at ' + url if url else api_name()}\n"))
        _do(instance, [raw_articles.key, batch_request_file.key], day, console)
        if url is None and ask:
            _ask(instance)
        _do(instance, [openai_batch.key], day, console)
        with _progress_bar(console) as show:
            _follow(instance, settings, day, show, console)
    _print_report(console, day_report(Database(settings.database), day, preview_rows=ROWS_SHOWN), settings)


def api_name() -> str:
    """OpenAI, or the host of another API that the environment names; without a path, in which there may be a secret."""
    named = as_message(os.environ.get("OPENAI_BASE_URL", "").strip())
    return re.split("[/?#]", named.rpartition("://")[2].rpartition("@")[2])[0] or "OpenAI"


def _checked_day(day: str) -> str:
    if not daily_partitions.has_partition_key(day):
        first, last = daily_partitions.get_first_partition_key(), daily_partitions.get_last_partition_key()
        raise click.ClickException(f"There is no day {day!r}: from {first} (BATCH_ASSETS_START_DATE) to {last}.")
    return day


def _reach_openai(settings: Settings) -> None:
    """A run would try for ten minutes to reach an API; somebody at a terminal wants to know at once."""
    client = openai.OpenAI(api_key=None if settings.has_key else NO_KEY, timeout=20, max_retries=0)
    try:
        with client:
            client.batches.list(limit=1)
    except openai.OpenAIError as error:
        raise click.ClickException(
            f"The API at {as_message(str(client.base_url))} does not answer as it should: {error_message(error)}"
        ) from error


def _do(
    instance: dg.DagsterInstance,
    assets: Iterable[dg.AssetKey],
    day: str,
    console: Console,
    request: dg.RunRequest | None = None,
) -> None:
    """Materialize, and say so; a failure ends the demo with its reasons."""
    names = ", ".join(key.to_user_string() for key in assets)
    with console.status(Text(f"materializing {printable(names)}")):
        result = materialize(
            instance,
            assets,
            day,
            tags=request.tags if request else None,
            run_config=request.run_config if request else None,
        )
    if not result.success:
        raise click.ClickException(f"{names} failed. {reasons(result)}\nThe whole story is in run {result.run_id}.")
    for event in result.get_asset_materialization_events():
        name = event.asset_key.to_user_string() if event.asset_key else ""
        console.print(Text.assemble(("✓", "green"), " ", printable(name)))
        undated = event.step_materialization_data.materialization.metadata.get("undated_rows")
        if undated is not None and undated.value:
            console.print(Text(f"  {undated.value} rows of the source belong to no day: see `published_at`", "yellow"))


def _ask(instance: dg.DagsterInstance) -> None:
    """Say what the day will cost, and go on only if that's wanted."""
    event = instance.get_latest_materialization_event(batch_request_file.key)
    planned = event.asset_materialization.metadata if event and event.asset_materialization else {}
    requests = planned["requests_in_new_files"].value if "requests_in_new_files" in planned else 0
    if not requests:
        return
    cost = f"at most ${planned['max_cost_usd'].value:.4f}" if "max_cost_usd" in planned else "an unknown amount"
    model = printable(str(planned["model"].value))
    question = f"{requests} requests to {model} will cost {cost} (estimated). Send them to {api_name()}?"
    click.confirm(question, abort=True)


def _follow(instance: dg.DagsterInstance, settings: Settings, day: str, show: "ProgressBar", console: Console) -> None:
    """Evaluate the sensor, and do what it asks for, until the day is done."""
    sensor = Sensor(instance, settings)
    while not is_done(instance, day):
        requests, observations = sensor.tick()
        for observation in observations:
            if observation.partition == day:
                show(observation)
        ours = [request for request in requests if request.partition_key == day]
        for request in ours:
            _do(instance, request.asset_selection or [], day, console, request)
        if not ours:
            time.sleep(REMOTE_LOOK_SECONDS if settings.has_remote_api else LOOK_SECONDS)


class ProgressBar:
    """Shows observations of a day's batches."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("waiting for the batches", total=None)

    def __call__(self, observation: dg.AssetObservation) -> None:
        metadata = observation.metadata
        total, done = metadata["requests_total"].value, metadata["requests_done"].value
        self._progress.update(
            self._task,
            description=as_message(str(metadata["status"].value)),
            total=float(str(total)) or None,
            completed=float(str(done)),
        )


@contextmanager
def _progress_bar(console: Console) -> Iterator[ProgressBar]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield ProgressBar(progress)


def _print_report(console: Console, report: DayReport, settings: Settings) -> None:
    table = Table(show_lines=True, title=f"Summaries of {report.day}", title_justify="left", expand=True)
    table.add_column("article", ratio=1, overflow="fold")  # some scripts have no spaces to break a line at
    table.add_column("summary", ratio=3, overflow="fold")
    for article_id, title, status, text in report.preview:
        summary = shown(text) if status == "answered" else Text.assemble((status, "red"), ": ", shown(text))
        table.add_row(shown(title or article_id), summary)
    console.print(table)
    counts = ", ".join(f"{count} {status}" for status, count in report.by_status.items()) or "none"
    spent = report.spending
    cost = "unknown" if spent.cost_usd is None else f"${spent.cost_usd:.6f}"
    simulated = f", and at OpenAI's batch prices ${spent.simulated_cost_usd:.6f} simulated by the built-in engine"
    billed = cost + (simulated if spent.simulated_cost_usd else "")
    for line in (
        f"{report.articles} articles: {counts}. {report.rejected} rows of the source were set aside.",
        f"Answered by {', '.join(report.apis) or 'nothing yet'}.",
        f"{spent.input_tokens:,} input and {spent.output_tokens:,} output tokens. Billed: {billed}.",
        "",
        f"The tables:  {as_message(settings.database)}  (`summaries`, `rejected_article`, …)",
        "The runs:    make dev, or batch-assets dev",
    ):
        console.print(Text(line), soft_wrap=True)
