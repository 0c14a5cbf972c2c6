"""A run's config may set switches only.

Dagster resolves `{"env": NAME}` in any string of a resource or op in a run's config. In an earlier version, a
`base_url` could send the key to another server, and a `system_prompt` could write it into the tables.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from batch_assets.definitions import defs

SECRET = "sk-the-key-of-the-user"
# Every field that a resource of ours has. Dagster ignores the config of resources that do not exist.
FIELDS = [
    ("batch_assets_openai", "base_url", "http://127.0.0.1:9/v1"),
    ("batch_assets_openai", "api_key", "sk-another"),
    ("batch_assets_openai", "organization", "org-foreign"),
    ("batch_assets_openai", "project", "proj-foreign"),
    ("batch_assets_openai", "folder", "/tmp"),
    ("batch_assets_openai", "connect", "x"),
    ("batch_assets_warehouse", "data_dir", "/tmp"),
    ("batch_assets_warehouse", "database", "/tmp/other.duckdb"),
    ("batch_assets_warehouse", "memory_limit", "1GB"),
    ("batch_assets_warehouse", "threads", 1),
    ("io_manager", "base_dir", "/tmp"),
]
SWITCHES = {"refresh", "respect_pauses", "resume_cancelled", "retry_failed", "same_task"}


@pytest.mark.parametrize(("resource", "field", "value"), FIELDS)
@pytest.mark.parametrize("is_env", [False, True])
def test_a_run_that_would_configure_a_resource_is_refused_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, resource: str, field: str, value: object, is_env: bool
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    config = {"resources": {resource: {"config": {field: {"env": "OPENAI_API_KEY"} if is_env else value}}}}
    for job in jobs():
        day = "2026-01-05" if job.partitions_def else None
        with pytest.raises(dg.DagsterInvalidConfigError) as refused:
            job.execute_in_process(run_config=config, partition_key=day)
        assert SECRET not in str(refused.value)


@pytest.mark.parametrize("name", ["system_prompt", "model", "day", "base_url"])
@pytest.mark.parametrize("value", ["text", {"env": "OPENAI_API_KEY"}])
def test_an_op_takes_no_text(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    job = defs().resolve_implicit_global_asset_job_def()
    config = {"ops": {"submission": {"config": {name: value}}}}
    with pytest.raises(dg.DagsterInvalidConfigError) as refused:
        job.execute_in_process(run_config=config, partition_key="2026-01-05")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("switch", sorted(SWITCHES))
def test_a_switch_takes_no_text(switch: str) -> None:
    job = defs().resolve_implicit_global_asset_job_def()
    with pytest.raises(dg.DagsterInvalidConfigError):
        job.execute_in_process(
            run_config={"ops": {"submission": {"config": {switch: "text"}}}}, partition_key="2026-01-05"
        )


def test_no_string_of_any_run_config_is_resolved_from_the_environment() -> None:
    seen: set[str] = set()
    for job in jobs():
        for path, kind in leaves(job):
            assert path[0] != "resources", f"{job.name} lets a run configure {path}"
            assert kind not in ("StringSourceType", "IntSourceType"), f"{job.name} resolves {path}"
            if path[0] == "ops":
                seen |= {path[-1]} if kind == "BoolSourceType" else set()
                assert kind in ("BoolSourceType", "Any"), f"{path} is a {kind}"
    assert seen == SWITCHES


def test_the_config_of_an_op_without_a_schema_is_not_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster lets an op without a config schema have any config, and resolves nothing in it."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    given: list[object] = []

    @dg.op
    def show(context: dg.OpExecutionContext) -> None:
        given.append(context.op_config)

    @dg.job
    def showing() -> None:
        show()

    showing.execute_in_process(run_config={"ops": {"show": {"config": {"text": {"env": "OPENAI_API_KEY"}}}}})
    assert SECRET not in str(given)


def jobs() -> list[dg.JobDefinition]:
    return list(defs().get_repository_def().get_all_jobs())


def leaves(job: dg.JobDefinition) -> Iterator[tuple[tuple[str, ...], str]]:
    """(path, name of the type) of everything that a run's config may set."""
    snapshot = job.get_job_snapshot().config_schema_snapshot

    def walk(key: str, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
        found: Any = snapshot.get_config_snap(key)
        if found.fields is not None:
            for field in found.fields:
                yield from walk(field.type_key, (*path, field.name))
        elif found.kind.value in ("NONEABLE", "ARRAY", "MAP"):
            for inner in found.type_param_keys:
                yield from walk(inner, path)
        else:
            yield path, found.key

    yield from walk(job.run_config_schema.run_config_schema_type.key, ())
