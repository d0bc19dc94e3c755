"""Contract: whole lines pass unchanged in whatever pieces they come; a longer one becomes an error under its id."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolscaler.agent.executors import stdio_relay
from toolscaler.agent.executors.stdio_relay import LINE_TOO_LONG, LineLimit, TooLong

LINES = st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=8)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


@given(LINES, st.lists(st.integers(0, 400), max_size=10), st.integers(1, 30))
def test_lines_pass_as_they_are(lines, places, limit):
    data = b"".join(line + b"\n" for line in lines)
    relay = LineLimit(limit)
    if any(len(line) > limit for line in lines):
        with pytest.raises(TooLong):
            [relay.feed(piece) for piece in cut(data, places)]
    else:
        assert b"".join(relay.feed(piece) for piece in cut(data, places)) == data


@given(st.lists(st.integers(0, 300), max_size=10), st.integers(60, 200))
def test_a_long_answer_becomes_an_error_under_its_id(places, limit):
    short = b'{"jsonrpc":"2.0","id":1,"result":{}}\n'
    long = json.dumps({"jsonrpc": "2.0", "id": 2, "result": "x" * 500}).encode() + b"\n"
    relay = LineLimit(limit)
    out = b"".join(relay.feed(piece) for piece in cut(short + long + short, places))
    first, error, last = out.splitlines(keepends=True)
    assert first == last == short
    answer = json.loads(error)
    assert answer["id"] == 2
    assert answer["error"]["message"] == f"{LINE_TOO_LONG} {limit} bytes"


@pytest.mark.parametrize(
    "line",
    [
        b'{"result":{"id":2,',
        b'{"jsonrpc":"2.0","method":"notifications/x","params":{"id":2,',
        b"x",
        b'{"id":{"a":1},',
        b'{"id":"a\\"b",',
    ],
    ids=["inner-id", "note", "noise", "object", "escape"],
)
def test_an_id_is_not_guessed(line):
    with pytest.raises(TooLong):
        LineLimit(100).feed(line + b"x" * 200)


def relayed(limit: int, code: str, given: bytes = b"") -> subprocess.CompletedProcess:
    command = [sys.executable, "-I", "-S", stdio_relay.__file__, str(limit), sys.executable, "-c", code]
    return subprocess.run(command, input=given, capture_output=True, timeout=60)


def test_as_a_program():
    echo = "import sys\nfor line in sys.stdin.buffer: sys.stdout.buffer.write(line[::-1].strip() + b'\\n')\nsys.exit(5)"
    done = relayed(1000, echo, b"abc\n\xff\x00d\n")
    assert (done.stdout, done.returncode) == (b"cba\nd\x00\xff\n", 5)
    endless = "import sys\nwhile True: sys.stdout.buffer.write(b'x' * 65536)"
    done = relayed(1000, endless)
    assert (done.stdout, done.returncode) == (b"", 1)
    assert relayed(10, "import sys; sys.stderr.write('hello')").stderr == b"hello"
