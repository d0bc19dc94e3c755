"""Run a program and pass its lines on, none longer than a limit: ``stdio_relay.py BYTES COMMAND [ARGUMENT ...]``.

The MCP SDK collects a line of a server's output until it ends, however long it is. This program stands between the two:
what it holds is bounded by the limit, and so is what the SDK reads. An answer that is too long becomes an error under
the same id; where a line does not begin with its id, the program ends, and the connection with it. It imports nothing
of the library, so that it starts fast.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable

#: The error's message begins so; its code is one that JSON-RPC leaves to applications.
LINE_TOO_LONG = "toolscaler: the line is longer than"
_CODE = -32099

_ID = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*(\d{1,18}|"[A-Za-z0-9_-]{1,64}")\s*,')
_CHUNK = 65_536


class TooLong(Exception):
    """A line without a readable id is over the limit."""


class LineLimit:
    """Takes pieces of output, gives whole lines.

    Args:
        limit: Longest line in bytes, its end not counted.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._line = bytearray()
        self._skipping = False

    def feed(self, piece: bytes) -> bytes:
        """Take a piece and give what can be passed on: whole lines.

        Raises:
            TooLong: A line is too long, and nobody can be told.
        """
        out = bytearray()
        *ended, rest = piece.split(b"\n")
        for part in ended:
            out += self._take(part)
            if not self._skipping:
                out += self._line + b"\n"
            self._line.clear()
            self._skipping = False
        out += self._take(rest)
        return bytes(out)

    def _take(self, part: bytes) -> bytes:
        """Add to the line; where it becomes too long, give the error that stands for it."""
        if self._skipping:
            return b""
        self._line += part
        if len(self._line) <= self.limit:
            return b""
        found = _ID.match(bytes(self._line[:256]))
        self._line.clear()
        self._skipping = True
        if found is None:
            raise TooLong
        return b'{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":"%s %d bytes"}}\n' % (
            found.group(1),
            _CODE,
            LINE_TOO_LONG.encode(),
            self.limit,
        )


def _copy(source: int, write: Callable[[bytes], None]) -> None:
    while piece := os.read(source, _CHUNK):
        write(piece)


def _feed_input(child: subprocess.Popen[bytes]) -> None:
    stream = child.stdin
    if stream is None:
        return

    def write(piece: bytes) -> None:
        stream.write(piece)
        stream.flush()

    try:
        _copy(0, write)
        stream.close()
    except OSError:  # the program is gone
        return


def main(arguments: list[str]) -> int:
    """Relay until the program ends; give its exit status."""
    limit = LineLimit(int(arguments[0]))
    try:
        command = arguments[1:]  # the program that the caller of MCPExecutor.stdio names
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 127
    threading.Thread(target=_feed_input, args=(child,), daemon=True).start()

    def write(piece: bytes) -> None:
        lines = limit.feed(piece)
        while lines:
            lines = lines[os.write(1, lines) :]

    try:
        if child.stdout is not None:
            _copy(child.stdout.fileno(), write)
    except TooLong:
        child.kill()
        child.wait()
        return 1
    except OSError:  # nobody reads any more
        child.kill()
    os.close(1)  # the program's output has ended: so has the connection
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
