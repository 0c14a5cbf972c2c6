"""Where the body of a result line has its answer, for each endpoint that a batch can call.

Sources: the objects of a chat completion, of a response and of a list of embeddings in OpenAI's API reference.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from batch_assets.batching.provider.endpoint import CHAT_COMPLETIONS, EMBEDDINGS, RESPONSES


@dataclass(frozen=True)
class AnswerBody:
    """SQL expressions by the columns `body`, `usage` (its field) and `first`, which is the field `first` of the body.

    noun: what the body is, for messages. fields: its known fields, as fields of a STRUCT; a value of another type than
    expected becomes NULL. has_answer: whether the body is what the endpoint returns. finish_reason: as a chat
    completion has it: stop, length or content_filter. vector: of an answer that is no text.
    usage: of the tokens of input, cached input, cache writes, output and reasoning.
    is_whole, empty: of a body in Python: whether it is what the endpoint returns; and the fields of one without answer.
    """

    noun: str
    fields: str
    first: str
    has_answer: str
    content: str
    refusal: str
    finish_reason: str
    usage: tuple[str, str, str, str, str]
    is_whole: Callable[[Mapping[str, Any]], bool]
    empty: Mapping[str, Any]
    vector: str = "NULL::FLOAT[]"


def _is_chat_completion(body: Mapping[str, Any]) -> bool:
    choices = body.get("choices")
    if isinstance(choices, list) and choices:
        return isinstance(choices[0], dict) and isinstance(choices[0].get("message"), dict)
    return isinstance(choices, list) or body.get("object") == "chat.completion"


def _is_response(body: Mapping[str, Any]) -> bool:
    return isinstance(body.get("output"), list)


def _has_vector(body: Mapping[str, Any]) -> bool:
    data = body.get("data")
    first = data[0] if isinstance(data, list) and data else None
    return isinstance(first, dict) and isinstance(first.get("embedding"), list)


def _usage_fields(inputs: str, outputs: str) -> str:
    """inputs, outputs: the names of the tokens. Those of their details are the same at both endpoints."""
    return f"""
        usage STRUCT(
            {inputs} VARCHAR, {outputs} VARCHAR,
            {inputs}_details STRUCT(cached_tokens VARCHAR, cache_write_tokens VARCHAR),
            {outputs}_details STRUCT(reasoning_tokens VARCHAR)
        )"""


def _usage(inputs: str, outputs: str) -> tuple[str, str, str, str, str]:
    return (
        f"usage.{inputs}",
        f"usage.{inputs}_details.cached_tokens",
        f"usage.{inputs}_details.cache_write_tokens",
        f"usage.{outputs}",
        f"usage.{outputs}_details.reasoning_tokens",
    )


_OF_CHAT = AnswerBody(
    noun="chat completion",
    fields="choices STRUCT(finish_reason VARCHAR, message STRUCT(content VARCHAR, refusal VARCHAR))[],"
    + _usage_fields("prompt_tokens", "completion_tokens"),
    first="choices[1]",
    has_answer="first.message IS NOT NULL",
    content="first.message.content",
    refusal="nullif(first.message.refusal, '')",  # some servers send "" for none
    finish_reason="first.finish_reason",
    usage=_usage("prompt_tokens", "completion_tokens"),
    is_whole=_is_chat_completion,
    empty={"choices": [{"message": {}}]},
)
_PARTS = "flatten(list_transform(list_filter(first, lambda item: item.type = 'message'), lambda item: item.content))"
_OF_RESPONSES = AnswerBody(
    noun="response",
    fields="""
        status VARCHAR, incomplete_details STRUCT(reason VARCHAR),
        output STRUCT("type" VARCHAR, content STRUCT("type" VARCHAR, "text" VARCHAR, refusal VARCHAR)[])[],"""
    + _usage_fields("input_tokens", "output_tokens"),
    first="output",
    has_answer="first IS NOT NULL",
    content=f"array_to_string(list_transform(list_filter({_PARTS}, lambda part: part.type = 'output_text'), "
    "lambda part: part.text), '')",
    refusal=f"nullif(array_to_string(list_transform({_PARTS}, lambda part: part.refusal), ''), '')",
    finish_reason="CASE coalesce(body.incomplete_details.reason, body.status) WHEN 'max_output_tokens' THEN 'length' "
    "WHEN 'completed' THEN 'stop' ELSE coalesce(body.incomplete_details.reason, body.status) END",
    usage=_usage("input_tokens", "output_tokens"),
    is_whole=_is_response,
    empty={"output": []},
)
_OF_EMBEDDINGS = AnswerBody(
    noun="list of embeddings",
    fields='"data" STRUCT(embedding FLOAT[])[], usage STRUCT(prompt_tokens VARCHAR)',
    first='"data"[1]',
    has_answer="first.embedding IS NOT NULL",
    content="CASE WHEN len(first.embedding) > 0 THEN 'vector' END",
    refusal="NULL::VARCHAR",
    finish_reason="'stop'",
    usage=("usage.prompt_tokens", "NULL", "NULL", "CASE WHEN usage.prompt_tokens IS NOT NULL THEN '0' END", "NULL"),
    is_whole=_has_vector,
    empty={"data": [{"embedding": []}]},
    vector="first.embedding",
)


def body_of_parts() -> AnswerBody:
    """A chat completion whose content may be a list of parts, as some compatible servers write it."""
    return replace(
        _OF_CHAT,
        fields=_OF_CHAT.fields.replace("STRUCT(content VARCHAR,", "STRUCT(content JSON,"),
        content="text_of_parts(first.message.content)",
        refusal="nullif(coalesce(nullif(first.message.refusal, ''), refusal_of_parts(first.message.content)), '')",
    )


ANSWER_BODIES: Mapping[str, AnswerBody] = {
    CHAT_COMPLETIONS.path: _OF_CHAT,
    RESPONSES.path: _OF_RESPONSES,
    EMBEDDINGS.path: _OF_EMBEDDINGS,
}
