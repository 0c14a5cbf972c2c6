"""What was made at another API than the present one: it is not asked for here, and the user is told where it is."""

from batch_assets.batching.provider.identity import ApiIdentity
from batch_assets.batching.safety.outside_text import as_message


def is_elsewhere(made_at: str | None, api: ApiIdentity) -> bool:
    """Whether it was made at another API. One that an earlier version did not record may be this one."""
    return made_at not in (None, api.name)


def elsewhere_message(what: str, made_at: str | None, api: ApiIdentity, *, what_then: str) -> str:
    """Where it is, what becomes of it, and what to do if the API has only moved."""
    return as_message(
        f"{what} at {made_at}, and the API is {api.name} now. {what_then} If it has another address now: "
        f"`batch-assets move-api {made_at} {api.name}`."
    )
