"""JSON Schemas of tool arguments as people write them, brought to JSON Schema: types, flags, lists of arguments."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from toolscaler.data.schema_check import JSON_TYPES, check_arguments_schema, check_schema
from toolscaler.errors import DataError

__all__ = [
    "JSON_TYPES",
    "check_arguments_schema",
    "check_schema",
    "normalize_schema",
    "parameters_schema",
    "returns_schema",
    "type_schema",
]

_SYNONYMS: dict[str, str] = {
    **dict.fromkeys(("str", "text", "char", "character", "varchar", "uuid", "url", "uri", "email", "path"), "string"),
    **dict.fromkeys(("date", "datetime", "date-time", "time", "timestamp", "binary", "bytes", "file"), "string"),
    **dict.fromkeys(("int", "int32", "int64", "long", "short", "bigint", "biginteger", "uint"), "integer"),
    **dict.fromkeys(("float", "double", "decimal", "numeric", "real", "float32", "float64"), "number"),
    **dict.fromkeys(("bool",), "boolean"),
    **dict.fromkeys(("list", "arraylist", "tuple", "set", "frozenset", "sequence", "vector", "linkedlist"), "array"),
    **dict.fromkeys(("dict", "dictionary", "map", "hashmap", "mapping", "hashtable", "json", "struct"), "object"),
    **dict.fromkeys(("none", "nonetype", "nil"), "null"),
}
_ANY = frozenset({"", "any", "mixed", "unknown", "*", "object or any"})
_GENERIC = re.compile(r"^([\w.-]+)\s*[\[<](.*)[\]>]$", re.DOTALL)
_SCHEMA_KEYS = frozenset(
    {"additionalProperties", "contains", "else", "if", "not", "propertyNames", "then", "unevaluatedItems"}
    | {"unevaluatedProperties"}
)
_NUMBER_KEYS = frozenset(
    {"exclusiveMaximum", "exclusiveMinimum", "maxItems", "maxLength", "maxProperties", "maximum", "minItems"}
    | {"minLength", "minProperties", "minimum", "multipleOf"}
)
_FLAG_KEYS = frozenset({"deprecated", "nullable", "readOnly", "uniqueItems", "writeOnly"})
_OBJECT_KEYS = frozenset(
    {"additionalProperties", "allOf", "anyOf", "default", "definitions", "description", "examples", "maxProperties"}
    | {"minProperties", "oneOf", "patternProperties", "properties", "required", "title"}
)
_SCHEMA_LIST_KEYS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SCHEMA_MAP_KEYS = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties"})


def _split_top(text: str, separators: str) -> list[str]:
    """Split at separators that stand outside brackets."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char in "[<(") - (char in "]>)")
        if char in separators and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [part.strip() for part in [*parts, text[start:]]]


def type_schema(text: str) -> dict[str, Any]:
    """Give the JSON Schema of a type as people write it: ``STRING``, ``List[int]``, ``HashMap``, ``int | None``.

    Args:
        text: The type's name.

    Returns:
        A schema with ``type`` (and ``items``, ``additionalProperties`` or ``anyOf`` where the text says so), and the
        text under ``x-type`` where it says more than the schema's own type name. A name that means any value, or that
        nobody knows, gives no ``type``.
    """
    schema = _parsed_type(text.strip())
    if text.strip() and schema.get("type") != text.strip().lower():
        schema["x-type"] = text
    return schema


def _parsed_type(text: str) -> dict[str, Any]:
    lower = text.lower()
    if lower in JSON_TYPES:
        return {"type": lower}
    if lower in _SYNONYMS:
        return {"type": _SYNONYMS[lower]}
    if lower in _ANY:
        return {}
    if lower == "enum":
        return {"type": "string"}
    if lower.startswith("date (yyyy-mm-dd"):
        return {"type": "string", "format": "date"}
    options = _split_top(re.sub(r"\s+or\s+", "|", text), "|")
    if len(options) > 1:
        return _union(options)
    if lower.endswith("[]"):
        return {"type": "array", **_items(text[:-2])}
    generic = _GENERIC.match(text)
    if generic:
        return _parsed_generic(generic.group(1).rpartition(".")[2].lower(), generic.group(2))
    if re.match(r"^(date|time|datetime)\s*\(", lower):
        return {"type": "string"}
    return {}


def _items(text: str) -> dict[str, Any]:
    items = _parsed_type(text.strip())
    return {"items": items} if items else {}


