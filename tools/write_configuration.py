"""Writes docs/configuration.md from the code: environment variables, fields of tasks, switches of a run, commands.

    python tools/write_configuration.py

A test fails if the page and the code differ.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from batch_assets.assets.batch_request_file import RequestFileConfig
from batch_assets.cli.main import main
from batch_assets.component import BatchTask
from batch_assets.variables import PIPELINE, PROCESSES, Variable

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
INTRODUCTION = """\
<!-- Made by `python tools/write_configuration.py`: change the code, not this page. -->
# Configuration

Settings of the project are environment variables, those of a task are in its YAML, and the switches of one run are in
its config. The environment is read when Dagster loads the definitions: restart `make dev` after a change.
"""
PIPE = "\\|"  # in a cell of a table
TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "map",
    "array": "list",
}


def page() -> str:
    """The whole page."""
    parts = [
        INTRODUCTION,
        "## Environment variables\n",
        *variables(PIPELINE),
        "\n`batch-assets` and its processes also read these:\n",
        *variables(PROCESSES),
        "\n## Fields of a task\n",
        "The YAML of a [task](tasks.md) has them under `attributes`.\n",
        *table(("field", "type", "meaning", "default"), fields(BatchTask.model().model_json_schema())),
        "\n## Switches of a run\n",
        "In the Launchpad, they are under `ops`, `submission`, `config`. The step has no other settings: see\n"
        "[Security](security.md#the-key).\n",
        *table(("switch", "meaning", "default"), switches()),
        "\n## Commands\n",
        "`batch-assets COMMAND --help` prints the same.\n",
        *commands(main),
    ]
    return "\n".join(parts).rstrip() + "\n"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heading)} |"
    yield f"|{'---|' * len(heading)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', PIPE) for cell in row)} |"


def variables(of: Iterable[Variable]) -> Iterator[str]:
    rows = ((", ".join(f"`{name}`" for name in one.names), one.meaning, one.default) for one in of)
    return table(("variable", "meaning", "default"), rows)


def fields(schema: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """Name, type, meaning and default of each field, of the JSON schema of the model of the YAML."""
    for name, field in schema["properties"].items():
        meaning, _, default = field["description"].partition(" Default: ")
        if name in schema["required"]:
            default = "(required)"
        elif not default and isinstance(field["default"], str) and not field["default"].startswith("__"):
            default = f"`{field['default']}`"
        yield (f"`{name}`", type_of(field), as_markdown(meaning), as_markdown(default.rstrip(".")))


def type_of(field: Mapping[str, Any]) -> str:
    """The type in words. That a text may stand for any other type, as a template of Dagster, is not said."""
    kinds = [kind for kind in field.get("anyOf", [field]) if kind["type"] != "null"]
    others = [kind for kind in kinds if kind["type"] != "string" or "enum" in kind]
    is_or_text = len(kinds) > len(others) > 0 and "module:" in field["description"]
    words = [one_type(kind) for kind in (others or kinds[:1])]
    return " or ".join([*words, "text"] if is_or_text else words)


def one_type(kind: Mapping[str, Any]) -> str:
    if "enum" in kind:
        return "one of " + ", ".join(f"`{value}`" for value in kind["enum"])
    if kind["type"] == "array":
        return f"list of {TYPES[kind['items']['type']]}s"
    return TYPES[kind["type"]]


def as_markdown(text: str) -> str:
    """The text with what is code in it as code: names of variables, and placeholders in braces."""
    return re.sub(r"(?<!`)(\b[A-Z]+_[A-Z_]+\b|\{\w+\}|module:\w+)(?!`)", r"`\1`", text)


def switches() -> Iterator[Sequence[str]]:
    for name, field in RequestFileConfig.model_fields.items():
        yield f"`{name}`", field.description or "", f"`{str(field.default).lower()}`"


def commands(group: click.Group) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        context = click.Context(command, info_name=f"batch-assets {name}")
        usage = " ".join(command.collect_usage_pieces(context))
        yield f"### batch-assets {name}\n"
        yield f"    batch-assets {name} {usage}\n"
        yield inspect.cleandoc(command.help or "") + "\n"
        options = (one for one in command.params if isinstance(one, click.Option))
        records = [record for option in options if (record := option.get_help_record(context))]
        if records:
            yield from table(("option", "meaning"), ((f"`{option}`", text) for option, text in records))
            yield ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
