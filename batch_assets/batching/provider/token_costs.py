"""The cost of one request's tokens: the same rule in SQL, for loaded lines, and in Python.

OpenAI counts cached tokens and tokens that were written to the cache as parts of the input tokens, and reasoning
tokens as parts of the output tokens (`CompletionUsage` and `ResponseUsage` in openai's types).
"""

from dataclasses import astuple, fields

from batch_assets.batching.provider.prices import BatchRates

# Columns that `COST_USD_SQL` reads, beside those of the tokens. All are NULL if the price is not known.
RATE_COLUMNS = tuple(field.name for field in fields(BatchRates))
RATE_COLUMNS_DDL = ", ".join(
    f"{name} {'BIGINT' if name == 'long_context_tokens' else 'DOUBLE'}" for name in RATE_COLUMNS
)

_INPUT = "greatest(coalesce(input_tokens, 0), 0)"
_CACHED = f"least(greatest(coalesce(cached_input_tokens, 0), 0), {_INPUT})"
_WRITTEN = f"least(greatest(coalesce(cache_write_tokens, 0), 0), {_INPUT} - {_CACHED})"
_OUTPUT = "greatest(coalesce(output_tokens, 0), 0)"


def _sum_sql(prefix: str) -> str:
    return (
        f"({_INPUT} - {_CACHED} - {_WRITTEN}) * {prefix}input_usd + {_CACHED} * {prefix}cached_input_usd"
        f" + {_WRITTEN} * {prefix}cache_write_usd + {_OUTPUT} * {prefix}output_usd"
    )


# USD of a request, from the columns input_tokens, cached_input_tokens, cache_write_tokens and output_tokens of integer
# type, and from RATE_COLUMNS. NULL if the price is not known, or if neither input nor output tokens are.
COST_USD_SQL = f"""CASE
    WHEN input_tokens IS NULL AND output_tokens IS NULL THEN NULL
    WHEN {_INPUT} > long_context_tokens THEN {_sum_sql("long_")}
    ELSE {_sum_sql("")}
END"""


def rate_values(rates: BatchRates | None) -> tuple[float | int | None, ...]:
    """The values of `RATE_COLUMNS`."""
    return (None,) * len(RATE_COLUMNS) if rates is None else astuple(rates)


def cost_usd(
    rates: BatchRates | None,
    *,
    input_tokens: int | None,
    output_tokens: int | None,
    cached_input_tokens: int | None = None,
    cache_write_tokens: int | None = None,
) -> float | None:
    """USD of a request, by the rule of `COST_USD_SQL`. Never negative, also if the counts contradict each other."""
    if rates is None or (input_tokens is None and output_tokens is None):
        return None
    inputs = max(input_tokens or 0, 0)
    cached = min(max(cached_input_tokens or 0, 0), inputs)
    written = min(max(cache_write_tokens or 0, 0), inputs - cached)
    plain, outputs = inputs - cached - written, max(output_tokens or 0, 0)
    if rates.long_context_tokens is not None and inputs > rates.long_context_tokens:
        return (
            plain * rates.long_input_usd
            + cached * rates.long_cached_input_usd
            + written * rates.long_cache_write_usd
            + outputs * rates.long_output_usd
        )
    return (
        plain * rates.input_usd
        + cached * rates.cached_input_usd
        + written * rates.cache_write_usd
        + outputs * rates.output_usd
    )
