"""Requests that are asked outside of a batch: no batch has them again, and the ledger has what was billed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import openai
import pytest

from batch_assets.batching.ledger.expected_cost import calibration_for, expected_cost
from batch_assets.batching.ledger.requests import RequestStateRules, cancel_pending
from batch_assets.batching.ledger.spending import Budget, used_in_month, used_on_day
from batch_assets.batching.ledger.synchronous_calls import CALL_LIFETIME
from batch_assets.batching.ledger.synchronous_calls import Call as SynchronousCall
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.provider.prices import ModelPrice, standard_rates
from batch_assets.batching.provider.token_costs import cost_usd
from batch_assets.batching.synchronous import ask as ask_module
from batch_assets.batching.synchronous.ask import Asked, ask, settle, why_not_within_budget
from batch_assets.batching.timing import Timing
from batch_assets_tests.batching.conftest import CUT, DAY, TASK, Call, Reply, Workspace, open_workspace, proxy
from batch_assets_tests.batching.synchronous.support import (
    OPENAI,
    asker_of,
    at_openai,
    is_call,
    pending,
    tried,
)
from batch_assets_tests.batching.test_endpoints import CHAT, OF_RESPONSES, VECTORS
from batch_assets_tests.batching.test_tasks import SCHEMA, TOPICS, submit
from batch_assets_tests.local_api_client import LocalApi

STATES = "SELECT state, count(*) FROM synchronous_call GROUP BY state ORDER BY state"
TOO_MANY = {"error": {"message": "Rate limit reached.", "type": "requests", "code": "rate_limit_exceeded"}}
KILLED_DURING_THE_CALL = """
import os, signal, sys
from pathlib import Path
import openai
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.identity import identify
from batch_assets.batching.synchronous import ask, callers, pending

folder, url, day, model, limit = sys.argv[1:]
ask.send = lambda *args, **options: os.kill(os.getpid(), signal.SIGKILL)
database, task = Database(folder + "/test.duckdb"), Task(model, max_output_tokens=int(limit))
client = openai.OpenAI(base_url=url, api_key="unused")
api = identify(client, database.warehouse_id())
[request] = pending.first_pending(database, task, day, PlanOptions(max_rounds=3, api=api.name), 1).requests
with callers.registered_caller(Path(folder)) as caller:
    ask.ask(ask.Asker(database, client, Path(folder), api, caller), task.on(day), request)
