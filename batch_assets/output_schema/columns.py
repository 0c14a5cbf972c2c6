"""Columns of DuckDB for the fields of an output schema.

A field without a type of its own in DuckDB, such as a recursive one or one of several kinds, becomes JSON.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from string import ascii_lowercase, ascii_uppercase
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote

# A type as `from_json_strict` takes it: the name of a type, a list with the type of its items, or the types of fields.
Structure: TypeAlias = "str | list[Structure] | dict[str, Structure]"

JSON = "JSON"
SCALARS = {"string": "VARCHAR", "integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN"}
# TIMESTAMP would drop the offset. TIMETZ refuses "10:00:00Z", and INTERVAL refuses some durations: both stay text.
FORMATS = {"date": "DATE", "date-time": "TIMESTAMPTZ", "uuid": "UUID"}
TEXTS = {"VARCHAR", *FORMATS.values()}  # in JSON, each of these is a string
NUMBERS = {"BIGINT", "DOUBLE"}
# DuckDB ignores the case of these letters in names, and of no others.
LOWER_CASE = str.maketrans(ascii_uppercase, ascii_lowercase)


class AnswerColumn(NamedTuple):
    """A column for a field of the answer. description: of the schema, None if it has none."""

    name: str
    structure: Structure
    description: str | None = None

    @property
    def type(self) -> str:
        """The type in DuckDB's spelling; names of fields are quoted."""
        return type_text(self.structure)


def answer_columns(schema: Mapping[str, Any]) -> tuple[AnswerColumn, ...]:
    """A column for each property of the root, in the order of the schema.

    The schema is one without `column_problems`. All columns are nullable: no type says whether null is allowed.
    """
    fields = _Fields(schema)
    return tuple(
        AnswerColumn(name, fields.structure_of(node), fields.description_of(node))
        for name, node in fields.of_root().items()
    )


def structure(schema: Mapping[str, Any]) -> str:
    """The types of all fields as JSON: the second argument of `from_json_strict`."""
    return json.dumps({column.name: column.structure for column in answer_columns(schema)}, ensure_ascii=False)


def column_problems(schema: Mapping[str, Any], reserved: Collection[str]) -> list[str]:
    """Why columns cannot be made of this schema, a sentence for each reason; empty if they can.

    reserved: names that no column may have, in any case.
    """
    fields = _Fields(schema)
    properties = fields.of_root()
    if not properties:
        return ["The schema is not of an object with properties, so an answer has no columns."]
    structures = {name: fields.structure_of(node) for name, node in properties.items()}
    problems = [f"The reference {_shown(reference)} names nothing in the schema." for reference in fields.unknown]
    taken = {folded(name) for name in reserved}
    problems += [
        f"The field {_shown(name)} has the name of another column of the table. Choose another name."
        for name in structures
        if folded(name) in taken
    ]
    return [*problems, *_name_problems(structures, "$")]


def has_json(found: Structure) -> bool:
    """Whether the type is JSON, or has JSON in it."""
    if isinstance(found, str):
        return found == JSON
    return any(map(has_json, found if isinstance(found, list) else found.values()))


def type_text(found: Structure) -> str:
    """The type in DuckDB's spelling: VARCHAR, BIGINT[], STRUCT("name" VARCHAR)."""
    if isinstance(found, str):
        return found
    if isinstance(found, list):
        return f"{type_text(found[0])}[]"
    return f"STRUCT({', '.join(f'{quoted(name)} {type_text(field)}' for name, field in found.items())})"


