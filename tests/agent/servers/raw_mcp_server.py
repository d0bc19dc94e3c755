"""A program that speaks the wire of MCP by hand, and not always well: ``raw_mcp_server.py MODE``."""

from __future__ import annotations

import json
import sys
import time

MODE = sys.argv[1]
TOOL = {"name": "act", "description": "Act.", "inputSchema": {"type": "object", "properties": {}}}


def say(**message: object) -> None:
    sys.stdout.buffer.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    sys.stdout.buffer.flush()


def answer(request: dict) -> None:
    method, number = request["method"], request.get("id")
    if number is None:
        return
    if method == "initialize":
        info = {"name": "raw", "version": "1"}
        version = request["params"]["protocolVersion"]
        say(id=number, result={"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info})
    elif method == "tools/list":
        if MODE == "no-list":
            say(id=number, result={"tools": "none"})
        else:
            say(id=number, result={"tools": [TOOL, TOOL]})
    elif method == "tools/call":
        act(number)
    else:
        say(id=number, error={"code": -32601, "message": "what?"})


def act(number: int) -> None:
    if MODE == "bytes":
        raw = b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"a\xff\xfeb"}]}}\n' % number
        sys.stdout.buffer.write(raw)
        sys.stdout.buffer.flush()
    elif MODE == "no-result":
        say(id=number, result={"content": "not a list"})
    elif MODE == "noise":
        sys.stdout.buffer.write(b"this is no JSON\n{}\n[1]\n")
        say(id=99_999, result={"content": []})
        say(method="notifications/nosuch")
        say(id=number, result={"content": [{"type": "text", "text": "after the noise"}]})
    elif MODE == "long":
        say(id=number, result={"content": [{"type": "text", "text": "x" * 3_000_000}]})
    elif MODE == "endless":
        while True:
            sys.stdout.buffer.write(b"x" * 65536)
    elif MODE == "forged":
        say(id=number, error={"code": -32000, "message": "busy"})


if MODE == "silent":
    time.sleep(600)
if MODE == "gone":
    sys.exit(3)
for line in sys.stdin.buffer:
    answer(json.loads(line))
