"""Prices of batches: an unknown price is None, and never zero or the price of requests outside of a batch."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage, calc_price

from batch_assets.batching.provider.model_options import OPENAI_API
from batch_assets.batching.provider.prices import (
    BatchRates,
    ModelPrice,
    _published_rates,
    _regional_factor,
    batch_rates,
    check_own_prices,
    max_cost_usd,
    standard_rates,
)

MILLION = 1_000_000
NOW = datetime.now(UTC)
GROQ_API = "https://api.groq.com/openai/v1"
OWN = ModelPrice("our-model", 0.4, 1.6)


def per_million(rates: BatchRates | None) -> list[float]:
    """Input, cached input, cache writes, output."""
    assert rates is not None
    return [
        MILLION * rate for rate in (rates.input_usd, rates.cached_input_usd, rates.cache_write_usd, rates.output_usd)
    ]


def long_per_million(rates: BatchRates | None) -> list[float]:
    assert rates is not None
    long = (rates.long_input_usd, rates.long_cached_input_usd, rates.long_cache_write_usd, rates.long_output_usd)
    return [MILLION * rate for rate in long]


# https://developers.openai.com/api/docs/pricing, batch, USD per million tokens: input, cached input, write, output
@pytest.mark.parametrize(
    ("model", "prices"),
    [
        ("gpt-4.1-nano", [0.05, 0.05, 0.05, 0.2]),  # batches before GPT-5 have no discount for cached tokens
        ("gpt-4o-mini", [0.075, 0.075, 0.075, 0.3]),
        ("gpt-4o", [1.25, 1.25, 1.25, 5.0]),
        ("o3", [1.0, 1.0, 1.0, 4.0]),
        ("o4-mini", [0.55, 0.55, 0.55, 2.2]),
        ("gpt-3.5-turbo-1106", [1.0, 1.0, 1.0, 2.0]),  # the one model whose batches cost what other requests cost
        ("gpt-5-mini", [0.125, 0.0125, 0.125, 1.0]),
        ("gpt-5", [0.625, 0.0625, 0.625, 5.0]),
        ("gpt-5-mini-2025-08-07", [0.125, 0.0125, 0.125, 1.0]),  # a dated snapshot costs what its model costs
        ("gpt-5-pro", [7.5, 7.5, 7.5, 60.0]),  # never caches
        ("gpt-5.4", [1.25, 0.13, 1.25, 7.5]),
        ("gpt-5.6-luna", [0.1, 0.01, 0.125, 0.6]),  # from here on a write to the cache costs 1.25 x input
        ("gpt-6-luna", [0.05, 0.005, 0.0625, 0.25]),
        ("gpt-6.1-sol", [1.0, 0.05, 1.25, 5.0]),  # cached: 0.05 x input
        ("gpt-6.1-terra", [0.5, 0.025, 0.625, 2.5]),
    ],
)
@pytest.mark.parametrize("api", [OPENAI_API, "local"])
def test_a_batch_costs_half_of_the_standard_price(model: str, prices: list[float], api: str) -> None:
    assert per_million(batch_rates(model, api=api)) == pytest.approx(prices)


@pytest.mark.parametrize("model", ["gpt-5.4", "gpt-5.5", "gpt-5.6-sol", "gpt-6-luna", "gpt-6-astra", "gpt-6.1-sol"])
def test_a_long_context_costs_twice_the_input_price_and_one_and_a_half_times_the_output_price(model: str) -> None:
    rates = batch_rates(model)
    assert rates is not None
    assert rates.long_context_tokens == 272_000
    inputs, reads, writes, outputs = per_million(rates)
    factors = pytest.approx([2 * inputs, 2 * reads, 2 * writes, 1.5 * outputs], rel=0.05)  # 0.13 is a rounded 0.125
    assert long_per_million(rates) == factors


@pytest.mark.parametrize("model", ["gpt-4.1", "gpt-5-mini", "gpt-5.4-mini", "gpt-5.5-pro", "o3"])
def test_a_model_without_a_long_context_has_one_price(model: str) -> None:
    rates = batch_rates(model)
    assert rates is not None
    assert rates.long_context_tokens is None
    assert long_per_million(rates) == per_million(rates)


@pytest.mark.parametrize("model", ["mistral-small", "no-such-model", "gpt-4.1-nano; DROP", "", "gpt-6-cyber"])
@pytest.mark.parametrize("api", [OPENAI_API, "local"])
def test_an_unknown_model_has_no_price(model: str, api: str) -> None:
    assert batch_rates(model, api=api) is None
    assert max_cost_usd(model, api=api, input_tokens=10, output_tokens=10) is None


@pytest.mark.parametrize(
    "model", ["text-embedding-3-small", "text-embedding-3-large", "omni-moderation-latest", "gpt-5.3", "whisper-1"]
)
def test_a_standard_price_does_not_count_as_a_batch_price(model: str) -> None:
    answered = calc_price(Usage(), model, provider_id="openai", price_context={"processing": "batch"})
    assert answered.model_price == calc_price(Usage(), model, provider_id="openai").model_price  # silently the standard
    assert batch_rates(model) is None


def test_a_batch_price_counts_from_its_first_day() -> None:
    day_before = datetime(2026, 10, 13, 12, tzinfo=UTC)
    answered = calc_price(
        Usage(input_tokens=MILLION),
        "gpt-6-luna",
        provider_id="openai",
        price_context={"processing": "batch"},
        genai_request_timestamp=day_before,
    )
    assert answered.total_price == Decimal("0.2")  # the standard price with a long context, without a warning
    assert _published_rates("gpt-6-luna", OPENAI_API, day_before) is None
    assert per_million(_published_rates("gpt-6-luna", OPENAI_API, datetime(2026, 10, 14, tzinfo=UTC)))[0] == (
        pytest.approx(0.05)
    )


def test_the_latest_of_several_prices_counts() -> None:
    mistral = "https://api.mistral.ai/v1"
    prices = [
        per_million(_published_rates("mistral-large-4", mistral, datetime(2026, month, day, tzinfo=UTC)))[0]
        for month, day in [(10, 14), (10, 20), (10, 29)]
    ]
    assert prices == pytest.approx([0.34, 0.68, 0.35])


def test_genai_prices_ignores_an_unknown_price_context() -> None:
    """So `prices` checks the variants of a price, and this test checks the spelling of the context."""
    wrong = calc_price(Usage(), "gpt-6-luna", provider_id="openai", price_context={"processing": "batches"})
    assert wrong.model_price == calc_price(Usage(), "gpt-6-luna", provider_id="openai").model_price
    right = calc_price(
        Usage(input_tokens=1000), "gpt-6-luna", provider_id="openai", price_context={"processing": "batch"}
    )
    assert per_million(batch_rates("gpt-6-luna"))[0] == pytest.approx(float(right.total_price) * 1000)


@pytest.mark.parametrize("model", ["gpt-image-1", "gpt-image-1.5", "gpt-image-2"])
def test_a_model_with_image_prices_has_an_unknown_price(model: str) -> None:
    assert batch_rates(model) is None


def test_a_price_per_hour_or_page_is_not_a_price_of_zero_per_token() -> None:
    assert batch_rates("whisper-large-v3", api=GROQ_API) is None
    assert batch_rates("mistral-ocr-2512", api="https://api.mistral.ai/v1") is None


def test_prices_need_no_network_and_no_thread() -> None:
    program = """
