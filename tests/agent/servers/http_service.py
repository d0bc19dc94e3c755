"""A small HTTP service, with the bad habits that services have."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit


class Service(ThreadingHTTPServer):
    """The server; ``requests`` lists what came in."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict] = []
        self.counts: Counter[str] = Counter()
        self.leaving = threading.Event()
        self.elsewhere = ""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address) -> None:
        pass  # clients hang up on purpose here

    def stop(self) -> None:
        self.leaving.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def log_message(self, *args: object) -> None:
        pass

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        size = int(self.headers.get("content-length") or 0)
        seen = {
            "method": self.command,
            "path": parts.path,
            "query": parse_qsl(parts.query, keep_blank_values=True),
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": self.rfile.read(size).decode() if size else "",
        }
        self.server.requests.append(seen)
        self.server.counts[parts.path] += 1
        name = parts.path.strip("/").split("/")[0]
        getattr(self, f"_{name}", self._echo)(seen)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"content-type": "application/json", **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _echo(self, seen: dict) -> None:
        self._answer(200, json.dumps(seen).encode())

    def _status(self, seen: dict) -> None:
        code = int(seen["path"].rsplit("/", 1)[1])
        self._answer(code, b"" if code == 204 else b'{"detail": "as asked"}')

    def _flaky(self, seen: dict) -> None:
        good = self.server.counts[seen["path"]] > 2
        self._answer(200 if good else 503, b'"up"' if good else b'"down"', retry_after="0")

    def _drop(self, seen: dict) -> None:
        self.close_connection = True
        if self.server.counts[seen["path"]] > 1:
            self._answer(200, b'"back"')

    def _slow(self, seen: dict) -> None:
        """Send one byte of a header now and then: each read is quick, the whole never ends."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
        while not self.server.leaving.wait(0.05):
            self.wfile.write(b"a")

    def _drip(self, seen: dict) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        while not self.server.leaving.wait(0.05):
            self.wfile.write(b"a")

    def _endless(self, seen: dict) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        until = time.monotonic() + 20
        while time.monotonic() < until:
            self.wfile.write(b"1000\r\n" + b"a" * 4096 + b"\r\n")

    def _bomb(self, seen: dict) -> None:
        self._answer(200, gzip.compress(b"\0" * 50_000_000), content_encoding="gzip")

    def _packed(self, seen: dict) -> None:
        self._answer(200, gzip.compress('"grün"'.encode()), content_encoding="gzip")

    def _strange(self, seen: dict) -> None:
        self._answer(200, b"xyz", content_encoding="br")

    def _damaged(self, seen: dict) -> None:
        self._answer(200, b"not gzip at all", content_encoding="gzip")

    def _binary(self, seen: dict) -> None:
        self._answer(200, b"\xff\xfe\x00\x80", content_type="application/octet-stream")

    def _latin(self, seen: dict) -> None:
        self._answer(200, "grün".encode("latin-1"), content_type="text/plain; charset=iso-8859-1")

    def _unknown(self, seen: dict) -> None:
        self._answer(200, b"abc", content_type="text/plain; charset=klingon")

    def _garbage(self, seen: dict) -> None:
        self.wfile.write(b"\x00\x01\x02 this is no HTTP\r\n\r\n")
        self.close_connection = True

    def _headers(self, seen: dict) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(20_000):
            self.wfile.write(b"x-%d: %s\r\n" % (number, b"a" * 100))

    def _redirect(self, seen: dict) -> None:
        query = dict(seen["query"])
        self._answer(int(query.get("code", 302)), b"", location=query["to"].replace("ELSEWHERE", self.server.elsewhere))

    def _loop(self, seen: dict) -> None:
        self._answer(302, b"", location="/loop")

    def _cookie(self, seen: dict) -> None:
        self._answer(200, json.dumps(seen["headers"].get("cookie")).encode(), set_cookie="session=theirs; Path=/")

    def _tell(self, seen: dict) -> None:
        self._answer(401, json.dumps({"you sent": seen["headers"].get("authorization"), "at": seen["query"]}).encode())

    def _virtual(self, seen: dict) -> None:
        """StableToolBench's protocol, as its server reads and answers it."""
        try:
            info = json.loads(seen["body"])
            fields = ("category", "tool_name", "api_name", "strip", "toolbench_key")
            good = all(isinstance(info[field], str) for field in fields)
            good = good and isinstance(info["tool_input"], dict | str)
        except (ValueError, KeyError):
            good = False
        if not good:
            self._answer(422, b'{"detail": "unprocessable"}')
            return
        api = info["api_name"]
        if api == "broken":
            self._answer(200, b"<html>")
        elif api == "fails":
            self._answer(200, json.dumps({"error": "Message error...", "response": ""}).encode())
        elif api == "busy" and self.server.counts[f"busy {info['tool_input']}"] < 1:
            self.server.counts[f"busy {info['tool_input']}"] += 1
            self._answer(503, b"busy")
        else:
            self._answer(200, json.dumps({"error": "", "response": json.dumps(info)}).encode())
