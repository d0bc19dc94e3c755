"""Functions in processes of their own: warm workers that are killed when a call's time is over.

Parent and worker exchange JSON, not pickles: what a tool returns can only ever become text.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

from toolscaler.agent.executors.base import ToolResult
from toolscaler.agent.executors.guarded import Attempt, timed_out, too_large
from toolscaler.agent.executors.limits import ExecutorLimits
from toolscaler.errors import ConfigError

#: Seconds that a new process may take until it is ready; not part of a call's time.
_START_SECONDS = 60.0
_SLACK = 10_000


class ProcessRunner:
    """Runs calls in worker processes, each one call at a time.

    Args:
        functions: Tool id → function.
        places: Most processes; default: one a core.
        limits: Sizes.

    Raises:
        ConfigError: A function cannot be imported by name.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]], places: int | None, limits: ExecutorLimits) -> None:
        for name, function in functions.items():
            try:
                ForkingPickler.dumps(function)
            except Exception as error:
                message = f"functions at the top of a module; {name!r} cannot be imported by another process ({error})"
                raise ConfigError("isolation", "process", message) from error
        self._functions = dict(functions)
        self._limit = limits.max_result_bytes
        self._places = threading.BoundedSemaphore(places or os.cpu_count() or 1)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._closed = False

    def run(self, tool: str, arguments: dict[str, Any], deadline: float) -> Attempt:
        """Run a tool in an idle or new worker, and kill the worker if it does not answer in time."""
        if not self._places.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return Attempt(ToolResult.failure("timeout", "too many calls are running; try again later"))
        seconds = max(0.0, deadline - time.monotonic())
        worker: _Worker | None = None
        keep = False
        try:
            worker = self._take()
            if worker is None:
                return Attempt(ToolResult.failure("cancelled", "the executor is closed"))
            attempt, keep = worker.run(tool, arguments, seconds)
            if self._closed and attempt.result.is_error:
                return Attempt(ToolResult.failure("cancelled", "the executor was closed"))
            return attempt
        except OSError as error:  # no process to be had
            return Attempt(ToolResult.failure("connection", f"the tool's process did not start: {error}"), True)
        finally:
            if worker is not None:
                self._give_back(worker, keep)
            self._places.release()

    def _take(self) -> _Worker | None:
        with self._lock:
            if self._closed:
                return None
            worker = self._idle.pop() if self._idle else _Worker(self._functions, self._limit)
            self._busy.add(worker)
            return worker

    def _give_back(self, worker: _Worker, keep: bool) -> None:
        with self._lock:
            self._busy.discard(worker)
            if keep and not self._closed:
                self._idle.append(worker)
                return
        worker.dispose()

    def close(self) -> None:
        """Kill every worker."""
        with self._lock:
            self._closed = True
            idle, busy = list(self._idle), list(self._busy)
            self._idle.clear()
        for worker in busy:
            worker.kill()  # the thread that waits for it disposes of it
        for worker in idle:
            worker.dispose()


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]], limit: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a program with threads may deadlock
        self._limit = limit
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, functions, limit), daemon=True)
        self._ready = False
        self._process.start()
        theirs.close()

    def run(self, tool: str, arguments: dict[str, Any], seconds: float) -> tuple[Attempt, bool]:
        """Give what the call gave, and whether the worker can be used again."""
        try:
            if not self._ready:
                if not self._pipe.poll(_START_SECONDS):
                    return Attempt(ToolResult.failure("connection", "the tool's process did not start")), False
                self._pipe.recv_bytes(_SLACK)
                self._ready = True
            self._pipe.send_bytes(json.dumps([tool, arguments]).encode())
            if not self._pipe.poll(seconds):
                return Attempt(timed_out(seconds)), False
            # JSON may write a character in six bytes.
            answer = json.loads(self._pipe.recv_bytes(6 * self._limit + _SLACK))
            content, error_type, transient = answer
        except (EOFError, OSError, ValueError, TypeError):
            self._process.join(1.0)
            message = f"the tool's process ended during the call (exit code {self._process.exitcode})"
            return Attempt(ToolResult.failure("connection", message), True), False
        if error_type == "too_large":
            return Attempt(too_large(self._limit)), True
        result = ToolResult.failure(error_type, content) if error_type else ToolResult(content)
        return Attempt(result, transient), True

    def kill(self) -> None:
        """Kill the process and what it started."""
        pid = self._process.pid
        with contextlib.suppress(OSError):
            if pid is not None and self._process.is_alive() and hasattr(os, "killpg") and os.getpgid(pid) == pid:
                os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(OSError, ValueError):
            self._process.kill()

    def dispose(self) -> None:
        """Kill the process and let go of everything that belongs to it."""
        self.kill()
        with contextlib.suppress(OSError, ValueError):
            self._process.join(5.0)
        self._pipe.close()


def _serve(pipe: Connection, functions: Mapping[str, Callable[..., Any]], limit: int) -> None:
    """Answer calls until the pipe closes: the worker's main loop."""
    from toolscaler.agent.executors.python import run_function

    if hasattr(os, "setsid"):
        os.setsid()  # a group of its own, so that it can be killed with everything that it starts
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    pipe.send_bytes(b"ready")
    while True:
        try:
            tool, arguments = json.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        attempt = run_function(functions[tool], arguments)
        content, error_type = attempt.result.content, attempt.result.error_type
        if not error_type and len(content.encode("utf-8", "replace")) > limit:
            content, error_type = "", "too_large"
        pipe.send_bytes(json.dumps([content, error_type, attempt.transient]).encode())