def _parsed_generic(outer: str, inner: str) -> dict[str, Any]:
    arguments = _split_top(inner, ",")
    if outer == "optional":
        return _union([inner, "null"])
    if outer == "union":
        return _union(arguments)
    kind = outer if outer in JSON_TYPES else _SYNONYMS.get(outer, "")
    if kind == "array":
        return {"type": "array", **(_items(inner) if len(arguments) == 1 else {})}
    if kind == "object":
        value = _parsed_type(arguments[1]) if len(arguments) == 2 else {}
        return {"type": "object", "additionalProperties": value} if value else {"type": "object"}
    return {"type": kind} if kind else {}


def _union(options: Iterable[str]) -> dict[str, Any]:
    schemas = [_parsed_type(option) for option in options]
    if not all(schemas):
        return {}  # one option allows any value
    if all(set(schema) == {"type"} for schema in schemas):
        kinds = list(dict.fromkeys(schema["type"] for schema in schemas))
        return {"type": kinds[0] if len(kinds) == 1 else kinds}
    return {"anyOf": schemas}


def normalize_schema(schema: Any) -> dict[str, Any]:
    """Bring a loosely written schema to JSON Schema, Draft 2020-12.

    Type names of programming languages become JSON types (the original stays under ``x-type``, see
    :func:`type_schema`); ``required: true`` inside a property moves to the object's list; ``items`` as a list becomes
    ``prefixItems``; ``nullable`` becomes a ``null`` type; bounds and flags written as text become
    numbers and booleans; boolean ``exclusiveMinimum`` (Draft 4) takes the number of ``minimum``. A schema that is text
    is a type name, or a description where no type has that name.

    Args:
        schema: A schema, a type name, or ``None`` for any value. Not changed.

    Returns:
        The schema as new dictionaries. It may still be invalid in ways that only its author can mend; see
        :func:`check_schema`.

    Raises:
        DataError: ``schema`` is none of these.
    """
    if schema is None or schema is True:
        return {}
    if isinstance(schema, str):
        parsed = _parsed_type(schema.strip())
        return type_schema(schema) if parsed or schema.strip().lower() in _ANY else {"description": schema}
    if not isinstance(schema, Mapping):
        raise DataError(f"expected a JSON Schema object, got {type(schema).__name__}")
    result: dict[str, Any] = {}
    for key, value in schema.items():
        _normalize_keyword(str(key), value, result)
    _draft4_bounds(result)
    if result.pop("nullable", None) is True:
        _allow_null(result)
    if "properties" in result or "required" in result:
        _normalize_required(schema, result)
    return result


def _normalize_keyword(key: str, value: Any, result: dict[str, Any]) -> None:
    if key == "type":
        _normalize_type(value, result)
    elif key == "properties" and isinstance(value, Mapping):
        result[key] = {str(name): _normalize_property(item) for name, item in value.items()}
    elif key in _SCHEMA_MAP_KEYS and isinstance(value, Mapping):
        result[key] = {str(name): normalize_schema(item) for name, item in value.items()}
    elif (key in _SCHEMA_KEYS or key == "items") and isinstance(value, Mapping | str):
        result[key] = normalize_schema(value)
    elif key == "items" and isinstance(value, list | tuple):
        result["prefixItems"] = [normalize_schema(item) for item in value]
    elif key in _SCHEMA_LIST_KEYS and isinstance(value, list | tuple):
        result[key] = [normalize_schema(item) for item in value]
    elif key in _NUMBER_KEYS and isinstance(value, str):
        result[key] = _number(value)
    elif key in _FLAG_KEYS and value in ("true", "false"):
        result[key] = value == "true"
    elif key == "examples" and value is not None and not isinstance(value, list):
        result[key] = [value]
    elif key == "description":
        result[key] = "" if value is None else value if isinstance(value, str) else str(value)
    else:
        result[key] = value


def _number(text: str) -> Any:
    """Give the number that a bound written as text means; other text stays, for check_schema to refuse."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def _normalize_type(value: Any, result: dict[str, Any]) -> None:
    if isinstance(value, str):
        found = type_schema(value)
    elif isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        found = _union(value)
        if found.get("type") != list(value):
            found["x-type"] = " | ".join(value)
    elif value is None:
        found = {}
    else:
        found = {"type": value}  # left for check_schema to refuse
    for key, item in found.items():
        result.setdefault(key, item)


def _normalize_property(schema: Any) -> dict[str, Any]:
    """Normalise a property, without Draft 3's ``required: true``, which :func:`_normalize_required` reads."""
    if isinstance(schema, Mapping) and isinstance(schema.get("required"), bool):
        schema = {key: value for key, value in schema.items() if key != "required"}
    return normalize_schema(schema)


