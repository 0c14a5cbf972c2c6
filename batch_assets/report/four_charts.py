"""The four charts of the report: cost, articles, times and failures, over days, weeks or months."""

from collections.abc import Callable, Sequence

from batch_assets.batching.counting import counted
from batch_assets.batching.ledger.batch_figures import BatchFigures
from batch_assets.batching.ledger.costs import Cost
from batch_assets.batching.ledger.day_figures import STATUSES
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.report.charts import Chart, Series, stacked_bars
from batch_assets.report.periods import Periods, periods_of
from batch_assets.report.read import Report
from batch_assets.report.sums import Money, code_of, costs_of_tasks, money_of
from batch_assets.report.texts import duration, unit_of, usd_format, usd_of_step
from batch_assets.report.waits import slowest_of

MOST_SERIES = 6  # of tasks or of reasons: the sixth is that of all others
Usd = Callable[[float], str]


def charts_of(report: Report, usd: Usd) -> list[Chart]:
    """usd: writes an amount."""
    periods = periods_of(report.first, report.last)
    return [
        _cost(report, periods, usd),
        _articles(report, periods),
        _times(report, periods),
        _failures(report, periods),
    ]


def _cost(report: Report, periods: Periods, usd: Usd) -> Chart:
    places = range(len(periods.starts))
    found: dict[tuple[str, int], list[Cost]] = {}
    for cost in report.costs_by_day:
        day, task = cost.group
        found.setdefault((task, periods.index_of(day)), []).append(cost)

    def of(tasks: Sequence[str], place: int) -> Money:
        return money_of(cost for task in tasks for cost in found.get((task, place), ()))

    ranked = [costs.task for costs in costs_of_tasks(report)]
    billed, simulated = [], []
    for number, (name, tasks) in enumerate(_first_ones(ranked, "task")):
        billed.append(_series(name, f"c{number}", [of(tasks, place).billed for place in places], usd))
        amounts = [of(tasks, place).simulated for place in places]
        simulated.append(_series(f"{name}, simulated", f"h{number}", amounts, usd))
    unpriced = [of(ranked, place).unpriced_tokens for place in places]
    marks = [counted(tokens, "token") if tokens else "" for tokens in unpriced]
    series = [*billed, *simulated]
    highest = max(sum(one.values[place] for one in series) for place in places)
    return stacked_bars(
        "cost",
        f"Cost per {periods.unit}",
        periods.unit,
        periods.labels,
        series,
        usd_format([highest]),
        marks=marks,
        axis=usd_of_step,
    )


def _first_ones(ranked: Sequence[str], what: str) -> list[tuple[str, Sequence[str]]]:
    """The name of each series, and what it has: the last series has all that would be one too many."""
    if len(ranked) <= MOST_SERIES:
        return [(name, [name]) for name in ranked]
    most = MOST_SERIES - 1
    others = ranked[most:]
    return [*((name, [name]) for name in ranked[:most]), (f"{counted(len(others), f'other {what}')}", others)]


def _series(name: str, style: str, values: Sequence[float], text: Usd) -> Series:
    return Series(name, style, values, text(sum(values)))


def _articles(report: Report, periods: Periods) -> Chart:
    values = {status: [0.0] * len(periods.starts) for status in STATUSES}
    for day in report.days:
        index = periods.index_of(day.day)
        for status in STATUSES:
            values[status][index] += getattr(day, status)
    series = [_series(status.replace("_", " "), status, values[status], _whole) for status in STATUSES]
    note = "An article counts once for each task." if len(report.tasks) > 1 else ""
    title = f"Articles per {periods.unit}, by status"
    return stacked_bars("articles", title, periods.unit, periods.labels, series, _whole, note=note, least_step=1)


def _whole(number: float) -> str:
    return f"{number:,.0f}"


def _times(report: Report, periods: Periods) -> Chart:
    batches: list[list[BatchFigures]] = [[] for _ in periods.starts]
    for batch in report.batches:
        batches[periods.index_of(batch.day)].append(batch)
    slowest = [slowest_of(of_period, report.written_at) for of_period in batches]
    longest = max((wait.seconds for wait in slowest if wait), default=0.0)
    size, unit = unit_of(longest)
    queued = [wait.queued or 0.0 if wait else 0.0 for wait in slowest]
    ran = [wait.ran or 0.0 if wait else 0.0 for wait in slowest]
    both = [wait.seconds if wait and wait.queued is None else 0.0 for wait in slowest]
    series = [
        Series("waited", "c1", [value / size for value in queued], ""),
        Series("ran", "c0", [value / size for value in ran], ""),
        Series("waited and ran", "c5", [value / size for value in both], ""),
    ]
    note = f"The slowest batch of each {periods.unit}."
    if longest:
        note += f" The longest took {duration(longest)}."
    apis = {batch.api for batch in report.batches}
    api = "the built-in engine" if apis == {BUILT_IN_ENGINE} else "the API"
    return stacked_bars(
        "times",
        f"Time at {api} per {periods.unit}",
        periods.unit,
        periods.labels,
        series,
        lambda value: duration(value * size),
        note=note,
        axis=lambda step: lambda value: f"{value:g} {unit}",
    )


def _failures(report: Report, periods: Periods) -> Chart:
    failed = [reason for reason in report.reasons if reason.status == "failed"]
    totals: dict[str, int] = {}
    for reason in failed:
        totals[code_of(reason)] = totals.get(code_of(reason), 0) + reason.articles
    ranked = sorted(totals, key=lambda code: (-totals[code], code))
    series = []
    for number, (name, codes) in enumerate(_first_ones(ranked, "reason")):
        values = [0.0] * len(periods.starts)
        for reason in failed:
            if code_of(reason) in codes:
                values[periods.index_of(reason.day)] += reason.articles
        series.append(_series(name, f"c{number}", values, _whole))
    title = f"Failed articles per {periods.unit}, by reason"
    return stacked_bars("failures", title, periods.unit, periods.labels, series, _whole, least_step=1)
