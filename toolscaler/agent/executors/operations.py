"""OpenAPI operations as requests: where each argument goes, and how it is written there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlencode

from toolscaler.agent.executors.checking import CheckFailed
from toolscaler.agent.executors.http_client import HttpRequest
from toolscaler.data.documents import ToolDocument
from toolscaler.errors import DataError

#: Headers that belong to the connection or the caller; no argument ever sets them.
FORBIDDEN_HEADERS = frozenset(
    {"accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "cookie", "expect"}
    | {"forwarded", "host", "keep-alive", "origin", "proxy-authorization", "proxy-connection", "referer", "te"}
    | {"trailer", "transfer-encoding", "upgrade", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"}
    | {"x-http-method-override", "x-real-ip"}
)
_HOLE = re.compile(r"\{([^{}]*)\}")
_STYLES = {"path": "simple", "query": "form", "header": "simple", "cookie": "form"}


@dataclass(frozen=True)
class Place:
    """Where an argument goes.

    Attributes:
        part: ``path``, ``query``, ``header``, ``cookie`` or ``body``.
        name: Its name there; empty for a whole body.
        style: OpenAPI's serialisation style.
        explode: Whether items of a list or object stand apart.
        as_json: Whether the value is written as JSON.
    """

    part: str
    name: str
    style: str = "form"
    explode: bool = True
    as_json: bool = False


@dataclass(frozen=True)
class Operation:
    """An operation of a specification, ready to be called.

    Attributes:
        method: In upper case.
        path: With ``{name}`` for each path argument.
        server: URL in front of the path.
        places: Argument name → place.
        media_type: Media type of the body; empty without one.
    """

    method: str
    path: str
    server: str
    places: Mapping[str, Place]
    media_type: str

    def request(self, arguments: Mapping[str, Any]) -> HttpRequest:
        """Write a request.

        Raises:
            CheckFailed: ``invalid_arguments``: a path argument is missing, empty or would change the path.
        """
        path, query, headers, cookies = self.path, [], {}, {}
        fields: dict[str, Any] = {}
        whole: list[Any] = []
        for name, value in arguments.items():
            place = self.places.get(name)
            if place is None:
                raise CheckFailed("invalid_arguments", f"arguments.{name:.100}: the operation has no such argument")
            if place.part == "path":
                path = path.replace("{" + place.name + "}", _path_text(place, value))
            elif place.part == "query":
                query += _query_pairs(place, value)
            elif place.part == "header":
                headers[place.name] = _simple(place, value)
            elif place.part == "cookie":
                cookies[place.name] = quote(_simple(place, value), safe="")
            elif place.name:
                fields[place.name] = value
            else:
                whole.append(value)
        missing = _HOLE.search(path) if _HOLE.search(self.path) else None
        if missing and missing.group(1) not in arguments:
            raise CheckFailed("invalid_arguments", f"arguments.{missing.group(1):.100}: expected a value for the path")
        body = None
        if whole or fields or (self.media_type and self.method in ("POST", "PUT", "PATCH")):
            body = _body(self.media_type, whole[0] if whole else fields)
            headers["content-type"] = self.media_type
        return HttpRequest(self.method, self.server.rstrip("/") + path, tuple(query), headers, cookies, body)


def make_operation(spec: Mapping[str, Any], document: ToolDocument, server: str | None) -> Operation:
    """Find the operation behind a document of the OpenAPI reader.

    Args:
        spec: The specification.
        document: A tool; its ``code`` is method and path.
        server: URL to use instead of the specification's.

    Raises:
        DataError: The operation cannot be called: no absolute server, or a path that its arguments do not fill.
    """
    method, _, path = document.code.partition(" ")
    item = follow(spec, spec["paths"][path])
    operation = item[method.lower()]
    places = _parameter_places(spec, operation, item)
    media_type = _body_places(spec, operation, document, places)
    holes = set(_HOLE.findall(path))
    filled = {place.name for place in places.values() if place.part == "path"}
    if holes - filled:
        raise DataError(f"{document.code}: expected a parameter for each of {sorted(holes)} in the path")
    return Operation(method, path, server or _server(spec, operation, item), places, media_type)


def secret_names(spec: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Give place and name (in lower case) of every API key that the specification's security schemes name."""
    components = spec.get("components")
    schemes = components.get("securitySchemes") if isinstance(components, Mapping) else None
    found = set()
    for scheme in schemes.values() if isinstance(schemes, Mapping) else ():
        scheme = follow(spec, scheme)
        if isinstance(scheme, Mapping) and scheme.get("type") == "apiKey":
            found.add((str(scheme.get("in")), str(scheme.get("name")).lower()))
    return found


