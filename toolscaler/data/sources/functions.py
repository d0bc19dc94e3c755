"""Python callables as tools: type hints and a Google-style docstring become a tool document."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import importlib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
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
    datetime.date: {"type": "string", "format": "date"},
    datetime.datetime: {"type": "string", "format": "date-time"},
    decimal.Decimal: {"type": "number"},
    Path: {"type": "string"},
}
_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Return|Raises|Yields|Examples?|Notes?):\s*$")
_ENTRY = re.compile(r"^\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")


def schema_from_hint(hint: Any) -> dict[str, Any]:
    """Give the JSON Schema of a type hint.

    Args:
        hint: A resolved type hint: plain types, dates, ``list[T]``, ``dict[str, T]``, ``tuple``, ``Literal``,
            ``Union`` and ``Optional``, enumerations, dataclasses and ``TypedDict`` are understood.

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
        return _enumeration(list(args), hint)
    if inspect.isclass(hint) and origin is None:
        return _class_schema(hint)
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
        return {"type": "array", "items": schema_from_hint(args[0])} if args else {"type": "array"}
    raise _no_schema(hint)


def _no_schema(hint: Any) -> DataError:
    return DataError(f"no JSON Schema for the type hint {hint!r}; use plain types, lists, dicts, Literal or Optional")


def _enumeration(values: list[Any], hint: Any) -> dict[str, Any]:
    values = [value.value if isinstance(value, enum.Enum) else value for value in values]
    if not all(type(value) in (str, int, float, bool, type(None)) for value in values):
        raise _no_schema(hint)
    kinds = sorted({_PLAIN[type(value)]["type"] for value in values})
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


def _class_schema(hint: type) -> dict[str, Any]:
    """Give the schema of an enumeration, a dataclass or a ``TypedDict``."""
    if issubclass(hint, enum.Enum):
        return _enumeration([member.value for member in hint], hint)
    if dataclasses.is_dataclass(hint):
        missing = dataclasses.MISSING
        items = [item for item in dataclasses.fields(hint) if item.init]
        required = [item.name for item in items if item.default is missing and item.default_factory is missing]
        names = [item.name for item in items]
    elif typing.is_typeddict(hint):
        names = list(hint.__annotations__)
        required = [name for name in names if name in getattr(hint, "__required_keys__", ())]
    else:
        raise _no_schema(hint)
    try:
        hints = get_type_hints(hint)
        properties = {name: schema_from_hint(hints[name]) for name in names}
    except NameError as error:
        raise DataError(f"cannot read the type hints of {hint!r}: {error}") from error
    except RecursionError as error:
        raise DataError(f"no JSON Schema for the type hint {hint!r}: it contains itself") from error
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return {**schema, "required": required} if required else schema


def _plain_default(value: Any) -> tuple[bool, Any]:
    """Give whether a default value has a JSON form, and that form."""
    if isinstance(value, enum.Enum):
        return _plain_default(value.value)
    if isinstance(value, list | tuple):
        items = [_plain_default(item) for item in value]
        return all(known for known, _ in items), [item for _, item in items]
    if isinstance(value, dict):
        pairs = {str(key): _plain_default(item) for key, item in value.items()}
        return all(known for known, _ in pairs.values()), {key: item for key, (_, item) in pairs.items()}
    if isinstance(value, Path | datetime.date):
        return True, str(value) if isinstance(value, Path) else value.isoformat()
    if isinstance(value, float):
        return math.isfinite(value), value
    return value is None or isinstance(value, str | int), value


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
            known, default = _plain_default(parameter.default)
            if known:  # a default without a JSON form stays the function's own business
                schema["default"] = default
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


def documents_from_functions(
    source: Callable[..., Any] | types.ModuleType | str | Iterable[Callable[..., Any]],
    *,
    provider: str = "",
    category: str = "",
    source_code: bool = False,
) -> list[ToolDocument]:
    """Make tool documents of Python callables.

    Args:
        source: A callable; an iterable of callables; a module (the functions of its ``__all__``, or else the public
            functions that it defines); or the name of one of these: ``"package.module"`` or
            ``"package.module:attribute"``.
        provider: Provider of the tools.
        category: Category of the tools.
        source_code: Put each function's source text into ``code``.

    Raises:
        DataError: Nothing callable there, or a callable that cannot be described (see
            :func:`document_from_function`).
    """
    functions = _functions_of(_imported(source) if isinstance(source, str) else source)
    return [
        document_from_function(function, provider=provider, category=category, source=source_code)
        for function in functions
    ]


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split(".") if attribute else ():
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise DataError(f"expected 'package.module' or 'package.module:attribute', got {name!r}: {error}") from error
    return found


def _functions_of(source: Any) -> list[Callable[..., Any]]:
    if isinstance(source, types.ModuleType):
        names = getattr(source, "__all__", None)
        members = {name: getattr(source, name) for name in names} if names is not None else vars(source)
        found: list[Callable[..., Any]] = [
            member
            for name, member in members.items()
            if inspect.isroutine(member)
            and (names is not None or (not name.startswith("_") and member.__module__ == source.__name__))
        ]
        if not found:
            raise DataError(f"module {source.__name__!r} has no public functions")
        return found
    if callable(source):
        return [source]
    items = list(source) if isinstance(source, Iterable) else [source]
    for item in items:
        if not callable(item):
            raise DataError(f"expected a callable, got {type(item).__name__}")
    return items
