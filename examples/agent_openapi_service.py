"""An agent that calls the operations of an HTTP service, as its OpenAPI specification describes them.

The service runs in this process, on a free port of this machine. Its key comes from the program, never from the model.

python examples/agent_openapi_service.py "is there a free room for 12 people"
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from agent_model import make_parser, planner_for, show
from toolscaler.agent import AgentConfig, Credentials, OpenAPIExecutor, ToolAgent

KEY = "the-service-key"
ROOMS = {"oak": 6, "elm": 14, "ash": 30}


def specification(server: str) -> dict:
    """Give the service's OpenAPI 3 specification."""
    seats = {"name": "seats", "in": "query", "required": True, "schema": {"type": "integer", "minimum": 1}}
    room = {"name": "room", "in": "path", "required": True, "schema": {"type": "string", "enum": sorted(ROOMS)}}
    ok = {"200": {"description": "The answer."}}
    return {
        "openapi": "3.0.3",
        "info": {"title": "rooms", "version": "1"},
        "servers": [{"url": server}],
        "components": {"securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-Key"}}},
        "security": [{"key": []}],
        "paths": {
            "/rooms": {
                "get": {
                    "operationId": "find_rooms",
                    "summary": "Find rooms with at least so many seats.",
                    "parameters": [seats],
                    "responses": ok,
                }
            },
            "/rooms/{room}": {
                "get": {
                    "operationId": "describe_room",
                    "summary": "Say how many seats a room has.",
                    "parameters": [room],
                    "responses": ok,
                }
            },
        },
    }


class Service(BaseHTTPRequestHandler):
    """The service."""

    def do_GET(self) -> None:
        """Answer a request."""
        parts = urlsplit(self.path)
        name = parts.path.removeprefix("/rooms").strip("/")
        if self.headers.get("X-Key") != KEY:
            self.answer(401, {"detail": "no key"})
        elif name:
            self.answer(200, {"room": name, "seats": ROOMS[name]}) if name in ROOMS else self.answer(404, {})
        else:
            seats = int(parse_qs(parts.query)["seats"][0])
            self.answer(200, [room for room, size in ROOMS.items() if size >= seats])

    def answer(self, status: int, data: object) -> None:
        """Send JSON."""
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def main() -> None:
    arguments = make_parser(__doc__ or "", "is there a free room for 12 people").parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    spec = specification(f"http://127.0.0.1:{server.server_port}")
    key = Credentials(headers={"X-Key": KEY})
    with OpenAPIExecutor(spec, credentials=lambda tool, url: key, allow_private=True) as executor:
        documents = executor.documents()
        for document in documents:
            print(f"{document.id:<24} {document.signature()}")
        agent = ToolAgent(planner_for(documents, arguments.model), executor, config=AgentConfig(max_steps=3))
        show(agent.run(arguments.query, caller="example"))
    server.shutdown()


if __name__ == "__main__":
    main()