"""


def results(asked: list[Asked]) -> list[str]:
    return [one.result for one in asked]


@pytest.mark.parametrize(
    "task", [TASK, OF_RESPONSES, VECTORS, TOPICS], ids=["text", "responses", "embeddings", "structured"]
)
def test_a_tried_request_is_in_no_later_request_file_and_its_answer_is_in_the_table(
    workspace: Workspace, api: LocalApi, task: Task
) -> None:
    workspace.ingest(workspace.texts("abc"))
    asked = tried(workspace, api.client, task=task, limit=2)
    assert results(asked) == ["answered", "answered"]
    assert [one.request.article_id for one in asked] == ["a", "b"]
    plan = workspace.plan(task=task)
    [left] = [json.loads(line) for shard in plan.shards for line in shard.path.read_bytes().splitlines()]
    assert left["custom_id"] not in {one.request.custom_id for one in asked}
    submit(workspace, api, task)
    workspace.collect(api.client, task=task)
    assert api.stats()["requests_executed"] == 3
    rows = workspace.rows(f"SELECT article_id, status, batch_id LIKE 'synchronous/%' FROM {task.name} ORDER BY 1")
    assert rows == [("a", "answered", True), ("b", "answered", True), ("c", "answered", False)]


def test_the_body_of_a_call_is_that_of_the_line_in_a_request_file(workspace: Workspace, api: LocalApi) -> None:
    bodies: list[bytes] = []

    def answer(call: Call) -> Reply:
        if is_call(call):
            bodies.append(call.body)
        return call.forward()

    workspace.ingest({"a": f'“quotes” "and" \\ é {workspace.folder.name}'})
    requests = pending(workspace, api.client).requests
    workspace.plan()
    [line] = workspace.request_files()[0].read_bytes().splitlines()
    with proxy(api.url, answer) as client, asker_of(workspace, client) as asker:
        workspace.execute("DELETE FROM in_flight_request")
        ask(asker, TASK.on(DAY), requests[0])
    prefix = f'{{"custom_id":"{requests[0].custom_id}","method":"POST","url":"/v1/chat/completions","body":'.encode()
    assert line == prefix + bodies[0] + b"}"


def test_spending_is_what_was_billed_at_the_standard_price(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("ab"))
    with proxy(api.url, at_openai()) as client:
        asked = tried(workspace, client)
    rates = standard_rates(TASK.model)
    expected = [
        cost_usd(rates, input_tokens=one.answer.input_tokens, output_tokens=one.answer.output_tokens)
        for one in asked
        if one.answer is not None
    ]
    assert None not in expected
    assert [one.answer and one.answer.cost_usd for one in asked] == [pytest.approx(cost) for cost in expected]
    rows = workspace.rows(
        "SELECT kind, api, task, partition_date::VARCHAR, sum(requests), sum(cost_usd), sum(simulated_cost_usd) "
        "FROM spending GROUP BY ALL"
    )
    total = sum(cost or 0 for cost in expected)
    assert rows == [("answered", OPENAI, "summaries", DAY, 2, pytest.approx(total), None)]
    with workspace.database.reading() as connection:
        used = used_on_day(connection, DAY, OPENAI), used_in_month(connection, now_utc(), OPENAI)
    assert [one.total_usd for one in used] == [pytest.approx(total)] * 2


def test_the_built_in_engine_costs_nothing(workspace: Workspace, local_api: LocalApi) -> None:
    workspace.ingest({"a": "Ships are waiting in the harbour."})
    [asked] = tried(workspace, local_api.client)
    assert asked.answer is not None
    assert asked.answer.cost_usd is None
    assert asked.answer.simulated_cost_usd
    assert workspace.rows("SELECT api, cost_usd, simulated_cost_usd > 0 FROM spending") == [("local", None, True)]


def test_a_lost_answer_is_asked_once_more_and_counts_as_possibly_billed(workspace: Workspace, api: LocalApi) -> None:
    lost: list[bytes] = []

    def answer(call: Call) -> Reply | None:
        reply = call.forward()
        if is_call(call) and not lost:
            lost.append(call.body)
            return CUT
        return reply

    workspace.ingest(workspace.texts("a"))
    with proxy(api.url, at_openai(answer)) as client:
        [asked] = tried(workspace, client)
    assert (asked.result, asked.lost) == ("answered", 1)
    assert workspace.rows(STATES) == [("answered", 1), ("possibly_billed", 1)]
    assert api.stats()["requests_executed"] == 2
    with workspace.database.reading() as connection:
        used = used_on_day(connection, DAY, OPENAI)
    assert used.reserved_usd > used.spent_usd > 0


def test_a_second_lost_answer_leaves_the_request_to_the_batch(workspace: Workspace, api: LocalApi) -> None:
    calls: Counter[bytes] = Counter()

    def answer(call: Call) -> Reply | None:
        if is_call(call):
            calls[call.body] += 1
            call.forward()
            return CUT
        return call.forward()

    workspace.ingest(workspace.texts("a"))
    with proxy(api.url, answer) as client:
        for _ in range(2):
            [asked] = tried(workspace, client)
            assert asked.result == "lost"
            assert "left to the batch" in (asked.message or "")
    assert list(calls.values()) == [2]
    assert workspace.rows(STATES) == [("possibly_billed", 2)]
    assert len(workspace.plan().shards) == 1
    workspace.send(api.client, api)
    assert workspace.statuses() == {"answered": 1}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_refusal_is_not_billed_and_costs_no_round(workspace: Workspace, api: LocalApi, status: int) -> None:
    workspace.ingest(workspace.texts("a"))
    with proxy(api.url, lambda call: Reply.of(TOO_MANY, status) if is_call(call) else call.forward()) as client:
        [asked] = tried(workspace, client)
    assert (asked.result, asked.message) == ("refused", "Rate limit reached.")
    assert workspace.rows("SELECT state, http_status FROM synchronous_call") == [("refused", status)]
    assert workspace.rows("FROM failed_request") == workspace.rows("FROM spending") == []
    assert len(workspace.plan().shards) == 1


def test_a_refusal_that_a_batch_would_get_fails_the_request(workspace: Workspace, api: LocalApi) -> None:
    too_long = {"error": {"message": "Too long.", "code": "context_length_exceeded"}}
    workspace.ingest(workspace.texts("a"))
    with proxy(api.url, lambda call: Reply.of(too_long, 400) if is_call(call) else call.forward()) as client:
        [asked] = tried(workspace, client)
    assert (asked.result, asked.code) == ("failed", "context_length_exceeded")
    plan = workspace.plan()
    assert (plan.shards, plan.requests) == ([], {"failed": 1})


def test_a_gateway_that_answers_for_the_api_has_lost_the_answer(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("a"))
    with proxy(api.url, lambda call: Reply(504, b"<html>") if is_call(call) else call.forward()) as client:
        [asked] = tried(workspace, client)
    assert (asked.result, asked.lost) == ("lost", 2)


def test_an_api_that_cannot_be_reached_has_billed_nothing(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("a"))
    requests = pending(workspace, api.client).requests
    with asker_of(workspace, api.client) as asker, openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="k") as gone:
        asked = ask(replace(asker, client=gone), TASK.on(DAY), requests[0])
    assert (asked.result, asked.code) == ("refused", "not_sent")
    assert workspace.rows(STATES) == [("refused", 1)]


def test_an_answer_that_does_not_come_in_time_is_lost(workspace: Workspace, api: LocalApi) -> None:
    waits = threading.Event()

    def answer(call: Call) -> Reply | None:
        if is_call(call):
            waits.wait(5)
        return call.forward()

    workspace.ingest(workspace.texts("a"))
    with proxy(api.url, answer) as client:
        [asked] = tried(workspace, client, timing=Timing(answer_timeout_seconds=0.1))
        waits.set()
    assert (asked.result, asked.lost) == ("lost", 2)


def test_an_interrupted_call_is_possibly_billed(
    workspace: Workspace, api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    workspace.ingest(workspace.texts("a"))
    monkeypatch.setattr(ask_module, "send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tried(workspace, api.client)
    assert workspace.rows("SELECT state, code FROM synchronous_call") == [("possibly_billed", "interrupted")]


def test_the_call_of_a_killed_process_is_possibly_billed(tmp_path: Path, new_database: Path, api: LocalApi) -> None:
    shutil.copy(new_database, tmp_path)
    with open_workspace(tmp_path) as workspace:
        workspace.renew_warehouse_id()
        workspace.ingest(workspace.texts("a"))
    asked = [str(tmp_path), api.url, DAY, TASK.model, str(TASK.max_output_tokens)]
    killed = subprocess.run([sys.executable, "-c", KILLED_DURING_THE_CALL, *asked], check=False, timeout=60)
    assert killed.returncode == -9
    with open_workspace(tmp_path) as workspace:
        assert workspace.rows(STATES) == [("sent", 1)]
        assert workspace.plan().shards == []  # as long as the answer may come
        assert results(tried(workspace, api.client)) == ["answered"]
        assert workspace.rows(STATES) == [("answered", 1), ("possibly_billed", 1)]
        assert workspace.plan().requests == {"answered": 1}
        assert not list((tmp_path / "results" / "calls").glob("*.lock"))


@pytest.mark.parametrize(("status", "state"), [(200, "answered"), (500, "refused")])
def test_an_answer_that_is_stored_and_not_loaded_is_loaded_later(
    workspace: Workspace, api: LocalApi, monkeypatch: pytest.MonkeyPatch, status: int, state: str
) -> None:
    def killed(*args: Any) -> None:
        raise SystemExit

    def answer(call: Call) -> Reply:
        return Reply.of(TOO_MANY, status) if is_call(call) and status != 200 else call.forward()

    workspace.ingest(workspace.texts("a"))
    with proxy(api.url, answer) as client, monkeypatch.context() as patched:
        patched.setattr(ask_module, "load_answer", killed)
        with pytest.raises(SystemExit):
            tried(workspace, client)
    assert workspace.rows(STATES) == [("sent", 1)]
    with asker_of(workspace, api.client) as asker:
        assert len(settle(asker).loaded) == 1
    assert workspace.rows(STATES) == [(state, 1)]
    assert len(workspace.plan().shards) == (state == "refused")


def test_a_request_that_is_asked_now_waits_for_the_end_of_the_call(workspace: Workspace, api: LocalApi) -> None:
    seen: dict[str, Any] = {}

    def answer(call: Call) -> Reply | None:
        if is_call(call) and not seen:
            seen["again"] = tried(workspace, api.client)
            seen["plan"] = workspace.plan().requests
            seen["collected"] = workspace.collect(api.client)
        return call.forward()

    workspace.ingest(workspace.texts("ab"))
    with proxy(api.url, answer) as client:
        [asked] = tried(workspace, client, limit=1)
    assert asked.result == "answered"
    assert [one.request.article_id for one in seen["again"]] == ["b"]  # two at once ask each request once
    assert seen["plan"] == {"answered": 1, "blocked": 1}
    assert (seen["collected"].in_pause, seen["collected"].requests_in_files) == (1, 0)
    assert seen["collected"].next_attempt_at > now_utc()
    assert workspace.rows(STATES) == [("answered", 2)]


def test_a_call_without_an_end_blocks_its_request_for_a_while_only(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("a"))
    with asker_of(workspace, api.client) as asker:
        [request] = pending(workspace, api.client).requests
        assert isinstance(ask_module._begin(asker, TASK.on(DAY), request), SynchronousCall)
        assert [len(calls) for calls in vars(settle(asker)).values()] == [0, 0, 1]
        workspace.execute("UPDATE synchronous_call SET sent_at = sent_at - ?", [CALL_LIFETIME + timedelta(seconds=1)])
        assert len(pending(workspace, api.client).requests) == 1
        assert [len(calls) for calls in vars(settle(asker)).values()] == [0, 1, 0]


def test_what_happened_meanwhile_decides_before_a_call(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("ab"))
    requests = pending(workspace, api.client).requests
    with asker_of(workspace, api.client) as asker:
        ask(asker, TASK.on(DAY), requests[0])
        workspace.plan()
        asked = [ask(asker, TASK.on(DAY), request) for request in requests]
    assert [(one.result, one.code) for one in asked] == [("not_asked", "answered"), ("not_asked", "in_flight")]


def test_a_budget_refuses_before_any_call(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("ab"))
    with proxy(api.url, at_openai()) as client, asker_of(workspace, client) as asker:
        requests = pending(workspace, client).requests
        most = ask_module.max_cost_usd(requests, OPENAI)
        assert most is not None
        assert most == pytest.approx(
            sum(one.estimated_input_tokens for one in requests) * 0.1e-6 + 2 * TASK.max_output_tokens * 0.4e-6
        )
        for budget, message in (
            (Budget(max_cost_usd_per_day=most * 0.99), "BATCH_ASSETS_MAX_COST_USD"),
            (Budget(max_cost_usd_per_month=most * 0.99), "BATCH_ASSETS_MAX_COST_USD_PER_MONTH"),
            (Budget(tasks={"summaries": most * 0.99}), "max_cost_usd"),
        ):
            assert message in (why_not_within_budget(replace(asker, budget=budget), TASK.on(DAY), requests) or "")
        assert why_not_within_budget(replace(asker, budget=Budget(most)), TASK.on(DAY), requests) is None
        [first, second] = [ask(replace(asker, budget=Budget(most / 2)), TASK.on(DAY), one) for one in requests]
    assert (first.result, second.code) == ("answered", "over_budget")


def test_no_budget_can_be_checked_without_a_standard_price(workspace: Workspace, api: LocalApi) -> None:
    """The user's own price is one of batches. Without a budget, the cost is unknown; a later budget counts twice it."""
    own = (ModelPrice("gpt-4.1-nano", 0.05, 0.2),)
    workspace.ingest(workspace.texts("a"))
    with asker_of(workspace, api.client, budget=Budget(1.0), own_prices=own) as asker:
        requests = pending(workspace, api.client).requests
        assert "standard price" in (why_not_within_budget(asker, TASK.on(DAY), requests) or "")
    [asked] = tried(workspace, api.client, own_prices=own)
    assert asked.answer is not None
    assert asked.answer.cost_usd is None
    with workspace.database.reading() as connection:
        assert used_on_day(connection, DAY, "local+instant").unpriced_models == ("gpt-4.1-nano",)
        used = used_on_day(connection, DAY, "local+instant", own)
    tokens = asked.answer.input_tokens or 0, asked.answer.output_tokens or 0
    assert used.spent_usd == pytest.approx(2 * (tokens[0] * 0.05e-6 + tokens[1] * 0.2e-6))


