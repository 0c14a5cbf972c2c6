"""What a batch costs, and a request outside of one, by the user's own prices or by those of `genai-prices`, offline.

A doubtful price is unknown. Figures are USD. OpenAI bills batches at half its standard prices
(https://openai.com/api/pricing/).
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from decimal import Decimal
from urllib.parse import urlsplit

from genai_prices import Usage, calc_price
from genai_prices.types import PriceCalculation, TieredPrices

from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.batching.provider.model_options import OPENAI_API, base_model, gpt_version

BYTES_PER_TOKEN = 4  # o200k: 4.2 for English, less for other scripts; measured +2 % over 25M tokens of mixed text
TOKENS_PER_PRICE = 1_000_000
# https://developers.openai.com/api/docs/guides/data-residency: + 10 % for models released since 2026-03-05 (GPT-5.4)
OPENAI_REGION = re.compile(r"https://(us|eu|ae|au|in|jp)\.api\.openai\.com")
REGIONAL_SURCHARGE = Decimal("1.1")
REGIONAL_SURCHARGE_SINCE = (5, 4)
MODELS_WITHOUT_SURCHARGE = re.compile(r"(gpt-(3\.5|4)|o[134])(?![0-9])")
# Providers that document one batch discount for all their models, by their names in `genai-prices`.
# Groq (https://console.groq.com/docs/batch): half the price, and no further discount for cached tokens.
BATCH_DISCOUNTS = {"groq": Decimal("0.5")}
EMBEDDING_MODEL = re.compile(r"text-embedding-")
STANDARD_PER_BATCH_PRICE = 2  # at OpenAI: for a budget, where only the price of batches is known
# The usage of a request does not say how many of its tokens belong to an image, so its cost cannot be computed.
IMAGE_PRICES = ("input_image_mtok", "output_image_mtok")
_STANDARD_KINDS = frozenset({"cache_read_mtok", "cache_write_mtok"})  # outside of batches, each price holds as it is


@dataclass(frozen=True)
class BatchRates:
    """USD per token of a batch, or of requests outside of batches.

    A request of more than `long_context_tokens` input tokens is billed as a whole at the `long_` rates. A model
    without such a limit has None there, and the same rates twice. Reasoning tokens are output tokens.
    """

    input_usd: float
    cached_input_usd: float
    cache_write_usd: float
    output_usd: float
    long_context_tokens: int | None
    long_input_usd: float
    long_cached_input_usd: float
    long_cache_write_usd: float
    long_output_usd: float


@dataclass(frozen=True)
class ModelPrice:
    """A user's own price: USD per million tokens in a batch, as billed. The model's name must match exactly.

    Without a price of its own, cached and cache-written input costs as much as other input. Raises ValueError for an
    amount that is negative, infinite or no number.
    """

    model: str
    input_usd_per_million: float
    output_usd_per_million: float
    cached_input_usd_per_million: float | None = None
    cache_write_usd_per_million: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model.strip():
            raise ValueError("A price has no model. Set its name as the requests have it.")
        for field in fields(self)[1:]:
            amount = getattr(self, field.name)
            if not (_is_amount(amount) or (amount is None and field.default is None)):
                raise ValueError(
                    f"The price of {self.model} has {field.name}={amount!r}. "
                    "Give USD per million tokens: a finite number, 0 or more."
                )

    def rates(self) -> BatchRates:
        inputs = self.input_usd_per_million
        reads = inputs if self.cached_input_usd_per_million is None else self.cached_input_usd_per_million
        writes = inputs if self.cache_write_usd_per_million is None else self.cache_write_usd_per_million
        return _batch_rates((inputs, reads, writes, self.output_usd_per_million), None)


def check_own_prices(own_prices: Iterable[ModelPrice]) -> None:
    """Raise ValueError if a model has two prices: which of them applies is not known."""
    models: set[str] = set()
    for price in own_prices:
        if price.model in models:
            raise ValueError(f"The price table names {price.model} twice. Keep one of the two prices.")
        models.add(price.model)


def batch_rates(model: str, *, api: str = OPENAI_API, own_prices: tuple[ModelPrice, ...] = ()) -> BatchRates | None:
    """The batch prices of a model at an API, or None if they are not known: then its cost is unknown, never zero.

    `api` is the normalized base URL, or "local": the built-in engine simulates OpenAI's prices. A user's own price
    comes before every other source. Without one the price is unknown at "local+NAME", at addresses of no known
    provider, at Azure (its model is the name of a deployment), and at providers whose batch prices are not known.
    """
    for own in own_prices:
        if own.model == model:
            return own.rates()
    return _published_rates(model, OPENAI_API if api == BUILT_IN_ENGINE else api, datetime.now(UTC))


def standard_rates(model: str, *, api: str = OPENAI_API) -> BatchRates | None:
    """The published prices of a model at an API for requests outside of batches; None if they are not known.

    `api` is as in `batch_rates`. A user's own price is one of batches: it says nothing about other requests.
    """
    return _published_rates(model, OPENAI_API if api == BUILT_IN_ENGINE else api, datetime.now(UTC), in_batches=False)


def _published_rates(model: str, api: str, at: datetime, *, in_batches: bool = True) -> BatchRates | None:
    """The batch price that `genai-prices` has. If it has none it returns the *standard* price, so this function checks.

    It returns the standard price for a model without a batch price, before the first day of its batch price, and for a
    model of another provider than the one of the URL (OpenAI's models at Azure).

    in_batches: the price of batches; otherwise the standard price.
    """
    origin, factor = _origin(api), Decimal(1)
    if origin is not None and OPENAI_REGION.fullmatch(origin):
        surcharge = _regional_factor(model)
        if surcharge is None:
            return None
        origin, factor = "https://api.openai.com", surcharge
    if origin is None:
        return None
    try:
        price = calc_price(
            Usage(),
            model,
            provider_api_url=origin,
            genai_request_timestamp=at,
            price_context={"processing": "batch"} if in_batches else None,
        )
    except LookupError:
        return None
    # The pattern is a prefix: api.openai.com.example.org would have OpenAI's prices.
    if not re.fullmatch(price.provider.api_pattern, origin):
        return None
    if not any(price.model is model_of_provider for model_of_provider in price.provider.models):
        return None
    if not in_batches:
        return _rates(price, _STANDARD_KINDS, factor)
    batch_prices = _active_batch_prices(price, at)
    if batch_prices is None:
        discount = BATCH_DISCOUNTS.get(price.provider.id)
        if discount is None:
            return None
        factor *= discount
    return _rates(price, batch_prices or frozenset(), factor)


def _origin(api: str) -> str | None:
    """`https://host[:port]` of a base URL in lower case; None if it is no URL."""
    try:
        parts = urlsplit(api)
    except ValueError:
        return None
    return f"{parts.scheme}://{parts.netloc}".lower() if parts.scheme and parts.netloc else None


def _regional_factor(model: str) -> Decimal | None:
    """By which a region of OpenAI multiplies the price of the model; None for a model of unknown age."""
    version = gpt_version(model)
    if version is not None and version >= REGIONAL_SURCHARGE_SINCE:
        return REGIONAL_SURCHARGE
    if version is not None or MODELS_WITHOUT_SURCHARGE.match(base_model(model)):
        return Decimal(1)
    return None


def _active_batch_prices(price: PriceCalculation, at: datetime) -> frozenset[str] | None:
    """The kinds of tokens that have a batch price of their own; None if the model has no batch prices then.

    Empty if a batch costs as much as other requests.
    """
    active = [
        variant.prices
        for variant in price.model.price_variants or ()
        if variant.when == {"processing": "batch"} and (variant.constraint is None or variant.constraint.active(at))
    ]
    return frozenset(key for prices in active for key in vars(prices)) if active else None


def _rates(price: PriceCalculation, batch_prices: frozenset[str], factor: Decimal) -> BatchRates | None:
    prices = price.model_price
    inputs, outputs = prices.input_mtok, prices.output_mtok
    if outputs is None and EMBEDDING_MODEL.match(price.model.id):
        outputs = Decimal(0)  # a vector has no output tokens
    if inputs is None or outputs is None or any(getattr(prices, key) is not None for key in IMAGE_PRICES):
        return None
    # A discount for cached tokens counts only if batches have it, too. OpenAI's models before GPT-5 have it outside of
    # batches only (OpenAI's cookbook, Prompt_Caching_201: "pre-GPT-5 models are not supported").
    reads = prices.cache_read_mtok if "cache_read_mtok" in batch_prices else None
    writes = prices.cache_write_mtok if "cache_write_mtok" in batch_prices else None
    kinds = (inputs, inputs if reads is None else reads, inputs if writes is None else writes, outputs)
    limits = {tier.start for kind in kinds if isinstance(kind, TieredPrices) for tier in kind.tiers}
    if len(limits) > 1:
        return None  # a price with several limits: no model has one yet
    limit = next(iter(limits), None)
    normal, long = ([_price_at(kind, tokens) * factor for kind in kinds] for tokens in (0, (limit or 0) + 1))
    return _batch_rates(normal, limit, long)


def _price_at(price: Decimal | TieredPrices, input_tokens: int) -> Decimal:
    if isinstance(price, TieredPrices):
        return next((tier.price for tier in reversed(price.tiers) if input_tokens > tier.start), price.base)
    return price


def _batch_rates(
    normal: Sequence[Decimal | float], limit: int | None, long: Sequence[Decimal | float] | None = None
) -> BatchRates:
    """Rates from prices per million tokens: of input, cached input, cache writes and output."""
    inputs, reads, writes, outputs = (float(usd / TOKENS_PER_PRICE) for usd in normal)
    long_inputs, long_reads, long_writes, long_outputs = (float(usd / TOKENS_PER_PRICE) for usd in long or normal)
    return BatchRates(inputs, reads, writes, outputs, limit, long_inputs, long_reads, long_writes, long_outputs)


def _is_amount(amount: object) -> bool:
    return isinstance(amount, int | float) and not isinstance(amount, bool) and math.isfinite(amount) and amount >= 0


def estimated_input_tokens(byte_count: int) -> int:
    """Tokens of a text of this number of UTF-8 bytes, rounded up."""
    return -(-byte_count // BYTES_PER_TOKEN)


def max_cost_usd(
    model: str,
    *,
    input_tokens: int,
    output_tokens: int,
    api: str = OPENAI_API,
    own_prices: tuple[ModelPrice, ...] = (),
) -> float | None:
    """The cost if every answer uses all its output tokens and all input is written to the cache; None if unknown.

    Requests with a long context cost more.
    """
    rates = batch_rates(model, api=api, own_prices=own_prices)
    if rates is None:
        return None
    return input_tokens * max(rates.input_usd, rates.cache_write_usd) + output_tokens * rates.output_usd
