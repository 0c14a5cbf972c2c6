"""The endpoints that a batch can call. The path is a part of the custom_id: at another one, every request is new.

A new endpoint: its value is here, its body in `planning/task`, its answers in `collection/result_lines`, and its
simulation in `local_api/endpoints/registry`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ANSWER = "answer"  # the name of every output schema: equal requests of two tasks must be equal


@dataclass(frozen=True)
class Endpoint:
    """What a request to an endpoint looks like.

    limit_parameter: the name of the limit on output tokens.
    schema_parameters: the parameters by which the API makes an answer fulfil a JSON schema.
    """

    path: str
    limit_parameter: str
    schema_parameters: Callable[[Mapping[str, Any]], dict[str, Any]]


def _response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    # `strict` is false by default
    return {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": ANSWER, "strict": True, "schema": dict(schema)},
        }
    }


CHAT_COMPLETIONS = Endpoint("/v1/chat/completions", "max_completion_tokens", _response_format)
ENDPOINTS: Mapping[str, Endpoint] = {endpoint.path: endpoint for endpoint in (CHAT_COMPLETIONS,)}