def test_an_invalid_answer_fails_as_in_a_batch_and_is_billed(workspace: Workspace, api: LocalApi) -> None:
    def answer(call: Call) -> Reply:
        reply = call.forward()
        if not is_call(call):
            return reply
        body = reply.json
        body["choices"][0]["message"]["content"] = '{"topics": "none"}'
        return Reply.of(body)

    workspace.ingest(workspace.texts("a"))
    with proxy(api.url, at_openai(answer)) as client:
        [asked] = tried(workspace, client, task=replace(CHAT, name="topics", output_schema=SCHEMA))
    assert (asked.result, asked.code) == ("failed", "invalid_answer")
    assert asked.answer is not None
    assert asked.answer.cost_usd
    assert workspace.rows("SELECT kind, cost_usd > 0 FROM spending") == [("failed", True)]
    assert workspace.column("SELECT code FROM failed_request") == ["invalid_answer"]


def test_tried_requests_calibrate_the_estimate(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("abcd"))
    with proxy(api.url, at_openai()) as client:
        before = pending(workspace, client, limit=2)
        asked = tried(workspace, client, limit=2)
        after = pending(workspace, client, limit=2)
    assert (before.all.requests, before.pending.requests, after.all.requests, after.pending.requests) == (4, 4, 4, 2)
    workspace.plan(api=OPENAI)
    [(requests, tokens)] = workspace.rows("SELECT requests, estimated_input_tokens FROM batch_request_file")
    assert (after.pending.requests, after.pending.estimated_input_tokens) == (requests, tokens)
    with workspace.database.reading() as connection:
        assert calibration_for(connection, after.all, OPENAI) is not None
        usd = expected_cost(connection, after.all, OPENAI, ())
    used = [one.answer.cost_usd or 0 for one in asked if one.answer is not None]
    assert usd == pytest.approx(sum(used) / 2 / 2 * 4, rel=0.1)  # half the price, twice as many requests


