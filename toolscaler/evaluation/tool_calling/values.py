"""JSON values compared as JSON: true is not 1, and 5 is 5.0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolscaler.errors import EvaluationError


def json_kind(value: Any) -> str:
    """Name the kind of a value: string, integer, float, boolean, array, object or null.

    Raises:
        EvaluationError: It is no JSON value.
    """
    if value is None:
        return "null"
    for kind, types in _KINDS:
        if isinstance(value, types):
            return kind
    raise EvaluationError(f"expected a JSON value, got {type(value).__name__}")


_KINDS: tuple[tuple[str, Any], ...] = (
    ("boolean", bool),  # before integer, of which it is a child
    ("string", str),
    ("integer", int),
    ("float", float),
    ("array", list | tuple),
    ("object", Mapping),
)


def same_json(first: Any, second: Any) -> bool:
    """Say whether two JSON values are the same: numbers by value, everything else by kind and content."""
    if isinstance(first, bool) or isinstance(second, bool):
        return isinstance(first, bool) and isinstance(second, bool) and first == second
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(same_json(item, second[key]) for key, item in first.items())
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same_json, first, second))
    comparable = isinstance(first, int | float) and isinstance(second, int | float)
    return bool(first == second) and (comparable or type(first) is type(second))
