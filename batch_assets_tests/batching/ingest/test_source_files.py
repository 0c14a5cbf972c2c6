"""The files of a source: globs, encodings, empty and damaged files, folders, and files that change meanwhile."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from batch_assets.batching.ingest import articles as ingest_module
from batch_assets.batching.ingest.errors import SourceError
from batch_assets.batching.ingest.files import list_files
from batch_assets.batching.ingest.globbing import find_files
from batch_assets_tests.batching.conftest import DAY, NEXT_DAY, Workspace
from batch_assets_tests.batching.ingest.support import (
    articles,
    read,
    refusal,
    rejected,
    texts,
    write,
    write_parquet,
)

CSV = f"id,body,published_at\n1,x é,{DAY}\n2,,{DAY}\n"
JSONL = json.dumps({"id": 1, "body": "x é", "published_at": DAY}, ensure_ascii=False) + (
    f'\n{{"id": 2, "body": "", "published_at": "{DAY}"}}\n'
)
CONTENTS = {"a.csv": CSV, "a.jsonl": JSONL, "a.json": "[" + JSONL.strip().replace("\n", ",\n") + "]"}


@pytest.fixture
def closed_to_others() -> Iterator[Path]:
    """A folder that any user can open, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def without_rights() -> Iterator[None]:
    """As a user who is not root, whom no folder is closed to."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


GLOBS = ["*/*.jsonl", "**/*.jsonl", "?/a.jsonl", "[ab]/*", "b/*.jsonl", "b/a.jsonl", "*/a.jsonl"]


@pytest.mark.parametrize("glob", GLOBS)
def test_a_folder_that_cannot_be_opened_is_named(closed_to_others: Path, glob: str) -> None:
    for name in "ab":
        (closed_to_others / name).mkdir()
        (closed_to_others / name / "a.jsonl").write_text(JSONL)
    (closed_to_others / "b").chmod(0)
    with without_rights(), pytest.raises(SourceError, match="Permission denied") as raised:
        find_files(f"{closed_to_others}/{glob}")
    (closed_to_others / "b").chmod(0o755)
    assert f"{closed_to_others}/b" in str(raised.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.csv.gz"])
def test_a_file_that_cannot_be_opened_is_named(closed_to_others: Path, name: str) -> None:
    path = closed_to_others / name
    path.write_text("x")
    path.chmod(0)
    with (
        duckdb.connect() as connection,
        without_rights(),
        pytest.raises(SourceError, match=r"a\..* could not be read.*Permission denied"),
    ):
        list_files(connection, str(path), body="body", scratch=closed_to_others)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_link_that_leads_nowhere_is_named(workspace: Workspace, name: str) -> None:
    (workspace.folder / name).symlink_to(workspace.folder / "nowhere")
    assert f"{name} could not be read" in refusal(workspace, workspace.folder / "a.*")


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize("is_compressed", [False, True])
def test_encodings_of_unicode_are_read(workspace: Workspace, name: str, encoding: str, is_compressed: bool) -> None:
    content = CONTENTS[name].encode(encoding)
    path = write(
        workspace, f"{name}.gz" if is_compressed else name, gzip.compress(content) if is_compressed else content
    )
    assert read(workspace, path).rejected == {"empty_body": 1}
    assert texts(workspace) == {"1": "x é"}
    line = {"a.csv": 3, "a.jsonl": 2, "a.json": None}[name]
    assert rejected(workspace) == [(path.name, 2, line, "empty_body", True)]


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16"])
def test_another_encoding_is_refused_by_name(workspace: Workspace, name: str, encoding: str) -> None:
    content = CONTENTS[name].encode(encoding)
    content = content[:-1] if encoding == "utf-16" else content  # half of a character at the end
    assert name in refusal(workspace, write(workspace, name, content))


EMPTY = {
    "a.csv": b"",
    "b.csv": b"\n\n",
    "c.csv": b"id,body,published_at\n",
    "d.csv": b"\xef\xbb\xbf",
    "a.csv.gz": b"",
    "b.csv.gz": gzip.compress(b""),
    "a.tsv": b"",
    "a.jsonl": b"",
    "b.jsonl": b"\n \n",
    "a.jsonl.gz": b"",
    "b.jsonl.gz": gzip.compress(b"\n"),
    "a.json": b"[]",
    "b.json": b" [\n]\n",
    "c.json": b"",
    "d.jsonl": b"[]",
    "e.json": "\ufeff[]".encode("utf-16-le"),
    "a.jsonl.zst": b"",
    "a.csv.zst": b"",
    "a.parquet": b"",
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_file_without_rows_is_a_day_without_articles(workspace: Workspace, name: str) -> None:
    path = write(workspace, name, EMPTY[name])
    found = read(workspace, path)
    assert (found.articles, found.files) == (0, 1)
    other = write_parquet(workspace, "z.parquet", f"SELECT 1 AS id, 'x' AS body, DATE '{DAY}' AS published_at")
    assert read(workspace, other).articles == 1
    found = read(workspace, path)
    assert (found.articles, found.articles_before) == (0, 1)


def test_what_was_recorded_of_a_file_is_removed_when_the_file_is_empty(workspace: Workspace) -> None:
    path = write(workspace, "a.jsonl", JSONL + "no json\n" + '{"body": "x"}\n')
    read(workspace, path, max_malformed_share=1.0)
    assert len(rejected(workspace)) == 3
    write(workspace, "a.jsonl", "")
    read(workspace, path)
    assert rejected(workspace) == []


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz"])
@pytest.mark.parametrize("damage", ["cut", "bytes", "checksum", "tail", "not compressed"])
def test_a_damaged_gz_file_is_refused(workspace: Workspace, name: str, damage: str) -> None:
    rows = [(number, os.urandom(100).hex()) for number in range(5_000)]
    if name == "a.csv.gz":
        text = "id,body,published_at\n" + "".join(f"{number},{body},{DAY}\n" for number, body in rows)
    else:
        text = "".join(json.dumps({"id": n, "body": body, "published_at": DAY}) + "\n" for n, body in rows)
    content = gzip.compress(text.encode(), 6)
    damaged = {
        "cut": content[: len(content) // 2],
        "bytes": content[:-90_000] + bytes(8) + content[-89_992:],
        "checksum": content[:-8] + b"12345678",
        "tail": content + b"no gzip",
        "not compressed": text.encode(),
    }[damage]
    assert f"{name} could not be read" in refusal(workspace, write(workspace, name, damaged), max_malformed_share=1.0)


@pytest.mark.parametrize("folder", ["it's", "a[b]c*?", "with blank", 'quo"te', "ünï", "{x}", "published_at=x"])
def test_the_temporary_folder_may_have_any_name(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (workspace.folder / folder).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(workspace.folder / folder))
    path = write(workspace, "a.csv", (CSV + f"1,y,{DAY}\n").encode("utf-16"))
    assert read(workspace, path).rejected == {"empty_body": 1, "older_version": 1}
    assert list((workspace.folder / folder).iterdir()) == []


@pytest.mark.parametrize(
    "name", ["a[1]", "a*", "a?b", "it's", "{x}", "a b", "a\nb", "%41", "a#b?c", "-x", "~", "$HOME"]
)
def test_a_file_may_have_any_name(workspace: Workspace, name: str) -> None:
    write(workspace, f"odd/{name}.csv", CSV + "3\n")
    write(workspace, "odd/other.csv", CSV + "3\n")
    found = read(workspace, workspace.folder / "odd" / f"{name}.csv", max_malformed_share=1.0)
    assert (found.articles, found.files, found.malformed) == (1, 1, 1)
    found = read(workspace, f"{workspace.folder}//odd/./*", max_malformed_share=1.0)
    assert (found.articles, found.files, found.malformed) == (1, 2, 2)
    lines = [row[2] for row in rejected(workspace) if row[3] != "duplicate_id"]
    assert lines == [3, 4, 3, 4]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "utf-16.csv", "bom.jsonl"])
def test_the_time_in_a_folder_counts_only_for_rows_without_a_column(workspace: Workspace, name: str) -> None:
    path = f"published_at={DAY}/{name}"
    if name.endswith("parquet"):
        (workspace.folder / path).parent.mkdir()
        write_parquet(workspace, path, "SELECT 1 AS id, 'x' AS body")
    elif name.endswith("csv"):
        write(workspace, path, "id,body\n1,x\n".encode("utf-16" if name.startswith("utf") else "utf-8"))
    else:
        write(workspace, path, '{"id": 1, "body": "x"}\n'.encode("utf-8-sig" if name.startswith("bom") else "utf-8"))
    assert read(workspace, workspace.folder / "*" / name).articles == 1
    assert read(workspace, workspace.folder / "*" / name, day=NEXT_DAY).articles == 0


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_the_time_of_a_row_counts_before_that_of_its_folder(workspace: Workspace, format: str) -> None:
    name = f"published_at={DAY}/a.{format}"
    content = {
        "csv": f"id,body,published_at\n1,x,{NEXT_DAY}\n",
        "jsonl": json.dumps({"id": 1, "body": "x", "published_at": NEXT_DAY}),
    }
    write(workspace, name, content.get(format, ""))
    if format == "parquet":
        write_parquet(workspace, name, f"SELECT 1 AS id, 'x' AS body, DATE '{NEXT_DAY}' AS published_at")
    assert read(workspace, workspace.folder / "*" / f"a.{format}").articles == 0
    assert read(workspace, workspace.folder / "*" / f"a.{format}", day=NEXT_DAY).articles == 1


@pytest.mark.parametrize(
    "folder", ["id=7", "body=b", "title=t", "file=f", "row=1", "json=j", "column0=c", "x=1/id=2/url=u"]
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.parquet"])
def test_a_folder_gives_no_other_column(workspace: Workspace, folder: str, name: str) -> None:
    write(workspace, f"{folder}/{name}", CONTENTS.get(name, ""))
    if name == "a.parquet":
        write_parquet(workspace, f"{folder}/{name}", f"SELECT 1 AS id, 'x é' AS body, DATE '{DAY}' AS published_at")
    read(workspace, workspace.folder / folder / name)
    assert articles(workspace) == [("1", None, "x é", None)]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.parquet", "a.csv.gz"])
@pytest.mark.parametrize("change", ["deleted", "replaced", "rewritten", "shortened"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, change: str
) -> None:
    def change_file() -> None:
        if change == "deleted":
            path.unlink()
        elif change == "replaced":
            other = write(workspace, "other", path.read_bytes())
            other.rename(path)
        elif change == "rewritten":
            path.write_bytes(b"x" * (path.stat().st_size + 10))
        else:
            os.truncate(path, path.stat().st_size - 5)

    if name == "a.parquet":
        path = write_parquet(workspace, name, f"SELECT 1 AS id, 'x' AS body, DATE '{DAY}' AS published_at")
    else:
        content = CONTENTS[name.removesuffix(".gz")].encode()
        path = write(workspace, name, gzip.compress(content) if name.endswith("gz") else content)
    _after(monkeypatch, "stage", change_file)
    assert "a." in refusal(workspace, path)
    assert rejected(workspace) == []


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_rows_may_be_appended_while_a_file_is_read(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = write(workspace, name, CONTENTS[name])
    more = f"3,z,{DAY}\n" if name == "a.csv" else json.dumps({"id": 3, "body": "z", "published_at": DAY}) + "\n"

    def append() -> None:
        with path.open("a") as file:
            file.write(more)

    _after(monkeypatch, "stage", append)
    assert read(workspace, path).articles == 1
    assert read(workspace, path).articles == 2


def _after(monkeypatch: pytest.MonkeyPatch, name: str, action: Callable[[], None]) -> None:
    """Do something after a step of `ingest_day`."""
    step = getattr(ingest_module, name)

    def with_action(*arguments: object) -> object:
        result = step(*arguments)
        action()
        return result

    monkeypatch.setattr(ingest_module, name, with_action)


@pytest.mark.parametrize(
    "url",
    [
        "https://nowhere.invalid/a.csv?sig=secret",
        "http://nowhere.invalid/a.jsonl",
        "s3://bucket/a*.parquet",
        "hf://datasets/a/b/x.parquet",
        "gs://bucket/{partition}.jsonl.gz",
        "SELECT * FROM read_csv('https://nowhere.invalid/x.csv')",
    ],
)
def test_an_extension_that_is_missing_is_named_with_what_to_do(workspace: Workspace, url: str) -> None:
    said = refusal(workspace, url)
    assert "needs DuckDB's extension httpfs" in said or "could not be read" in said  # installed, but without a network
    assert "sig=secret" not in said
