"""A tool's JSON Schema in, one that a grammar engine takes out: every value of the new one is short and finite.

The engine (llguidance) refuses some keywords and would let others run without end. What cannot be kept is left out
and named, so that the caller knows what is checked after generation only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from toolscaler.agent.argument_patterns import grammar_pattern
from toolscaler.agent.argument_size import shortest_text
from toolscaler.agent.argument_text import ArgumentError
from toolscaler.errors import ConfigError

#: Whole numbers up to this size survive every JSON reader (IEEE 754 doubles).
MAX_INTEGER = 2**53 - 1

#: Numbers without a bound of their own stay inside this size, so that no text overflows to infinity.
MAX_NUMBER = 10**18

_FORMATS = frozenset(
    {"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"}
)  # an unknown format is an annotation
_KEYWORDS_OF: dict[str, tuple[str, ...]] = {
    "object": ("properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
#: Constraints that the engine does not know; they are checked after generation.
_AFTERWARDS = frozenset(
    {"not", "if", "uniqueItems", "contains", "propertyNames", "dependentRequired", "dependentSchemas", "dependencies"}
    | {"unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$recursiveRef"}
)
_COMPOSED = ("allOf", "anyOf", "oneOf")

#: Takes a leaf's type, its schema and the engine's schema of it; gives a narrower one of the latter, or ``None``.
Narrowing = Callable[[str, Mapping[str, Any], dict[str, Any]], dict[str, Any] | None]


@dataclass(frozen=True)
class ArgumentLimits:
    """Bounds of generated arguments and of the work on a schema.

    Attributes:
        max_nodes: Subschemas; a larger schema falls back to any JSON object.
        max_enum: Values of one ``enum``; a longer one is checked after generation.
        max_text: Characters of a text without ``maxLength``.
        max_items: Items of an array without ``maxItems``, and keys of an object without declared properties.
        max_free_depth: Nesting of values that the schema leaves open.

    Raises:
        ConfigError: A bound is no whole number from 1.
    """

    max_nodes: int = 4000
    max_enum: int = 10_000
    max_text: int = 4096
    max_items: int = 64
    max_free_depth: int = 4

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"ArgumentLimits.{item.name}", value, "a whole number from 1")


class TooManyNodes(Exception):
    """A schema has more parts than the limits allow."""


class SchemaBuilder:
    """Builds the engine's schema of one tool.

    Args:
        root: The tool's schema, plain JSON data, of an object.
        limits: The bounds.
        pattern_fits: Says whether the engine takes a pattern.
        one_of: Keep ``oneOf``, which the engine takes only where the branches cannot overlap; else ``anyOf``.
        types_only: Leave out composition, patterns and formats.
        narrow: What narrows texts and numbers without ``enum`` or ``const``. It is not asked about the values of free
            properties, about texts in an intersection, and where ``oneOf`` counts which branches fit.

    Attributes:
        narrowed: Leaves that were narrowed.
        notes: What was left out: a place in the schema and a keyword, for example ``$.properties.a: uniqueItems``.
    """

    def __init__(
        self,
        root: Mapping[str, Any],
        limits: ArgumentLimits,
        pattern_fits: Callable[[str], bool],
        *,
        one_of: bool = True,
        types_only: bool = False,
        narrow: Narrowing | None = None,
    ) -> None:
        self._root, self._limits, self._pattern_fits = root, limits, pattern_fits
        self._one_of, self._types_only = one_of, types_only
        self._nodes = 0
        self._defs: dict[str, Any] = {}
        self._names: dict[tuple[str, bool, bool], str] = {}
        self._narrow, self.narrowed = narrow, 0
        self.notes: list[str] = []

    def build(self) -> dict[str, Any]:
        """Give the schema.

        Raises:
            ArgumentError: No finite value can fit, or a reference leads nowhere.
            TooManyNodes: The schema is too large.
        """
        found = self._node({**self._root, "type": "object"}, "$", False)
        if found is False or shortest_text(found, self._defs) is None:
            raise ArgumentError("invalid_schema", "no finite arguments fit the schema")
        if self._defs:
            found = {**found, "$defs": self._defs}
        return dict(found)

    def _note(self, place: str, keyword: str) -> None:
        note = f"{place}: {keyword}"
        if note not in self.notes:
            self.notes.append(note)

    def _node(self, schema: Any, place: str, inside: bool) -> Any:
        """Build one subschema; ``False`` where nothing fits. ``inside``: it is intersected with others."""
        self._nodes += 1
        if self._nodes > self._limits.max_nodes:
            raise TooManyNodes
        if schema is False:
            return False
        if not isinstance(schema, Mapping):
            return True if inside else self._anything()
        for keyword in sorted(_AFTERWARDS.intersection(schema)):
            if schema[keyword] is not False:  # "uniqueItems": false says nothing
                self._note(place, keyword)
        if "enum" in schema or "const" in schema:
            return self._enum(schema, place)
        composed = [key for key in (*_COMPOSED, "$ref") if schema.get(key)]
        if self._types_only and composed:
            kept = [key for key in composed if key == "$ref"]
            for key in composed:
                if key not in kept:
                    self._note(place, key)
            composed = kept
        if composed:
            return self._composed(schema, composed, place, inside)
        return self._typed(schema, place, inside)

    def _anything(self) -> dict[str, Any]:
        """Refer to any JSON value of bounded depth and size."""
        depth, limits = self._limits.max_free_depth, self._limits
        for level in range(depth + 1):
            options: list[dict[str, Any]] = [
                {"type": "string", "maxLength": limits.max_text},
                {"type": "number", "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER},
                {"type": ["boolean", "null"]},
            ]
            if level:
                inner = {"$ref": f"#/$defs/any{level - 1}"}
                options.append({"type": "array", "items": inner, "maxItems": limits.max_items})
                options.append({"type": "object", "additionalProperties": inner, "maxProperties": limits.max_items})
            self._defs.setdefault(f"any{level}", {"anyOf": options})
        return {"$ref": f"#/$defs/any{depth}"}

    def _enum(self, schema: Mapping[str, Any], place: str) -> Any:
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        kinds = schema.get("type")
        wanted = {kinds} if isinstance(kinds, str) else set(kinds) if isinstance(kinds, list) else None
        values = [value for value in values if wanted is None or _kinds(value) & wanted]
        others = set(schema) & {*_COMPOSED, "$ref", *(key for keys in _KEYWORDS_OF.values() for key in keys)}
        for keyword in sorted(others | ({"const"} if {"enum", "const"} <= set(schema) else set())):
            self._note(place, keyword)
        if len(values) > self._limits.max_enum:
            self._note(place, "enum")
            with self._as_it_is():
                return self._typed({"type": sorted(set.union(*map(_kinds, values)))}, place, False)
        return {"enum": values} if values else False

    def _composed(self, schema: Mapping[str, Any], keys: list[str], place: str, inside: bool) -> Any:
        rest = {key: value for key, value in schema.items() if key not in (*_COMPOSED, "$ref")}
        has_rest = any(key in rest for keys_ in _KEYWORDS_OF.values() for key in keys_)
        many = len(keys) + has_rest > 1
        parts: list[Any] = []
        if has_rest:
            parts.append(self._typed(rest, place, True))
        for key in keys:
            if key == "$ref":
                parts.append(self._reference(schema["$ref"], place, inside or many))
            elif key == "allOf":
                shared = inside or many or len(schema["allOf"]) > 1
                parts += [self._node(s, f"{place}.allOf[{n}]", shared) for n, s in enumerate(schema["allOf"])]
            else:
                parts.append(self._options(schema, key, place, inside or many))
        if any(part is False for part in parts):
            return False
        return parts[0] if len(parts) == 1 else {"allOf": parts}

    def _options(self, schema: Mapping[str, Any], key: str, place: str, inside: bool) -> Any:
        if key == "oneOf" and self._narrow is not None:
            if not _disjoint(schema[key]):
                with self._as_it_is():  # a value that leaves one branch must not come to fit exactly one
                    return self._options(schema, key, place, inside)
            key, schema = "anyOf", {**schema, "anyOf": schema[key]}  # the same, and the engine sees it
        kinds = schema.get("type")
        built = []
        for number, option in enumerate(schema[key]):
            if (
                kinds is not None
                and isinstance(option, Mapping)
                and not {"type", "$ref", "enum", "const"} & set(option)
            ):
                option = {"type": kinds, **option}
            found = self._node(option, f"{place}.{key}[{number}]", inside)
            if found is not False:
                built.append(found)
        if not built:
            return False
        if key == "oneOf" and not self._one_of and len(built) > 1:
            self._note(place, "oneOf")
            key = "anyOf"
        return {key: built} if len(built) > 1 else built[0]

    def _reference(self, reference: Any, place: str, inside: bool) -> dict[str, Any]:
        chain = []
        while True:  # references that lead to references and nothing else
            if reference in chain:
                raise ArgumentError("invalid_schema", f"{place}: {reference!r} refers to itself without end")
            chain.append(reference)
            target = self._resolved(reference, place)
            if not (isinstance(target, Mapping) and set(target) == {"$ref"}):
                break
            reference = target["$ref"]
        known = (reference, inside, self._narrow is None)
        name = self._names.get(known)
        if name is None:
            name = self._names[known] = f"ref{len(self._names)}"
            built = self._node(target, str(reference), inside)
            if built is False:
                raise ArgumentError("invalid_schema", f"{place}: nothing fits {reference!r}")
            self._defs[name] = built
        return {"$ref": f"#/$defs/{name}"}

    def _resolved(self, reference: Any, place: str) -> Any:
        target: Any = self._root
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise ArgumentError(
                "invalid_schema", f"{place}: expected a reference inside the schema (#/...), got {reference!r:.100}"
            )
        for part in reference.split("/")[1:]:
            key = part.replace("%25", "%").replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and key.isdigit() and int(key) < len(target):
                target = target[int(key)]
            elif isinstance(target, Mapping) and key in target:
                target = target[key]
            else:
                raise ArgumentError("invalid_schema", f"{place}: {reference!r:.100} leads nowhere")
        return target

    def _typed(self, schema: Mapping[str, Any], place: str, inside: bool) -> Any:
        """Build a schema by its types; types that no keyword names are all of them."""
        kinds = schema.get("type")
        named = [kinds] if isinstance(kinds, str) else list(kinds) if isinstance(kinds, list) else []
        if not named:
            named = [kind for kind, keys in _KEYWORDS_OF.items() if any(key in schema for key in keys)]
            if not named:
                return True if inside else self._anything()
        makers = {"object": self._object, "array": self._array, "string": self._string}
        built: list[dict[str, Any]] = []
        for kind in named:
            if kind in ("number", "integer"):
                made = self._number(schema, kind, place)
            elif kind in makers:
                made = makers[kind](schema, place, inside)
            else:
                made = {"type": kind}
            if made is not False:
                built.append(self._leaf(kind, schema, made, inside))
        if not built:
            return False
        return built[0] if len(built) == 1 else {"anyOf": built}

    @contextmanager
    def _as_it_is(self) -> Generator[None, None, None]:
        """Narrow nothing meanwhile."""
        narrow, self._narrow = self._narrow, None
        try:
            yield
        finally:
            self._narrow = narrow

    def _leaf(self, kind: str, schema: Mapping[str, Any], made: dict[str, Any], inside: bool) -> dict[str, Any]:
        """Narrow a text or a number; long lists of values are written once."""
        if self._narrow is None or kind not in ("string", "number", "integer") or (inside and kind == "string"):
            return made
        found = self._narrow(kind, schema, made)
        if found is None:
            return made
        self.narrowed += 1
        name = next((name for name, node in self._defs.items() if node is found), f"narrowed{self.narrowed}")
        self._defs[name] = found
        return {"$ref": f"#/$defs/{name}"}

    def _string(self, schema: Mapping[str, Any], place: str, inside: bool) -> dict[str, Any]:
        made: dict[str, Any] = {"type": "string", **_taken(schema, ("minLength", "maxLength"))}
        pattern = schema.get("pattern")
        known_format = schema.get("format") in _FORMATS
        if pattern is not None:
            spelled = None if self._types_only else grammar_pattern(pattern)
            if spelled is not None and self._pattern_fits(spelled):
                made["pattern"] = spelled
            else:
                self._note(place, "pattern")
        elif known_format and not self._types_only:
            made["format"] = schema["format"]
        if "maxLength" not in made and "format" not in made and not inside:
            made["maxLength"] = max(self._limits.max_text, made.get("minLength", 0))
        return made

    def _number(self, schema: Mapping[str, Any], kind: str, place: str) -> dict[str, Any]:
        made: dict[str, Any] = {"type": kind, **_taken(schema, _KEYWORDS_OF["number"])}
        largest = MAX_INTEGER if kind == "integer" or "multipleOf" in made else MAX_NUMBER
        step = made.get("multipleOf")
        if step is not None and self._types_only:
            self._note(place, "multipleOf")
            del made["multipleOf"]
        elif isinstance(step, float) and not step.is_integer():
            largest = min(largest, math.floor(step * 10**12) or 1)  # the digits of a float
        low, high = made.get("minimum", -largest), made.get("maximum", largest)
        # A bound beyond the largest number stays where the other side needs it.
        made["minimum"] = max(low, -largest) if high >= -largest else low
        made["maximum"] = min(high, largest) if low <= largest else high
        return made

    def _array(self, schema: Mapping[str, Any], place: str, inside: bool) -> Any:
        made: dict[str, Any] = {"type": "array", **_taken(schema, ("minItems", "maxItems"))}
        least = made.get("minItems", 0)
        if "maxItems" not in made and not inside:
            made["maxItems"] = max(self._limits.max_items, least)
        first = schema.get("prefixItems")
        if isinstance(first, list) and first:
            built = [self._node(item, f"{place}.prefixItems[{n}]", inside) for n, item in enumerate(first)]
            stop = next((n for n, item in enumerate(built) if item is False), len(built))
            made["prefixItems"] = built[:stop]
            if stop < len(built):
                made["items"] = False
                return made if least <= stop else False
        if "items" in schema or not inside:
            made["items"] = self._node(schema.get("items", True), f"{place}.items", inside)
        if made.get("items") is False and least > len(made.get("prefixItems", ())):
            return False
        return made

    def _object(self, schema: Mapping[str, Any], place: str, inside: bool) -> Any:
        properties = schema.get("properties")
        required = list(dict.fromkeys(schema.get("required") or ()))
        more = schema.get("additionalProperties", not (isinstance(properties, Mapping) and not inside))
        built = self._properties(schema, required, place, inside)
        if built is None:
            return False
        made: dict[str, Any] = {"type": "object"}
        patterns = schema.get("patternProperties")
        if patterns:
            self._pattern_properties(patterns, made, place, inside)
        if built or isinstance(properties, Mapping):
            made["properties"] = built
        if required:
            made["required"] = required
        if more is False:
            made["additionalProperties"] = False
        elif not inside or isinstance(more, Mapping):
            with self._as_it_is():
                made["additionalProperties"] = self._node(more, f"{place}.additionalProperties", inside)
        self._property_counts(schema, made, place, inside)
        return made

    def _properties(
        self, schema: Mapping[str, Any], required: list[str], place: str, inside: bool
    ) -> dict[str, Any] | None:
        """Build the declared properties and what is required besides; ``None`` where a required one cannot be."""
        properties, built = schema.get("properties"), {}
        for name, item in (properties if isinstance(properties, Mapping) else {}).items():
            found = self._node(item, f"{place}.properties.{name}", inside)
            if found is not False:
                built[name] = found
            elif name in required:
                return None
        more = schema.get("additionalProperties", True)
        for name in required:
            if name not in built and not inside:
                with self._as_it_is():
                    found = self._node(more, f"{place}.{name}", inside)
                if found is False and not schema.get("patternProperties"):
                    return None
                if found is not False:
                    built[name] = found
        return built

    def _pattern_properties(self, patterns: Mapping[str, Any], made: dict[str, Any], place: str, inside: bool) -> None:
        kept = {}
        for pattern, item in patterns.items():
            spelled = None if self._types_only else grammar_pattern(pattern)
            with self._as_it_is():
                found = self._node(item, f"{place}.patternProperties", inside)
            if spelled is None or found is False or not self._pattern_fits(spelled):
                self._note(place, "patternProperties")
            else:
                kept[spelled] = found
        if kept:
            made["patternProperties"] = kept

    def _property_counts(self, schema: Mapping[str, Any], made: dict[str, Any], place: str, inside: bool) -> None:
        """Keep counts of properties where the engine takes them and they say something."""
        names, required = made.get("properties", {}), made.get("required", [])
        closed = made.get("additionalProperties") is False and "patternProperties" not in made
        plain = all(name in required for name in names)
        least, most = schema.get("minProperties", 0), schema.get("maxProperties")
        if least > len(required):
            if plain and not (closed and least > len(names)):
                made["minProperties"] = least
            else:
                self._note(place, "minProperties")
        if most is not None and not (closed and most >= len(names)):
            if plain:
                made["maxProperties"] = most
            else:
                self._note(place, "maxProperties")
        elif most is None and not closed and plain and not inside:
            made["maxProperties"] = max(self._limits.max_items, least, len(names))


def _taken(schema: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: schema[key] for key in keys if key in schema}


def _disjoint(options: Any) -> bool:
    """Say whether no value can fit two branches, since their types differ."""
    seen: set[str] = set()
    for option in options:
        kinds = option.get("type") if isinstance(option, Mapping) else None
        names = {kinds} if isinstance(kinds, str) else set(kinds) if isinstance(kinds, list) else set()
        names = {"number" if name == "integer" else name for name in names}
        if not names or names & seen:
            return False
        seen |= names
    return True


def _kinds(value: Any) -> set[str]:
    """Name the JSON types that a value has."""
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {"number", "integer"} if float(value).is_integer() else {"number"}
    names: dict[type, str] = {str: "string", list: "array", dict: "object"}
    return {names.get(type(value), "null")}
