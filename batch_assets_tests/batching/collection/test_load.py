"""Guards against lost answers: from any result file, each request of its batch becomes an answer or a failure with its
reason, and each line that cannot be used is stored unchanged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_assets.batching.collection import ended_batches
from batch_assets.batching.collection.ended_batches import EndedBatch
from batch_assets.batching.collection.load import Loaded, load_results
from batch_assets.batching.collection.result_lines import _has_a_longer_line
from batch_assets.batching.ledger.database import transaction
from batch_assets_tests.batching.conftest import TASK, Workspace, database_in

BATCH = "batch_1"
Outcomes = dict[str, tuple[Any, str]]
ENDED_AT = datetime.fromisoformat("2026-11-21 08:30")  # as the tables have it
USAGE = {
    "prompt_tokens": 1_000,
    "completion_tokens": 50,
    "prompt_tokens_details": {"cached_tokens": 400},
    "completion_tokens_details": {"reasoning_tokens": 30},
}


@dataclass(frozen=True)
class Batch:
    """A planned day of the articles a, b and c, whose one batch has ended; its database is open."""

    folder: Path
    connection: duckdb.DuckDBPyConnection
    ids: Mapping[str, str]  # article_id → custom_id
    key: str

    def rows(self, statement: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> list[tuple[Any, ...]]:
        return self.connection.execute(statement, parameters).fetchall()

    def column(self, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        return [row[0] for row in self.rows(statement, parameters)]

    def load(self, *contents: bytes, status: str = "completed", **more: Any) -> Loaded:
        """Load result files with these contents, and check that every request has an answer or a failure."""
        files = {str(number): self.folder / f"{number}.jsonl" for number in range(len(contents))}
        for path, content in zip(files.values(), contents, strict=True):
            path.write_bytes(content)
        options: dict[str, Any] = {"model": TASK.model, **more}
        self.ends()
        batch = EndedBatch(self.key, BATCH, status=status, ended_at=ENDED_AT, files=files, **options)
        with transaction(self.connection):
            loaded = load_results(self.connection, [batch])[BATCH]
        answered, failed = (self.column(f"SELECT custom_id FROM {name}") for name in ("completion", "failed_request"))
        assert sorted(answered + failed) == sorted(self.ids.values())
        assert (loaded.answered, loaded.failed) == (len(answered), len(failed))
        assert self.column("SELECT count(*) FROM quarantined_line") == [loaded.quarantined]
        assert self.rows("SELECT * FROM in_flight_request") == []
        return loaded

    def ends(self, batch_id: str = BATCH) -> None:
        """The submission's batch has ended, and is not collected."""
        self.rows("UPDATE openai_batch SET state = 'ended', batch_id = ? WHERE submission_id = ?", [batch_id, self.key])

    def outcome(self, name: str) -> Any:
        """The text of an answered request; (code, retryable) of another."""
        found = self.rows(
            """SELECT text, NULL, NULL FROM completion WHERE custom_id = $1
            UNION ALL SELECT NULL, code, retryable FROM failed_request WHERE custom_id = $1""",
            [self.ids[name]],
        )
        ((text, code, retryable),) = found
        return (code, retryable) if text is None else text

    def message(self, name: str) -> str:
        (message,) = self.column("SELECT message FROM failed_request WHERE custom_id = ?", [self.ids[name]])
        return str(message)

    def answer(self, name: str = "a", text: object = "Summary.", **body: Any) -> dict[str, Any]:
        return answer(self.ids[name], text, **body)


def answer(custom_id: object, text: object = "Summary.", **body: Any) -> dict[str, Any]:
    """A line of an output file, as OpenAI writes it."""
    message = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    whole = {"object": "chat.completion", "model": "gpt-4.1-nano-2025", "choices": [choice], "usage": USAGE, **body}
    response = {"status_code": 200, "request_id": "req_1", "body": whole}
    return {"id": "batch_req_1", "custom_id": custom_id, "response": response, "error": None}


def choice(content: str | None, finish_reason: str, refusal: str | None = None) -> dict[str, Any]:
    """The changed part of a body: {choices: …}."""
    return {"choices": [{"message": {"content": content, "refusal": refusal}, "finish_reason": finish_reason}]}


