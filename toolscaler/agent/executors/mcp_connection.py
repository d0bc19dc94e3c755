"""One connection to an MCP server: opened and closed in one task, as the SDK's scopes demand, and used from many."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from toolscaler._optional import require
from toolscaler._version import __version__
from toolscaler.agent.executors import stdio_relay
from toolscaler.agent.executors.guarded import describe
from toolscaler.agent.executors.http_client import TransferFailed
from toolscaler.errors import ExecutorError

logger = logging.getLogger(__name__)

#: Gives the two message streams of a transport.
Transport = Callable[[], AbstractAsyncContextManager[tuple[Any, Any]]]

_MAX_MESSAGE_BYTES = 64_000_000


def mcp_package(module: str = "mcp") -> Any:
    """Import the official SDK, or say which extra brings it."""
    return require(module, extra="agent", purpose="calling tools of MCP servers")


def stdio_transport(
    command: str, args: list[str], env: Mapping[str, str] | None, cwd: str | Path | None, stderr: Any, max_line: int
) -> Transport:
    """Start a program and talk to it over its standard input and output.

    The program runs under a relay (:mod:`~toolscaler.agent.executors.stdio_relay`), a small process of its own, since
    the SDK would read a line of any length.

    Args:
        command: The program. It is looked up in the ``PATH`` that it will have.
        args: Its arguments.
        env: Environment variables beside the few that the SDK passes on.
        cwd: Its working folder.
        stderr: File for what it writes to standard error; ``None`` drops it.
        max_line: Longest line of its output, in bytes.

    Raises:
        ExecutorError: There is no Python interpreter to run the relay (an embedded one).
    """
    package = mcp_package()
    if not sys.executable:
        raise ExecutorError("expected a Python interpreter to start MCP programs with (sys.executable), found none")

    @asynccontextmanager
    async def opened() -> AsyncIterator[tuple[Any, Any]]:
        relay = ["-I", "-S", stdio_relay.__file__, str(max_line), _program(command, env), *args]
        # One undecodable byte would otherwise end the connection for every caller.
        parameters = package.StdioServerParameters(
            command=sys.executable, args=relay, env=dict(env or {}), cwd=cwd, encoding_error_handler="replace"
        )
        with contextlib.ExitStack() as stack:
            log = stderr if stderr is not None else stack.enter_context(Path(os.devnull).open("w"))
            async with package.stdio_client(parameters, errlog=log) as (read, write):
                yield read, write

    return opened


def _program(command: str, env: Mapping[str, str] | None) -> str:
    """Find a program as the relay will, so that a missing one is named; a path is taken as it is.

    Raises:
        FileNotFoundError: It is not there.
    """
    if Path(command).name != command:
        if Path(command).is_absolute() and not Path(command).exists():
            raise FileNotFoundError(f"no such program: {command!r}")
        return command
    found = shutil.which(command, path=(env or {}).get("PATH"))
    if found is None:
        raise FileNotFoundError(f"no such program in the PATH: {command!r}")
    return found


def http_transport(url: str, headers: Callable[[], Mapping[str, str]] | None, max_event_bytes: int) -> Transport:
    """Talk to a server over streamable HTTP.

    Args:
        url: The endpoint. Redirects are followed inside its origin only.
        headers: Gives the headers of each request, for example a bearer token.
        max_event_bytes: Longest message.
    """
    package = mcp_package("mcp.client.streamable_http")
    http = mcp_package("httpx2")

    async def prepare(request: Any) -> None:
        if headers is not None:
            request.headers.update(headers())

    @asynccontextmanager
    async def opened() -> AsyncIterator[tuple[Any, Any]]:
        client = http.AsyncClient(
            timeout=http.Timeout(30.0, read=None),  # a call has its own time limit
            event_hooks={"request": [prepare], "response": [_bounded]},
            trust_env=False,
        )
        async with (
            client,
            package.streamable_http_client(url, http_client=client, max_sse_event_size=max_event_bytes) as streams,
        ):
            yield streams[0], streams[1]

    return opened


async def _bounded(response: Any) -> None:
    """Stop reading a plain answer that is too long; events have their own limit."""
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        return
    inner = response.stream

    class Bounded(type(inner)):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        async def __aiter__(self) -> AsyncIterator[bytes]:
            total = 0
            async for chunk in inner:
                total += len(chunk)
                if total > _MAX_MESSAGE_BYTES:
                    raise mcp_package("httpx2").ReadError("the answer is too long")
                yield chunk

        async def aclose(self) -> None:
            await inner.aclose()

    response.stream = Bounded()


class MCPConnection:
    """A session with a server, from its start to its end.

    Args:
        transport: Gives the message streams.
        on_tools_changed: Called in the loop when the server says that its tools have changed.
        start_timeout: Seconds that the server may take for its first answer.

    Attributes:
        dead: Whether the connection has ended.
        suspect: Whether a call went unanswered, so that the server should be asked whether it still lives.
        session: The SDK's session, once open.
        server_name: What the server calls itself.
    """

    def __init__(self, transport: Transport, on_tools_changed: Callable[[], None], start_timeout: float) -> None:
        self.dead = False
        self.suspect = False
        self.session: Any = None
        self.server_name = ""
        self._transport = transport
        self._on_tools_changed = on_tools_changed
        self._start_timeout = start_timeout
        self._stop = asyncio.Event()
        self._scope = mcp_package("anyio").CancelScope()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._owner = asyncio.create_task(self._own())

    async def opened(self) -> None:
        """Wait until the session can be used; a caller who gives up leaves it to the next one.

        Raises:
            TransferFailed: ``connection``: the server did not start in time, or speaks no MCP.
        """
        await asyncio.shield(self._ready)

    async def _own(self) -> None:
        try:
            with self._scope:
                async with self._transport() as (read, write):
                    await self._use(read, write)
            if not self._ready.done():
                raise ConnectionAbortedError("it was told to stop")
        except BaseException as error:
            if not self._ready.done():
                reason = describe(_first(error))
                self._ready.set_exception(TransferFailed("connection", f"the MCP server did not start: {reason}"))
                self._ready.exception()  # looked at: nobody may be waiting any more
            else:
                logger.debug("an MCP connection ended", exc_info=True)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self.dead = True

    async def _use(self, read: Any, write: Any) -> None:
        package, types = mcp_package(), mcp_package("mcp.types")
        anyio = mcp_package("anyio")
        relay, incoming = anyio.create_memory_object_stream(0)

        async def handle(message: Any) -> None:
            if isinstance(message, types.ToolListChangedNotification):
                self._on_tools_changed()

        async def pass_on() -> None:
            """Hand messages on, and notice when there are no more."""
            try:
                async with relay:
                    async for message in read:
                        await relay.send(message)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass
            finally:
                self.dead = True

        info = types.Implementation(name="toolscaler", version=__version__)
        async with anyio.create_task_group() as group:
            group.start_soon(pass_on)
            async with package.ClientSession(incoming, write, message_handler=handle, client_info=info) as session:
                with anyio.fail_after(self._start_timeout):
                    answer = await session.initialize()
                self.server_name = answer.server_info.name
                self.session = session
                self._ready.set_result(None)
                await self._stop.wait()
            group.cancel_scope.cancel()

    def stop(self) -> None:
        """Let the connection end."""
        self.dead = True
        self._stop.set()
        if not self._ready.done():
            self._scope.cancel()  # not the task itself: that would also break off the server's orderly end

    @property
    def over(self) -> bool:
        """Whether the server's process or session is gone."""
        return self._owner.done()

    async def ended(self) -> None:
        """Wait until the server's process or session is gone."""
        await asyncio.wait([self._owner])


def _first(error: BaseException) -> BaseException:
    """Give the first plain exception inside a group."""
    while getattr(error, "exceptions", None):
        error = error.exceptions[0]  # type: ignore[attr-defined]
    return error
