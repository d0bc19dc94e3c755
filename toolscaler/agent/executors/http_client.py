"""One guarded HTTP exchange: only allowed hosts, every redirect checked, nothing kept, and a bounded answer."""

from __future__ import annotations

import email.utils
import importlib
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from toolscaler.agent.executors.checking import CheckFailed
from toolscaler.agent.executors.hosts import HostGuard, Origin
from toolscaler.errors import MissingDependencyError

_MAX_REDIRECTS = 5
_MAX_CONNECTIONS = 256
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class TransferFailed(CheckFailed):
    """The exchange failed on the way; another try may go better."""


@dataclass(frozen=True)
class Credentials:
    """What proves to a server who calls. Given by the caller, never by the model; kept out of messages and results.

    Attributes:
        headers: For example ``{"Authorization": "Bearer ..."}``.
        query: Query parameters, for example ``{"api_key": "..."}``.
        cookies: Cookies.
    """

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    cookies: Mapping[str, str] = field(default_factory=dict, repr=False)

    def secrets(self) -> list[str]:
        """Give the values that must not be shown, the longest first."""
        values = [*self.headers.values(), *self.query.values(), *self.cookies.values()]
        words = [word for value in values for word in (value, *value.split()) if len(word) >= 6]
        return sorted(dict.fromkeys(words), key=len, reverse=True)


@dataclass(frozen=True)
class HttpRequest:
    """A request before credentials.

    Attributes:
        method: In upper case.
        url: Without query.
        query: Names and values.
        headers: Names and values.
        cookies: Names and values.
        body: The body, or ``None``.
    """

    method: str
    url: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True)
