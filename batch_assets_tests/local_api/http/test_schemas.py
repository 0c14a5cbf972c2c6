"""Each JSON body has the form of OpenAI's specification and of its official SDK: no field is missing, none is extra."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import jsonschema_rs
import pytest
from openai.types import Batch, Completion, CreateEmbeddingResponse, FileDeleted, FileObject, Model
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel

from batch_assets import local_api
from batch_assets_tests.local_api.bodies import Bodies, collect

TYPES: dict[str, type[BaseModel]] = {
    "Batch": Batch,
    "CreateChatCompletionResponse": ChatCompletion,
    "CreateCompletionResponse": Completion,
    "CreateEmbeddingResponse": CreateEmbeddingResponse,
    "DeleteFileResponse": FileDeleted,
    "Model": Model,
    "OpenAIFile": FileObject,
    "Response": Response,
}
# In recorded traffic these have all fields, with null for no value, although the specification requires few of them.
ALWAYS_WHOLE = {"Batch", "BatchError", "BatchRequestCounts", "ListBatchesResponse", "ListFilesResponse", "OpenAIFile"}
DESCRIPTION = Path(local_api.__file__).with_name("openapi.json")
# OpenAI's names → the names in our description, if they differ.
DESCRIBED = {
    "CreateChatCompletionResponse": "ChatCompletion",
    "CreateCompletionResponse": "Completion",
    "CreateEmbeddingResponse": "Embeddings",
    "DeleteFileResponse": "FileDeleted",
    "ErrorResponse": "Error",
    "ListBatchesResponse": "BatchList",
    "ListFilesResponse": "FileList",
    "OpenAIFile": "File",
}
OPENAI_SCHEMAS = Path(__file__).with_name("openai_schema_subset.json")


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Bodies:
    return collect(tmp_path_factory.mktemp("bodies"))


def test_all_kinds_of_bodies_are_checked(bodies: Bodies) -> None:
    assert {name for name, _ in bodies} == {*TYPES, "ErrorResponse", "ListBatchesResponse", "ListFilesResponse"}
    seen = Counter(body["status"] for name, body in bodies if name == "Batch")
    statuses = set(get_args(Batch.model_fields["status"].annotation))
    assert statuses - {"finalizing"} <= set(seen), "finalizing takes no time"


def test_bodies_match_the_sdks_types_strictly(bodies: Bodies) -> None:
    for name, body in bodies:
        if name in TYPES:
            assert_no_extras(TYPES[name].model_validate(body, strict=True))


def assert_no_extras(value: object) -> None:
    """The SDK's type has all fields of the value."""
    if isinstance(value, BaseModel):
        assert not value.model_extra, f"{type(value).__name__}: {value.model_extra}"
        for name in type(value).model_fields:
            assert_no_extras(getattr(value, name))
    elif isinstance(value, list):
        for item in value:
            assert_no_extras(item)


def test_objects_have_all_fields_with_null_for_no_value(bodies: Bodies) -> None:
    """The body has all fields of the SDK's type."""
    for name in ("Batch", "OpenAIFile"):
        fields = set(TYPES[name].model_fields)
        for _, body in (entry for entry in bodies if entry[0] == name):
            assert set(body) == fields


def test_errors_have_all_fields(bodies: Bodies) -> None:
    for _, body in (entry for entry in bodies if entry[0] == "ErrorResponse"):
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["message"]
        assert body["error"]["type"]


def test_bodies_match_the_servers_own_description(bodies: Bodies) -> None:
    document = json.loads(DESCRIPTION.read_bytes())
    for name, body in bodies:
        schema = {**document, "$ref": f"#/components/schemas/{DESCRIBED.get(name, name)}"}
        problems = [error.message for error in jsonschema_rs.Draft202012Validator(schema).iter_errors(body)]
        assert not problems, f"{name}: {problems}\n{body}"


def test_bodies_match_openais_specification_strictly(bodies: Bodies) -> None:
    schemas = json.loads(OPENAI_SCHEMAS.read_bytes())["components"]["schemas"]
    strict = {"components": {"schemas": {name: strictly(schema, name) for name, schema in schemas.items()}}}
    checked = 0
    for name, body in bodies:
        if name in schemas:
            validator = jsonschema_rs.Draft202012Validator({**strict, "$ref": f"#/components/schemas/{name}"})
            problems = [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(body)]
            assert not problems, f"{name}: {problems}\n{body}"
            checked += 1
    assert checked > 20, "there are schemas for most kinds of bodies"


def strictly(schema: Any, name: str = "") -> Any:
    """The schema, without other properties than its own. Optional ones may be null, as in recorded traffic."""
    if isinstance(schema, list):
        return [strictly(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strictly(value) for key, value in schema.items()}
    properties = schema.get("properties")
    if properties:
        # An empty page has no first and no last id. The specification's type does not allow that.
        required = set(schema.get("required", [])) - {"first_id", "last_id"}
        schema["properties"] = {
            key: value if key in required else {"anyOf": [value, {"type": "null"}]} for key, value in properties.items()
        }
        schema["additionalProperties"] = False
        if name in ALWAYS_WHOLE:
            schema["required"] = list(properties)
    return schema
