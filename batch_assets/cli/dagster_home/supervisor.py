"""Starts the services of `batch-assets dev`, waits until they answer, and restarts those that end."""

import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import click

from batch_assets.cli.dagster_home.dagster_services import (
    all_locations,
    code_servers,
    daemon,
    our_locations,
    webserver,
)
from batch_assets.cli.dagster_home.home import StartError, packaged_file, wait_for_local_api
from batch_assets.cli.dagster_home.processes import ChildProcesses
from batch_assets.cli.dagster_home.services import Service, local_api_service
from batch_assets.cli.dagster_home.shared_home import check_queue, fail_runs_of_ended_servers
from batch_assets.cli.dagster_home.ui import Ui
from batch_assets.local_api.http.local_names import is_local
from batch_assets.local_api.serving.discovery import page_url
from batch_assets.settings import Settings, read_settings

START_SECONDS = 180.0
CHECK_SECONDS = 0.2
GROUP_PAGE = "/locations/batch_assets/asset-groups/articles/lineage"


def run_services(
    settings: Settings, dagster_home: Path, temporary_folder: Path, children: ChildProcesses, ui: Ui
) -> None:
    """Start the services, and restart those that end. Raises StartError when a service ends too often.

    At the end Dagster's services end first; `children` ends the local Batch API after them.
    """
    given = packaged_file("workspace.yaml")
    api = None if settings.has_remote_api else local_api_service(settings, children)
    services: list[Service] = []
    ready, ended = threading.Event(), threading.Event()
    try:
        # First, and alone: two processes that open a new home at once both write the version of Dagster's tables.
        check_queue(dagster_home, all_locations(given))
        fail_runs_of_ended_servers(dagster_home, our_locations(given))
        services, workspace = code_servers(given, temporary_folder, dagster_home, children)
        api_url = None if api is None else wait_for_local_api(api.process, settings)
        print_line(f"Data        {settings.data_folder}")
        print_line(f"Dagster     {dagster_home}")
        print_line(f"Batch API   {api_url or 'OpenAI'}")
        if api_url and (page := page_url(settings.local_api_folder, with_token=sys.stdout.isatty())):
            print_line(f"Batches     {page}")
        print_line(f"Starting the UI on {ui.url} (10 to 30 s); Ctrl-C ends everything.\n")
        if not is_local(ui.host):
            print_line("The UI asks every user for the password, on this machine too. The traffic is not encrypted.\n")
        _wait_for_code_servers(services, children)
        services += [daemon(workspace, children), webserver(workspace, ui, children)]
        threading.Thread(target=_print_when_ready, args=(ui, ready, ended), daemon=True).start()
        while True:
            for service in services if api is None else [*services, api]:
                if restart := service.restart_if_ended(children, has_started=ready.is_set()):
                    print_line(restart, is_error=True)
            children.ensure_reaper()
            time.sleep(CHECK_SECONDS)
    finally:
        ended.set()
        children.end([service.process for service in services if service.process is not None])


def print_line(text: str, *, is_error: bool = False) -> None:
    """Print to the terminal, which may be closed."""
    with suppress(OSError):
        click.echo(text, err=is_error)


def _wait_for_code_servers(servers: list[Service], children: ChildProcesses) -> None:
    """Until all of them answer: a webserver that finds none shows an error. Raises StartError."""
    deadline = time.monotonic() + START_SECONDS
    while not all(server.is_ready() for server in servers):
        for server in servers:
            server.restart_if_ended(children, has_started=False)
        if time.monotonic() > deadline:
            raise StartError(f"The code server did not start within {START_SECONDS:.0f} s; its output is above.")
        time.sleep(CHECK_SECONDS)


def _print_when_ready(ui: Ui, ready: threading.Event, ended: threading.Event) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ui.is_ready():
        if ended.wait(0.5) or time.monotonic() > deadline:
            return
    load_error = ui.load_error()
    ready.set()
    if load_error:
        print_line(f"The UI is ready, but the project does not load:\n{load_error}", is_error=True)
        return
    print_line(f"Ready: {ui.url}{GROUP_PAGE}\n")
    settings = read_settings()
    print_line(
        f"Shift-click raw_articles, batch_request_file and openai_batch, then Materialize selected, for example for\n"
        f"{settings.default_day(settings.source)}. The sensor materializes summaries."
    )
