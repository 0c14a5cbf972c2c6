"""Amounts in sentences: neither a small one nor a small difference is shown as nothing."""

from __future__ import annotations

from math import isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.batching.counting import usd

amounts = st.floats(1e-8, 1e6)


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0.0, "$0.00"),
        (1234.5, "$1,234.50"),
        (0.1, "$0.10"),
        (0.05, "$0.050"),
        (0.0001, "$0.00010"),
        (0.000451, "$0.00045"),
    ],
)
def test_an_amount_has_two_decimals_or_two_significant_digits(amount: float, shown: str) -> None:
    assert usd(amount) == shown


@given(amounts, st.floats(1e-4, 10.0))
def test_an_amount_is_never_shown_as_nothing_or_as_another_amount(amount: float, factor: float) -> None:
    other = amount * factor
    assert float(usd(amount)[1:].replace(",", "")) == pytest.approx(amount, rel=0.05)
    assert (usd(amount, other) == usd(other, amount)) is isclose(amount, other, rel_tol=1e-6)
