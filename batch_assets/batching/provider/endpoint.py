"""The endpoints that a batch can call. The path is a part of the custom_id: at another one, every request is new.

A new endpoint: what a request looks like is here, where an answer is in `collection/answer_bodies`, and its simulation
in `local_api/endpoints/registry`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ANSWER = "answer"  # the name of every output schema: equal requests of two tasks must be equal
SCHEMA = "{schema}"  # stands for the output schema in `Endpoint.schema_parameters`


@dataclass(frozen=True)
class ImageParts:
    """The JSON around the text and the image of a user's message with both."""

    before_text: str
    before_image: str
    after_image: str
    detail: str  # the parameter for the detail of the image, with {detail}


@dataclass(frozen=True)
class Endpoint:
    """What a request to an endpoint looks like. JSON texts are without white space: they are a part of the custom_id.

    opening: the body up to the user's message, with {model} and {system_prompt} as JSON strings.
    closing: what follows the message, before the parameters.
    limit_parameter: the name of the limit on output tokens; None: an answer has no output tokens.
    effort_parameter: the name of the effort of reasoning models. A dot in a name leads into an object.
    schema_parameters: the parameters that make the API return JSON by a schema, which `SCHEMA` stands for.
    fixed_parameters: of every request; they do not change the question.
    image: None: the endpoint takes no images.
    """

    path: str
    opening: str
    closing: str
    limit_parameter: str | None = None
    effort_parameter: str | None = None
    schema_parameters: Mapping[str, Any] | None = None
    fixed_parameters: Mapping[str, Any] = field(default_factory=dict)
    image: ImageParts | None = None

    @property
    def has_instructions(self) -> bool:
        return "{system_prompt}" in self.opening

    def body_until_message(self, model: str, system_prompt: str) -> str:
        values = {"{model}": model, "{system_prompt}": system_prompt}
        # in one pass: a value may have any braces
        return re.sub(r"\{(model|system_prompt)\}", lambda place: as_json(values[place[0]]), self.opening)

    def schema_of(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters for this output schema."""
        filled: dict[str, Any] = _filled(self.schema_parameters or {}, dict(schema))
        return filled


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


def _filled(value: Any, schema: dict[str, Any]) -> Any:
    if isinstance(value, Mapping):
        return {name: _filled(item, schema) for name, item in value.items()}
    return schema if value == SCHEMA else value


# `strict` is false by default.
CHAT_COMPLETIONS = Endpoint(
    "/v1/chat/completions",
    opening='{"model":{model},"messages":[{"role":"system","content":{system_prompt}},{"role":"user","content":',
    closing="}]",
    limit_parameter="max_completion_tokens",
    effort_parameter="reasoning_effort",
    schema_parameters={
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": ANSWER, "strict": True, "schema": SCHEMA},
        }
    },
    image=ImageParts(
        before_text='[{"type":"text","text":',
        before_image='},{"type":"image_url","image_url":{"url":',
        after_image="{detail}}}]",
        detail=',"detail":{detail}',
    ),
)
RESPONSES = Endpoint(
    "/v1/responses",
    opening='{"model":{model},"instructions":{system_prompt},"input":[{"role":"user","content":',
    closing="}]",
    limit_parameter="max_output_tokens",
    effort_parameter="reasoning.effort",
    schema_parameters={
        "text": {"format": {"type": "json_schema", "name": ANSWER, "strict": True, "schema": SCHEMA}},
    },
    # by default, OpenAI stores a response for 30 days; a chat completion, it does not
    fixed_parameters={"store": False},
    image=ImageParts(
        before_text='[{"type":"input_text","text":',
        before_image='},{"type":"input_image","image_url":',
        after_image="{detail}}]",
        detail=',"detail":{detail}',
    ),
)
EMBEDDINGS = Endpoint("/v1/embeddings", opening='{"model":{model},"input":', closing="")
ENDPOINTS: Mapping[str, Endpoint] = {endpoint.path: endpoint for endpoint in (CHAT_COMPLETIONS, RESPONSES, EMBEDDINGS)}
