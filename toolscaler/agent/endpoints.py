"""What clients of model endpoints share: the URL to post to, statuses that pass, and texts without secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from toolscaler.agent.redaction import REDACTED, redact_text
from toolscaler.errors import ConfigError

#: Statuses after which the same request may succeed.
TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})


def endpoint_address(base_url: Any, path: str, key: str) -> str:
    """Give the URL to post to: the base and a path such as ``/embeddings``, which the base may hold already.

    Raises:
        ConfigError: It is no http(s) URL, or holds user and password; ``key`` names the setting.
    """
    expected = "an http(s) URL without user and password, such as 'http://localhost:8000/v1'"
    try:
        parts = urlsplit(base_url)
        good = isinstance(base_url, str) and parts.scheme in ("http", "https") and bool(parts.hostname)
        good = good and parts.port != 0
    except (TypeError, ValueError, AttributeError):
        raise ConfigError(key, base_url, expected) from None
    if not good or parts.username is not None or parts.password is not None:
        raise ConfigError(key, redact_text(str(base_url)), expected)
    whole = parts.path.rstrip("/")
    whole = whole if whole.endswith(path) else f"{whole}{path}"
    return parts._replace(path=whole, fragment="").geturl()


def without_secrets(text: str, secrets: Mapping[str, str]) -> str:
    """Blot the values of secret headers, and whatever looks like a secret, out of a text."""
    words = {word for value in secrets.values() for word in (value, *value.split()) if len(word) >= 4}
    for word in sorted(words, key=len, reverse=True):
        text = text.replace(word, REDACTED)
    return redact_text(text)
