"""The day of `batch-assets demo`: materialize the assets, follow the sensor, print the summaries."""

import os
import re
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from batch_assets.asset_keys import TaskKeys
from batch_assets.batching.collection.report import DayReport, day_report
from batch_assets.batching.counting import counted, usd
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.day_figures import figures_of_collected_day
from batch_assets.batching.safety.outside_text import as_message, printable
from batch_assets.cli.local_daemon import Sensor, failure_message, is_done, materialize, open_instance
from batch_assets.cli.terminal import as_rich_text
from batch_assets.settings import Settings
from batch_assets.task_set import DeclaredTask

POLL_SECONDS = 0.5  # between two evaluations of the sensor
REMOTE_POLL_SECONDS = 15.0
MAX_ROWS = 50


def run_day(
    settings: Settings, dagster_home: Path, day: str, declared: DeclaredTask, api_url: str | None, *, confirm: bool
) -> None:
    """Materialize the day of the task until it is done, and print its results. Raises click.ClickException.

    api_url: of the local Batch API; None where another API is configured. confirm: ask before that one is paid.
    """
    keys = declared.keys
    console = Console()
    warnings.filterwarnings("ignore", module="dagster")
    os.environ["BATCH_ASSETS_DAYS_PER_RUN"] = "1"  # the sensor requests no run of this day together with others
    with open_instance(dagster_home) as instance:
        console.print(Text.assemble((day, "bold"), " from ", _shown_source(declared)))
        console.print(Text(f"sent to {'the local Batch API at ' + api_url if api_url else api_name()}\n"))
        _materialize(instance, [declared.feed.key, keys.batch_request_file], day, console)
        if api_url is None and confirm:
            _confirm_cost(instance, keys)
        _materialize(instance, [keys.openai_batch], day, console)
        with _progress_bar(console) as progress_bar:
            _follow_sensor(instance, settings, declared, day, progress_bar, console)
    with Database(settings.database).reading() as connection:
        figures = figures_of_collected_day(connection, declared.task.on(day))
        report = day_report(connection, declared.results, figures, preview_rows=MAX_ROWS)
    _print_report(console, report, settings, declared.name)


def _shown_source(declared: DeclaredTask) -> str:
    """The source of the task; a file in the working directory without the path of that."""
    return as_message(declared.feed.source.source.removeprefix(f"{Path.cwd()}{os.sep}"))


def api_name() -> str:
    """OpenAI, or the host of another API that the environment names; without a path, in which there may be a secret."""
    url = as_message(os.environ.get("OPENAI_BASE_URL", "").strip())
    return re.split("[/?#]", url.rpartition("://")[2].rpartition("@")[2])[0] or "OpenAI"


def _materialize(
    instance: dg.DagsterInstance,
    assets: Iterable[dg.AssetKey],
    day: str,
    console: Console,
    request: dg.RunRequest | None = None,
) -> None:
    """Materialize the assets, and print their names. Raises click.ClickException with the reasons of a failure."""
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
        raise click.ClickException(f"{names} failed. {failure_message(result)}\nRun {result.run_id} has all its logs.")
    for event in result.get_asset_materialization_events():
        name = event.asset_key.to_user_string() if event.asset_key else ""
        console.print(Text.assemble(("✓", "green"), " ", printable(name)))
        undated = event.step_materialization_data.materialization.metadata.get("undated_rows")
        if undated is not None and undated.value:
            rows = counted(int(str(undated.value)), "row")
            console.print(Text(f"  {rows} of the source without a day: see `published_at`", "yellow"))


def _confirm_cost(instance: dg.DagsterInstance, keys: TaskKeys) -> None:
    """Print what the day will cost, and ask the user whether to go on. Raises click.Abort."""
    event = instance.get_latest_materialization_event(keys.batch_request_file)
    planned = event.asset_materialization.metadata if event and event.asset_materialization else {}
    requests = planned["requests_in_new_files"].value if "requests_in_new_files" in planned else 0
    if not requests:
        return
    most = planned.get("max_cost_usd")
    cost = "an unknown amount" if most is None else f"at most {usd(float(str(most.value)))}"
    model = printable(str(planned["model"].value))
    question = (
        f"{counted(int(str(requests)), 'request')} to {model} will cost {cost} (estimated). Send to {api_name()}?"
    )
    click.confirm(question, abort=True)


def _follow_sensor(
    instance: dg.DagsterInstance,
    settings: Settings,
    declared: DeclaredTask,
    day: str,
    progress_bar: "ProgressBar",
    console: Console,
) -> None:
    """Evaluate the sensor, and execute the runs that it requests, until the day is done."""
    sensor = Sensor(instance, settings)
    while not is_done(instance, day, declared.name, declared.keys):
        requests, observations = sensor.tick()
        for observation in observations:
            if observation.partition == day and observation.asset_key == declared.keys.openai_batch:
                progress_bar.show(observation)
        requests_of_day = [
            request
            for request in requests
            if request.partition_key == day and set(request.asset_selection or ()) <= set(declared.keys)
        ]
        for request in requests_of_day:
            _materialize(instance, request.asset_selection or [], day, console, request)
        if not requests_of_day:
            time.sleep(REMOTE_POLL_SECONDS if settings.has_remote_api else POLL_SECONDS)


class ProgressBar:
    """Shows observations of a day's batches."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("waiting for the batches", total=None)

    def show(self, observation: dg.AssetObservation) -> None:
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


def _print_report(console: Console, report: DayReport, settings: Settings, task: str) -> None:
    table = Table(show_lines=True, title=f"{task.capitalize()} of {report.day}", title_justify="left", expand=True)
    table.add_column("article", ratio=1, overflow="fold")  # some scripts have no spaces to break a line at
    table.add_column("answer", ratio=3, overflow="fold")
    for article_id, title, status, text in report.preview:
        answer = as_rich_text(text)
        summary = answer if status == "answered" else Text.assemble((status, "red"), ": ", answer)
        table.add_row(as_rich_text(title or article_id), summary)
    console.print(table)
    counts = ", ".join(f"{count} {status}" for status, count in report.figures.by_status.items()) or "none"
    set_aside = f"{counted(report.rejected, 'row')} of the source {'was' if report.rejected == 1 else 'were'}"
    spent = report.figures
    cost = "unknown" if spent.cost_usd is None else usd(spent.cost_usd)
    simulated = f", and at OpenAI's batch prices {usd(spent.simulated_cost_usd)} simulated by the built-in engine"
    billed = cost + (simulated if spent.simulated_cost_usd else "")
    for line in (
        f"{counted(spent.articles, 'article')}: {counts}. {set_aside} set aside.",
        f"Answered by {', '.join(report.apis) or 'nothing yet'}.",
        f"{spent.input_tokens:,} input and {spent.output_tokens:,} output tokens. Billed: {billed}.",
        "",
        f"The tables:  {as_message(settings.database)}  (`{task}`, `rejected_article`, …)",
        "The runs:    make dev, or batch-assets dev",
    ):
        console.print(Text(line), soft_wrap=True)
