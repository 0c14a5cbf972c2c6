"""Dagster's code server, daemon and webserver, each started as `dagster dev` starts them, but as children of ours."""

import json
from collections.abc import Mapping
from pathlib import Path

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, ManagedGrpcPythonEnvCodeLocationOrigin
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._grpc.client import DagsterGrpcClient

from batch_assets.cli.dagster_home import StartError
from batch_assets.cli.dagster_home.processes import PASSWORD_VARIABLE, Family, Process
from batch_assets.cli.dagster_home.services import Looks, Service
from batch_assets.cli.dagster_home.ui import Ui
from batch_assets.cli.local_daemon import fail_orphaned_runs

PING_SECONDS = 2
MOST_MISSES = 3
# As `dagster dev` does: the error of a code location then begins with the user's own code.
AS_DAGSTER_DEV = {"DAGSTER_IS_DEV_CLI": "1", "DAGSTER_verbose": ""}


def code_servers(workspace: Path, folder: Path, home: Path, children: Family) -> tuple[list[Service], Path]:
    """Start a server for each code location of a `workspace.yaml`. Raises StartError.

    Returns them, and the `workspace.yaml` by which daemon and webserver find them. Their sockets are in `folder`.
    """
    services: list[Service] = []
    entries: list[Mapping[str, object]] = []
    for number, origin in enumerate(WorkspaceFileTarget([str(workspace)]).create_origins()):
        if isinstance(origin, GrpcServerCodeLocationOrigin):  # the user runs it
            entries.append(_entry(origin))
        elif (
            isinstance(origin, ManagedGrpcPythonEnvCodeLocationOrigin)
            and not origin.loadable_target_origin.executable_path
        ):
            services.append(_code_server(origin, folder / f"code{number}", home, children))
            entries.append(_entry(_served(origin, folder / f"code{number}")))
        else:
            raise StartError(
                f"{workspace}: `batch-assets dev` cannot start the code location {origin.location_name}. Start its "
                "server with `dagster code-server start`, and name that under `grpc_server`."
            )
    found = folder / "workspace.yaml"
    found.write_text(json.dumps({"load_from": entries}))  # JSON is YAML
    return services, found


def daemon(workspace: Path, children: Family) -> Service:
    """Start the daemon: sensors, schedules, backfills, the queue of runs."""

    def start() -> Process:
        arguments = ("run", "--workspace", str(workspace), "--log-level", "error")
        return children.start("dagster._daemon", *arguments, variables=AS_DAGSTER_DEV)

    return Service("The daemon", start, process=start())


def webserver(workspace: Path, ui: Ui, children: Family) -> Service:
    """Start the webserver, with our gate before it. The password is in its environment, and in no other's."""
    secret = {} if ui.password is None else {PASSWORD_VARIABLE: ui.password}

    def start() -> Process:
        listener = ui.listener.fileno()
        arguments = ("--workspace", str(workspace), "--host", ui.host, "--listener", str(listener))
        variables = {**AS_DAGSTER_DEV, **secret}
        return children.start(
            "batch_assets.cli.dagster_home.webserver", *arguments, variables=variables, files=[listener]
        )

    return Service("The webserver", start, process=start())


def answers(socket: Path) -> bool:
    """Whether the code server of this socket is there, and has a process that loads the code behind it."""
    try:
        DagsterGrpcClient(socket=str(socket)).get_server_id(timeout=PING_SECONDS)
    except DagsterUserCodeUnreachableError as error:
        code = getattr(error.__cause__, "code", None)
        return code is not None and code().name == "DEADLINE_EXCEEDED"  # it is busy
    return True


def _code_server(origin: ManagedGrpcPythonEnvCodeLocationOrigin, socket: Path, home: Path, children: Family) -> Service:
    """One that loads the code again when the user asks for it in the UI, and starts the runs."""

    been_there = False

    def start() -> Process:
        nonlocal been_there
        been_there = False
        socket.unlink(missing_ok=True)
        return children.start(
            *("dagster", "code-server", "start", "--socket", str(socket), "--location-name", origin.location_name),
            *("--inject-env-vars-from-instance", "--log-level", "warning"),
            *origin.loadable_target_origin.get_cli_args(),
            variables=AS_DAGSTER_DEV,
        )

    def start_again() -> Process:
        fail_orphaned_runs_of(home)  # they lived in processes of the last server
        return start()

    def is_missed() -> bool:
        nonlocal been_there
        there = answers(socket)
        been_there = been_there or there
        return been_there and not there  # one that is starting is not missed

    # The child only hands on to a process that loads the code. That one's death is seen by looking alone.
    looks = Looks(is_missed, most_misses=MOST_MISSES)
    return Service(
        "The code server",
        start_again,
        is_there=lambda: answers(socket),
        is_lost=looks.have_missed,
        process=start(),
    )


def fail_orphaned_runs_of(home: Path) -> None:
    """Mark the runs of code servers that are gone as failed."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        fail_orphaned_runs(instance, of_a_daemon=True)


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
