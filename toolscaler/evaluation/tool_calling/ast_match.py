"""Predicted calls and BFCL's accepted values in, whether every call is one that is accepted out. Nothing is run.

The rules are those of the Berkeley Function-Calling Leaderboard, of which this is an implementation of its own:

- As many calls as accepted ones; each accepted call has a predicted one of its own, in any order.
- Required arguments are there; no argument stands outside of the schema and the accepted values; an argument may be
  left out only where ``""`` is among its accepted values.
- Types are strict: true is no integer, 5.0 is no integer; an integer is a float, but not inside a list. A value, or an
  item of a list, of another type than the schema's is still accepted where the accepted one itself has that type (a
  variable's name, for example).
- Texts are compared without case, blanks and ``,./-_*^``, with single quotes as double ones; this holds for a text, the
  texts of a list and the texts of an object, not for those that are nested deeper.
- An object has only accepted keys, each with an accepted value; lists of objects are compared one by one.

Three things differ from upstream, which refuses some right answers and takes a few wrong ones: calls are matched with
accepted ones so that as many as possible fit (upstream takes the first that fits and may run into a dead end); true
never equals 1; and Java and JavaScript literals are parsed, so that the quoted texts of an array are texts and a
literal inside other text is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from toolscaler.data.trajectories import ToolCall
from toolscaler.errors import ConfigError, EvaluationError
from toolscaler.evaluation.tool_calling.assignment import best_assignment
from toolscaler.evaluation.tool_calling.literals import JAVA_KINDS, JAVASCRIPT_KINDS, java_value, javascript_value
from toolscaler.evaluation.tool_calling.values import json_kind, same_json

#: Language whose literals arguments are written in.
Language = Literal["python", "java", "javascript"]

_PYTHON_KINDS: Mapping[str, str] = {
    "string": "string",
    "integer": "integer",
    "float": "float",
    "number": "float",
    "boolean": "boolean",
    "array": "array",
    "tuple": "array",
    "dict": "object",
    "object": "object",
    "any": "string",
}
_WITH_ITEMS = frozenset({"array", "tuple", "Array", "ArrayList"})
_IGNORED = re.compile(r"[ ,./\-_*^]")
_MISSING = ""


@dataclass(frozen=True)
class AstVerdict:
    """Whether calls are accepted.

    Attributes:
        valid: Whether they are.
        error_type: Why not: ``wrong_count``, ``wrong_tool``, ``missing_argument``, ``unexpected_argument``,
            ``wrong_type``, ``wrong_value`` or, of several calls, ``no_match``; empty where they are.
        error: The same in words.
    """

    valid: bool
    error_type: str = ""
    error: str = ""

    def __bool__(self) -> bool:
        return self.valid


_FINE = AstVerdict(True)


def ast_match(
    calls: Sequence[ToolCall],
    functions: Sequence[Mapping[str, Any]],
    ground_truth: Sequence[Mapping[str, Mapping[str, Sequence[Any]]]],
    *,
    language: Language = "python",
    json_values: bool = True,
) -> AstVerdict:
    """Say whether predicted calls are accepted by BFCL's ``possible_answer``.

    Args:
        calls: The predicted calls, by the functions' own names.
        functions: The function documents of the row (``name``, ``parameters``), as BFCL has them.
        ground_truth: The accepted calls: each ``{name: {argument: [accepted values]}}``; ``""`` among the values: may
            be left out.
        language: Language of the category. Of ``java`` and ``javascript`` arguments are texts in that language, such as
            ``"new int[]{1, 2}"``.
        json_values: Whether arguments of these two may also be JSON values; upstream refuses them.

    Returns:
        The verdict; it counts as true where the calls are accepted.

    Raises:
        ConfigError: An unknown language.
        EvaluationError: An accepted call names no function of the row, or the row has a type that BFCL has not.
    """
    if language not in get_args(Language):
        raise ConfigError("language", language, f"one of {', '.join(get_args(Language))}")
    if len(calls) != len(ground_truth):
        return AstVerdict(False, "wrong_count", f"expected {len(ground_truth)} calls, got {len(calls)}")
    documents: dict[str, Mapping[str, Any]] = {}
    for function in functions:
        documents.setdefault(function["name"], function)
    reader = _Reader(language, json_values)
    verdicts = [[_one_call(call, *_accepted(item, documents), reader) for call in calls] for item in ground_truth]
    if len(verdicts) == 1:
        return verdicts[0][0]
    pairs = best_assignment([[float(verdict.valid) for verdict in row] for row in verdicts])
    for row, column in enumerate(pairs):
        if not verdicts[row][column]:
            wanted = next(iter(ground_truth[row]))
            reasons = "; ".join(
                f"call {at + 1}: {verdict.error}" for at, verdict in enumerate(verdicts[row]) if verdict.error
            )
            return AstVerdict(False, "no_match", f"no call fits the accepted {wanted!r} ({reasons:.300})")
    return _FINE


def _accepted(
    item: Mapping[str, Mapping[str, Sequence[Any]]], documents: Mapping[str, Mapping[str, Any]]
) -> tuple[str, Mapping[str, Sequence[Any]], Mapping[str, Any]]:
    if len(item) != 1:
        raise EvaluationError(f"ground_truth: expected one function a call, got {sorted(item)}")
    name, arguments = next(iter(item.items()))
    if name not in documents:
        raise EvaluationError(f"ground_truth: expected one of the functions {sorted(documents)}, got {name!r}")
    return name, arguments, documents[name].get("parameters") or {}


def _one_call(
    call: ToolCall, name: str, accepted: Mapping[str, Sequence[Any]], schema: Mapping[str, Any], reader: _Reader
) -> AstVerdict:
    if call.tool != name:
        return AstVerdict(False, "wrong_tool", f"expected {name!r}, got {call.tool!r}")
    properties = schema.get("properties") or {}
    for argument in schema.get("required") or ():
        if argument not in call.arguments:
            return AstVerdict(False, "missing_argument", f"required {argument!r} is missing")
    for argument, value in call.arguments.items():
        if argument not in properties or argument not in accepted:
            return AstVerdict(False, "unexpected_argument", f"unexpected {argument!r}")
        verdict = _one_value(argument, value, accepted[argument], properties[argument], reader)
        if not verdict:
            return verdict
    for argument, values in accepted.items():
        if argument not in call.arguments and _MISSING not in values:
            return AstVerdict(False, "missing_argument", f"{argument!r} is missing and may not be left out")
    return _FINE


def _one_value(
    argument: str, value: Any, accepted: Sequence[Any], schema: Mapping[str, Any], reader: _Reader
) -> AstVerdict:
    verdict = _wrong_type(argument, str(schema.get("type")), value)
    for number, reading in enumerate(reader.read(value, schema)):
        found = _one_reading(argument, reading, accepted, schema, reader)
        if found:
            return found
        verdict = verdict if number else found
    return verdict


def _one_reading(
    argument: str, value: Any, accepted: Sequence[Any], schema: Mapping[str, Any], reader: _Reader
) -> AstVerdict:
    written = str(schema.get("type"))
    kind = reader.kind(written)
    items = reader.item_kind(schema)
    first = next((json_kind(item) for item in accepted if item != _MISSING), "")
    found = json_kind(value)
    unfit = found == kind and bool(items) and not _items_fit(value, accepted, items)
    if unfit or found not in (kind, first):
        return _wrong_type(argument, written, value)
    # An accepted value of another type than the schema's is compared as it stands.
    as_written = found != kind or first not in ("", kind)
    if _value_fits(value, accepted, kind, items, as_written):
        return _FINE
    return AstVerdict(
        False, "wrong_value", f"{argument!r}: expected one of {list(accepted)!r:.200}, got {value!r:.100}"
    )


def _wrong_type(argument: str, written: str, value: Any) -> AstVerdict:
    return AstVerdict(False, "wrong_type", f"{argument!r}: expected {written}, got {json_kind(value)} {value!r:.100}")


def _items_fit(value: Sequence[Any], accepted: Sequence[Any], kind: str) -> bool:
    """Say whether each item of a list has the schema's type, or the type of one accepted list's first item."""
    for candidate in accepted:
        if not isinstance(candidate, list):
            return True
        first = next((json_kind(item) for item in candidate if item != _MISSING), "")
        if all(json_kind(item) in (kind, first) for item in value):
            return True
    return False


def _value_fits(value: Any, accepted: Sequence[Any], kind: str, items: str, as_written: bool) -> bool:
    if not as_written:
        if kind == "object":
            return any(_object_fits(value, item) for item in accepted if isinstance(item, Mapping))
        if kind == "array" and items == "object":
            return any(_objects_fit(value, item) for item in accepted)
        if kind == "string":
            return _is_among(_folded(value), [_folded(item) for item in accepted if isinstance(item, str)])
        if kind == "array":
            return _is_among(_folded_items(value), [_folded_items(item) for item in accepted])
    return _is_among(value, accepted)


def _is_among(value: Any, accepted: Sequence[Any]) -> bool:
    return any(same_json(value, item) for item in accepted)


def _object_fits(value: Mapping[str, Any], accepted: Mapping[str, Any]) -> bool:
    for key, item in value.items():
        if key not in accepted:
            return False
        values = accepted[key] if isinstance(accepted[key], list) else [accepted[key]]
        if not _is_among(_folded(item), [_folded(one) for one in values]):
            return False
    return all(key in value or (isinstance(values, list) and _MISSING in values) for key, values in accepted.items())


def _objects_fit(value: Sequence[Any], accepted: Any) -> bool:
    # "" stands for a list that may be left out; an empty list is as good.
    if len(value) != len(accepted):
        return False
    return all(
        isinstance(one, Mapping) and isinstance(other, Mapping) and _object_fits(one, other)
        for one, other in zip(value, accepted, strict=True)
    )


def _folded(value: Any) -> Any:
    """Give a text in the form in which texts are compared; anything else as it is."""
    return _IGNORED.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value


def _folded_items(value: Any) -> Any:
    if value == _MISSING:
        return []
    return [_folded(item) for item in value] if isinstance(value, list) else value


class _Reader:
    """Gives the values that arguments stand for, in one language."""

    def __init__(self, language: Language, json_values: bool) -> None:
        self.language, self._json_values = language, json_values
        kinds = {"python": _PYTHON_KINDS, "java": JAVA_KINDS, "javascript": JAVASCRIPT_KINDS}
        self._kinds: Mapping[str, str] = kinds[language]
        self._literal: Callable[[str, str, str], Any] = java_value if language == "java" else javascript_value

    def kind(self, written: str) -> str:
        """Give the kind of JSON value that a type stands for.

        Raises:
            EvaluationError: BFCL has no such type in this language.
        """
        if written not in self._kinds:
            raise EvaluationError(
                f"expected a type of BFCL ({self.language}): {', '.join(self._kinds)}; got {written!r}"
            )
        return self._kinds[written]

    def item_kind(self, schema: Mapping[str, Any]) -> str:
        """Give the kind of a list's items; empty where it is no list, or one of anything."""
        if str(schema.get("type")) not in _WITH_ITEMS:
            return ""
        written = str((schema.get("items") or {}).get("type"))
        return "" if written == "any" else self.kind(written)

    def read(self, value: Any, schema: Mapping[str, Any]) -> tuple[Any, ...]:
        """Give what an argument may stand for, likeliest first; nothing where this language needs a text."""
        written = str(schema.get("type"))
        whole_float = json_kind(value) == "integer" and self.kind(written) == "float"
        if self.language == "python" or (self._json_values and whole_float):
            return (float(value) if whole_float else value,)
        if isinstance(value, str):
            return (self._literal(value, written, str((schema.get("items") or {}).get("type", ""))),)
        if not self._json_values:
            return ()
        if isinstance(value, list) and self.item_kind(schema) == "float":
            value = [float(item) if json_kind(item) == "integer" else item for item in value]
        # Where any type is allowed, BFCL mostly has the accepted value as a text.
        return (value, json.dumps(value)) if written == "any" else (value,)
