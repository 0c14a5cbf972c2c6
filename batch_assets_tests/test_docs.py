"""The pages say what the code does: the state machines are drawn from it, and the SQL of the pages runs."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import duckdb
import pytest

import batch_assets
from batch_assets.batching.ledger.schema import TABLES
from batch_assets_tests.project import Project

ROOT = Path(batch_assets.__file__).parent.parent
PAGES = ("README.md", "docs/tables.md")
SQL_BLOCK = re.compile(r"```sql\n(.*?)```", re.DOTALL)


def sql_of(page: str) -> list[str]:
    return SQL_BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


def draw_states() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_states", ROOT / "docs" / "draw_states.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_the_state_machines_of_the_code() -> None:
    page = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    assert draw_states().with_states(page) == page, "run `python docs/draw_states.py`"


def test_a_page_that_differs_from_the_code_is_noticed() -> None:
    page = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    for changed in (page.replace("planned --> claimed", "planned --> ended"), page.replace("`withdraw`", "`forget`")):
        assert changed != page
        assert draw_states().with_states(changed) == page
    with pytest.raises(ValueError, match="no markers"):
        draw_states().with_states("A page.")


@pytest.mark.parametrize("page", PAGES)
def test_the_sql_of_the_page_runs_on_a_day_that_is_done(project: Project, page: str) -> None:
    project.materialize()
    project.finish()
    with duckdb.connect(project.database.path, read_only=True) as connection:
        statements = [statement for block in sql_of(page) for statement in connection.extract_statements(block)]
        assert len(statements) > 2
        for statement in statements:
            connection.execute(statement).fetchall()


def test_the_page_of_tables_names_every_table_and_no_other() -> None:
    tables, _, _ = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8").partition("`summaries.status` is one of")
    named = set(re.findall(r"^\| `(\w+)` \|", tables, re.MULTILINE))
    assert named == set(TABLES)
