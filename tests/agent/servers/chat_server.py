"""An HTTP server that speaks the Chat Completions protocol with scripted answers, and refuses what the protocol does.

The checks are written from the protocol's rules, apart from the client: a request that a real service would refuse
gets 400 here.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-test-4f9aQ7Lm2Zx81KdR"


def text(content: str, **more: object) -> dict:
    """Answer with text."""
    return {"content": content, **more}


def calls(*pairs: tuple, content: str = "") -> dict:
    """Answer with calls: (name, arguments) with arguments as text or data."""
    made = [
        {
            "id": f"id{place}_{id(pairs):x}",
            "type": "function",
            "function": {
                "name": name,
                "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
            },
        }
        for place, (name, arguments) in enumerate(pairs)
    ]
    return {"content": content or None, "tool_calls": made}


def status(code: int, body: object = None, **headers: str) -> Callable:
    """Answer with a status."""

    def answer(handler: _Handler, request: dict) -> None:
        data = json.dumps({"error": {"message": f"as asked: {code}"}} if body is None else body).encode()
        handler.send(code, data, **headers)

    return answer


def raw(data: bytes, **headers: str) -> Callable:
    """Answer with bytes."""
    return lambda handler, request: handler.send(200, data, **headers)


def hang(handler: _Handler, request: dict) -> None:
    """Send one byte of a header now and then, and never end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
    while not handler.server.leaving.wait(0.05):
        handler.wfile.write(b"a")


def endless(handler: _Handler, request: dict) -> None:
    """Stream text without end."""
    handler.begin_stream()
    piece = json.dumps({"choices": [{"delta": {"content": "word " * 200}}]}).encode()
    while not handler.server.leaving.is_set():
        handler.event(piece)


def drop(handler: _Handler, request: dict) -> None:
    """Hang up."""
    handler.close_connection = True


def cut(handler: _Handler, request: dict) -> None:
    """Stream some text and hang up."""
    handler.begin_stream()
    handler.event(json.dumps({"choices": [{"delta": {"content": "The answer"}}]}).encode())
    handler.close_connection = True


class ChatServer(ThreadingHTTPServer):
    """The server. ``answers`` are given in order; then ``model``, a function of the request, makes them."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, *answers: object, model: Callable[[dict], dict] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.model = list(answers), model
        self.requests: list[dict] = []
        self.problems: list[str] = []
        self.lock = threading.Lock()
        self.leaving = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address) -> None:
        pass  # clients hang up on purpose here

    def __enter__(self) -> ChatServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.leaving.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path.partition("?")[0] != "/v1/chat/completions":
            self.send(404, b'{"error": {"message": "no such path"}}')
            return
        if self.headers.get("authorization") != f"Bearer {KEY}":
            got = self.headers.get("authorization", "nothing")
            self.send(401, json.dumps({"error": {"message": f"Incorrect API key provided: {got}"}}).encode())
            return
        request = json.loads(body)
        problem = problem_of(request)
        with self.server.lock:
            self.server.requests.append(request)
            answer = self.server.answers.pop(0) if self.server.answers else self.server.model
            if problem:
                self.server.problems.append(problem)
        if problem:
            self.send(400, json.dumps({"error": {"message": problem, "type": "invalid_request_error"}}).encode())
        elif isinstance(answer, dict):
            self.answer(request, answer)
        elif answer is self.server.model:
            self.answer(request, answer(request))
        else:
            answer(self, request)

    def send(self, code: int, data: bytes, **headers: str) -> None:
        self.send_response(code)
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        for key, value in {"content-type": "application/json", **named}.items():
            self.send_header(key, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def begin_stream(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n")
        self.wfile.write(b"transfer-encoding: chunked\r\n\r\n")

    def event(self, data: bytes) -> None:
        self.chunk(b"data: " + data + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def answer(self, request: dict, message: dict) -> None:
        message = dict(message)
        tokens = message.pop("tokens", 7)
        reason = message.pop("finish_reason", "tool_calls" if message.get("tool_calls") else "stop")
        if not request.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
            usage = {"completion_tokens": tokens, "prompt_tokens": 3}
            data = {"object": "chat.completion", "choices": [choice], "usage": usage}
            self.send(200, json.dumps(data).encode())
            return
        self.begin_stream()
        self.chunk(b": keep-alive\r\n\r\n")
        deltas = [{"role": "assistant", "content": ""}]
        content = message.get("content") or ""
        deltas += [{"content": content[at : at + 5]} for at in range(0, len(content), 5)]
        for index, call in enumerate(message.get("tool_calls") or ()):
            arguments = call["function"]["arguments"]
            head = {**call, "index": index, "function": {"name": call["function"]["name"], "arguments": ""}}
            parts = [arguments[at : at + 3] for at in range(0, len(arguments), 3)]
            pieces = [{"index": index, "function": {"arguments": part}} for part in parts]
            deltas += [{"tool_calls": [piece]} for piece in (head, *pieces)]
        events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        events.append({"choices": [], "usage": {"completion_tokens": tokens}})
        data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
        for at in range(0, len(data), 37):  # events do not end where chunks do
            self.chunk(data[at : at + 37])
        self.wfile.write(b"0\r\n\r\n")


def problem_of(request: dict) -> str:
    """Say what is wrong with a request; nothing where all is well."""
    if not isinstance(request.get("model"), str) or not isinstance(request.get("messages"), list):
        return "expected a model and messages"
    tools = request.get("tools", [])
    if "tools" in request and not tools:
        return "[] is too short - 'tools'"
    if len(tools) > 128:
        return f"expected an array with maximum length 128, got {len(tools)} - 'tools'"
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) < len(names):
        return "function names must be unique"
    for tool in tools:
        function = tool["function"]
        if tool["type"] != "function" or not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", function["name"]):
            return f"bad function name {function['name']!r}"
        if len(function["description"]) > 1024 or function["parameters"]["type"] != "object":
            return f"bad function {function['name']!r}"
    waiting: list[str] = []
    for number, message in enumerate(request["messages"]):
        role = message["role"]
        if role == "tool":
            if message["tool_call_id"] not in waiting:
                return f"message {number} answers no open call"
            waiting.remove(message["tool_call_id"])
        elif waiting:
            return f"message {number}: calls {waiting} have no results"
        elif role not in ("system", "user", "assistant") or (role == "system" and number):
            return f"message {number}: role {role!r}"
        for call in message.get("tool_calls", ()):
            json.loads(call["function"]["arguments"])
            waiting.append(call["id"])
        if role != "assistant" and not isinstance(message["content"], str):
            return f"message {number}: no content"
        if role == "assistant" and not message.get("tool_calls") and not message["content"]:
            return f"message {number}: neither content nor calls"
    if len(set(waiting)) < len(waiting):
        return "call ids must be unique"
    return f"calls {waiting} have no results" if waiting else ""
