"""Days, weeks or months: so many that a chart can show them."""

from dataclasses import dataclass
from datetime import date, timedelta

MOST_BARS = 100


@dataclass(frozen=True)
class Periods:
    """Periods that follow each other. unit: day, week or month. starts: the first day of each."""

    unit: str
    starts: list[date]

    @property
    def labels(self) -> list[str]:
        """The days, the Mondays of the weeks, or the months."""
        return [start.isoformat()[: 7 if self.unit == "month" else 10] for start in self.starts]

    def index_of(self, day: str) -> int:
        """The period that the day is in."""
        return self.starts.index(_start(date.fromisoformat(day), self.unit))


def periods_of(first: str, last: str) -> Periods:
    """Those from the first day to the last: days, if they are no more than a hundred, else weeks, else months."""
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    days = (end - begin).days + 1
    unit = "day" if days <= MOST_BARS else "week" if days <= 7 * MOST_BARS else "month"
    starts = [_start(begin, unit)]
    while (following := _next(starts[-1], unit)) <= end:
        starts.append(following)
    return Periods(unit, starts)


def _start(day: date, unit: str) -> date:
    if unit == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if unit == "month" else day


def _next(start: date, unit: str) -> date:
    step = {"day": 1, "week": 7, "month": 31}[unit]
    return _start(start + timedelta(days=step), unit)
