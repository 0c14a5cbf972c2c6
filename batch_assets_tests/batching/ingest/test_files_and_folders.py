"""Files as people keep them: empty ones, folders with names of columns, folders without rights, other encodings."""

from __future__ import annotations

import gzip
import os
import tempfile
from pathlib import Path

import duckdb
import pytest

from batch_assets.batching.ingest.errors import SourceError
from batch_assets.batching.ingest.globbing import find_files
from batch_assets_tests.batching.conftest import DAY, NEXT_DAY, Workspace
from batch_assets_tests.batching.ingest.support import HEADER, read, refusal, rejected, texts, write, write_parquet

LINE = f'{{"id": "1", "body": "text", "published_at": "{DAY}"}}\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b""),
        ("a.csv.gz", gzip.compress(b"", mtime=0)),
        ("a.csv", b"\n \n"),
        ("a.csv", b"\xef\xbb\xbf"),
        ("a.csv", HEADER.encode()),
        ("a.tsv", b""),
        ("a.jsonl", b""),
        ("a.jsonl", b"\n\n"),
        ("a.jsonl.gz", gzip.compress(b"\n", mtime=0)),
        ("a.json", b"[]"),
        ("a.json", b" [\n]\n"),
        ("a.json", b""),
        ("a.parquet", b""),
    ],
)
def test_a_file_without_rows_is_a_day_without_articles(workspace: Workspace, name: str, content: bytes) -> None:
    workspace.ingest({"a": "old", "b": "old"})
    found = read(workspace, write(workspace, name, content))
    assert (found.articles, found.articles_before, found.files) == (0, 2, 1)
    assert texts(workspace) == {}


def test_an_empty_file_among_others_is_left_out(workspace: Workspace) -> None:
    write(workspace, "1.jsonl", "")
    write(workspace, "2.jsonl", LINE)
    write(workspace, "3.csv", "")
    assert (read(workspace, workspace.folder / "?.*").articles, texts(workspace)) == (1, {"1": "text"})


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
@pytest.mark.parametrize("folder", [f"published_at={NEXT_DAY}", "id=7", "body=other", "title=T/url=u"])
def test_a_column_of_the_row_is_never_that_of_a_folder(workspace: Workspace, name: str, folder: str) -> None:
    content = {"a.jsonl": LINE, "a.csv": f"{HEADER}1,,text,,{DAY}\n"}
    (workspace.folder / folder).mkdir(parents=True)
    if name in content:
        path = write(workspace, f"{folder}/{name}", content[name])
    else:
        path = write_parquet(workspace, f"{folder}/{name}", f"SELECT 1 AS id, 'text' AS body, '{DAY}' AS published_at")
    read(workspace, path)
    assert workspace.rows("SELECT article_id, title, body, url FROM raw_articles") == [("1", None, "text", None)]


@pytest.mark.parametrize("column", ["published_at", "day"])
def test_a_folder_gives_the_day_of_rows_that_have_none(workspace: Workspace, column: str) -> None:
    for day in (DAY, NEXT_DAY):
        write(workspace, f"{column}={day}/a.jsonl", f'{{"id": "{day}", "body": "text"}}\n')
        write(workspace, f"{column}={day}/a.csv", f"id,body\nc{day},text\n")
    found = read(workspace, workspace.folder / f"{column}=*" / "a.*", columns={"published_at": column})
    assert (found.articles, found.undated) == (2, 0)
    assert texts(workspace) == {DAY: "text", f"c{DAY}": "text"}


def test_a_folder_without_rights_is_named(workspace: Workspace) -> None:
    for name in ("open", "closed"):
        write(workspace, f"feeds/{name}/a.jsonl", LINE)
    closed = workspace.folder / "feeds" / "closed"
    for readable in (closed.parent, closed.with_name("open")):  # whatever the umask of this process is
        readable.chmod(0o755)
    (closed.with_name("open") / "a.jsonl").chmod(0o644)
    closed.chmod(0)
    try:
        if os.geteuid() == 0:  # root may open any folder
            for parent in closed.parents:
                if parent.stat().st_uid == 0 and parent.is_relative_to(tempfile.gettempdir()):
                    parent.chmod(parent.stat().st_mode | 0o055)
            os.seteuid(65534)
        message = refusal_of_glob(workspace.folder / "feeds" / "*" / "*.jsonl")
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        closed.chmod(0o700)
    assert str(closed) in message
    assert "Permission denied" in message


