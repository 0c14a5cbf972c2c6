"""CSV files: each row is read exactly, or set aside with its line. What is no CSV is refused with the line."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from batch_assets_tests.batching.conftest import DAY, Workspace
from batch_assets_tests.batching.ingest.support import HEADER, articles, read, refusal, rejected, texts, write

ALL: dict[str, Any] = {"max_malformed_share": 1.0}


@pytest.mark.parametrize(
    "rows",
    [
        ["1,All about #harbour and more", "#2,Other", "3,plain"],
        ["#,#", "##,# #", "# 3,x#"],
        ["//1,// no comment", "--2,-- no comment", "%3,% no comment"],
        [";1,;x", "'2,'quoted' text", "3,\\N"],
    ],
)
def test_no_sign_begins_a_comment(workspace: Workspace, rows: list[str]) -> None:
    content = "id,body,published_at\n" + "".join(f"{row},{DAY}\n" for row in rows)
    assert read(workspace, write(workspace, "a.csv", content)).articles == 3
    assert texts(workspace) == dict(row.split(",", 1) for row in rows)


@pytest.mark.parametrize("value", ["n/a", "01/05/26", "0001-01-01", "infinity", "soon", "2026-02-30", "1", ""])
def test_a_time_that_cannot_be_read_does_not_fail_the_file(workspace: Workspace, value: str) -> None:
    path = write(workspace, "a.csv", HEADER + f"1,T,one,u,{DAY}\n2,T,two,u,{value}\n")
    found = read(workspace, path)
    assert (found.articles, found.undated) == (1, 1)
    assert rejected(workspace) == [("a.csv", 2, 3, "undated", False)]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv"])
@pytest.mark.parametrize("size", [1_900_000, 5_000_000, 20_000_000])
def test_long_texts_are_read(workspace: Workspace, name: str, size: int) -> None:
    text = ("x" * 997 + ' ",' if name == "a.tsv" else "x" * 998 + ' "') * (size // 1000)
    quoted = text.replace('"', '""')
    content = f'id\tbody\tpublished_at\n1\t"{quoted}"\t{DAY}\n2\tshort\t{DAY}\n'
    content = content if name == "a.tsv" else content.replace("\t", ",")
    path = write(workspace, name, gzip.compress(content.encode(), 1) if name.endswith("gz") else content)
    assert read(workspace, path).articles == 2
    assert texts(workspace) == {"1": text, "2": "short"}


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("a.csv", f"1,{'x' * 40_000_000},{DAY}"),
        ("a.csv.gz", f"1,{'x' * 40_000_000},{DAY}"),
        ("a.csv", '1,"' + "line\n" * 8_000_000 + f'",{DAY}'),
        ("a.csv", '1,"' + 'a ""quoted"" word, and\n' * 1_700_000 + f'",{DAY}'),
        ("a.csv", '1,"not closed,' + f"{DAY}\n2,text,{DAY}\n" * 2_000_000),
    ],
)
def test_a_row_that_is_longer_than_can_be_read_is_refused_without_its_text(
    workspace: Workspace, name: str, row: str
) -> None:
    content = f"id,body,published_at\n0,first,{DAY}\n{row}\n3,short,{DAY}\n".encode()
    path = write(workspace, name, gzip.compress(content, 1) if name.endswith("gz") else content)
    assert "32 MB" in refusal(workspace, path)


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_large_file_with_few_quotes_loses_no_row(workspace: Workspace, quote: str) -> None:
    lines = "".join(f"{n},{'x' * 990},{DAY}\n" for n in range(20_000))
    path = write(workspace, "a.csv", f"id,body,published_at\nfirst,{quote}text{quote},{DAY}\n{lines}")
    assert read(workspace, path).articles == 20_001


BROKEN_ROWS = {
    "too many": ("2,T,two,u,2026-11-20,extra", "it has 6 values, and the header 5"),
    "far too many": ("2" + ",x" * 30, "it has 31 values, and the header 5"),
    "too few": ("2,T", "it has 2 values, and the header 5"),
    "one": ("2", "it has 1 values, and the header 5"),
    "blanks": ("   ", "it has 1 values, and the header 5"),
    "delimiter in the text": ("2,T,a, b, and c,u,2026-11-20", "quote values with the delimiter"),
    "text after a quote": ('2,T,"two" and more,u,2026-11-20', "double the quotes"),
    "backslash before a quote": (r'2,T,"a \"quoted\" text",u,2026-11-20', "double the quotes"),
    "latin-1": ("2,T,caf\udce9,u,2026-11-20", "not UTF-8"),
}


@pytest.mark.parametrize("kind", BROKEN_ROWS)
def test_a_broken_row_is_set_aside_with_its_line_and_what_is_wrong(workspace: Workspace, kind: str) -> None:
    row, message = BROKEN_ROWS[kind]
    content = HEADER + f'1,T,"one\n\nof three lines",u,{DAY}\n{row}\n3,T,three,u,{DAY}\n4,T,,u,{DAY}\n'
    path = write(workspace, "a.csv", content.encode("utf-8", "surrogateescape"))
    found = read(workspace, path, **ALL)
    assert (found.articles, found.malformed, found.rejected) == (2, 1, {"empty_body": 1})
    assert rejected(workspace) == [("a.csv", None, 5, "malformed", False), ("a.csv", 3, 7, "empty_body", True)]
    [(body, said)] = workspace.rows("SELECT body, message FROM rejected_article WHERE reason = 'malformed'")
    assert body == row.replace("\udce9", "\ufffd") + "\n"
    assert message in said


@pytest.mark.parametrize("kind", BROKEN_ROWS)
def test_more_broken_rows_than_allowed_are_refused_with_the_first_line(workspace: Workspace, kind: str) -> None:
    row, message = BROKEN_ROWS[kind]
    name = "folder/" * 20 + "a.csv"
    path = write(workspace, name, (HEADER + f"1,T,one,u,{DAY}\n{row}\n").encode("utf-8", "surrogateescape"))
    said = refusal(workspace, path)
    assert message in said
    assert "line 3 of" in said
    assert "1 of 2 rows are malformed, and at most 1.0% may be" in said


@pytest.mark.parametrize(
    "row", ['2,T,"two,u,2026-11-20', '2,T,"two ""quoted"" text,u,2026-11-20', '"2,T,two,u,2026-11-20', '2,T,",u,x']
)
def test_a_quote_that_is_not_closed_is_refused_whatever_share_is_allowed(workspace: Workspace, row: str) -> None:
    path = write(workspace, "a.csv", HEADER + f"1,T,one,u,{DAY}\n{row}\n3,T,three,u,{DAY}\n")
    said = refusal(workspace, path, **ALL)
    assert "opens a quote that is not closed" in said
    assert "line 3" in said


@pytest.mark.parametrize("text", ['5" disk', 'a "b" c', 'x"', 'a""b', "it's", "a\\", "\\n"])
def test_a_quote_in_a_value_without_quotes_is_text_and_lines_stay_right(workspace: Workspace, text: str) -> None:
    path = write(workspace, "a.csv", HEADER + f'1,T,{text},u,{DAY}\n2,T,,u,{DAY}\n3,T,"a\nb",u,{DAY}\n4,T,,u,{DAY}\n')
    assert read(workspace, path).articles == 2
    assert texts(workspace) == {"1": text, "3": "a\nb"}
    assert rejected(workspace) == [("a.csv", 2, 3, "empty_body", True), ("a.csv", 4, 6, "empty_body", True)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("before", "delimiter"),
    [
        ("", ","),
        ("\n", ","),
        ("\r\n\n", ","),
        ("sep=;\n", ";"),
        ("SEP=;\r\n", ";"),
        ("\n\nsep=;\n\n", ";"),
        ("  \n", "\t"),
    ],
)
def test_lines_before_the_header_lose_no_row(workspace: Workspace, before: str, delimiter: str, end: str) -> None:
    rows = end.join(delimiter.join(row) for row in (["id", "body", "published_at"], ["1", "x", DAY], ["2", "", DAY]))
    found = read(workspace, write(workspace, "a.csv", before + rows + end))
    assert (found.articles, found.rejected) == (1, {"empty_body": 1})
    assert rejected(workspace) == [("a.csv", 2, 3 + before.count("\n"), "empty_body", True)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_header_of_several_lines_loses_no_row(workspace: Workspace, end: str) -> None:
    content = f'"note\n(""optional"")",id,body,published_at{end}n,1,x,{DAY}{end}n,2,,{DAY}{end}'
    for mark in ("", "\ufeff"):
        assert read(workspace, write(workspace, "a.csv", mark + content)).articles == 1
        assert rejected(workspace) == [("a.csv", 2, 4, "empty_body", True)]


@pytest.mark.parametrize("ends", [("\n", "\r\n"), ("\r\n", "\n"), ("\r", "\r"), ("\n", "\n", "\r\n"), ("\r\n", "\r\n")])
def test_rows_may_end_in_different_ways(workspace: Workspace, ends: tuple[str, ...]) -> None:
    rows = ["id,published_at,body", f'1,{DAY},"a\r\nb\nc\rd"', f"2,{DAY},x", f"3,{DAY},y", f"4,{DAY},z"]
    content = "".join(row + ends[number % len(ends)] for number, row in enumerate(rows))
    assert read(workspace, write(workspace, "a.csv", content)).articles == 4
    assert texts(workspace) == {"1": "a\r\nb\nc\rd", "2": "x", "3": "y", "4": "z"}


@pytest.mark.parametrize("is_compressed", [False, True])
def test_empty_lines_are_no_rows_and_lines_stay_right(workspace: Workspace, is_compressed: bool) -> None:
    content = (HEADER + f"\n1,T,one,u,{DAY}\n\n\n2,T,,u,{DAY}\n\n3\n4,T,,u,{DAY}\n").encode()
    name = "a.csv.gz" if is_compressed else "a.csv"
    path = write(
        workspace, name, gzip.compress(content[:40]) + gzip.compress(content[40:]) if is_compressed else content
    )
    assert read(workspace, path, **ALL).malformed == 1
    assert [row[1:4] for row in rejected(workspace)] == [
        (2, 6, "empty_body"),
        (None, 8, "malformed"),
        (3, 9, "empty_body"),
    ]


@pytest.mark.parametrize(("broken", "one_in"), [("broken", 3), ("1,2,3,4", 2)])
def test_no_row_is_lost_in_a_large_file_with_broken_rows(workspace: Workspace, broken: str, one_in: int) -> None:
    filler = "y" * 1500
    rows = [f"{broken}{filler}" if n % one_in == 1 else f"{n},{n} {filler},{DAY}" for n in range(20_000)]
    found = read(workspace, write(workspace, "a.csv", "\n".join(["id,body,published_at", *rows, ""])), **ALL)
    number = sum(row.startswith(broken) for row in rows)
    assert (found.articles, found.malformed) == (20_000 - number, number)


def test_the_lines_of_rows_after_the_recorded_broken_rows_are_not_guessed(workspace: Workspace) -> None:
    rows = ["1"] * 1200 + [f"2,T,,u,{DAY}"]
    write(workspace, "b.csv", HEADER + "\n".join(rows))
    write(workspace, "a.csv", HEADER + f"1\n3,T,,u,{DAY}\n")
    found = read(workspace, workspace.folder / "*.csv", **ALL)
    assert (found.malformed, found.rejected) == (1201, {"empty_body": 2})
    assert [row for row in rejected(workspace) if row[3] == "empty_body"] == [
        ("a.csv", 1, 3, "empty_body", True),
        ("b.csv", 1, None, "empty_body", True),
    ]
    assert workspace.column("SELECT count(*) FROM rejected_article WHERE reason = 'malformed'") == [1000]


@pytest.mark.parametrize("name", ['the "text"', "it's", "Text (long)", "ünï", "a.b", "text;1"])
def test_a_column_may_have_any_name(workspace: Workspace, name: str) -> None:
    header = ",".join(["id", '"' + name.replace('"', '""') + '"', "published_at"])
    path = write(workspace, "a.csv", f"{header}\n1,x,{DAY}\n")
    assert read(workspace, path, columns={"body": name}).articles == 1


def test_a_column_that_a_csv_file_cannot_have_is_named(workspace: Workspace) -> None:
    path = write(workspace, "a.csv", f"id,content,published_at\n1,x,{DAY}\n")
    assert "no column `content.rendered`" in refusal(workspace, path, columns={"body": "content.rendered"})


def test_of_many_columns_with_long_names_the_error_names_a_few(workspace: Workspace) -> None:
    names = [f"{'a long name of a column ' * 4}{number}" for number in range(60)]
    said = refusal(workspace, write(workspace, "a.csv", ",".join(names) + "\n" + "," * 59 + "\n"))
    assert "has no column `body`" in said
    assert "more. Name the one with the text" in said


def test_blanks_signs_and_control_characters_in_texts_do_not_change(workspace: Workspace) -> None:
    text = " \t a\x00b\x1c \u2028\u200f\ufeff\x85 ,;|\t#\\ "
    read(workspace, write(workspace, "a.csv", f'id,title,body,published_at\n1," T ","{text}",{DAY}\n'))
    assert articles(workspace) == [("1", " T ", text, None)]
