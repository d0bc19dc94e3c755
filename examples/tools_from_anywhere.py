"""Read tools from Python functions, function schemas and an MCP answer, and find one with BM25, before any training.

python examples/tools_from_anywhere.py "how warm is it in Oslo"
"""

from __future__ import annotations

import sys

from toolscaler import BM25Retriever, load_tool_documents


def current_temperature(city: str, unit: str = "celsius") -> float:
    """Tell how warm it is outside right now.

    Args:
        city: Name of the city.
        unit: "celsius" or "fahrenheit".

    Returns:
        The temperature.
    """
    raise NotImplementedError(city, unit)


FUNCTION_SCHEMAS = [
    {
        "type": "function",
        "function": {
            "name": "send_email",
            "description": "Send a message to somebody's mailbox.",
            "parameters": {"type": "object", "properties": {"to": {"type": "string"}, "text": {"type": "string"}}},
        },
    }
]

MCP_ANSWER = {
    "tools": [
        {
            "name": "play_song",
            "description": "Play a song on the living room speaker.",
            "inputSchema": {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]},
        }
    ]
}


def main() -> None:
    documents = [
        *load_tool_documents(current_temperature, provider="weather"),
        *load_tool_documents(FUNCTION_SCHEMAS, provider="mail"),
        *load_tool_documents(MCP_ANSWER, provider="home"),
    ]
    for document in documents:
        print(f"{document.id:<32} {document.signature()}")
    query = sys.argv[1] if len(sys.argv) > 1 else "how warm is it in Oslo"
    for tool in BM25Retriever(documents).retrieve([query], top_k=2)[0]:
        print(f"{tool.score:8.3f}  {tool.name}")


if __name__ == "__main__":
    main()
