"""One request outside of a batch: it is sent once, and its answer comes at once, is refused, or is lost."""

from dataclasses import dataclass

import httpx2
import openai

from batch_assets.batching.provider.identity import api_name
from batch_assets.batching.timing import Timing

# A gateway answers in place of the API, which may have run the request: 504, and Cloudflare's 524.
LOST_ANSWER_STATUSES = (504, 524)
NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)


@dataclass(frozen=True)
class ApiAnswer:
    """What the API answered. body: byte for byte. api: the name of the API that answered."""

    status: int
    body: bytes
    api: str
    request_id: str | None


class LostAnswerError(Exception):
    """No answer came, and the API may have run and billed the request."""


class NotSentError(Exception):
    """The API could not be reached: it has not seen the request."""


def send(client: openai.OpenAI, endpoint: str, body: bytes, timing: Timing) -> ApiAnswer:
    """Send this JSON to the endpoint (`/v1/…`) once: no retry of the client, which could be billed twice.

    Returns an error of the API, too: its status says so. Raises LostAnswerError, NotSentError.
    """
    timeout = httpx2.Timeout(timing.answer_timeout_seconds, connect=timing.connect_timeout_seconds)
    once = client.with_options(max_retries=0, timeout=timeout)
    headers = {"Content-Type": "application/json"}
    try:
        response = once.post(
            endpoint.removeprefix("/v1"), cast_to=httpx2.Response, content=body, options={"headers": headers}
        )
    except openai.APIStatusError as error:
        response = error.response
    except openai.APIConnectionError as error:
        if isinstance(error.__cause__, NOT_SENT):
            raise NotSentError(str(error.__cause__)) from error
        raise LostAnswerError(str(error.__cause__ or error)) from error
    if response.status_code in LOST_ANSWER_STATUSES:
        raise LostAnswerError(f"a gateway answered {response.status_code}")
    return ApiAnswer(
        response.status_code, response.content, api_name(client, response.headers), response.headers.get("x-request-id")
    )
