"""Types of answer columns that change: the type that holds earlier and later values, and the conversion to it."""

import re
from typing import Any

from duckdb import sqltypes

from batch_assets.batching.sql_text import literal
from batch_assets.output_schema.columns import JSON, TEXTS, Structure, folded, quoted, type_text

VECTOR: Structure = ["FLOAT"]  # of any length; FLOAT[3] is one of three numbers
SAME_TYPES = {"TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ"}  # DuckDB's other spelling of ours


def structure_of_type(found: sqltypes.DuckDBPyType) -> Structure:
    """A type of DuckDB as `from_json_strict` takes it."""
    inner: dict[str, Any] = dict(found.children) if found.id in ("list", "struct") else {}
    if found.id == "list":
        return [structure_of_type(inner["child"])]
    if found.id == "struct":
        return {name: structure_of_type(field) for name, field in inner.items()}
    return SAME_TYPES.get(str(found), str(found))


def merged(present: Structure, new: Structure) -> Structure:
    """The narrowest type that holds values of both; a field has the name and the place that it has in `present`.

    Numbers become DOUBLE. Vectors of different lengths become one of any length. Dates, times, UUIDs and texts become
    VARCHAR. All others that differ become JSON.
    """
    if present == new:
        return present
    if isinstance(present, list) and isinstance(new, list):
        return [merged(present[0], new[0])]
    if isinstance(present, dict) and isinstance(new, dict):
        names = {folded(name): name for name in present}
        fields = dict(present)
        for name, field in new.items():
            known = names.get(folded(name), name)
            fields[known] = merged(present[known], field) if known in present else field
        return fields
    if isinstance(present, str) and isinstance(new, str):
        if {present, new} == {"BIGINT", "DOUBLE"}:
            return "DOUBLE"
        if {present, new} <= TEXTS:
            return "VARCHAR"
    if _is_vector(present) and _is_vector(new):
        return VECTOR
    return JSON


def _is_vector(found: Structure) -> bool:
    return found == VECTOR or (isinstance(found, str) and re.fullmatch(r"FLOAT\[\d+\]", found) is not None)


def converted(value: str, given: Structure, wanted: Structure, depth: int = 0) -> str:
    """An SQL expression of the value with another type, which `merged` returned for it. NULL stays NULL."""
    if given == wanted:  # DuckDB assigns the fields of a STRUCT by name, in any order
        return value
    if wanted == JSON:
        return f"to_json({value})"
    if isinstance(given, list) and isinstance(wanted, list):
        item = f"item{depth}"
        return f"list_transform({value}, lambda {item}: {converted(item, given[0], wanted[0], depth + 1)})"
    if isinstance(given, dict) and isinstance(wanted, dict):
        names = {folded(name): name for name in given}
        fields = []
        for name, field in wanted.items():
            if (known := names.get(folded(name))) is None:
                fields.append(f"{quoted(name)} := NULL::{type_text(field)}")
            else:
                inner = f"struct_extract({value}, {literal(known)})"
                fields.append(f"{quoted(name)} := {converted(inner, given[known], field, depth)}")
        return f"CASE WHEN {value} IS NOT NULL THEN struct_pack({', '.join(fields)}) END"
    return f"CAST({value} AS {type_text(wanted)})"
