"""Calls written as Python-like text: ``Name(key='value', ...)``, often with values that Python would refuse."""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from toolscaler.errors import DataError

_CALL = re.compile(r"\s*([\w.-]+)\s*\((.*)\)\s*", re.DOTALL)
_KEY = re.compile(r"(?:^|,)\s*([^\W\d]\w*)\s*=(?!=)")
_NEXT_CALL = re.compile(r"\)\s*,\s*(?=[\w.-]+\()")
_CLOSING = {"'": "'", '"': '"', "[": "]", "{": "}", "(": ")", "<": ">"}
_WORDS = {"true": True, "false": False, "null": None, "none": None}


@dataclass(frozen=True)
class WrittenCall:
    """A call that was read from text.

    Attributes:
        name: Name of the tool.
        arguments: The arguments by name.
        unquoted: Values that are no literals, such as ``<order id>``; they stand in ``arguments`` as text.
        repaired: Number of quoted values that Python could not read, such as ``'today's date'``.
    """

    name: str
    arguments: dict[str, Any]
    unquoted: tuple[str, ...] = ()
    repaired: int = 0


def parse_call(text: str) -> WrittenCall:
    """Read ``Name(key=value, ...)``.

    A value ends before the next ``, key=`` at which its quotes or brackets are closed. A value that is no literal is
    kept as text: without its quotes if it has some, as it stands otherwise.

    Raises:
        DataError: The text is no call, has arguments without a name, or names one twice.
    """
    match = _CALL.fullmatch(text)
    if match is None:
        raise DataError(f"expected a call Name(key=value, ...), got {text!r:.120}")
    arguments: dict[str, Any] = {}
    unquoted: list[str] = []
    repaired = 0
    for key, raw in _split(match.group(2)):
        if key in arguments:
            raise DataError(f"expected each argument once, got {key!r} twice in {text!r:.120}")
        try:
            arguments[key] = parse_literal(raw)
            continue
        except ValueError:
            pass
        if raw[:1] in ("'", '"') and raw[-1:] == raw[:1] and len(raw) > 1:
            arguments[key] = raw[1:-1].replace("\\" + raw[0], raw[0])
            repaired += 1
        else:
            arguments[key] = raw
            unquoted.append(raw)
    return WrittenCall(match.group(1), arguments, tuple(unquoted), repaired)


def parse_calls(text: str) -> list[WrittenCall]:
    """Read one call, or several with commas between them.

    Raises:
        DataError: As :func:`parse_call`.
    """
    calls: list[WrittenCall] = []
    start = 0
    for match in _NEXT_CALL.finditer(text):
        try:
            call = parse_call(text[start : match.start() + 1])
        except DataError:
            continue
        if all(map(_is_closed, call.unquoted)):  # else the comma stands inside a value
            calls.append(call)
            start = match.end()
    return [*calls, parse_call(text[start:])]


def _split(inner: str) -> Iterator[tuple[str, str]]:
    if not inner.strip():
        return
    key, start = "", 0
    for match in _KEY.finditer(inner):
        if key and not _is_closed(inner[start : match.start()].strip()):
            continue
        if key:
            yield key, inner[start : match.start()].strip()
        elif match.start() > 0:
            break
        key, start = match.group(1), match.end()
    if not key:
        raise DataError(f"expected arguments with names, got {inner!r:.120}")
    yield key, inner[start:].strip()


def _is_closed(raw: str) -> bool:
    try:
        parse_literal(raw)
    except ValueError:
        return raw[:1] not in _CLOSING or (len(raw) > 1 and raw[-1] == _CLOSING[raw[0]])
    return True


def parse_literal(text: str) -> Any:
    """Read a Python or JSON literal as JSON data.

    Raises:
        ValueError: The text is none.
    """
    try:
        with warnings.catch_warnings():  # a path such as 'D:\Documents' is no reason to warn
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval")
        return _plain(tree.body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"no literal: {text!r:.80}") from error


def _plain(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str | int | float)):
        if isinstance(node.value, float) and not math.isfinite(node.value):
            raise ValueError("not finite")
        return node.value
    if isinstance(node, ast.Name) and node.id in _WORDS:
        return _WORDS[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_plain(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [None if key is None else _plain(key) for key in node.keys]
        if all(isinstance(key, str) for key in keys):
            return dict(zip(keys, map(_plain, node.values), strict=True))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        value = node.operand.value
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return -value
    raise ValueError("no literal")
