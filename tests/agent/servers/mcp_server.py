"""An MCP server of the official SDK, as a program: ``mcp_server.py stdio|http FOLDER [PORT]``."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import anyio
from mcp import types
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.stdio import stdio_server

FOLDER = Path(sys.argv[2])
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
NOTHING = {"type": "object", "properties": {}}
DEEP: dict = {"type": "string"}
for _ in range(100):
    DEEP = {"type": "array", "items": DEEP}
READ_ONLY = types.ToolAnnotations(read_only_hint=True)
HOSTILE = {
    "type": "object",
    "properties": {"value": {"type": "string", "pattern": "(x+x+)+y"}},
}
TOOLS = [
    types.Tool(name="echo", description="Give the text back.", input_schema=TEXT),
    types.Tool(name="structured", description="Numbers.", input_schema=NOTHING, output_schema=HOSTILE),
    types.Tool(name="fail", description="Say that it failed.", input_schema=NOTHING),
    types.Tool(name="refuse", description="Answer with a protocol error.", input_schema=NOTHING),
    types.Tool(name="crash", description="Die.", input_schema=NOTHING),
    types.Tool(name="crash_once", description="Die once.", input_schema=NOTHING, annotations=READ_ONLY),
    types.Tool(name="hang", description="Wait.", input_schema=NOTHING),
    types.Tool(name="freeze", description="Stop serving.", input_schema=NOTHING),
    types.Tool(name="big", description="A long text.", input_schema=NOTHING),
    types.Tool(name="mixed", description="Blocks of all kinds.", input_schema=NOTHING),
    types.Tool(name="grow", description="Add a tool.", input_schema=NOTHING),
    types.Tool(name="pid", description="The process.", input_schema=NOTHING),
    types.Tool(
        name="deep", description="A schema too deep.", input_schema={"type": "object", "properties": {"a": DEEP}}
    ),
    types.Tool(
        name="broken",
        description="No schema.",
        input_schema={"type": "object", "properties": {"a": {"type": "banana"}}},
    ),
    types.Tool(name="hostile", description="A schema that never ends.", input_schema=HOSTILE),
]
PAGE = 4


def note(name: str, text: str = "") -> None:
    (FOLDER / f"{name}.tmp").write_text(text)
    (FOLDER / f"{name}.tmp").rename(FOLDER / name)


def said(text: str, **more: object) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], **more)


async def list_tools(context, params) -> types.ListToolsResult:
    if (FOLDER / "endless").exists():
        return types.ListToolsResult(tools=[], next_cursor="again")
    start = int(params.cursor) if params is not None and params.cursor else 0
    after = start + PAGE
    return types.ListToolsResult(tools=TOOLS[start:after], next_cursor=str(after) if after < len(TOOLS) else None)


async def call_tool(context, params) -> types.CallToolResult:
    name, arguments = params.name, params.arguments or {}
    with (FOLDER / "calls").open("a") as file:
        file.write(f"{name}\n")
    if name == "echo" or name.startswith("new"):
        return said(arguments.get("text", name))
    if name == "structured":
        return types.CallToolResult(content=[], structured_content={"value": "x" * 5000})
    if name == "fail":
        return said("no such city", is_error=True)
    if name == "refuse":
        raise ValueError("a protocol error")
    if name == "crash" or (name == "crash_once" and not (FOLDER / "crashed").exists()):
        note("crashed")
        os._exit(1)
    if name == "hang":
        note("hanging")
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            note("cancelled")
            raise
    if name == "freeze":
        import time

        time.sleep(600)
    if name == "big":
        return said("a" * 3_000_000)
    if name == "mixed":
        blob = types.BlobResourceContents(uri="file:///b", blob="AAAA", mime_type="application/pdf")
        inner = types.TextResourceContents(uri="file:///a", text="inner text")
        return types.CallToolResult(
            content=[
                types.TextContent(type="text", text="first"),
                types.ImageContent(type="image", data="AAAA", mime_type="image/png"),
                types.EmbeddedResource(type="resource", resource=inner),
                types.EmbeddedResource(type="resource", resource=blob),
                types.ResourceLink(type="resource_link", uri="file:///c", name="c"),
            ]
        )
    if name == "grow":
        TOOLS.append(types.Tool(name=f"new{len(TOOLS)}", description="New.", input_schema=NOTHING))
        await context.session.send_tool_list_changed()
        return said(f"new{len(TOOLS) - 1}")
    if name == "pid":
        return said(str(os.getpid()))
    return said("done")


SERVER: Server = Server("test server", on_list_tools=list_tools, on_call_tool=call_tool)


async def serve_stdio() -> None:
    options = SERVER.create_initialization_options(NotificationOptions(tools_changed=True))
    async with stdio_server() as (read, write):
        await SERVER.run(read, write, options)


def serve_http() -> None:
    import socket

    import uvicorn

    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", int(sys.argv[3])))
    bound.listen(256)
    note("port", str(bound.getsockname()[1]))
    app = SERVER.streamable_http_app()

    async def guarded(scope, receive, send) -> None:
        headers = dict(scope.get("headers") or ())
        if scope["type"] == "http":
            note("token", headers.get(b"authorization", b"").decode())
        await app(scope, receive, send)

    uvicorn.Server(uvicorn.Config(guarded, log_level="critical")).run(sockets=[bound])


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        anyio.run(serve_stdio)
    else:
        serve_http()
