"""A model's text in, checked arguments out: strict JSON, then the tool's schema, with a bound on every step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from toolscaler.agent.executors.checking import ArgumentChecker, CheckFailed
from toolscaler.agent.executors.limits import ExecutorLimits
from toolscaler.data.documents import ToolDocument
from toolscaler.data.schema import JSON_TYPES, check_arguments_schema, parameters_schema
from toolscaler.errors import DataError


class ArgumentError(CheckFailed):
    """Arguments are refused, or a schema can describe none.

    Args:
        error_type: ``invalid_arguments``, ``too_large`` or ``invalid_schema``.
        message: What was expected and what came, fit for the model to read.
    """


def tool_document(tool: ToolDocument | Mapping[str, Any], limits: ExecutorLimits | None = None) -> ToolDocument:
    """Give a tool's document, or one made for a bare schema.

    Args:
        tool: A document, or the JSON Schema of arguments in any form that
            :func:`~toolscaler.data.schema.parameters_schema` reads.
        limits: Bounds on size and depth of a bare schema.

    Raises:
        ArgumentError: ``invalid_schema``: no schema of an object, too deep or too long.
    """
    if isinstance(tool, ToolDocument):
        return tool
    from toolscaler.agent.executors.checking import check_schema_size

    try:
        plain = check_schema_size(tool, limits or ExecutorLimits())
        kind = plain.get("type")
        if isinstance(kind, str) and kind in JSON_TYPES - {"object"}:
            raise DataError(f"expected a schema of type 'object', got {kind!r}")
        return ToolDocument("arguments", parameters=plain if _is_valid(plain) else parameters_schema(plain))
    except CheckFailed as error:
        raise ArgumentError(error.error_type, error.message) from error
    except (DataError, RecursionError) as error:
        raise ArgumentError("invalid_schema", f"the schema cannot be used: {error}") from error


def _is_valid(schema: dict[str, Any]) -> bool:
    """Say whether a schema is JSON Schema of an object as it stands, and not loosely written."""
    if schema.get("type") != "object":
        return False
    try:
        check_arguments_schema(schema)
    except DataError:
        return False
    return True


def parse_arguments(
    text: str,
    schema: ToolDocument | Mapping[str, Any],
    *,
    limits: ExecutorLimits | None = None,
    checker: ArgumentChecker | None = None,
    single_keys: bool = True,
) -> dict[str, Any]:
    """Read the arguments of a call from text, and check them against the tool's schema.

    The text must be one JSON object and nothing else: no comments, ``NaN`` or ``Infinity``, no key twice in an object
    (two readers could take different ones), no lone surrogates, no number outside what Python's floats hold.

    Args:
        text: What the model wrote.
        schema: The tool's document, or the JSON Schema of its arguments.
        limits: Bounds on size, depth and the cost of the check.
        checker: A checker of the same schema that is already there, to save making it.
        single_keys: Refuse a key that stands twice in one object; else the last one counts.

    Returns:
        The arguments as plain dictionaries and lists.

    Raises:
        ArgumentError: The text is no such object, does not fit the schema, is too large, or the schema is unusable.
    """
    limits = limits or ExecutorLimits()
    value = _strict_json(text, limits, single_keys)
    if not isinstance(value, dict):
        raise ArgumentError("invalid_arguments", f"expected a JSON object of arguments, got {type(value).__name__}")
    try:
        return (checker or ArgumentChecker(tool_document(schema, limits), limits)).check(value)
    except ArgumentError:
        raise
    except CheckFailed as error:
        raise ArgumentError(error.error_type, error.message) from error


def _strict_json(text: Any, limits: ExecutorLimits, single_keys: bool) -> Any:
    if not isinstance(text, str):
        raise ArgumentError("invalid_arguments", f"expected arguments as text, got {type(text).__name__}")
    if len(text) > limits.max_argument_bytes:
        limit = limits.max_argument_bytes
        raise ArgumentError("too_large", f"the arguments have {len(text)} characters; expected at most {limit}")
    try:
        return json.loads(text, object_pairs_hook=_single_keys if single_keys else dict, parse_constant=_no_constant)
    except RecursionError as error:
        raise ArgumentError("invalid_arguments", "the arguments are nested too deeply") from error
    except ValueError as error:  # also an integer of more digits than Python reads
        raise ArgumentError("invalid_arguments", f"expected one JSON object, got {text!r:.80}: {error}") from error


def _single_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"the key {twice!r:.80} stands twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
