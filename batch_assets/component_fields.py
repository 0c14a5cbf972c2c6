"""How fields of a task are read from its YAML: texts as they are, files and paths beside it, and schemas."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import dagster as dg
from pydantic import BaseModel

PYDANTIC_MODEL = "module:PydanticModel"


def as_it_is(description: str) -> dg.Resolver:
    """A field whose text Dagster does not take for a template: a prompt may have any braces."""
    return cast(dg.Resolver, dg.Resolver.passthrough(description=description))


def described(description: str) -> dg.Resolver:
    return cast(dg.Resolver, dg.Resolver.default(description=description))


def read_schema(context: dg.ResolutionContext, value: Mapping[str, Any] | str | None) -> dict[str, Any] | None:
    """The JSON schema: as it is in the YAML, or of a pydantic model that is named as `module:Model`."""
    if value is None or isinstance(value, Mapping):
        return None if value is None else dict(value)
    module, _, name = value.partition(":")
    if not name:
        raise ValueError(f"output_schema is {value!r}; it must be a JSON schema, or {PYDANTIC_MODEL}.")
    from openai.lib import type_to_response_format_param

    try:
        model = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"output_schema is {value!r}, which cannot be imported: {error}.") from error
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise ValueError(f"output_schema is {value!r}, which is no pydantic model.")
    parameter: Any = type_to_response_format_param(model)
    schema: dict[str, Any] = parameter["json_schema"]["schema"]
    return schema


def read_file(context: dg.ResolutionContext, value: str | None) -> str | None:
    """The text of a file beside the YAML."""
    if value is None:
        return None
    path = context.resolve_source_relative_path(value)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error


def read_source(context: dg.ResolutionContext, value: str | None) -> str | None:
    """The source. Of a path that begins with ./ or ../, the one beside the YAML."""
    if value is None or not value.startswith(("./", "../")):
        return value
    return str(context.resolve_source_relative_path(value))


def path_beside(context: dg.ResolutionContext, value: str | None) -> Path | None:
    """A path beside the YAML."""
    return None if value is None else context.resolve_source_relative_path(value)