def follow(spec: Mapping[str, Any], item: Any) -> Any:
    """Follow local references (``#/...``) of an object to the end.

    Raises:
        DataError: One leads nowhere, out of the document, or in a circle.
    """
    for _ in range(50):
        if not isinstance(item, Mapping) or not isinstance(item.get("$ref"), str):
            return item
        found: Any = spec
        for part in unquote(item["$ref"]).removeprefix("#").split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            found = found.get(key) if isinstance(found, Mapping) else None
        if found is None or not item["$ref"].startswith("#"):
            raise DataError(f"the reference {item['$ref']!r:.120} leads nowhere")
        item = found
    raise DataError("a reference leads back to itself")


def _server(spec: Mapping[str, Any], operation: Mapping[str, Any], item: Mapping[str, Any]) -> str:
    for holder in (operation, item, spec):
        servers = holder.get("servers")
        if isinstance(servers, list) and servers and isinstance(servers[0], Mapping):
            return server_url(servers[0])
    raise DataError("the specification names no server; pass server='https://...'")


def server_url(server: Mapping[str, Any]) -> str:
    """Give a server's URL with the default of each of its variables.

    Raises:
        DataError: It is relative, or a variable has no default.
    """
    variables = server.get("variables") if isinstance(server.get("variables"), Mapping) else {}

    def default(match: re.Match[str]) -> str:
        variable = variables.get(match.group(1)) if isinstance(variables, Mapping) else None
        if not isinstance(variable, Mapping) or "default" not in variable:
            raise DataError(f"the server variable {match.group(1)!r:.80} has no default; pass server='https://...'")
        return str(variable["default"])

    url = _HOLE.sub(default, str(server.get("url", "")))
    if not url.startswith(("http://", "https://")):
        raise DataError(f"the server URL {url!r:.120} is relative; pass server='https://...'")
    return url


def _parameter_places(
    spec: Mapping[str, Any], operation: Mapping[str, Any], item: Mapping[str, Any]
) -> dict[str, Place]:
    """Give the places of parameters under the names that the OpenAPI reader gives them."""
    merged: dict[tuple[str, str], Mapping[str, Any]] = {}
    for holder in (item, operation):
        for parameter in holder.get("parameters") or ():
            parameter = follow(spec, parameter)
            merged[str(parameter.get("in", "query")), parameter["name"]] = parameter
    places: dict[str, Place] = {}
    for (part, name), parameter in merged.items():
        if part == "header" and name.lower() in ("accept", "content-type", "authorization"):
            continue  # the reader leaves these out
        style = str(parameter.get("style", _STYLES.get(part, "form")))
        explode = bool(parameter.get("explode", style == "form"))
        as_json = parameter.get("schema") is None and bool(parameter.get("content"))
        places[f"{part}_{name}" if name in places else name] = Place(part, name, style, explode, as_json)
    return places