@pytest.mark.parametrize("body", [b"<html>Sign in</html>", b"{}", b'{\n "id": 1\n}'])
def test_a_body_that_is_no_answer_is_stored_and_shown(workspace: Workspace, api: LocalApi, body: bytes) -> None:
    workspace.ingest(workspace.texts("a"))
    with proxy(api.url, lambda call: Reply(200, body) if is_call(call) else call.forward()) as client:
        [asked] = tried(workspace, client)
    assert (asked.result, asked.code) == ("failed", "no_answer")
    [path] = (workspace.folder / "results" / "calls").glob("*.jsonl")
    stored = json.loads(path.read_bytes())["response"]["body"]
    assert stored == (body.decode() if body.startswith(b"<") else json.loads(body))


@pytest.mark.parametrize(("status", "result"), [(429, "refused"), (400, "failed"), (200, "failed")])
def test_an_answer_of_the_built_in_engine_is_not_shown_as_that_of_another_api(
    workspace: Workspace, local_api: LocalApi, status: int, result: str
) -> None:
    def answer(call: Call) -> Reply:
        return Reply.of({"error": {"message": "No."}}, status) if is_call(call) else call.forward()

    workspace.ingest({"a": "Ships are waiting in the harbour."})
    tried(workspace, local_api.client)
    with proxy(local_api.url, at_openai(answer)) as client:
        [asked] = tried(workspace, client)
    assert asked.result == result
    assert workspace.column("SELECT api FROM completion") == ["local"]