class HttpAnswer:
    """An answer, unpacked.

    Attributes:
        status: Status code.
        headers: Names in lower case.
        body: The body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after(self) -> float:
        """Seconds that the server asks to wait; 0 where it does not."""
        given = self.headers.get("retry-after", "").strip()
        if given.isdigit():
            return float(given[:9])
        try:
            return max(0.0, email.utils.parsedate_to_datetime(given).timestamp() - time.time())
        except (TypeError, ValueError, IndexError, OverflowError):
            return 0.0

    def text(self) -> str:
        """Decode the body, as UTF-8 where the answer names no other encoding.

        Raises:
            CheckFailed: ``invalid_response``: it is no text in that encoding.
        """
        message = Message()
        message["content-type"] = self.headers.get("content-type", "")
        charset = message.get_content_charset() or "utf-8"
        kind = message.get_content_type() if message["content-type"] else "unknown type"
        try:
            return self.body.decode(charset).removeprefix("\ufeff")
        except (UnicodeError, LookupError, ValueError) as error:
            size = len(self.body)
            raise CheckFailed(
                "invalid_response", f"expected text, got {size} bytes of {kind} not in {charset}"
            ) from error


def http_package() -> ModuleType:
    """Import the HTTP package that huggingface_hub brings: ``httpx``, or its successor under another name.

    Raises:
        MissingDependencyError: Neither is installed.
    """
    for name in ("httpx2", "httpx"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise MissingDependencyError("httpx", "agent", "calling tools over HTTP")


class HttpClient:
    """Sends requests to the hosts that a guard allows. It keeps no cookies and reads no proxy settings.

    Args:
        guard: The allowed hosts.
        max_bytes: Longest body after unpacking.
        verify: ``True``, or an ``ssl.SSLContext`` with the caller's own certificates.
    """

    def __init__(self, guard: HostGuard, max_bytes: int, verify: Any = True) -> None:
        self._package = http_package()
        self._guard = guard
        self._max_bytes = max_bytes
        self._verify = verify
        self._transports: dict[Origin, Any] = {}

    async def send(self, request: HttpRequest, credentials: Callable[[str], Credentials]) -> HttpAnswer:
        """Send a request, follow redirects inside the allowed hosts, and read the answer.

        Args:
            request: The request.
            credentials: URL of a hop → what to add to it.

        Raises:
            CheckFailed: ``forbidden``, ``too_large``, ``invalid_response`` or ``invalid_arguments``.
            TransferFailed: ``connection``.
        """
        for _ in range(_MAX_REDIRECTS + 1):
            answer = await self._hop(request, credentials(request.url))
            target = answer.headers.get("location", "")
            if answer.status not in _REDIRECTS or not target:
                return answer
            request = self._redirected(request, answer.status, target)
        raise CheckFailed("invalid_response", f"the server redirects more than {_MAX_REDIRECTS} times")

    def _redirected(self, request: HttpRequest, status: int, target: str) -> HttpRequest:
        url = urljoin(request.url, target)
        self._guard.check(url)
        parts = urlsplit(url)
        bare = parts._replace(query="", fragment="").geturl()
        query = tuple(parse_qsl(parts.query, keep_blank_values=True))
        if status in (307, 308) or request.method in ("GET", "HEAD"):
            return HttpRequest(request.method, bare, query, request.headers, request.cookies, request.body)
        kept = {name: value for name, value in request.headers.items() if name.lower() != "content-type"}
        return HttpRequest("GET", bare, query, kept, request.cookies)

    async def _hop(self, request: HttpRequest, credentials: Credentials) -> HttpAnswer:
        origin = self._guard.check(request.url)
        addresses = await self._guard.addresses(origin)
        failure: CheckFailed | None = None
        for address in addresses[:3]:
            try:
                return await self._exchange(request, credentials, origin, address)
            except self._package.ConnectError as error:  # nothing was sent yet: the next address may answer
                failure = TransferFailed("connection", f"cannot connect to {origin[1]:.100}: {type(error).__name__}")
            except self._package.LocalProtocolError as error:
                raise CheckFailed("invalid_arguments", f"this cannot be sent over HTTP: {error}"[:300]) from error
            except (self._package.TransportError, self._package.StreamError) as error:
                message = f"the connection to {origin[1]:.100} broke: {type(error).__name__}"
                raise TransferFailed("connection", message) from error
        raise failure or TransferFailed("connection", f"the name {origin[1]:.100} has no address")

    async def _exchange(
        self, request: HttpRequest, credentials: Credentials, origin: Origin, address: str
    ) -> HttpAnswer:
        transport = self._transports.get(origin)
        if transport is None:
            transport = self._package.AsyncHTTPTransport(
                verify=self._verify, trust_env=False, limits=self._package.Limits(max_connections=_MAX_CONNECTIONS)
            )
            self._transports[origin] = transport
        response = await transport.handle_async_request(self._built(request, credentials, origin, address))
        try:
            headers = {name.lower(): value for name, value in response.headers.items()}
            body = await self._read(response, headers.get("content-encoding", "identity"))
            return HttpAnswer(response.status_code, headers, body)
        finally:
            await response.aclose()

    def _built(self, request: HttpRequest, credentials: Credentials, origin: Origin, address: str) -> Any:
        scheme, host, port = origin
        default = {"http": 80, "https": 443}[scheme]
        named = f"[{host}]" if ":" in host else host
        headers = {
            "accept": "application/json, text/*;q=0.9, */*;q=0.1",
            "accept-encoding": "gzip, deflate",
            "user-agent": "toolscaler",
            **{name.lower(): value for name, value in request.headers.items()},
            **{name.lower(): value for name, value in credentials.headers.items()},
            "host": named if port == default else f"{named}:{port}",
        }
        cookies = {**request.cookies, **credentials.cookies}
        if cookies:
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        query = [(name, value) for name, value in request.query if name not in credentials.query]
        query += list(credentials.query.items())
        url = self._package.URL(request.url).copy_with(host=address)
        if query:
            url = url.copy_with(query=urlencode(query).encode())
        try:
            return self._package.Request(
                request.method,
                url,
                headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()],
                content=request.body,
                extensions={"sni_hostname": host} if scheme == "https" else {},
            )
        except UnicodeEncodeError as error:
            raise CheckFailed("invalid_arguments", "a header cannot hold this text") from error

    async def _read(self, response: Any, encoding: str) -> bytes:
        """Read and unpack the body, and stop at the limit: a small packed answer may unpack to gigabytes."""
        kind = encoding.strip().lower()
        if kind not in ("identity", "", "gzip", "x-gzip", "deflate"):
            raise CheckFailed("invalid_response", f"the answer is packed as {encoding!r:.40}, which was not asked for")
        unpack = None if kind in ("identity", "") else zlib.decompressobj(wbits=47)
        body = bytearray()
        async for chunk in response.stream:
            if unpack is not None:
                try:
                    chunk = unpack.decompress(chunk, self._max_bytes + 1 - len(body))
                except zlib.error as error:
                    raise CheckFailed("invalid_response", f"the answer is damaged: {error}") from error
            body += chunk
            if len(body) > self._max_bytes:
                raise CheckFailed("too_large", f"the result is longer than {self._max_bytes} bytes; ask for less")
        if unpack is not None and not unpack.eof and body:
            raise TransferFailed("connection", "the answer ended too early")
        return bytes(body)

    async def close(self) -> None:
        """Close every connection."""
        transports, self._transports = list(self._transports.values()), {}
        for transport in transports:
            await transport.aclose()
