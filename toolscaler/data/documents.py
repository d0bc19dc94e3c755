"""The tool document: everything the library knows about one tool, as an immutable record."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any

from toolscaler.errors import DataError

#: The document fields that the compressor reconstructs, in the paper's order (section 5.1: m = 4).
TASK_FIELDS: tuple[str, ...] = ("category", "name", "code", "description")

_EMPTY_SCHEMA: dict[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True)
class ToolParameter:
    """One top-level parameter of a tool, read off its JSON Schema.

    Attributes:
        name: Parameter name.
        type: JSON Schema type; several types, also those of ``anyOf`` and ``oneOf``, are joined with ``|``; ``any``
            where the schema names none.
        description: What the parameter means; may be empty.
        required: Whether a call must give it.
        schema: The parameter's own JSON Schema.
    """

    name: str
    type: str
    description: str
    required: bool
    schema: Mapping[str, Any] = field(default_factory=dict)


def _type_names(schema: Any) -> list[str]:
    """Give the names of the types that a schema allows, each once, in its order."""
    if not isinstance(schema, Mapping):
        return ["any"]
    if "type" in schema:
        kind = schema["type"]
        return list(map(str, kind)) if isinstance(kind, tuple) else [str(kind)]
    options = schema.get("anyOf") or schema.get("oneOf")
    if not isinstance(options, tuple):
        return ["any"]
    names = dict.fromkeys(name for option in options for name in _type_names(option))
    return ["any"] if "any" in names else list(names)


def _frozen(value: Any) -> Any:
    """Copy JSON data into read-only mappings and tuples.

    Raises:
        DataError: The value is no JSON data.
    """
    if isinstance(value, Mapping):
        return MappingProxyType({str(key): _frozen(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    is_json = math.isfinite(value) if isinstance(value, float) else value is None or isinstance(value, str | int)
    if not is_json:
        raise DataError(f"expected plain JSON data, got {value!r:.80} ({type(value).__name__})")
    return value


def _thawed(value: Any) -> Any:
    """Copy read-only JSON data back into dictionaries and lists."""
    if isinstance(value, Mapping):
        return {key: _thawed(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_thawed(item) for item in value]
    return value


@dataclass(frozen=True, eq=False)
class ToolDocument:
    """The documentation of one tool.

    Two documents are equal when their content is (see :attr:`content_hash`).

    Attributes:
        name: The tool's own name, for example ``getLastBlockNumber``. Never stripped or changed. Not empty.
        description: What the tool does, in words.
        provider: Who offers it: an API, a package or an MCP server. May be empty.
        category: Topic, for example ``Finance``. May be empty.
        parameters: JSON Schema of the arguments: an object schema. Read-only; ``{}`` means no arguments.
        returns: JSON Schema of the result, or ``None`` where it is unknown.
        code: Source code, an example call or an example response. May be empty.
        id: The name that identifies the tool in a catalogue. Default: ``provider/name``, or ``name`` without provider.

    Raises:
        DataError: The name is empty, or a field has the wrong type.
    """

    name: str
    description: str = ""
    provider: str = ""
    category: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    returns: Mapping[str, Any] | None = None
    code: str = ""
    id: str = ""

    def __post_init__(self) -> None:
        for key in ("name", "description", "provider", "category", "code", "id"):
            value = getattr(self, key)
            if not isinstance(value, str):
                raise DataError(f"ToolDocument.{key}: expected text, got {type(value).__name__}")
        if not self.name.strip():
            raise DataError("ToolDocument.name: expected a name, got nothing")
        if not isinstance(self.parameters, Mapping):
            got = type(self.parameters).__name__
            raise DataError(f"ToolDocument.parameters of {self.name!r}: expected a JSON Schema object, got {got}")
        if self.returns is not None and not isinstance(self.returns, Mapping):
            got = type(self.returns).__name__
            raise DataError(f"ToolDocument.returns of {self.name!r}: expected a JSON Schema object or None, got {got}")
        for key, schema in (("parameters", self.parameters or _EMPTY_SCHEMA), ("returns", self.returns)):
            try:
                object.__setattr__(self, key, _frozen(schema))
            except DataError as error:
                raise DataError(f"ToolDocument.{key} of {self.name!r}: {error.message}") from None
        if not self.id:
            object.__setattr__(self, "id", f"{self.provider}/{self.name}" if self.provider else self.name)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) over the canonical JSON of every field; changes when anything in the document changes."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ToolDocument) and self.content_hash == other.content_hash

    def __hash__(self) -> int:
        return hash(self.content_hash)

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild from plain data: read-only mappings do not pickle by themselves."""
        return (ToolDocument.from_dict, (self.to_dict(),))

    def iter_parameters(self) -> Iterator[ToolParameter]:
        """Yield the top-level parameters in schema order."""
        required = set(self.parameters.get("required", ()))
        for name, schema in self.parameters.get("properties", {}).items():
            schema = schema if isinstance(schema, Mapping) else {}
            yield ToolParameter(
                name=name,
                type="|".join(_type_names(schema)),
                description=str(schema.get("description", "")),
                required=name in required,
                schema=schema,
            )

    def signature(self) -> str:
        """Give the call signature on one line, optional parameters marked: ``convert(value: number, to?: string)``."""
        inner = ", ".join(f"{p.name}{'' if p.required else '?'}: {p.type}" for p in self.iter_parameters())
        return f"{self.name}({inner})"

    def task_targets(self) -> dict[str, str]:
        """Give the text of each field the compressor reconstructs (:data:`TASK_FIELDS`).

        Without source code or example, ``code`` is the call signature.
        """
        return {
            "category": self.category,
            "name": f"{self.provider} {self.name}".strip(),
            "code": self.code or self.signature(),
            "description": self.description,
        }

    def to_text(self) -> str:
        """Give the documentation as text: the Content block of the paper (section 4.1).

        One labelled line a field; empty fields are left out.
        """
        lines = [f"name: {self.name}"]
        if self.provider:
            lines.append(f"provider: {self.provider}")
        if self.category:
            lines.append(f"category: {self.category}")
        if self.description:
            lines.append(f"description: {self.description}")
        for parameter in self.iter_parameters():
            optional = "" if parameter.required else ", optional"
            text = f": {parameter.description}" if parameter.description else ""
            lines.append(f"parameter {parameter.name} ({parameter.type}{optional}){text}")
        if self.returns is not None:
            described = str(self.returns.get("description", "")) or str(self.returns.get("type", ""))
            if described:
                lines.append(f"returns: {described}")
        if self.code:
            lines.append(f"code: {self.code}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON data; :meth:`from_dict` is the way back."""
        return {item.name: _thawed(getattr(self, item.name)) for item in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ToolDocument:
        """Build a document from :meth:`to_dict`'s data.

        Raises:
            DataError: A key is unknown, or the name is missing.
        """
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise DataError(f"ToolDocument: unknown keys {unknown}; expected {sorted(known)}")
        if "name" not in data:
            raise DataError("ToolDocument: expected a name, got nothing")
        return cls(**data)