@pytest.mark.parametrize(
    ("status", "code", "refuses_all"),
    [(429, "insufficient_quota", True), (403, None, True), (401, "invalid_api_key", True), (429, None, True),
     (500, None, False), (400, "invalid_value", False)],
)  # fmt: skip
def test_a_refusal_says_whether_the_api_would_refuse_the_other_requests_too(
    workspace: Workspace, api: LocalApi, status: int, code: str | None, refuses_all: bool
) -> None:
    error = Reply.of({"error": {"message": "No.", "code": code}}, status)
    workspace.ingest(workspace.texts("a"))
    with proxy(api.url, lambda call: error if is_call(call) else call.forward()) as client:
        [asked] = tried(workspace, client)
    assert asked.refuses_all is refuses_all


def test_a_cancelled_day_does_not_send_the_request_of_a_lost_call(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("a"))
    workspace.plan()
    workspace.execute("DELETE FROM in_flight_request")
    with asker_of(workspace, api.client) as asker:
        [request] = pending(workspace, api.client).requests
        ask_module._begin(asker, TASK.on(DAY), request)
    cancel_pending(workspace.database, TASK.on(DAY), RequestStateRules("local+instant"))
    workspace.execute("UPDATE synchronous_call SET state = 'possibly_billed'")
    assert pending(workspace, api.client).counts == {"cancelled": 1}


