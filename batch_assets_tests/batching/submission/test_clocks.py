"""Guards against a second batch because two clocks differ, or because a batch has an impossible time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from batch_assets_tests.batching.conftest import CUT, Call, Reply, Workspace, proxy
from batch_assets_tests.local_api_client import LocalApi


def date_header(hours: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True)


def in_listed_batches(reply: Reply, change: Callable[[dict[str, Any]], object]) -> Reply:
    shown = reply.json
    for batch in shown.get("data", [shown]):
        change(batch)
    return replace(reply, content=Reply.of(shown).content)


def times_shifted(reply: Reply, hours: float) -> Reply:
    def shift(batch: dict[str, Any]) -> None:
        for name in [name for name, value in batch.items() if name.endswith("_at") and isinstance(value, int)]:
            batch[name] += int(hours * 3600)

    return in_listed_batches(reply, shift)


def clocks(hours: float, date: str | None = "theirs") -> Callable[[Call], Reply | None]:
    """An API whose clock differs by so many hours, and that loses the answer to the first creation."""
    creates: list[Call] = []

    def answer(call: Call) -> Reply | None:
        reply = call.forward()
        if "/batches" in call.path and reply.status == 200:
            reply = times_shifted(reply, hours)
        if call.creates_batch:
            creates.append(call)
            if len(creates) == 1:
                return CUT
        return replace(reply, date=date_header(hours) if date == "theirs" else date)

    return answer


@pytest.mark.parametrize(
    ("hours", "date"),
    [
        *((hours, "theirs") for hours in (-5, -2, 2, 48)),
        *((hours, "now") for hours in (-2, 2)),  # a proxy sets its own
        *((hours, None) for hours in (-2, 2)),
        (0, "yesterday"),
        (2, "Thu, 01 Jan 1970 00:00:00 GMT"),
    ],
)
def test_a_batch_with_a_lost_answer_is_found_if_the_clocks_differ(
    workspace: Workspace, api: LocalApi, hours: float, date: str | None
) -> None:
    workspace.ingest({"a": f"one of {workspace.folder.name}"})
    workspace.plan()
    with proxy(api.url, clocks(hours, date)) as client:
        submitted = workspace.submit(client)
        assert (submitted.created, submitted.adopted) == (0, 1)
        api.wait(submitted.batch_ids[0])
        assert workspace.collect(client).requests == {"answered": 1}
    assert api.stats() == {**api.stats(), "batches_created": 1, "files_created": 1, "requests_executed": 1}


@pytest.mark.parametrize(("hours", "first"), [(-2, 2), (2, -2), (2, 2)])
def test_the_batch_of_a_killed_run_is_found_after_a_clock_was_set(
    workspace: Workspace, api: LocalApi, hours: float, first: float
) -> None:
    workspace.ingest({"a": f"one of {workspace.folder.name}"})
    workspace.plan()
    (batch_id,) = workspace.submit(api.client).batch_ids
    workspace.execute(
        "UPDATE openai_batch SET state = 'claimed', batch_id = NULL, claimed_at = claimed_at + to_hours(?)", [first]
    )
    lists = clocks(hours)
    with proxy(api.url, lists) as client:
        submitted = workspace.submit(client, run_id="later")
    assert (submitted.batch_ids, submitted.created, submitted.adopted) == ([batch_id], 0, 1)
    assert api.stats()["batches_created"] == 1


MILLISECONDS = 1_795_000_000_000


@pytest.mark.parametrize(
    ("moment", "place"),
    [*((MILLISECONDS, place) for place in ("first", "last", "own")), (1e30, "first"), (None, "own"), ("soon", "own")],
)
def test_a_batch_with_an_impossible_time_hides_no_other(
    workspace: Workspace, api: LocalApi, moment: object, place: str
) -> None:
    workspace.ingest({"a": f"one of {workspace.folder.name}"})
    workspace.plan()
    creates: list[Call] = []

    def answer(call: Call) -> Reply | None:
        reply = call.forward()
        if call.creates_batch:
            creates.append(call)
            return CUT if len(creates) == 1 else reply
        if "after=batch_strange" in call.path:  # the local API does not know this id: here it is the end of the list
            return Reply.of({"object": "list", "data": [], "has_more": False})
        if call.lists_batches:
            page = reply.json
            if place == "own" and page["data"]:
                page["data"][0]["created_at"] = moment
            else:
                strange = {"id": "batch_strange", "status": "completed", "created_at": moment, "metadata": None}
                page["data"] = [strange, *page["data"]] if place == "first" else [*page["data"], strange]
            return Reply.of(page)
        if "/batches/" in call.path and place == "own":
            return Reply.of({**reply.json, "created_at": moment})
        return reply

    with proxy(api.url, answer) as client:
        submitted = workspace.submit(client)
        assert (submitted.created, submitted.adopted) == (0, 1)
        api.wait(submitted.batch_ids[0])
        assert workspace.submit(client).created == 0
        assert workspace.collect(client).requests == {"answered": 1}
    assert api.stats()["batches_created"] == 1