def quoted(name: str) -> str:
    """The name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def folded(name: str) -> str:
    """The name in lower case, as DuckDB compares names."""
    return name.translate(LOWER_CASE)


class _Fields:
    """The fields of a schema. `unknown`: references that name nothing, as far as fields were asked for."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._root = schema
        self.unknown: list[str] = []
        self._recursive: dict[int, bool] = {}  # by the id of a node, which the schema keeps alive

    def of_root(self) -> dict[str, Any]:
        """The properties of the root; empty if it is no object. The root may be a reference."""
        node = self._resolved(self._root)
        properties = node.get("properties")
        is_object = node.get("type") in ("object", ["object"])
        return dict(properties) if is_object and isinstance(properties, Mapping) else {}

    def description_of(self, node: Any) -> str | None:
        """The description of a field, or else that of the definition which it refers to."""
        if not isinstance(node, Mapping):
            return None
        found = node.get("description", self._resolved(node).get("description"))
        return found if isinstance(found, str) else None

    def structure_of(self, node: Any) -> Structure:
        if not isinstance(node, Mapping):
            return JSON
        if isinstance(reference := node.get("$ref"), str):
            target = self._target(reference)
            if target is None:
                self.unknown += [reference] if reference not in self.unknown else []
                return JSON
            return JSON if self._is_recursive(target) else self.structure_of(target)
        if isinstance(branches := node.get("anyOf"), list):
            return _common([self.structure_of(branch) for branch in branches if not self._is_null(branch)])
        kinds = node.get("type")
        if isinstance(kinds, str | list):
            names = [kinds] if isinstance(kinds, str) else kinds
            return _common([self._structure_of_kind(node, kind) for kind in names if kind != "null"])
        values = node["enum"] if isinstance(node.get("enum"), list) else [node.get("const")]
        return _common([_structure_of_value(value) for value in values if value is not None])

    def _structure_of_kind(self, node: Mapping[str, Any], kind: object) -> Structure:
        if kind == "object" and isinstance(properties := node.get("properties"), Mapping) and properties:
            return {name: self.structure_of(field) for name, field in properties.items()}
        if kind == "array" and "items" in node:
            return [self.structure_of(node["items"])]
        if kind == "string":
            return FORMATS.get(str(node.get("format")), SCALARS["string"])
        return SCALARS.get(str(kind), JSON)

    def _is_null(self, node: Any) -> bool:
        node = self._resolved(node)
        return node.get("type") in ("null", ["null"]) or node.get("enum") == [None] or node.get("const", 0) is None

    def _is_recursive(self, target: Mapping[str, Any]) -> bool:
        """Whether a value of this node may contain another of the same node."""
        if id(target) not in self._recursive:
            inner = self._inner(target)
            seen: set[int] = set()
            while inner and id(target) not in seen:
                node = inner.pop()
                if id(node) not in seen:
                    seen.add(id(node))
                    inner += self._inner(node)
            self._recursive[id(target)] = id(target) in seen
        return self._recursive[id(target)]

    def _inner(self, node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The nodes of which the fields, the items or the kinds of this node are."""
        reference, properties, branches = node.get("$ref"), node.get("properties"), node.get("anyOf")
        inner: list[Any] = [node.get("items")]
        inner += [self._target(reference)] if isinstance(reference, str) else []
        inner += properties.values() if isinstance(properties, Mapping) else []
        inner += branches if isinstance(branches, list) else []
        return [found for found in inner if isinstance(found, Mapping)]

    def _resolved(self, node: Any) -> Mapping[str, Any]:
        """What a reference names, and the reference there, and so on; the node itself if it is none."""
        seen: set[int] = set()
        while isinstance(node, Mapping) and isinstance(node.get("$ref"), str) and id(node) not in seen:
            seen.add(id(node))
            node = self._target(node["$ref"])
        return node if isinstance(node, Mapping) else {}

    def _target(self, reference: str) -> Mapping[str, Any] | None:
        """What a JSON pointer, such as `#/$defs/author`, names; None if it names nothing."""
        start, *names = unquote(reference).split("/")
        node: Any = self._root if start == "#" else None
        for name in names:
            name = name.replace("~1", "/").replace("~0", "~")
            if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
                node = node[int(name)]
            else:
                node = node.get(name) if isinstance(node, Mapping) else None
        return node if isinstance(node, Mapping) else None


def _structure_of_value(value: object) -> Structure:
    if isinstance(value, bool):
        return "BOOLEAN"
    names = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE"}
    return names.get(type(value), JSON)


def _common(found: list[Structure]) -> Structure:
    """The type of a field that has any of these; of a field that is always null, JSON."""
    first = found[0] if found else JSON
    if all(other == first for other in found):
        return first
    names = {other if isinstance(other, str) else JSON for other in found}
    if names <= NUMBERS:
        return "DOUBLE"
    return "VARCHAR" if names <= TEXTS else JSON


def _name_problems(found: Structure, place: str) -> Iterator[str]:
    """The mistakes in the names of fields that are together in the table or in a STRUCT."""
    if isinstance(found, list):
        yield from _name_problems(found[0], place)
    if not isinstance(found, dict):
        return
    first: dict[str, str] = {}
    for name, field in found.items():
        if not name:
            yield f"A field at {place} has an empty name, which no column can have."
        if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
            yield f"The name {_shown(name)} at {place} has a character that no column can have."
        other = first.setdefault(folded(name), name)
        if other != name:
            yield f"The names {_shown(other)} and {_shown(name)} at {place} differ in case only: for DuckDB, it is one."
        yield from _name_problems(field, f"{place}/{name}")


def _shown(name: str) -> str:
    return json.dumps(name, ensure_ascii=not name.isprintable())
