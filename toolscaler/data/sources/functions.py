"""Python callables as tools: type hints and a Google-style docstring become a tool document."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from toolscaler.data.documents import ToolDocument
from toolscaler.errors import DataError

_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    dict: {"type": "object"},
    list: {"type": "array"},
    tuple: {"type": "array"},
    set: {"type": "array", "uniqueItems": True},
    Any: {},
    object: {},
}
_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Return|Raises|Yields|Examples?|Notes?):\s*$")
_ENTRY = re.compile(r"^\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")


def schema_from_hint(hint: Any) -> dict[str, Any]:
    """Give the JSON Schema of a type hint.

    Args:
        hint: A resolved type hint: plain types, ``list[T]``, ``dict[str, T]``, ``tuple``, ``Literal``, ``Union`` and
            ``Optional`` are understood.

    Raises:
        DataError: The hint has no JSON form.
    """
    try:
        if hint in _PLAIN:
            return dict(_PLAIN[hint])
    except TypeError:  # unhashable hints have no plain form
        pass
    origin, args = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return schema_from_hint(args[0])
    if origin is Literal:
        kinds = sorted({_PLAIN[type(value)]["type"] for value in args})
        return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(args)}
    if origin in (Union, types.UnionType):
        options = [schema_from_hint(item) for item in args]
        if all(set(option) == {"type"} for option in options):
            return {"type": [option["type"] for option in options]}
        return {"anyOf": options}
    if inspect.isclass(origin) and issubclass(origin, typing.Mapping):
        value = schema_from_hint(args[1]) if len(args) == 2 else {}
        return {"type": "object", "additionalProperties": value} if value else {"type": "object"}
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        items = [schema_from_hint(item) for item in args]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if inspect.isclass(origin) and issubclass(origin, typing.Iterable):
        return {"type": "array", "items": schema_from_hint(args[0])}
    raise DataError(f"no JSON Schema for the type hint {hint!r}; use plain types, lists, dicts, Literal or Optional")


def parse_docstring(docstring: str) -> tuple[str, dict[str, str], str]:
    """Split a Google-style docstring.

    Args:
        docstring: The text; indentation is cleaned.

    Returns:
        Description (summary and body on one line each paragraph), argument descriptions by name, and the text of the
        Returns section.
    """
    sections: dict[str, list[str]] = {"": []}
    current = ""
    for line in inspect.cleandoc(docstring).splitlines():
        header = _SECTION.match(line)
        if header:
            current = header.group(1)
            sections.setdefault(current, [])
        else:
            sections[current].append(line)
    paragraphs = re.split(r"\n\s*\n", "\n".join(sections[""]).strip())
    description = "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    arguments: dict[str, str] = {}
    for key in ("Args", "Arguments", "Parameters"):
        arguments.update(_entries(sections.get(key, [])))
    returned = " ".join(" ".join(sections.get("Returns", sections.get("Return", []))).split())
    return description, arguments, returned


def _entries(lines: list[str]) -> dict[str, str]:
    """Read ``name: text`` entries; deeper lines continue the entry above."""
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    base = min(indents, default=0)
    entries: dict[str, str] = {}
    name = ""
    for line in lines:
        match = _ENTRY.match(line.strip()) if len(line) - len(line.lstrip()) == base else None
        if match:
            name = match.group(1)
            entries[name] = match.group(2).strip()
        elif name and line.strip():
            entries[name] = f"{entries[name]} {line.strip()}".strip()
    return entries


def document_from_function(
    function: Callable[..., Any], *, name: str = "", provider: str = "", category: str = "", source: bool = False
) -> ToolDocument:
    """Make a tool document of a Python callable.

    Args:
        function: The callable. Parameters become the JSON Schema; ``*args`` and ``**kwargs`` are left out.
        name: Tool name; default: the function's own.
        provider: Provider of the tool.
        category: Category of the tool.
        source: Put the function's source text into ``code``; default: leave ``code`` empty.

    Raises:
        DataError: No name, or a parameter's type hint has no JSON form.
    """
    name = name or getattr(function, "__name__", "")
    if not name or name == "<lambda>":
        raise DataError("expected a named function, got a nameless callable; pass name=...")
    try:
        signature = inspect.signature(function)
        hints = get_type_hints(function)
    except (TypeError, ValueError, NameError) as error:
        raise DataError(f"cannot read the signature of {name!r}: {error}") from error
    description, arguments, returned = parse_docstring(inspect.getdoc(function) or "")
    properties: dict[str, Any] = {}
    required: list[str] = []
    for key, parameter in signature.parameters.items():
        if key in ("self", "cls") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        schema = schema_from_hint(hints.get(key, Any))
        if arguments.get(key):
            schema["description"] = arguments[key]
        if parameter.default is parameter.empty:
            required.append(key)
        else:
            schema["default"] = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        properties[key] = schema
    returns = None
    if returned or "return" in hints:
        returns = schema_from_hint(hints.get("return", Any))
        if returned:
            returns["description"] = returned
    parameters: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        parameters["required"] = required
    code = inspect.getsource(function) if source else ""
    return ToolDocument(name, description, provider, category, parameters, returns, code)