def refused(custom_id: str, status_code: int | None, code: str | None = "some_code") -> dict[str, Any]:
    """A line of an error file: the request reached the model, which answered with a status."""
    error = {"message": "Its words.", "type": "some_type", "param": None, "code": code}
    response = {"status_code": status_code, "request_id": "req_2", "body": {"error": error}}
    return {"id": "batch_req_2", "custom_id": custom_id, "response": response, "error": None}


def not_run(custom_id: str, code: str) -> dict[str, Any]:
    """A line of an error file: the request was not executed."""
    return {"custom_id": custom_id, "response": None, "error": {"code": code, "message": "Not executed."}}


def jsonl(*lines: dict[str, Any] | bytes) -> bytes:
    return b"".join((line if isinstance(line, bytes) else raw(line)) + b"\n" for line in lines)


def raw(line: dict[str, Any]) -> bytes:
    """The line in UTF-8, without ASCII escapes."""
    return json.dumps(line, ensure_ascii=False).encode()


@contextmanager
def ended(planned: Workspace) -> Iterator[Batch]:
    with planned.database.writing() as connection:
        ids = dict(connection.execute("SELECT article_id, custom_id FROM batch_request").fetchall())
        ((key,),) = connection.execute("SELECT submission_id FROM batch_request_file").fetchall()
        yield Batch(planned.folder, connection, ids, key)


@contextmanager
def copy_of(planned: Workspace, folder: Path) -> Iterator[Batch]:
    """A copy of the planned day, which the test may change."""
    shutil.copy(planned.database.path, folder)
    with ended(Workspace(folder, database_in(folder))) as batch:
        yield batch


@pytest.fixture
def batch(planned: Workspace, tmp_path: Path) -> Iterator[Batch]:
    with copy_of(planned, tmp_path) as batch:
        yield batch


FORMS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "as OpenAI writes it": lambda line: json.dumps(line).encode() + b"\n",
    "no final newline": raw,
    "windows newlines": lambda line: raw(line) + b"\r\n",
    "blank lines": lambda line: b"\n  \n" + raw(line) + b"\n\n\t\n",
    "byte order mark": lambda line: b"\xef\xbb\xbf" + raw(line) + b"\n",
    "other order of keys": lambda line: raw(dict(reversed(line.items()))),
    "unknown fields": lambda line: raw({"x": [{"y": None}], **line, "": 1e400, "z": "\u2028"}),
    "only what is needed": lambda line: raw({key: line[key] for key in ("custom_id", "response")}),
    "body as a string": lambda line: raw(
        {**line, "response": {"status_code": 200, "body": json.dumps(line["response"]["body"])}}
    ),
    "status code as a string": lambda line: raw({**line, "response": {**line["response"], "status_code": "200"}}),
    "no usage": lambda line: raw(answer(line["custom_id"], usage=None)),
    "odd usage": lambda line: raw(answer(line["custom_id"], usage={"prompt_tokens": "many", "x": []})),
    "empty refusal": lambda line: raw(answer(line["custom_id"], **choice("Summary.", "stop", refusal=""))),
    "cut at the limit": lambda line: raw(answer(line["custom_id"], **choice("Summary.", "length"))),
    "several choices": lambda line: raw(
        answer(line["custom_id"], choices=line["response"]["body"]["choices"] + choice("Other.", "stop")["choices"])
    ),
    "not a number": lambda line: raw({**line, "score": float("nan")}),
    "lone surrogate in an unknown field": lambda line: json.dumps({**line, "x": "\udfff"}).encode(),
    "lone surrogate in a list": lambda line: json.dumps({**line, "x": [["\ud800"]]}).encode(),
    "lone surrogate in a key": lambda line: json.dumps({**line, "\ud800": 1}).encode(),
    "broken UTF-8 in an unknown field": lambda line: raw({**line, "x": "?"}).replace(b'"?"', b'"\xff\xc3"'),
}


