"""Pages of objects, the same for files and batches: `after`, `limit`, `first_id`, `last_id`, `has_more`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batch_assets.local_api.wire import errors
from batch_assets.local_api.wire.parameters import read_integer


@dataclass(frozen=True)
class Page:
    limit: int
    after: str | None


def read_page(query: Mapping[str, str], *, default_limit: int, maximum_limit: int) -> Page:
    """The page that a query string asks for. Raises ApiError when `limit` is no integer in its range."""
    text = query.get("limit")
    limit = default_limit
    if text is not None:
        limit = errors.check_integer("limit", read_integer(text), minimum=1, maximum=maximum_limit)
    return Page(limit, query.get("after"))


def list_object(objects: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """The page of up to `limit` + 1 objects. The last one is not in the page: it only shows that there are more."""
    data = objects[:limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(objects) > limit,
    }
