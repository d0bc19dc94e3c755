"""Messages in, one answer of a chat model out: a client of any OpenAI-compatible endpoint, and of nothing else."""

from __future__ import annotations

import json
import logging
import queue
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from toolscaler.agent.chat_answers import ChatAnswer, StreamedAnswer, read_answer
from toolscaler.agent.endpoints import TRANSIENT, endpoint_address, without_secrets
from toolscaler.agent.executors.background import BackgroundLoop
from toolscaler.agent.executors.checking import CheckFailed
from toolscaler.agent.executors.http_client import HttpAnswer, TransferFailed, http_package
from toolscaler.agent.executors.limits import RetryPolicy, check_timeout
from toolscaler.agent.redaction import REDACTED
from toolscaler.errors import ConfigError, EndpointError

logger = logging.getLogger(__name__)

#: Bytes of an error's body that are read, and characters of it that are shown.
_ERROR_BYTES, _ERROR_TEXT = 65_536, 500
_RESERVED = frozenset({"messages", "model", "stream", "tools"})
_Self = TypeVar("_Self", bound="ChatEndpoint")

#: Gives a key; asked before each request, so that keys may change.
KeyProvider = Callable[[], str]


class ChatEndpoint:
    """A chat model behind ``POST {base_url}/chat/completions``: a hosted one, vLLM, llama.cpp, Ollama and so on.

    A busy or failing server (429, 5xx, a broken connection) is asked again, after the wait that it names or a random
    one; nothing else is. Redirects are not followed, cookies are not kept and proxy settings of the environment are
    not read. Any number of threads may share one endpoint; it is a context manager.

    Args:
        base_url: For example ``https://api.openai.com/v1`` or ``http://localhost:8000/v1``; a query such as
            ``?api-version=1`` is kept.
        model: Name of the model.
        api_key: Function that gives the key, such as ``lambda: os.environ["OPENAI_API_KEY"]``; ``None``: no key. It is
            sent in the ``Authorization`` header only, never logged, and blotted out of errors.
        options: More fields of each request: ``temperature``, ``seed``, ``top_p`` and so on.
        headers: More headers, for endpoints that take the key under another name; kept out of errors and logs too.
        timeout: Seconds that one try may take, from the connection to the last byte.
        max_retries: How often a request is sent again.
        retry_delay: First upper bound of the random wait before that, in seconds; it doubles each time.
        max_retry_delay: Longest wait in seconds, also where the server asks for a longer one.
        max_bytes: Longest answer.
        length_field: Field that limits the length of an answer; some models want ``max_completion_tokens``.
        proxy: URL of a proxy.
        verify: ``True``, or an ``ssl.SSLContext`` with the caller's own certificates.

    Raises:
        ConfigError: A setting is out of range.
        MissingDependencyError: No HTTP package is installed.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: KeyProvider | None = None,
        options: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 120.0,
        max_retries: int = 4,
        retry_delay: float = 0.5,
        max_retry_delay: float = 30.0,
        max_bytes: int = 16_000_000,
        length_field: str = "max_tokens",
        proxy: str | None = None,
        verify: Any = True,
    ) -> None:
        if api_key is not None and not callable(api_key):  # the value is a key: it is not shown
            raise ConfigError("ChatEndpoint.api_key", REDACTED, "a function that gives the key, or None")
        if not isinstance(model, str) or not model.strip():
            raise ConfigError("ChatEndpoint.model", model, "the name of a model")
        for key, value, least in (("max_retries", max_retries, 0), ("max_bytes", max_bytes, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"ChatEndpoint.{key}", value, f"a whole number from {least}")
        taken = _RESERVED & set(options or {})
        if taken:
            raise ConfigError("ChatEndpoint.options", sorted(taken), "fields that the endpoint does not set itself")
        self._url, self.model = endpoint_address(base_url, "/chat/completions", "ChatEndpoint.base_url"), model
        self._key, self._headers = api_key, dict(headers or {})
        self._options, self._length_field = dict(options or {}), length_field
        self._timeout = check_timeout(timeout, "ChatEndpoint.timeout")
        self._retry = RetryPolicy(max_retries + 1, retry_delay, max_retry_delay)
        self._max_bytes = max_bytes
        self._package = http_package()
        self._connect = {"proxy": proxy, "verify": verify}
        self._transport: Any = None
        self._background = BackgroundLoop("toolscaler-chat")

    def __repr__(self) -> str:
        return f"ChatEndpoint({self._url.split('?')[0]!r}, {self.model!r})"

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: str | None = None,
        stop: Sequence[str] = (),
        max_tokens: int | None = None,
        deadline: float | None = None,
    ) -> ChatAnswer:
        """Ask for one answer.

        Args:
            messages: Messages of the Chat Completions API.
            tools: Functions that the model may call, in the API's form.
            tool_choice: ``auto``, ``required`` or ``none``; ``None``: the endpoint's own default.
            stop: Texts before which the answer ends.
            max_tokens: Tokens of the answer at most.
            deadline: Time of :func:`time.monotonic` at which to stop, retries included.

        Raises:
            EndpointError: No usable answer came.
        """
        answers = self.stream(
            messages,
            tools=tools,
            tool_choice=tool_choice,
            stop=stop,
            max_tokens=max_tokens,
            deadline=deadline,
            streaming=False,
        )
        while True:
            try:
                next(answers)
            except StopIteration as end:
                answer: ChatAnswer = end.value
                return answer

    def stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: str | None = None,
        stop: Sequence[str] = (),
        max_tokens: int | None = None,
        deadline: float | None = None,
        streaming: bool = True,
    ) -> Generator[str, None, ChatAnswer]:
        """Ask for one answer, and give its text as it comes (server-sent events).

        A server that sends the whole answer at once, whatever it was asked for, is understood too. A stream that breaks
        is asked for again only as long as no text of it was given. Arguments as in :meth:`complete`.

        Args:
            messages: As in :meth:`complete`.
            tools: As in :meth:`complete`.
            tool_choice: As in :meth:`complete`.
            stop: As in :meth:`complete`.
            max_tokens: As in :meth:`complete`.
            deadline: As in :meth:`complete`.
            streaming: Whether to ask for a stream; else the text comes in one piece.

        Yields:
            Pieces of the text.

        Returns:
            The whole answer.

        Raises:
            EndpointError: No usable answer came.
        """
        body: dict[str, Any] = {**self._options, "model": self.model, "messages": list(messages)}
        if tools:
            body["tools"] = list(tools)
            if tool_choice is not None:
                body["tool_choice"] = tool_choice
        if stop:
            body["stop"] = list(stop)
        if max_tokens is not None:
            body[self._length_field] = max_tokens
        if streaming:
            body.update(stream=True, stream_options={"include_usage": True})
        content = json.dumps(body).encode()
        attempt = 0
        while True:
            attempt += 1
            exchange = _Exchange(self._secrets())
            try:
                return (yield from self._try(content, exchange, deadline))
            except CheckFailed as failed:
                error = exchange.error(failed)
            wait = self._retry.delay(attempt, exchange.retry_after)
            late = deadline is not None and time.monotonic() + wait >= deadline
            if exchange.given or not _passes(error) or attempt >= self._retry.max_attempts or late:
                raise error
            logger.info("the chat endpoint failed (%s, status %s); again in %.1f s", error.kind, error.status, wait)
            time.sleep(wait)

    def _secrets(self) -> dict[str, str]:
        """Give the headers that nobody may see."""
        secrets = dict(self._headers)
        if self._key is not None:
            try:
                key = self._key()
            except Exception as error:  # its words may hold the key
                raise EndpointError(
                    f"the function that gives the key failed: {type(error).__name__}", kind="key"
                ) from None
            if not isinstance(key, str) or not key or not (key.isascii() and key.isprintable()) or " " in key:
                raise EndpointError("the function that gives the key gave nothing that a header can hold", kind="key")
            secrets["authorization"] = f"Bearer {key}"
        return secrets

    def _try(self, content: bytes, exchange: _Exchange, deadline: float | None) -> Generator[str, None, ChatAnswer]:
        end = time.monotonic() + self._timeout
        end = end if deadline is None else min(end, deadline)
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        future = self._background.spawn(self._exchange(content, exchange, pieces))
        future.add_done_callback(lambda _: pieces.put(None))
        try:
            while True:
                try:
                    piece = pieces.get(timeout=max(0.0, end - time.monotonic()))
                except queue.Empty:
                    raise CheckFailed("timeout", "the endpoint did not answer in time") from None
                if piece is None:
                    break
                exchange.given = True
                yield piece
            if future.cancelled():
                raise CheckFailed("cancelled", "the endpoint was closed")
            return future.result()
        finally:
            future.cancel()

    # In the background

    async def _exchange(self, content: bytes, exchange: _Exchange, pieces: queue.SimpleQueue[str | None]) -> ChatAnswer:
        package = self._package
        if self._transport is None:
            self._transport = package.AsyncHTTPTransport(
                trust_env=False, limits=package.Limits(max_connections=256), **self._connect
            )
        headers = {
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "user-agent": "toolscaler",
            **{name.lower(): value for name, value in exchange.secrets.items()},
        }
        try:
            request = package.Request("POST", self._url, headers=headers, content=content)
            response = await self._transport.handle_async_request(request)
            try:
                return await self._read(response, exchange, pieces)
            finally:
                await response.aclose()
        except package.LocalProtocolError as error:
            raise CheckFailed("request", f"this cannot be sent over HTTP: {type(error).__name__}") from error
        except (package.TransportError, package.StreamError) as error:
            raise TransferFailed("connection", f"{type(error).__name__}: {error}") from error
        except UnicodeError:  # its words may hold the header
            raise CheckFailed("request", "a header holds what HTTP cannot send") from None

    async def _read(self, response: Any, exchange: _Exchange, pieces: queue.SimpleQueue[str | None]) -> ChatAnswer:
        exchange.status = response.status_code
        headers = {name.lower(): value for name, value in response.headers.items()}
        if not 200 <= response.status_code < 300:
            body = bytearray()
            async for chunk in response.stream:
                body += chunk
                if len(body) > _ERROR_BYTES:
                    break
            refusal = HttpAnswer(response.status_code, headers, bytes(body[:_ERROR_BYTES]))
            exchange.retry_after, exchange.body = refusal.retry_after, refusal.body.decode("utf-8", "replace")
            raise CheckFailed("status", f"it answered with status {response.status_code}")
        packed = headers.get("content-encoding", "identity")
        if packed.strip().lower() not in ("", "identity"):
            raise CheckFailed("invalid_response", f"the answer is packed as {packed!r:.40}, which was not asked for")
        if headers.get("content-type", "").startswith("text/event-stream"):
            return await self._read_events(response, pieces)
        text = b"".join([chunk async for chunk in self._bounded(response)])
        answer = read_answer(_decoded(text))
        if answer.content:
            pieces.put(answer.content)
        return answer

    async def _read_events(self, response: Any, pieces: queue.SimpleQueue[str | None]) -> ChatAnswer:
        streamed, rest = StreamedAnswer(), b""
        async for chunk in self._bounded(response):
            *lines, rest = (rest + chunk).split(b"\n")
            _take(lines, streamed, pieces)
            if streamed.done:
                break
        _take([rest], streamed, pieces)
        if not streamed.ended:
            raise TransferFailed("connection", "the stream ended before the answer did")
        return streamed.answer()

    async def _bounded(self, response: Any) -> Any:
        size = 0
        async for chunk in response.stream:
            size += len(chunk)
            if size > self._max_bytes:
                raise CheckFailed("too_large", f"the answer is longer than {self._max_bytes} bytes")
            yield chunk

    def close(self) -> None:
        """End running requests and close every connection. May be called twice."""
        self._background.close(self._end)

    async def _end(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(eq=False)
class _Exchange:
    """One try, and what is known of it when it fails."""

    secrets: Mapping[str, str]
    status: int | None = None
    body: str = ""
    retry_after: float = 0.0
    given: bool = False  # whether text went to the caller

    def error(self, failed: CheckFailed) -> EndpointError:
        """Give the failure without secrets."""
        body, why = (without_secrets(text, self.secrets)[:_ERROR_TEXT] for text in (self.body, failed.message))
        message = f"the chat endpoint gave no usable answer ({why})"
        return EndpointError(
            f"{message}: {body}" if body else message, kind=failed.error_type, status=self.status, body=body
        )


def _passes(error: EndpointError) -> bool:
    """Say whether the same request may succeed later."""
    if error.kind == "status":
        return error.status in TRANSIENT
    return error.kind == "connection"


def _take(lines: Sequence[bytes], streamed: StreamedAnswer, pieces: queue.SimpleQueue[str | None]) -> None:
    """Take whole lines of a stream of events."""
    for line in lines:
        if line.startswith(b"data:") and not streamed.done:
            text = streamed.add(_decoded(line[5:].strip()))
            if text:
                pieces.put(text)


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CheckFailed("invalid_response", f"expected UTF-8 text, got {len(data)} other bytes") from error
