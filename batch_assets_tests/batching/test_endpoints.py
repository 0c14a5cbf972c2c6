"""The endpoints that a task can ask: the same columns from each, whatever the answer is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from batch_assets.batching.planning.task import Task
from batch_assets.batching.submission.submit import submit_day
from batch_assets_tests.batching.conftest import DAY, TASK, Workspace, changed_lines, proxy
from batch_assets_tests.batching.test_tasks import SCHEMA, submit
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.vector_task import vector_task

CHAT = replace(TASK, name="chat", answer_column="text")
OF_RESPONSES = replace(CHAT, name="responses", endpoint="/v1/responses")
VECTORS = vector_task(name="vectors", dimensions=8)
ANSWER_COLUMNS = """
    article_id, * EXCLUDE (partition_date, article_id, custom_id, batch_id, answered_at, task_version, api)
"""
USAGE = """
    kind, sum(requests), sum(billed_requests), sum(cut_requests), sum(input_tokens), sum(cached_input_tokens),
    sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens), sum(coalesce(cost_usd, simulated_cost_usd))
"""


def collected(workspace: Workspace, api: LocalApi, task: Task, body: dict[str, Any] | None = None) -> list[Any]:
    """Submit and collect the day of the task; returns the rows of its table. body: in place of each answer's."""
    submit(workspace, api, task)
    if body is None:
        workspace.collect(api.client, task=task)
    else:

        def change(line: dict[str, Any]) -> None:
            line["response"]["body"] = body

        with proxy(api.url, changed_lines(change)) as client:
            workspace.collect(client, task=task)
    return workspace.rows(f"SELECT {ANSWER_COLUMNS} FROM {task.name} ORDER BY article_id")


def billed(workspace: Workspace, task: Task) -> list[Any]:
    return workspace.rows(f"SELECT {USAGE} FROM spending WHERE task = ? GROUP BY kind ORDER BY kind", [task.name])


@pytest.mark.parametrize("schema", [None, SCHEMA], ids=["text", "structured"])
def test_chat_and_responses_give_the_same_columns(
    workspace: Workspace, api: LocalApi, schema: dict[str, Any] | None
) -> None:
    workspace.ingest({"a": "one", "b": "two"})
    of_chat = collected(workspace, api, replace(CHAT, output_schema=schema))
    of_responses = collected(workspace, api, replace(OF_RESPONSES, output_schema=schema))
    tokens = 3  # input, output, cost: the two endpoints count the frame of a message differently
    assert [row[:-tokens] for row in of_responses] == [row[:-tokens] for row in of_chat]
    assert all("answered" in row for row in of_responses)
    described = [workspace.rows(f"DESCRIBE {name}") for name in ("chat", "responses")]
    assert described[0] == described[1]


USED = (1000, 400, 100, 50, 30)  # input, cached, cache writes, output, reasoning


def chat_body(content: str | None, finish_reason: str, refusal: str | None = None) -> dict[str, Any]:
    inputs, cached, writes, outputs, reasoning = USED
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "gpt-5.6-luna",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": content, "refusal": refusal},
            }
        ],
        "usage": {
            "prompt_tokens": inputs,
            "completion_tokens": outputs,
            "total_tokens": inputs + outputs,
            "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": writes},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        },
    }


def response_body(
    content: list[dict[str, Any]] | None, status: str = "completed", reason: str | None = None
) -> dict[str, Any]:
    inputs, cached, writes, outputs, reasoning = USED
    thinking: dict[str, Any] = {"type": "reasoning", "id": "rs_1", "summary": [], "content": None}
    message = (
        [] if content is None else [{"type": "message", "role": "assistant", "status": status, "content": content}]
    )
    return {
        "id": "resp_1",
        "object": "response",
        "model": "gpt-5.6-luna",
        "status": status,
        "error": None,
        "incomplete_details": None if reason is None else {"reason": reason},
        "output": [thinking, *message],
        "usage": {
            "input_tokens": inputs,
            "output_tokens": outputs,
            "total_tokens": inputs + outputs,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": writes},
            "output_tokens_details": {"reasoning_tokens": reasoning},
        },
    }