import sys, threading
def forbid(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind"):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(forbid)
from batch_assets.batching.provider.prices import batch_rates
print(batch_rates("gpt-6-luna").output_usd, threading.active_count())
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.split() == ["2.5e-07", "1"]


@pytest.mark.parametrize(
    ("api", "model", "prices"),
    [
        # Batches at Groq: half the price, no discount for cached tokens. `genai-prices` marks only the first of these.
        (GROQ_API, "openai/gpt-oss-120b", [0.075, 0.075, 0.075, 0.3]),
        (GROQ_API, "llama-3.3-70b-versatile", [0.295, 0.295, 0.295, 0.395]),
        ("https://api.mistral.ai/v1", "mistral-large-2512", [0.25, 0.025, 0.25, 0.75]),
        ("https://api.x.ai/v1", "grok-4.3", [1.0, 0.16, 1.0, 2.0]),  # 20 % off
        ("HTTPS://API.OPENAI.COM/v1", "gpt-6-luna", [0.05, 0.005, 0.0625, 0.25]),
        ("https://api.openai.com", "gpt-6-luna", [0.05, 0.005, 0.0625, 0.25]),
    ],
)
def test_other_providers_have_their_own_batch_prices(api: str, model: str, prices: list[float]) -> None:
    assert per_million(batch_rates(model, api=api)) == pytest.approx(prices)


def test_the_limit_of_a_long_context_is_that_of_the_provider() -> None:
    rates = batch_rates("grok-4.3", api="https://api.x.ai/v1")
    assert rates is not None
    assert rates.long_context_tokens == 199_999
    assert long_per_million(rates) == pytest.approx([2.0, 0.32, 2.0, 4.0])


@pytest.mark.parametrize(
    ("api", "model"),
    [
        ("https://my.openai.azure.com/openai/v1", "gpt-6-luna"),  # a deployment of any model can have this name
        ("https://my.services.ai.azure.com/openai/v1", "gpt-4o-mini"),
        ("https://api.doubleword.ai/v1", "Qwen/Qwen3-14B-FP8"),  # only its prices in real time are known
        ("https://api.together.xyz/v1", "MiniMaxAI/MiniMax-M3"),
        ("https://openrouter.ai/api/v1", "openai/gpt-5"),
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "qwen-plus"),
        ("https://gateway.example.org/v1", "gpt-6-luna"),
        ("http://localhost:8000/v1", "gpt-6-luna"),
        ("http://vllm:8000/v1", "Qwen/Qwen3-14B-FP8"),
        ("https://api.openai.com.example.org/v1", "gpt-6-luna"),  # begins like OpenAI's address
        ("https://api.groq.com.example.org/v1", "openai/gpt-oss-120b"),
        ("https://example.org/api.openai.com/v1", "gpt-6-luna"),
        ("https://example.org/?https://api.openai.com/v1", "gpt-6-luna"),
        ("https://example.org/x.googleapis.com", "gemini-2.5-flash"),
        ("https://api.openai.com:8443/v1", "gpt-6-luna"),
        ("http://api.openai.com/v1", "gpt-6-luna"),
        ("https://xx.api.openai.com/v1", "gpt-6-luna"),
        ("local+vllm", "gpt-6-luna"),
        ("local+smollm2", "gpt-6-luna"),
        ("api.openai.com", "gpt-6-luna"),
        ("https://[broken/v1", "gpt-6-luna"),
        ("", "gpt-6-luna"),
    ],
)
def test_at_other_addresses_the_price_is_unknown_unless_the_user_has_set_one(api: str, model: str) -> None:
    assert batch_rates(model, api=api) is None
    own = (OWN, ModelPrice(model, 2, 8))
    assert per_million(batch_rates(model, api=api, own_prices=own)) == [2, 2, 2, 8]


