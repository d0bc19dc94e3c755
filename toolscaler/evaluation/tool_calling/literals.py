"""Java and JavaScript source text of a value in, the JSON value out: what BFCL's accepted values are compared with.

What cannot be read as the wanted type stays the text that it is, as upstream has it: the accepted value may be that
text, for example the name of a variable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: BFCL's Java types -> kinds of JSON values.
JAVA_KINDS: Mapping[str, str] = {
    **dict.fromkeys(("byte", "short", "integer", "long"), "integer"),
    **dict.fromkeys(("float", "double"), "float"),
    "boolean": "boolean",
    **dict.fromkeys(("char", "String", "any"), "string"),
    **dict.fromkeys(("Array", "ArrayList", "Queue", "Stack"), "array"),
    **dict.fromkeys(("HashMap", "Hashtable"), "object"),
}
#: BFCL's JavaScript types -> kinds of JSON values.
JAVASCRIPT_KINDS: Mapping[str, str] = {
    **dict.fromkeys(("integer", "Bigint"), "integer"),
    "float": "float",
    "Boolean": "boolean",
    **dict.fromkeys(("String", "any"), "string"),
    "array": "array",
    "dict": "object",
}

_INTEGER = re.compile(r"-?\d+")
_NUMBERS: Mapping[str, re.Pattern[str]] = {
    **dict.fromkeys(("byte", "short", "integer"), re.compile(r"(-?\d+)")),
    "long": re.compile(r"(-?\d+)[lL]"),
    "float": re.compile(r"(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)[fF]"),
    "double": re.compile(r"(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"),
}
_SCRIPT_NUMBERS: Mapping[str, re.Pattern[str]] = {
    "integer": re.compile(r"(-?\d+)"),
    "Bigint": re.compile(r"(-?\d+)n"),
    "float": re.compile(r"(-?\d+(?:\.\d+)?)"),
}
_TYPED_LONG, _TYPED_FLOAT = _NUMBERS["long"], _NUMBERS["float"]
_NEW_ARRAY = re.compile(r"new\s+\w+\s*\[\s*\]\s*\{(.*)\}", re.DOTALL)
_NEW_LIST = re.compile(r"new\s+ArrayList\s*<\s*[\w<>, ]*\s*>\s*\(\s*(?:Arrays\.asList\s*\((.*)\)\s*)?\)", re.DOTALL)
_FILLED_LIST = re.compile(r"new\s+ArrayList\s*<[\w<>, ]*>\s*\(\s*\)\s*\{\s*\{(.*)\}\s*\}", re.DOTALL)
_NEW_MAP = re.compile(r"new\s+HashMap\s*<.*?>\s*\(\s*\)\s*(?:\{\s*(?:\{(.*)\})?\s*\})?", re.DOTALL)
_SCRIPT_ARRAY = re.compile(r"\[(.*)\]|new\s+Array\s*\((.*)\)", re.DOTALL)
_STATEMENT = re.compile(r"(\w+)\s*\((.*)\)", re.DOTALL)
_OPENING, _CLOSING, _QUOTES = "([{", ")]}", "\"'"


def java_value(text: str, kind: str, items: str = "") -> Any:
    """Read a Java literal.

    Args:
        text: Source text, such as ``3.5f``, ``new int[]{1, 2}``, ``new ArrayList<>(Arrays.asList("a"))`` or
            ``new HashMap<String, Object>() {{ put("k", 1); }}``.
        kind: The type that is wanted, one of :data:`JAVA_KINDS`.
        items: Of an array or a list: the type of its items.

    Returns:
        A JSON value, or the text where it is no literal of that type. Texts of type ``String`` stay as they are.
    """
    if kind in _NUMBERS:
        match = _NUMBERS[kind].fullmatch(text)
        number = float if JAVA_KINDS[kind] == "float" else int
        return text if match is None else number(match.group(1))
    if kind == "boolean":
        return {"true": True, "false": False}.get(text, text)
    if kind in ("Array", "ArrayList"):
        found = _java_items(text.strip(), kind)
        return text if found is None else [_java_item(item, items) for item in found]
    if kind == "HashMap":
        return _java_map(text)
    return text


def _java_items(text: str, kind: str) -> list[str] | None:
    if kind == "Array":
        match = _NEW_ARRAY.fullmatch(text)
        return None if match is None else _parts(match.group(1))
    match = _NEW_LIST.fullmatch(text)
    if match is not None:
        return _parts(match.group(1) or "")
    match = _FILLED_LIST.fullmatch(text)
    return None if match is None else [inner for name, inner in _statements(match.group(1)) if name == "add"]


def _java_item(text: str, kind: str) -> Any:
    if kind in ("char", "String", "any", ""):
        return _unquoted(text) if kind in ("char", "String") else _java_plain(text)
    return java_value(text, kind)


def _java_map(text: str) -> Any:
    match = _NEW_MAP.fullmatch(text.strip())
    if match is None:
        return text
    entries = [_parts(inner) for name, inner in _statements(match.group(1) or "") if name == "put"]
    if any(len(entry) != 2 for entry in entries):
        return text
    return {str(_unquoted(key)): _java_plain(value) for key, value in entries}


def _java_plain(text: str) -> Any:
    """Read a literal whose type nobody says."""
    for pattern, number in ((_TYPED_LONG, int), (_TYPED_FLOAT, float)):
        match = pattern.fullmatch(text)
        if match is not None:
            return number(match.group(1))
    return _plain(text)


def javascript_value(text: str, kind: str, items: str = "") -> Any:
    """Read a JavaScript literal.

    Args:
        text: Source text, such as ``"a"``, ``12n``, ``[1, 'b']``, ``new Array(1, 2)`` or ``{key: [1]}``.
        kind: The type that is wanted, one of :data:`JAVASCRIPT_KINDS`.
        items: Of an array: the type of its items.

    Returns:
        A JSON value, or the text where it is no literal of that type.
    """
    if kind == "String":
        return _unquoted(text)
    if kind in _SCRIPT_NUMBERS:
        match = _SCRIPT_NUMBERS[kind].fullmatch(text)
        return text if match is None else (float if kind == "float" else int)(match.group(1))
    if kind == "Boolean":
        return {"true": True, "false": False}.get(text, text)
    if kind == "array":
        match = _SCRIPT_ARRAY.fullmatch(text.strip())
        if match is None:
            return text.strip()
        inner = match.group(1) if match.group(1) is not None else match.group(2)
        return [javascript_value(item, items) if items else _script_plain(item) for item in _parts(inner)]
    return _script_object(text) if kind == "dict" else text


def _script_object(text: str) -> Any:
    stripped = text.strip()
    if not (stripped.startswith("{") and stripped.endswith("}")):
        return stripped
    found: dict[str, Any] = {}
    for entry in _parts(stripped[1:-1]):
        key, colon, value = entry.partition(":")
        if not colon:
            return text
        found[str(_unquoted(key.strip()))] = _script_plain(value.strip())
    return found


def _script_plain(text: str) -> Any:
    if text[:1] == "[":
        return javascript_value(text, "array")
    return _script_object(text) if text[:1] == "{" else _plain(text)


def _plain(text: str) -> Any:
    """Read a truth value, a quoted text or a number; anything else is a text."""
    if text in ("true", "false"):
        return text == "true"
    unquoted = _unquoted(text)
    if unquoted != text:
        return unquoted
    if _INTEGER.fullmatch(text):
        return int(text)
    match = _NUMBERS["double"].fullmatch(text)
    return text if match is None else float(match.group(1))


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] in _QUOTES and text[-1] == text[0]:
        return text[1:-1]
    return text


def _parts(text: str, separator: str = ",") -> list[str]:
    """Divide at the separators that stand in no quotes and no brackets; empty parts go."""
    parts, start, depth, quote = [], 0, 0, ""
    skipped = False
    for at, letter in enumerate(text):
        if skipped or (quote and letter == "\\"):
            skipped = not skipped
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in _QUOTES:
            quote = letter
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth -= 1
        elif letter == separator and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def _statements(text: str) -> list[tuple[str, str]]:
    """Give name and inner text of calls such as ``add(1); add(2);``."""
    matches = (_STATEMENT.fullmatch(part) for part in _parts(text, ";"))
    return [(match.group(1), match.group(2)) for match in matches if match is not None]
