"""Batches and files at another API than the present one: no run asks this API for them."""

from batch_assets.batching.provider.identity import ApiIdentity
from batch_assets.batching.safety.outside_text import as_message


def is_at_other_api(api_name: str | None, api: ApiIdentity) -> bool:
    """Whether this is the name of another API. None, which an earlier version did not record, may be this API."""
    return api_name not in (None, api.name)


def other_api_message(subject: str, api_name: str | None, api: ApiIdentity, *, what_then: str) -> str:
    """Says at which API the subject is, what happens with it, and what to do if the API only has a new address."""
    return as_message(
        f"{subject} at {api_name}, and the API is {api.name} now. {what_then} If it has another address now: "
        f"`batch-assets move-api {api_name} {api.name}`."
    )
