"""Guards against invalid answers that count, valid ones that are bought again, and cost that is not recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_assets.batching.collection import judged_answers
from batch_assets.batching.collection.ended_batches import EndedBatch
from batch_assets.batching.collection.load import Loaded, load_results
from batch_assets.output_schema.columns import structure
from batch_assets.output_schema.judge import Judge
from batch_assets_tests.batching.collection.test_load import (
    ENDED_AT,
    Batch,
    answer,
    choice,
    copy_of,
    ended,
    jsonl,
    refused,
)
from batch_assets_tests.batching.conftest import TASK, Workspace, database_in

FIELDS: dict[str, Any] = {
    "type": {"type": "string"},
    "text": {"type": "string", "enum": ["b", "c"]},
    "score": {"type": "integer", "minimum": 0},
    "share": {"type": "number", "maximum": 1},
    "is_new": {"type": "boolean"},
    "topics": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": FIELDS,
    "required": [*FIELDS],
    "additionalProperties": False,
}
WITH_JSON: dict[str, Any] = {
    **SCHEMA,
    "properties": {**FIELDS, "topics": {"anyOf": [{"type": "object"}, {"type": "integer"}]}},
}
VALID = {"type": "a", "text": "b", "score": 3, "share": 0.5, "is_new": True, "topics": ["x"]}
TEXT = json.dumps(VALID)


def changed(**fields: Any) -> str:
    return json.dumps({**VALID, **fields})


INVALID: dict[str, tuple[str, str]] = {  # a text, and what the message says
    "not JSON": ("Here is the JSON: {}", "not JSON"),
    "text around it": (f"```json\n{TEXT}\n```", "not JSON"),
    "a comma too many": (TEXT[:-1] + ",}", "not JSON"),
    "not a number": (changed(share=float("nan")), "not JSON"),
    "infinity": (changed(share=float("-inf")), "not JSON"),
    "a number beyond DOUBLE": (TEXT.replace("0.5", "1e999"), "not JSON"),
    "a byte order mark": ("\ufeff" + TEXT, "not JSON"),
    "half of a surrogate pair": (changed(type="\ud800"), "not JSON"),
    "cut": (TEXT[:-1], "not JSON"),
    "two objects": (TEXT + TEXT, "not JSON"),
    "a list": (f"[{TEXT}]", "at $: rule type"),
    "a list of text": ('["a", "b"]', "at $: rule type"),
    "a list of parts": ('[{"type": "text", "text": "b"}]', "at $: rule type"),
    "an object that looks like a part": ('{"type": "text", "text": "b"}', "at $: rule required"),
    "null": ("null", "at $: rule type"),
    "a text in JSON": (json.dumps(TEXT), "at $: rule type"),
    "a missing field": (json.dumps({"type": "a"}), "at $: rule required"),
    "an extra field": (changed(more=1), "at $: rule additionalProperties"),
    "another value of an enum": (changed(text="d"), "at $/text: rule properties/text/enum"),
    "a text for an integer": (changed(score="3"), "at $/score"),
    "a fraction for an integer": (changed(score=3.7), "at $/score"),
    "true for an integer": (changed(score=True), "at $/score"),
    "null for a field": (changed(type=None), "at $/type"),
    "a number for a text": (changed(type=5), "at $/type"),
    "an object for a text": (changed(type={"a": 1}), "at $/type"),
    "an object for a list": (changed(topics={}), "at $/topics"),
    "a text for a number": (changed(share="0.5"), "at $/share"),
    "a text for a boolean": (changed(is_new="true"), "at $/is_new"),
    "a number for a boolean": (changed(is_new=1), "at $/is_new"),
    "a number above its maximum": (changed(share=1.1), "at $/share: rule properties/share/maximum"),
    "a number below its minimum": (changed(score=-1), "at $/score: rule properties/score/minimum"),
    "a name in upper case": (TEXT.replace("is_new", "IS_NEW"), "at $: rule"),
    "too many items": (changed(topics=["x"] * 4), "at $/topics: rule properties/topics/maxItems"),
    "an item of another type": (changed(topics=["x", 1]), "at $/topics/1"),
    "a key twice": (TEXT[:-1] + ', "score": 4}', "not into columns: an object has a key twice."),
    "an integer over 64 bits": (changed(score=2**63), "not into columns: an integer has over 64 bits"),
}
VALID_TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "as it is": (TEXT, VALID),
    "a JSON object that looks like a part": (json.dumps(VALID, separators=(",", ":")), VALID),
    "white space around it": (f"\n {TEXT} \r\n\t", VALID),
    "thinking before it": (f'<think>{{"type": "no"}}</think>\n\n{TEXT}', VALID),
    "other order of keys": (json.dumps(dict(reversed(VALID.items()))), VALID),
    "an integer as 3.0": (TEXT.replace("3", "3.0"), VALID),
    "an integer as 3e0": (TEXT.replace("3", "3e0"), VALID),
    "any text": (
        changed(type='🦆 "quoted" \\ \u2028 \0 <think>'),
        {**VALID, "type": '🦆 "quoted" \\ \u2028 \0 <think>'},
    ),
    "[ in a text": (changed(type="[1]"), {**VALID, "type": "[1]"}),
    "the largest integer": (changed(score=2**63 - 1), {**VALID, "score": 2**63 - 1}),
}


@pytest.fixture
def batch(planned: Workspace, tmp_path: Path) -> Iterator[Batch]:
    with copy_of(planned, tmp_path) as batch:
        yield batch


def typed(batch: Batch, schema: Mapping[str, Any] = SCHEMA) -> list[Any]:
    """The answers as DuckDB makes columns of them, in the order of the articles."""
    rows = batch.rows(
        "SELECT custom_id, from_json_strict(text, $structure::VARCHAR) FROM completion",
        {"structure": structure(schema)},
    )
    return [value for _, value in sorted(rows, key=lambda row: [*batch.ids.values()].index(row[0]))]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Batch]:
    """All texts in one batch: an article of the name of each has it as its answer."""
    folder = tmp_path_factory.mktemp("judged")
    workspace = Workspace(folder, database_in(folder))
    texts = {name: text for name, (text, _) in {**INVALID, **VALID_TEXTS}.items()}
    workspace.ingest({name: name for name in texts})
    workspace.plan()
    with ended(workspace) as batch:
        content = jsonl(*(answer(batch.ids[name], text) for name, text in texts.items()))
        assert batch.load(content, output_schema=SCHEMA) == Loaded(len(VALID_TEXTS), len(INVALID), 0)
        yield batch


@pytest.mark.parametrize("name", INVALID)
def test_a_text_that_does_not_fit_is_a_failure_with_its_reason(loaded: Batch, name: str) -> None:
    assert loaded.outcome(name) == ("invalid_answer", True)
    assert INVALID[name][1] in loaded.message(name)


@pytest.mark.parametrize("name", VALID_TEXTS)
def test_a_valid_text_is_an_answer_of_which_columns_can_be_made(loaded: Batch, name: str) -> None:
    [found] = loaded.column(
        "SELECT from_json_strict(text, $1::VARCHAR) FROM completion WHERE custom_id = $2",
        [structure(SCHEMA), loaded.ids[name]],
    )
    assert found == VALID_TEXTS[name][1]


def test_invalid_answers_were_billed_as_valid_ones_are(loaded: Batch) -> None:
    total = len(INVALID) + len(VALID_TEXTS)
    assert loaded.rows("SELECT kind, requests, input_tokens, output_tokens FROM spending ORDER BY kind") == [
        ("answered", len(VALID_TEXTS), 1_000 * len(VALID_TEXTS), 50 * len(VALID_TEXTS)),
        ("failed", len(INVALID), 1_000 * len(INVALID), 50 * len(INVALID)),
    ]
    price = 1_000 * 0.05e-6 + 50 * 0.2e-6
    assert loaded.column("SELECT sum(cost_usd) FROM spending") == [pytest.approx(total * price)]
    assert loaded.rows("SELECT DISTINCT input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, cost_usd"
        " FROM failed_request") == [(1_000, 400, 50, 30, pytest.approx(price))]  # fmt: skip


@pytest.mark.parametrize("finish_reason", ["stop", "length", "content_filter", "tool_calls", None])
@pytest.mark.parametrize("text", [TEXT, TEXT + "\n" * 500])
def test_a_valid_answer_is_one_whatever_the_server_says_about_its_end(
    batch: Batch, text: str, finish_reason: Any
) -> None:
    batch.load(jsonl(answer(batch.ids["a"], **choice(text, finish_reason))), output_schema=SCHEMA)
    assert typed(batch) == [VALID]
    # a run would buy a cut answer again under a higher limit
    assert batch.column("SELECT finish_reason = 'length' FROM completion") != [True]
    assert batch.rows("SELECT kind, cut_requests FROM spending") == [("answered", 0)]


CUT = [(TEXT[: TEXT.index("topics") + length], place) for length, place in [(11, '"topics"'), (3, '"is_new"')]]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        *CUT,
        (TEXT[:-1], '"topics"'),
        (TEXT[: TEXT.index("score")], '"text"'),
        ("{", None),
        ("Here is", None),
        ('{"password: sk-1', None),
        ('{"password": "sk-1', None),
        ('{"x": ' + "[" * 100_000, None),
        (changed(text="d"), '"topics"'),
    ],
    ids=lambda value: str(value)[-20:],
)
def test_a_cut_answer_says_where_it_was_cut_and_waits_for_a_higher_limit(
    batch: Batch, text: str, place: str | None
) -> None:
    batch.load(jsonl(answer(batch.ids["a"], **choice(text, "length"))), output_schema=SCHEMA, max_output_tokens=50)
    assert batch.outcome("a") == ("max_output_tokens", False)
    where = f" at or after the field {place}" if place else ""
    assert batch.message("a") == f"The answer was cut at the limit on output tokens{where}. Raise max_output_tokens."
    assert batch.rows("SELECT max_output_tokens, output_tokens FROM failed_request WHERE output_tokens > 0") == [
        (50, 50)
    ]
    assert batch.rows("SELECT kind, requests, cut_requests, output_tokens FROM spending") == [("failed", 1, 1, 50)]


def test_a_key_twice_is_not_cut(batch: Batch) -> None:
    """A higher limit would not change it."""
    text = TEXT[:-1] + ', "score": 4}'
    batch.load(jsonl(answer(batch.ids["a"], **choice(text, "length"))), output_schema=SCHEMA)
    assert batch.outcome("a") == ("invalid_answer", True)


def test_a_filtered_answer_is_refused(batch: Batch) -> None:
    batch.load(jsonl(answer(batch.ids["a"], **choice(TEXT[:20], "content_filter"))), output_schema=SCHEMA)
    assert batch.outcome("a") == ("content_refused", False)


def test_what_failed_before_is_not_judged(batch: Batch) -> None:
    lines = [
        answer(batch.ids["a"], **choice(TEXT, "stop", refusal="I can't.")),
        answer(batch.ids["b"], None),
        refused(batch.ids["c"], 400),
    ]
    batch.load(jsonl(*lines), output_schema=SCHEMA)
    assert [batch.outcome(name) for name in "abc"] == [
        ("content_refused", False),
        ("empty_answer", True),
        ("some_code", False),
    ]


@pytest.mark.parametrize(
    ("topics", "is_valid"),
    [('{"x": 1}', True), ("5", True), ('{"x": 1, "x": 2}', False), ('{"y": [{"x": 1, "x": 1}]}', False),
     ("[" * 500 + "]" * 500, False), ('{"x": ' + "9" * 100 + "}", True)],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_a_json_column_has_the_value_that_was_judged(batch: Batch, topics: str, is_valid: bool) -> None:
    """DuckDB reads the first of two values of a key, Python the last."""
    text = TEXT.replace('["x"]', topics)
    batch.load(
        jsonl(answer(batch.ids["a"], text), batch.answer("b", TEXT.replace('["x"]', "5"))), output_schema=WITH_JSON
    )
    assert (batch.outcome("a") == text) == is_valid
    assert batch.outcome("b") == TEXT.replace('["x"]', "5")


def test_of_two_lines_for_a_request_the_valid_one_counts(batch: Batch) -> None:
    content = jsonl(batch.answer("a", "invalid"), batch.answer("a", TEXT), batch.answer("a", "invalid, too"))
    assert batch.load(content, output_schema=SCHEMA) == Loaded(1, 2, 0)
    assert typed(batch) == [VALID]
    assert batch.rows("SELECT kind, requests, input_tokens FROM spending ORDER BY kind") == [
        ("answered", 1, 1_000),
        ("unattributed", 0, 2_000),
    ]


def test_lines_that_need_repair_are_judged_too(batch: Batch) -> None:
    """A file with a line that DuckDB cannot read is read again, line by line."""
    lines = [
        json.dumps(batch.answer("a", changed(type="half \ud83e a pair").replace("\\ud83e", "\ud83e"))).encode(),
        json.dumps(batch.answer("b", '{"type":"text","text":"b"}')).encode(),
        b"malformed",
        json.dumps(batch.answer("c", TEXT)).encode(),
    ]
    assert batch.load(jsonl(*lines), output_schema=SCHEMA) == Loaded(2, 1, 1)
    assert typed(batch) == [{**VALID, "type": "half \ufffd a pair"}, VALID]
    assert batch.outcome("b") == ("invalid_answer", True)


@pytest.mark.parametrize("output_schema", [None, SCHEMA])
def test_content_in_parts_is_still_read(batch: Batch, output_schema: Any) -> None:
    """Beside an answer that is JSON text and looks like a part."""
    half = len(TEXT) // 2
    parts = [{"type": "thinking", "text": "Hm."}, {"type": "text", "text": TEXT[:half]}, {"text": TEXT[half:]}]
    content = jsonl(batch.answer("a", parts), batch.answer("b", TEXT), batch.answer("c", f"[{TEXT}]"))
    batch.load(content, output_schema=output_schema)
    assert [batch.outcome(name) for name in "ab"] == [TEXT, TEXT]
    assert batch.outcome("c") == (("invalid_answer", True) if output_schema else f"[{TEXT}]")


@pytest.mark.parametrize("text", ['{"type":"a","text":"b"}', '["a"]', '[{"type":"text","text":"b"}]', "[]", '"a"', "5"])
def test_a_text_task_may_be_answered_with_json(batch: Batch, text: str) -> None:
    batch.load(jsonl(batch.answer("a", text)))
    assert batch.outcome("a") == text


def test_each_batch_is_judged_by_its_own_schema(batch: Batch) -> None:
    other = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    texts = {"a": TEXT, "b": '{"n": 1}', "c": "Plain text."}
    batches = []
    for (name, text), schema in zip(texts.items(), (SCHEMA, other, None), strict=True):
        batch.rows(f"UPDATE in_flight_request SET submission_id = '{name}' WHERE custom_id = ?", [batch.ids[name]])
        batch.rows(
            """
            INSERT INTO openai_batch (submission_id, partition_date, plan, round, shard, state, attempt, batch_id)
            SELECT $name, partition_date, plan, round, shard, 'ended', 1, 'batch_' || $name
            FROM openai_batch WHERE submission_id = $key
            """,
            {"name": name, "key": batch.key},
        )
        path = batch.folder / f"{name}.jsonl"
        path.write_bytes(jsonl(batch.answer(name, text)))
        files = {"output": path}
        batches.append(
            EndedBatch(name, f"batch_{name}", TASK.model, "completed", ENDED_AT, files, output_schema=schema)
        )
    exchanged = [replace(batches[0], output_schema=other), *batches[1:]]
    assert sum(one.answered for one in load_results(batch.connection, exchanged).values()) == 2
    assert batch.outcome("a") == ("invalid_answer", True)
    assert [batch.outcome(name) for name in "bc"] == [texts["b"], texts["c"]]


def test_any_number_of_answers_may_be_invalid(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are recorded some at a time."""
    monkeypatch.setattr(judged_answers, "FETCH_ROWS", 3)
    monkeypatch.setattr(judged_answers, "FAILED_AT_ONCE", 4)
    texts = [TEXT if number % 3 == 0 else "no" for number in range(50)]
    with result_lines(texts) as connection:
        connection.execute("INSERT INTO result_line (batch, text, code) VALUES (0, 'no', 'earlier'), (8, 'no', NULL)")
        judged_answers.judge_answers(connection, {0: SCHEMA})
        codes = connection.execute("SELECT code FROM result_line ORDER BY rowid").fetchall()
    expected = [None if text == TEXT else "invalid_answer" for text in texts]
    assert [code for (code,) in codes] == [*expected, "earlier", None]


