"""Guards against a wrong price: an unknown cost must be None, and never zero or that of another way of asking."""

from __future__ import annotations

import pytest

from batch_assets.batching.prices import batch_rates, max_cost_usd

MILLION = 1_000_000


# https://developers.openai.com/api/docs/pricing, batch, USD per million tokens: input, cached input, output
@pytest.mark.parametrize(
    ("model", "input_usd", "cached_input_usd", "output_usd"),
    [
        ("gpt-4.1-nano", 0.05, 0.05, 0.2),  # batches of models before GPT-5 have no discount for cached tokens
        ("gpt-4o-mini", 0.075, 0.075, 0.3),
        ("o4-mini", 0.55, 0.55, 2.2),
        ("gpt-5-mini", 0.125, 0.0125, 1.0),
        ("gpt-5", 0.625, 0.0625, 5.0),
        ("gpt-5-mini-2025-08-07", 0.125, 0.0125, 1.0),  # a dated snapshot costs what its model costs
        ("gpt-6-luna", 0.05, 0.005, 0.25),
    ],
)
def test_a_batch_costs_half_of_the_standard_price(
    model: str, input_usd: float, cached_input_usd: float, output_usd: float
) -> None:
    rates = batch_rates(model)
    assert rates is not None
    per_million = [MILLION * rate for rate in (rates.input_usd, rates.cached_input_usd, rates.output_usd)]
    assert per_million == pytest.approx([input_usd, cached_input_usd, output_usd])


@pytest.mark.parametrize("model", ["mistral-small", "no-such-model", "gpt-4.1-nano; DROP", ""])
def test_an_unknown_model_has_no_price(model: str) -> None:
    assert batch_rates(model) is None
    assert max_cost_usd(model, input_tokens=10, output_tokens=10) is None


@pytest.mark.parametrize("model", ["text-embedding-3-small", "text-embedding-3-large"])
def test_a_standard_price_is_not_taken_for_a_batch_price(model: str) -> None:
    assert batch_rates(model) is None


def test_the_estimate_counts_input_and_all_output() -> None:
    assert max_cost_usd("gpt-4.1-nano", input_tokens=2 * MILLION, output_tokens=MILLION) == pytest.approx(0.1 + 0.2)
    assert max_cost_usd("gpt-4.1-nano", input_tokens=0, output_tokens=0) == 0
