"""Guards against what servers that imitate OpenAI write into result files: content in parts, thinking in the text,
errors in other places, and a status of 200 for what is no answer. Each was once a summary, or lost its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_assets.batching.collection.line_repair import repair_line
from batch_assets_tests.batching.collection.test_load import (
    answer,
    choice,
    copy_of,
    ended,
    jsonl,
    raw,
)
from batch_assets_tests.batching.conftest import Workspace, database_in

Body = Any
Lines = dict[str, dict[str, Any]]


def text_part(text: object) -> dict[str, object]:
    return {"type": "text", "text": text}


THINKING_PART = {"type": "thinking", "thinking": [text_part("Let me see.")], "closed": True}

CONTENTS: dict[str, tuple[object, str]] = {
    "one part": ([text_part("Summary.")], "Summary."),
    "several parts": ([text_part("One, "), text_part("two.")], "One, two."),
    "thinking before the text": ([THINKING_PART, text_part("Summary.")], "Summary."),
    "thinking between": ([text_part("One, "), THINKING_PART, text_part("two.")], "One, two."),
    "reasoning": ([{"type": "reasoning", "text": "Let me see."}, text_part("Summary.")], "Summary."),
    "output_text": ([{"type": "output_text", "text": "Summary.", "annotations": []}], "Summary."),
    "parts of other types": ([{"type": "image_url", "image_url": {"url": "x"}}, text_part("Summary.")], "Summary."),
    "a part without a type": ([{"text": "Summary."}], "Summary."),
    "a part that is a string": (["One, ", text_part("two.")], "One, two."),
    "parts that are nothing": ([None, 5, [], {}, {"type": "text"}, text_part(None), text_part("Summary.")], "Summary."),
    "white space around": ([text_part(" \n"), text_part(" Summary. \n")], "Summary."),
    "a text that looks like parts": ([text_part('[{"type":"text","text":"x"}]')], '[{"type":"text","text":"x"}]'),
    "thinking within a text part": ([text_part("<think>Let me "), text_part("see.</think>Summary.")], "Summary."),
    "an object": (text_part("Summary."), "Summary."),
    "NUL and quotes": ([text_part('a\0b "c" \\ \u2028 🦆')], 'a\0b "c" \\ \u2028 🦆'),
    "half a surrogate pair": ([text_part("half \ud83e a pair")], "half \ufffd a pair"),
    "a string that begins with a bracket": ("[1] A summary.", "[1] A summary."),
    "a string that is a JSON list": ('["a", "b"]', '["a", "b"]'),
    "a string that is a list of parts": ('[{"type": "text", "text": "x"}]', '[{"type": "text", "text": "x"}]'),
    "a string that is an object": ('{"type": "x", "text": "y"}', '{"type": "x", "text": "y"}'),
    "thinking": ("<think>Let me see.</think>Summary.", "Summary."),
    "thinking on lines": ("\n<think>\nLet me see.\n\n</think>\n\nSummary.\n", "Summary."),
    "empty thinking": ("<think>\n\n</think>\n\nSummary.", "Summary."),
    "thinking twice": ("<think>One.</think>\n<think>Two.</think>\nSummary.", "Summary."),
    "<think> in the text": ("The tag <think>x</think> holds thoughts.", "The tag <think>x</think> holds thoughts."),
    "<think> in the text, unclosed": ("Models write <think> first.", "Models write <think> first."),
    "</think> in the text": ("A tag ends with </think> there.", "A tag ends with </think> there."),
    "thinking, then a text about <think>": ("<think>a</think>Of <think>b</think> c", "Of <think>b</think> c"),
    "<thinker>": ("<thinker> is another word.", "<thinker> is another word."),
}

NO_TEXTS: dict[str, tuple[dict[str, Any], str]] = {
    "only thinking": (answer("a", [THINKING_PART]), "empty_answer"),
    "an empty list": (answer("a", []), "empty_answer"),
    "an empty part": (answer("a", [text_part(""), text_part(" \n")]), "empty_answer"),
    "only thinking, cut": (
        answer("a", choices=[{"message": {"content": [THINKING_PART]}, "finish_reason": "length"}]),
        "max_output_tokens",
    ),
    "only <think>": (answer("a", "<think>Let me see.</think>\n"), "empty_answer"),
    "<think> unclosed": (answer("a", "<think>Let me"), "empty_answer"),
    "a second <think> unclosed": (answer("a", "<think>One.</think><think>Two"), "empty_answer"),
    "<think> unclosed, cut": (answer("a", **choice("<think>Let me", "length")), "max_output_tokens"),
    "a refusal in a part": (answer("a", [{"type": "refusal", "refusal": "I can't."}]), "content_refused"),
    "no text and finish_reason stop": (answer("a", ""), "empty_answer"),
    "no text and no finish_reason": (answer("a", choices=[{"message": {"content": None}}]), "empty_answer"),
    "no choices": (answer("a", choices=[]), "empty_answer"),
}


def line_of(body: Body, status_code: int = 200, **line: Any) -> dict[str, Any]:
    """A line of a result file with this body."""
    return {"custom_id": "a", "response": {"status_code": status_code, "body": body}, "error": None, **line}


ERROR = {"code": "overloaded", "message": "Too busy."}
FLAT = {"object": "error", "message": "Bad prompt.", "type": "BadRequestError", "param": None, "code": "bad_prompt"}
VALIDATION = [{"loc": ["body", "model"], "msg": "Field required.", "type": "missing"}]
# A line, and the code and the message of the failure that it must become.
ERRORS: dict[str, tuple[dict[str, Any], str, str]] = {
    "error in a 200": (line_of({"error": ERROR}), "overloaded", "Too busy."),
    "… beside an empty answer": (
        answer("a", choices=[{"message": {"content": ""}, "finish_reason": "stop"}], error=ERROR),
        "overloaded",
        "Too busy.",
    ),
    "… beside no choices": (answer("a", choices=[], error=ERROR), "overloaded", "Too busy."),
    "… without a code": (line_of({"error": {"message": "Too busy."}}), "error_in_answer", "Too busy."),
    "… without words": (line_of({"error": {"code": "overloaded"}}), "overloaded", '{"code": "overloaded"}'),
    "… with a type": (
        line_of({"type": "error", "error": {"type": "overloaded_error", "message": "Busy."}}),
        "overloaded_error",
        "Busy.",
    ),
    "… in a list": (line_of([{"error": ERROR}]), "overloaded", "Too busy."),
    "… in a body that is a string": (line_of(json.dumps({"error": ERROR})), "overloaded", "Too busy."),
    "… in an error": (line_of({"error": {"error": ERROR}}), "overloaded", "Too busy."),
    "… in its choice": (
        answer("a", choices=[{"message": {"content": ""}, "finish_reason": "error", "error": ERROR}]),
        "overloaded",
        "Too busy.",
    ),
    "… in its choice, without a message": (answer("a", choices=[{"error": ERROR}]), "overloaded", "Too busy."),
    "… beside the response": (answer("a", "", error=None) | {"error": ERROR}, "overloaded", "Too busy."),
    "body.error as a string in a 200": (line_of({"error": "Too busy."}), "error_in_answer", "Too busy."),
    "body.error as a string in a 503": (line_of({"error": "Too busy."}, 503), "http_503", "Too busy."),
    "body.error with a message beside": (
        line_of({"statusCode": 404, "error": "Not Found", "message": "No such route."}, 500),
        "http_500",
        "Not Found: No such route.",
    ),
    "body.error as a string with a code": (
        line_of({"error": "Too busy.", "code": "overloaded"}, 503),
        "overloaded",
        "Too busy.",
    ),
    "body.message in a 200": (line_of(FLAT), "bad_prompt", "Bad prompt."),
    "body.message in a 400": (line_of(FLAT, 400), "bad_prompt", "Bad prompt."),
    "body.message, code is a number": (line_of({"code": 429, "message": "Slow down."}), "429", "Slow down."),
    "body.message alone": (line_of({"message": "Slow down."}, 429), "http_429", "Slow down."),
    "body.detail in a 200": (line_of({"detail": "Not authenticated."}), "error_in_answer", "Not authenticated."),
    "body.detail in a 422": (line_of({"detail": VALIDATION}, 422), "missing", "Field required."),
    "body.detail with two reasons": (
        line_of({"detail": [*VALIDATION, {"msg": "Too long."}]}, 422),
        "missing",
        "Field required.; Too long.",
    ),
    "body.detail as an object": (line_of({"detail": ERROR}, 503), "overloaded", "Too busy."),
    "body.errors": (line_of({"success": False, "errors": [ERROR]}), "overloaded", "Too busy."),
    "body.errors of another form": (
        line_of({"errors": {"model": ["unknown"]}}, 400),
        "http_400",
        '{"model": ["unknown"]}',
    ),
    "a 502 with a page": (line_of("<html>\n<title>Bad\tGateway</title>", 502), "http_502", "<title>Bad Gateway"),
    "a 500 with a string": (line_of("Internal Server Error", 500), "http_500", "Internal Server Error"),
    "error as a string, no response": (
        {"custom_id": "a", "response": None, "error": "Not executed."},
        "no_response",
        "Not executed.",
    ),
    "error as a string, response 500": (line_of(None, 500, error="It broke."), "http_500", "It broke."),
    "error as a string, response 200": (line_of(None, error="It broke."), "error_in_answer", "It broke."),
    "message of the line": ({"custom_id": "a", "message": "Not executed."}, "no_response", "Not executed."),
}

ECHO = {"model": "m", "messages": [{"role": "user", "content": "SECRET ARTICLE"}], "max_completion_tokens": 5}
# What is no answer, and a part of the reason.
NO_ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "the request": (line_of(ECHO), "repeats the request"),
    "the line of the request": (
        line_of({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": ECHO}),
        "repeats the request",
    ),
    "the request as a string": (line_of(json.dumps(ECHO)), "repeats the request"),
    "the request with a usage": (line_of({**ECHO, "usage": {"prompt_tokens": 7}}), "repeats the request"),
    "a page": (line_of("<!DOCTYPE html><html><title>Log in</title></html>"), "page of HTML"),
    "a page with white space": (line_of("\n\n <HTML lang=en>\n<body>Wait</body>"), "page of HTML"),
    "another string": (line_of("upstream timed out"), '"upstream timed out"'),
    "an empty string": (line_of(""), "empty"),
    "an empty object": (line_of({}), "empty object"),
    "no body": (line_of(None), "no body"),
    "a list": (line_of([1]), "list"),
    "an empty list": (line_of([]), "list"),
    "a number": (line_of(5), "number"),
    "an answer of another API": (line_of({"object": "response", "output": [], "\x1b[31m": 1}), "object, output, [31m"),
    "the message of another API": (line_of({"message": {"role": "assistant", "content": "x"}, "done": True}), "done"),
    "a choice without a message": (answer("a", choices=[{"text": "Summary.", "index": 0}]), "no message"),
    "a choice that is null": (answer("a", choices=[None]), "no message"),
}


def failing_lines() -> Lines:
    errors = {f"error {name}": line for name, (line, _, _) in ERRORS.items()}
    empty = {f"empty {name}": line for name, (line, _) in NO_TEXTS.items()}
    no_answers = {f"none {name}": line for name, (line, _) in NO_ANSWERS.items()}
    return errors | empty | no_answers


def lines() -> Lines:
    return {f"content {name}": answer("a", content) for name, (content, _) in CONTENTS.items()} | failing_lines()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str | None, ...]]:
    """By name of the line: text, code, message of its request, and the reason in quarantine.

    Each line is in a result file of its own; all are loaded with one batch.
    """
    folder = tmp_path_factory.mktemp("compatible")
    workspace = Workspace(folder, database_in(folder))
    workspace.ingest({name: name for name in lines()})
    workspace.plan()
    with ended(workspace) as batch:
        batch.load(*(json.dumps({**line, "custom_id": batch.ids[name]}).encode() for name, line in lines().items()))
        rows = batch.rows(
            """
            SELECT custom_id, text, code, message
            FROM completion FULL JOIN (SELECT custom_id, code, message FROM failed_request) USING (custom_id)
            """
        )
        reasons = dict(batch.rows("SELECT path, reason FROM quarantined_line"))
        files = {name: str(batch.folder / f"{number}.jsonl") for number, name in enumerate(lines())}
        found = {custom_id: outcome for custom_id, *outcome in rows}
        return {name: (*found[batch.ids[name]], reasons.get(files[name])) for name in lines()}


@pytest.mark.parametrize("name", CONTENTS)
def test_the_summary_is_the_text_without_the_thinking(outcomes: dict[str, Any], name: str) -> None:
    assert outcomes[f"content {name}"] == (CONTENTS[name][1], None, None, None)


@pytest.mark.parametrize("name", NO_TEXTS)
def test_an_answer_without_a_text_is_empty(outcomes: dict[str, Any], name: str) -> None:
    text, code, _, reason = outcomes[f"empty {name}"]
    assert (text, code, reason) == (None, NO_TEXTS[name][1], None)


@pytest.mark.parametrize("name", ERRORS)
def test_code_and_message_of_an_error_are_kept(outcomes: dict[str, Any], name: str) -> None:
    text, code, message, reason = outcomes[f"error {name}"]
    assert (text, code, reason) == (None, ERRORS[name][1], None)
    assert ERRORS[name][2] in message


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_a_200_that_is_no_answer_is_quarantined_with_its_reason(outcomes: dict[str, Any], name: str) -> None:
    text, code, message, reason = outcomes[f"none {name}"]
    assert (text, code, message) == (None, "no_answer", reason)
    assert NO_ANSWERS[name][1] in reason
    assert "SECRET ARTICLE" not in reason


def test_what_is_no_answer_is_kept_whole_and_its_usage_is_billed(planned: Workspace, tmp_path: Path) -> None:
    with copy_of(planned, tmp_path) as batch:
        echo = line_of({**ECHO, "usage": {"prompt_tokens": 7, "completion_tokens": 0}}) | {"custom_id": batch.ids["a"]}
        loaded = batch.load(jsonl(batch.answer("b"), echo))
        assert (loaded.answered, loaded.failed, loaded.quarantined) == (1, 2, 1)
        assert batch.outcome("a") == ("no_answer", False)
        assert batch.rows("SELECT line_number, line FROM quarantined_line") == [(2, raw(echo))]
        assert batch.column("SELECT sum(input_tokens) FROM spending WHERE kind = 'failed'") == [7]


@pytest.mark.parametrize("other", [b"", b"malformed"], ids=["alone", "with a line that Python reads"])
def test_a_string_and_a_list_for_the_same_request(planned: Workspace, tmp_path: Path, other: bytes) -> None:
    """Both kinds in one file, and one of them twice: no line counts twice."""
    with copy_of(planned, tmp_path) as batch:
        parts = [text_part("Of parts.")]
        content = jsonl(
            batch.answer("a", parts), other, batch.answer("b", "[1] Text."), batch.answer("a", parts), batch.answer("c")
        )
        assert batch.load(content).answered == 3
        assert [batch.outcome(name) for name in "abc"] == ["Of parts.", "[1] Text.", "Summary."]
        assert batch.column("SELECT sum(input_tokens) FROM spending") == [4_000]


def loaded_texts(planned: Workspace, folder: Path, contents: list[Any], is_ascii: bool) -> list[Any]:
    with copy_of(planned, folder) as batch:
        made = [batch.answer(name, content) for name, content in zip("abc", contents, strict=True)]
        batch.load("\n".join(json.dumps(line, ensure_ascii=is_ascii) for line in made).encode())
        return [batch.outcome(name) for name in "abc"]


TEXT = st.text(max_size=30)
PARTS = st.lists(TEXT, max_size=4)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(PARTS, min_size=3, max_size=3), is_ascii=st.booleans())
def test_parts_are_the_joined_text(planned: Workspace, tmp_path: Path, parts: list[list[str]], is_ascii: bool) -> None:
    """Also where other parts are between them; the marks at both ends keep white space and thinking apart."""
    marked = [["<", *texts, ">"] for texts in parts]
    as_parts = [[part for text in texts for part in (text_part(text), THINKING_PART)] for texts in marked]
    expected = ["".join(texts) for texts in marked]
    assert loaded_texts(planned, tmp_path, as_parts, is_ascii) == expected
    assert loaded_texts(planned, tmp_path, expected, is_ascii) == expected


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXT, min_size=3, max_size=3), start=st.sampled_from(["[", '["', '[{"', '{"type":"text"', "{"]))
def test_a_text_that_begins_like_json_survives(
    planned: Workspace, tmp_path: Path, texts: list[str], start: str
) -> None:
    whole = [f"{start}{text}." for text in texts]
    assert loaded_texts(planned, tmp_path, whole, is_ascii=False) == whole


THOUGHT = TEXT.filter(lambda text: "</think>" not in text)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(thoughts=st.lists(THOUGHT, min_size=3, max_size=3), texts=st.lists(TEXT, min_size=3, max_size=3))
def test_a_leading_block_is_all_that_is_removed(
    planned: Workspace, tmp_path: Path, thoughts: list[str], texts: list[str]
) -> None:
    """Whatever the thought and the text have, tags in the middle of the text too."""
    expected = [f"({text}<think>{text}</think>)" for text in texts]
    whole = [f"<think>{thought}</think>\n{text}" for thought, text in zip(thoughts, expected, strict=True)]
    assert loaded_texts(planned, tmp_path, whole, is_ascii=True) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "errors", "message", "detail", "msg", "code", "type", "choices", "object", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(response=JSON, body=JSON, error=JSON, status=st.sampled_from([200, "200", 500, None]), has_body=st.booleans())
def test_any_line_can_be_repaired(response: Body, body: Body, error: Body, status: Any, has_body: bool) -> None:
    whole = {"status_code": status, "body": body} if has_body else response
    line = json.dumps({"custom_id": "a", "response": whole, "error": error}).encode()
    repaired, _ = repair_line(line, len(line), {"a"})
    assert repaired is not None
    assert json.loads(repaired)["custom_id"] == "a"