TEXTS: dict[bytes, str] = {
    b"one \\u2028 two": "one \u2028 two",
    "raw \u2028 \u2029 \x85 separators".encode(): "raw \u2028 \u2029 \x85 separators",
    b"\\ud83e\\udd86 duck": "🦆 duck",
    "🦆 漢字 مقال".encode(): "🦆 漢字 مقال",
    b"nul \\u0000 end": "nul \x00 end",
    b"\\n  several\\nlines \\n ": "several\nlines",
    b'\\"quoted\\" \\\\ \\/ \\t end': '"quoted" \\ / \t end',
    b"null": "null",
    b"half \\ud83e a pair": "half \ufffd a pair",
    b"caf\xe9": "caf\ufffd",
    b"cut \xf0\x9f": "cut \ufffd",
    b"raw \x01 control \t character": "raw \x01 control \t character",
}

FAILURES: list[tuple[dict[str, Any], str, bool, str]] = [
    (answer("a", **choice(None, "stop", refusal="I can't.")), "content_refused", False, "I can't."),
    (answer("a", **choice("Text", "stop", refusal="I can't.")), "content_refused", False, "I can't."),
    (answer("a", **choice(None, "content_filter")), "content_refused", False, "content filter withheld the answer"),
    (answer("a", **choice("", "length")), "max_output_tokens", False, "Raise max_output_tokens"),
    (answer("a", None), "empty_answer", True, "returned an empty answer"),
    (answer("a", ""), "empty_answer", True, "returned an empty answer"),
    (answer("a", " \n\t\r\n"), "empty_answer", True, "returned an empty answer"),
    (answer("a", choices=[]), "empty_answer", True, "returned an empty answer"),
    (answer("a", choices=None), "empty_answer", True, "returned an empty answer"),
    (answer("a", choices="x"), "empty_answer", True, "returned an empty answer"),
    ({"custom_id": "a", "response": {"status_code": 200, "body": "no JSON"}}, "no_answer", False, "no JSON"),
    ({"custom_id": "a", "response": {"status_code": 200, "body": [1]}}, "no_answer", False, "a list, not an object"),
    ({"custom_id": "a", "response": {"status_code": 200}}, "no_answer", False, "the line has no body"),
    (refused("a", 0, None), "some_type", True, "Its words."),
    ({"custom_id": "a", "response": {"status_code": 0, "body": None}}, "http_0", True, "None"),
    (refused("a", None), "some_code", True, "Its words."),
    ({"custom_id": "a", "response": None, "error": None}, "no_response", True, "None"),
    ({"custom_id": "a"}, "no_response", True, "None"),
    ({"custom_id": "a", "response": "text"}, "no_response", True, "None"),
    ({"custom_id": "a", "response": [answer("a")["response"]]}, "no_response", True, "None"),
    (not_run("a", "batch_expired"), "batch_expired", True, "Not executed."),
    (not_run("a", "batch_cancelled"), "batch_cancelled", True, "Not executed."),
    *((refused("a", status), "some_code", False, "Its words.") for status in (400, 405, 413, 422)),
    # of the account: its message ends with what the user can do
    *((refused("a", status), "some_code", True, "Its words. ") for status in (401, 402, 403, 404)),
    *((refused("a", status), "some_code", True, "Its words.") for status in (408, 409, 425, 429)),
    *((refused("a", status), "some_code", True, "Its words.") for status in (500, 502, 503, 529, 302)),
]


def cases() -> dict[str, Callable[[str], bytes]]:
    """What a result file for one request holds, given its custom_id."""

    def with_form(custom_id: str, form: str) -> bytes:
        return FORMS[form](answer(custom_id))

    def with_text(custom_id: str, written: bytes) -> bytes:
        return raw(answer(custom_id, "@@@")).replace(b"@@@", written)

    def with_id(custom_id: str, line: dict[str, Any]) -> bytes:
        return jsonl({**line, "custom_id": custom_id})

    return {
        **{form: partial(with_form, form=form) for form in FORMS},
        **{f"text {text!r}": partial(with_text, written=text) for text in TEXTS},
        **{f"failure {number}": partial(with_id, line=case[0]) for number, case in enumerate(FAILURES)},
    }


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """The outcome of each case and its message: each in a result file of its own, all loaded with one batch."""
    folder = tmp_path_factory.mktemp("cases")
    workspace = Workspace(folder, database_in(folder))
    workspace.ingest({name: name for name in cases()})
    workspace.plan()
    with ended(workspace) as batch:
        loaded = batch.load(*(content(batch.ids[name]) for name, content in cases().items()))
        quarantined = sum(code == "no_answer" for _, code, _, _ in FAILURES)
        assert loaded == Loaded(len(FORMS) + len(TEXTS), failed=len(FAILURES), quarantined=quarantined)
        messages = dict(batch.rows("SELECT custom_id, message FROM failed_request"))
        return {name: (batch.outcome(name), str(messages.get(batch.ids[name]))) for name in cases()}


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_is_read_in_each_of_these_forms(outcomes: Outcomes, form: str) -> None:
    assert outcomes[form][0] == "Summary."


