"""An HTTP server that speaks the embeddings protocol, and refuses what a real service would."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-test-8d1cWm3Rk90YtQvB"


def vector(text: str, size: int = 6) -> list[float]:
    """What the model says of a text: numbers of its SHA-256."""
    return [byte / 64 - 2 for byte in hashlib.sha256(text.encode()).digest()[:size]]


def status(code: int, body: object = None, **headers: str) -> Callable:
    """Answer with a status."""
    data = json.dumps({"error": {"message": f"as asked: {code}"}} if body is None else body).encode()
    return lambda handler, request: handler.send(code, data, **headers)


def raw(body: object, **headers: str) -> Callable:
    """Answer with bytes, or data as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda handler, request: handler.send(200, data, **headers)


def hang(handler: _Handler, request: dict) -> None:
    """Send one byte of a header now and then, and never end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
    while not handler.server.leaving.wait(0.05):
        handler.wfile.write(b"a")


def drop(handler: _Handler, request: dict) -> None:
    """Hang up."""
    handler.close_connection = True


def shuffled(handler: _Handler, request: dict) -> None:
    """Answer in reverse order, in base64; the protocol's index says which is which."""
    rows = [
        {
            "object": "embedding",
            "index": place,
            "embedding": base64.b64encode(struct.pack("<6f", *vector(text))).decode(),
        }
        for place, text in enumerate(request["input"])
    ]
    handler.send(200, json.dumps({"data": rows[::-1]}).encode())


class EmbeddingServer(ThreadingHTTPServer):
    """The server. ``answers`` are given in order; then the model answers."""

    daemon_threads = True

    def __init__(self, *answers: Callable) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers)
        self.requests: list[dict] = []
        self.paths: list[str] = []
        self.leaving = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address) -> None:
        pass  # clients hang up on purpose here

    def __enter__(self) -> EmbeddingServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.leaving.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: EmbeddingServer

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)))
        self.server.requests.append(request)
        self.server.paths.append(self.path)
        if self.headers.get("authorization") != f"Bearer {KEY}":
            said = self.headers.get("authorization")
            self.send(401, json.dumps({"error": {"message": f"no such key: {said}"}}).encode())
        elif self.server.answers:
            self.server.answers.pop(0)(self, request)
        elif not self._valid(request):
            self.send(400, b'{"error": {"message": "not the protocol"}}')
        else:
            size = request.get("dimensions", 6)
            rows = [
                {"object": "embedding", "index": place, "embedding": vector(text, size)}
                for place, text in enumerate(request["input"])
            ]
            usage = {"prompt_tokens": 1, "total_tokens": 1}
            body = {"object": "list", "data": rows, "model": request["model"], "usage": usage}
            self.send(200, json.dumps(body).encode())

    def _valid(self, request: dict) -> bool:
        texts = request.get("input")
        return (
            self.path.partition("?")[0] == "/v1/embeddings"
            and request.get("model") == "tiny"
            and isinstance(texts, list)
            and 0 < len(texts) <= 2048
            and all(isinstance(text, str) and text for text in texts)
            and request.get("encoding_format") in (None, "float", "base64")
        )

    def send(self, code: int, data: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