def test_genai_prices_returns_the_standard_price_at_azure() -> None:
    azure = "https://my.openai.azure.com"
    answered = calc_price(Usage(), "gpt-6-luna", provider_api_url=azure, price_context={"processing": "batch"})
    assert answered.model_price == calc_price(Usage(), "gpt-6-luna", provider_id="openai").model_price
    assert answered.model.price_variants  # the model is OpenAI's, and has a batch price that was not applied


@pytest.mark.parametrize("region", ["us", "eu", "ae", "au", "in", "jp"])
def test_a_region_of_openai_costs_a_tenth_more_for_models_since_gpt_5_4(region: str) -> None:
    api = f"https://{region}.api.openai.com/v1"
    for model in ("gpt-5.4", "gpt-5.4-mini", "gpt-6-luna"):
        assert usd_of(batch_rates(model, api=api)) == pytest.approx([1.1 * usd for usd in usd_of(batch_rates(model))])
    for model in ("gpt-4o-mini", "gpt-4.1", "o3", "o4-mini", "gpt-5-mini", "gpt-5.2", "gpt-3.5-turbo"):
        assert batch_rates(model, api=api) == batch_rates(model)
    assert batch_rates("no-such-model", api=api) is None


@pytest.mark.parametrize("model", ["gpt-image-2", "text-embedding-4", "news-model", "o13"])
def test_the_regional_price_of_a_model_of_unknown_age_is_unknown(model: str) -> None:
    assert _regional_factor(model) is None


def usd_of(rates: BatchRates | None) -> list[float]:
    assert rates is not None
    return [*per_million(rates), *long_per_million(rates)]


def test_a_users_own_price_comes_before_every_other() -> None:
    own = (ModelPrice("gpt-6-luna", 1, 4, cached_input_usd_per_million=0.5, cache_write_usd_per_million=3), OWN)
    for api in (OPENAI_API, "local", "local+vllm", GROQ_API, "https://gateway.example.org/v1"):
        rates = batch_rates("gpt-6-luna", api=api, own_prices=own)
        assert rates is not None
        assert per_million(rates) == pytest.approx([1, 0.5, 3, 4])
        assert (rates.long_context_tokens, long_per_million(rates)) == (None, per_million(rates))
        assert per_million(batch_rates("our-model", api=api, own_prices=own)) == pytest.approx([0.4, 0.4, 0.4, 1.6])


