"""The command `batch-assets`: `demo`, `dev`, `serve`, `cancel`, `adopt` and `prune`."""

import click

from batch_assets import __version__
from batch_assets.settings import SettingError, Settings, read_settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="batch-assets")
def main() -> None:
    """Summarise a daily stream of articles at half price, through OpenAI's Batch API.

    Without OPENAI_API_KEY (or OPENAI_BASE_URL) a Batch API on this machine stands in. Data goes to the folder
    named by BATCH_ASSETS_DATA_DIR, `data` by default.
    """


@main.command()
@click.option("--day", metavar="YYYY-MM-DD", help="Which day to do.  [default: the first one]")
@click.option("--yes", is_flag=True, help="Don't ask before money is spent at OpenAI.")
def demo(day: str | None, yes: bool) -> None:
    """One day from articles to summaries, in this terminal."""
    settings = _settings()  # before Dagster loads: it reads them too, and would answer with a stack trace
    from batch_assets.demo import run_demo  # only here, since Dagster takes seconds to import

    run_demo(settings, day=day, ask=not yes)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the Dagster UI.")
@click.option("--port", type=int, help="Port of the Dagster UI.  [default: 3000, or any free one]")
def dev(host: str, port: int | None) -> None:
    """The Dagster UI with its daemon, and the local Batch API beside it unless a key is set. Ctrl-C ends all."""
    from batch_assets.dev import run_dev

    run_dev(_settings(), host=host, port=port)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=int, default=0, help="Port to listen on.  [default: the last one, or any free one]")
@click.option(
    "--batch-seconds", type=float, default=0.0, help="Let every batch take at least so long, to watch it.  [default: 0]"
)
@click.option("--latency", type=float, default=0.0, help="Seconds that each request takes.  [default: 0]")
def serve(host: str, port: int, batch_seconds: float, latency: float) -> None:
    """The local Batch API alone: files, batches and chat completions as OpenAI has them.

    An address other than 127.0.0.1 wants a key, in BATCH_ASSETS_SERVE_KEY, which clients then have to send.
    """
    from batch_assets.local_api.server import AlreadyRunning
    from batch_assets.local_api.server import serve as serve_api

    try:
        serve_api(
            _settings().local_api_folder,
            host=host,
            port=port,
            batch_seconds=batch_seconds,
            latency_seconds=latency,
            ready=_say_where,
        )
    except (AlreadyRunning, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.argument("day")
def cancel(day: str) -> None:
    """Cancel the batches of DAY. What is answered is kept; the rest isn't sent again by itself."""
    settings = _settings()
    from batch_assets.by_hand import cancel_by_hand

    cancel_by_hand(settings, day)


@main.command()
@click.argument("batch_id")
def adopt(batch_id: str) -> None:
    """Take in BATCH_ID, a batch that somebody made from one of our request files, by OpenAI's web page or curl."""
    settings = _settings()
    from batch_assets.by_hand import adopt_by_hand

    adopt_by_hand(settings, batch_id)


@main.command()
@click.option("--keep-days", type=click.IntRange(min=0), default=90, show_default=True, help="How old files may get.")
@click.option(
    "--pack-days", type=click.IntRange(min=0), default=7, show_default=True, help="Result files older are gzipped."
)
@click.option("--tables", is_flag=True, help="Also delete the articles and requests of the old days in the tables.")
@click.option("--answers", is_flag=True, help="With --tables: also delete answers that no other day needs.")
@click.option("--remote", is_flag=True, help="Also delete OpenAI's copies of the old files.")
@click.option("--yes", is_flag=True, help="Do it. Without, it only says what would go.")
def prune(keep_days: int, pack_days: int, tables: bool, answers: bool, remote: bool, yes: bool) -> None:
    """Delete old request and result files. Days that aren't done, and `summaries`, are never touched."""
    if answers and not tables:
        raise click.UsageError("--answers goes with --tables.")
    settings = _settings()
    from batch_assets.batching.retention import Life
    from batch_assets.by_hand import prune_by_hand

    life = Life(pack_after_days=pack_days, keep_days=keep_days, tables=tables, answers=answers, remote=remote)
    prune_by_hand(settings, life, really=yes)


def _say_where(url: str) -> None:
    click.echo(f"The local Batch API listens on {url}. Point an OpenAI client at it with\n")
    click.echo(f"    export OPENAI_BASE_URL={url} OPENAI_API_KEY=local\n")


def _settings() -> Settings:
    try:
        return read_settings()
    except SettingError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
