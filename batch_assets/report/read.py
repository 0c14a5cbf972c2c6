"""The figures of a report, as the ledger has them."""

from dataclasses import dataclass
from datetime import datetime

import duckdb

from batch_assets.batching.ledger.batch_figures import BatchFigures, batches_of_days
from batch_assets.batching.ledger.costs import Cost, CostGroup, costs
from batch_assets.batching.ledger.day_figures import DayFigures, figures_of_days, last_days, unfinished_days
from batch_assets.batching.ledger.reasons import Reason, reasons_of_days

DEFAULT_DAYS = 30


@dataclass(frozen=True)
class Report:
    """Figures of days, each in the order of day and task.

    asked: the first and the last day that the user asked for; None: the last ones that have figures.
    written_at: UTC, without zone. costs_by_day: by day and task. costs_by_model: by task and model.
    unfinished: the first and the last of all days of which an article waits or a batch runs; None if there is none.
    """

    asked: tuple[str, str] | None
    written_at: datetime
    days: list[DayFigures]
    costs_by_day: list[Cost]
    costs_by_model: list[Cost]
    batches: list[BatchFigures]
    reasons: list[Reason]
    unfinished: tuple[str, str] | None

    @property
    def first(self) -> str:
        """The first day with figures. Raises IndexError if there is none."""
        return self.days[0].day

    @property
    def last(self) -> str:
        return self.days[-1].day

    @property
    def tasks(self) -> list[str]:
        return sorted({day.task for day in self.days})

    @property
    def number_of_days(self) -> int:
        return len({day.day for day in self.days})


def read_report(connection: duckdb.DuckDBPyConnection, asked: tuple[str, str] | None, written_at: datetime) -> Report:
    """The figures of the days that the user asks for; by default of the last 30 days that have figures."""
    last = () if asked else last_days(connection, DEFAULT_DAYS)
    of_days = asked or ((last[0], last[-1]) if last else None)
    if of_days is None:
        return Report(asked, written_at, [], [], [], [], [], None)
    days = figures_of_days(connection, *of_days)
    if days:  # a day without figures may have an attempt that failed, and has no place in the charts
        of_days = (days[0].day, days[-1].day)
    unfinished = unfinished_days(connection)
    return Report(
        asked,
        written_at,
        days,
        costs_by_day=costs(connection, *of_days, (CostGroup.DAY, CostGroup.TASK)),
        costs_by_model=costs(connection, *of_days, (CostGroup.TASK, CostGroup.MODEL)),
        batches=batches_of_days(connection, *of_days),
        reasons=reasons_of_days(connection, *of_days),
        unfinished=(unfinished[0], unfinished[-1]) if unfinished else None,
    )
