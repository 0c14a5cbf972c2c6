"""Which optional parameters a model is known to accept. A request has only these.

Sources: openai's own types (`PromptCacheOptions`: "Supported for gpt-5.6 and later models", `ReasoningEffort`),
OpenAI's guides to reasoning and to prompt caching, and the refusals that users of the API have published.
"""

import re

from batch_assets.batching.provider.endpoint import CHAT_COMPLETIONS, EMBEDDINGS, ENDPOINTS

OPENAI_API = "https://api.openai.com/v1"
OPTIONAL_PARAMETERS = ("prompt_cache_options", "reasoning_effort", "reasoning.effort")  # what `known_options` may name

# gpt-VERSION, gpt-VERSION-KIND, either with the date of a snapshot. gpt-35-turbo is Azure's name of gpt-3.5-turbo.
GPT = re.compile(
    r"gpt-(?!35\b)(?P<major>[0-9]{1,2})(?:\.(?P<minor>[0-9]{1,2}))?"
    r"(?:-(?P<kind>[a-z][a-z0-9.-]*?))?(?:-[0-9]{4}-[0-9]{2}-[0-9]{2})?"
)
CACHE_OPTIONS_SINCE = (5, 6)
# Kinds that accept every effort. `chat` accepts only medium, `pro` nothing below medium or high; `codex` and `pro`
# answer at /v1/responses only; `search`, `image`, `cyber` and others are not known to accept it.
REASONING_KINDS = frozenset({None, "mini", "nano", "luna", "terra", "sol", "astra"})
REASONING_O_SERIES = re.compile(r"(?:o1|o3|o3-mini|o4-mini)(?:-[0-9]{4}-[0-9]{2}-[0-9]{2})?")


def known_options(model: str, api: str, endpoint: str = CHAT_COMPLETIONS.path) -> dict[str, object]:
    """The optional parameters of a request that save money and that the model is known to accept.

    `api` is the normalized base URL. The result is empty for every API but OpenAI's own: a compatible server may
    refuse the parameters.
    """
    if api != OPENAI_API or endpoint == EMBEDDINGS.path:
        return {}
    options: dict[str, object] = {}
    version = gpt_version(model)
    if version is not None and version >= CACHE_OPTIONS_SINCE:
        # In this mode a request without a breakpoint writes nothing to the cache; a write costs 1.25 x input.
        options["prompt_cache_options"] = {"mode": "explicit"}
    effort = ENDPOINTS[endpoint].effort_parameter
    if effort is not None and _reasons_less_at_low(model):
        options[effort] = "low"
    return options


def gpt_version(model: str) -> tuple[int, int] | None:
    """(5, 6) for gpt-5.6-luna and for models that were tuned from it (ft:gpt-5.6-luna:…); None for other names."""
    match = GPT.fullmatch(base_model(model))
    return None if match is None else (int(match["major"]), int(match["minor"] or 0))


def base_model(model: str) -> str:
    """The model that a tuned model was made from: ft:MODEL:organization:name:id → MODEL. Other names are unchanged."""
    return model.removeprefix("ft:").split(":")[0] if model.startswith("ft:") else model


def _reasons_less_at_low(model: str) -> bool:
    """Whether the model accepts "low", and has "medium" as its default.

    GPT-5.1 to 5.4 do not reason without this option (their default is "none"): "low" would make them cost more.
    """
    base = base_model(model)
    if REASONING_O_SERIES.fullmatch(base):
        return True
    match, version = GPT.fullmatch(base), gpt_version(base)
    if match is None or version is None or match["kind"] not in REASONING_KINDS:
        return False
    return version == (5, 0) or version >= (5, 5)
