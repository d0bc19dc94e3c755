"""Arguments against a tool's schema, with a bound on every step: a hostile schema costs an error, not the process.

What is bounded: size and depth of arguments and schema; the number of keyword evaluations, since a few lines of
nested ``anyOf`` can ask for 2**n of them; the time of each regular expression; and references, which stay inside the
schema (nothing is fetched).
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import islice
from typing import Any

from toolscaler.agent.executors.limits import ExecutorLimits
from toolscaler.agent.executors.patterns import found
from toolscaler.data.documents import ToolDocument
from toolscaler.data.schema import check_arguments_schema
from toolscaler.errors import DataError, ToolscalerError

_MAX_ERRORS = 16
#: Each level takes a few of Python's 1000 frames; beyond these, packages below that are written in Rust may panic.
_MAX_LEVELS = 150


class CheckFailed(ToolscalerError, ValueError):
    """Arguments, a schema or a result is refused.

    Args:
        error_type: One of :data:`~toolscaler.agent.executors.base.ERROR_TYPES`.
        message: What was expected and what came.
    """

    def __init__(self, error_type: str, message: str) -> None:
        self.error_type, self.message = error_type, message
        super().__init__(message)


class _TooMuchWork(Exception):
    """A check ran out of its budget."""


class _Budget:
    """Steps and time that one check may use."""

    def __init__(self, limits: ExecutorLimits) -> None:
        self._steps = limits.max_check_steps
        self._level = 0
        self._deadline = time.monotonic() + limits.max_check_seconds
        self.pattern_seconds = limits.max_check_seconds / 10

    @contextmanager
    def level(self) -> Iterator[None]:
        """Count one keyword inside another."""
        self._level += 1
        try:
            if self._level > _MAX_LEVELS:
                raise _TooMuchWork("it refers to itself without end, or is nested too deeply")
            yield
        finally:
            self._level -= 1

    def spend(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise _TooMuchWork("too many steps")
        if time.monotonic() > self._deadline:
            raise _TooMuchWork("too much time")


_BUDGET: ContextVar[_Budget] = ContextVar("toolscaler_check_budget")


class ArgumentChecker:
    """Checks the arguments of one tool. Thread-safe; the schema is looked at when it is first needed.

    Args:
        document: The tool.
        limits: The bounds.
    """

    def __init__(self, document: ToolDocument, limits: ExecutorLimits) -> None:
        self._document = document
        self._limits = limits
        self._lock = threading.Lock()
        self._validator: Any = None
        self._refusal: CheckFailed | None = None

    def check(self, arguments: Any) -> dict[str, Any]:
        """Give the arguments as plain JSON data of their own.

        Raises:
            CheckFailed: ``invalid_arguments`` or ``too_large``: the arguments are no JSON object, too large, or do
                not fit the schema. ``invalid_schema``: the schema is broken or costs too much.
        """
        if not isinstance(arguments, Mapping):
            raise CheckFailed("invalid_arguments", f"expected an object of arguments, got {type(arguments).__name__}")
        plain: dict[str, Any] = plain_json(arguments, self._limits.max_depth, "invalid_arguments")
        size = len(json_text(plain).encode())
        if size > self._limits.max_argument_bytes:
            limit = self._limits.max_argument_bytes
            raise CheckFailed("too_large", f"the arguments have {size} bytes; expected at most {limit}")
        validator = self._ready_validator()
        token = _BUDGET.set(_Budget(self._limits))
        try:
            problem = _first_problem(validator, plain)
        except (_TooMuchWork, TimeoutError, RecursionError) as error:
            raise CheckFailed("invalid_schema", f"the tool's schema is too costly to check: {_words(error)}") from error
        except Exception as error:  # a reference that leads nowhere, a broken pattern: always the schema's fault
            raise CheckFailed("invalid_schema", f"the tool's schema cannot be used: {_words(error)}") from error
        finally:
            _BUDGET.reset(token)
        if problem:
            raise CheckFailed("invalid_arguments", problem)
        return plain

    def _ready_validator(self) -> Any:
        with self._lock:
            if self._validator is None and self._refusal is None:
                try:
                    self._validator = _validator(self._document, self._limits)
                except CheckFailed as error:
                    self._refusal = error
            if self._refusal is not None:
                raise CheckFailed(self._refusal.error_type, self._refusal.message)
            return self._validator


def check_schema_size(schema: Any, limits: ExecutorLimits) -> dict[str, Any]:
    """Give a schema as plain JSON data, or refuse it for its size.

    Raises:
        CheckFailed: ``invalid_schema``: no JSON data, too deep or too long.
    """
    plain = plain_json(schema, limits.max_depth, "invalid_schema")
    if not isinstance(plain, dict):
        raise CheckFailed("invalid_schema", f"expected a schema as an object, got {type(plain).__name__}")
    size = len(json_text(plain).encode())
    if size > limits.max_schema_bytes:
        raise CheckFailed(
            "invalid_schema", f"the tool's schema has {size} bytes; expected at most {limits.max_schema_bytes}"
        )
    return plain


def _validator(document: ToolDocument, limits: ExecutorLimits) -> Any:
    from jsonschema.validators import Draft202012Validator, validator_for
    from jsonschema_specifications import REGISTRY

    schema = check_schema_size(document.parameters, limits)
    try:
        check_arguments_schema(schema)
    except DataError as error:
        raise CheckFailed("invalid_schema", f"the tool's schema cannot be used: {error.message}") from error
    if _has_key(schema, "unevaluatedProperties") and _has_key(schema, "patternProperties"):
        # jsonschema matches these patterns itself, without a time limit.
        raise CheckFailed("invalid_schema", "unevaluatedProperties beside patternProperties is not supported")
    base = validator_for(schema, default=Draft202012Validator)
    # Without a registry, jsonschema would fetch references over the network.
    return _bounded(base)(schema, registry=REGISTRY)


def _has_key(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_has_key(item, key) for item in value.values())
    return isinstance(value, list) and any(_has_key(item, key) for item in value)


def _first_problem(validator: Any, arguments: dict[str, Any]) -> str:
    from jsonschema.exceptions import best_match

    errors = list(islice(validator.iter_errors(arguments), _MAX_ERRORS))
    if not errors:
        return ""
    error = best_match(errors)
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    return f"arguments{place:.200}: {error.message:.400}"


@lru_cache(maxsize=16)
def _bounded(base: Any) -> Any:
    """Make a validator class of the same draft in which every keyword spends from the budget."""
    from jsonschema.validators import extend

    keywords = dict(base.VALIDATORS)
    own = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
    }
    keywords.update({name: function for name, function in own.items() if name in keywords})
    return extend(base, {name: _counted(function) for name, function in keywords.items()})


def _counted(keyword: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        budget = _BUDGET.get()
        budget.spend()
        with budget.level():
            yield from keyword(validator, value, instance, schema) or ()

    return counted


def _found(pattern: str, text: str) -> bool:
    return found(pattern, text, _BUDGET.get().pattern_seconds)


def _error(message: str) -> Any:
    from jsonschema.exceptions import ValidationError

    return ValidationError(message)


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, str) and not _found(pattern, instance):
        yield _error(f"{instance!r:.200} does not match {pattern!r:.100}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    for pattern, inner in patterns.items():
        for key, value in instance.items():
            _BUDGET.get().spend()
            if _found(pattern, key):
                yield from validator.descend(value, inner, path=key, schema_path=pattern)


def _additional_properties(validator: Any, inner: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for key, value in instance.items():
        _BUDGET.get().spend()
        if key in known or any(_found(pattern, key) for pattern in patterns):
            continue
        if inner is False:
            yield _error(f"unexpected {key!r:.100}; expected only {', '.join(sorted(known)) or 'nothing':.200}")
        elif inner is not True:
            yield from validator.descend(value, inner, path=key)


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[Any]:
    # jsonschema compares each pair where items cannot be sorted.
    if unique and isinstance(instance, list) and len({_canonical(item) for item in instance}) < len(instance):
        yield _error("expected items that differ from one another")


def _canonical(value: Any) -> str:
    """Give one text to all values that JSON Schema calls equal (1 and 1.0 are)."""
    return json.dumps(_whole(value), sort_keys=True)


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value


def _words(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it refers to itself without end, or is nested too deeply"
    if isinstance(error, TimeoutError):
        return "a regular expression takes too long"
    return f"{type(error).__name__}: {error}"[:300] if not isinstance(error, _TooMuchWork) else str(error)


def plain_json(value: Any, max_depth: int, error_type: str) -> Any:
    """Copy JSON data into dictionaries and lists.

    Args:
        value: Mappings, lists, tuples, text, finite numbers, booleans and ``None``.
        max_depth: Deepest nesting.
        error_type: The failure's type.

    Raises:
        CheckFailed: Something is no JSON data, or nested too deeply.
    """
    if isinstance(value, str):
        if value.isascii() or _is_unicode(value):
            return str(value)
        raise CheckFailed(error_type, "expected Unicode text, got a lone surrogate")
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise CheckFailed(error_type, f"expected a finite number, got {value}")
    if max_depth <= 0:
        raise CheckFailed(error_type, "nested too deeply")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) and _is_unicode(key) for key in value):
            raise CheckFailed(error_type, "expected text as the name of each field")
        return {key: plain_json(item, max_depth - 1, error_type) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item, max_depth - 1, error_type) for item in value]
    raise CheckFailed(error_type, f"expected plain JSON data, got {type(value).__name__}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_text(value: Any) -> str:
    """Write plain JSON data as text.

    Raises:
        CheckFailed: ``invalid_arguments``: an integer has more digits than Python writes.
    """
    try:
        return json.dumps(value, ensure_ascii=False)
    except ValueError as error:
        raise CheckFailed("invalid_arguments", f"cannot be written as JSON: {error}") from error