@pytest.mark.parametrize("model", ["Our-Model", "our-model-2026-01-01", "our-model ", "our"])
def test_a_users_own_price_is_for_the_exact_model(model: str) -> None:
    assert batch_rates(model, api="local+vllm", own_prices=(OWN,)) is None


def test_a_users_own_price_may_be_zero() -> None:
    rates = batch_rates("ours", api="http://vllm:8000/v1", own_prices=(ModelPrice("ours", 0, 0),))
    assert usd_of(rates) == [0] * 8
    assert (
        max_cost_usd("ours", api="local+vllm", own_prices=(ModelPrice("ours", 0, 0),), input_tokens=9, output_tokens=9)
        == 0
    )
    cached_for_free = ModelPrice("ours", 1, 2, cached_input_usd_per_million=0)
    assert per_million(batch_rates("ours", own_prices=(cached_for_free,))) == [1, 0, 1, 2]


@pytest.mark.parametrize("amount", [-0.01, float("nan"), float("inf"), -float("inf"), "1", None, True])
@pytest.mark.parametrize("field", ["input_usd_per_million", "output_usd_per_million"])
def test_an_impossible_price_is_refused(field: str, amount: object) -> None:
    amounts = {"input_usd_per_million": 1.0, "output_usd_per_million": 1.0, field: amount}
    with pytest.raises(ValueError, match=rf"The price of m has {field}=.*Give USD per million tokens"):
        ModelPrice("m", **amounts)  # type: ignore[arg-type]


@pytest.mark.parametrize("amount", [-1.0, float("nan"), float("inf"), "1"])
@pytest.mark.parametrize("field", ["cached_input_usd_per_million", "cache_write_usd_per_million"])
def test_an_impossible_price_of_the_cache_is_refused(field: str, amount: object) -> None:
    with pytest.raises(ValueError, match=f"The price of m has {field}="):
        ModelPrice("m", 1, 1, **{field: amount})  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["", "  ", None])
def test_a_price_without_a_model_is_refused(model: object) -> None:
    with pytest.raises(ValueError, match="A price has no model"):
        ModelPrice(model, 1, 1)  # type: ignore[arg-type]


def test_two_prices_for_one_model_are_refused() -> None:
    check_own_prices((OWN, ModelPrice("other", 1, 1)))
    with pytest.raises(ValueError, match="The price table names our-model twice"):
        check_own_prices((OWN, ModelPrice("our-model", 1, 1)))


def test_the_estimate_counts_input_and_all_output() -> None:
    assert max_cost_usd("gpt-4.1-nano", input_tokens=2 * MILLION, output_tokens=MILLION) == pytest.approx(0.1 + 0.2)
    assert max_cost_usd("gpt-4.1-nano", input_tokens=0, output_tokens=0) == 0


def test_the_most_that_a_batch_can_cost_includes_writes_to_the_cache() -> None:
    assert max_cost_usd("gpt-6-luna", input_tokens=MILLION, output_tokens=MILLION) == pytest.approx(0.0625 + 0.25)


@pytest.mark.parametrize(
    ("model", "usd_per_million"),
    [
        ("gpt-4.1-nano", (0.1, 0.025, 0.1, 0.4)),  # outside of batches, cached tokens of this model cost less
        ("gpt-6-luna", (0.1, 0.01, 0.125, 0.5)),
        ("text-embedding-3-small", (0.02, 0.02, 0.02, 0.0)),
    ],
)
@pytest.mark.parametrize("api", [OPENAI_API, "local"])
def test_a_request_outside_of_a_batch_has_the_standard_price(
    model: str, usd_per_million: tuple[float, ...], api: str
) -> None:
    rates = standard_rates(model, api=api)
    assert rates is not None
    kinds = (rates.input_usd, rates.cached_input_usd, rates.cache_write_usd, rates.output_usd)
    assert [usd * 1_000_000 for usd in kinds] == pytest.approx(usd_per_million)


@pytest.mark.parametrize(
    ("model", "api"), [("gpt-6-luna", "local+NAME"), ("gpt-6-luna", "https://gateway.example/v1"), ("mine", OPENAI_API)]
)
def test_a_standard_price_that_is_not_published_is_unknown(model: str, api: str) -> None:
    assert standard_rates(model, api=api) is None
