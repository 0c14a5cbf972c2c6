"""Rules of the code around the ledger: which code names its tables, how rows are inserted, which code makes a move."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import batch_assets
from batch_assets.batching.ledger import states
from batch_assets.batching.ledger.states import MEANING, MOVES, REQUEST_MEANING, Move, RequestState, State

PACKAGE = Path(batch_assets.__file__).parent
LEDGER = PACKAGE / "batching" / "ledger"
LEDGER_TABLES = (
    "openai_batch", "submission_event", "spending", "in_flight_request", "request_alias", "day_of_old_names",
    "refused_option", "schema_version", "warehouse", "synchronous_call",
)  # fmt: skip
TABLE_IN_SQL = re.compile(rf"\b(?:from|join|into|update|table|exists)\s+(?:{'|'.join(LEDGER_TABLES)})\b", re.IGNORECASE)
INSERT_INTO = re.compile(r"\bINSERT\s+(?:OR\s+\w+\s+)?INTO\s+\S+\s*(\(?)")


def texts_in(path: Path) -> Iterator[str]:
    """Every text of a module except its docstrings; `{}` stands for a value of an f-string."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def modules(*, outside: Path | None = None) -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if outside is None or outside not in path.parents]


def test_the_search_finds_tables_and_inserts_in_sql(tmp_path: Path) -> None:
    assert any(TABLE_IN_SQL.search(text) for path in LEDGER.glob("*.py") for text in texts_in(path))
    module = tmp_path / "module.py"
    module.write_text('a = 1\nf"""\n DELETE  FROM\n  openai_batch WHERE {a}"""\nb = "INSERT INTO x SELECT 1"')
    assert [bool(TABLE_IN_SQL.search(text)) for text in texts_in(module)][:1] == [True]
    assert [match[1] for text in texts_in(module) for match in INSERT_INTO.finditer(text)] == [""]


def test_no_code_outside_the_ledger_names_its_tables_in_sql() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: {' '.join(text.split())[:80]}"
        for path in modules(outside=LEDGER)
        for text in texts_in(path)
        if TABLE_IN_SQL.search(text)
    ]
    assert found == []


def test_every_insert_names_its_columns() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: {' '.join(text[match.start() :].split())[:80]}"
        for path in modules()
        for text in texts_in(path)
        for match in INSERT_INTO.finditer(text)
        if not match[1]
    ]
    assert found == []


def functions_of_moves() -> Counter[Move]:
    """How many functions name each move."""
    named = {name: move for name, move in vars(states).items() if isinstance(move, Move)}
    count: Counter[Move] = Counter()
    for path in LEDGER.glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                used = {
                    named[node.attr]
                    for node in ast.walk(function)
                    if isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Name)
                    and node.value.id == "states"
                    and node.attr in named
                }
                count.update(used)
    return count


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.name)
def test_one_function_makes_each_move(move: Move) -> None:
    assert functions_of_moves()[move] == 1


def test_all_moves_are_in_the_list() -> None:
    named = [value for value in vars(states).values() if isinstance(value, Move)]
    assert sorted(move.name for move in named) == sorted(move.name for move in MOVES)
    assert len({move.name for move in MOVES}) == len(MOVES)


def test_every_state_can_be_reached_and_has_a_meaning() -> None:
    reached: set[State] = set()
    while found := {move.target for move in MOVES if not move.sources or reached & set(move.sources)} - reached:
        reached |= found
    assert reached == set(State)
    assert MEANING.keys() == set(State)
    assert REQUEST_MEANING.keys() == set(RequestState)


def test_only_collected_and_withdrawn_are_final_states() -> None:
    """Each other state has a move to another one."""
    left = {source for move in MOVES for source in move.sources}
    assert set(State) - left == {State.COLLECTED, State.WITHDRAWN}
