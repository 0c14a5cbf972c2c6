"""Guards against buying answers again, when only the requests that failed for good are to be sent again."""

from collections.abc import Callable
from typing import Any

import pytest

from batch_assets.batching.ledger.requests import RequestStateRules
from batch_assets.batching.ledger.retries import retry_day
from batch_assets_tests.batching.conftest import (
    API,
    DAY,
    TASK,
    Call,
    FailsFirst,
    Reply,
    Workspace,
    changed_lines,
    proxy,
)
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.task_days import of

RULES = RequestStateRules(API, TASK.max_output_tokens, 3)


def failing(workspace: Workspace, errors: dict[str, tuple[int, str]]) -> Callable[[Call], Reply]:
    """An API that answers the lines of these articles with an error: {article: (status, code)}."""
    of_request = dict(workspace.rows("SELECT custom_id, article_id FROM batch_request"))

    def change(line: dict[str, Any]) -> None:
        if (error := errors.get(of_request[line["custom_id"]])) is not None:
            status, code = error
            body = {"error": {"code": code, "message": f"The reason is {code}."}}
            line["response"] = {"status_code": status, "request_id": "r", "body": body}

    return changed_lines(change)


@pytest.fixture
def failed(workspace: Workspace, api: LocalApi) -> Workspace:
    """Of four articles, a is answered, b and c failed for good with two codes, d is pending."""
    workspace.ingest(workspace.texts("abcd"))
    workspace.plan()
    errors = {"b": (400, "string_above_max_length"), "c": (422, "invalid_value"), "d": (500, "server_error")}
    with proxy(api.url, failing(workspace, errors)) as client:
        workspace.send(client, api)
    assert workspace.statuses() == {"answered": 1, "failed": 2, "pending": 1}
    return workspace


@pytest.mark.parametrize(
    ("code", "again", "states"),
    [
        (None, 2, {"answered": 1, "pending": 3}),
        ("invalid_value", 1, {"answered": 1, "failed": 1, "pending": 2}),
        ("server_error", 0, {"answered": 1, "failed": 2, "pending": 1}),
        ("no such code", 0, {"answered": 1, "failed": 2, "pending": 1}),
    ],
)
def test_exactly_the_requests_that_failed_for_good_are_pending_again(
    failed: Workspace, api: LocalApi, code: str | None, again: int, states: dict[str, int]
) -> None:
    billed = failed.rows("SELECT kind, sum(requests) FROM spending GROUP BY ALL ORDER BY ALL")
    assert retry_day(failed.database, of(DAY), RULES, code) == (again, 0)
    assert retry_day(failed.database, of(DAY), RULES, code) == (0, 0)
    assert failed.rows("SELECT kind, sum(requests) FROM spending GROUP BY ALL ORDER BY ALL") == billed
    executed = api.stats()["requests_executed"]
    assert failed.plan().requests == states
    failed.send(api.client, api)
    assert api.stats()["requests_executed"] - executed == states["pending"]


def test_the_switch_of_the_plan_does_the_same(failed: Workspace, api: LocalApi) -> None:
    assert failed.plan().requests == {"answered": 1, "failed": 2, "pending": 1}
    assert failed.plan(retry_failed=True).requests == {"answered": 1, "pending": 3}
    assert failed.send(api.client, api).requests == {"answered": 4}


def test_a_request_whose_rounds_are_used_up_gets_all_of_them_again(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("a"))
    workspace.plan()
    with proxy(api.url, failing(workspace, {"a": (500, "server_error")})) as client:
        for _ in range(3):
            workspace.plan()
            workspace.send(client, api)
        assert workspace.statuses() == {"failed": 1}
        assert retry_day(workspace.database, of(DAY), RULES).requests == 1
        for left in ("pending", "pending", "failed"):
            workspace.plan()
            assert workspace.send(client, api).requests == {left: 1}


def test_retry_ends_the_pauses_of_an_account_error(workspace: Workspace, api: LocalApi) -> None:
    """The user has paid the bill: a deferred file and paused requests need not wait for hours."""
    workspace.ingest(workspace.texts("a"))
    workspace.plan()
    with proxy(api.url, FailsFirst("billing_hard_limit_reached", "Billing hard limit has been reached.")) as client:
        workspace.submit(client)
        api.wait(workspace.column("SELECT batch_id FROM openai_batch")[0])
        workspace.collect(client)
        assert workspace.submit(client, run_id="too early").deferred == 1
        assert retry_day(workspace.database, of(DAY), RULES) == (0, 1)
        assert workspace.send(client, api).requests == {"answered": 1}


def test_retry_ends_the_pauses_of_requests(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("ab"))
    workspace.plan()
    with proxy(api.url, failing(workspace, {"b": (401, "invalid_api_key")})) as client:
        workspace.send(client, api)
    assert workspace.plan(respect_pauses=True).shards == []
    assert retry_day(workspace.database, of(DAY), RULES) == (1, 0)
    assert len(workspace.plan(respect_pauses=True).shards) == 1
    assert workspace.send(api.client, api).requests == {"answered": 2}