def text(*parts: str) -> list[dict[str, Any]]:
    return [{"type": "output_text", "annotations": [], "text": part} for part in parts]


ALIKE: dict[str, tuple[dict[str, Any], dict[str, Any], str, str | None]] = {
    "an answer": (chat_body("Yes.", "stop"), response_body(text("Yes.")), "answered", None),
    "an answer in two parts": (chat_body("Yes. No.", "stop"), response_body(text("Yes. ", "No.")), "answered", None),
    "a cut answer": (
        chat_body("Yes, and", "length"),
        response_body(text("Yes, and"), "incomplete", "max_output_tokens"),
        "answered",
        None,
    ),
    "cut before an answer": (
        chat_body(None, "length"),
        response_body(None, "incomplete", "max_output_tokens"),
        "failed",
        "max_output_tokens",
    ),
    "a refusal": (
        chat_body(None, "stop", "I can't."),
        response_body([{"type": "refusal", "refusal": "I can't."}]),
        "failed",
        "content_refused",
    ),
    "a content filter": (
        chat_body(None, "content_filter"),
        response_body(None, "incomplete", "content_filter"),
        "failed",
        "content_refused",
    ),
    "nothing": (chat_body("", "stop"), response_body(None), "pending", "empty_answer"),
}


@pytest.mark.parametrize("case", ALIKE)
def test_cuts_refusals_and_usage_are_recorded_alike(workspace: Workspace, api: LocalApi, case: str) -> None:
    of_chat, of_responses, status, code = ALIKE[case]
    workspace.ingest({"a": "one"})
    rows = collected(workspace, api, CHAT, of_chat)
    assert collected(workspace, api, OF_RESPONSES, of_responses) == rows
    assert workspace.rows("SELECT status, error_code FROM responses") == [(status, code)]
    assert billed(workspace, OF_RESPONSES) == billed(workspace, CHAT)
    [(_, requests, *figures, _)] = billed(workspace, CHAT)
    assert requests == 1
    assert tuple(figures[2:]) == USED


@pytest.mark.parametrize("task", [CHAT, OF_RESPONSES, VECTORS], ids=lambda task: task.name)
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"error": {"message": "Overloaded.", "code": "overloaded"}}, "overloaded"),
        ({"error": "Overloaded."}, "error_in_answer"),
        ({"detail": "Not Found"}, "error_in_answer"),
        ({"models": []}, "no_answer"),
        ("<html><body>Sign in", "no_answer"),
        ({"object": "list"}, "no_answer"),
    ],
)
def test_a_body_that_is_no_answer_says_what_it_is(
    workspace: Workspace, api: LocalApi, task: Task, body: Any, code: str
) -> None:
    workspace.ingest({"a": "one"})
    collected(workspace, api, task, body)
    assert workspace.column("SELECT DISTINCT code FROM failed_request") == [code]


def test_a_vector_is_a_column_of_numbers(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "Ships in the harbour.", "b": "The harbour and its ships.", "c": "Rain."})
    collected(workspace, api, VECTORS)
    ((kind, status, tokens),) = workspace.rows("SELECT DISTINCT typeof(embedding), status, output_tokens FROM vectors")
    assert (kind, status, tokens) == ("FLOAT[8]", "answered", 0)
    nearest = workspace.rows(
        """
        SELECT other.article_id FROM vectors AS other, vectors AS this
        WHERE this.article_id = 'a' AND other.article_id <> 'a'
        ORDER BY array_cosine_distance(this.embedding, other.embedding)
        """
    )
    assert nearest[0] == ("b",)
    assert workspace.rows("SELECT text, len(vector) FROM completion") == [("", 8)] * 3
    assert workspace.plan(task=VECTORS).shards == []


def test_the_request_of_a_vector_has_no_more_than_it_needs(workspace: Workspace) -> None:
    workspace.ingest({"a": "one"})
    workspace.plan(task=VECTORS)
    [request] = workspace.requests()
    assert request["url"] == "/v1/embeddings"
    assert request["body"] == {"model": "text-embedding-3-small", "input": "Title: \n\none", "dimensions": 8}


