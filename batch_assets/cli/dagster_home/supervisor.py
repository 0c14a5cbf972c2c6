"""`batch-assets dev`: Dagster's UI and daemon, with the local Batch API beside them unless a key is set."""

import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import click
from sqlalchemy.exc import SQLAlchemyError

from batch_assets.cli.dagster_home import StartError, dagster_home, shipped, wait_for_local_api
from batch_assets.cli.dagster_home.dagster_services import code_servers, daemon, fail_orphaned_runs_of, webserver
from batch_assets.cli.dagster_home.lock import AlreadyRunningError, only_one
from batch_assets.cli.dagster_home.processes import Family, family, interrupt_on_signals
from batch_assets.cli.dagster_home.services import Service, local_api_service
from batch_assets.cli.dagster_home.ui import Ui, make_ui
from batch_assets.cli.dagster_home.ui_gate import is_local
from batch_assets.settings import Settings, read_settings

START_SECONDS = 180.0
WATCH_SECONDS = 0.2
GROUP_PAGE = "/locations/batch_assets/asset-groups/articles/lineage"


def run_dev(settings: Settings, *, host: str, port: int | None) -> None:
    """Run until Ctrl-C, SIGTERM or SIGHUP. Raises click.ClickException if something won't start, or won't stay."""
    interrupt_on_signals()
    try:
        ui = make_ui(host, port)
        home = dagster_home(settings)
        # Every process that Dagster starts reads these again, in whatever folder it runs.
        os.environ["BATCH_ASSETS_DATA_DIR"] = str(settings.data_folder)
        os.environ["BATCH_ASSETS_DUCKDB"] = settings.database
        with only_one(home / "dev.lock") as lock:
            folder = Path(tempfile.mkdtemp(prefix="batch_assets-"))
            with family(lock=lock, folder=folder) as children:
                _run(settings, home, folder, children, ui)
    except KeyboardInterrupt:
        _say("\nStopped. Batches that were submitted go on; start again, and they are collected.")
    except StartError as error:
        raise click.ClickException(str(error)) from error
    except AlreadyRunningError:
        raise click.ClickException(
            f"`batch-assets dev` is already running on {home}. Use that, or set BATCH_ASSETS_DATA_DIR."
        ) from None
    except (OSError, SQLAlchemyError) as error:
        raise click.ClickException(
            f"`batch-assets dev` has ended, since a file cannot be written or read: {_short(error)}. Look after the "
            f"disk and the permissions of {settings.data_folder}, and start again."
        ) from error


def _run(settings: Settings, home: Path, folder: Path, children: Family, ui: Ui) -> None:
    """Start everything, and keep it running. Raises StartError. Ends Dagster; `children` ends the API after it."""
    api = None if settings.has_remote_api else local_api_service(settings, children)
    services: list[Service] = []
    ready, ended = threading.Event(), threading.Event()
    try:
        # First, and alone: two processes that open a new home at once both write the version of Dagster's tables.
        fail_orphaned_runs_of(home)
        services, workspace = code_servers(shipped("workspace.yaml"), folder, home, children)
        url = None if api is None else wait_for_local_api(api.process, settings)
        _say(f"Data        {settings.data_folder}")
        _say(f"Dagster     {home}")
        _say(f"Batch API   {url or 'OpenAI'}")
        _say(f"Starting the UI on {ui.url} (10 to 30 s); Ctrl-C ends everything.\n")
        if not is_local(ui.host):
            _say("The UI asks other machines, and you, for the password. The traffic is not encrypted.\n")
        _wait_for_code(services, children)
        services += [daemon(workspace, children), webserver(workspace, ui, children)]
        threading.Thread(target=_say_when_ready, args=(ui, ready, ended), daemon=True).start()
        while True:
            for service in services if api is None else [*services, api]:
                if happened := service.keep(children, has_started=ready.is_set()):
                    _say(happened, is_error=True)
            children.keep_guardian()
            time.sleep(WATCH_SECONDS)
    finally:
        ended.set()
        children.end([service.process for service in services if service.process is not None])


def _wait_for_code(servers: list[Service], children: Family) -> None:
    """Until they all answer: a webserver that finds none shows an error. Raises StartError."""
    deadline = time.monotonic() + START_SECONDS
    while not all(server.is_there() for server in servers):
        for server in servers:
            server.keep(children, has_started=False)
        if time.monotonic() > deadline:
            raise StartError(f"The code server did not start within {START_SECONDS:.0f} s; its output is above.")
        time.sleep(WATCH_SECONDS)


def _say_when_ready(ui: Ui, ready: threading.Event, ended: threading.Event) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ui.is_there():
        if ended.wait(0.5) or time.monotonic() > deadline:
            return
    broken = ui.load_error()
    ready.set()
    if broken:
        _say(f"The UI is there, but the project does not load:\n{broken}", is_error=True)
        return
    _say(f"Ready: {ui.url}{GROUP_PAGE}\n")
    _say(
        f"Shift-click raw_articles, batch_request_file and openai_batch, then Materialize selected, for example for\n"
        f"{read_settings().first_day}; a sensor brings summaries."
    )


def _say(text: str, *, is_error: bool = False) -> None:
    with suppress(OSError):  # the terminal is closed
        click.echo(text, err=is_error)


def _short(error: Exception) -> str:
    reason = getattr(error, "orig", None) or error  # of SQLAlchemy's, without the statement
    return " ".join(str(reason).split()).rstrip(".")