@pytest.mark.parametrize("written", TEXTS)
def test_texts_survive(outcomes: Outcomes, written: bytes) -> None:
    assert outcomes[f"text {written!r}"][0] == TEXTS[written]


@pytest.mark.parametrize("number", range(len(FAILURES)))
def test_what_is_no_answer_is_a_failure_with_its_reason(outcomes: Outcomes, number: int) -> None:
    _, code, retryable, message = FAILURES[number]
    assert outcomes[f"failure {number}"][0] == (code, retryable)
    assert message in outcomes[f"failure {number}"][1]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=50), min_size=3, max_size=3), is_ascii=st.booleans())
def test_any_text_survives(planned: Workspace, tmp_path: Path, texts: list[str], is_ascii: bool) -> None:
    with copy_of(planned, tmp_path) as batch:
        lines = [batch.answer(name, f"<{text}>") for name, text in zip("abc", texts, strict=True)]
        content = "\n".join(json.dumps(line, ensure_ascii=is_ascii) for line in lines)
        assert batch.load(content.encode()).answered == 3
        assert [batch.outcome(name) for name in "abc"] == [f"<{text}>" for text in texts]


def test_a_line_of_5_mb_is_read(batch: Batch) -> None:
    text = "🦆 long " * 550_000
    assert len(text.encode()) > 5_000_000
    assert batch.load(jsonl(batch.answer("a", text), batch.answer("b"))).answered == 2
    assert batch.outcome("a") == text.strip()


@pytest.mark.parametrize("finish_reason", ["length", "content_filter"])
def test_a_cut_text_is_an_answer_that_says_so(batch: Batch, finish_reason: str) -> None:
    batch.load(jsonl(answer(batch.ids["a"], **choice("Half a", finish_reason))))
    assert batch.rows("SELECT text, finish_reason FROM completion") == [("Half a", finish_reason)]


UNUSABLE: list[tuple[bytes, str]] = [
    (b"no JSON at all", "malformed JSON"),
    (b'{"custom_id": "cut', "malformed JSON"),
    (b'{"custom_id": "x" "y, \'z\'": 1}', "malformed JSON"),
    (b"[" * 100_000, "malformed JSON"),
    (b"\xff\xfe\x00\x01", "malformed JSON"),
    (b"\x00", "malformed JSON"),
    (b"5", "not a JSON object"),
    (b"[]", "not a JSON object"),
    (b"null", "not a JSON object"),
    (b'"text, with a comma and a \\" quote"', "not a JSON object"),
    (b"{}", "no custom_id"),
    (raw(answer(None)), "no custom_id"),
    (raw(answer(5)), "no custom_id"),
    (raw(answer("")), "unknown custom_id"),
    (raw(answer("not ours")), "unknown custom_id"),
    (raw(answer("\u2028'; DROP TABLE completion; --")), "unknown custom_id"),
]


@pytest.mark.parametrize(("line", "reason"), UNUSABLE, ids=lambda value: repr(value)[:30])
def test_an_unusable_line_is_kept_and_does_not_stop_the_others(batch: Batch, line: bytes, reason: str) -> None:
    content = jsonl(batch.answer("a"), line, batch.answer("b", "Two."))
    assert batch.load(content) == Loaded(answered=2, failed=1, quarantined=1)
    ((batch_id, path, number, why, kept),) = batch.rows("SELECT * FROM quarantined_line")
    assert (batch_id, path, number, kept) == (BATCH, str(batch.folder / "0.jsonl"), 2, line)
    assert reason in why
    assert (batch.outcome("a"), batch.outcome("b")) == ("Summary.", "Two.")


