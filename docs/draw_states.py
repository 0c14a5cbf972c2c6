"""Draw the two state machines of `batch_assets/batching/ledger/states.py` for docs/how-it-works.md.

    python docs/draw_states.py

It writes the two pictures, and replaces the text between the two markers of the page. A test fails if the page or a
picture differs from the code.
"""

from collections.abc import Mapping
from html import escape
from math import hypot
from pathlib import Path

from batch_assets.batching.ledger.states import MEANING, MOVES, OPEN, REQUEST_MEANING, RequestState, State

DOCS = Path(__file__).parent
PAGE = DOCS / "how-it-works.md"
BEGIN = "<!-- states: made by `python docs/draw_states.py` -->"
END = "<!-- end of states -->"
SUBMISSION, REQUEST = "images/states_of_a_submission.svg", "images/states_of_a_request.svg"
# The conditions of a request's states, in this order: the first that holds.
CONDITIONS = (
    (RequestState.BLOCKED, "in a file that a budget or an account error keeps from being sent"),
    (RequestState.IN_FLIGHT, "in an open submission"),
    (RequestState.ANSWERED, "an answer counts"),
    (RequestState.BLOCKED, "asked outside of a batch now"),
    (RequestState.FAILED, "failed permanently, or too often"),
    (RequestState.BLOCKED, "missing in a result file"),
    (RequestState.CANCELLED, "cancelled by the user"),
    (RequestState.BLOCKED, "in the pause after an account error"),
    (RequestState.PENDING, "none of these"),
)

Point = tuple[float, float]
BOX_WIDTH, BOX_HEIGHT, ROW = 120.0, 38.0, 50.0
CENTERS: Mapping[State, Point] = {
    State.WITHDRAWN: (210, 60),
    State.DEFERRED: (445, 60),
    State.PLANNED: (90, 210),
    State.CLAIMED: (330, 210),
    State.SUBMITTED: (590, 210),
    State.ENDED: (830, 210),
    State.COLLECTED: (1030, 210),
    State.MISSING: (590, 370),
    State.ABANDONED: (830, 370),
    State.LOST: (590, 490),
}
# Where an arrow without a source begins, and one without a target ends, as seen from the state.
DOTS: Mapping[State, Point] = {
    State.PLANNED: (0, 90),
    State.SUBMITTED: (90, -110),
    State.COLLECTED: (110, 0),
    State.WITHDRAWN: (-120, 0),
}
# How far an arrow bends. Without an entry it is straight, or bends by 16 beside one in the other direction.
BENDS: Mapping[tuple[State, State], float] = {
    (State.PLANNED, State.SUBMITTED): 115,
    (State.LOST, State.SUBMITTED): -95,
}
STYLE = """\
  <style>
    text { font: 14px system-ui, sans-serif; fill: #24292f; text-anchor: middle; dominant-baseline: central; }
    .name { font: 14px ui-monospace, monospace; }
    .label { paint-order: stroke; stroke: #ffffff; stroke-width: 5px; font-size: 13px; }
    .card { fill: #ffffff; } .box { fill: #f0f2f4; stroke: #6e7781; } .open { fill: #ddf4ff; stroke: #0969da; }
    .arrow { fill: none; stroke: #57606a; stroke-width: 1.4; marker-end: url(#head); } .dot { fill: #57606a; }
    .left { text-anchor: start; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; } .label { stroke: #0d1117; } .card { fill: #0d1117; }
      .box { fill: #21262d; stroke: #8b949e; } .open { fill: #12314f; stroke: #58a6ff; }
      .arrow { stroke: #8b949e; } .dot { fill: #8b949e; }
    }
  </style>
  <marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">
    <path class="dot" d="M0 0 10 5 0 10z"/>
  </marker>"""


