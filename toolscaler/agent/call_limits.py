"""How often tools may be called: limits, and the ledger that counts calls against them."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from toolscaler.errors import ConfigError

#: Length of the window of a rate, in seconds.
WINDOW_SECONDS = 60.0

#: The rule that objects, and the reason in words.
Objection = tuple[str, str]

#: Takes a counted call back.
Undo = Callable[[], None]


@dataclass(frozen=True)
class CallLimits:
    """How often one caller may call. ``None`` is no limit; zero is never.

    Attributes:
        per_minute: Calls in any 60 seconds, all tools and runs of a caller together.
        tool_per_minute: Calls of one tool in any 60 seconds: one number for every tool, or tool id -> number.
        per_run: Calls of one run.
        tool_per_run: Calls of one tool in one run: one number for every tool, or tool id -> number.

    Raises:
        ConfigError: A limit is no whole number from 0.
    """

    per_minute: int | None = None
    tool_per_minute: int | Mapping[str, int] | None = None
    per_run: int | None = None
    tool_per_run: int | Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        for key in ("per_minute", "per_run"):
            _check_limit(f"CallLimits.{key}", getattr(self, key))
        for key in ("tool_per_minute", "tool_per_run"):
            value = getattr(self, key)
            if not isinstance(value, Mapping):
                _check_limit(f"CallLimits.{key}", value)
                continue
            for name, limit in value.items():
                _check_limit(f"CallLimits.{key}[{name!r}]", limit)
            object.__setattr__(self, key, MappingProxyType(dict(value)))

    def tool_names(self) -> tuple[str, ...]:
        """List the tools that have limits of their own."""
        tables = (self.tool_per_minute, self.tool_per_run)
        return tuple(dict.fromkeys(name for table in tables if isinstance(table, Mapping) for name in table))


def _check_limit(key: str, value: Any) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ConfigError(key, value, "a whole number from 0, or None")


def _of_tool(limit: int | Mapping[str, int] | None, tool_id: str) -> int | None:
    return limit.get(tool_id) if isinstance(limit, Mapping) else limit


class RunCounts:
    """Counts the calls of one run; exact under any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_tool: Counter[str] = Counter()

    def calls(self, tool_id: str | None = None) -> int:
        """Count the calls, of one tool or of all."""
        with self._lock:
            return self._by_tool.total() if tool_id is None else self._by_tool[tool_id]

    def take(self, limits: Iterable[CallLimits], tool_id: str) -> tuple[Objection | None, Undo]:
        """Count a call if no limit of the run objects; see :meth:`CallLedger.take`."""
        with self._lock:
            total, own = self._by_tool.total(), self._by_tool[tool_id]
            for limit in limits:
                objection = _over("run_calls", limit.per_run, total, "calls in this run") or _over(
                    "tool_calls", _of_tool(limit.tool_per_run, tool_id), own, f"calls of {tool_id!r} in this run"
                )
                if objection is not None:
                    return objection, _nothing
            self._by_tool[tool_id] += 1

        def undo() -> None:
            with self._lock:
                self._by_tool[tool_id] -= 1

        return None, undo


class CallLedger:
    """Counts the calls of the last minute, by caller and tool; exact under any number of threads.

    Callers and tools that were quiet for a minute are forgotten.

    Args:
        clock: Seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._times: dict[tuple[str, str | None], deque[float]] = {}
        self._swept = clock()

    def take(self, limits: Iterable[CallLimits], caller: str, tool_id: str) -> tuple[Objection | None, Undo]:
        """Count a call if no rate objects.

        Args:
            limits: The limits that all must hold.
            caller: Who asks.
            tool_id: The tool.

        Returns:
            ``None`` and a function that takes the call back; or (rule, reason) of the limit that objects, and a
            function that does nothing.
        """
        keys = ((caller, None), (caller, tool_id))
        with self._lock:
            now = self._clock()
            self._forget(now, keys)
            total, own = (len(self._times.get(key, ())) for key in keys)
            for limit in limits:
                objection = _over("rate", limit.per_minute, total, "calls a minute for this caller") or _over(
                    "tool_rate", _of_tool(limit.tool_per_minute, tool_id), own, f"calls of {tool_id!r} a minute"
                )
                if objection is not None:
                    return objection, _nothing
            for key in keys:
                self._times.setdefault(key, deque()).append(now)

        def undo() -> None:
            with self._lock:
                for key in keys:
                    if now in self._times.get(key, ()):
                        self._times[key].remove(now)

        return None, undo

    def _forget(self, now: float, keys: Iterable[tuple[str, str | None]]) -> None:
        """Drop the times before the window: of these keys, and once a minute of all."""
        start = now - WINDOW_SECONDS
        if self._swept <= start:
            self._swept, keys = now, list(self._times)
        for key in keys:
            times = self._times.get(key)
            while times and times[0] <= start:
                times.popleft()
            if times is not None and not times:
                del self._times[key]


def _over(rule: str, limit: int | None, used: int, what: str) -> Objection | None:
    if limit is None or used < limit:
        return None
    return rule, f"the limit of {limit} {what} is reached"


def _nothing() -> None:
    """Take nothing back."""
