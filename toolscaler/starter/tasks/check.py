"""Reference values and calls: how a value is written in an answer, whether an answer holds it, whether calls agree."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from toolscaler.starter.registry import starter_function

_NUMBER = re.compile(r"(?<![\w.:-])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\d:-]|\.\d)")
_BETWEEN_LISTS = re.compile(r"\]\s*,\s*\[")
_BRACKETS = re.compile(r"[\[\](){}\"'`*]")
_WHOLE = re.compile(r"(?<=\d)\.0+(?!\d)")
_YES_NO = re.compile(r"\b(yes|no|true|false)\b")
#: Relative error that is allowed where the reference has more digits than an answer should show.
_TOLERANCE = 1e-4


def is_short(number: float) -> bool:
    """Say whether ten significant digits give the number whole; such numbers must be right to the last digit."""
    return float(f"{number:.10g}") == number


def value_text(value: Any) -> str:
    """Write a reference value as an answer shows it.

    Short numbers and texts are copied; numbers with many digits are rounded to six significant ones; lists are joined
    by commas, lists of lists by semicolons.

    Args:
        value: Plain JSON data.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and not is_short(value):
        return f"{value:.6g}"
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, list | tuple) for item in value)
        return ("; " if nested else ", ").join(value_text(item) for item in value)
    return json.dumps(value, ensure_ascii=False)


def holds_value(answer: str, reference: Any) -> bool:
    """Say whether an answer holds a reference value.

    - Truth values: the first yes, no, true or false of the answer decides.
    - Numbers: one of the answer's numbers is equal; a reference of more than ten significant digits may be off by one
      in ten thousand.
    - Texts: the answer contains the text with no letter or digit running on at either end; a run of spaces counts as
      one space, and so does a line break of the answer unless the reference has several lines.
    - Lists: the items stand in the answer in this order, with nothing else in the row; brackets and quotation marks do
      not matter.

    Args:
        answer: The final answer of an agent.
        reference: Plain JSON data, no mapping.
    """
    if isinstance(reference, bool):
        found = _YES_NO.search(answer.casefold())
        return found is not None and (found.group() in ("yes", "true")) == reference
    if isinstance(reference, int | float):
        return any(_equal(float(text.replace(",", "")), reference) for text in _NUMBER.findall(answer))
    if isinstance(reference, str):
        if "\n" in reference:
            return _contains(_lines(answer), _lines(reference))
        return _contains(" ".join(answer.split()), " ".join(reference.split()))
    wanted = _row(value_text(reference))
    return _contains(_row(answer), wanted, row=True)


def _lines(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def _equal(number: float, reference: float) -> bool:
    tolerance = 1e-12 if is_short(float(reference)) else _TOLERANCE
    return math.isclose(number, reference, rel_tol=tolerance, abs_tol=1e-12)


def _row(text: str) -> str:
    """Bring a list in running text into one form: items joined by a comma, lists within by a semicolon."""
    plain = _BRACKETS.sub("", _BETWEEN_LISTS.sub("; ", text)).replace(" and ", ", ")
    return re.sub(r"\s*([,;])[\s,;]*", r"\1 ", " ".join(_WHOLE.sub("", plain).split()))


def _contains(text: str, wanted: str, *, row: bool = False) -> bool:
    if not wanted:
        return False
    before = r"(?<!\w)" if wanted[0].isalnum() else ""
    after = r"(?!\w)" if wanted[-1].isalnum() else ""
    if row:
        before, after = before + r"(?<!\w[,;] )", after + r"(?![,;] \w)"
    return re.search(before + re.escape(wanted) + after, text) is not None


def same_arguments(tool: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Say whether two sets of arguments make the same call: defaults filled in, numbers compared by value.

    Args:
        tool: Tool id or function name.
        first: Arguments by name.
        second: Arguments by name.

    Returns:
        ``False`` also if a set does not fit the tool's parameters.

    Raises:
        UnknownToolError: No such tool.
    """
    signature = inspect.signature(starter_function(tool))
    filled = []
    for arguments in (first, second):
        try:
            bound = signature.bind(**arguments)
        except TypeError:
            return False
        bound.apply_defaults()
        filled.append(bound.arguments)
    return _same(filled[0], filled[1])


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    return isinstance(first, bool) == isinstance(second, bool) and bool(first == second)
