"""The command `batch-assets`: `demo`, `dev`, `serve`, `cancel`, `adopt` and `prune`."""

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from batch_assets import __version__
from batch_assets.cli.terminal import CommandLine
from batch_assets.local_api.faults import FaultConfig
from batch_assets.settings import SettingError, Settings, make_data_folder, read_settings


def _drill_options(command: Callable[..., None]) -> Callable[..., None]:
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


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="batch-assets")
def main() -> None:
    """Summarise a daily stream of articles at half price, through OpenAI's Batch API.

    Without OPENAI_API_KEY (or OPENAI_BASE_URL) a Batch API on this machine stands in. Data goes to the folder
    named by BATCH_ASSETS_DATA_DIR, `data` by default.
    """
    os.umask(0o077)  # what we write is the user's business only; folders of ours are closed to others anyway


@main.command()
@click.option("--day", metavar="YYYY-MM-DD", help="Which day to do.  [default: the first one]")
@click.option("--yes", is_flag=True, help="Don't ask before money is spent at OpenAI.")
def demo(day: str | None, yes: bool) -> None:
    """One day from articles to summaries, in this terminal."""
    settings = _settings()  # before Dagster loads: it reads them too, and would answer with a stack trace
    from batch_assets.cli.demo import run_demo

    run_demo(settings, day=day, ask=not yes)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the Dagster UI.")
@click.option("--port", type=int, help="Port of the Dagster UI.  [default: 3000, or any free one]")
def dev(host: str, port: int | None) -> None:
    """The Dagster UI with its daemon, and the local Batch API beside it unless a key is set. Ctrl-C ends all.

    The UI is for this machine. Another address wants a password, in BATCH_ASSETS_UI_PASSWORD; the traffic is not
    encrypted.
    """
    settings = _settings()
    from batch_assets.cli.dev import run_dev

    run_dev(settings, host=host, port=port)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=int, default=0, help="Port to listen on.  [default: the last one, or any free one]")
@click.option(
    "--batch-seconds", type=float, default=0.0, help="Let every batch take at least so long, to watch it.  [default: 0]"
)
@click.option("--latency", type=float, default=0.0, help="Seconds that each request takes.  [default: 0]")
@click.option(
    "--engine",
    default="extractive",
    show_default=True,
    help="What answers: extractive, smollm2, or the URL of an OpenAI-compatible server, such as http://host:8000/v1.",
)
@click.option("--engine-model", metavar="NAME", help="Model to ask that server for.  [default: the request's]")
@click.option(
    "--engine-timeout",
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
@click.option("--control", is_flag=True, help="Let the faults be changed, by PUT /control/faults.")
@_drill_options
def serve(
    host: str,
    port: int,
    batch_seconds: float,
    latency: float,
    engine: str,
    engine_model: str | None,
    engine_timeout: float,
    concurrency: int,
    webhook: str | None,
    without_key: bool,
    control: bool,
    **faults: Any,
) -> None:
    """The local Batch API alone: files, batches and chat completions as OpenAI has them.

    Clients send a key: the one in BATCH_ASSETS_SERVE_KEY, or the one that the server makes and keeps in its folder,
    where only you can read it. An address other than 127.0.0.1 needs one in BATCH_ASSETS_SERVE_KEY.
    The key of another server that answers belongs into BATCH_ASSETS_SERVE_ENGINE_KEY.

    The options from --seed on are faults: things that go wrong on purpose.
    """
    from batch_assets.local_api.serving.events import print_events, printable_stream
    from batch_assets.local_api.serving.server import AlreadyRunningError
    from batch_assets.local_api.serving.server import serve as serve_api
    from batch_assets.local_api.storage.database import OtherVersionError

    sys.stdout, sys.stderr = printable_stream(sys.stdout), printable_stream(sys.stderr)
    print_events(sys.stdout)
    settings = _settings()
    folder = settings.local_api_folder
    try:
        make_data_folder(settings)
        serve_api(
            folder,
            host=host,
            port=port,
            batch_seconds=batch_seconds,
            latency_seconds=latency,
            engine=engine,
            engine_model=engine_model,
            engine_timeout_seconds=engine_timeout,
            concurrency=concurrency,
            faults=FaultConfig(**faults),
            control=control,
            webhook=webhook,
            without_key=without_key,
            ready=lambda url: _say_where(url, folder, without_key=without_key, webhook=webhook, control=control),
        )
    except (AlreadyRunningError, OtherVersionError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.argument("day")
def cancel(day: str) -> None:
    """Cancel the batches of DAY. What is answered is kept; the rest isn't sent again by itself."""
    settings = _settings()
    from batch_assets.cli.by_hand import cancel_by_hand

    cancel_by_hand(settings, day)


@main.command()
@click.argument("batch_id")
def adopt(batch_id: str) -> None:
    """Take in BATCH_ID, a batch that somebody made from one of our request files, by OpenAI's web page or curl."""
    settings = _settings()
    from batch_assets.cli.by_hand import adopt_by_hand

    adopt_by_hand(settings, batch_id)


@main.command("move-api")
@click.argument("old")
@click.argument("new")
def move_api(old: str, new: str) -> None:
    """The API that batches were made at as OLD has the address NEW now: they are looked for there."""
    settings = _settings()
    from batch_assets.cli.by_hand import move_api_by_hand

    move_api_by_hand(settings, old, new)


@main.command()
@click.option(
    "--new-warehouse-id", is_flag=True, required=True, help="Give a database that was copied an identity of its own."
)
def doctor(new_warehouse_id: bool) -> None:
    """Repair what only a user can know about."""
    settings = _settings()
    from batch_assets.cli.by_hand import new_warehouse_id_by_hand

    new_warehouse_id_by_hand(settings)


@main.command()
@click.option("--keep-days", type=click.IntRange(min=0), default=90, show_default=True, help="How old files may get.")
@click.option(
    "--compress-days", type=click.IntRange(min=0), default=7, show_default=True, help="Result files older are gzipped."
)
@click.option("--tables", is_flag=True, help="Also delete the articles and requests of the old days in the tables.")
@click.option("--answers", is_flag=True, help="With --tables: also delete answers that no other day needs.")
@click.option("--remote", is_flag=True, help="Also delete OpenAI's copies of the old files.")
@click.option("--yes", is_flag=True, help="Do it. Without, it only says what would go.")
def prune(keep_days: int, compress_days: int, tables: bool, answers: bool, remote: bool, yes: bool) -> None:
    """Delete old request and result files. Days that aren't done, and `summaries`, are never touched."""
    if answers and not tables:
        raise click.UsageError("--answers goes with --tables.")
    settings = _settings()
    from batch_assets.batching.operations.prune import RetentionPolicy
    from batch_assets.cli.by_hand import prune_by_hand

    policy = RetentionPolicy(
        compress_after_days=compress_days, keep_days=keep_days, tables=tables, answers=answers, remote=remote
    )
    prune_by_hand(settings, policy, really=yes)


def _say_where(url: str, folder: Path, *, without_key: bool, webhook: str | None, control: bool) -> None:
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
    click.echo()


def _in_shell(variable: str | None, path: Path) -> str:
    """How a shell comes by a secret: from the variable that holds it, or from the file."""
    return f'"${variable}"' if variable else f'"$(cat {shlex.quote(str(path))})"'


def _settings() -> Settings:
    try:
        return read_settings()
    except SettingError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
