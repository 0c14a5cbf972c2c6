"""`batch-assets dev`: Dagster's UI and daemon, with the local Batch API beside them unless a key is set."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_assets.cli.common import checked_settings
from batch_assets.settings import Settings

if TYPE_CHECKING:
    from batch_assets.cli.dagster_home.ui import Ui


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the Dagster UI.")
@click.option("--port", type=int, help="Port of the Dagster UI.  [default: 3000, or any free one]")
def dev(host: str, port: int | None) -> None:
    """The Dagster UI with its daemon, and the local Batch API beside it unless a key is set. Ctrl-C ends all.

    Only this machine can use the UI. Another address needs a password, in BATCH_ASSETS_UI_PASSWORD; the traffic is not
    encrypted.
    """
    settings = checked_settings()
    from sqlalchemy.exc import SQLAlchemyError

    from batch_assets.cli.dagster_home.home import StartError, make_dagster_home
    from batch_assets.cli.dagster_home.lock import AlreadyRunningError
    from batch_assets.cli.dagster_home.processes import interrupt_on_signals
    from batch_assets.cli.dagster_home.shared_home import check_run_launcher
    from batch_assets.cli.dagster_home.supervisor import print_line
    from batch_assets.cli.dagster_home.ui import make_ui

    interrupt_on_signals()
    try:
        ui = make_ui(host, port)
        dagster_home = make_dagster_home(settings)
        check_run_launcher(dagster_home)
        _run(settings, dagster_home, ui)
    except KeyboardInterrupt:
        print_line("\nStopped. The next `dev` collects the batches that are submitted.")
    except StartError as error:
        raise click.ClickException(str(error)) from error
    except AlreadyRunningError:
        raise click.ClickException(
            f"`batch-assets dev` is already running on {dagster_home}. Use that, or set BATCH_ASSETS_DATA_DIR."
        ) from None
    except (OSError, SQLAlchemyError) as error:
        raise click.ClickException(
            f"`batch-assets dev` has ended, since a file cannot be written or read: {_one_line(error)}. Check the disk "
            f"and the permissions of {settings.data_folder}, and start again."
        ) from error


def _run(settings: Settings, dagster_home: Path, ui: "Ui") -> None:
    """Hold the lock, and run the services until Ctrl-C, SIGTERM or SIGHUP. Raises StartError, AlreadyRunningError."""
    from batch_assets.cli.dagster_home.lock import exclusive_lock
    from batch_assets.cli.dagster_home.processes import child_processes
    from batch_assets.cli.dagster_home.supervisor import run_services

    # Each process that Dagster starts reads these again, and may start in another folder.
    os.environ["BATCH_ASSETS_DATA_DIR"] = str(settings.data_folder)
    os.environ["BATCH_ASSETS_DUCKDB"] = settings.database
    with exclusive_lock(dagster_home / "dev.lock") as lock:
        temporary_folder = Path(tempfile.mkdtemp(prefix="batch_assets-"))
        with child_processes(lock=lock, folder=temporary_folder) as children:
            run_services(settings, dagster_home, temporary_folder, children, ui)


def _one_line(error: Exception) -> str:
    reason = getattr(error, "orig", None) or error  # without the statement of an error of SQLAlchemy
    return " ".join(str(reason).split()).rstrip(".")