def refusal_of_glob(location: Path) -> str:
    with pytest.raises(SourceError) as raised:
        find_files(str(location))
    return str(raised.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.csv.gz", "a.json"])
def test_other_encodings_are_read(workspace: Workspace, name: str, encoding: str) -> None:
    body = "Café, 漢字 🦆"
    row = f'{{"id": "1", "body": "{body}", "published_at": "{DAY}"}}'
    text = f'{HEADER}1,,"{body}",,{DAY}\n' if ".csv" in name else f"[{row}]" if name == "a.json" else f"{row}\n"
    content = text.encode(encoding)
    read(workspace, write(workspace, name, gzip.compress(content) if name.endswith(".gz") else content))
    assert texts(workspace) == {"1": body}


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "b.csv", "b.jsonl"])
def test_a_text_in_latin_1_is_set_aside_with_its_line(workspace: Workspace, name: str) -> None:
    start = HEADER if name.endswith("csv") else ""
    good = f"1,,text,,{DAY}\n" if start else LINE
    bad = f"2,,caf\xe9,,{DAY}\n" if start else LINE.replace("text", "caf\xe9")
    rows = [bad, good] if name.startswith("a") else [good, bad]
    source = write(workspace, name, (start + "".join(rows)).encode("latin-1"))
    found = read(workspace, source, max_malformed_share=0.5)
    assert (found.articles, found.malformed) == (1, 1)
    line = 1 + bool(start) + rows.index(bad)
    assert [(file, at, reason, of_day) for file, _, at, reason, of_day in rejected(workspace)] == [
        (name, line, "malformed", False)
    ]
    assert "UTF-8" in refusal(workspace, source)


@pytest.mark.parametrize("name", ["it's", 'a "b"', "[1]*?", "café 漢", "a;b--c"])
def test_the_temporary_folder_may_have_any_name(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = workspace.folder / name
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    content = f"{HEADER}1,,text,,{DAY}\n1,,other,,{DAY}\n2,, ,,{DAY}\n3,,text,,soon\n"
    found = read(workspace, write(workspace, "a.csv", content))
    assert (found.articles, found.rejected, found.undated) == (1, {"older_version": 1, "empty_body": 1}, 1)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "location", ["https://x.org/a.csv", "s3://feeds/a.jsonl", "hf://datasets/a/b.parquet", "http://x/*.csv"]
)
def test_a_url_without_the_extension_says_how_to_bring_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    monkeypatch.setenv("HOME", str(workspace.folder))  # where DuckDB keeps extensions
    with duckdb.connect() as connection:
        try:
            connection.execute("INSTALL httpfs")
        except duckdb.Error:
            message = refusal(workspace, location)
            assert "needs DuckDB's extension httpfs" in message
            assert "INSTALL httpfs" in message
        else:  # a machine that can download it
            assert "httpfs" not in refusal(workspace, location)


def test_rows_without_a_day_are_recorded_once_for_each_file(workspace: Workspace) -> None:
    good = "".join(f"{n},,text,,{NEXT_DAY if n % 2 else DAY}\n" for n in range(200))
    for name in ("a", "b"):
        write(workspace, f"{name}.csv", f"{HEADER}{good}x,,text,,{DAY},more\ny,,text,,01/05/26\n")
    for day in (DAY, NEXT_DAY, DAY):
        found = read(workspace, workspace.folder / "*.csv", day=day)
        assert (found.malformed, found.undated) == (2, 2)
    without_day = [row for row in rejected(workspace) if not row[4]]
    assert [(file, line, reason) for file, _, line, reason, _ in without_day] == [
        ("a.csv", 202, "malformed"),
        ("a.csv", 203, "undated"),
        ("b.csv", 202, "malformed"),
        ("b.csv", 203, "undated"),
    ]
    write(workspace, "a.csv", f"{HEADER}{good}")
    read(workspace, workspace.folder / "a.csv")
    assert {row[0] for row in rejected(workspace) if not row[4]} == {"b.csv"}
