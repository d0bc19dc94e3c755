"""JSON to the types of a Python function's parameters, and its result back to JSON text."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from toolscaler.agent.executors.checking import CheckFailed


def _moment(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))  # Python 3.10 knows no Z


_FROM_TEXT: dict[Any, Callable[[str], Any]] = {
    datetime.datetime: _moment,
    datetime.date: datetime.date.fromisoformat,
    Path: Path,
}
_LISTS: dict[Any, Callable[[Any], Any]] = {
    set: set,
    frozenset: frozenset,
    tuple: tuple,
    list: list,
}


def typed_arguments(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Give JSON arguments the types that the function's hints name: dates, enumerations, dataclasses, sets and so on.

    Args:
        function: The function.
        arguments: Arguments that fit the function's schema.

    Raises:
        CheckFailed: ``invalid_arguments``: a text is no date, number or member of the enumeration.
    """
    hints = _hints(function)
    typed = {}
    for name, value in arguments.items():
        try:
            typed[name] = from_json(value, hints.get(name, Any))
        except (ValueError, TypeError, KeyError, ArithmeticError) as error:
            raise CheckFailed("invalid_arguments", f"arguments.{name}: {error}"[:400]) from error
    return typed


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except (NameError, TypeError):
        return {}


def from_json(value: Any, hint: Any) -> Any:
    """Give one JSON value the type that a hint names; a hint that is JSON already leaves it as it is.

    Raises:
        ValueError: The value has no such form (also ``TypeError``, ``KeyError``, ``ArithmeticError``).
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return from_json(value, args[0])
    if origin in (Union, types.UnionType):
        return _from_union(value, args)
    if origin is Literal:
        return next((item for item in args if _plain(item) == value), value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)  # JSON Schema calls 3.0 an integer
    if hint is decimal.Decimal and isinstance(value, int | float):
        return decimal.Decimal(str(value))
    if hint in _FROM_TEXT and isinstance(value, str):
        return _FROM_TEXT[hint](value)
    if inspect.isclass(hint) and issubclass(hint, enum.Enum):
        return hint(value)
    if inspect.isclass(hint) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
        hints = get_type_hints(hint)
        return hint(**{key: from_json(item, hints.get(key, Any)) for key, item in value.items()})
    return _from_container(value, hint if origin is None else origin, args)


def _from_union(value: Any, options: tuple[Any, ...]) -> Any:
    """Take the first option whose plain type is the value's own, or else the first that can be made of it."""
    if type(value) in options or (value is None and type(None) in options):
        return value
    for option in options:
        try:
            made = from_json(value, option)
        except (ValueError, TypeError, KeyError, ArithmeticError):
            continue
        if made is not value:
            return made
    return value


def _from_container(value: Any, kind: Any, args: tuple[Any, ...]) -> Any:
    if isinstance(value, dict) and args and inspect.isclass(kind) and issubclass(kind, Mapping):
        return {key: from_json(item, args[-1]) for key, item in value.items()}
    if isinstance(value, list) and (args or kind in _LISTS):
        if kind is tuple and args and args[-1] is not ...:
            return tuple(from_json(item, inner) for item, inner in zip(value, args, strict=True))
        inner = args[0] if args else Any
        return _LISTS.get(kind, list)([from_json(item, inner) for item in value])
    return value


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value


def result_text(value: Any) -> str:
    """Write a function's result as text: text stays as it is, everything else becomes JSON.

    Raises:
        CheckFailed: ``invalid_response``: the result has no JSON form.
    """
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_to_json)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckFailed("invalid_response", f"the tool's result has no JSON form: {error}"[:400]) from error


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, decimal.Decimal):
        return float(value)
    for name in ("tolist", "model_dump"):  # numpy arrays and scalars, pydantic models
        if callable(getattr(value, name, None)):
            return getattr(value, name)()
    raise TypeError(f"{type(value).__name__} is no JSON data")
