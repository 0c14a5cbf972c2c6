"""The limit on the size of a request's head: its first line and all headers."""

from __future__ import annotations

from batch_assets.local_api.wire.errors import ApiError


def check_head(url_bytes: int, headers: list[tuple[bytes, bytes]], maximum_bytes: int) -> None:
    """Raises ApiError for a head that is too large.

    h11 refuses such a head only if it arrives in several pieces. This is for one that arrives in one piece.
    """
    if url_bytes > maximum_bytes:
        raise _url_too_long(maximum_bytes)
    if url_bytes + sum(len(name) + len(value) + 4 for name, value in headers) > maximum_bytes:
        raise _headers_too_large(maximum_bytes)


def refused_head_error(unread: bytes, maximum_bytes: int) -> ApiError:
    """Why h11 refused the bytes: the head is too large, or is not HTTP."""
    if len(unread) <= maximum_bytes:
        return ApiError(400, "Invalid HTTP request received.")
    if b"\n" not in unread[:maximum_bytes]:
        return _url_too_long(maximum_bytes)
    return _headers_too_large(maximum_bytes)


def _url_too_long(maximum_bytes: int) -> ApiError:
    return ApiError(414, f"The URL is longer than the {maximum_bytes} bytes maximum.")


def _headers_too_large(maximum_bytes: int) -> ApiError:
    return ApiError(431, f"The request's headers are larger than the {maximum_bytes} bytes maximum.")
