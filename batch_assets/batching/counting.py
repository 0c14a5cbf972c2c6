"""Numbers and amounts in sentences."""

from math import floor, isclose, log10

USD_DECIMALS = 12  # of a sum: one of binary fractions has a wrong digit at its end, such as 4.764999999999999e-05


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 batch`, `1,000 batches`: the number with the singular or the plural, by default the singular with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def usd(amount: float, *others: float) -> str:
    """`$1,234.50`, `$0.00045`: with two decimals, or as many more as it needs for two significant digits.

    others: amounts of the same sentence. It has as many decimals as it needs to differ from each that is not equal, to
    a millionth.
    """
    if amount == 0:
        return "$0.00"
    decimals = max(2, 1 - floor(log10(abs(amount))))
    different = [other for other in others if not isclose(other, amount, rel_tol=1e-6)]
    while any(f"{other:.{decimals}f}" == f"{amount:.{decimals}f}" for other in different):
        decimals += 1
    return f"${amount:,.{decimals}f}"
