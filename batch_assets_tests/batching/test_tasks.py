"""Several tasks in one warehouse: equal requests are bought once, and spending, plans and tables are separate."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import openai
import pytest

from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.day_spending import spending_of_day
from batch_assets.batching.ledger.spending import Budget
from batch_assets.batching.operations.cancel import cancel_day
from batch_assets.batching.planning.estimate import estimate_day
from batch_assets.batching.planning.task import Task, TaskError
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets.batching.submission.submit import submit_day
from batch_assets_tests.batching.conftest import API, DAY, NEXT_DAY, PRICES, TASK, Workspace, changed_lines, proxy
from batch_assets_tests.local_api_client import LocalApi

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "topics": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        "place": {"type": ["string", "null"], "description": "where it happened"},
        "score": {"type": "integer", "minimum": 0, "maximum": 10},
    },
    "required": ["topics", "place", "score"],
    "additionalProperties": False,
}
TOPICS = Task("gpt-4.1-nano", name="topics", output_schema=SCHEMA)
TWIN = replace(TASK, name="twin", answer_column="text")  # the same question as `summaries`


def submit(workspace: Workspace, api: LocalApi, task: Task, day: str = DAY, limits: Limits | None = None) -> list[str]:
    """Plan and submit the day of the task; returns the batches that it waits for, when they have ended."""
    workspace.plan(day=day, task=task)
    submitted = submit_day(workspace.submitter(api.client, limits=limits), task.on(day))
    for batch_id in submitted.batch_ids:
        api.wait(batch_id)
    return submitted.batch_ids


def test_equal_requests_of_two_tasks_are_bought_once(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one", "b": "two"})
    bought = submit(workspace, api, TASK)
    assert submit(workspace, api, TWIN) == bought  # in flight for both
    workspace.collect(api.client, task=TWIN)
    workspace.collect(api.client, task=TASK)
    assert workspace.rows("SELECT article_id, status, text FROM twin ORDER BY 1") == workspace.rows(
        "SELECT article_id, status, summary FROM summaries ORDER BY 1"
    )
    assert workspace.rows("SELECT task, sum(requests) FROM spending GROUP BY task") == [("summaries", 2)]
    assert len(list(api.client.batches.list())) >= len(bought) == 1


def test_a_request_that_another_task_has_answered_is_not_sent(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one"})
    workspace.whole_day(api)
    assert submit(workspace, api, TWIN, NEXT_DAY) == []
    assert workspace.plan(task=TWIN).shards == []
    workspace.collect(api.client, task=TWIN)
    assert workspace.rows("SELECT status, cost_usd FROM twin") == workspace.rows(
        "SELECT status, cost_usd FROM summaries"
    )


def test_two_tasks_of_a_day_have_their_own_plans_tables_and_spending(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one", "b": "two"})
    batches = {task.name: submit(workspace, api, task) for task in (TASK, TOPICS)}
    assert not set(batches["summaries"]).intersection(batches["topics"])
    for task in (TOPICS, TASK):
        workspace.collect(api.client, task=task)
    assert workspace.rows("SELECT task, sum(requests) FROM spending GROUP BY task ORDER BY task") == [
        ("summaries", 2),
        ("topics", 2),
    ]
    with workspace.database.reading() as connection:
        of_topics, of_summaries = (spending_of_day(connection, task.on(DAY)) for task in (TOPICS, TASK))
    assert of_topics.requests == of_summaries.requests == 2
    assert of_topics.output_tokens != of_summaries.output_tokens
    topics = workspace.rows("SELECT typeof(topics), typeof(place), typeof(score), status, article_title FROM topics")
    assert [row[:4] for row in topics] == [("VARCHAR[]", "VARCHAR", "BIGINT", "answered")] * 2


def test_an_answer_with_a_schema_is_its_text_in_columns(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one"})
    submit(workspace, api, TOPICS)
    workspace.collect(api.client, task=TOPICS)
    ((text,),) = workspace.rows("SELECT text FROM completion")
    ((topics, place, score, version),) = workspace.rows("SELECT topics, place, score, task_version FROM topics")
    assert json.loads(text) == {"topics": topics, "place": place, "score": score}
    assert version == TOPICS.version
    ((line,),) = [path.read_text(encoding="utf-8").splitlines() for path in workspace.folder.rglob("plan-*.jsonl")]
    sent = json.loads(line)["body"]["response_format"]
    assert sent == {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}


def changed(**schema: Any) -> Task:
    return replace(TOPICS, output_schema={**SCHEMA, **schema})


@pytest.mark.parametrize(
    ("task", "bought"),
    [
        pytest.param(TOPICS, 0, id="nothing"),
        pytest.param(replace(TOPICS, max_output_tokens=2000), 0, id="limit"),
        pytest.param(changed(description="other"), 1, id="description of the schema"),
        pytest.param(
            changed(properties={**SCHEMA["properties"], "place": {"type": ["string", "null"], "description": "other"}}),
            1,
            id="description of a field",
        ),
        pytest.param(replace(TOPICS, system_prompt="Other."), 1, id="prompt"),
    ],
)
def test_a_change_buys_what_it_changes(workspace: Workspace, api: LocalApi, task: Task, bought: int) -> None:
    workspace.ingest({"a": "one"})
    submit(workspace, api, TOPICS)
    workspace.collect(api.client, task=TOPICS)
    assert sum(shard.requests for shard in workspace.plan(task=task).shards) == bought


def test_a_new_field_is_a_new_column_and_the_old_days_keep_theirs(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one"})
    workspace.ingest({"b": "two"}, day=NEXT_DAY)
    submit(workspace, api, TOPICS)
    workspace.collect(api.client, task=TOPICS)
    properties = {**SCHEMA["properties"], "mood": {"type": "string", "enum": ["good", "bad"]}}
    wider = changed(properties=properties, required=list(properties))
    submit(workspace, api, wider, NEXT_DAY)
    workspace.collect(api.client, task=wider, day=NEXT_DAY)
    rows = workspace.rows("SELECT article_id, mood IS NULL, topics IS NULL FROM topics ORDER BY 1")
    assert rows == [("a", True, False), ("b", False, False)]


def test_each_task_has_its_budget_and_all_tasks_share_that_of_the_day(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one", "b": "two"})
    nothing = Limits(budget=Budget(tasks={"topics": 0.0}), own_prices=PRICES)
    workspace.plan(task=TOPICS)
    with pytest.raises(SubmissionError, match="`max_cost_usd` of the task allows for 2026-11-20 and topics"):
        submit_day(workspace.submitter(api.client, limits=nothing), TOPICS.on(DAY))
    assert submit(workspace, api, TASK, limits=nothing) != []
    workspace.collect(api.client)
    ((spent,),) = workspace.rows("SELECT sum(cost_usd) FROM spending")
    of_all = Limits(budget=Budget(max_cost_usd_per_day=spent), own_prices=PRICES)
    with pytest.raises(SubmissionError, match="BATCH_ASSETS_MAX_COST_USD allows for 2026-11-20"):
        submit_day(workspace.submitter(api.client, limits=of_all), TOPICS.on(DAY))


def test_a_batch_of_another_task_counts_once_in_the_estimate(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one", "b": "two"})
    workspace.plan(task=TASK)
    submit_day(workspace.submitter(api.client), TASK.on(DAY))
    workspace.plan(task=TWIN)  # its requests are in that batch
    with workspace.database.reading() as connection:
        first, twin = (estimate_day(connection, task.on(DAY), api=API, own_prices=PRICES) for task in (TASK, TWIN))
    assert first.expected_usd
    assert twin.expected_usd == 0
    assert twin.other_tasks_usd == pytest.approx(first.expected_usd)


def test_the_budget_of_one_task_needs_no_price_of_another(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one"})
    of_topics = Limits(budget=Budget(tasks={"topics": 1.0}))  # and no price is known
    assert submit(workspace, api, TASK, limits=of_topics) != []
    workspace.plan(task=TOPICS)
    with pytest.raises(SubmissionError, match="no budget can be checked"):
        submit_day(workspace.submitter(api.client, limits=of_topics), TOPICS.on(DAY))


def test_to_cancel_a_day_of_one_task_leaves_the_others(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one"})
    workspace.plan(task=TASK)
    workspace.plan(task=TOPICS)
    cancel_day(workspace.database, api.client, day=TOPICS.on(DAY), data_folder=workspace.folder)
    assert workspace.rows("SELECT task, state FROM openai_batch ORDER BY task") == [
        ("summaries", "planned"),
        ("topics", "withdrawn"),
    ]
    workspace.collect(api.client, task=TOPICS)
    assert workspace.rows("SELECT status FROM topics") == [("cancelled",)]
    submitted = submit_day(workspace.submitter(api.client), TASK.on(DAY))
    assert submitted.created == 1


def test_a_task_of_another_source_reads_its_own_articles(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one"})
    with workspace.database.writing() as connection:
        connection.execute(
            """
            INSERT INTO raw_articles (source, partition_date, article_id, title, body)
            VALUES ('comments', CAST(? AS DATE), 'c', 'T', 'a comment')
            """,
            [DAY],
        )
    assert workspace.plan(task=TOPICS, source="comments").articles == 1
    assert workspace.rows("SELECT task, article_id FROM batch_request") == [("topics", "c")]
    assert workspace.plan().articles == 1


def test_further_columns_of_the_source_are_in_the_message(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one"})
    with workspace.database.writing() as connection:
        connection.execute("UPDATE raw_articles SET extra = MAP {'author': 'A \"B\" {body}', 'place': NULL}")
    task = replace(TOPICS, columns=("author", "place"), user_template="{author}|{place}|{body}")
    workspace.plan(task=task)
    ((line,),) = [path.read_text(encoding="utf-8").splitlines() for path in workspace.folder.rglob("plan-*.jsonl")]
    message = json.loads(line)["body"]["messages"][1]["content"]
    assert message.startswith('A "B" {body}||')


def test_articles_that_were_read_without_a_column_are_not_sent(workspace: Workspace) -> None:
    workspace.ingest({"a": "one"})
    task = replace(TOPICS, columns=("author",), user_template="{author} {body}")
    with pytest.raises(
        TaskError, match="The column author, which the task topics uses, is missing in 1 article of 2026-11-20"
    ):
        workspace.plan(task=task)


def test_the_name_of_a_task_is_in_the_metadata_of_its_batch(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one"})
    [batch_id] = submit(workspace, api, TOPICS)
    batch: openai.types.Batch = api.client.batches.retrieve(batch_id)
    assert (batch.metadata or {})["task"] == "topics"


def with_text(text: str, finish_reason: str = "stop") -> Callable[[dict[str, Any]], None]:
    """A model that gives this answer to every request."""

    def change(line: dict[str, Any]) -> None:
        [choice] = line["response"]["body"]["choices"]
        choice["message"]["content"], choice["finish_reason"] = text, finish_reason

    return change


def test_an_invalid_answer_is_bought_at_most_twice_and_shown(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one"})
    with proxy(api.url, changed_lines(with_text('{"topics": [], "place": 5, "score": 1}'))) as client:
        for bought in (1, 1, 0, 0):
            assert sum(shard.requests for shard in workspace.plan(task=TOPICS).shards) == bought
            for batch_id in submit_day(workspace.submitter(client), TOPICS.on(DAY)).batch_ids:
                api.wait(batch_id)
            workspace.collect(client, task=TOPICS, max_rounds=5)
    [(status, code, message, topics)] = workspace.rows("SELECT status, error_code, error_message, topics FROM topics")
    assert (status, code, topics) == ("failed", "invalid_answer", None)
    assert "$/place" in message
    assert workspace.rows("SELECT task, kind, sum(requests), sum(output_tokens) > 0 FROM spending GROUP BY ALL") == [
        ("topics", "failed", 2, True)
    ]


def test_a_cut_answer_is_bought_again_under_a_higher_limit_only(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one"})
    workspace.plan(task=TOPICS)
    with proxy(api.url, changed_lines(with_text('{"topics": ["a', "length"))) as client:
        for batch_id in submit_day(workspace.submitter(client), TOPICS.on(DAY)).batch_ids:
            api.wait(batch_id)
        workspace.collect(client, task=TOPICS)
    assert workspace.rows("SELECT status, error_code FROM topics") == [("failed", "max_output_tokens")]
    assert workspace.plan(task=TOPICS).shards == []
    higher = replace(TOPICS, max_output_tokens=2 * TOPICS.max_output_tokens)
    assert sum(shard.requests for shard in workspace.plan(task=higher).shards) == 1


def test_a_schema_that_the_api_refuses_is_an_error_of_the_task(workspace: Workspace, api: LocalApi) -> None:
    """It costs no round, and no run sends the request again before the task changes."""
    workspace.ingest({"a": "one"})

    def refuse(line: dict[str, Any]) -> None:
        error = {
            "code": None,
            "message": "Invalid schema for response_format 'answer': In context=(), 'x'.",
            "type": "",
        }
        line["response"] = {"status_code": 400, "request_id": "r", "body": {"error": error}}

    workspace.plan(task=TOPICS)
    with proxy(api.url, changed_lines(refuse)) as client:
        for batch_id in submit_day(workspace.submitter(client), TOPICS.on(DAY)).batch_ids:
            api.wait(batch_id)
        workspace.collect(client, task=TOPICS)
    [(status, message)] = workspace.rows("SELECT status, error_message FROM topics")
    assert status == "failed"
    assert "Invalid schema for response_format" in message
    assert workspace.plan(task=TOPICS).shards == []
