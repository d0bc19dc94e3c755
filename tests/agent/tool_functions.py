"""Functions that the executor tests run as tools; at the top of a module, so that another process can import them."""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import datetime
import enum
import os
import subprocess
import sys
import time
from pathlib import Path


class Unit(enum.Enum):
    """A unit."""

    CELSIUS = "C"
    KELVIN = "K"


@dataclasses.dataclass
class Point:
    """A point."""

    x: float
    y: float


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


def days_between(start: datetime.date, end: datetime.date | None = None) -> dict:
    """Count days."""
    return {"days": ((end or datetime.date(2030, 1, 1)) - start).days, "start": start}


def convert(value: float, unit: Unit, at: Point | None = None, tags: set[str] = frozenset()) -> list:
    """Say which Python types came."""
    return [type(value).__name__, type(unit).__name__, type(at).__name__, type(tags).__name__, sorted(tags)]


def repeat(text: str, times: int) -> str:
    """Repeat a text."""
    return text * times


def fail(kind: str) -> str:
    """Fail in one of many ways."""
    if kind == "value":
        raise ValueError("no such city: Atlantis")
    if kind == "exit":
        sys.exit(3)
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "deep":
        return fail("deep")
    if kind == "unprintable":
        raise _Unprintable
    raise AssertionError(kind)


class _Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def no_json() -> object:
    """Return what has no JSON form."""
    return object()


def circular() -> list:
    """Return a list that holds itself."""
    items: list = []
    items.append(items)
    return items


def not_a_number() -> float:
    """Return NaN."""
    return float("nan")


def surrogate() -> str:
    """Return text that UTF-8 cannot write."""
    return "a\ud800b"


def hang(seconds: float = 600.0) -> str:
    """Sleep."""
    time.sleep(seconds)
    return "slept"


def spin() -> None:
    """Never end, and never let go of the interpreter's lock for long."""
    while True:
        pass


async def later(value: int) -> int:
    """Give a number after a moment."""
    await asyncio.sleep(0)
    return value


def crash() -> None:
    """End the process at once."""
    os._exit(7)


def segfault() -> None:
    """Read where nothing is."""
    ctypes.string_at(0)


def process_id() -> int:
    """Give the id of the process."""
    return os.getpid()


def hang_with_child(folder: str) -> None:
    """Start a program, write down both ids, and hang."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note = Path(folder) / "note"
    note.write_text(f"{os.getpid()} {child.pid}")
    note.rename(Path(folder) / "ids")
    time.sleep(600)


def flaky(folder: str, failures: int) -> str:
    """Fail the first times it is called."""
    counter = Path(folder) / "count"
    seen = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(seen + 1))
    if seen < failures:
        raise ConnectionResetError("try again")
    return "done"


def crash_once(folder: str) -> str:
    """End the process the first time it is called."""
    marker = Path(folder) / "crashed"
    if not marker.exists():
        marker.touch()
        os._exit(9)
    return "done"
