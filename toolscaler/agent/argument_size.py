"""How long the shortest arguments are that fit an engine schema, and by how much one token can lengthen them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_NUMBER, _PATTERN = 24, 64  # characters that a number or a text with a pattern may need, once begun


def shortest_text(schema: Any, defs: Mapping[str, Any]) -> int | None:
    """Bound the characters of the shortest text that fits.

    Args:
        schema: A schema as :class:`~toolscaler.agent.argument_schema.SchemaBuilder` makes them.
        defs: What its references name.

    Returns:
        Characters (of texts with a pattern an estimate), or ``None`` where nothing finite fits: a required property
        that needs itself.
    """
    return _length(schema, _lengths_of(defs))


def largest_growth(schema: Mapping[str, Any]) -> int:
    """Bound by how many characters one more token can lengthen the shortest way to whole arguments.

    Opening an optional property, an item or another branch makes its shortest value, and its name, required.
    """
    lengths = _lengths_of(schema.get("$defs", {}))
    most = 0
    for node in _nodes(schema):
        most = max(most, _length(node, lengths) or 0)
        names = node.get("properties", {}) if isinstance(node, Mapping) else {}
        for name, item in names.items():
            most = max(most, len(json.dumps(name)) + 4 + (_length(item, lengths) or 0))
    return most + 8


def _nodes(schema: Any) -> Iterator[Any]:
    queue = [schema]
    while queue:
        node = queue.pop()
        if not isinstance(node, Mapping):
            continue
        yield node
        for key in ("properties", "$defs", "patternProperties"):
            queue.extend(node.get(key, {}).values())
        for key in ("allOf", "anyOf", "oneOf", "prefixItems"):
            queue.extend(node.get(key, ()))
        queue.extend(node.get(key) for key in ("items", "additionalProperties"))


def _lengths_of(defs: Mapping[str, Any]) -> dict[str, int]:
    """Find the lengths of all definitions: those known make others known, until nothing changes."""
    lengths: dict[str, int] = {}
    for _ in range(len(defs) + 1):
        before = len(lengths)
        for name, node in defs.items():
            if name not in lengths:
                found = _length(node, lengths)
                if found is not None:
                    lengths[name] = found
        if len(lengths) == before:
            break
    return lengths


def _length(node: Any, lengths: Mapping[str, int]) -> int | None:
    if not isinstance(node, Mapping):
        return None if node is False else 4
    if "$ref" in node:
        return lengths.get(node["$ref"].rpartition("/")[2])
    if "enum" in node:
        return max(len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")) for value in node["enum"])
    if "allOf" in node:
        return _sum(_length(part, lengths) for part in node["allOf"])
    if "anyOf" in node or "oneOf" in node:
        found = [_length(part, lengths) for part in node.get("anyOf") or node["oneOf"]]
        return min((length for length in found if length is not None), default=None)
    kind = node.get("type")
    if kind == "object":
        return _object_length(node, lengths)
    if kind == "array":
        return _array_length(node, lengths)
    if kind == "string":
        return 2 + int(node.get("minLength", 0)) + _PATTERN * ("pattern" in node or "format" in node)
    return _NUMBER if kind in ("number", "integer") else 5


def _object_length(node: Mapping[str, Any], lengths: Mapping[str, int]) -> int | None:
    names, required = node.get("properties", {}), node.get("required", ())
    more = int(node.get("minProperties", 0)) - len(required)
    total = _sum(_length(names.get(name, True), lengths) for name in required)
    if total is not None and more > 0:
        other = _length(node.get("additionalProperties", True), lengths)
        total = None if other is None else total + more * (other + 8)
    return None if total is None else 2 + total + sum(len(json.dumps(name)) + 4 for name in required)


def _array_length(node: Mapping[str, Any], lengths: Mapping[str, int]) -> int | None:
    least = int(node.get("minItems", 0))
    first = node.get("prefixItems", [])[:least]
    rest = least - len(first)
    total = _sum(_length(item, lengths) for item in first)
    if total is not None and rest > 0:
        item = _length(node.get("items", True), lengths)
        total = None if item is None else total + rest * item
    return None if total is None else 2 + total + 2 * least


def _sum(lengths: Iterator[int | None]) -> int | None:
    total = 0
    for length in lengths:
        if length is None:
            return None
        total += length
    return total