def draw() -> str:
    """Both state machines: a picture and a table of meanings each."""
    return "\n".join(
        [
            "A submission, which is a request file on its way to the API and back. In a blue state, its requests are",
            "in flight: no other file has them.",
            "",
            f"![The states of a submission, and the steps between them]({SUBMISSION})",
            "",
            *_table("state", MEANING),
            "",
            *_table("step", {move.name: move.meaning for move in MOVES}),
            "",
            "A request of a day. Its state is not stored: one statement derives it, by the first condition that holds.",
            "",
            f"![The states of a request, by the first condition that holds]({REQUEST})",
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


def pictures() -> dict[str, str]:
    """The path of each picture, in docs/ → its SVG."""
    return {SUBMISSION: submission_picture(), REQUEST: request_picture()}


def submission_picture() -> str:
    """The states as boxes, the moves as arrows. Raises KeyError for a state without a place in `CENTERS`."""
    moves: dict[tuple[State, State], list[str]] = {}
    parts = []
    for move in MOVES:
        for source in move.sources:
            moves.setdefault((source, move.target), []).append(move.name)
        if not move.sources:
            parts.append(_dot(move.target, move.name))
    left = {source for move in MOVES for source in move.sources}
    parts += [_dot(state, None) for state in State if state not in left]
    for (source, target), names in moves.items():
        bend = BENDS.get((source, target), 16 if (target, source) in moves else 0)
        name = " / ".join(names)
        parts.append(_loop(source, name) if source == target else _arrow(CENTERS[source], CENTERS[target], bend, name))
    parts += [_box(CENTERS[state], state, "open" if state in OPEN else "box") for state in State]
    return _svg("The states of a submission", 1160, 530, parts)


def request_picture() -> str:
    """A column of conditions, each with an arrow to the state that it gives."""
    parts = []
    for number, (state, condition) in enumerate(CONDITIONS):
        y = 35 + number * ROW
        parts.append(f'<text class="left" x="20" y="{y:g}">{number + 1}. {escape(condition)}</text>')
        parts.append(f'<path class="arrow" d="M500 {y:g}H568"/>')
        parts.append(_box((630, y), state, "open" if state is RequestState.IN_FLIGHT else "box"))
    return _svg("The states of a request", 710, 70 + (len(CONDITIONS) - 1) * ROW, parts)


def _svg(title: str, width: float, height: float, parts: list[str]) -> str:
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img">'
    ]
    lines += [
        f"  <title>{title}</title>",
        STYLE,
        f'  <rect class="card" width="{width:g}" height="{height:g}" rx="8"/>',
    ]
    return "\n".join([*lines, *(f"  {part}" for part in parts), "</svg>", ""])


def _box(center: Point, name: str, style: str) -> str:
    x, y = center
    place = f'x="{x - BOX_WIDTH / 2:g}" y="{y - BOX_HEIGHT / 2:g}" width="{BOX_WIDTH:g}" height="{BOX_HEIGHT:g}"'
    return f'<rect class="{style}" {place} rx="8"/><text class="name" x="{x:g}" y="{y:g}">{name}</text>'


def _dot(state: State, name: str | None) -> str:
    """An arrow from a dot to the state or, without a name, from the state to a dot."""
    x, y = CENTERS[state]
    place = (x + DOTS[state][0], y + DOTS[state][1])
    arrow = _arrow((x, y), place, 0, "") if name is None else _arrow(place, (x, y), 0, name, from_dot=True)
    return f'{arrow}<circle class="dot" cx="{place[0]:g}" cy="{place[1]:g}" r="6"/>'


def _loop(state: State, name: str) -> str:
    """An arrow from the state to itself, below it."""
    x, y = CENTERS[state]
    bottom = y + BOX_HEIGHT / 2
    path = f"M{x + 25:g} {bottom:g}C{x + 40:g} {bottom + 45:g} {x - 40:g} {bottom + 45:g} {x - 25:g} {bottom:g}"
    return f'<path class="arrow" d="{path}"/><text class="label" x="{x:g}" y="{bottom + 34:g}">{name}</text>'


def _arrow(source: Point, target: Point, bend: float, name: str, *, from_dot: bool = False) -> str:
    """A quadratic curve from the edge of one box to the edge of the other, with a label at its middle."""
    (x0, y0), (x1, y1) = source, target
    length = hypot(x1 - x0, y1 - y0)
    middle = ((x0 + x1) / 2 - (y1 - y0) / length * bend, (y0 + y1) / 2 + (x1 - x0) / length * bend)
    control = (2 * middle[0] - (x0 + x1) / 2, 2 * middle[1] - (y0 + y1) / 2)
    start = source if from_dot else _edge(source, control)
    end = _edge(target, control) if name else (x1 - 7 * (x1 - x0) / length, y1 - 7 * (y1 - y0) / length)
    path = f"M{start[0]:.0f} {start[1]:.0f}Q{control[0]:.0f} {control[1]:.0f} {end[0]:.0f} {end[1]:.0f}"
    label = tuple((a + 2 * b + c) / 4 for a, b, c in zip(start, control, end, strict=True))
    text = f'<text class="label" x="{label[0]:.0f}" y="{label[1]:.0f}">{name}</text>' if name else ""
    return f'<path class="arrow" d="{path}"/>{text}'


def _edge(center: Point, towards: Point) -> Point:
    """Where the way from the center of a box leaves it."""
    x, y = towards[0] - center[0], towards[1] - center[1]
    part = min(BOX_WIDTH / 2 / abs(x) if x else 2, BOX_HEIGHT / 2 / abs(y) if y else 2)
    return (center[0] + x * part, center[1] + y * part)


def _table(name: str, meanings: Mapping[State, str] | Mapping[RequestState, str] | Mapping[str, str]) -> list[str]:
    return [f"| {name} | meaning |", "|---|---|", *(f"| `{key}` | {meaning} |" for key, meaning in meanings.items())]


if __name__ == "__main__":
    PAGE.write_text(with_states(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    for path, picture in pictures().items():
        (DOCS / path).write_text(picture, encoding="utf-8")
