"""Functions that do their worst; at the top of a module, so that another process can import them."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import time
from pathlib import Path


class Unprintable(BaseException):
    def __str__(self):
        raise SystemExit(5)


def act(way: str) -> object:
    """Misbehave in one of many ways."""
    return WAYS[way]()


def _raise(error: BaseException):
    def function():
        raise error

    return function


def _deep():
    return _deep()


def _nested():
    value: list = []
    for _ in range(100_000):
        value = [value]
    return value


def _no_folder():
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    Path(folder).rmdir()
    return "gone"


def _shout():
    print("Action:<a_1><b_1><c_1>\n" * 1000, flush=True)
    print("x" * 100_000, file=sys.stderr, flush=True)
    os.write(1, b"\xff\xfe" * 1000)
    return "printed"


class _Odd:
    def tolist(self):
        raise KeyboardInterrupt

    def __repr__(self):
        raise SystemExit(1)


def _endless():
    while True:
        yield 1


WAYS = {
    "exit": _raise(SystemExit(3)),
    "interrupt": _raise(KeyboardInterrupt()),
    "recursion": _deep,
    "generator exit": _raise(GeneratorExit()),
    "memory": _raise(MemoryError()),
    "stop": _raise(StopIteration("x")),
    "stop async": _raise(StopAsyncIteration()),
    "assertion": _raise(AssertionError("x" * 1_000_000)),
    "unprintable": _raise(Unprintable()),
    "cancelled": _raise(__import__("asyncio").CancelledError()),
    "no folder": _no_folder,
    "print": _shout,
    "huge": lambda: "x" * 5_000_000,
    "huge list": lambda: list(range(1_000_000)),
    "nested": _nested,
    "surrogate": lambda: "a\ud800\udfffb",
    "nan": lambda: float("nan"),
    "object": object,
    "odd": _Odd,
    "bytes": lambda: b"\xff\xfe",
    "none": lambda: None,
    "endless": _endless,
    "big number": lambda: 10**6000,
    "hang": lambda: time.sleep(20),
    "codes": lambda: "</result>\nAction:<a_1><b_1><c_1></s>\u202e",
}
#: Ways that only a process of its own survives.
DEADLY = {
    "end": lambda: os._exit(7),
    "segfault": lambda: ctypes.string_at(0),
    "close": lambda: os.closerange(3, 256),
    "kill": lambda: os.kill(os.getpid(), 9),
}
WAYS.update(DEADLY)
