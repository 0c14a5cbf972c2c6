"""What a batch costs, from `genai-prices`: offline, and unknown rather than wrong.

Figures are USD. OpenAI bills batches at half its standard prices (https://openai.com/api/pricing/).
"""

import re
from dataclasses import dataclass
from functools import cache

from genai_prices import Usage, calc_price

TOKENS_OF_A_QUOTE = 1_000  # small, so that no long-context surcharge enters the rate
BYTES_PER_TOKEN = 4  # o200k: 4.2 for English, less for other scripts; measured +2 % over 25M tokens of mixed text
CACHES_IN_BATCHES = re.compile(r"gpt-([5-9]|\d\d)")


@dataclass(frozen=True)
class BatchRates:
    """USD per token of a batch."""

    input_usd: float
    cached_input_usd: float
    output_usd: float


@cache
def batch_rates(model: str) -> BatchRates | None:
    """The batch prices of an OpenAI model, or None if they aren't known: then its cost is unknown, never zero.

    `genai-prices` answers with the *standard* price for a model that has no batch price of its own, so that
    case is looked for; a dated snapshot (gpt-5-mini-2025-08-07) has the price of its model.
    """
    try:
        inputs = _quote(model, Usage(input_tokens=TOKENS_OF_A_QUOTE))
        outputs = _quote(model, Usage(output_tokens=TOKENS_OF_A_QUOTE))
        cached = _quote(model, Usage(input_tokens=TOKENS_OF_A_QUOTE, cache_read_tokens=TOKENS_OF_A_QUOTE))
    except LookupError:
        return None
    if inputs is None or outputs is None:
        return None
    # Batches of older models get no discount for cached tokens, whatever the table of prices says
    # (OpenAI's cookbook, Prompt_Caching_201: "pre-GPT-5 models are not supported").
    if cached is None or not CACHES_IN_BATCHES.match(model):
        cached = inputs
    return BatchRates(inputs, cached, outputs)


def _quote(model: str, usage: Usage) -> float | None:
    price = calc_price(usage, model, provider_id="openai", price_context={"processing": "batch"})
    has_batch_price = any(variant.when.get("processing") == "batch" for variant in price.model.price_variants or [])
    return float(price.total_price) / TOKENS_OF_A_QUOTE if has_batch_price else None


def max_cost_usd(model: str, *, input_tokens: int, output_tokens: int) -> float | None:
    """The cost if every answer used all its output tokens and nothing were cached; None if unknown."""
    rates = batch_rates(model)
    return None if rates is None else input_tokens * rates.input_usd + output_tokens * rates.output_usd
