"""A small part of JSON Schema, enough for answers in a form: what is in it is checked, anything else is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

KEYWORDS = {
    "type", "enum", "const", "required", "properties", "additionalProperties", "items", "minItems", "maxItems",
    "minLength", "maxLength", "pattern", "minimum", "maximum",
}  # fmt: skip
# They say nothing about a value.
WORDS = {"$schema", "$id", "title", "description", "default", "examples", "$comment"}
TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "number": (int, float), "integer": (int,),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
# What each keyword takes; `properties` and what holds a schema are looked into.
TAKES: Mapping[str, tuple[type, ...]] = {
    "type": (str, list), "enum": (list,), "required": (list,), "properties": (dict,), "pattern": (str,),
    "minItems": (int,), "maxItems": (int,), "minLength": (int,), "maxLength": (int,), "minimum": (int, float),
    "maximum": (int, float),
}  # fmt: skip
MAX_DEPTH = 50


def refuse_unknown(schema: object, where: str = "the schema", depth: int = 0) -> None:
    """Raise ValueError for a schema with a keyword that is not checked here, or that is no schema."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise ValueError(f"{where} must be an object, true or false")
    if depth > MAX_DEPTH:
        raise ValueError(f"{where} is nested more than {MAX_DEPTH} deep")
    if unknown := sorted(set(schema) - KEYWORDS - WORDS):
        raise ValueError(
            f"{where} uses {unknown[0]!r}, which is not checked here; known are {', '.join(sorted(KEYWORDS))}"
        )
    for keyword, taken in TAKES.items():
        if keyword in schema and (not isinstance(schema[keyword], taken) or isinstance(schema[keyword], bool)):
            raise ValueError(f"{where} has a {keyword} of {schema[keyword]!r}, which it can't be")
    types = schema.get("type", [])
    for name in [types] if isinstance(types, str) else types:
        if not isinstance(name, str) or name not in TYPES:
            raise ValueError(f"{where} has the type {name!r}, which is none")
    if "pattern" in schema:
        try:
            re.compile(schema["pattern"])
        except (re.error, TypeError) as error:
            raise ValueError(f"{where} has a pattern that is no regular expression: {error}") from error
    for name, inner in schema.get("properties", {}).items():
        refuse_unknown(inner, f"{where}.{name}", depth + 1)
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            refuse_unknown(schema[keyword], f"{where}.{keyword}", depth + 1)


def fits(value: Any, schema: Any) -> bool:
    """Return whether a JSON value is as the schema says. The schema was let through by `refuse_unknown`."""
    if isinstance(schema, bool):
        return schema
    types = schema.get("type")
    if types is not None and not any(_is_a(value, name) for name in ([types] if isinstance(types, str) else types)):
        return False
    if "enum" in schema and not any(_same(value, each) for each in schema["enum"]):
        return False
    if "const" in schema and not _same(value, schema["const"]):
        return False
    if isinstance(value, dict):
        return _object_fits(value, schema)
    if isinstance(value, list):
        within = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf)
        return within and all(fits(each, schema.get("items", True)) for each in value)
    if isinstance(value, str):
        within = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf)
        return within and ("pattern" not in schema or re.search(schema["pattern"], value) is not None)
    if _is_a(value, "number"):
        return bool(schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf))
    return True


def _object_fits(value: dict[str, Any], schema: dict[str, Any]) -> bool:
    known = schema.get("properties", {})
    return all(name in value for name in schema.get("required", ())) and all(
        fits(each, known.get(name, schema.get("additionalProperties", True))) for name, each in value.items()
    )


def _is_a(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, TYPES[name])


def _same(a: Any, b: Any) -> bool:
    # In Python True equals 1; in JSON it does not.
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
