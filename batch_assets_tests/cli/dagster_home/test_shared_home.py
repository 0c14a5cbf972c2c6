"""A Dagster home that several projects share: `dev` changes no run of another project, or does not start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import RemoteJobOrigin, RemoteRepositoryOrigin

from batch_assets.cli.dagster_home.dagster_services import all_locations, our_locations
from batch_assets.cli.dagster_home.home import StartError, packaged_file
from batch_assets.cli.dagster_home.shared_home import check_queue, check_run_launcher, fail_runs_of_ended_servers
from batch_assets.cli.local_daemon import PROCESS_TAG
from batch_assets.run_requests import UNFINISHED
from batch_assets_tests.end_to_end.processes import run_command
from batch_assets_tests.project import code_location_origin

OURS = ["batch_assets"]
QUEUED, FAILURE = dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.FAILURE
LAUNCHED = [status for status in UNFINISHED if status is not QUEUED]


@dg.op
def nothing() -> None: ...


@dg.job
def some_job() -> None:
    nothing()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "dagster.yaml").write_bytes(packaged_file("dagster.yaml").read_bytes())
    return tmp_path


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def make_run(
    instance: dg.DagsterInstance, location: str | None, status: dg.DagsterRunStatus, tags: dict[str, str] | None = None
) -> str:
    """A run of this code location; None: one that a process of its own executes, as `execute_in_process` does."""
    origin = None
    if location is not None:
        repository = RemoteRepositoryOrigin(code_location_origin(location), "__repository__")
        origin = RemoteJobOrigin(repository, some_job.name)
    return instance.create_run_for_job(some_job, status=status, remote_job_origin=origin, tags=tags).run_id


def statuses(instance: dg.DagsterInstance) -> dict[str, dg.DagsterRunStatus]:
    return {run.run_id: run.status for run in instance.get_runs()}


def test_dev_marks_launched_runs_of_its_code_location_as_failed_and_no_others(
    home: Path, instance: dg.DagsterInstance
) -> None:
    ours = [make_run(instance, "batch_assets", status) for status in LAUNCHED]
    make_run(instance, "batch_assets", QUEUED)  # the daemon of `dev` starts it
    make_run(instance, "batch_assets", dg.DagsterRunStatus.SUCCESS)
    for status in LAUNCHED:
        make_run(instance, "billing", status)
        make_run(instance, None, status)
    make_run(instance, "billing", QUEUED)
    make_run(instance, None, dg.DagsterRunStatus.STARTED, {PROCESS_TAG: "another-host:1"})
    before = statuses(instance)
    fail_runs_of_ended_servers(home, our_locations(packaged_file("workspace.yaml")))
    assert statuses(instance) == {**before, **dict.fromkeys(ours, FAILURE)}


def test_a_restarted_code_server_fails_the_runs_of_its_location_only(home: Path, instance: dg.DagsterInstance) -> None:
    first, second = (make_run(instance, name, dg.DagsterRunStatus.STARTED) for name in ("first", "second"))
    fail_runs_of_ended_servers(home, ["second"])
    assert statuses(instance) == {first: dg.DagsterRunStatus.STARTED, second: FAILURE}


def test_runs_of_a_server_that_the_user_runs_are_not_those_of_dev(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text(
        """
        load_from:
          - python_module: {module_name: batch_assets.definitions, location_name: ours}
          - grpc_server: {host: localhost, port: 4266, location_name: of the user}
        """
    )
    assert our_locations(workspace) == ["ours"]
    assert all_locations(workspace) == ["ours", "of the user"]


def test_queued_runs_of_another_project_keep_dev_from_starting(home: Path, instance: dg.DagsterInstance) -> None:
    """Its daemon would take them from the queue, would not find their code location, and would mark them as failed."""
    make_run(instance, "batch_assets", QUEUED)
    make_run(instance, "billing", dg.DagsterRunStatus.STARTED)
    check_queue(home, OURS)
    for location in ("billing", "search", "billing"):
        make_run(instance, location, QUEUED)
    before = statuses(instance)
    with pytest.raises(StartError, match=r"billing \(2 runs\), search \(1 run\)\. .* No run was changed"):
        check_queue(home, OURS)
    assert statuses(instance) == before
    check_queue(home, [*OURS, "billing", "search"])


CELERY = "run_launcher: {module: dagster_celery_k8s, class: CeleryK8sRunLauncher, config: {broker: redis}}\n"


@pytest.mark.parametrize(
    ("launcher", "name"),
    [
        (CELERY, "CeleryK8sRunLauncher"),
        ("run_launcher: {module: dagster_docker, class: DockerRunLauncher}\n", "DockerRunLauncher"),
        ("run_launcher: {module: dagster_k8s, class: K8sRunLauncher}\n", "K8sRunLauncher"),
        ("run_launcher: {module: our_company, class: DefaultRunLauncher}\n", "DefaultRunLauncher"),
    ],
)
def test_a_dagster_home_whose_runs_are_elsewhere_is_refused(home: Path, launcher: str, name: str) -> None:
    """Their modules need not be installed here."""
    (home / "dagster.yaml").write_text(launcher)
    with pytest.raises(StartError, match=f"has the run launcher {name}. .* Nothing was changed"):
        check_run_launcher(home)
    assert [path.name for path in home.iterdir()] == ["dagster.yaml"]


@pytest.mark.parametrize(
    "content", ["", "run_launcher: {module: dagster, class: DefaultRunLauncher}\n", "telemetry: {enabled: false}\n"]
)
def test_dagsters_default_run_launcher_is_accepted(home: Path, content: str) -> None:
    (home / "dagster.yaml").write_text(content)
    check_run_launcher(home)
    (home / "dagster.yaml").write_bytes(packaged_file("dagster.yaml").read_bytes())
    check_run_launcher(home)


def test_dev_refuses_another_run_launcher_in_one_sentence_and_writes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(CELERY)
    refused = run_command(tmp_path / "data", "dev", DAGSTER_HOME=str(home))
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Error: The Dagster home {home} has the run launcher CeleryK8sRunLauncher.")
    assert "Traceback" not in refused.stderr
    assert [path.name for path in home.iterdir()] == ["dagster.yaml"]
