"""The images of a day: a file is a part of its request, and one that cannot be sent fails alone."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch_assets.batching.ingest.articles import Source, ingest_day
from batch_assets.batching.planning import images
from batch_assets.batching.planning.plan import Plan
from batch_assets.batching.planning.shards import FileLimits
from batch_assets.batching.planning.task import Task, TaskError
from batch_assets_tests.batching.conftest import DAY, TASK, Workspace

PNG, JPEG = b"\x89PNG\r\n\x1a\n" + b"1" * 40, b"\xff\xd8\xff\xe0" + b"2" * 40
WEBP, GIF = b"RIFF\x10\0\0\0WEBPVP8 ", b"GIF89a" + b"3" * 20
CAPTIONS = replace(
    TASK,
    name="captions",
    user_template="Describe this image. {title}",
    columns=("picture",),
    image="picture",
    answer_column="caption",
)


class Day:
    """A day of a workspace whose articles have images."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.folder = workspace.folder / "pictures"
        self.folder.mkdir(exist_ok=True)

    def write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def ingest(self, pictures: Mapping[str, str | None], title: str | None = None) -> None:
        """article → its image."""
        rows = [{"id": name, "picture": picture, "title": title} for name, picture in pictures.items()]
        path = self.workspace.source(f"{DAY}.jsonl", rows)
        source = Source(str(path.with_name("{partition}.jsonl")), extra=("picture",), needs_body=False)
        ingest_day(self.workspace.database, source=source, day=DAY)

    def plan(self, task: Task = CAPTIONS, **options: Any) -> Plan:
        return self.workspace.plan(task=task, **{"image_folder": self.folder, **options})

    def images(self) -> dict[str, Any]:
        """article → the image of its request; every request of the day's files."""
        by_id = {request["custom_id"]: request["body"] for request in self.workspace.requests()}
        needed = self.workspace.rows("SELECT article_id, custom_id FROM batch_request")
        return {
            article: by_id[custom_id]["messages"][1]["content"][1]["image_url"]["url"]
            for article, custom_id in needed
            if custom_id in by_id
        }

    def failures(self) -> dict[str, tuple[str, str]]:
        """article → code and message of those that cannot be sent."""
        rows = self.workspace.rows(
            "SELECT article_id, code, message FROM failed_request JOIN batch_request USING (custom_id)"
        )
        return {article: (code, message) for article, code, message in rows}


@pytest.fixture
def day(workspace: Workspace) -> Day:
    return Day(workspace)


def data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def test_a_request_has_the_file_itself(day: Day) -> None:
    files = {"a.png": ("png", PNG), "b.jpg": ("jpeg", JPEG), "c.webp": ("webp", WEBP), "sub/d.png": ("gif", GIF)}
    for name, (_, content) in files.items():
        day.write(name, content)
    day.ingest({name: name for name in files}, title='The "harbour"')
    day.plan()
    assert day.images() == {name: data_url(kind, content) for name, (kind, content) in files.items()}
    content = day.workspace.requests()[0]["body"]["messages"][1]["content"]
    assert content[0] == {"type": "text", "text": 'Describe this image. The "harbour"'}


@pytest.mark.parametrize(
    "url", ["https://example.org/a.png?x=1&y=ü", "HTTP://example.org/", "data:image/png;base64,aGk="]
)
def test_a_url_is_left_to_the_api(day: Day, url: str) -> None:
    day.ingest({"a": url})
    day.plan(image_folder=None)
    assert day.images() == {"a": url}


def test_the_detail_is_sent_and_the_endpoint_decides_where(day: Day) -> None:
    day.ingest({"a": "https://example.org/a.png"})
    day.plan(replace(CAPTIONS, image_detail="low"))
    [request] = day.workspace.requests()
    assert request["body"]["messages"][1]["content"][1] == {
        "type": "image_url",
        "image_url": {"url": "https://example.org/a.png", "detail": "low"},
    }
    day.plan(replace(CAPTIONS, name="other", endpoint="/v1/responses", image_detail="low"))
    [request] = [request for request in day.workspace.requests() if request["url"] == "/v1/responses"]
    assert request["body"]["input"][0]["content"] == [
        {"type": "input_text", "text": "Describe this image. "},
        {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "low"},
    ]


def unusable(day: Day) -> dict[str, tuple[str | None, str, str]]:
    """name → image, code, and a part of the sentence."""
    outside = day.folder.parent / "outside.png"
    outside.write_bytes(PNG)
    (day.folder / "link.png").symlink_to(outside)
    day.write("text.png", b"<svg>")
    day.write("empty.png", b"")
    return {
        "nothing": (None, "image_missing", "its column picture is empty"),
        "blank": ("  ", "image_missing", "its column picture is empty"),
        "gone": ("gone.png", "image_missing", "Add it, and plan the day again"),
        "folder": (".", "image_missing", "is not in"),
        "nul": ("a\0.png", "image_missing", "is not in"),
        "long": ("a" * 5000, "image_missing", "is not in"),
        "parent": ("../outside.png", "image_unusable", "only files in it"),
        "absolute": (str(outside), "image_unusable", "only files in it"),
        "link": ("link.png", "image_unusable", "only files in it"),
        "text": ("text.png", "image_unusable", "no PNG, JPEG, WEBP or GIF"),
        "empty": ("empty.png", "image_unusable", "no PNG, JPEG, WEBP or GIF"),
        "scheme": ("file:///etc/passwd", "image_missing", "is not in"),
    }


