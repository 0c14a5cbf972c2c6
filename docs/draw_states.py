"""Draw the two state machines of `batch_assets/batching/ledger/states.py` into docs/how-it-works.md.

    python docs/draw_states.py

It replaces the text between the two markers of the page. A test fails if the page and the code differ.
"""

from collections.abc import Mapping
from pathlib import Path

from batch_assets.batching.ledger.states import MEANING, MOVES, REQUEST_MEANING, RequestState, State

PAGE = Path(__file__).parent / "how-it-works.md"
BEGIN = "<!-- states: made by `python docs/draw_states.py` -->"
END = "<!-- end of states -->"
# The conditions of a request's states, in this order: the first that holds.
CONDITIONS = (
    (RequestState.BLOCKED, "in a file that a budget or an account error keeps from being sent"),
    (RequestState.IN_FLIGHT, "otherwise, in an open submission"),
    (RequestState.ANSWERED, "otherwise, an answer counts"),
    (RequestState.BLOCKED, "otherwise, asked outside of a batch now"),
    (RequestState.FAILED, "otherwise, failed permanently, or too often"),
    (RequestState.BLOCKED, "otherwise, missing in a result file"),
    (RequestState.CANCELLED, "otherwise, cancelled by the user"),
    (RequestState.BLOCKED, "otherwise, in the pause after an account error"),
    (RequestState.PENDING, "otherwise"),
)


def draw() -> str:
    """Both state machines: a Mermaid diagram and a table of meanings each."""
    return "\n".join(
        [
            "A submission, which is a request file on its way to the API and back:",
            "",
            *_diagram(_submission_lines()),
            "",
            *_table("state", MEANING),
            "",
            *_table("step", {move.name: move.meaning for move in MOVES}),
            "",
            "A request of a day. Its state is not stored: one statement derives it, by the first condition that holds.",
            "",
            *_diagram([f"[*] --> {state}: {condition}" for state, condition in CONDITIONS]),
            "",
            *_table("state", REQUEST_MEANING),
        ]
    )


def with_states(page: str) -> str:
    """The page with both state machines between its markers. Raises ValueError if it has no markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The page has no markers. Put {BEGIN} and {END} on lines of their own.")
    return f"{before}{begin}\n\n{draw()}\n\n{end}{after}"


def _submission_lines() -> list[str]:
    moves = [f"{source} --> {move.target}: {move.name}" for move in MOVES for source in move.sources or ("[*]",)]
    left = {source for move in MOVES for source in move.sources}
    return [*moves, *(f"{state} --> [*]" for state in State if state not in left)]


def _diagram(lines: list[str]) -> list[str]:
    return ["```mermaid", "stateDiagram-v2", *(f"    {line}" for line in lines), "```"]


def _table(name: str, meanings: Mapping[str, str]) -> list[str]:
    return [f"| {name} | meaning |", "|---|---|", *(f"| `{key}` | {meaning} |" for key, meaning in meanings.items())]


if __name__ == "__main__":
    PAGE.write_text(with_states(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
