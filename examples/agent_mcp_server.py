"""An agent that calls the tools of an MCP server. The server is this file too, run as a process of its own.

python examples/agent_mcp_server.py "put milk on the list"
"""

from __future__ import annotations

import sys

TOOLS = {
    "add_item": ("Put something on the shopping list.", {"item": {"type": "string", "maxLength": 40}}),
    "list_items": ("Read the shopping list.", {}),
    "clear_list": ("Take everything off the shopping list.", {}),
}


def main() -> None:
    """Be the client: start the server, read its tools, and let an agent use them."""
    from agent_model import make_parser, planner_for, show
    from toolscaler.agent import AgentConfig, MCPExecutor, ToolAgent

    arguments = make_parser(__doc__ or "", "put milk on the list").parse_args()
    with MCPExecutor.stdio(sys.executable, [__file__, "--serve"], name="shopping") as executor:
        documents = executor.documents()
        for document in documents:
            print(f"{document.id:<24} {document.signature()}")
        agent = ToolAgent(planner_for(documents, arguments.model), executor, config=AgentConfig(max_steps=3))
        session = agent.session(caller="example")
        for query in (arguments.query, "what is on the list now"):  # the server remembers, and so does the session
            show(session.run(query))


def serve() -> None:
    """Be the server, on standard input and output, with the official SDK."""
    import anyio
    from mcp import types
    from mcp.server.lowlevel import Server
    from mcp.server.stdio import stdio_server

    items: list[str] = []

    async def list_tools(context: object, params: object) -> types.ListToolsResult:
        tools = [
            types.Tool(
                name=name,
                description=text,
                input_schema={"type": "object", "properties": properties, "required": list(properties)},
            )
            for name, (text, properties) in TOOLS.items()
        ]
        return types.ListToolsResult(tools=tools)

    async def call_tool(context: object, params: types.CallToolRequestParams) -> types.CallToolResult:
        if params.name == "add_item":
            items.append((params.arguments or {})["item"])
        elif params.name == "clear_list":
            items.clear()
        text = f"on the list: {', '.join(items) or 'nothing'}"
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)])

    server: Server = Server("shopping list", on_list_tools=list_tools, on_call_tool=call_tool)

    async def run() -> None:
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    anyio.run(run)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main()