def test_a_vector_of_another_length_is_invalid_and_asked_for_again(workspace: Workspace, api: LocalApi) -> None:
    body = {"object": "list", "model": "m", "data": [{"embedding": [0.5, 0.25]}], "usage": {"prompt_tokens": 3}}
    workspace.ingest({"a": "one"})
    collected(workspace, api, VECTORS, body)
    assert workspace.rows("SELECT code, message, input_tokens FROM failed_request") == [
        ("invalid_answer", "The vector has 2 numbers, and not 8.", 3)
    ]
    collected(workspace, api, VECTORS)
    assert workspace.column("SELECT status FROM vectors") == ["answered"]


def test_vectors_of_an_unknown_length_are_lists(workspace: Workspace, api: LocalApi) -> None:
    task = replace(VECTORS, model="bge-m3", dimensions=None)
    body = {"object": "list", "model": "m", "data": [{"embedding": [0.5, 0.25]}], "usage": {"prompt_tokens": 3}}
    workspace.ingest({"a": "one"})
    collected(workspace, api, task, body)
    assert workspace.rows("SELECT typeof(embedding), embedding FROM vectors") == [("FLOAT[]", [0.5, 0.25])]


def test_a_column_of_vectors_takes_those_of_another_length(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one"})
    collected(workspace, api, VECTORS)
    before = workspace.column("SELECT embedding FROM vectors")
    workspace.ingest({"b": "two"}, day="2026-01-06")
    other = replace(VECTORS, dimensions=4)
    submit(workspace, api, other, "2026-01-06")
    workspace.collect(api.client, task=other, day="2026-01-06")
    rows = workspace.rows("SELECT typeof(embedding), len(embedding) FROM vectors ORDER BY article_id")
    assert rows == [("FLOAT[]", 8), ("FLOAT[]", 4)]
    assert [list(vector) for vector in before] == workspace.column(
        f"SELECT embedding FROM vectors WHERE partition_date = '{DAY}'"
    )


def test_answers_of_an_earlier_task_with_the_same_request_are_shared(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one"})
    collected(workspace, api, VECTORS)
    twin = replace(VECTORS, name="twin", answer_column="place")
    assert workspace.plan(task=twin).shards == []
    workspace.collect(api.client, task=twin)
    assert workspace.column("SELECT place FROM twin") == workspace.column("SELECT embedding FROM vectors")


def test_a_response_is_not_stored_at_the_api(workspace: Workspace) -> None:
    workspace.ingest({"a": "one"})
    workspace.plan(task=OF_RESPONSES)
    [request] = workspace.requests()
    assert request["body"] == {
        "model": TASK.model,
        "instructions": TASK.system_prompt,
        "input": [{"role": "user", "content": "Title: \n\none"}],
        "max_output_tokens": TASK.max_output_tokens,
        "store": False,
    }


def test_an_option_that_the_endpoint_refuses_is_left_out(workspace: Workspace, api: LocalApi) -> None:
    """`reasoning.effort` is the name in the message of a response, `reasoning_effort` in that of a chat completion."""
    task = replace(OF_RESPONSES, model="gpt-6-luna")
    workspace.ingest({"a": "one"})
    workspace.plan(task=task, optional_parameters={"reasoning.effort": "low"})
    assert workspace.requests()[0]["body"]["reasoning"] == {"effort": "low"}
    for batch_id in submit_day(workspace.submitter(api.client), task.on(DAY)).batch_ids:
        api.wait(batch_id)

    def refuse(line: dict[str, Any]) -> None:
        message = "Unsupported parameter: 'reasoning.effort' is not supported with this model."
        line["response"] = {"status_code": 400, "body": {"error": {"message": message, "code": None}}}

    with proxy(api.url, changed_lines(refuse)) as client:
        workspace.collect(client, task=task)
    workspace.plan(task=task, optional_parameters={"reasoning.effort": "low"})
    assert "reasoning" not in workspace.requests()[-1]["body"]
