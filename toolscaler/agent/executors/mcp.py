"""Tools of an MCP server, over standard input and output or streamable HTTP, with the official SDK."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from toolscaler.agent.executors.background import BackgroundLoop
from toolscaler.agent.executors.base import ToolResult
from toolscaler.agent.executors.checking import CheckFailed, check_schema_size
from toolscaler.agent.executors.guarded import Attempt, CallableTool, GuardedExecutor, describe
from toolscaler.agent.executors.http_client import TransferFailed
from toolscaler.agent.executors.limits import ExecutorLimits, check_timeout
from toolscaler.agent.executors.mcp_connection import (
    MCPConnection,
    Transport,
    http_transport,
    mcp_package,
    stdio_transport,
)
from toolscaler.agent.executors.stdio_relay import LINE_TOO_LONG
from toolscaler.agent.selection import says_idempotent
from toolscaler.data.documents import ToolDocument
from toolscaler.data.sources.loading import load_tool_documents
from toolscaler.errors import DataError, ExecutorError

logger = logging.getLogger(__name__)

_MAX_PAGES = 1000
_MAX_TOOLS = 20_000
_PING_SECONDS = 2.0
_END_SECONDS = 10.0
#: The SDK's own words: a server has forgotten a session, the connection is gone, a message over HTTP is too long.
_SESSION_GONE = "Session terminated"
_CLOSED = "Connection closed"
_EVENT_TOO_LONG = "Server-sent event exceeded"
_Self = TypeVar("_Self", bound="MCPExecutor")


class MCPExecutor(GuardedExecutor):
    """Calls the tools of one MCP server. Make it with :meth:`stdio` or :meth:`http`.

    The server is started at the first need, and again when it has died: a call during which it dies is a failure (or is
    tried again, where the tool is marked as idempotent or read-only); the next call finds a new server. A call over
    its time limit is cancelled, and the server is told.

    :meth:`documents` asks the server each time. When the server says that its tools have changed, the next call lists
    them again first. Tools whose schema is broken or over the limits are left out.

    A message of the server may be six times ``limits.max_result_bytes`` long (each character escaped), and 100 kB more,
    over either transport: a longer result is ``too_large``. A longer page of a listing is an error. How many messages a
    server sends, and what it uses itself, is not bounded here: run servers that you do not trust in a container.

    Args:
        transport: Gives the streams of a new connection.
        name: Provider of the tools. Default: what the server calls itself, which it may choose freely: name it
            yourself where servers do not know of one another.
        on_change: Called, in a thread of its own, when the server says that its tools have changed.
        start_timeout: Seconds that the server may take to start and to list its tools.
        limits: Time, sizes and retries.

    Attributes:
        rejected: Tools of the last listing that were left out, with the reason.

    Raises:
        MissingDependencyError: The SDK is not installed.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        name: str = "",
        on_change: Callable[[], None] | None = None,
        start_timeout: float = 30.0,
        limits: ExecutorLimits | None = None,
    ) -> None:
        super().__init__(limits)
        self._types = mcp_package("mcp.types")
        self._error = mcp_package().MCPError
        self._transport = transport
        self._name = name
        self._on_change = on_change
        self._start_timeout = check_timeout(start_timeout, "start_timeout")
        self.rejected: list[str] = []
        self._tools: dict[str, CallableTool] | None = None
        self._stale = threading.Event()
        self._listing = threading.Lock()
        self._background = BackgroundLoop("toolscaler-mcp")
        self._counting = threading.Lock()
        self._running = 0
        # The following belong to the loop's thread.
        self._connection: MCPConnection | None = None
        self._connections: list[MCPConnection] = []
        self._opening: asyncio.Lock | None = None

    @classmethod
    def stdio(
        cls: type[_Self],
        command: str,
        args: Iterable[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        stderr: Any = None,
        **options: Any,
    ) -> _Self:
        """Use a server that is a program.

        Args:
            command: The program.
            args: Its arguments.
            env: Environment variables beside the few that are passed on (such as PATH and HOME).
            cwd: Its working folder.
            stderr: An open file for its standard error; default: dropped.
            **options: Further arguments of :class:`MCPExecutor`.

        Raises:
            ExecutorError: This Python cannot be started as a program.
        """
        limits = options.get("limits") or ExecutorLimits()
        return cls(stdio_transport(command, list(args), env, cwd, stderr, _longest_message(limits)), **options)

    @classmethod
    def http(
        cls: type[_Self], url: str, *, headers: Callable[[], Mapping[str, str]] | None = None, **options: Any
    ) -> _Self:
        """Use a server behind a URL.

        Args:
            url: Its streamable HTTP endpoint.
            headers: Gives the headers of each request, for example a bearer token. Asked in the connection's thread.
            **options: Further arguments of :class:`MCPExecutor`.
        """
        limits = options.get("limits") or ExecutorLimits()
        return cls(http_transport(url, headers, _longest_message(limits)), **options)

    def documents(self) -> list[ToolDocument]:
        """Ask the server for its tools, all pages, and give their documents.

        Raises:
            ExecutorError: The server does not start or answer.
        """
        with self._listing:
            return [tool.document for tool in self._refreshed(time.monotonic() + self._start_timeout).values()]

    def _find(self, tool: str, deadline: float) -> CallableTool | None:
        # The first listing may wait for the server's start, which is not part of a call's time.
        limit = max(deadline, time.monotonic() + self._start_timeout) if self._tools is None else deadline
        if not self._listing.acquire(timeout=max(0.0, limit - time.monotonic())):
            raise CheckFailed("timeout", "the server's tools could not be listed in time")
        try:
            tools = self._tools
            if tools is None or self._stale.is_set():
                tools = self._refreshed(limit)
        finally:
            self._listing.release()
        return tools.get(tool)

    def _refreshed(self, deadline: float) -> dict[str, CallableTool]:
        self._stale.clear()
        try:
            server, listed = self._background.run(self._list(), deadline)
        except CheckFailed as error:
            self._stale.set()
            if error.error_type == "cancelled":
                raise
            raise ExecutorError(f"the MCP server's tools cannot be listed: {error.message}") from error
        tools, self.rejected = self._described(self._name or server or "mcp", listed)
        if self.rejected:
            logger.warning("%d MCP tools were left out, first: %s", len(self.rejected), self.rejected[0])
        known = self._tools or {}
        # What is the same keeps its checker.
        self._tools = {
            name: known[name] if name in known and _same(known[name], tool) else tool for name, tool in tools.items()
        }
        return self._tools

    def _described(self, server: str, listed: list[dict[str, Any]]) -> tuple[dict[str, CallableTool], list[str]]:
        tools: dict[str, CallableTool] = {}
        rejected: list[str] = []
        for data in listed:
            name = data.get("name")
            data = {key: value for key, value in data.items() if value is not None}
            try:
                for key in ("inputSchema", "outputSchema"):
                    if key in data:
                        check_schema_size(data[key], self.limits)
                document = load_tool_documents({"server_name": server, "tools": [data]}, "mcp")[0]
            except (CheckFailed, DataError) as error:
                rejected.append(f"{name!r:.100}: {error}"[:500])
                continue
            if document.id in tools:
                rejected.append(f"{name!r:.100}: the server lists this name twice")
                continue
            tools[document.id] = self._callable(document, says_idempotent(document), data["name"])
        return tools, rejected

    def _attempt(self, tool: CallableTool, arguments: dict[str, Any], deadline: float) -> Attempt:
        with self._counting:
            self._running += 1
        try:
            return self._tried(tool, arguments, deadline)
        finally:
            with self._counting:
                self._running -= 1

    def _tried(self, tool: CallableTool, arguments: dict[str, Any], deadline: float) -> Attempt:
        try:
            answer = self._background.run(self._call(tool.target, arguments), deadline)
        except TransferFailed as error:
            if self._closed.is_set():
                return Attempt(ToolResult.failure("cancelled", "the executor was closed"))
            return Attempt(ToolResult.failure(error.error_type, error.message), True)
        except self._error as error:
            return Attempt(ToolResult.failure("tool_error", f"the server refuses: {error.message}", code=error.code))
        except CheckFailed as error:
            connection = self._connection
            if error.error_type == "timeout" and connection is not None:
                connection.suspect = True
            return Attempt(ToolResult.failure(error.error_type, error.message))
        except ValueError as error:  # pydantic's error: the answer is no tools/call result
            return Attempt(ToolResult.failure("invalid_response", f"the server's answer is no result: {error}"[:500]))
        return Attempt(_converted(answer))

    async def _list(self) -> tuple[str, list[dict[str, Any]]]:
        listed: list[dict[str, Any]] = []
        seen: set[str] = set()
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            connection = await self._connected()
            params = self._types.PaginatedRequestParams(cursor=cursor) if cursor is not None else None
            request = self._types.ListToolsRequest(params=params)
            try:
                page = await self._sent(connection, request, self._types.ListToolsResult)
            except self._error as error:
                raise TransferFailed("connection", f"the server refuses: {error.message}") from error
            except ValueError as error:
                raise TransferFailed("connection", f"the answer is no listing: {error}"[:500]) from error
            listed += [tool.model_dump(by_alias=True, mode="json") for tool in page.tools]
            cursor = page.next_cursor
            if cursor is None:
                return connection.server_name, listed
            if cursor in seen or len(listed) > _MAX_TOOLS:
                break
            seen.add(cursor)
        raise TransferFailed("connection", f"the listing does not end (after {len(listed)} tools)")

    async def _call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Call a tool; not by the SDK's ``call_tool``, which runs the server's result schema without a bound."""
        params = self._types.CallToolRequestParams(name=name, arguments=arguments)
        request = self._types.CallToolRequest(params=params)
        connection = await self._connected()
        return await self._sent(connection, request, self._types.CallToolResult)

    async def _sent(self, connection: MCPConnection, request: Any, result: Any) -> Any:
        """Send a request; once more where the server had forgotten the session, and so has done nothing."""
        for last in (False, True):
            try:
                return await connection.session.send_request(request, result)
            except self._error as error:
                if _EVENT_TOO_LONG in error.message or error.message.startswith(LINE_TOO_LONG):
                    raise CheckFailed("too_large", f"the result is too long: {error.message}"[:300]) from error
                forgotten = error.message == _SESSION_GONE
                if not forgotten and error.code != self._types.CONNECTION_CLOSED:
                    raise
                if forgotten or error.message == _CLOSED:
                    connection.stop()
                if last or not forgotten:
                    message = f"the MCP server ended the connection: {error.message}"
                    raise TransferFailed("connection", message[:300]) from error
                connection = await self._connected()
            except (OSError, RuntimeError) as error:
                connection.stop()
                raise TransferFailed("connection", f"the connection broke: {describe(error)}"[:300]) from error
        raise TransferFailed("connection", "the MCP server forgets its sessions")

    async def _connected(self) -> MCPConnection:
        """Give a living connection, and open one where there is none."""
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            connection = self._connection
            if connection is not None and not connection.dead and connection.suspect and self._running <= 1:
                await self._probe(connection)  # others may keep a server busy that works on one call at a time
            if connection is None or connection.dead:
                if connection is not None:
                    self._stale.set()  # a new server may have other tools
                    connection.stop()
                connection = self._connection = MCPConnection(self._transport, self._tools_changed, self._start_timeout)
                self._connections = [*(item for item in self._connections if not item.over), connection]
            await connection.opened()
            return connection

    async def _probe(self, connection: MCPConnection) -> None:
        """Ask a server that left a call unanswered whether it lives; give it up if not."""
        try:
            await asyncio.wait_for(connection.session.send_ping(), _PING_SECONDS)
            connection.suspect = False
        except (asyncio.TimeoutError, self._error, OSError, RuntimeError):
            connection.stop()

    def _tools_changed(self) -> None:
        self._stale.set()
        if self._on_change is not None:
            threading.Thread(target=self._on_change, name="toolscaler-mcp-change", daemon=True).start()

    def close(self) -> None:
        """Cancel running calls and end the server's process or session."""
        super().close()
        try:
            self._background.run(self._end(), time.monotonic() + _END_SECONDS)
        except CheckFailed:  # it was closed before, or does not end in time
            logger.debug("an MCP connection did not end by itself")
        self._background.close()

    async def _end(self) -> None:
        for connection in self._connections:
            connection.stop()
        # Also those given up earlier: cancelling them while they end their process would leave it running.
        await asyncio.gather(*(connection.ended() for connection in self._connections))


def _longest_message(limits: ExecutorLimits) -> int:
    """Give the bytes of the longest message: a result of the limit's size, each character of it escaped."""
    return 6 * limits.max_result_bytes + 100_000


def _same(one: CallableTool, other: CallableTool) -> bool:
    return one.document == other.document and one.idempotent == other.idempotent


def _converted(answer: Any) -> ToolResult:
    """Make a result of a tools/call answer: its texts, and a note for anything that is none."""
    data = answer.model_dump(by_alias=True, mode="json")
    structured = data.get("structuredContent")
    texts = [_block_text(block) for block in data.get("content") or ()]
    text = "\n".join(part for part in texts if part)
    if not text and structured is not None:
        text = json.dumps(structured, ensure_ascii=False)
    facts = {"structured": structured} if structured is not None else {}
    if data.get("isError"):
        return ToolResult.failure("tool_error", text or "the tool failed and says nothing", **facts)
    return ToolResult(text, metadata=facts)


def _block_text(block: Mapping[str, Any]) -> str:
    kind = block.get("type")
    if kind == "text":
        return str(block.get("text", ""))
    if kind == "resource":
        inner = block.get("resource") or {}
        if isinstance(inner.get("text"), str):
            return str(inner["text"])
        return f"[resource {inner.get('uri')}, {inner.get('mimeType') or 'unknown type'}]"
    if kind == "resource_link":
        return f"[resource {block.get('uri')}]"
    return f"[{kind}, {block.get('mimeType') or 'unknown type'}]"
