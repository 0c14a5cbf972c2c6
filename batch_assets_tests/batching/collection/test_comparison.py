"""Two tasks of a day side by side: their answers, where these differ, and what they cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batch_assets.batching.collection.comparison import Comparison, ComparisonError, compare_day
from batch_assets.batching.planning.task import Task
from batch_assets.task_set import result_table
from batch_assets_tests.batching.conftest import DAY, NEXT_DAY, Workspace, proxy
from batch_assets_tests.batching.synchronous.support import at_openai, tried
from batch_assets_tests.batching.test_endpoints import VECTORS
from batch_assets_tests.batching.test_tasks import SCHEMA, TOPICS, submit
from batch_assets_tests.local_api_client import LocalApi

FIRST = Task("gpt-4.1-nano", name="first", answer_column="text", max_output_tokens=100)
SECOND = replace(FIRST, name="second", model="gpt-6-luna", answer_column="summary")
ONE_FIELD = {**SCHEMA, "properties": {"place": SCHEMA["properties"]["place"]}, "required": ["place"]}
PLACES = replace(TOPICS, name="places", output_schema=ONE_FIELD)


def answer(workspace: Workspace, api: LocalApi, *tasks: Task) -> None:
    for task in tasks:
        submit(workspace, api, task)
        workspace.collect(api.client, task=task, prices=())


def compared(workspace: Workspace, a: Task, b: Task, *, limit: int = 20, day: str = DAY) -> Comparison:
    with workspace.database.reading() as connection:
        return compare_day(connection, day, (result_table(a), result_table(b)), limit)


def test_texts_of_two_models_are_side_by_side_with_their_sums(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("abc"))
    answer(workspace, api, FIRST, SECOND)
    workspace.execute("UPDATE second SET summary = 'other' WHERE article_id = 'b'")
    workspace.execute("UPDATE second SET status = 'failed', error_code = 'refused_it' WHERE article_id = 'c'")
    workspace.execute("UPDATE first SET cost_usd = 0.002")
    found = compared(workspace, FIRST, SECOND)
    first, second = found.totals
    assert (first.models, second.models) == (("gpt-4.1-nano",), ("gpt-6-luna",))
    assert [(one.articles, one.answered, one.failed) for one in found.totals] == [(3, 3, 0), (3, 2, 1)]
    assert first.usd == pytest.approx(0.006)
    assert first.usd_per_1000_articles == pytest.approx(2.0)
    assert (second.usd, second.usd_per_1000_articles) == (None, None)  # at this API, the price is not known
    tokens = workspace.rows("SELECT sum(input_tokens), sum(output_tokens) FROM first")
    assert tokens == [(first.input_tokens, first.output_tokens)]
    assert (found.both_answered, found.equal, found.equal_share) == (2, 1, 0.5)
    a, b, c = found.articles
    assert [sorted(article.differing) for article in (a, b, c)] == [[], ["answer"], []]
    assert (c.sides[1].status, c.sides[1].values, c.sides[1].reason) == ("failed", None, "refused_it")
    assert len(compared(workspace, FIRST, SECOND, limit=2).articles) == 2


def test_fields_that_differ_are_named(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("ab"))
    answer(workspace, api, TOPICS, PLACES)
    workspace.execute("UPDATE topics SET place = 'Here'")
    workspace.execute("UPDATE places SET place = CASE article_id WHEN 'a' THEN 'Here' END")
    found = compared(workspace, TOPICS, PLACES)
    assert (found.fields, sorted(found.common), found.equal_share) == (("topics", "place", "score"), ["place"], 0.5)
    assert [sorted(article.differing) for article in found.articles] == [[], ["place"]]
    assert compared(workspace, TOPICS, TOPICS).equal_share == 1.0


def test_a_field_that_the_table_does_not_have_yet_is_left_out(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("a"))
    answer(workspace, api, PLACES)
    with_more = replace(PLACES, output_schema=SCHEMA)
    assert compared(workspace, with_more, PLACES).fields == ("place",)


def test_of_vectors_only_the_length_is_told(workspace: Workspace, api: LocalApi) -> None:
    elsewhere = replace(VECTORS, name="elsewhere", dimensions=4)
    workspace.ingest(workspace.texts("a"))
    answer(workspace, api, VECTORS, elsewhere)
    found = compared(workspace, VECTORS, elsewhere)
    [article] = found.articles
    assert [side.values for side in article.sides] == [{"vector": 8}, {"vector": 4}]
    assert (found.equal_share, article.differing) == (None, frozenset())


def test_equal_articles_cost_once_and_answers_from_outside_of_a_batch_are_counted(
    workspace: Workspace, api: LocalApi
) -> None:
    text = f"one of {workspace.folder.name}"
    workspace.ingest({"a": text, "b": text, "c": f"two of {workspace.folder.name}"})
    with proxy(api.url, at_openai()) as client:
        tried(workspace, client, task=FIRST, limit=1)
    answer(workspace, api, FIRST)
    first, second = compared(workspace, FIRST, FIRST).totals
    assert first == second
    assert (first.answered, first.synchronous, first.usd) == (3, 1, None)
    [usd] = workspace.column("SELECT DISTINCT cost_usd FROM first WHERE cost_usd IS NOT NULL")
    workspace.execute("UPDATE first SET cost_usd = 0 WHERE cost_usd IS NULL")
    assert compared(workspace, FIRST, FIRST).totals[0].usd == pytest.approx(usd)


def test_tasks_without_results_cannot_be_compared(workspace: Workspace, api: LocalApi) -> None:
    with pytest.raises(ComparisonError, match="The task first has no results yet"):
        compared(workspace, FIRST, SECOND)
    workspace.ingest(workspace.texts("a"))
    answer(workspace, api, FIRST, SECOND)
    with pytest.raises(ComparisonError, match=f"have no results of {NEXT_DAY}"):
        compared(workspace, FIRST, SECOND, day=NEXT_DAY)