def test_all_unusable_lines_together(batch: Batch) -> None:
    content = jsonl(*(line for line, _ in UNUSABLE), raw(batch.answer("b")))
    assert batch.load(content).quarantined == len(UNUSABLE)
    assert batch.column("SELECT line FROM quarantined_line ORDER BY line_number") == [line for line, _ in UNUSABLE]
    assert batch.outcome("b") == "Summary."


def test_a_line_that_is_too_long_does_not_stop_the_others(batch: Batch) -> None:
    broken = b'{"custom_id":"' + b"x" * 40_000_000
    loaded = batch.load(jsonl(batch.answer("a"), broken, batch.answer("b")))
    assert loaded == Loaded(answered=2, failed=1, quarantined=1)
    [(number, reason, kept)] = batch.rows("SELECT line_number, reason, line FROM quarantined_line")
    assert (number, kept) == (2, broken[:1_000_000])
    assert reason.startswith("a line of 40,000,015 bytes")


def test_an_unusable_line_of_5_mb_is_kept(batch: Batch) -> None:
    line = b'{"custom_id": "' + b"x" * 5_000_000
    assert batch.load(jsonl(line, batch.answer("a"))) == Loaded(answered=1, failed=2, quarantined=1)
    assert batch.column("SELECT line FROM quarantined_line") == [line]


@pytest.mark.parametrize("answer_first", [True, False])
@pytest.mark.parametrize("same_file", [True, False])
@pytest.mark.parametrize("text", ["Summary.", "half \ud83e a pair"], ids=["plain", "in need of repair"])
def test_of_two_lines_for_a_request_the_better_one_wins(
    batch: Batch, answer_first: bool, same_file: bool, text: str
) -> None:
    lines = [json.dumps(batch.answer(text=text)).encode(), raw(refused(batch.ids["a"], 500))]
    if not answer_first:
        lines.reverse()
    assert batch.load(*([jsonl(*lines)] if same_file else map(jsonl, lines))) == Loaded(1, 2, 0)
    assert batch.outcome("a") == text.replace("\ud83e", "\ufffd")


def test_a_repeated_answer_counts_once(batch: Batch) -> None:
    assert batch.load(jsonl(batch.answer("a"), batch.answer("a"), b"malformed"), jsonl(batch.answer("a"))).answered == 1


ALL_TOKENS = "sum(input_tokens), sum(cached_input_tokens), sum(output_tokens), sum(reasoning_tokens)"
FURTHER_LINES: dict[str, Callable[[Batch], bytes]] = {
    "a second line of a request": lambda batch: raw(batch.answer("a", "Another.")),
    "a second line that failed": lambda batch: raw(answer(batch.ids["a"], None)),
    "a request of no batch": lambda batch: raw(answer("not ours")),
    "such a request, in need of repair": lambda batch: json.dumps(answer("not ours", "half \ud83e a pair")).encode(),
    "no custom_id": lambda batch: raw(answer(None)),
    "a custom_id of another type": lambda batch: raw(answer(5)),
}


@pytest.mark.parametrize("line", FURTHER_LINES)
@pytest.mark.parametrize("same_file", [True, False])
@pytest.mark.parametrize("is_read_again", [True, False])
def test_a_line_that_counts_for_no_request_was_billed_too(
    batch: Batch, line: str, same_file: bool, is_read_again: bool
) -> None:
    """The API tells no usage of its batches, so only these lines tell what was billed."""
    lines = [raw(batch.answer("a")), *([b"malformed"] if is_read_again else []), FURTHER_LINES[line](batch)]
    batch.load(*([jsonl(*lines)] if same_file else map(jsonl, lines)))
    assert batch.outcome("a") in ("Summary.", "Another.")
    assert batch.rows(f"SELECT kind, sum(requests), {ALL_TOKENS} FROM spending GROUP BY kind ORDER BY kind") == [
        ("answered", 1, 1_000, 400, 50, 30),
        ("unattributed", 0, 1_000, 400, 50, 30),
    ]
    assert batch.column("SELECT sum(cost_usd) FROM spending") == [pytest.approx(2 * (1_000 * 0.05e-6 + 50 * 0.2e-6))]


