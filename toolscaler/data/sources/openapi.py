"""OpenAPI 3.0 and 3.1, in JSON and YAML: one tool an operation."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from toolscaler.data.documents import ToolDocument
from toolscaler.data.schema import check_arguments_schema, check_schema, normalize_schema
from toolscaler.data.sources.base import ReadOptions, SourceReader, text_of
from toolscaler.data.sources.opening import Record, Source
from toolscaler.errors import DataError

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace", "query")
#: Header parameters with these names are described elsewhere in a specification and are no arguments.
_NO_ARGUMENTS = frozenset({"accept", "content-type", "authorization"})
#: Keys that mean something only inside the document, or nothing to a caller.
_DROPPED = frozenset({"discriminator", "xml", "externalDocs", "$recursiveAnchor", "$dynamicAnchor", "$anchor", "$id"})


class OpenAPIReader(SourceReader):
    """Operations of an OpenAPI document.

    The name is the ``operationId``, or method and path where there is none; the provider is the document's title, the
    category the first tag, ``code`` the call (``GET /pets/{petId}``). Arguments are the parameters of the path and of
    the operation and the fields of a JSON request body; each says under ``x-in`` where it goes. An argument whose name
    is taken gets the place in front (``query_id``); a body that is no object is the argument ``body``.

    Local references are written out. One that leads back into itself, or lies deeper than ``max_ref_depth``
    references, is cut: what stays is the schema's ``type`` and description, and its name under ``x-ref``.

    Args:
        max_ref_depth: How many references inside one another are written out.
    """

    name = "openapi"
    summary = "OpenAPI 3.0 and 3.1"

    def __init__(self, max_ref_depth: int = 4) -> None:
        self.max_ref_depth = max_ref_depth

    def sniff(self, source: Source) -> bool:
        """Say whether the source is an object with an ``openapi`` (or ``swagger``) version."""
        return isinstance(source.value, Mapping) and bool({"openapi", "swagger"} & set(source.value))

    def records(self, source: Source, options: ReadOptions) -> Iterator[Record]:
        """Yield one record an operation, in the order of the document.

        Raises:
            DataError: The document is no OpenAPI 3, or has no paths.
        """
        spec = source.value
        version = spec.get("openapi") if isinstance(spec, Mapping) else None
        if not isinstance(version, str) or not version.startswith("3."):
            got = f"Swagger {spec.get('swagger')}" if isinstance(spec, Mapping) and "swagger" in spec else repr(version)
            raise DataError(f"expected OpenAPI 3.0 or 3.1, got {got}; convert the document first", path=source.path)
        references = _References(spec, self.max_ref_depth)
        paths = spec.get("paths", {} if "webhooks" in spec or "components" in spec else None)
        if not isinstance(paths, Mapping):
            raise DataError("expected an object under 'paths'", path=source.path)
        for path, item in paths.items():
            pointer = ("paths", str(path))
            try:
                item = references.target(item)
            except DataError as error:
                yield Record(None, None, pointer, error.message)
                continue
            if not isinstance(item, Mapping):
                yield Record(None, None, pointer, f"expected an object of operations, got {type(item).__name__}")
                continue
            context = {"references": references, "path": str(path), "item": item}
            for method in item:
                if method in _METHODS:
                    yield Record(item[method], None, (*pointer, method), context={**context, "method": method})

    def document(self, record: Record, options: ReadOptions) -> ToolDocument:
        """Make the document of one operation.

        Raises:
            DataError: A reference leads nowhere or out of the document, or a part has the wrong type.
        """
        operation, context = record.data, record.context or {}
        if not isinstance(operation, Mapping):
            raise DataError(f"expected an operation object, got {type(operation).__name__}")
        references: _References = context["references"]
        call = f"{context['method'].upper()} {context['path']}"
        parameters = _arguments(operation, context["item"], references)
        check_arguments_schema(parameters)
        returns = _response(operation, references)
        if returns is not None:
            check_schema(returns, "response")
        info = references.document.get("info")
        tags = operation.get("tags")
        texts = [text_of(operation, "summary").strip(), text_of(operation, "description").strip()]
        return ToolDocument(
            name=text_of(operation, "operationId") or call,
            description="\n".join(dict.fromkeys(text for text in texts if text)),
            provider=(text_of(info, "title") if isinstance(info, Mapping) else "") or options.provider,
            category=str(tags[0]) if isinstance(tags, list) and tags else options.category,
            parameters=parameters,
            returns=returns,
            code=call,
        )


class _References:
    """Resolve the local references of one document."""

    def __init__(self, document: Mapping[str, Any], max_depth: int) -> None:
        self.document = document
        self._max_depth = max_depth

    def lookup(self, reference: Any) -> Any:
        """Give what a reference points at.

        Raises:
            DataError: It points out of the document, or nowhere.
        """
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise DataError(f"expected a local reference (#/...), got {reference!r:.120}; bundle the document first")
        found: Any = self.document
        for part in urllib.parse.unquote(reference[1:]).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping):
                # YAML reads the key of a response, for example 200, as a number.
                found = found.get(key, found.get(int(key)) if key.isdigit() else None)
            elif isinstance(found, list) and key.isdigit() and int(key) < len(found):
                found = found[int(key)]
            else:
                found = None
            if found is None:
                raise DataError(f"the reference {reference!r} leads nowhere")
        return found

    def target(self, item: Any) -> Any:
        """Follow the references of an object that is no schema (a parameter, a body, a path) to the end.

        Raises:
            DataError: A reference leads nowhere, out of the document, or in a circle.
        """
        seen: set[str] = set()
        while isinstance(item, Mapping) and "$ref" in item:
            reference = item["$ref"]
            if reference in seen:
                raise DataError(f"the reference {reference!r} leads back to itself")
            seen.add(reference)
            item = self.lookup(reference)
        return item

    def schema(self, schema: Any, trail: tuple[str, ...] = ()) -> Any:
        """Write out the references inside a schema; cycles and great depth are cut.

        Args:
            schema: The schema.
            trail: The references that led here.

        Raises:
            DataError: A reference leads nowhere or out of the document.
        """
        if isinstance(schema, list):
            return [self.schema(item, trail) for item in schema]
        if not isinstance(schema, Mapping):
            return schema
        reference = schema.get("$ref")
        if isinstance(reference, str):  # otherwise a property may be called $ref
            beside = {key: self.schema(value, trail) for key, value in schema.items() if key != "$ref"}
            target = self.lookup(reference)
            if reference in trail or len(trail) >= self._max_depth:
                return {**self._cut(reference, target), **beside}
            written = self.schema(target, (*trail, reference))
            return {**written, **beside} if isinstance(written, Mapping) else written
        recursive = schema.get("$recursiveRef", schema.get("$dynamicRef"))
        if isinstance(recursive, str):
            return {"x-ref": recursive}
        return {
            key: value if key in ("example", "examples", "default", "enum", "const") else self.schema(value, trail)
            for key, value in schema.items()
            if key not in _DROPPED
        }

    @staticmethod
    def _cut(reference: str, target: Any) -> dict[str, Any]:
        kept = {"x-ref": reference.rpartition("/")[2]}
        if isinstance(target, Mapping):
            kept.update({key: target[key] for key in ("type", "description") if isinstance(target.get(key), str)})
        return kept


def _arguments(operation: Mapping[str, Any], item: Mapping[str, Any], references: _References) -> dict[str, Any]:
    """Give the object schema of everything a call can pass."""
    merged: dict[tuple[str, str], Mapping[str, Any]] = {}
    for holder in (item, operation):  # the operation's own parameter replaces the path's
        for parameter in holder.get("parameters") or ():
            parameter = references.target(parameter)
            if not isinstance(parameter, Mapping) or not isinstance(parameter.get("name"), str):
                raise DataError(f"expected a parameter with a name, got {parameter!r:.120}")
            merged[str(parameter.get("in", "query")), parameter["name"]] = parameter
    schema: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
    for (place, name), parameter in merged.items():
        if place == "header" and name.lower() in _NO_ARGUMENTS:
            continue
        given = parameter.get("schema")
        if given is None:
            given = _json_content(parameter.get("content"), references)
        required = place == "path" or _is_true(parameter.get("required"))
        _add(schema, place, name, _schema(given, references), required, parameter.get("description"))
    _add_body(schema, references.target(operation.get("requestBody")), references)
    if not schema["required"]:
        del schema["required"]
    return schema


def _is_true(flag: Any) -> bool:
    return flag is True or flag == "true"  # some documents write flags as text


def _schema(given: Any, references: _References) -> dict[str, Any]:
    written = normalize_schema(references.schema(given))
    return {key: value for key, value in written.items() if key != "$schema"}


def _add(
    schema: dict[str, Any], place: str, name: str, inner: dict[str, Any], required: bool, description: Any = None
) -> None:
    if name in schema["properties"]:
        name = f"{place}_{name}"
    if isinstance(description, str) and description:
        inner = {**inner, "description": description}
    schema["properties"][name] = {**inner, "x-in": place}
    if required:
        schema["required"].append(name)


def _json_content(content: Any, references: _References) -> Any:
    """Give the schema of the JSON form of a body, or else of its first form; ``None`` where there is none."""
    if not isinstance(content, Mapping) or not content:
        return None
    kinds = [str(kind) for kind in content]
    json_kinds = [kind for kind in kinds if kind.partition(";")[0].strip().endswith(("/json", "+json"))]
    media = references.target(content[(json_kinds or kinds)[0]])
    return media.get("schema") if isinstance(media, Mapping) else None


def _add_body(schema: dict[str, Any], body: Any, references: _References) -> None:
    if not isinstance(body, Mapping) or not body.get("content"):
        return
    needed = _is_true(body.get("required"))
    inner = _merged(_schema(_json_content(body["content"], references), references))
    properties = inner.get("properties")
    if not properties or {"anyOf", "oneOf", "allOf", "not", "if"} & set(inner):
        _add(schema, "body", "body", inner, needed, inner.get("description") or body.get("description"))
        return
    for name, item in properties.items():
        if not _is_true(item.get("readOnly")):  # the server alone sets it
            _add(schema, "body", name, item, needed and name in inner.get("required", ()))


def _merged(schema: dict[str, Any]) -> dict[str, Any]:
    """Merge ``allOf`` parts that are plain objects into one object schema."""
    parts = [_merged(part) for part in schema.get("allOf", ())]
    plain = {"type", "properties", "required", "description", "title", "x-ref", "example", "additionalProperties"}
    if not parts or not all(set(part) <= plain and part.get("type", "object") == "object" for part in parts):
        return schema
    own = {key: value for key, value in schema.items() if key != "allOf"}
    merged: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
    for part in (*parts, own):
        merged["properties"].update(part.get("properties", {}))
        merged["required"] += [name for name in part.get("required", ()) if name not in merged["required"]]
        merged.update({key: part[key] for key in part if key not in ("properties", "required", "type")})
    return merged


def _response(operation: Mapping[str, Any], references: _References) -> dict[str, Any] | None:
    """Give the schema of the first successful response, or else of the default one."""
    responses = operation.get("responses")
    if not isinstance(responses, Mapping):
        return None
    by_code = {str(code): response for code, response in responses.items()}
    good = sorted(code for code in by_code if code.startswith("2"))
    for code in [*good, *(["default"] if "default" in by_code else [])]:
        response = references.target(by_code[code])
        if isinstance(response, Mapping):
            given = _json_content(response.get("content"), references)
            if given is not None:
                schema = _schema(given, references)
                description = schema.get("description") or response.get("description")
                return {**schema, "description": description} if isinstance(description, str) else schema
        if code in good:
            return None
    return None