def _normalize_required(schema: Mapping[str, Any], result: dict[str, Any]) -> None:
    given = schema.get("required")
    names = list(given) if isinstance(given, list | tuple) else [given] if isinstance(given, str) and given else []
    if given is not None and not isinstance(given, list | tuple | str | bool):
        return  # left for check_schema to refuse
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        names += [
            str(name) for name, item in properties.items() if isinstance(item, Mapping) and item.get("required") is True
        ]
    result.pop("required", None)
    if names:
        result["required"] = list(dict.fromkeys(names)) if all(isinstance(name, str) for name in names) else names


def _draft4_bounds(result: dict[str, Any]) -> None:
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        flag = result.get(exclusive)
        if isinstance(flag, bool):
            del result[exclusive]
            if flag and bound in result:
                result[exclusive] = result.pop(bound)


def _allow_null(result: dict[str, Any]) -> None:
    kinds = result.get("type")
    if isinstance(kinds, str):
        result["type"] = [kinds, "null"]
    elif isinstance(kinds, list) and "null" not in kinds:
        result["type"] = [*kinds, "null"]
    elif kinds is None and "anyOf" in result:
        result["anyOf"] = [*result["anyOf"], {"type": "null"}]
    if isinstance(result.get("enum"), list) and None not in result["enum"]:
        result["enum"] = [*result["enum"], None]


def parameters_schema(value: Any, required: Iterable[str] | None = None) -> dict[str, Any]:
    """Give the object schema of a tool's arguments, however a table of tools writes them.

    Args:
        value: A JSON Schema of an object; or a mapping of argument name to schema (or type name); or a list of
            arguments, each a mapping with ``name`` (and ``type``, ``description``, ``required``, ``default``); or
            ``None`` for no arguments.
        required: Names of the required arguments, where the source lists them apart.

    Returns:
        A normalised schema (:func:`normalize_schema`) of type ``object``.

    Raises:
        DataError: ``value`` is none of these, or an argument of a list has no name.
    """
    if value is None or value == "":
        value = {}
    if isinstance(value, list | tuple):
        value = {"type": "object", "properties": _named_arguments(value)}
    if not isinstance(value, Mapping):
        raise DataError(f"expected the arguments as an object or a list, got {type(value).__name__}")
    if not _is_object_schema(value):
        value = {"type": "object", "properties": value}
    schema = normalize_schema(value)
    if schema.get("type") is None:
        schema["type"] = "object"
    schema.setdefault("properties", {})
    if required is not None:
        names = [required] if isinstance(required, str) else list(required)
        schema["required"] = list(dict.fromkeys([*schema.get("required", []), *names]))
        if not schema["required"]:
            del schema["required"]
    return schema


def returns_schema(value: Any) -> dict[str, Any] | None:
    """Give the schema of a tool's result, however a table of tools writes it.

    Args:
        value: A JSON Schema of any type, a type name, a mapping of field name to schema, or ``None`` where the result
            is unknown.

    Returns:
        A normalised schema, or ``None``.

    Raises:
        DataError: ``value`` is none of these.
    """
    if value is None or value == "":
        return None
    if isinstance(value, Mapping) and value and not _is_schema(value):
        return parameters_schema(value)
    return normalize_schema(value)


def _is_schema(value: Mapping[str, Any]) -> bool:
    if isinstance(value.get("type"), str | list):
        return True
    composed = any(isinstance(value.get(key), list) for key in ("anyOf", "oneOf", "allOf", "enum"))
    return composed or isinstance(value.get("$ref"), str) or _is_object_schema(value)


def _is_object_schema(value: Mapping[str, Any]) -> bool:
    """Tell a schema from a mapping of argument names: an argument may be called ``type`` or ``properties`` too."""
    kind, inner = value.get("type"), value.get("properties")
    if kind is not None:
        return isinstance(kind, str) and _parsed_type(kind.strip()).get("type") == "object"
    only_keywords = all(key in _OBJECT_KEYS or str(key).startswith(("$", "x-")) for key in value)
    # {"properties": {"type": "str", "description": ...}} is an argument called properties.
    return only_keywords and isinstance(inner, Mapping) and not isinstance(inner.get("type"), str)


def _named_arguments(items: Iterable[Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for item in items:
        if not isinstance(item, Mapping) or not isinstance(item.get("name"), str) or not item["name"]:
            raise DataError(f"expected each argument as an object with a name, got {item!r:.80}")
        properties[item["name"]] = {key: value for key, value in item.items() if key != "name"}
    return properties
