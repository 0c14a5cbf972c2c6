"""The examples of the page about tasks: each is a task, and what it promises is so."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

import batch_assets
from batch_assets.batching.ingest.articles import Source, ingest_day
from batch_assets.batching.planning.task import Task
from batch_assets.component import BatchTask
from batch_assets.declare import declare
from batch_assets_tests.batching.conftest import DAY, Workspace
from batch_assets_tests.batching.planning.test_images import PNG
from batch_assets_tests.batching.test_tasks import submit
from batch_assets_tests.local_api_client import LocalApi

ROOT = Path(batch_assets.__file__).parent.parent
PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def attributes_of(example: str) -> dict[str, Any]:
    """The attributes of the task; those of a part of a file, with what it leaves out."""
    read = yaml.safe_load(example)
    attributes: dict[str, Any] = read.get("attributes", read)
    if "image_folder" in attributes:
        attributes.setdefault("image", "picture")
    return {"name": "example", "model": "gpt-6-luna", "output_schema": None, **attributes}


def task_of(example: str) -> Task:
    component = BatchTask.resolve_from_dict(attributes_of(example))
    assert isinstance(component, BatchTask)
    return declare(component).task


def example_with(text: str) -> str:
    found: str
    [found] = [example for example in EXAMPLES if text in example]
    return found


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_each_example_is_a_task(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    example = EXAMPLES[number]
    attributes = attributes_of(example)
    if "escalation" in attributes:  # its first step takes invalid answers
        attributes["output_schema"] = attributes_of(example_with("name: places"))["output_schema"]
    component = BatchTask.resolve_from_dict(attributes)
    assert isinstance(component, BatchTask)
    declare(component)


def test_vectors_of_the_sample_find_the_article_that_is_most_like_another(workspace: Workspace, api: LocalApi) -> None:
    sample = ROOT / "batch_assets" / "sample" / "articles.jsonl"
    ingest_day(workspace.database, source=str(sample), day="2026-01-05")
    task = task_of(example_with("name: vectors"))
    submit(workspace, api, task, "2026-01-05")
    workspace.collect(api.client, task=task, day="2026-01-05")
    [statement] = [block for block in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL) if "array_cosine" in block]
    found = workspace.rows(statement)
    assert len(found) == 5
    similarities = [similarity for _, similarity in found]
    assert similarities == sorted(similarities, reverse=True)
    assert -1 <= similarities[-1] < similarities[0] <= 1.001
    assert workspace.column("SELECT DISTINCT typeof(embedding) FROM vectors") == ["FLOAT[512]"]


def test_a_folder_of_images_is_a_source(
    workspace: Workspace, api: LocalApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = datetime.fromisoformat(f"{DAY}T12:00:00").replace(tzinfo=UTC).timestamp()
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(PNG + name.encode())
        os.utime(folder / name, (written, written))
    monkeypatch.chdir(tmp_path)
    example = example_with("read_blob")
    source = Source(attributes_of(example)["source"], extra=("picture",), needs_body=False)
    assert ingest_day(workspace.database, source=source, day=DAY).articles == 2
    task = task_of(example)
    plan = workspace.plan(task=task, image_folder=folder)
    assert sum(shard.requests for shard in plan.shards) == 2
    urls = [request["body"]["messages"][1]["content"][1]["image_url"]["url"] for request in workspace.requests()]
    assert all(url.startswith("data:image/png;base64,") for url in urls)
