"""Batch objects of servers that imitate OpenAI: a missing key does not stop a day."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import httpx2
import openai
import pytest
from openai.types import Batch

from batch_assets.batching.provider.batches import (
    MISSING,
    RemoteBatch,
    RemoteError,
    error_message,
    list_batches,
    now_utc,
    read_batch,
    retrieve_batch,
)
from batch_assets_tests.batching.conftest import Call, Reply, make_batches, proxy
from batch_assets_tests.local_api_client import LocalApi

MOMENT = 1_800_000_000
MOMENT_UTC = datetime.fromisoformat("2027-01-15 08:00")  # the tables' times are UTC without zone


def read(**fields: Any) -> RemoteBatch:
    return read_batch(Batch.construct(id="batch_x", **fields))


def test_all_fields_of_openais_batch_are_read() -> None:
    batch = read(
        status="completed",
        created_at=MOMENT - 60,
        completed_at=MOMENT,
        input_file_id="file-in",
        output_file_id="file-out",
        error_file_id=None,
        request_counts={"total": 3, "completed": 2, "failed": 1},
        usage={"input_tokens": 10, "output_tokens": 20, "total_tokens": 30},
        errors={"object": "list", "data": [{"code": "bad", "message": "No.", "line": 2, "param": "body"}]},
        metadata={"a": "b"},
    )
    assert batch == RemoteBatch(
        "batch_x",
        "completed",
        created_at=MOMENT_UTC - timedelta(minutes=1),
        ended_at=MOMENT_UTC,
        input_file_id="file-in",
        output_file_id="file-out",
        total=3,
        completed=2,
        failed=1,
        input_tokens=10,
        output_tokens=20,
        errors=(RemoteError("bad", "No.", 2, "body"),),
        metadata={"a": "b"},
    )


def test_a_batch_with_only_an_id_is_read() -> None:
    assert read() == RemoteBatch("batch_x", "")


def test_nulls_and_empty_strings_are_read_as_none() -> None:
    nulls = dict.fromkeys(("status", "request_counts", "usage", "errors", "metadata", "created_at", "completed_at"))
    assert read(**nulls, input_file_id="", output_file_id="", error_file_id="") == RemoteBatch("batch_x", "")


@pytest.mark.parametrize("errors", [{"data": None}, {"object": "list"}, {"data": []}, [], "none"])
def test_errors_without_entries_are_read_as_no_errors(errors: object) -> None:
    assert read(errors=errors).errors == ()


def test_an_error_entry_without_code_and_message_is_read() -> None:
    errors = {"data": [{}, None, {"code": None, "message": None, "line": "?"}]}
    assert read(errors=errors).errors == (RemoteError("unknown", ""),) * 3


@pytest.mark.parametrize("field", ["completed_at", "failed_at", "expired_at", "cancelled_at"])
def test_a_batch_ended_at_the_one_end_time_that_it_has(field: str) -> None:
    assert read(**{field: MOMENT}).ended_at == MOMENT_UTC
    assert read(**{field: 0}).ended_at is None


@pytest.mark.parametrize(("hours", "has_ended"), [(0.9, False), (1.1, True)])
def test_cancelling_for_more_than_an_hour_counts_as_ended(hours: float, has_ended: bool) -> None:
    assert RemoteBatch("b", "cancelling", cancelling_at=now_utc() - timedelta(hours=hours)).has_ended is has_ended


def test_a_batch_that_the_api_does_not_know_is_missing_and_has_not_ended(api: LocalApi) -> None:
    assert retrieve_batch(api.client, "batch_forgotten") == RemoteBatch("batch_forgotten", MISSING)
    assert not retrieve_batch(api.client, "batch_forgotten").has_ended


def test_an_error_message_is_that_of_the_api(api: LocalApi) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        api.client.batches.create(input_file_id="f", endpoint="/v1/nothing", completion_window="24h")  # type: ignore[arg-type]
    assert error_message(refused.value).startswith("Invalid value: '/v1/nothing'")
    assert error_message(openai.OpenAIError()) == "OpenAIError"


@pytest.mark.parametrize("missing_keys", [(), ("has_more",), ("has_more", "created_at")], ids=str)
@pytest.mark.parametrize("ignores_after", [False, True])
def test_every_page_is_read_once(local_api: LocalApi, missing_keys: tuple[str, ...], ignores_after: bool) -> None:
    made = make_batches(local_api, 5)
    pages: list[Reply] = []

    def answer(call: Call) -> Reply:
        pages.append(call.forward())
        page = (pages[0] if ignores_after else pages[-1]).json
        for key in missing_keys:
            for holder in (page, *page["data"]):
                holder.pop(key, None)
        return Reply.of(page)

    with proxy(local_api.url, answer, page_size=2) as client:
        listed = [batch.id for batch in list_batches(client, since=now_utc() - timedelta(hours=1))]
    assert listed == made[:2:-1] if ignores_after else made[::-1]
    assert len(pages) <= 4


@pytest.mark.parametrize("page", [{}, {"data": None}, {"data": [], "has_more": True}], ids=str)
def test_a_list_without_batches_is_empty(api: LocalApi, page: dict[str, Any]) -> None:
    with proxy(api.url, lambda call: Reply.of(page)) as client:
        assert list(list_batches(client, since=MOMENT_UTC)) == []


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b"<html>busy</html>", "text/html"),
        Reply(200, b"<html>busy</html>"),
        Reply.of([]),
    ],
    ids=["page", "page called JSON", "array"],
)
def test_an_answer_that_cannot_be_read_raises_an_openai_error(api: LocalApi, reply: Reply) -> None:
    with proxy(api.url, lambda call: reply) as client:
        with pytest.raises(openai.OpenAIError, match=r"batch_x cannot be read"):
            retrieve_batch(client, "batch_x")
        with pytest.raises(openai.OpenAIError, match=r"list of batches cannot be read"):
            list(list_batches(client, since=MOMENT_UTC))


@pytest.mark.parametrize("moment", [1e30, 1_795_000_000_000, -1e18, float(2**63), "2026-11-20", []])
def test_an_impossible_time_is_read_as_none_and_hides_no_other_batch(api: LocalApi, moment: object) -> None:
    batches = [{"id": "batch_x", "status": "completed", "created_at": moment, "completed_at": moment}]
    page = Reply.of({"id": "batch_x", **batches[0], "data": [*batches, {"id": "batch_y", "created_at": MOMENT}]})
    with proxy(api.url, lambda call: page) as client:
        one = retrieve_batch(client, "batch_x")
        assert (one.created_at, one.ended_at, one.has_ended) == (None, None, True)
        assert [batch.id for batch in list_batches(client, since=MOMENT_UTC)] == ["batch_x", "batch_y"]


def test_older_batches_between_newer_ones_do_not_end_the_list(local_api: LocalApi) -> None:
    """OpenAI promises no order. Only a page of older batches with the newest first is the last page."""
    made = make_batches(local_api, 4)

    def age(call: Call) -> Reply:
        page = call.forward().json
        for batch in page["data"]:
            batch["created_at"] -= 86_400 if batch["id"] in made[1:3] else 0
        return Reply.of(page)

    with proxy(local_api.url, age, page_size=2) as client:
        found = [batch.id for batch in list_batches(client, since=now_utc() - timedelta(hours=1))]
    assert found == [made[3], made[0]]


def test_texts_of_the_api_have_no_secrets_and_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-proj-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    text = f"refused\x1b[2J\n{key}"
    entry = {"code": text, "message": text, "param": text, "line": 1}
    batch = read(status=text, errors={"data": [entry]})
    assert batch.status == "refused[2j …"
    assert batch.errors == (RemoteError("refused[2J …", "refused[2J …", 1, "refused[2J …"),)
    assert error_message(openai.OpenAIError(text)) == "refused[2J …"
    assert (
        error_message(openai.APIError(text, httpx2.Request("GET", "http://x"), body={"message": text}))
        == "refused[2J …"
    )
