"""Guards against articles that fail because of the account, and against rounds that cost nothing."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import duckdb
import pytest

from batch_assets.batching.ledger import outcomes
from batch_assets.batching.ledger.outcomes import ACCOUNT_PAUSES, Scope, outcome_of
from batch_assets.batching.ledger.retries import end_account_pauses
from batch_assets.batching.provider.batches import RemoteError, now_utc
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets_tests.batching.conftest import DAY, Call, FailsFirst, Reply, Workspace, changed_lines, proxy
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.task_days import of

# All kinds of account error have the same pauses: the first kind goes through all of them, the others through two.
THOROUGH = bool(os.environ.get("BATCH_ASSETS_TEST_THOROUGH"))
# What lines had when an account was out of order, as users saw it: status, error object.
ACCOUNT_LINES: dict[str, tuple[int, dict[str, Any]]] = {
    "billing, a 400": (400, {"code": "billing_hard_limit_reached", "message": "Billing hard limit has been reached."}),
    "quota, a 429": (429, {"code": "insufficient_quota", "message": "You exceeded your current quota."}),
    "quota without a code": (429, {"message": "You exceeded your current quota, please check your plan."}),
    "no credit, a 402": (402, {"code": "payment_required", "message": "Top up."}),
    "another key": (401, {"code": "invalid_api_key", "message": "Incorrect API key provided."}),
    "no access": (403, {"message": "Project x does not have access to the model."}),
    "the model is gone": (404, {"code": "model_not_found", "message": "The model does not exist."}),
}
CODES = [*(code for outcome in outcomes.OUTCOMES for code in outcome.codes), "server_error", "rate_limit_exceeded", "x"]
MESSAGES = [None, "", "Slow down.", *(phrase.upper() for outcome in outcomes.OUTCOMES for phrase in outcome.phrases)]
STATUSES = [None, 200, 400, 401, 402, 403, 404, 408, 409, 422, 429, 500]


def refused_by(status: int, error: dict[str, Any]) -> Callable[[Call], Reply]:
    """An API that answers each line with this error."""

    def change(line: dict[str, Any]) -> None:
        line["response"] = {"status_code": status, "request_id": "r", "body": {"error": error}}

    return changed_lines(change)


def test_sql_and_python_agree_about_every_failure() -> None:
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE line (code VARCHAR, message VARCHAR, http_status INTEGER)")
        for code in CODES:
            for message in MESSAGES:
                connection.executemany(
                    "INSERT INTO line VALUES (?, ?, ?)", [[code, message, status] for status in STATUSES]
                )
        rows = connection.execute(
            f"SELECT code, message, http_status, {outcomes.IS_RETRYABLE}, {outcomes.SCOPE} FROM line"
        ).fetchall()
    assert len(rows) == len(CODES) * len(MESSAGES) * len(STATUSES)
    for code, message, status, is_retryable, scope in rows:
        outcome = outcome_of(code, message, status)
        assert (is_retryable, scope) == (outcome.is_retryable, outcome.scope), (code, message, status)


@pytest.mark.parametrize("kind", ACCOUNT_LINES)
def test_an_account_error_on_lines_costs_no_round_and_names_the_remedy(
    workspace: Workspace, api: LocalApi, kind: str
) -> None:
    status, error = ACCOUNT_LINES[kind]
    workspace.ingest(workspace.texts("ab"))
    with proxy(api.url, refused_by(status, error)) as client:
        for number in range(5 if THOROUGH or kind == "billing, a 400" else 2):
            assert workspace.plan().requests == {"blocked" if number else "pending": 2}
            collected = workspace.send(client, api)
            assert (collected.requests, collected.blocked) == ({"blocked": 2}, {"account": 2})
            pause = ACCOUNT_PAUSES[min(number, len(ACCOUNT_PAUSES) - 1)]
            assert collected.next_attempt_at is not None
            assert timedelta(0) <= now_utc() + pause - collected.next_attempt_at < timedelta(seconds=60)
            assert workspace.plan(respect_pauses=True).shards == []
    [message] = workspace.column("SELECT DISTINCT error_message FROM summaries WHERE status = 'blocked'")
    assert outcome_of(error.get("code"), error["message"], status).remedy in message
    workspace.plan()
    assert workspace.send(api.client, api).requests == {"answered": 2}
    assert workspace.column("SELECT max(round) FROM openai_batch") == [1]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (429, {"code": "rate_limit_exceeded", "message": "You've exceeded the 1000 request/min rate limit."}),
        (500, {"code": "server_error", "message": "The server had an error."}),
        (408, {"message": "Timeout."}),
    ],
)
def test_an_error_of_the_request_costs_a_round(
    workspace: Workspace, api: LocalApi, status: int, error: dict[str, Any]
) -> None:
    workspace.ingest(workspace.texts("a"))
    with proxy(api.url, refused_by(status, error)) as client:
        for left in ("pending", "pending", "failed"):
            workspace.plan()
            collected = workspace.send(client, api)
            assert (collected.requests, collected.next_attempt_at) == ({left: 1}, None)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("billing_hard_limit_reached", "Billing hard limit has been reached."),
        ("insufficient_quota", "You exceeded your current quota."),
        ("model_not_found", "The provided model 'x' is not supported by the Batch API."),
        ("invalid_api_key", "Incorrect API key provided."),
    ],
)
def test_a_batch_that_an_account_error_failed_is_sent_again_after_growing_pauses(
    workspace: Workspace, api: LocalApi, code: str, message: str
) -> None:
    workspace.ingest(workspace.texts("ab"))
    workspace.plan()
    attempts = 4 if THOROUGH or code == "billing_hard_limit_reached" else 2
    with proxy(api.url, FailsFirst(code, message, times=attempts)) as client:
        for attempt in range(attempts):
            workspace.submit(client, run_id=f"run {attempt}")
            api.wait(workspace.column("SELECT batch_id FROM openai_batch")[0])
            collected = workspace.collect(client)
            assert (collected.requests, collected.blocked) == ({"blocked": 2}, {"submission": 2})
            assert workspace.rows("SELECT DISTINCT status, error_code FROM summaries") == [("blocked", code)]
            [(state, not_before, said)] = workspace.rows("SELECT state, not_before, message FROM openai_batch")
            assert state == "deferred"
            assert abs(now_utc() + ACCOUNT_PAUSES[attempt] - not_before) < timedelta(seconds=60)
            assert outcome_of(code, message).remedy in said
            workspace.end_pauses()
        assert workspace.send(client, api).requests == {"answered": 2}
    assert workspace.column("SELECT max(round) FROM openai_batch") == [1]


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "invalid_api_key"), (403, None), (429, "insufficient_quota"), (400, "billing_hard_limit_reached")],
)
def test_an_account_error_at_the_creation_is_refused_once_and_names_the_remedy(
    workspace: Workspace, api: LocalApi, status: int, code: str | None
) -> None:
    posts: list[Call] = []

    def refuse(call: Call) -> Reply:
        if not call.creates_batch:
            return call.forward()
        posts.append(call)
        return Reply.of({"error": {"message": "No.", "code": code}}, status)

    workspace.ingest(workspace.texts("a"))
    workspace.plan()
    remedy = outcome_of(code, "No.", status).remedy
    attempts = 7 if THOROUGH or code == "billing_hard_limit_reached" else 2
    with proxy(api.url, refuse) as client:
        for number in range(attempts):
            with pytest.raises(SubmissionError) as refused:
                workspace.submit(client, run_id=f"run {number}")
            assert remedy in str(refused.value)
            [(state, not_before, message)] = workspace.rows("SELECT state, not_before, message FROM openai_batch")
            assert (state, remedy in message) == ("deferred", True)
            pause = ACCOUNT_PAUSES[min(number, len(ACCOUNT_PAUSES) - 1)]
            assert abs(now_utc() + pause - not_before) < timedelta(seconds=60)
            assert workspace.submit(client, run_id="too early").deferred == 1
            assert workspace.collect(client).blocked == {"submission": 1}
            end_account_pauses(workspace.database, [of(DAY)])
    assert outcome_of(code, "No.", status).scope is Scope.ACCOUNT
    assert len(posts) == attempts
    [(shown, said)] = workspace.rows("SELECT error_code, error_message FROM summaries WHERE status = 'blocked'")
    assert (shown, remedy in said) == (code or "account", True)
    assert workspace.submit(api.client, run_id="later").created == 1
    assert workspace.column("SELECT max(round) FROM openai_batch") == [1]


@pytest.mark.parametrize("content", ["", " ", None, "<think>Nothing comes of it.</think>"])
def test_an_empty_answer_is_tried_once_more(workspace: Workspace, api: LocalApi, content: str | None) -> None:
    def change(line: dict[str, Any]) -> None:
        line["response"]["body"]["choices"][0]["message"]["content"] = content

    workspace.ingest(workspace.texts("a"))
    with proxy(api.url, changed_lines(change)) as client:
        for left in ("pending", "failed", "failed"):
            workspace.plan()
            assert workspace.send(client, api).requests == {left: 1}
    assert api.stats()["requests_executed"] == 2
    assert workspace.column("SELECT error_code FROM summaries") == ["empty_answer"]


def test_other_failures_do_not_count_as_empty_answers(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("a"))
    with proxy(api.url, refused_by(500, {"code": "server_error", "message": "Sorry."})) as client:
        workspace.plan()
        assert workspace.send(client, api).requests == {"pending": 1}

    def empty(line: dict[str, Any]) -> None:
        line["response"]["body"]["choices"][0]["message"]["content"] = ""

    with proxy(api.url, changed_lines(empty)) as client:
        workspace.plan()
        assert workspace.send(client, api).requests == {"pending": 1}
    workspace.plan()
    assert workspace.send(api.client, api).requests == {"answered": 1}


@pytest.mark.parametrize("body", [{"model": "x", "messages": []}, [1], "a page", {}])
def test_a_200_that_is_no_answer_costs_one_round_and_is_quarantined(
    workspace: Workspace, api: LocalApi, body: object
) -> None:
    """A server was seen that echoes the request as the body: three rounds of it were bought."""

    def change(line: dict[str, Any]) -> None:
        line["response"]["body"] = body

    workspace.ingest(workspace.texts("a"))
    with proxy(api.url, changed_lines(change)) as client:
        for _ in range(3):
            workspace.plan()
            assert workspace.send(client, api).requests == {"failed": 1}
    assert api.stats()["requests_executed"] == 1
    assert workspace.column("SELECT error_code FROM summaries") == ["no_answer"]
    assert len(workspace.column("SELECT reason FROM quarantined_line")) == 1


def test_a_batch_that_failed_as_a_whole_costs_no_round(workspace: Workspace, api: LocalApi) -> None:
    """It ran nothing. After ten such batches the requests fail, with the reason of the batch."""
    workspace.ingest(workspace.texts("a"))
    fails = FailsFirst("unknown_reason", "Something is wrong with this batch.", times=99)
    with proxy(api.url, fails) as client:
        for number in range(1, outcomes.MAX_BATCH_RETRIES + 1):
            workspace.plan()
            expected = "pending" if number < outcomes.MAX_BATCH_RETRIES else "failed"
            assert workspace.send(client, api).requests == {expected: 1}
    assert "Something is wrong" in workspace.column("SELECT error_message FROM summaries")[0]


SCHEMA_ERRORS: list[tuple[int, dict[str, Any]]] = [
    (400, {"code": None, "type": "invalid_request_error", "param": "response_format", "message":
        "Invalid schema for response_format 'x': In context=('properties', 'insufficient balance'), no."}),
    (400, {"code": "invalid_json_schema", "param": "text.format.schema", "message": "Bad."}),
]  # fmt: skip


@pytest.mark.parametrize(("status", "error"), SCHEMA_ERRORS)
def test_a_refused_output_schema_costs_no_round_and_is_not_retried(
    workspace: Workspace, api: LocalApi, status: int, error: dict[str, Any]
) -> None:
    workspace.ingest(workspace.texts("ab"))
    with proxy(api.url, refused_by(status, error)) as client:
        for _ in range(2):
            workspace.plan()
            assert workspace.send(client, api).requests == {"failed": 2}
    assert api.stats()["requests_executed"] == 2
    assert workspace.rows("SELECT DISTINCT scope, retryable FROM failed_request") == [("task", False)]
    [message] = workspace.column("SELECT DISTINCT error_message FROM summaries")
    assert error["message"] in message
    assert "Change the output schema of the task" in message


def test_a_batch_that_was_refused_for_its_schema_is_not_sent_again() -> None:
    errors = [RemoteError(code, message, None, None) for code, message in [("invalid_json_schema", ""), ("x", "Bad.")]]
    assert outcomes.requeue_outcome(errors) is None
