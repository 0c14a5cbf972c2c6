"""The endpoints that a batch can call. The path is a part of the custom_id: at another one, every request is new.

A new endpoint: what a request looks like is here, where an answer is in `collection/answer_bodies`, and its simulation
in `local_api/endpoints/registry`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

ANSWER = "answer"  # the name of every output schema: equal requests of two tasks must be equal


@dataclass(frozen=True)
class ImageParts:
    """The JSON around the text and the image of a user's message with both. {detail}: a parameter, after a comma."""

    before_text: str
    before_image: str
    after_image: str


@dataclass(frozen=True)
class Endpoint:
    """What a request to an endpoint looks like. JSON texts are without white space: they are a part of the custom_id.

    opening: the body up to the user's message, with {model} and {system_prompt} as JSON strings.
    closing: what follows the message, before the parameters.
    limit_parameter: the name of the limit on output tokens; None: an answer has no output tokens.
    effort_parameter: the name of the effort of reasoning models. A dot in a name leads into an object.
    schema_parameters: the parameters that make the API return JSON by a schema; None: it cannot.
    fixed_parameters: of every request; they do not change the question.
    image: None: the endpoint takes no images.
    """

    path: str
    opening: str
    closing: str
    limit_parameter: str | None = None
    effort_parameter: str | None = None
    schema_parameters: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    fixed_parameters: Mapping[str, Any] = field(default_factory=dict)
    image: ImageParts | None = None

    @property
    def has_instructions(self) -> bool:
        return "{system_prompt}" in self.opening

    def body_until_message(self, model: str, system_prompt: str) -> str:
        values = {"{model}": model, "{system_prompt}": system_prompt}
        # in one pass: a value may have any braces
        return re.sub(r"\{(model|system_prompt)\}", lambda place: as_json(values[place[0]]), self.opening)


def as_json(value: Any) -> str:
    """JSON without white space."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def nested(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as a body has them: `reasoning.effort` is the field `effort` of the object `reasoning`."""
    body: dict[str, Any] = {}
    for name, value in parameters.items():
        first, dot, rest = name.partition(".")
        body[first] = {**body.get(first, {}), rest: value} if dot else value
    return body


# `strict` is false by default.
def _response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    of_answer = {"name": ANSWER, "strict": True, "schema": dict(schema)}
    return {"response_format": {"type": "json_schema", "json_schema": of_answer}}


def _text_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": {"format": {"type": "json_schema", "name": ANSWER, "strict": True, "schema": dict(schema)}}}


CHAT_COMPLETIONS = Endpoint(
    "/v1/chat/completions",
    opening='{"model":{model},"messages":[{"role":"system","content":{system_prompt}},{"role":"user","content":',
    closing="}]",
    limit_parameter="max_completion_tokens",
    effort_parameter="reasoning_effort",
    schema_parameters=_response_format,
    image=ImageParts(
        before_text='[{"type":"text","text":',
        before_image='},{"type":"image_url","image_url":{"url":',
        after_image="{detail}}}]",
    ),
)
RESPONSES = Endpoint(
    "/v1/responses",
    opening='{"model":{model},"instructions":{system_prompt},"input":[{"role":"user","content":',
    closing="}]",
    limit_parameter="max_output_tokens",
    effort_parameter="reasoning.effort",
    schema_parameters=_text_format,
    # by default, OpenAI stores a response for 30 days; a chat completion, it does not
    fixed_parameters={"store": False},
    image=ImageParts(
        before_text='[{"type":"input_text","text":',
        before_image='},{"type":"input_image","image_url":',
        after_image="{detail}}]",
    ),
)
EMBEDDINGS = Endpoint("/v1/embeddings", opening='{"model":{model},"input":', closing="")
ENDPOINTS: Mapping[str, Endpoint] = {endpoint.path: endpoint for endpoint in (CHAT_COMPLETIONS, RESPONSES, EMBEDDINGS)}
