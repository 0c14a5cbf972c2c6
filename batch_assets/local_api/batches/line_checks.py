"""One line of a batch's input file: why OpenAI refuses it, and with it the batch."""

from __future__ import annotations

import hashlib
from typing import Any, TypedDict

from batch_assets.local_api.endpoints import embeddings, models
from batch_assets.local_api.endpoints.registry import ENDPOINTS
from batch_assets.local_api.settings import Limits
from batch_assets.local_api.wire import errors, strict_json
from batch_assets.local_api.wire.errors import ApiError

# Ours, for the sake of memory: enough for an image of 20 MB in base64. OpenAI's limit is not known.
MAXIMUM_LINE_BYTES = 32 * 1024 * 1024


class Problem(TypedDict):
    """One entry of a failed batch's `errors.data`. Lines count from 1."""

    code: str | None
    message: str
    param: str | None
    line: int | None


def problem(code: str | None, message: str, *, param: str | None = None, line: int | None = None) -> Problem:
    return {"code": code, "message": errors.shorten(message), "param": param, "line": line}


class LineError(ApiError):
    """A line that OpenAI refuses, for the reason in `code`."""

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(400, message, param=param, code=code)


class LineChecker:
    """Checks the lines of one file in their order, since custom_ids must differ and models must not.

    model: that of the first line that names one; "" before.
    is_over_limit: True when the lines together hold too many inputs, so that no further line needs a check.
    """

    def __init__(self, endpoint: str, limits: Limits) -> None:
        self.model = ""
        self.is_over_limit = False
        self._endpoint = endpoint
        self._maximum_inputs = limits.batch_embedding_inputs
        self._required, self._title = ENDPOINTS[endpoint].required, ENDPOINTS[endpoint].title
        self._ids: set[bytes] = set()
        self._inputs = 0

    def check(self, line: bytes, number: int) -> Problem | None:
        """The first problem of a line; None for a good line."""
        try:
            request = _parse(line)
            _check_form(request)
            self._check_custom_id(request["custom_id"])
            self._check_target(request["method"], request["url"])
            self._check_body(request["body"])
        except ApiError as error:
            return problem(error.code, error.message, param=error.param, line=number)
        if self._endpoint == "/v1/embeddings":
            return self._check_inputs(request["body"]["input"])
        return None

    def _check_custom_id(self, custom_id: str) -> None:
        # The set holds 16 bytes instead of the id, whose length has no limit.
        digest = hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest in self._ids:
            message = (
                "The custom_id for this request is a duplicate of another request. "
                "The custom_id parameter must be unique for each request in a batch."
            )
            raise LineError("duplicate_custom_id", message, param="custom_id")
        self._ids.add(digest)

    def _check_target(self, method: str, url: str) -> None:
        if method != "POST":
            raise errors.invalid_value("method", method, ["POST"])
        if url != self._endpoint:
            message = "The URL provided for this request does not match the batch endpoint."
            raise LineError("invalid_url", message, param="url")

    def _check_body(self, body: dict[str, Any]) -> None:
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise LineError("invalid_request", "Model parameter is required.", param="body.model")
        if model != self.model:
            if not models.is_usable(model, self._endpoint):
                message = f"The provided model '{model}' is not supported by the Batch API."
                raise LineError("model_not_found", message, param="body.model")
            self.model = self.model or model
        if body.keys().isdisjoint(self._required):
            name = self._required[0]
            raise LineError("invalid_request", f"{name.title()} parameter is required.", param=f"body.{name}")
        if body.get("stream"):
            message = f"{self._title}: Streaming is not supported in the Batch API."
            raise LineError("streaming_unsupported", message, param="body.stream")
        if model != self.model:
            message = (
                f"The model '{model}' for this request does not match the rest of the batch. "
                "Each batch must contain requests for a single model."
            )
            raise LineError("mismatched_model", message, param="body.model")

    def _check_inputs(self, value: object) -> Problem | None:
        self._inputs += embeddings.count_inputs(value)
        if self._inputs <= self._maximum_inputs:
            return None
        self.is_over_limit = True
        # Code and text are ours, as for too many lines: OpenAI's are not known.
        message = f"The batch input file contains more than the maximum of {self._maximum_inputs} embedding inputs."
        return problem("too_many_tasks", message)


def _parse(line: bytes) -> dict[str, Any]:
    if len(line) > MAXIMUM_LINE_BYTES:
        raise LineError("invalid_request", f"This line is longer than the maximum of {MAXIMUM_LINE_BYTES} bytes.")
    try:
        request = strict_json.loads(line)
    except ValueError:
        request = None
    if not isinstance(request, dict):
        raise LineError("invalid_json_line", "This line is not parseable as valid JSON.")
    return request


def _check_form(request: dict[str, Any]) -> None:
    for name in ("custom_id", "method", "url", "body"):
        if request.get(name) is None:
            raise errors.missing_parameter(name)
    for name in ("custom_id", "method", "url"):
        errors.check_string(name, request[name])
    if not isinstance(request["body"], dict):
        raise errors.invalid_type("body", "an object", request["body"])
