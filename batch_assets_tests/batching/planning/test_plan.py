"""Guards against requests that are bought twice or have the wrong content: the content identifies a request, no plan
writes an answered or submitted one again, and its line is what the task renders, byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batch_assets.batching.planning.shards import ShardWriter
from batch_assets.batching.planning.task import Task
from batch_assets_tests.batching.conftest import DAY, NEXT_DAY, PRICES, TASK, Workspace, database_in
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.rendered import rendered

NASTY = [
    "".join(map(chr, range(1, 33))) + "\x7f\x80\x9f.",
    "NUL \x00 inside",
    "line \u2028 and paragraph \u2029 separators, next line \x85",
    "🦆👩‍👩‍👧‍👦🇺🇳 astral \U0010ffff \ufffe \ufdd0",
    "quotes \" ' ` \\ \\\\ \\u0041 / </script> \ufeff",
    '{"title": "{title}"} {body} {0} %s $1 ${x}',
    "مقال \u202e right to left",
    "e\u0301 is not é",
    "'; DROP TABLE raw_articles; --",
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def needed(workspace: Workspace, day: str = DAY) -> dict[str, str]:
    """article_id → custom_id."""
    return dict(workspace.rows("SELECT article_id, custom_id FROM batch_request WHERE partition_date = ?", [day]))


def planned_ids(workspace: Workspace) -> list[str]:
    return sorted(request["custom_id"] for request in workspace.requests())


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(texts=[(title, body + ".") for title in NASTY for body in NASTY], system=NASTY[1], around=NASTY[4])
@given(texts=st.lists(st.tuples(st.none() | TEXT, TEXT), min_size=1, max_size=20), system=TEXT, around=TEXT)
def test_lines_say_exactly_what_the_task_renders(
    workspace: Workspace, texts: list[tuple[str | None, str]], system: str, around: str
) -> None:
    template = around + "{title}\n{url}|{published_at}|{body}" + around
    task = Task("gpt-5-mini", system_prompt=system, user_template=template, reasoning_effort="low")
    rows = [
        {"id": f"id {number}", "title": title, "body": body, "url": f"/{number}", "published_at": f"{DAY} 10:11:12"}
        for number, (title, body) in enumerate(texts)
    ]
    workspace.ingest(rows)
    workspace.plan(task=task)

    articles = workspace.rows("SELECT article_id, title, body, url, published_at FROM raw_articles")
    names = ("title", "body", "url", "published_at")
    bodies = {article_id: rendered(task, dict(zip(names, values, strict=True))) for article_id, *values in articles}
    ids = needed(workspace)
    by_custom_id = {request["custom_id"]: request for request in workspace.requests()}
    assert {name: by_custom_id[custom_id] for name, custom_id in ids.items()} == {
        name: {"custom_id": ids[name], "method": "POST", "url": "/v1/chat/completions", "body": body}
        for name, body in bodies.items()
    }


def test_a_custom_id_is_the_hash_of_what_is_asked(workspace: Workspace) -> None:
    workspace.ingest(dict(zip("abcdefghi", NASTY, strict=True)))
    workspace.plan()
    lines = b"".join(path.read_bytes() for path in workspace.request_files()).split(b"\n")[:-1]
    assert len(lines) == len(NASTY)
    for line in lines:
        body = line.split(b'"body":', 1)[1][:-1].replace(b',"max_completion_tokens":100', b"")
        asked = b"POST /v1/chat/completions\n" + body
        assert json.loads(line)["custom_id"] == sha256(asked).hexdigest()[:40]


def test_a_long_article_arrives_whole(workspace: Workspace) -> None:
    workspace.ingest({"long": '🦆é" ' * 200_000})
    workspace.plan()
    (request,) = workspace.requests()
    assert request["body"]["messages"][1]["content"] == "Title: \n\n" + '🦆é" ' * 200_000


def test_the_plan_is_in_the_tables(workspace: Workspace) -> None:
    workspace.ingest({"a": "one", "b": "two", "c": "one"})
    plan = workspace.plan(own_prices=PRICES)
    (path,) = workspace.request_files()
    content = path.read_bytes()
    (shard,) = plan.shards
    assert (plan.articles, plan.requests, plan.plan, plan.round) == (3, {"pending": 2}, 1, 1)
    assert (shard.path, shard.requests, shard.bytes) == (path, 2, len(content))
    assert workspace.rows(
        """
        SELECT plan, round, shard, path, sha256, endpoint, model, requests, bytes, request_max_output_tokens,
            max_output_tokens, is_refresh
        FROM batch_request_file
        """
    ) == [
        (1, 1, 0, str(path.relative_to(workspace.folder)), sha256(content).hexdigest(), "/v1/chat/completions",
         TASK.model, 2, len(content), TASK.max_output_tokens, 2 * TASK.max_output_tokens, False)
    ]  # fmt: skip
    assert sorted(workspace.column("SELECT custom_id FROM in_flight_request")) == planned_ids(workspace)
    assert plan.max_cost_usd == pytest.approx(
        plan.estimated_input_tokens * 0.05e-6 + 2 * TASK.max_output_tokens * 0.2e-6
    )


def test_the_cost_of_a_model_without_a_price_is_unknown(workspace: Workspace) -> None:
    workspace.ingest({"a": "one"})
    assert workspace.plan(task=Task("mistral-small")).max_cost_usd is None
    assert workspace.column("SELECT max_cost_usd FROM batch_request_file") == [None]


def test_files_keep_to_their_limits(workspace: Workspace) -> None:
    workspace = workspace.with_file_limits(max_requests=2)
    workspace.ingest({str(number): f"text {number}" for number in range(5)})
    plan = workspace.plan()
    assert [shard.requests for shard in plan.shards] == [2, 2, 1]
    assert [request["body"]["messages"][1]["content"][-6:] for request in workspace.requests()] == [
        f"text {number}" for number in range(5)
    ]
    in_shards = workspace.rows("SELECT count(*) FROM in_flight_request GROUP BY submission_id ORDER BY 1")
    assert in_shards == [(1,), (2,), (2,)]


def test_a_day_that_is_read_in_several_ranges_is_written_in_its_order(workspace: Workspace) -> None:
    workspace.ingest({f"{number}": f"Text {number % 7}." for number in range(20)})
    workspace.ingest({"other": "Of another day."}, day=NEXT_DAY)
    workspace.ingest({f"{number}": f"Text {number % 7}." for number in range(20)})  # other rows than the first time
    whole = [shard.path.read_bytes() for shard in workspace.plan().shards]
    assert [shard.path.read_bytes() for shard in workspace.plan(rows_at_once=3).shards] == whole
    assert len(planned_ids(workspace)) == 7


def test_planning_again_asks_for_the_same(workspace: Workspace) -> None:
    workspace.ingest({"a": "one", "b": "two"})
    first = workspace.plan()
    line = first.shards[0].path.read_bytes()
    again = workspace.plan()
    (shard,) = again.shards
    assert shard.path.read_bytes() == line
    assert (again.articles, again.requests, again.round, again.plan) == (2, first.requests, 1, 2)
    assert (shard.position, shard.requests, shard.bytes) == (0, 2, len(line))
    assert workspace.request_files() == [shard.path]
    assert workspace.rows("SELECT state, plan FROM openai_batch ORDER BY plan") == [("withdrawn", 1), ("planned", 2)]
    assert workspace.column("SELECT submission_id FROM in_flight_request") == [shard.submission_id] * 2
    assert first.shards[0].submission_id != shard.submission_id


def test_equal_articles_share_a_request(workspace: Workspace) -> None:
    same = {"title": "T", "body": "B"}
    workspace.ingest([{"id": "a", **same}, {"id": "b", **same, "url": "https://elsewhere"}, {"id": "c", "body": "B"}])
    workspace.plan()
    ids = needed(workspace)
    assert ids["a"] == ids["b"] != ids["c"]
    assert planned_ids(workspace) == sorted({ids["a"], ids["c"]})


def test_equal_articles_of_two_days_share_a_request(workspace: Workspace) -> None:
    workspace.ingest({"a": "same"})
    workspace.ingest({"b": "same", "c": "other"}, day=NEXT_DAY)
    workspace.plan()
    assert workspace.plan(day=NEXT_DAY).requests == {"in_flight": 1, "pending": 1}
    assert planned_ids(workspace) == sorted(needed(workspace, NEXT_DAY).values())


def test_what_is_in_flight_is_not_planned_again(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one", "b": "two"})
    workspace.plan()
    workspace.submit(api.client)
    plan = workspace.plan()
    assert (plan.requests, plan.shards, plan.plan, plan.round) == ({"in_flight": 2}, [], 1, 1)
    assert len(workspace.requests()) == 2


def test_what_is_answered_is_not_planned_again_on_any_day(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one", "b": "two"})
    workspace.whole_day(api)
    assert (workspace.plan().requests, workspace.plan().shards) == ({"answered": 2}, [])
    workspace.ingest({"x": "two", "y": "three"}, day=NEXT_DAY)
    assert workspace.plan(day=NEXT_DAY).requests == {"answered": 1, "pending": 1}
    assert api.stats()["requests_executed"] == 2


def test_an_edited_article_needs_exactly_its_request(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one", "b": f"two of {workspace.folder.name}", "c": "three"})
    workspace.whole_day(api)
    before = needed(workspace)
    workspace.ingest({"a": "one", "b": "edited", "c": "three"})
    plan = workspace.plan()
    assert (plan.requests, plan.plan, plan.round) == ({"answered": 2, "pending": 1}, 2, 1)
    after = needed(workspace)
    assert {name for name in after if after[name] != before[name]} == {"b"}
    assert [json.loads(line)["custom_id"] for line in plan.shards[0].path.read_bytes().splitlines()] == [after["b"]]


@pytest.mark.parametrize(
    "change",
    [
        {"system_prompt": "Be brief."},
        {"user_template": "{body}"},
        {"temperature": 0.5},
        {"model": "gpt-4.1-mini"},
    ],
)
def test_a_changed_task_asks_everything_and_nothing_of_the_old_one(
    workspace: Workspace, change: dict[str, Any]
) -> None:
    workspace.ingest({"a": "one", "b": "two"})
    old = workspace.plan().shards[0].path
    old_ids = planned_ids(workspace)
    plan = workspace.plan(task=replace(TASK, **change))
    assert plan.requests == {"pending": 2}
    assert not old.exists()
    assert workspace.request_files() == [plan.shards[0].path]
    assert not set(planned_ids(workspace)) & set(old_ids)
    assert sorted(workspace.column("SELECT custom_id FROM in_flight_request")) == planned_ids(workspace)


def test_a_changed_prompt_leaves_submitted_files_alone(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one"})
    submitted = workspace.plan().shards[0].path
    workspace.submit(api.client)
    plan = workspace.plan(task=replace(TASK, system_prompt="Be brief."))
    assert (plan.requests, plan.plan, plan.round) == ({"pending": 1}, 2, 1)
    assert workspace.request_files() == sorted([submitted, plan.shards[0].path])


def test_a_request_that_fits_no_file_fails_and_the_others_are_planned(workspace: Workspace) -> None:
    workspace = workspace.with_file_limits(max_bytes=2_000)
    workspace.ingest({"a": "small", "b": "large " * 1_000, "c": "small too"})
    workspace.plan()
    assert len(workspace.requests()) == 2
    assert workspace.rows("SELECT custom_id, code, retryable FROM failed_request") == [
        (needed(workspace)["b"], "request_too_large", False)
    ]
    assert "Shorten the article" in workspace.column("SELECT message FROM failed_request")[0]
    assert workspace.plan().requests == {"failed": 1, "pending": 2}
    assert len(workspace.rows("SELECT * FROM failed_request")) == 1


def test_a_request_that_failed_is_pending_while_it_may_still_succeed(workspace: Workspace) -> None:
    pending: list[list[bool]] = [[], [True], [True, True]]  # whether each failure was retryable
    failed = [[True, True, True], [False], [True, False]]
    workspace.ingest({str(failures): f"text {failures}" for failures in pending + failed})
    workspace.plan()
    workspace.execute("DELETE FROM in_flight_request")
    with workspace.database.writing() as connection:
        for failures in pending + failed:
            for number, retryable in enumerate(failures):
                connection.execute(
                    """
                    INSERT INTO failed_request (
                        custom_id, batch_id, code, message, http_status, retryable, superseded, failed_at
                    )
                    SELECT custom_id, ?, 'code', 'words', 500, ?, false, now() FROM batch_request WHERE article_id = ?
                    """,
                    [f"batch_{number}", retryable, str(failures)],
                )
    plan = workspace.plan(max_rounds=3)
    assert (plan.requests, plan.round) == ({"failed": 3, "pending": 3}, 3)
    assert sorted(request["body"]["messages"][1]["content"] for request in workspace.requests()) == sorted(
        f"Title: \n\ntext {failures}" for failures in pending
    )


def test_a_day_without_articles_has_no_request_file(workspace: Workspace) -> None:
    plan = workspace.plan()
    assert (plan.articles, plan.requests, plan.shards) == (0, {}, [])
    assert workspace.request_files() == []


class BreaksOnThirdLine(ShardWriter):
    def add(self, lines: Sequence[bytes]) -> None:
        super().add(lines[:2])
        raise OSError("No space left on device")


@pytest.mark.parametrize(
    ("place", "replacement"),
    [("pending_requests.ShardWriter", BreaksOnThirdLine), ("plan.max_cost_usd", lambda *_, **__: 1 / 0)],
    ids=["while the lines are written", "after the files are in place"],
)
def test_a_plan_that_breaks_leaves_everything_as_it_was(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, place: str, replacement: object
) -> None:
    workspace.ingest({"a": "one"})
    workspace.plan()
    files, pending = workspace.request_files(), workspace.rows("SELECT * FROM in_flight_request")
    workspace.ingest({"a": "one", "b": "two", "c": "three"})
    with monkeypatch.context() as broken:
        broken.setattr(f"batch_assets.batching.planning.{place}", replacement)
        with pytest.raises((OSError, ZeroDivisionError)):
            workspace.plan()
    assert workspace.request_files() == files
    assert not list((workspace.folder / "requests").rglob(".unfinished*"))
    assert workspace.rows("SELECT * FROM in_flight_request") == pending
    assert workspace.plan().requests == {"pending": 3}
    assert planned_ids(workspace) == sorted(needed(workspace).values())


PLAN = """
import pathlib, sys
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.planning.plan import plan_day
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.planning.task import Task
folder = pathlib.Path(sys.argv[1])
database, options = Database(str(folder / "test.duckdb")), PlanOptions(max_rounds=3)
plan_day(database, day=sys.argv[2], task=Task("m"), data_folder=folder, options=options)
"""


def test_two_processes_planning_a_day_at_once_plan_each_request_once(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, database_in(tmp_path))
    workspace.ingest({str(number): f"text {number}" for number in range(200)})
    program = [sys.executable, "-c", PLAN, str(workspace.folder), DAY]
    planners = [subprocess.Popen(program) for _ in range(2)]
    assert [planner.wait(60) for planner in planners] == [0, 0]
    assert planned_ids(workspace) == sorted(needed(workspace).values())
    assert sorted(workspace.column("SELECT custom_id FROM in_flight_request")) == planned_ids(workspace)
    assert len(set(planned_ids(workspace))) == 200
