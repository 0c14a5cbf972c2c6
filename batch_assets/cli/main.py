"""The command `batch-assets`: its group and its commands. Each command has a module of its own."""

import os

import click

from batch_assets import __version__
from batch_assets.cli.abandon import abandon
from batch_assets.cli.adopt import adopt
from batch_assets.cli.cancel import cancel
from batch_assets.cli.compare import compare
from batch_assets.cli.costs import costs
from batch_assets.cli.demo import demo
from batch_assets.cli.dev import dev
from batch_assets.cli.doctor import doctor
from batch_assets.cli.errors import errors
from batch_assets.cli.estimate import estimate
from batch_assets.cli.export import export
from batch_assets.cli.move_api import move_api
from batch_assets.cli.notify import notify
from batch_assets.cli.prune import prune
from batch_assets.cli.query import query
from batch_assets.cli.reload import reload
from batch_assets.cli.report import report
from batch_assets.cli.retry import retry
from batch_assets.cli.serve import serve
from batch_assets.cli.status import status
from batch_assets.cli.terminal import CommandLine
from batch_assets.cli.try_requests import try_requests


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="batch-assets")
def main() -> None:
    """Summarize a daily stream of articles at half price, through OpenAI's Batch API.

    Without OPENAI_API_KEY (or OPENAI_BASE_URL), a Batch API on this machine stands in for OpenAI. Data goes to the
    folder that BATCH_ASSETS_DATA_DIR names, `data` by default.
    """
    os.umask(0o077)  # only the user may read what we write


for command in (
    *(demo, dev, serve),
    *(status, costs, report, estimate, errors, try_requests, compare, query, export),
    *(cancel, abandon, retry, reload, adopt, move_api, notify, doctor, prune),
):
    main.add_command(command)


if __name__ == "__main__":
    main()
