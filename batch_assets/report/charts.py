"""Stacked bars: which rectangles, lines and labels a chart has. The template draws them.

A chart has no fixed width: horizontal places are per cent, vertical ones pixels. So texts keep their size on a phone
and on paper.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

HEIGHT = 150.0  # of the highest bar, at most
WIDEST_BAR = 6.0
MOST_LABELS = 4
Texts = Callable[[float], str]


class Series(NamedTuple):
    """A value for each period. style: the class of its bars. total: the sum, as a text, for the legend."""

    name: str
    style: str
    values: Sequence[float]
    total: str


class Part(NamedTuple):
    style: str
    y: str
    height: str


class Bar(NamedTuple):
    """x, width: per cent. title: a text with its values. mark: a sign above it, which the legend explains."""

    x: str
    width: str
    parts: list[Part]
    title: str
    mark: str


class Line(NamedTuple):
    y: str
    text: str


class Label(NamedTuple):
    """Of a period, below its bar. anchor: start, middle or end. is_minor: a phone has no place for it."""

    x: str
    text: str
    anchor: str
    is_minor: bool


@dataclass(frozen=True)
class Chart:
    """name: an id, unique in the page. rows: the cells of the table beside it, without the label of the period."""

    name: str
    title: str
    unit: str
    series: list[Series]
    bars: list[Bar]
    lines: list[Line]
    labels: list[Label]
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    description: str
    note: str = ""

    @property
    def hatched(self) -> list[str]:
        """The styles of the series with simulated amounts."""
        return [one.style for one in self.series if one.style.startswith("h")]


def stacked_bars(
    name: str,
    title: str,
    unit: str,
    periods: Sequence[str],
    series: Sequence[Series],
    text: Texts,
    *,
    marks: Sequence[str] = (),
    note: str = "",
    axis: Callable[[float], Texts] | None = None,
    least_step: float = 0.0,
) -> Chart:
    """A chart with a bar for each period.

    unit: of the periods. text: writes a value. marks: a text for each period, which is unknown in part if it has one.
    axis: how to write multiples of a step of the axis; by default as other values. least_step: 1 for
    numbers of articles.
    """
    shown = [one for one in series if any(one.values)]
    sums = [sum(one.values[index] for one in shown) for index in range(len(periods))]
    step, top = _scale(max(sums, default=0.0), least_step)
    marks = marks or [""] * len(periods)
    bars = [
        _bar(index, len(periods), shown, top, f"{period}: {_values(shown, index, text)}", marks[index])
        for index, period in enumerate(periods)
        if sums[index] or marks[index]
    ]
    has_marks = any(marks)
    rows = [
        (period, [text(one.values[index]) for one in shown] + ([marks[index] or "–"] if has_marks else []))
        for index, period in enumerate(periods)
    ]
    axis_text = axis(step) if axis else text
    lines = [
        Line(f"{HEIGHT - HEIGHT * step * number / top:.1f}", axis_text(step * number))
        for number in range(round(top / step) + 1)
    ]
    highest = max(range(len(periods)), key=lambda index: sums[index], default=0)
    description = f"One bar for each {unit} from {periods[0]} to {periods[-1]}."
    description += f" The highest: {text(sums[highest])}, {periods[highest]}."
    columns = [one.name for one in shown] + (["price not known"] if has_marks else [])
    return Chart(
        name, title, unit, shown, bars, lines, _labels(periods), columns, rows, description, note
    )  # fmt: skip


def _scale(highest: float, least_step: float) -> tuple[float, float]:
    """The step between lines, which is 1, 2 or 5 times a power of ten, and the value of the top line."""
    if highest <= 0:
        return 1.0, 1.0
    power = 10.0 ** math.floor(math.log10(highest / 4))
    step = max(least_step, next(factor * power for factor in (1, 2, 5, 10) if factor * power * 4 >= highest))
    return step, step * math.ceil(highest / step - 1e-9)


def _bar(index: int, count: int, series: Sequence[Series], top: float, title: str, mark: str) -> Bar:
    slot = 100 / count
    width = min(slot * 0.78, WIDEST_BAR)
    middle = slot * (index + 0.5)
    parts, below = [], HEIGHT
    for one in series:
        height = HEIGHT * one.values[index] / top
        if height:
            below -= height
            parts.append(Part(one.style, f"{below:.1f}", f"{height:.1f}"))
    return Bar(f"{middle - width / 2:.2f}", f"{width:.2f}", parts, title + mark_text(mark), "?" if mark else "")


def mark_text(mark: str) -> str:
    return f"; price not known: {mark}" if mark else ""


def _values(series: Sequence[Series], index: int, text: Texts) -> str:
    return ", ".join(f"{one.name} {text(one.values[index])}" for one in series if one.values[index]) or "none"


def _labels(periods: Sequence[str]) -> list[Label]:
    """The first period, the last one, and some between them."""
    count = len(periods)
    number = min(count, MOST_LABELS)
    chosen = sorted({round(index * (count - 1) / max(number - 1, 1)) for index in range(number)})
    labels = []
    for index in chosen:
        place, anchor = 100 * (index + 0.5) / count, "middle"
        if count > MOST_LABELS and index in (0, count - 1):
            place, anchor = (100.0, "end") if index else (0.0, "start")
        is_minor = count > 3 and index not in (0, count - 1)
        labels.append(Label(f"{place:.2f}", periods[index], anchor, is_minor))
    return labels
