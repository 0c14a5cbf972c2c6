"""Every JSON body has the form that OpenAI's specification and its official SDK say: nothing missing, nothing extra."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import jsonschema_rs
import pytest
from openai.types import Batch, CreateEmbeddingResponse, FileDeleted, FileObject, Model
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel

from batch_assets import local_api
from batch_assets_tests.local_api.bodies import Bodies, collect

TYPES: dict[str, type[BaseModel]] = {
    "Batch": Batch,
    "CreateChatCompletionResponse": ChatCompletion,
    "CreateEmbeddingResponse": CreateEmbeddingResponse,
    "DeleteFileResponse": FileDeleted,
    "Model": Model,
    "OpenAIFile": FileObject,
    "Response": Response,
}
# Always there in recorded traffic, with null where there is nothing to say, although the specification requires few.
ALWAYS_WHOLE = {"Batch", "BatchError", "BatchRequestCounts", "ListBatchesResponse", "ListFilesResponse", "OpenAIFile"}
DESCRIPTION = Path(local_api.__file__).with_name("openapi.json")
# Names in our description where they aren't OpenAI's.
DESCRIBED = {
    "CreateChatCompletionResponse": "ChatCompletion",
    "CreateEmbeddingResponse": "Embeddings",
    "DeleteFileResponse": "FileDeleted",
    "ErrorResponse": "Error",
    "ListBatchesResponse": "BatchList",
    "ListFilesResponse": "FileList",
    "OpenAIFile": "File",
}
OPENAPI = os.environ.get("BATCH_ASSETS_TEST_OPENAPI")


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Bodies:
    return collect(tmp_path_factory.mktemp("bodies"))


def test_every_kind_of_body_is_looked_at(bodies: Bodies) -> None:
    assert {name for name, _ in bodies} == {*TYPES, "ErrorResponse", "ListBatchesResponse", "ListFilesResponse"}
    seen = Counter(body["status"] for name, body in bodies if name == "Batch")
    statuses = set(get_args(Batch.model_fields["status"].annotation))
    assert statuses - {"finalizing"} <= set(seen), "finalizing takes no time"


def test_the_sdks_types_fit_strictly(bodies: Bodies) -> None:
    for name, body in bodies:
        if name in TYPES:
            assert_no_extras(TYPES[name].model_validate(body, strict=True))


def assert_no_extras(value: object) -> None:
    """Nothing in it that the SDK's type has no name for."""
    if isinstance(value, BaseModel):
        assert not value.model_extra, f"{type(value).__name__}: {value.model_extra}"
        for name in type(value).model_fields:
            assert_no_extras(getattr(value, name))
    elif isinstance(value, list):
        for item in value:
            assert_no_extras(item)


def test_objects_are_whole_and_null_where_there_is_nothing_to_say(bodies: Bodies) -> None:
    """What the SDK's type knows, the body has."""
    for name in ("Batch", "OpenAIFile"):
        fields = set(TYPES[name].model_fields)
        for _, body in (entry for entry in bodies if entry[0] == name):
            assert set(body) == fields


def test_errors_are_whole(bodies: Bodies) -> None:
    for _, body in (entry for entry in bodies if entry[0] == "ErrorResponse"):
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["message"]
        assert body["error"]["type"]


def test_the_servers_own_description_fits(bodies: Bodies) -> None:
    document = json.loads(DESCRIPTION.read_bytes())
    for name, body in bodies:
        schema = {**document, "$ref": f"#/components/schemas/{DESCRIBED.get(name, name)}"}
        problems = [error.message for error in jsonschema_rs.Draft202012Validator(schema).iter_errors(body)]
        assert not problems, f"{name}: {problems}\n{body}"


@pytest.mark.skipif(not OPENAPI, reason="BATCH_ASSETS_TEST_OPENAPI names no OpenAPI document of OpenAI's")
def test_openais_specification_fits_strictly(bodies: Bodies) -> None:
    schemas = json.loads(Path(OPENAPI or "").read_bytes())["components"]["schemas"]
    strict = {"components": {"schemas": {name: strictly(schema, name) for name, schema in schemas.items()}}}
    checked = 0
    for name, body in bodies:
        if name in schemas:
            validator = jsonschema_rs.Draft202012Validator({**strict, "$ref": f"#/components/schemas/{name}"})
            problems = [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(body)]
            assert not problems, f"{name}: {problems}\n{body}"
            checked += 1
    assert checked > 20


def strictly(schema: Any, name: str = "") -> Any:
    """The schema with no further properties; those it doesn't require may be null, as in recorded traffic."""
    if isinstance(schema, list):
        return [strictly(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strictly(value) for key, value in schema.items()}
    properties = schema.get("properties")
    if properties:
        # An empty page has no first and no last, which the specification's type forgets.
        required = set(schema.get("required", [])) - {"first_id", "last_id"}
        schema["properties"] = {
            key: value if key in required else {"anyOf": [value, {"type": "null"}]} for key, value in properties.items()
        }
        schema["additionalProperties"] = False
        if name in ALWAYS_WHOLE:
            schema["required"] = list(properties)
    return schema
