"""Images in the messages of a request: `image_url` of chat completions, `input_image` of responses.

The messages are OpenAI's, as its users report them. The two endpoints word them differently.
"""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import urlsplit

from batch_assets.local_api.engines.images import Image
from batch_assets.local_api.wire import errors
from batch_assets.local_api.wire.errors import ApiError
from batch_assets.local_api.wire.parameter_table import choice, unsupported

_DETAIL = choice("auto", "low", "high", "original")
_DATA = "data:"


def chat_image(part: dict[str, Any], param: str) -> Image:
    """The image of a part of the type `image_url`. Raises ApiError."""
    value = part.get("image_url")
    if value is None:
        raise errors.missing_parameter(f"{param}.image_url")
    if not isinstance(value, dict):
        raise errors.invalid_type(f"{param}.image_url", "an object", value)
    if value.get("url") is None:
        raise errors.missing_parameter(f"{param}.image_url.url")
    url = errors.check_string(f"{param}.image_url.url", value["url"])
    detail = _read_detail(value, f"{param}.image_url.detail")
    if not url.startswith(_DATA):
        return Image(None, _check_url(url, f"{param}.image_url.url"), detail)
    kind, data = _read_data_url(url)
    if not kind.startswith("image/"):
        raise ApiError(400, "Invalid MIME type. Only image types are supported.", code="invalid_image_format")
    if not data:
        raise ApiError(400, "Invalid base64 image_url.", code="invalid_base64")
    return Image(data, "", detail)


def response_image(part: dict[str, Any], param: str) -> Image:
    """The image of a part of the type `input_image`. Raises ApiError, also for an image that is an uploaded file."""
    detail = _read_detail(part, f"{param}.detail")
    if part.get("image_url") is None:
        if part.get("file_id") is not None:
            raise unsupported(f"{param}.file_id", part["file_id"])
        raise errors.missing_parameter(f"{param}.image_url")
    param = f"{param}.image_url"
    url = errors.check_string(param, part["image_url"])
    if not url.startswith(_DATA):
        return Image(None, _check_url(url, param), detail)
    kind, data = _read_data_url(url)
    if not kind.startswith("image/"):
        raise _no_data_url(param, f"unsupported MIME type '{kind}'")
    if data is None:
        raise _no_data_url(param, "an invalid base64-encoded value")
    if not data:
        raise _no_data_url(param, "empty base64-encoded bytes")
    return Image(data, "", detail)


def _read_detail(value: dict[str, Any], param: str) -> str:
    detail = value.get("detail")
    if detail is None:
        return "auto"
    _DETAIL(param, detail)
    return str(detail)


def _check_url(url: str, param: str) -> str:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:  # such as http://[
        is_usable = False
    if not is_usable:
        message = f"Invalid '{param}'. Expected a valid URL, but got a value with an invalid format."
        raise ApiError(400, message, param=param, code="invalid_value")
    return url


def _read_data_url(url: str) -> tuple[str, bytes | None]:
    """The media type of a data URL, and its data; None for data that is not in base64."""
    head, _, encoded = url.partition(",")
    kind, *options = head.removeprefix(_DATA).lower().split(";")
    if "base64" not in options:
        return kind, None
    try:
        return kind, base64.b64decode(encoded, validate=True)
    except ValueError:
        return kind, None


def _no_data_url(param: str, found: str) -> ApiError:
    message = (
        f"Invalid '{param}'. Expected a base64-encoded data URL with an image MIME type "
        f"(e.g. 'data:image/png;base64,aGVsbG8='), but got {found}."
    )
    return ApiError(400, message, param=param, code="invalid_value")