@contextmanager
def result_lines(texts: list[str], finish_reason: str = "stop") -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory whose table `result_line` has these texts of the batch 0."""
    with duckdb.connect() as connection:
        connection.execute(
            """
            CREATE TEMP TABLE result_line (
                batch INTEGER, text VARCHAR, finish_reason VARCHAR, code VARCHAR, message VARCHAR
            )
            """
        )
        connection.execute(
            "INSERT INTO result_line (batch, text, finish_reason) SELECT 0, unnest($1::VARCHAR[]), $2",
            [texts, finish_reason],
        )
        yield connection


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(
        st.one_of(
            st.text(max_size=30),
            st.sampled_from([text for text, _ in [*INVALID.values(), *VALID_TEXTS.values()]]),
            st.integers(0, len(TEXT)).map(lambda length: TEXT[:length]),
            st.fixed_dictionaries(
                {
                    "type": st.text(max_size=5),
                    "text": st.sampled_from("bcd"),
                    "score": st.integers(-(2**65), 2**65) | st.floats() | st.none(),
                    "share": st.floats(max_value=1) | st.text(max_size=3),
                    "is_new": st.booleans(),
                    "topics": st.lists(st.text(max_size=3) | st.integers(), max_size=4),
                }
            ).map(json.dumps),
        ),
        min_size=1,
    ),
    finish_reason=st.sampled_from(["stop", "length"]),
)
def test_every_text_is_a_typed_answer_or_a_failure(texts: list[str], finish_reason: str) -> None:
    with result_lines(texts, finish_reason) as connection:
        judged_answers.judge_answers(connection, {0: SCHEMA})
        rows = connection.execute(
            "SELECT text, code, message, TRY(from_json_strict(text, $1::VARCHAR)) FROM result_line", [structure(SCHEMA)]
        ).fetchall()
    assert len(rows) == len(texts)
    for text, code, message, value in rows:
        if code is None:
            assert (json.loads(text), message) == (value, None)
            assert Judge(SCHEMA).why_invalid(text) is None
        else:
            assert message.endswith(".")
            assert code == "invalid_answer" or (code, finish_reason) == ("max_output_tokens", "length")
            assert value is None or Judge(SCHEMA).why_invalid(text)
