"""Refuse what is no JSON Schema, naming the place; everyday schemas are checked without the full validator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from toolscaler.errors import DataError

#: The type names of JSON Schema.
JSON_TYPES: frozenset[str] = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})


def check_schema(schema: Any, what: str = "parameters") -> None:
    """Refuse what is no JSON Schema of an object, by Draft 2020-12 or the draft that ``$schema`` names.

    Args:
        schema: The schema.
        what: What it describes, for the message.

    Raises:
        DataError: It is invalid; the message names the place in the schema.
    """
    if not isinstance(schema, Mapping):
        raise DataError(f"{what}: expected a JSON Schema object, got {type(schema).__name__}")
    if _plainly_valid(schema):
        return
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    draft = schema.get("$schema", "")
    if not isinstance(draft, str):
        raise DataError(f"{what}: invalid JSON Schema at $.$schema: expected text, got {type(draft).__name__}")
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(dict(schema))
    except SchemaError as error:
        place = ".".join(["$", *map(str, error.absolute_path)])
        hint = f"; expected one of {', '.join(sorted(JSON_TYPES))}" if place.endswith(".type") else ""
        raise DataError(f"{what}: invalid JSON Schema at {place}: {error.message[:200]}{hint}") from error
    except RecursionError as error:
        raise DataError(f"{what}: invalid JSON Schema: too deep a nesting") from error


def check_arguments_schema(schema: Any) -> None:
    """Refuse what cannot describe a tool's arguments: an invalid schema, or one that is not of an object.

    Raises:
        DataError: The message names the place in the schema.
    """
    check_schema(schema, "parameters")
    if schema.get("type", "object") != "object":
        raise DataError(f"parameters: expected a schema of type 'object', got {schema['type']!r}")


def _is_text(value: Any, depth: int) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any, depth: int) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any, depth: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any, depth: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_list(value: Any, depth: int) -> bool:
    return isinstance(value, list)


def _is_anything(value: Any, depth: int) -> bool:
    return True


def _is_type(value: Any, depth: int) -> bool:
    if isinstance(value, str):
        return value in JSON_TYPES
    return _is_name_list(value, depth) and bool(value) and JSON_TYPES.issuperset(value)


def _is_name_list(value: Any, depth: int) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value) and len(set(value)) == len(value)


def _is_schema_map(value: Any, depth: int) -> bool:
    return isinstance(value, dict) and all(_plainly_valid(item, depth + 1) for item in value.values())


def _is_schema_list(value: Any, depth: int) -> bool:
    return isinstance(value, list) and bool(value) and all(_plainly_valid(item, depth + 1) for item in value)


def _is_schema_or_flag(value: Any, depth: int) -> bool:
    return isinstance(value, bool) or _plainly_valid(value, depth + 1)


_PLAIN_CHECKS: dict[str, Callable[[Any, int], bool]] = {
    **dict.fromkeys(("description", "title", "format", "pattern"), _is_text),
    **dict.fromkeys(("deprecated", "readOnly", "writeOnly", "uniqueItems"), _is_flag),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _is_count),
    **dict.fromkeys(("default", "const", "example"), _is_anything),
    **dict.fromkeys(("enum", "examples"), _is_list),
    **dict.fromkeys(("anyOf", "oneOf", "allOf"), _is_schema_list),
    **dict.fromkeys(("items", "additionalProperties", "propertyNames", "not"), _is_schema_or_flag),
    "properties": _is_schema_map,
    "required": _is_name_list,
    "type": _is_type,
}
_RARE_KEYS = frozenset(
    {"contains", "contentEncoding", "contentMediaType", "contentSchema", "definitions", "dependencies", "else", "if"}
    | {"dependentRequired", "dependentSchemas", "maxContains", "minContains", "multipleOf", "patternProperties"}
    | {"prefixItems", "then", "unevaluatedItems", "unevaluatedProperties"}
)


def _plainly_valid(schema: Any, depth: int = 0) -> bool:
    """Say quickly that a schema of everyday keywords is valid; ``False`` means: ask the full validator."""
    if not isinstance(schema, dict) or depth > 50:
        return False
    for key, value in schema.items():
        check = _PLAIN_CHECKS.get(key)
        if check is None:
            if key in _RARE_KEYS or key.startswith("$"):
                return False  # any other key is no keyword, and free
        elif not check(value, depth):
            return False
    return True
