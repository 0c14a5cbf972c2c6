"""Schemas of OpenAI's strict subset for hypothesis: every keyword, hostile names, recursion that can end."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from batch_assets.output_schema.strict import FORMATS

Schema = dict[str, Any]
_HOSTILE_NAMES = (
    *("", " ", "$ref", "type", "properties", "a/b", "~1", "~", "%25", "'", '"', "\\", "__proto__", "constructor"),
    *(
        "a.b",
        "order",
        "\0",
        "\n",
        "é",
        "e\u0301",
        "ß",
        "日本語",
        "😀",
        "A",
        "a",
        "x" * 300,
        "{name}",
        "'; DROP TABLE x; --",
    ),
)
_PATTERNS = (
    *(
        "^[A-Z]{2}-[0-9]{3}$",
        "^(draft|final)$",
        "^[^a-z ]+$",
        "colou?r",
        "^a{3,5}(b|c)*$",
        r"^\d{4}-\d{2}$",
        r"^\w+@\w+$",
    ),
    *("^.{1,20}$", "^$", "^(?:[0-9a-f]{2}:){5}[0-9a-f]{2}$", "^[à-ü]+$"),
)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_BOUNDS = st.integers(-(10**6), 10**6)


def property_names() -> st.SearchStrategy[str]:
    return st.sampled_from(_HOSTILE_NAMES) | st.from_regex("[a-z][a-z_]{0,7}", fullmatch=True) | _TEXTS


@st.composite
def strict_schemas(draw: st.DrawFn, *, depth: int = 3, recursive: bool = True) -> Schema:
    """An object as OpenAI wants it at the root, with up to 2 * depth + 1 levels. It has an answer of few levels.

    recursive: with references to the root, and with definitions that contain themselves.
    """
    names = draw(st.lists(property_names(), max_size=2, unique=True))
    references = [{"$ref": f"#/$defs/{quote(name.replace('~', '~0').replace('/', '~1'))}"} for name in names]
    # A definition refers to itself and to later ones only where an answer can do without: so that it has an end.
    ends = [*references, {"$ref": "#"}] if recursive else []
    definitions = {
        name: draw(_parts(1, references[:number], ends) if recursive else _parts(1, references[:number], []))
        for number, name in enumerate(names)
    }
    root = draw(_objects(depth, references, ends))
    if definitions:
        root["$defs"] = definitions
    return root


@st.composite
def _parts(draw: st.DrawFn, depth: int, references: list[Schema], ends: list[Schema]) -> Schema:
    """references: may stand anywhere. ends: only where null or an empty list fits too."""
    if depth <= 0:
        return draw(_scalars())
    kinds = ["scalar", "scalar", "object", "array", "nullable", "anyOf"]
    kinds += ["reference"] * bool(references) + ["recursion"] * bool(ends)
    part = _parts(depth - 1, references, ends)
    match draw(st.sampled_from(kinds)):
        case "object":
            return draw(_objects(depth, references, ends))
        case "array":
            return {"type": "array", "items": draw(part), **draw(_item_bounds())}
        case "nullable":
            return {"anyOf": [draw(part), {"type": "null"}]}
        case "anyOf":
            return {"anyOf": draw(st.lists(part, min_size=1, max_size=3)), **draw(_descriptions())}
        case "reference":
            return dict(draw(st.sampled_from(references)))
        case "recursion":
            end = dict(draw(st.sampled_from(ends)))
            return draw(st.sampled_from([{"anyOf": [end, {"type": "null"}]}, {"type": "array", "items": end}]))
    return draw(_scalars())


@st.composite
def _objects(draw: st.DrawFn, depth: int, references: list[Schema], ends: list[Schema]) -> Schema:
    names = draw(st.lists(property_names(), max_size=4, unique=True))
    properties = {name: draw(_parts(depth - 1, references, ends)) for name in names}
    required = draw(st.permutations(names))
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
        **draw(_descriptions()),
    }


def _descriptions() -> st.SearchStrategy[Schema]:
    return st.fixed_dictionaries({}, optional={"description": _TEXTS, "title": _TEXTS})


@st.composite
def _item_bounds(draw: st.DrawFn) -> Schema:
    fewest, more = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    bounds = {"minItems": fewest, "maxItems": fewest + more}
    return {name: bounds[name] for name in draw(st.sets(st.sampled_from(sorted(bounds))))}


def _scalars() -> st.SearchStrategy[Schema]:
    return st.one_of(
        st.just({"type": "boolean"}),
        st.just({"type": "null"}),
        st.builds(lambda more: {"type": "string", **more}, _descriptions()),
        st.builds(lambda name: {"type": "string", "format": name}, st.sampled_from(FORMATS)),
        st.builds(lambda pattern: {"type": "string", "pattern": pattern}, st.sampled_from(_PATTERNS)),
        st.builds(
            _of_constants, st.lists(_TEXTS, min_size=1, max_size=4, unique=True), st.just("string"), st.booleans()
        ),
        st.builds(
            _of_constants, st.lists(_BOUNDS, min_size=1, max_size=4, unique=True), st.just("integer"), st.booleans()
        ),
        st.builds(lambda kind: {"type": [kind, "null"]}, st.sampled_from(["string", "integer", "number", "boolean"])),
        _numbers("integer"),
        _numbers("number"),
    )


def _of_constants(values: list[Any], kind: str, nullable: bool) -> Schema:
    if len(values) == 1:
        return {"type": kind, "const": values[0]}
    return {"type": [kind, "null"], "enum": [*values, None]} if nullable else {"type": kind, "enum": values}


@st.composite
def _numbers(draw: st.DrawFn, kind: str) -> Schema:
    """Bounds that leave at least one multiple between them."""
    multiple = draw(st.sampled_from([None, 1, 5, 7] if kind == "integer" else [None, 0.5, 0.01, 3]))
    step = 1 if multiple is None else multiple
    low = draw(_BOUNDS)
    high = low + step * draw(st.integers(2, 50))
    schema: Schema = {"type": kind}
    if multiple is not None:
        schema["multipleOf"] = multiple
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = high
    return schema