@pytest.mark.parametrize("planned_before", [False, True])
def test_an_image_that_cannot_be_sent_fails_alone_with_a_sentence(day: Day, planned_before: bool) -> None:
    day.write("good.png", PNG)
    if planned_before:
        day.ingest({"first": "https://example.org/first.png"})
        day.plan()
    cases = unusable(day)
    day.ingest({"good": "good.png", **{name: image for name, (image, _, _) in cases.items()}})
    plan = day.plan()
    assert sum(shard.requests for shard in plan.shards) == 1
    assert day.images() == {"good": data_url("png", PNG)}
    failures = day.failures()
    assert {name: code for name, (code, _) in failures.items()} == {name: code for name, (_, code, _) in cases.items()}
    for name, (_, _, sentence) in cases.items():
        assert sentence in failures[name][1], name
        assert len(failures[name][1]) < 600


def test_an_image_that_is_too_large_fails_alone(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", len(PNG))
    day.write("good.png", PNG)
    day.write("large.png", PNG + b"1")
    day.ingest({"good": "good.png", "large": "large.png"})
    day.plan()
    assert list(day.images()) == ["good"]
    assert day.failures()["large"][0] == "image_too_large"
    assert "has 49 bytes; at most 48 may be sent" in day.failures()["large"][1]


def test_an_image_that_was_added_is_sent_by_the_next_plan(day: Day) -> None:
    day.ingest({"a": "a.png"})
    day.plan()
    assert day.failures()["a"][0] == "image_missing"
    day.write("a.png", PNG)
    day.plan()
    assert day.images() == {"a": data_url("png", PNG)}
    assert day.failures() == {}


def test_equal_images_share_a_request_wherever_they_are(day: Day) -> None:
    day.write("a.png", PNG)
    day.write("b/c.jpg", PNG)
    day.ingest({"a": "a.png", "b": "b/c.jpg"})
    plan = day.plan()
    assert sum(shard.requests for shard in plan.shards) == 1
    assert day.plan().requests == plan.requests


def test_a_changed_image_is_a_new_request(day: Day) -> None:
    day.write("a.png", PNG)
    day.ingest({"a": "a.png"})
    day.plan()
    (before,) = day.workspace.column("SELECT custom_id FROM batch_request")
    day.write("a.png", PNG + b"4")
    day.plan()
    (after,) = day.workspace.column("SELECT custom_id FROM batch_request")
    assert after != before
    assert list(day.images().values()) == [data_url("png", PNG + b"4")]


def test_a_file_that_changes_while_the_run_plans_fails_the_plan(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    path = day.write("a.png", PNG)
    day.ingest({"a": "a.png"})
    find = images.find_images

    def find_and_change(*arguments: Any) -> None:
        find(*arguments)
        path.write_bytes(JPEG)

    monkeypatch.setattr("batch_assets.batching.planning.pending_requests.find_images", find_and_change)
    with pytest.raises(TaskError, match="changed while the run read it"):
        day.plan()
    monkeypatch.undo()
    day.plan()
    assert day.images() == {"a": data_url("jpeg", JPEG)}


def test_shards_with_images_keep_to_the_limits(day: Day) -> None:
    size = 90_000
    for number in range(20):
        day.write(f"{number}.png", PNG + os.urandom(size))
    day.ingest({str(number): f"{number}.png" for number in range(20)})
    plan = day.plan(file_limits=FileLimits(max_bytes=500_000))
    assert all(shard.bytes <= 500_000 for shard in plan.shards)
    assert sum(shard.requests for shard in plan.shards) == 20
    assert len(plan.shards) == 5


def test_tokens_of_images_are_not_estimated_from_their_bytes(day: Day) -> None:
    day.write("a.png", PNG + os.urandom(1_000_000))
    day.ingest({"a": "a.png", "b": "https://example.org/b.png"})
    plan = day.plan()
    assert plan.estimated_input_tokens == 2 * images.TOKENS_PER_IMAGE
    plan = day.plan(replace(CAPTIONS, name="other", system_prompt="Other."), max_enqueued_tokens=2000)
    assert [shard.requests for shard in plan.shards] == [1, 1]


def test_lines_are_in_the_order_of_the_articles(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order in which DuckDB finds the images."""
    monkeypatch.setattr(images, "FIND_VALUES", f"{images.FIND_VALUES} ORDER BY 1 DESC")
    names = [f"{number}.png" for number in range(9)]
    for name in names:
        day.write(name, PNG + name.encode())
    day.ingest({name: name for name in names})
    day.plan(replace(CAPTIONS, system_prompt="Another."))
    day.plan()  # which names the requests before it writes them
    requests = day.workspace.requests()
    urls = [request["body"]["messages"][1]["content"][1]["image_url"]["url"] for request in requests]
    assert urls == [data_url("png", PNG + name.encode()) for name in names]


def test_two_tasks_ask_about_the_same_image_once(day: Day) -> None:
    day.write("a.png", PNG)
    day.ingest({"a": "a.png"})
    day.plan()
    assert day.plan(replace(CAPTIONS, name="twin")).shards == []


def test_the_name_of_a_column_and_its_values_are_data(day: Day) -> None:
    names = ["it's.png", 'a"b.png', "{title}.png", "%s.png", "ü 猫.png"]
    for name in names:
        day.write(name, PNG + name.encode())
    day.ingest({name: name for name in names})
    day.plan()
    assert day.images() == {name: data_url("png", PNG + name.encode()) for name in names}
    custom_ids = day.workspace.column("SELECT custom_id FROM batch_request ORDER BY 1")
    day.plan()  # DuckDB computes the same custom_ids
    assert day.workspace.column("SELECT custom_id FROM batch_request ORDER BY 1") == custom_ids
