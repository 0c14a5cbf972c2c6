"""Guards against two costs of one request: that which SQL enters, that of Python, and that which OpenAI bills."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest
from genai_prices import Usage, calc_price
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.batching.provider.prices import BatchRates, ModelPrice, batch_rates
from batch_assets.batching.provider.token_costs import (
    COST_USD_SQL,
    RATE_COLUMNS,
    RATE_COLUMNS_DDL,
    cost_usd,
    rate_values,
)

CACHING_MODELS = [
    "gpt-5",
    "gpt-5-mini",
    "gpt-5-nano",
    "gpt-5.2",
    "gpt-5.4",
    "gpt-5.4-mini",
    "gpt-5.5",
    "gpt-5.6-luna",
    "gpt-5.6-terra",
    "gpt-6-luna",
    "gpt-6-sol",
    "gpt-6-astra",
    "gpt-6.1-sol",
    "gpt-6.1-terra",
]
OLDER_MODELS = ["gpt-4o-mini", "gpt-4.1", "gpt-4.1-nano", "o3", "o4-mini"]
LIMIT = 272_000

counts = st.one_of(st.integers(0, 5_000), st.integers(LIMIT - 3, LIMIT + 3), st.integers(0, 2_000_000))
any_count = st.one_of(st.none(), st.integers(-5, 5), counts)


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        tokens = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens")
        columns = [f"{name} BIGINT" for name in tokens] + RATE_COLUMNS_DDL.split(", ")
        fields = [f"CAST(? AS {kind}) AS {name}" for name, kind in (column.split() for column in columns)]
        connection.execute(f"PREPARE cost AS SELECT {COST_USD_SQL} FROM (SELECT {', '.join(fields)})")
        connection.execute(f"CREATE TABLE rates ({RATE_COLUMNS_DDL})")
        yield connection


def in_sql(
    connection: duckdb.DuckDBPyConnection,
    rates: BatchRates | None,
    input_tokens: int | None,
    cached: int | None,
    written: int | None,
    output_tokens: int | None,
) -> float | None:
    row = (input_tokens, cached, written, output_tokens, *rate_values(rates))
    values = ", ".join("NULL" if value is None else repr(value) for value in row)
    (found,) = connection.execute(f"EXECUTE cost({values})").fetchall()
    cost: float | None = found[0]
    return cost


def in_python(
    rates: BatchRates | None,
    input_tokens: int | None,
    cached: int | None,
    written: int | None,
    output_tokens: int | None,
) -> float | None:
    return cost_usd(
        rates,
        input_tokens=input_tokens,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output_tokens,
    )


@given(
    model=st.sampled_from([*CACHING_MODELS, *OLDER_MODELS, "no-such-model"]),
    tokens=st.tuples(any_count, any_count, any_count, any_count),
)
def test_sql_and_python_agree_about_any_counts(
    connection: duckdb.DuckDBPyConnection, model: str, tokens: tuple[int | None, int | None, int | None, int | None]
) -> None:
    rates = batch_rates(model)
    cost = in_python(rates, *tokens)
    found = in_sql(connection, rates, *tokens)
    if rates is None or (tokens[0] is None and tokens[3] is None):
        assert (cost, found) == (None, None)
    else:
        assert found == pytest.approx(cost, rel=1e-12)
        assert found is not None
        assert found >= 0


@given(
    model=st.sampled_from([*CACHING_MODELS, *OLDER_MODELS]),
    parts=st.tuples(counts, counts, counts, counts),
)
def test_both_agree_with_the_price_table_about_whole_usages(
    connection: duckdb.DuckDBPyConnection, model: str, parts: tuple[int, int, int, int]
) -> None:
    plain, cached, written, outputs = parts
    if model in OLDER_MODELS:  # the table has the standard discount, which batches of these models don't have
        cached = written = 0
    inputs = plain + cached + written
    usage = Usage(input_tokens=inputs, cache_read_tokens=cached, cache_write_tokens=written, output_tokens=outputs)
    billed = calc_price(usage, model, provider_id="openai", price_context={"processing": "batch"}).total_price
    rates = batch_rates(model)
    assert in_python(rates, inputs, cached, written, outputs) == pytest.approx(float(billed), rel=1e-9)
    assert in_sql(connection, rates, inputs, cached, written, outputs) == pytest.approx(float(billed), rel=1e-9)


RATES = ModelPrice("m", 1, 8, cached_input_usd_per_million=0.1, cache_write_usd_per_million=1.25).rates()


@pytest.mark.parametrize(
    ("tokens", "usd_per_million"),
    [
        ((1000, None, None, 100), 1000 * 1 + 100 * 8),
        ((1000, 400, None, 100), 600 * 1 + 400 * 0.1 + 100 * 8),
        ((1000, 400, 500, 100), 100 * 1 + 400 * 0.1 + 500 * 1.25 + 100 * 8),
        ((1000, 0, 1000, 0), 1000 * 1.25),
        ((1000, None, None, None), 1000),  # a refusal that was billed for its input
        ((None, None, None, 100), 800),
        ((0, 0, 0, 0), 0),
        ((1000, 5000, None, 0), 100),  # more cached than there was: all of it
        ((1000, 800, 800, 0), 80 + 200 * 1.25),  # parts that exceed the whole
        ((1000, -7, -7, -7), 1000),
        ((None, 50, 50, 0), 0),
    ],
)
def test_cached_and_written_tokens_are_parts_of_the_input(
    connection: duckdb.DuckDBPyConnection,
    tokens: tuple[int | None, int | None, int | None, int | None],
    usd_per_million: float,
) -> None:
    assert in_python(RATES, *tokens) == pytest.approx(usd_per_million / 1e6)
    assert in_sql(connection, RATES, *tokens) == pytest.approx(usd_per_million / 1e6)


def test_an_unknown_price_or_usage_is_an_unknown_cost(connection: duckdb.DuckDBPyConnection) -> None:
    for rates, tokens in [(None, (10, 0, 0, 10)), (None, (0, 0, 0, 0)), (RATES, (None, None, None, None))]:
        assert in_python(rates, *tokens) is None
        assert in_sql(connection, rates, *tokens) is None


def test_one_token_more_than_the_limit_raises_the_price_of_the_whole_request(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    rates = batch_rates("gpt-6-luna")
    for cost in (in_python, lambda *of: in_sql(connection, *of)):
        assert cost(rates, LIMIT, 0, 0, 1000) == pytest.approx((LIMIT * 0.05 + 1000 * 0.25) / 1e6)
        assert cost(rates, LIMIT + 1, 0, 0, 1000) == pytest.approx(((LIMIT + 1) * 0.1 + 1000 * 0.375) / 1e6)
        # The cached part counts towards the limit.
        assert cost(rates, LIMIT + 1, LIMIT, 1, 0) == pytest.approx((LIMIT * 0.01 + 0.125) / 1e6)


def test_the_rates_fill_their_columns_in_order(connection: duckdb.DuckDBPyConnection) -> None:
    rates = batch_rates("gpt-6-luna")
    assert rates is not None
    connection.execute(f"INSERT INTO rates VALUES ({', '.join('?' * len(RATE_COLUMNS))})", rate_values(rates))
    stored = connection.execute(f"SELECT {', '.join(RATE_COLUMNS)} FROM rates").fetchone()
    assert stored == rate_values(rates)
    assert dict(zip(RATE_COLUMNS, rate_values(rates), strict=True))["long_context_tokens"] == LIMIT
    assert rate_values(None) == (None,) * len(RATE_COLUMNS)