def test_an_option_that_the_api_refuses_is_not_sent_again(workspace: Workspace, api: LocalApi) -> None:
    sent: list[bool] = []

    def answer(call: Call) -> Reply:
        if not is_call(call):
            return call.forward()
        sent.append("prompt_cache_options" in json.loads(call.body))
        error = {"error": {"message": "Unknown parameter: 'prompt_cache_options'.", "type": "invalid_request_error"}}
        return Reply.of(error, 400) if sent[-1] else call.forward()

    workspace.ingest(workspace.texts("a"))
    with proxy(api.url, at_openai(answer)) as client:
        asked = [tried(workspace, client, task=replace(TASK, model="gpt-6-luna")) for _ in range(2)]
    assert [(one.result, one.code) for [one] in asked] == [("failed", "refused_option"), ("answered", None)]
    assert sent == [True, False]


@pytest.mark.parametrize("status", [400, 403])
def test_a_message_of_the_api_is_stored_without_the_key(
    workspace: Workspace, api: LocalApi, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    key = "sk-proj-0123456789abcdef"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    error = Reply.of({"error": {"message": f"The key {key} may not.\x1b[2J", "code": "no_such_code"}}, status)
    workspace.ingest(workspace.texts("a"))
    with proxy(api.url, lambda call: error if is_call(call) else call.forward()) as client:
        [asked] = tried(workspace, client)
    stored = workspace.column("SELECT message FROM synchronous_call UNION ALL SELECT message FROM failed_request")
    assert len(stored) == (2 if status == 400 else 1)
    assert not any("0123456789" in message for message in (*stored, asked.message))
