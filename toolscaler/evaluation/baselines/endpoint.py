"""Texts in, vectors of an OpenAI-compatible embeddings endpoint out; an encoder for ``EmbeddingRetriever``."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from toolscaler.agent.endpoints import TRANSIENT, endpoint_address, without_secrets
from toolscaler.agent.executors.background import BackgroundLoop
from toolscaler.agent.executors.checking import CheckFailed
from toolscaler.agent.executors.http_client import HttpAnswer, http_package
from toolscaler.agent.executors.limits import RetryPolicy, check_timeout
from toolscaler.agent.redaction import REDACTED
from toolscaler.errors import ArtifactError, ConfigError, EndpointError
from toolscaler.evaluation.baselines.cache import ContentCache, content_key

logger = logging.getLogger(__name__)

#: Bytes of an error's body that are read, and characters of it that are shown.
_ERROR_BYTES, _ERROR_TEXT = 65_536, 500
_RESERVED = frozenset({"input", "model", "encoding_format", "dimensions"})
_Self = TypeVar("_Self", bound="EmbeddingEndpoint")


class EmbeddingEndpoint:
    """An embedding model behind ``POST {base_url}/embeddings``: a hosted one, vLLM, llama.cpp, Ollama and so on.

    A request changes nothing at the server, so that a busy, failing or silent one is asked again. Redirects are not
    followed, cookies are not kept and proxy settings of the environment are not read. Answers are cached by the
    address, the model, its options and the text; keys are no part of that. Threads may share one endpoint; it is a
    context manager.

    Args:
        base_url: For example ``https://api.openai.com/v1`` or ``http://localhost:8000/v1``; a query such as
            ``?api-version=1`` is kept.
        model: Name of the model.
        api_key: The key, or the ``Authorization`` header's words behind ``Bearer``; never logged, and blotted out of
            errors.
        api_key_variable: Name of an environment variable that holds the key, read before each request; instead of
            ``api_key``.
        dimensions: Length of the vectors, for models that can shorten them; default: the model's own.
        batch_size: Texts a request at most; each request's answers are cached before the next.
        options: More fields of each request.
        headers: More headers, for endpoints that take the key under another name; kept out of errors and logs too.
        cache: A file that keeps vectors (:class:`~toolscaler.evaluation.baselines.ContentCache`), or such a cache;
            ``None``: in memory.
        timeout: Seconds that one try may take, from the connection to the last byte.
        max_retries: How often a request is sent again.
        retry_delay: First upper bound of the random wait before that, in seconds; it doubles each time.
        max_retry_delay: Longest wait in seconds, also where the server asks for a longer one.
        max_bytes: Longest answer.
        proxy: URL of a proxy.
        verify: ``True``, or an ``ssl.SSLContext`` with the caller's own certificates.

    Attributes:
        model: The model's name.
        num_requests: Requests that were sent, repeats included.

    Raises:
        ConfigError: A setting is out of range, or two keys are given.
        ArtifactError: The cache cannot be opened.
        MissingDependencyError: No HTTP package is installed.

    Example:
        >>> encoder = EmbeddingEndpoint("http://localhost:8000/v1", "bge-m3", cache="vectors.db")  # doctest: +SKIP
        >>> EmbeddingRetriever(documents, encoder)  # doctest: +SKIP
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        api_key_variable: str | None = None,
        dimensions: int | None = None,
        batch_size: int = 64,
        options: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        cache: str | Path | ContentCache | None = None,
        timeout: float = 60.0,
        max_retries: int = 4,
        retry_delay: float = 0.5,
        max_retry_delay: float = 30.0,
        max_bytes: int = 256_000_000,
        proxy: str | None = None,
        verify: Any = True,
    ) -> None:
        if not isinstance(model, str) or not model.strip():
            raise ConfigError("EmbeddingEndpoint.model", model, "the name of a model")
        if api_key is not None and api_key_variable is not None:
            raise ConfigError("EmbeddingEndpoint.api_key", REDACTED, "a key or the name of a variable, not both")
        least = {"batch_size": (batch_size, 1), "max_retries": (max_retries, 0), "max_bytes": (max_bytes, 1)}
        if dimensions is not None:
            least["dimensions"] = (dimensions, 1)
        for key, (value, bound) in least.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < bound:
                raise ConfigError(f"EmbeddingEndpoint.{key}", value, f"a whole number from {bound}")
        taken = _RESERVED & set(options or {})
        if taken:
            raise ConfigError("EmbeddingEndpoint.options", sorted(taken), "fields that have no argument of their own")
        self._url = endpoint_address(base_url, "/embeddings", "EmbeddingEndpoint.base_url")
        self.model, self.dimensions, self.batch_size = model, dimensions, batch_size
        self._key, self._variable, self._headers = api_key, api_key_variable, dict(headers or {})
        self._options = dict(options or {})
        self._timeout = check_timeout(timeout, "EmbeddingEndpoint.timeout")
        self._retry = RetryPolicy(max_retries + 1, retry_delay, max_retry_delay)
        self._max_bytes = max_bytes
        self._package = http_package()
        self._connect = {"proxy": proxy, "verify": verify}
        self._transport: Any = None
        self._background = BackgroundLoop("toolscaler-embeddings")
        self._own_cache = not isinstance(cache, ContentCache)
        self.cache = cache if isinstance(cache, ContentCache) else ContentCache(cache)
        self.num_requests = 0

    def __repr__(self) -> str:
        return f"EmbeddingEndpoint({self._url.split('?')[0]!r}, {self.model!r})"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Give float32 (n, dimensions), each text's vector as the model gives it. Equal texts are asked for once.

        Raises:
            EndpointError: No usable answer came; vectors of earlier batches are in the cache.
            ArtifactError: The cache is damaged.
        """
        keys = [content_key(self._url, self.model, self.dimensions, self._options, text) for text in texts]
        known = {key: _from_bytes(value, self.cache.path) for key, value in self.cache.get(keys).items()}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        todo = list(missing)
        for start in range(0, len(todo), self.batch_size):
            part = todo[start : start + self.batch_size]
            vectors = self._ask([missing[key] for key in part])
            self.cache.put({key: row.astype("<f4").tobytes() for key, row in zip(part, vectors, strict=True)})
            known.update(zip(part, vectors, strict=True))
        sizes = {len(known[key]) for key in keys}
        if len(sizes) > 1:
            raise EndpointError(
                f"expected vectors of one length, the endpoint gave {sorted(sizes)}; another model may answer to this "
                "name now: begin with a new cache",
                kind="invalid_response",
            )
        return np.stack([known[key] for key in keys]) if keys else np.zeros((0, 0), dtype=np.float32)

    def _ask(self, texts: list[str]) -> np.ndarray:
        body: dict[str, Any] = {**self._options, "model": self.model, "input": texts, "encoding_format": "float"}
        if self.dimensions is not None:
            body["dimensions"] = self.dimensions
        content = json.dumps(body).encode()
        attempt = 0
        while True:
            attempt += 1
            secrets = self._secrets()
            try:
                return _vectors(self._try(content, secrets), len(texts), self.dimensions)
            except _Refused as refused:
                error, wait = refused.error(secrets), self._retry.delay(attempt, refused.retry_after)
            if not _passes(error) or attempt >= self._retry.max_attempts:
                raise error
            logger.info("the embeddings endpoint failed (%s, %s); again in %.1f s", error.kind, error.status, wait)
            time.sleep(wait)

    def _secrets(self) -> dict[str, str]:
        secrets, key = dict(self._headers), self._key
        if self._variable is not None:
            key = os.environ.get(self._variable)
            if not key:
                raise EndpointError(f"expected a key in the environment variable {self._variable}", kind="key")
        if key is not None:
            if not (isinstance(key, str) and key and key.isascii() and key.isprintable() and " " not in key):
                raise EndpointError("expected a key that a header can hold, got something else", kind="key")
            secrets["authorization"] = f"Bearer {key}"
        return secrets

    def _try(self, content: bytes, secrets: Mapping[str, str]) -> bytes:
        self.num_requests += 1
        try:
            answer = self._background.run(self._exchange(content, secrets), time.monotonic() + self._timeout)
        except CheckFailed as failed:
            late = failed.error_type == "timeout"
            message = f"it did not answer within {self._timeout:g} s" if late else failed.message
            raise _Refused(failed.error_type, message) from failed
        if not 200 <= answer.status < 300:
            raise _Refused("status", f"it answered with status {answer.status}", answer)
        return answer.body

    async def _exchange(self, content: bytes, secrets: Mapping[str, str]) -> HttpAnswer:
        package = self._package
        if self._transport is None:
            self._transport = package.AsyncHTTPTransport(trust_env=False, **self._connect)
        headers = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "user-agent": "toolscaler",
            **{name.lower(): value for name, value in secrets.items()},
        }
        try:
            request = package.Request("POST", self._url, headers=headers, content=content)
            response = await self._transport.handle_async_request(request)
            try:
                return await self._read(response)
            finally:
                await response.aclose()
        except package.LocalProtocolError as error:
            raise CheckFailed("request", f"this cannot be sent over HTTP: {type(error).__name__}") from error
        except (package.TransportError, package.StreamError) as error:
            raise CheckFailed("connection", f"{type(error).__name__}: {error}") from error
        except UnicodeError:  # its words may hold the header
            raise CheckFailed("request", "a header holds what HTTP cannot send") from None

    async def _read(self, response: Any) -> HttpAnswer:
        headers = {name.lower(): value for name, value in response.headers.items()}
        good = 200 <= response.status_code < 300
        packed = headers.get("content-encoding", "identity").strip().lower()
        if good and packed not in ("", "identity"):
            raise CheckFailed("invalid_response", f"the answer is packed as {packed!r:.40}, which was not asked for")
        body, limit = bytearray(), self._max_bytes if good else _ERROR_BYTES
        async for chunk in response.stream:
            body += chunk
            if len(body) > limit:
                if good:
                    raise CheckFailed("too_large", f"the answer is longer than {limit} bytes")
                break
        return HttpAnswer(response.status_code, headers, bytes(body[:limit]))

    def close(self) -> None:
        """End running requests, and close every connection and a cache opened here. May be called twice."""
        self._background.close(self._end)
        if self._own_cache:
            self.cache.close()

    async def _end(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Refused(Exception):
    """One try without a usable answer."""

    def __init__(self, kind: str, message: str, answer: HttpAnswer | None = None) -> None:
        self.kind, self.message, self.answer = kind, message, answer
        self.retry_after = 0.0 if answer is None else answer.retry_after
        super().__init__(message)

    def error(self, secrets: Mapping[str, str]) -> EndpointError:
        """Give the failure without secrets."""
        parts = (self.message, "" if self.answer is None else self.answer.body.decode("utf-8", "replace"))
        message, body = (without_secrets(part, secrets)[:_ERROR_TEXT] for part in parts)
        text = f"the embeddings endpoint gave no usable answer ({message})"
        status = None if self.answer is None else self.answer.status
        return EndpointError(f"{text}: {body}" if body else text, kind=self.kind, status=status, body=body)


def _passes(error: EndpointError) -> bool:
    """Say whether the same request may succeed later."""
    return error.status in TRANSIENT if error.kind == "status" else error.kind in ("connection", "timeout")


def _vectors(body: bytes, count: int, dimensions: int | None) -> np.ndarray:
    """Read an answer as float32 (count, dimensions), in the order of the texts.

    Raises:
        _Refused: It is no such answer.
    """
    try:
        rows = json.loads(body)["data"]
        places = [row.get("index", place) for place, row in enumerate(rows)]
        vectors = [_vector(row["embedding"]) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        raise _Refused(
            "invalid_response", f"expected an embeddings answer, got another: {type(error).__name__}"
        ) from error
    if any(isinstance(place, bool) or not isinstance(place, int) for place in places) or sorted(places) != list(
        range(count)
    ):
        raise _Refused(
            "invalid_response", f"expected a vector for each of {count} texts, got {len(places)} other places"
        )
    lengths = {len(vector) for vector in vectors}
    if len(lengths) != 1 or 0 in lengths or (dimensions is not None and lengths != {dimensions}):
        wanted = "one length" if dimensions is None else f"length {dimensions}"
        raise _Refused("invalid_response", f"expected vectors of {wanted}, got {sorted(lengths)}")
    table = np.empty((count, lengths.pop()), dtype=np.float32)
    table[places] = vectors
    if not np.isfinite(table).all():
        raise _Refused("invalid_response", "expected finite vectors, got others")
    return table


def _vector(given: Any) -> np.ndarray:
    if isinstance(given, str):  # base64 of float32: some servers send nothing else
        return np.frombuffer(base64.b64decode(given, validate=True), dtype="<f4")
    vector = np.asarray(given, dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError("an embedding is a list of numbers")
    with np.errstate(over="ignore"):
        return vector.astype(np.float32)


def _from_bytes(value: bytes, path: Path | None) -> np.ndarray:
    vector = np.frombuffer(value, dtype="<f4") if len(value) % 4 == 0 else np.zeros(0)
    if not len(vector) or not np.isfinite(vector).all():
        raise ArtifactError("the cache holds something else than vectors; delete it to begin anew", path=path)
    return vector.astype(np.float32)
