"""JSON data in, the same without secrets out, bounded in size: what may be written to a log."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

#: What stands in place of a secret.
REDACTED = "[redacted]"

#: Depth, items a level and characters of a text that a record keeps; what is beyond is counted, not kept.
MAX_DEPTH, MAX_ITEMS, MAX_TEXT = 12, 200, 4096

# Words of a key: "apiKey", "api-key" and "API_KEY" are one.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET_WORDS = frozenset(
    {"apikey", "auth", "authorization", "bearer", "cookie", "cookies", "credential", "credentials", "csrf", "cvv"}
    | {"jwt", "otp", "pass", "passcode", "passphrase", "passwd", "password", "passwords", "pin", "pwd", "secret"}
    | {"secrets", "sessionid", "signature", "token", "tokens", "accesskey", "privatekey", "secretkey", "ssn"}
)
_SECRET_PAIRS = frozenset(
    {("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key"), ("session", "id"), ("auth", "key")}
    | {("encryption", "key"), ("signing", "key"), ("pass", "word"), ("card", "number"), ("app", "key"), ("ssh", "key")}
)
# Keys with these words count things or tell how, and hold no secret: max_tokens, token_count.
_HARMLESS = frozenset({"count", "limit", "max", "min", "num", "number", "total", "type", "length", "size", "budget"})

_SECRET_TEXT = re.compile(
    r"""
    \b(?:Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}                       # authorization headers
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*        # JSON web tokens
    | \b(?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,}                            # keys of payment and model services
    | \b(?:gh[pousr]_|github_pat_|glpat-|hf_|xox[abposr]-|npm_|pypi-)[A-Za-z0-9_-]{10,}
    | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b | \bAIza[A-Za-z0-9_-]{30,} | \bya29\.[A-Za-z0-9_-]{10,}
    | -----BEGIN[ A-Z]*PRIVATE\ KEY-----.*?(?:-----END[ A-Z]*PRIVATE\ KEY-----|\Z)
    | (?<=://)[^/\s:@]{0,256}:[^/\s@]{1,256}(?=@)                     # user:password of an address
    | (?<![^?&;\s])(?:[\w-]{0,64}(?:token|secret|passw(?:or)?d|api_?key|signature))=[^&;\s]{1,4096}
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
# One run without a separator: UUIDs, paths and snake_case names stay readable.
_RANDOM_TEXT = re.compile(r"(?<![A-Za-z0-9+])[A-Za-z0-9+]{24,512}(?![A-Za-z0-9+])")


def is_secret_key(key: str) -> bool:
    """Say whether a key's name means that its value is a secret.

    >>> [is_secret_key(key) for key in ("apiKey", "X-Auth-Token", "db_password", "max_tokens", "keyboard", "author")]
    [True, True, True, False, False, False]
    """
    words = [word.lower() for word in _WORD.findall(key)]
    pairs = set(pairwise(words))
    if pairs & _SECRET_PAIRS:
        return True
    return not _HARMLESS.intersection(words) and any(word in _SECRET_WORDS for word in words)


def redact_text(text: str) -> str:
    """Take what looks like a key, token or password out of a text.

    Known forms of keys, authorization headers, passwords in addresses, and long runs of letters and digits with the
    randomness of a key.

    >>> redact_text("call with Bearer abcdef123456 please")
    'call with [redacted] please'
    """
    text = _SECRET_TEXT.sub(REDACTED, text)
    return _RANDOM_TEXT.sub(lambda match: REDACTED if _looks_random(match.group(0)) else match.group(0), text)


def _looks_random(text: str) -> bool:
    """Say whether a run of letters and digits is as mixed as a key: words and paths are not."""
    kinds = sum(bool(re.search(pattern, text)) for pattern in ("[a-z]", "[A-Z]", "[0-9]"))
    if kinds < 2 or not re.search("[0-9]", text):
        return False
    counts = [text.count(char) for char in set(text)]
    entropy = -sum(count / len(text) * math.log2(count / len(text)) for count in counts)
    return entropy >= 3.0 and len(re.findall("[0-9]", text)) >= 4


def redact(value: Any, schema: Mapping[str, Any] | None = None) -> Any:
    """Copy JSON data without its secrets.

    A value is a secret where its key says so (:func:`is_secret_key`), where its schema says ``format: password`` or
    ``writeOnly: true``, and, inside texts, where it looks like one (:func:`redact_text`). Deep, wide and long values
    are cut, with a note of how much.

    Args:
        value: JSON data; anything else becomes its type's name.
        schema: JSON Schema of the value, as far as it is known.

    Returns:
        New plain data, fit for ``json.dumps``.
    """
    return _redacted(value, schema, schema if isinstance(schema, Mapping) else {}, 0)


def _redacted(value: Any, schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    schemas = _branches(schema, root)
    if value is not None and any(s.get("format") == "password" or s.get("writeOnly") is True for s in schemas):
        return REDACTED
    if isinstance(value, str):
        text = redact_text(value[: 4 * MAX_TEXT])
        kept = text[:MAX_TEXT].encode("utf-8", "replace").decode("utf-8")  # a lone surrogate is no text of a file
        return kept if len(value) <= MAX_TEXT else f"{kept}... [{len(value)} characters]"
    if isinstance(value, Mapping | list | tuple):
        if depth >= MAX_DEPTH:
            return f"[{len(value)} items, too deep]"
        return _container(value, schemas, root, depth + 1)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= 256 else "[a number of more than 256 bits]"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return f"[{type(value).__name__}]"


def _container(value: Any, schemas: list[Mapping[str, Any]], root: Mapping[str, Any], depth: int) -> Any:
    more = len(value) - MAX_ITEMS
    if not isinstance(value, Mapping):
        items = next((s["items"] for s in schemas if isinstance(s.get("items"), Mapping)), None)
        listed = [_redacted(item, items, root, depth) for item in value[:MAX_ITEMS]]
        return [*listed, f"[{more} more]"] if more > 0 else listed
    found: dict[str, Any] = {}
    for key, item in list(value.items())[:MAX_ITEMS]:
        name = str(key)
        inner: dict[str, Any] = {"allOf": [s["properties"][name] for s in schemas if name in _properties(s)]}
        for s in schemas:
            if name not in _properties(s) and isinstance(s.get("additionalProperties"), Mapping):
                inner["allOf"].append(s["additionalProperties"])
        secret = is_secret_key(name) and item is not None and not isinstance(item, bool)
        shown = _redacted(name, None, root, depth)
        found[shown] = REDACTED if secret else _redacted(item, inner, root, depth)
    if more > 0:
        found["..."] = f"[{more} more]"
    return found


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _branches(schema: Any, root: Mapping[str, Any], budget: int = 64) -> list[Mapping[str, Any]]:
    """List a schema and what it refers to or is composed of, at most ``budget`` of them."""
    found: list[Mapping[str, Any]] = []
    queue = [schema]
    while queue and len(found) < budget:
        item = queue.pop(0)
        if not isinstance(item, Mapping):
            continue
        found.append(item)
        for key in ("allOf", "anyOf", "oneOf"):
            options = item.get(key)
            queue.extend(options if isinstance(options, list | tuple) else ())
        queue.append(_resolved(item.get("$ref"), root))
    return found


def _resolved(reference: Any, root: Mapping[str, Any]) -> Any:
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    place: Any = root
    for part in reference[2:].split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        place = place.get(key) if isinstance(place, Mapping) else None
    return place
