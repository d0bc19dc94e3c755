"""An MCP server of the official SDK whose tools stand in a file: ``changing_server.py TOOLS.json``.

It looks at the file ten times a second and tells its client when the tools have changed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio
from mcp import types
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.stdio import stdio_server

FILE = Path(sys.argv[1])
SESSIONS: list = []


async def list_tools(context, params) -> types.ListToolsResult:
    SESSIONS[:] = [context.session]
    tools = []
    for name, data in json.loads(FILE.read_text()).items():
        hints = types.ToolAnnotations(read_only_hint=data["read_only"]) if "read_only" in data else None
        schema = {"type": "object", "properties": {}}
        tools.append(types.Tool(name=name, description=data["text"], input_schema=schema, annotations=hints))
    return types.ListToolsResult(tools=tools)


async def call_tool(context, params) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text="done")])


SERVER: Server = Server("whatever", on_list_tools=list_tools, on_call_tool=call_tool)


async def watch() -> None:
    last = FILE.read_bytes()
    while True:
        await anyio.sleep(0.1)
        now = FILE.read_bytes()
        if now != last and SESSIONS:
            last = now
            await SESSIONS[0].send_tool_list_changed()


async def main() -> None:
    options = SERVER.create_initialization_options(NotificationOptions(tools_changed=True))
    async with stdio_server() as (read, write), anyio.create_task_group() as group:
        group.start_soon(watch)
        await SERVER.run(read, write, options)
        group.cancel_scope.cancel()


anyio.run(main)
