"""`/v1/moderations`: refused by the built-in engines.

They cannot judge a text, and an object that says "not flagged" would be wrong for some texts. An engine on another
server gets the request.
"""

from __future__ import annotations

from typing import Any

from batch_assets.local_api.engines.engine import Engine
from batch_assets.local_api.wire.errors import ApiError
from batch_assets.local_api.wire.parameter_table import ENGINE


def answer(_: Engine, __: object) -> dict[str, Any]:
    """Raises ApiError."""
    message = f"Moderations are not supported with {ENGINE}, which cannot judge a text."
    raise ApiError(400, message, code="unsupported_endpoint")