def _body_places(
    spec: Mapping[str, Any], operation: Mapping[str, Any], document: ToolDocument, places: dict[str, Place]
) -> str:
    """Add the places of body arguments, and give the body's media type."""
    body = follow(spec, operation.get("requestBody"))
    content = body.get("content") if isinstance(body, Mapping) else None
    if not isinstance(content, Mapping) or not content:
        return ""
    kinds = [str(kind) for kind in content]
    chosen = next((k for k in kinds if k.partition(";")[0].strip().endswith(("/json", "+json"))), kinds[0])
    media = follow(spec, content[chosen])
    taken = set(places)
    own = [parameter.name for parameter in document.iter_parameters() if parameter.schema.get("x-in") == "body"]
    whole = own in (["body"], ["body_body"]) and "body" not in _field_names(spec, (media or {}).get("schema"))
    for name in own:
        bare = name.removeprefix("body_")
        field = bare if name != bare and bare in taken else name
        places[name] = Place("body", "" if whole else field)
    return chosen


def _field_names(spec: Mapping[str, Any], schema: Any, depth: int = 0) -> set[str]:
    schema = follow(spec, schema)
    if not isinstance(schema, Mapping) or depth > 20 or {"anyOf", "oneOf", "not", "if"} & set(schema):
        return set()
    names = set(schema.get("properties") or ())
    for part in schema.get("allOf") or ():
        names |= _field_names(spec, part, depth + 1)
    return names


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else json.dumps(value)


def _parts(value: Any, explode: bool) -> list[str]:
    """Give the items of a value: of an object, ``key=value`` each or key and value in turn."""
    if isinstance(value, list):
        return [_text(item) for item in value]
    if isinstance(value, dict):
        pairs = [(key, _text(item)) for key, item in value.items()]
        return [f"{key}={item}" for key, item in pairs] if explode else [word for pair in pairs for word in pair]
    return [_text(value)]


def _simple(place: Place, value: Any) -> str:
    if place.as_json:
        return json.dumps(value, ensure_ascii=True)
    return ",".join(_parts(value, place.explode))


def _path_text(place: Place, value: Any) -> str:
    """Write a path argument; it stays one step of the path, whatever it holds."""
    words = [json.dumps(value)] if place.as_json else _parts(value, place.explode)
    for word in words:
        if not word or any(step in (".", "..") for step in re.split(r"[/\\]", word)) or "\x00" in word:
            raise CheckFailed("invalid_arguments", f"arguments.{place.name}: {word!r:.80} cannot stand in a path")
    if not words:
        raise CheckFailed("invalid_arguments", f"arguments.{place.name}: expected a value for the path")
    coded = [quote(word, safe="=" if isinstance(value, dict) else "") for word in words]
    if place.style == "label":
        return "." + (".".join(coded) if place.explode else ",".join(coded))
    if place.style == "matrix":
        if place.explode:
            named = coded if isinstance(value, dict) else [f"{place.name}={word}" for word in coded]
            return "".join(f";{word}" for word in named)
        return f";{place.name}=" + ",".join(coded)
    return ",".join(coded)


def _query_pairs(place: Place, value: Any) -> list[tuple[str, str]]:
    if place.as_json:
        return [(place.name, json.dumps(value, ensure_ascii=False))]
    if place.style == "deepObject" and isinstance(value, dict):
        return [(f"{place.name}[{key}]", _text(item)) for key, item in value.items()]
    if place.explode and isinstance(value, dict):
        return [(key, _text(item)) for key, item in value.items()]
    if place.explode and isinstance(value, list):
        return [(place.name, _text(item)) for item in value]
    if value is None:
        return []
    between = {"spaceDelimited": " ", "pipeDelimited": "|"}.get(place.style, ",")
    return [(place.name, between.join(_parts(value, False)))]


def _body(media_type: str, value: Any) -> bytes:
    kind = media_type.partition(";")[0].strip().lower()
    if kind.endswith(("/json", "+json")):
        return json.dumps(value, ensure_ascii=False).encode()
    if kind == "application/x-www-form-urlencoded" and isinstance(value, dict):
        pairs = [
            (key, _text(item))
            for key, items in value.items()
            for item in (items if isinstance(items, list) else [items])
        ]
        return urlencode(pairs).encode()
    if kind.startswith("text/") or isinstance(value, str):
        return _text(value).encode()
    raise CheckFailed("invalid_arguments", f"a body of type {kind:.80} cannot be written")
