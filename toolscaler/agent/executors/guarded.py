"""What all executors share: checks before a call, retries, the time limit, and failures as results."""

from __future__ import annotations

import abc
import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from toolscaler.agent.executors.base import ToolExecutor, ToolResult
from toolscaler.agent.executors.checking import ArgumentChecker, CheckFailed
from toolscaler.agent.executors.limits import ExecutorLimits, check_timeout
from toolscaler.data.documents import ToolDocument
from toolscaler.errors import ExecutorError

logger = logging.getLogger(__name__)

_MAX_MESSAGE = 2000


@dataclass(frozen=True)
class CallableTool:
    """A tool as its executor knows it.

    Attributes:
        document: What the model is told.
        checker: Checks arguments against the document's schema.
        idempotent: Whether the call may be repeated without another effect.
        target: What the executor needs to run it.
    """

    document: ToolDocument
    checker: ArgumentChecker
    idempotent: bool
    target: Any


@dataclass(frozen=True)
class Attempt:
    """One try of a call.

    Attributes:
        result: What it gave.
        transient: Whether another try may go better.
        wait: The least seconds to wait before it, as the server asked.
    """

    result: ToolResult
    transient: bool = False
    wait: float = 0.0


class GuardedExecutor(ToolExecutor):
    """Base of the executors here: a subclass looks a tool up and makes one try.

    Args:
        limits: Time, sizes and retries.
    """

    def __init__(self, limits: ExecutorLimits | None = None) -> None:
        self.limits = limits or ExecutorLimits()
        self._closed = threading.Event()

    @abc.abstractmethod
    def _find(self, tool: str, deadline: float) -> CallableTool | None:
        """Give a tool, or ``None`` where there is none with this id.

        Raises:
            ExecutorError: The tools cannot be listed.
        """

    @abc.abstractmethod
    def _attempt(self, tool: CallableTool, arguments: dict[str, Any], deadline: float) -> Attempt:
        """Run the tool once, until ``deadline`` (of :func:`time.monotonic`)."""

    def _callable(self, document: ToolDocument, idempotent: bool, target: Any) -> CallableTool:
        return CallableTool(document, ArgumentChecker(document, self.limits), idempotent, target)

    def time_limit(self, tool: str) -> float | None:
        """Give the executor's own time limit."""
        return self.limits.timeout

    def idempotent(self, tool: str) -> bool:
        """Say whether a call may be repeated without another effect, as far as the executor was told."""
        if self._closed.is_set():
            return False
        try:
            found = self._find(tool, time.monotonic() + self.limits.timeout)
        except (CheckFailed, ExecutorError):  # a server that cannot be asked vouches for nothing
            return False
        return found is not None and found.idempotent

    def call(self, tool: str, arguments: Mapping[str, Any], *, timeout: float | None = None) -> ToolResult:
        """Run a tool; see :meth:`ToolExecutor.call`.

        Raises:
            ConfigError: ``timeout`` is no number of seconds above 0.
        """
        started = time.monotonic()
        deadline = started + (self.limits.timeout if timeout is None else check_timeout(timeout))
        attempts = 0

        def count() -> None:
            nonlocal attempts
            attempts += 1

        try:
            result = self._guarded(tool, arguments, deadline, count)
        except CheckFailed as error:
            result = ToolResult.failure(error.error_type, error.message)
        except ExecutorError as error:
            result = ToolResult.failure("connection", str(error))
        except Exception as error:  # the promise of `call`: whatever a tool does becomes a result
            # Where it failed, but not the message, which may quote arguments: no log shall hold these.
            places = "".join(traceback.format_tb(error.__traceback__))
            logger.warning("call of %r failed unexpectedly (%s)\n%s", tool, type(error).__name__, places)
            result = ToolResult.failure("tool_error", describe(error))
        result = self._bounded(result)
        seconds = time.monotonic() - started
        return replace(result, seconds=seconds, metadata={**result.metadata, "attempts": attempts})

    def _guarded(
        self, tool: str, arguments: Mapping[str, Any], deadline: float, count: Callable[[], None]
    ) -> ToolResult:
        if self._closed.is_set():
            return ToolResult.failure("cancelled", "the executor is closed")
        found = self._find(tool, deadline) if isinstance(tool, str) else None
        if found is None:
            return ToolResult.failure("unknown_tool", f"there is no tool {tool!r:.200}")
        plain = found.checker.check(arguments)
        tried = 0
        while True:
            count()
            tried += 1
            attempt = self._attempt(found, plain, deadline)
            retry = self.limits.retry
            if not (attempt.result.is_error and attempt.transient and found.idempotent) or tried >= retry.max_attempts:
                return attempt.result
            wait = retry.delay(tried, attempt.wait)
            if time.monotonic() + wait >= deadline or self._closed.wait(wait):
                return attempt.result

    def _bounded(self, result: ToolResult) -> ToolResult:
        """Hold the result to its size, and its text to what UTF-8 can write."""
        content = result.content.encode("utf-8", "replace")
        if len(content) > self.limits.max_result_bytes:
            if result.is_error:  # the beginning of an error says most
                return replace(result, content=content[: self.limits.max_result_bytes].decode("utf-8", "ignore"))
            return replace(too_large(self.limits.max_result_bytes, len(content)), metadata=result.metadata)
        return replace(result, content=content.decode())

    def close(self) -> None:
        """End running calls and let go of what they need."""
        self._closed.set()


def describe(error: BaseException) -> str:
    """Give an exception in words, for the model: its type and message, never its traceback."""
    try:
        text = str(error)
    except BaseException:  # an exception of a tool's own may raise anything here, SystemExit too
        text = "(its message cannot be read)"
    name = type(error).__name__
    return f"{name}: {text}"[:_MAX_MESSAGE] if text else name


def too_large(limit: int, size: int | None = None) -> ToolResult:
    """Make the failure of a result over the limit."""
    found = f"has {size} bytes" if size is not None else "is longer"
    return ToolResult.failure("too_large", f"the result {found}; expected at most {limit} bytes; ask for less")


def timed_out(deadline_seconds: float | None = None) -> ToolResult:
    """Make the failure of a call over its time limit."""
    after = f" within {deadline_seconds:.3g} s" if deadline_seconds is not None else ""
    return ToolResult.failure("timeout", f"the tool did not answer{after}")
