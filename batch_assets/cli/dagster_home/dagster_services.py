"""Dagster's code server, daemon and webserver, started as `dagster dev` starts them, but as our child processes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.remote_origin import (
    CodeLocationOrigin,
    GrpcServerCodeLocationOrigin,
    ManagedGrpcPythonEnvCodeLocationOrigin,
)
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._grpc.client import DagsterGrpcClient

from batch_assets.cli.dagster_home.home import StartError
from batch_assets.cli.dagster_home.processes import PASSWORD_VARIABLE, ChildProcesses, Process
from batch_assets.cli.dagster_home.services import HealthCheck, Service
from batch_assets.cli.dagster_home.shared_home import fail_runs_of_ended_servers
from batch_assets.cli.dagster_home.ui import Ui

PING_SECONDS = 2
MAX_FAILED_PINGS = 3
# As `dagster dev` does: the error of a code location then begins with the user's own code.
AS_DAGSTER_DEV = {"DAGSTER_IS_DEV_CLI": "1", "DAGSTER_verbose": ""}


def our_locations(workspace: Path) -> list[str]:
    """The code locations of a `workspace.yaml` whose servers `dev` starts."""
    return [
        origin.location_name for origin in WorkspaceFileTarget([str(workspace)]).create_origins() if _is_ours(origin)
    ]


def all_locations(workspace: Path) -> list[str]:
    """The code locations of a `workspace.yaml`, with those whose servers the user runs."""
    return [origin.location_name for origin in WorkspaceFileTarget([str(workspace)]).create_origins()]


def code_servers(
    workspace: Path, temporary_folder: Path, dagster_home: Path, children: ChildProcesses
) -> tuple[list[Service], Path]:
    """Start a server for each code location of a `workspace.yaml`. Raises StartError.

    Returns the servers, and the `workspace.yaml` by which daemon and webserver find them. `temporary_folder` holds that
    file and the sockets of the servers.
    """
    services: list[Service] = []
    entries: list[Mapping[str, object]] = []
    for number, origin in enumerate(WorkspaceFileTarget([str(workspace)]).create_origins()):
        if isinstance(origin, GrpcServerCodeLocationOrigin):  # the user runs it
            entries.append(_entry(origin))
        elif _is_ours(origin):
            socket = temporary_folder / f"code{number}"
            services.append(_code_server(origin, socket, dagster_home, children))
            entries.append(_entry(_served(origin, socket)))
        else:
            raise StartError(
                f"{workspace}: `batch-assets dev` cannot start the code location {origin.location_name}. Start its "
                "server with `dagster code-server start`, and name that under `grpc_server`."
            )
    served = temporary_folder / "workspace.yaml"
    served.write_text(json.dumps({"load_from": entries}))  # JSON is YAML
    return services, served


def daemon(workspace: Path, children: ChildProcesses) -> Service:
    """Start the daemon: sensors, schedules, backfills, the queue of runs."""

    def start() -> Process:
        arguments = ("run", "--workspace", str(workspace), "--log-level", "error")
        return children.start("batch_assets.cli.dagster_home.daemon", *arguments, variables=AS_DAGSTER_DEV)

    return Service("The daemon", start, process=start())


def webserver(workspace: Path, ui: Ui, children: ChildProcesses) -> Service:
    """Start the webserver, which refuses requests from elsewhere. Only its environment has the password."""
    password = {} if ui.password is None else {PASSWORD_VARIABLE: ui.password}

    def start() -> Process:
        listener = ui.listener.fileno()
        arguments = ("--workspace", str(workspace), "--host", ui.host, "--listener", str(listener))
        variables = {**AS_DAGSTER_DEV, **password}
        return children.start(
            "batch_assets.cli.dagster_home.webserver", *arguments, variables=variables, files=[listener]
        )

    return Service("The webserver", start, process=start())


def answers(socket: Path) -> bool:
    """Whether the code server of this socket answers, and has a process that loads the code. A busy one counts."""
    try:
        DagsterGrpcClient(socket=str(socket)).get_server_id(timeout=PING_SECONDS)
    except DagsterUserCodeUnreachableError as error:
        code = getattr(error.__cause__, "code", None)
        return code is not None and code().name == "DEADLINE_EXCEEDED"  # it is busy
    return True


def _is_ours(origin: CodeLocationOrigin) -> TypeGuard[ManagedGrpcPythonEnvCodeLocationOrigin]:
    """Whether `dev` starts the server of the code location, in our Python environment."""
    return (
        isinstance(origin, ManagedGrpcPythonEnvCodeLocationOrigin) and not origin.loadable_target_origin.executable_path
    )


def _code_server(
    origin: ManagedGrpcPythonEnvCodeLocationOrigin, socket: Path, dagster_home: Path, children: ChildProcesses
) -> Service:
    """A code server. It starts the runs, and reloads the code when the user asks for it in the UI."""

    has_answered = False

    def start() -> Process:
        nonlocal has_answered
        has_answered = False
        socket.unlink(missing_ok=True)
        return children.start(
            *("dagster", "code-server", "start", "--socket", str(socket), "--location-name", origin.location_name),
            *("--inject-env-vars-from-instance", "--log-level", "warning"),
            *origin.loadable_target_origin.get_cli_args(),
            variables=AS_DAGSTER_DEV,
        )

    def start_again() -> Process:
        # they ran in processes of the server that has ended
        fail_runs_of_ended_servers(dagster_home, [origin.location_name])
        return start()

    def is_failing() -> bool:
        nonlocal has_answered
        is_answering = answers(socket)
        has_answered = has_answered or is_answering
        return has_answered and not is_answering  # a server that is starting does not fail

    # The child passes calls on to a process that loads the code. Only a call shows that this process has ended.
    health = HealthCheck(is_failing, max_failures=MAX_FAILED_PINGS)
    return Service(
        "The code server",
        start_again,
        is_ready=lambda: answers(socket),
        has_failed=health.has_failed_repeatedly,
        process=start(),
    )


def _served(origin: ManagedGrpcPythonEnvCodeLocationOrigin, socket: Path) -> GrpcServerCodeLocationOrigin:
    return GrpcServerCodeLocationOrigin(
        host="localhost",
        socket=str(socket),
        location_name=origin.location_name,
        additional_metadata=origin.loadable_target_origin.as_dict,
    )


def _entry(origin: GrpcServerCodeLocationOrigin) -> Mapping[str, object]:
    fields = {
        "location_name": origin.location_name,
        "host": origin.host,
        "port": origin.port,
        "socket": origin.socket,
        "ssl": origin.use_ssl,
        "additional_metadata": origin.additional_metadata,
    }
    return {"grpc_server": {name: value for name, value in fields.items() if value is not None}}