@pytest.mark.parametrize(("told", "unattributed"), [(None, 1_000), (1_000, 1_000), (2_000, 1_000), (2_500, 1_500)])
def test_the_usage_of_the_batch_is_compared_with_all_its_lines(
    batch: Batch, told: int | None, unattributed: int
) -> None:
    batch.rows("UPDATE openai_batch SET input_tokens = ?", [told])
    batch.load(jsonl(batch.answer("a"), answer("not ours")))
    assert batch.rows("SELECT kind, requests, input_tokens FROM spending ORDER BY kind") == [
        ("answered", 1, 1_000),
        ("unattributed", 0, unattributed),
    ]


@pytest.mark.parametrize("line", [b"malformed", raw(not_run("not ours", "batch_expired"))])
def test_a_line_without_a_usage_bills_nothing(batch: Batch, line: bytes) -> None:
    batch.load(jsonl(batch.answer("a"), line))
    assert batch.rows(f"SELECT kind, {ALL_TOKENS} FROM spending GROUP BY kind") == [("answered", 1_000, 400, 50, 30)]


def test_a_file_that_is_read_again_bills_each_line_once(batch: Batch) -> None:
    lines = [batch.answer("a"), batch.answer("b", "half \ud83e a pair"), batch.answer("a", "Another.")]
    batch.load(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    assert batch.rows("SELECT kind, requests, input_tokens FROM spending ORDER BY kind") == [
        ("answered", 2, 2_000),
        ("unattributed", 0, 1_000),
    ]


def test_of_two_failures_the_one_with_a_status_wins(batch: Batch) -> None:
    batch.load(jsonl(not_run(batch.ids["a"], "batch_expired"), refused(batch.ids["a"], 400)))
    assert batch.outcome("a") == ("some_code", False)


def test_both_files_together_account_for_all(batch: Batch) -> None:
    errors = jsonl(refused(batch.ids["b"], 400), not_run(batch.ids["c"], "batch_expired"))
    assert batch.load(jsonl(batch.answer("a")), errors, status="expired") == Loaded(1, 2, 0)
    assert [batch.outcome(name) for name in "abc"] == ["Summary.", ("some_code", False), ("batch_expired", True)]
    assert batch.rows("SELECT http_status, failed_at FROM failed_request ORDER BY http_status") == [
        (400, ENDED_AT),
        (None, ENDED_AT),
    ]


@pytest.mark.parametrize("contents", [[], [b""], [b"", b""], [b"\n\n"]], ids=str)
@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("completed", "missing_from_results"),
        ("expired", "batch_expired"),
        ("cancelled", "batch_cancelled"),
        ("failed", "batch_failed"),
    ],
)
def test_requests_without_a_line_are_noticed(batch: Batch, contents: list[bytes], status: str, code: str) -> None:
    assert batch.load(*contents, status=status) == Loaded(answered=0, failed=3, quarantined=0)
    assert batch.rows("SELECT DISTINCT code, retryable FROM failed_request") == [(code, True)]
    assert f"ended as {status}" in batch.message("a")


def test_a_failed_batch_blames_the_requests_that_openai_named(batch: Batch) -> None:
    loaded = batch.load(
        status="failed",
        reasons={batch.ids["b"]: ("invalid_request", "Bad line."), "not ours": ("x", "y")},
        reason=("batch_failed", "Others were bad."),
    )
    assert loaded == Loaded(answered=0, failed=3, quarantined=0)
    assert batch.outcome("b") == ("invalid_request", False)
    assert batch.message("b") == "Bad line."
    assert batch.outcome("a") == batch.outcome("c") == ("batch_failed", True)
    assert batch.message("a") == "Others were bad."


def test_an_answer_carries_its_figures(batch: Batch) -> None:
    batch.load(jsonl(batch.answer("a")))
    ((text, *figures),) = batch.rows(
        "SELECT * EXCLUDE (custom_id, cost_usd, simulated_cost_usd, vector) FROM completion"
    )
    assert text == "Summary."
    usage = [1_000, 400, None, 50, 30]
    assert figures == ["stop", "gpt-4.1-nano-2025", None, None, *usage, BATCH, "req_1", ENDED_AT]


