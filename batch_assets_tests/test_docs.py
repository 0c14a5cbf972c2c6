"""The pages say what the code does: the state machines are drawn from it, and the SQL of the pages runs."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import duckdb
import pytest

import batch_assets
from batch_assets.batching.ledger.outcomes import INVALID_REQUEST, OTHER_FAILURE, OUTCOMES
from batch_assets.batching.ledger.schema import TABLES
from batch_assets.batching.ledger.states import MOVES, RequestState, State
from batch_assets.cli.main import main
from batch_assets_tests.project import Project

ROOT = Path(batch_assets.__file__).parent.parent
PAGES = ("README.md", "docs/tables.md", "docs/operations.md", "docs/inject-faults.md", "docs/sources.md")
# not those inside of a list, which change the database: test_deleting_an_article.py runs them
SQL_BLOCK = re.compile(r"^```sql\n(?!-- /data/)(.*?)^```", re.MULTILINE | re.DOTALL)


def sql_of(page: str) -> list[str]:
    return SQL_BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


def load_tool(path: str) -> ModuleType:
    """A script of the repository, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw_states() -> ModuleType:
    return load_tool("docs/draw_states.py")


def test_the_page_shows_the_state_machines_of_the_code() -> None:
    page = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    assert draw_states().with_states(page) == page, "run `python docs/draw_states.py`"


def test_the_pictures_show_the_state_machines_of_the_code() -> None:
    drawn = draw_states().pictures()
    for path, picture in drawn.items():
        assert (ROOT / "docs" / path).read_text(encoding="utf-8") == picture, "run `python docs/draw_states.py`"
    submission, request = drawn.values()
    assert set(re.findall(r'class="name"[^>]*>(\w+)<', submission)) == set(State)
    assert {
        name for names in re.findall(r'class="label"[^>]*>([^<]+)<', submission) for name in names.split(" / ")
    } == {move.name for move in MOVES}
    assert set(re.findall(r'class="name"[^>]*>(\w+)<', request)) == set(RequestState)


def test_a_page_that_differs_from_the_code_is_noticed() -> None:
    page = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    changed = page.replace("`withdraw`", "`forget`")
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
        assert statements
        for statement in statements:
            connection.execute(statement).fetchall()


def test_the_page_of_tables_names_every_table_and_no_other() -> None:
    tables, _, _ = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8").partition("`summaries.status` is one of")
    named = set(re.findall(r"^\| `(\w+)` \|", tables, re.MULTILINE))
    assert named == set(TABLES)


def test_the_page_of_commands_names_every_command_and_no_other() -> None:
    assert set(rows_of("docs/commands.md", "All commands")) == set(main.commands)


def rows_of(page: str, heading: str) -> dict[str, list[str]]:
    """The first column (without backticks) → the other columns, of the table under this heading."""
    _, _, section = (ROOT / page).read_text(encoding="utf-8").partition(f"## {heading}\n")
    lines = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]
    return {first.strip("`| "): others for first, *others in cells}


def test_the_page_of_operations_has_every_state_and_every_outcome_and_no_other() -> None:
    page = "docs/operations.md"
    assert set(rows_of(page, "States of a submission")) == set(State)
    # a state may have several rows, for several causes
    assert {first.partition("`")[0] for first in rows_of(page, "States of a request")} == set(RequestState)
    failures = rows_of(page, "Failures")
    known = [*OUTCOMES, INVALID_REQUEST, OTHER_FAILURE]
    assert set(failures) == {outcome.name for outcome in known}
    for outcome in known:
        scope, codes, _, remedy = failures[outcome.name]
        assert (scope, remedy.rstrip("| ")) == (outcome.scope, outcome.remedy)
        assert set(outcome.codes) <= set(re.findall(r"`(\w+)`", codes))
