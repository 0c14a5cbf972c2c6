"""A Dagster project of a user, in a folder, whose tasks are YAML files."""

import sys
import textwrap
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

PYPROJECT = """
[project]
name = "{name}"
version = "0.1.0"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "{name}"
"""


class ProjectFolder:
    """A project whose package can be imported while the test runs."""

    def __init__(self, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.package = folder, folder / name
        (self.package / "defs").mkdir(parents=True)
        (self.package / "__init__.py").touch()
        (self.package / "defs" / "__init__.py").touch()
        (folder / "pyproject.toml").write_text(PYPROJECT.format(name=name), encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder))
        for module in [module for module in sys.modules if module.split(".")[0] == name]:
            del sys.modules[module]

    def write(self, path: str, text: str) -> Path:
        """Write a file of the folder `defs`."""
        target = self.package / "defs" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(text), encoding="utf-8")
        return target

    def task(self, name: str, attributes: str = "", *, more: str = "") -> Path:
        """Declare a task in `defs/NAME/defs.yaml`."""
        lines = textwrap.indent(textwrap.dedent(attributes).strip(), "  ")
        return self.write(
            f"{name}/defs.yaml", f"type: batch_assets.BatchTask\n\nattributes:\n  name: {name}\n{lines}\n{more}"
        )

    def load(self) -> dg.Definitions:
        return dg.load_from_defs_folder(path_within_project=self.package)

    def asset_names(self) -> set[str]:
        return {key.to_user_string() for key in self.load().resolve_asset_graph().get_all_asset_keys()}


def errors_of(error: BaseException) -> str:
    """All messages of an error and of its causes."""
    messages: list[str] = []
    current: Any = error
    while current is not None:
        messages.append(str(current))
        current = current.__cause__ or current.__context__
    return "\n".join(messages)
