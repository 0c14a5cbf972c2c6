"""The steps of docs/operations.md that delete one article: no file has its words, and nothing is bought again."""

import re
import sys
import textwrap
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from click.testing import CliRunner

import batch_assets
from batch_assets.cli.dagster_home.home import make_dagster_home
from batch_assets.cli.main import main
from batch_assets.settings import read_settings
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import DAY, Project, generated_articles, write_articles

pytestmark = pytest.mark.end_to_end

PAGE = (Path(batch_assets.__file__).parent.parent / "docs" / "operations.md").read_text(encoding="utf-8")
_, _, SECTION = PAGE.partition("## Delete one article everywhere\n")
WORD = "Zyzzyva"
GONE = {"id": "gone", "title": f"{WORD} in the title", "body": f"{WORD} lives here. A test deletes this article."}


def block(language: str, begins: str = "") -> str:
    for code in re.findall(rf"^ *```{language}\n(.*?)^ *```", SECTION, re.MULTILINE | re.DOTALL):
        text = textwrap.dedent(code)
        if text.startswith(begins):
            return text
    raise AssertionError(f"no {language} block that begins with {begins!r}")


def files_with_the_word(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and WORD.lower().encode() in path.read_bytes().lower()
    )


def test_the_steps_delete_the_article_from_every_file_and_buy_nothing_again(
    tmp_path: Path, local_api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("OPENAI_BASE_URL", local_api.url)
    monkeypatch.setenv("OPENAI_API_KEY", "local")
    others = generated_articles(4)
    source = write_articles(tmp_path / "articles.jsonl", [*others, GONE])
    home = make_dagster_home(read_settings())
    with dg.DagsterInstance.from_config(str(home)) as instance:
        project = Project(tmp_path, local_api, instance, source)
        assert project.materialize().success
        assert project.finish().success
    found = files_with_the_word(tmp_path)
    for part in ("data/requests/", "data/results/", "data/dagster_home/history/", "local_api/files/"):
        assert any(path.startswith(part) for path in found)
    executed = local_api.stats()["requests_executed"]

    write_articles(tmp_path / "articles.jsonl", others)
    statements = block("sql").replace("2026-01-05", DAY).replace("ferry-skarholm", GONE["id"])
    with duckdb.connect(project.database.path) as connection:
        connection.execute(statements)
    command = block("sh").split()
    assert command[0] == "batch-assets"
    pruned = CliRunner().invoke(main, command[1:])
    assert pruned.exit_code == 0, pruned.output
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setattr(sys, "argv", ["delete_runs.py", DAY])
    exec(compile(block("python", "# delete_runs.py"), "delete_runs.py", "exec"), {})

    with dg.DagsterInstance.from_config(str(home)) as instance:
        project.instance = instance
        assert project.materialize().success
        assert project.finish().success
    monkeypatch.chdir(tmp_path)
    exec(compile(block("python", "# rewrite_databases.py"), "rewrite_databases.py", "exec"), {})

    assert files_with_the_word(tmp_path) == []
    assert project.rows("SELECT article_id, status FROM summaries ORDER BY ALL") == [
        (article["id"], "answered") for article in others
    ]
    assert project.rows("SELECT count(*) FROM completion") == [(4,)]
    assert local_api.stats()["requests_executed"] == executed
