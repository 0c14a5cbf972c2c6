"""Dagster's webserver with our check of access, which the webserver of `dagster dev` cannot have.

The password comes from the variable BATCH_ASSETS_UI_PASSWORD, which `dev` gives to this process only.
"""

import argparse
import os
import socket
from contextlib import suppress

import uvicorn
from dagster._cli.utils import get_instance_for_cli
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._utils.interrupts import setup_interrupt_handlers
from dagster._utils.log import configure_loggers
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver
from starlette.middleware import Middleware

from batch_assets.cli.dagster_home.processes import PASSWORD_VARIABLE
from batch_assets.cli.dagster_home.ui_access import UiAccessMiddleware
from batch_assets.local_api.http.local_names import is_local

LIVE_DATA_POLL_MILLISECONDS = 2000  # the values of `dagster dev`
STATEMENT_MILLISECONDS = 15_000
POOL_RECYCLE_SECONDS = 3600
POOL_MAX_OVERFLOW = 20


class ProtectedWebserver(DagsterWebserver):
    """Dagster's webserver, in which each request goes through UiAccessMiddleware first."""

    def __init__(self, context: WorkspaceProcessContext, *, password: str | None, local_only: bool) -> None:
        self._access = Middleware(UiAccessMiddleware, password=password, local_only=local_only)
        super().__init__(context, live_data_poll_rate=LIVE_DATA_POLL_MILLISECONDS)

    def build_middleware(self) -> list[Middleware]:
        return [self._access, *super().build_middleware()]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--listener", type=int, required=True, help="file descriptor of a socket that listens")
    parser.add_argument("--workspace", required=True)
    arguments = parser.parse_args()
    password = os.environ.pop(PASSWORD_VARIABLE, None)
    configure_loggers(formatter="colored", log_level="ERROR")
    setup_interrupt_handlers()
    with get_instance_for_cli() as instance:
        instance.optimize_for_webserver(STATEMENT_MILLISECONDS, POOL_RECYCLE_SECONDS, POOL_MAX_OVERFLOW)
        with WorkspaceProcessContext(
            instance,
            version=__version__,
            read_only=False,
            workspace_load_target=WorkspaceFileTarget([arguments.workspace]),
            code_server_log_level="warning",
        ) as context:
            server = ProtectedWebserver(context, password=password, local_only=is_local(arguments.host))
            config = uvicorn.Config(
                server.create_asgi_app(),
                log_level="warning",
                http="h11",  # it limits the size of headers and URLs
                proxy_headers=False,
            )
            with suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[socket.socket(fileno=arguments.listener)])


if __name__ == "__main__":
    main()
