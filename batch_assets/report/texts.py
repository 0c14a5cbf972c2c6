"""Amounts, shares and durations as texts. Amounts of a column have equally many decimals, unlike those in sentences."""

import math
from collections.abc import Callable, Iterable

from batch_assets.report.sums import Money, PerThousand

UNKNOWN = "unknown"


def usd_format(amounts: Iterable[float]) -> Callable[[float], str]:
    """How to write these amounts in USD: all with so many decimals that the largest one has three digits or more."""
    largest = max(amounts, default=0.0)
    return _usd(next((number for number, least in ((2, 1.0), (4, 0.01)) if largest >= least), 6))


def usd_of_step(step: float) -> Callable[[float], str]:
    """How to write multiples of this amount, which is a round one: exactly."""
    return _usd(max(2, -math.floor(math.log10(step))))


def _usd(decimals: int) -> Callable[[float], str]:
    smallest = 10.0**-decimals

    def usd(amount: float) -> str:
        amount = round(amount, 10)  # equal amounts, summed in another order, are written alike
        if not amount:
            return "$0.00"
        if 0 < amount < smallest / 2:
            return f"<${smallest:.{decimals}f}"
        return f"${amount:,.{decimals}f}"

    return usd


def billed(money: Money, usd: Callable[[float], str]) -> str:
    """What was billed: `unknown` if no price is known, and `at least …` if some are."""
    return _known(money.billed, money, usd)


def saved(money: Money, usd: Callable[[float], str]) -> str:
    return _known(money.saving, money, usd)


def _known(amount: float, money: Money, usd: Callable[[float], str]) -> str:
    if money.is_known:
        return usd(amount)
    return f"at least {usd(amount)}" if amount else UNKNOWN


def per_thousand(cost: PerThousand) -> str:
    """The cost of 1,000 articles, which has decimals of its own."""
    if cost.usd is None:
        return "–" if cost.is_known else UNKNOWN
    return usd_format([cost.usd])(cost.usd) + (" simulated" if cost.is_simulated else "")


def duration(seconds: float | None) -> str:
    """A time with the unit that suits it."""
    if seconds is None:
        return "–"
    size, unit = unit_of(seconds)
    value = seconds / size
    return f"{value:.0f} {unit}" if value >= 10 or unit != "h" else f"{value:.1f} {unit}"


def unit_of(seconds: float) -> tuple[int, str]:
    """The size in seconds, and the sign, of the unit in which to write a time."""
    return next(
        (size, unit) for least, size, unit in ((3600, 3600, "h"), (120, 60, "min"), (0, 1, "s")) if seconds >= least
    )


def share(part: int, whole: int) -> str:
    """A share in per cent: `<0.1%` and `>99.9%` instead of none and all."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "<0.1%"
    return ">99.9%" if 99.9 < percent < 100 else f"{percent:.1f}%"
