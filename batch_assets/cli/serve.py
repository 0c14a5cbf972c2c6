"""`batch-assets serve`: the local Batch API alone."""

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from batch_assets.cli.common import checked_settings
from batch_assets.local_api.faults import FaultConfig
from batch_assets.settings import make_data_folder


def _fault_options(command: Callable[..., None]) -> Callable[..., None]:
    """An option for each field of FaultConfig."""
    for fault in reversed(fields(FaultConfig)):
        metavar = {"seed": "N", "fail_status": "STATUS", "token_limit": "TOKENS"}.get(fault.name)
        if metavar is None:
            metavar = "SHARE" if fault.name.endswith("_share") else "N" if type(fault.default) is int else "SECONDS"
        command = click.option(
            f"--{fault.name.replace('_', '-')}",
            type=type(fault.default),
            default=fault.default,
            metavar=metavar,
            show_default=bool(fault.default),
            help=fault.metadata["help"],
        )(command)
    return command


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=int, default=0, help="Port to listen on.  [default: the last one, or any free one]")
@click.option(
    "--batch-seconds", type=float, default=0.0, help="Shortest time that a batch takes, to watch it.  [default: 0]"
)
@click.option(
    "--latency", "latency_seconds", type=float, default=0.0, help="Seconds that each request takes.  [default: 0]"
)
@click.option(
    "--engine",
    default="extractive",
    show_default=True,
    help="What answers: extractive, smollm2, or the URL of an OpenAI-compatible server, such as http://host:8000/v1.",
)
@click.option("--engine-model", metavar="NAME", help="Model to ask that server for.  [default: the request's]")
@click.option(
    "--engine-timeout",
    "engine_timeout_seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    help="Seconds that one of its answers may take.  [default: 600]",
)
@click.option(
    "--concurrency", type=click.IntRange(min=1), default=4, show_default=True, help="Requests at the same time."
)
@click.option("--webhook", metavar="URL", help="Tell this URL when a batch has ended, with OpenAI's signature.")
@click.option(
    "--without-key", is_flag=True, help="Let every user of this machine use it. Only on 127.0.0.1, and without a key."
)
@click.option("--control", is_flag=True, help="Let clients change the faults, by PUT /control/faults.")
@_fault_options
def serve(without_key: bool, webhook: str | None, control: bool, **options: Any) -> None:
    """The local Batch API alone: files, batches and chat completions as OpenAI has them.

    Clients send a key: the one in BATCH_ASSETS_SERVE_KEY, or the one that the server makes and keeps in its folder,
    where only you can read it. An address other than 127.0.0.1 needs one in BATCH_ASSETS_SERVE_KEY.
    If another server answers, its key belongs in BATCH_ASSETS_SERVE_ENGINE_KEY.

    The options from --seed on are faults: the server fails on purpose.
    """
    from batch_assets.local_api.serving.directory_lock import AlreadyRunningError
    from batch_assets.local_api.serving.events import print_events, printable_stream
    from batch_assets.local_api.serving.server import serve as serve_api
    from batch_assets.local_api.storage.database import OtherVersionError

    sys.stdout, sys.stderr = printable_stream(sys.stdout), printable_stream(sys.stderr)
    print_events(sys.stdout)
    settings = checked_settings()
    folder = settings.local_api_folder
    faults = {fault.name: options.pop(fault.name) for fault in fields(FaultConfig)}
    try:
        make_data_folder(settings)
        serve_api(
            folder,
            faults=FaultConfig(**faults),
            control=control,
            webhook=webhook,
            without_key=without_key,
            ready=lambda url: _print_address(url, folder, without_key=without_key, webhook=webhook, control=control),
            **options,  # the names of the other options are those of `serve_api`
        )
    except (AlreadyRunningError, OtherVersionError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _print_address(url: str, folder: Path, *, without_key: bool, webhook: str | None, control: bool) -> None:
    from batch_assets.local_api.serving.discovery import page_url
    from batch_assets.local_api.serving.keys import KEY_VARIABLE, NO_KEY, given_key, key_path
    from batch_assets.local_api.serving.webhooks import SECRET_VARIABLE, secret_path

    key = NO_KEY if without_key else _in_shell(KEY_VARIABLE if given_key() else None, key_path(folder))
    click.echo(f"The local Batch API listens on {url}. Point an OpenAI client at it with\n")
    click.echo(f"    export OPENAI_BASE_URL={url} OPENAI_API_KEY={key}")
    if webhook:
        secret = _in_shell(SECRET_VARIABLE if os.environ.get(SECRET_VARIABLE) else None, secret_path(folder))
        click.echo(f"    export OPENAI_WEBHOOK_SECRET={secret}")
    if control:
        click.echo(f"\nFaults are changed by PUT {url.removesuffix('/v1')}/control/faults")
    click.echo(f"\nIn a browser: {page_url(folder, with_token=sys.stdout.isatty())}\n")


def _in_shell(variable: str | None, path: Path) -> str:
    """A secret as a shell reads it: from the variable that holds it, or from the file."""
    return f'"${variable}"' if variable else f'"$(cat {shlex.quote(str(path))})"'
