"""What a browser sends: the fields of a form that has no file, and the query of a list."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.requests import Request

from batch_assets.local_api.wire.errors import ApiError

_MAXIMUM_BYTES = 64 * 1024
_MAXIMUM_FIELDS = 32
_PAGE_LENGTH = 20


def page_query(request: Request) -> dict[str, str]:
    """The query that the API takes for the same page of a list: `after` is the last id of the page before."""
    after = request.query_params.get("after")
    return {"limit": str(_PAGE_LENGTH), **({} if after is None else {"after": after})}


async def read_form(request: Request) -> dict[str, str]:
    """The fields; the last value of each. Raises ApiError for another content, or too much of it."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/x-www-form-urlencoded":
        raise ApiError(415, "Expected the fields of a form (application/x-www-form-urlencoded).")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAXIMUM_BYTES:
            raise ApiError(413, f"The form is larger than the {_MAXIMUM_BYTES} bytes maximum.")
    try:
        fields = parse_qsl(body.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAXIMUM_FIELDS)
    except ValueError as error:
        raise ApiError(400, f"The form has more than {_MAXIMUM_FIELDS} fields.") from error
    return dict(fields)