@pytest.mark.parametrize(
    ("model", "cost_usd"),
    [
        ("gpt-4.1-nano", 1_000 * 0.05e-6 + 50 * 0.2e-6),  # no discount for cached tokens before GPT-5
        ("gpt-5-mini", 600 * 0.125e-6 + 400 * 0.0125e-6 + 50 * 1e-6),
        ("mistral-small", None),
    ],
)
def test_an_answer_costs_what_the_batch_price_says(batch: Batch, model: str, cost_usd: float | None) -> None:
    batch.load(jsonl(batch.answer("a")), model=model)
    (found,) = batch.column("SELECT cost_usd FROM completion")
    assert found is None if cost_usd is None else found == pytest.approx(cost_usd)


def test_an_answer_that_is_there_already_is_kept(batch: Batch) -> None:
    batch.rows(
        "INSERT INTO completion (custom_id, text, batch_id, completed_at) VALUES (?, 'Earlier.', 'batch_0', now())",
        [batch.ids["a"]],
    )
    path = batch.folder / "again.jsonl"
    path.write_bytes(jsonl(batch.answer("a"), batch.answer("b")))
    batch.ends()
    again = EndedBatch(batch.key, BATCH, TASK.model, "completed", ENDED_AT, {"output": path})
    assert load_results(batch.connection, [again]) == {BATCH: Loaded(answered=1, failed=1, quarantined=0)}
    assert batch.outcome("a") == "Earlier."


@pytest.mark.parametrize("bytes_at_once", [1, ended_batches.BYTES_AT_ONCE])
def test_batches_that_are_loaded_together_keep_their_own_results(batch: Batch, bytes_at_once: int) -> None:
    lines = {
        "a": jsonl(batch.answer("a"), batch.answer("b", "A stranger in this file.")),
        "b": jsonl(refused(batch.ids["b"], 500)),
        "c": b"",
    }
    ended = []
    for name, content in lines.items():
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
        path.write_bytes(content)
        ended.append(EndedBatch(name, f"batch_{name}", "gpt-5-mini", "completed", ENDED_AT, {"output": path}))
    ended[1] = replace(ended[1], cancelled_by_user=True)
    ended[2] = replace(ended[2], model="mistral-small", status="expired")
    loaded: dict[str, Loaded] = {}
    for group in ended_batches.in_groups(ended, bytes_at_once):
        loaded |= load_results(batch.connection, group)
    assert loaded == {
        "batch_a": Loaded(1, 0, 1),
        "batch_b": Loaded(0, 1, 0),
        "batch_c": Loaded(0, 1, 0),
    }
    assert batch.outcome("a") == "Summary."
    assert batch.outcome("b") == ("cancelled_by_user", True)
    assert batch.outcome("c") == ("batch_expired", True)
    assert batch.column("SELECT batch_id FROM failed_request ORDER BY custom_id") == [
        f"batch_{name}" for _, name in sorted((batch.ids[name], name) for name in "bc")
    ]
    assert batch.rows("SELECT batch_id, line_number FROM quarantined_line") == [("batch_a", 2)]
    assert batch.rows("SELECT * FROM in_flight_request") == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(0, 12), max_size=12), has_last_newline=st.booleans(), line_bytes=st.integers(1, 12))
def test_a_line_that_is_too_long_is_noticed(
    tmp_path: Path, lengths: list[int], has_last_newline: bool, line_bytes: int
) -> None:
    content = b"\n".join(b"x" * length for length in lengths) + b"\n" * has_last_newline
    path = tmp_path / "lines"
    path.write_bytes(content)
    longest = max(map(len, content.splitlines(keepends=True)), default=0)
    assert _has_a_longer_line(path, line_bytes) == (longest > line_bytes)


@pytest.mark.parametrize("folder", ["with spaces", "[1]", "a*b", "it's", "{x}"])
def test_result_files_may_be_in_any_folder(batch: Batch, folder: str) -> None:
    elsewhere = replace(batch, folder=batch.folder / folder)
    elsewhere.folder.mkdir()
    assert elsewhere.load(jsonl(batch.answer("a"), b"malformed")) == Loaded(1, 2, 1)


def test_a_relative_path_serves_as_well(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(batch.folder)
    assert replace(batch, folder=Path()).load(jsonl(batch.answer("a"), b"malformed")) == Loaded(1, 2, 1)
