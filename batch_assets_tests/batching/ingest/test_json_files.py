"""JSON files: keys may come late, in any case, and with any kind of value. A line that is no object is set aside."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from batch_assets_tests.batching.conftest import DAY, Workspace
from batch_assets_tests.batching.ingest.support import articles, read, refusal, rejected, texts, write

ALL: dict[str, Any] = {"max_malformed_share": 1.0}
DATED = f'"published_at": "{DAY}"'


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps({"published_at": DAY, **row}, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("format", ["jsonl", "json", "jsonl.gz"])
def test_keys_that_come_late_are_kept(workspace: Workspace, format: str) -> None:
    rows = [{"body": f"text {number}"} for number in range(20_600)]
    last = {"body": "last", "id": "late", "title": "T", "url": "u"}
    text = lines(*rows, last)
    if format == "json":
        text = json.dumps([{"published_at": DAY, **row} for row in [*rows, last]])
    content = gzip.compress(text.encode(), 1) if format.endswith("gz") else text
    assert read(workspace, write(workspace, f"a.{format}", content)).articles == 20_601
    assert [row for row in articles(workspace) if row[1]] == [("late", "T", "last", "u")]


def test_a_text_that_comes_late_is_read(workspace: Workspace) -> None:
    rows = [{"id": str(number)} for number in range(3_000)]
    found = read(workspace, write(workspace, "a.jsonl", lines(*rows, {"id": "late", "body": "x"})))
    assert (found.articles, found.rejected) == (1, {"empty_body": 3_000})


@pytest.mark.parametrize(
    ("row", "article"),
    [
        ({"Body": "x", "ID": "1"}, ("1", None, "x", None)),
        ({"BODY": "x", "id": "1", "Url": "u", "tITLE": "T"}, ("1", "T", "x", "u")),
        ({"Body": "x", "body": None, "id": 1}, ("1", None, "x", None)),
        ({"Body": "other", "body": "x", "id": 1}, ("1", None, "x", None)),
    ],
)
def test_keys_are_found_in_any_case_row_by_row(
    workspace: Workspace, row: dict[str, Any], article: tuple[Any, ...]
) -> None:
    read(workspace, write(workspace, "a.jsonl", lines({"id": "0", "body": "plain"}, row)))
    assert articles(workspace) == [("0", None, "plain", None), article]


@pytest.mark.parametrize(
    ("value", "identity"),
    [
        ("1001.0", "1001"),
        ("1e3", "1000"),
        ("-7.0", "-7"),
        ("2.5", "2.5"),
        ("true", "true"),
        ("12345678901234567890123456789012", "12345678901234567890123456789012"),
        ('"1001.0"', "1001.0"),
        ('"007"', "007"),
        ('"NaN"', "NaN"),
        ('["a"]', "a"),
    ],
)
def test_an_id_may_be_a_number(workspace: Workspace, value: str, identity: str) -> None:
    read(workspace, write(workspace, "a.jsonl", f'{{"id": {value}, "body": "x", {DATED}}}\n'))
    assert list(texts(workspace)) == [identity]


@pytest.mark.parametrize("value", ["NaN", "null", '""', '"  "', "Infinity", "-Infinity"])
def test_what_is_no_id_is_made_from_the_text(workspace: Workspace, value: str) -> None:
    rows = "".join(f'{{"id": {value}, "body": "{body}", {DATED}}}\n' for body in "ab")
    assert read(workspace, write(workspace, "a.jsonl", rows)).articles == 2
    assert all(len(identity) == 20 for identity in texts(workspace))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["Para one.", "Para two."], "Para one.\n\nPara two."),
        (["a", None, "b"], "a\n\nb"),
        (["a"], "a"),
        ("[a]", "[a]"),
        ('["a"]', '["a"]'),
        ('{"a": 1}', '{"a": 1}'),
        (5, "5"),
        (False, "false"),
    ],
)
def test_a_list_of_texts_is_paragraphs(workspace: Workspace, value: Any, text: str) -> None:
    read(workspace, write(workspace, "a.jsonl", lines({"id": "1", "body": value})))
    assert texts(workspace) == {"1": text}


@pytest.mark.parametrize("key", ["title", "body", "url", "id"])
@pytest.mark.parametrize("value", [{"text": "x"}, ["a", 1], [["a"]], {}, [{"text": "x"}]])
def test_what_is_no_text_is_set_aside_with_its_line(workspace: Workspace, key: str, value: Any) -> None:
    path = write(workspace, "a.jsonl", "\n" + lines({"id": "0", "body": "x"}, {"id": "1", "body": "y", key: value}))
    found = read(workspace, path)
    assert (found.articles, found.rejected) == (1, {"not_text": 1})
    assert rejected(workspace) == [("a.jsonl", 2, 3, "not_text", True)]


@pytest.mark.parametrize("format", ["jsonl", "json"])
def test_a_field_of_an_object_can_be_named(workspace: Workspace, format: str) -> None:
    row = {"id": {"$oid": "7"}, "content": {"rendered": "x"}, "at": {"$date": DAY}}
    columns = {"id": "id.$oid", "body": "content.rendered", "published_at": "at.$date"}
    content = json.dumps(row) if format == "jsonl" else json.dumps([row], indent=1)
    assert read(workspace, write(workspace, f"a.{format}", content), columns=columns).articles == 1
    assert texts(workspace) == {"7": "x"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no json", "no JSON: Expecting value in column 1"),
        ('{"id": 1, "body": ', "no JSON"),
        ("[1]", "no JSON object"),
        ('"text"', "no JSON object"),
        ("null", "no JSON object"),
        ('{"body": "\\ud83d"}', "half of a surrogate pair"),
        ('{"body": "\udce9"}', "not UTF-8"),
        ('{"id": 1} {"id": 2}', "no JSON: Extra data"),
        ("\x00\x00", "no JSON"),
    ],
)
@pytest.mark.parametrize("is_first", [False, True])
def test_a_line_that_is_no_object_is_set_aside(workspace: Workspace, line: str, message: str, is_first: bool) -> None:
    good = lines({"id": "1", "body": "x"})
    text = f"{line}\n\n{good}" if is_first else f"{good} \t\n\n{line}\n"
    text += lines({"id": "2", "body": ""})
    found = read(workspace, write(workspace, "a.jsonl", text.encode("utf-8", "surrogateescape")), **ALL)
    assert (found.articles, found.malformed, found.rejected) == (1, 1, {"empty_body": 1})
    number = 1 if is_first else 4
    assert rejected(workspace) == [
        ("a.jsonl", number if is_first else 2, number, "malformed", False),
        ("a.jsonl", 3, number + (3 if is_first else 1), "empty_body", True),
    ]
    [(body, said)] = workspace.rows("SELECT body, message FROM rejected_article WHERE reason = 'malformed'")
    assert body == line.replace("\udce9", "\ufffd") + "\n"
    assert message in said


@pytest.mark.parametrize("format", ["lines", "array", "pretty"])
def test_separators_of_lines_in_texts_are_text(workspace: Workspace, format: str) -> None:
    text = "a\u2028b\u2029c\x85d\x0b"
    rows = [{"id": "1", "body": text, "published_at": DAY}, {"id": "2", "body": "x", "published_at": DAY}]
    content = {
        "lines": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "array": json.dumps(rows, ensure_ascii=False),
        "pretty": "\n".join(json.dumps(row, ensure_ascii=False, indent=2) for row in rows),
    }[format]
    assert read(workspace, write(workspace, "a.json", content)).articles == 2
    assert texts(workspace) == {"1": text, "2": "x"}


@pytest.mark.parametrize(
    "content",
    ['[{"body": "x"}, {"body": ', '[{"body": "x"},]', '[{"body": "x"}] [{"body": "y"}]', '{\n"body": "x"\n}\nno json'],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_json_file_that_is_cut_or_damaged_is_refused(workspace: Workspace, content: str, encoding: str) -> None:
    path = write(workspace, "a.json", content.encode(encoding))
    said = refusal(workspace, path, **ALL)
    assert f'in file "{path}"' in said  # not the copy in UTF-8
    assert "one object in each line" in said


def test_values_of_an_array_that_are_no_objects_are_counted(workspace: Workspace) -> None:
    path = write(workspace, "a.json", f'[{{"id": 1, "body": "x", {DATED}}}, 5, "x", null, [1]]')
    found = read(workspace, path, **ALL)
    assert (found.articles, found.malformed) == (1, 4)
    assert [row[1] for row in rejected(workspace)] == [2, 3, 4, 5]


def test_rows_in_a_list_are_refused_with_a_query_that_reads_them(workspace: Workspace) -> None:
    path = write(workspace, "a.json", json.dumps({"status": "ok", "articles": [{"body": "x"}]}))
    assert "unnest(articles)" in refusal(workspace, path)
