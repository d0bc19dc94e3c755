"""An asyncio loop in a thread of its own, for executors whose libraries are asynchronous.

A task can be cancelled at any await, so a time limit holds even against a server that sends one byte now and then.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from toolscaler.agent.executors.checking import CheckFailed

_T = TypeVar("_T")

#: Seconds that cancelled tasks get to clean up before their caller goes on.
_GRACE = 20.0


class BackgroundLoop:
    """Runs coroutines for any number of threads; the thread starts with the first one.

    Args:
        name: Name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def run(self, coroutine: Coroutine[Any, Any, _T], deadline: float) -> _T:
        """Run a coroutine and wait for it until ``deadline`` (of :func:`time.monotonic`).

        Raises:
            CheckFailed: ``timeout``: its time is over. ``cancelled``: the loop was closed.
        """
        seconds = max(0.0, deadline - time.monotonic())
        future = self.spawn(coroutine)
        try:
            return future.result(seconds)
        except concurrent.futures.TimeoutError:
            # The coroutine's own TimeoutError looks the same (they are one class from Python 3.11 on).
            if future.done() and not future.cancelled():
                raise
            future.cancel()
            raise CheckFailed("timeout", f"the tool did not answer within {seconds:.3g} s") from None
        except concurrent.futures.CancelledError:
            raise CheckFailed("cancelled", "the executor was closed") from None

    def spawn(self, coroutine: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        """Start a coroutine and do not wait.

        Raises:
            CheckFailed: ``cancelled``: the loop is closed.
        """
        with self._lock:
            if self._closed:
                coroutine.close()
                raise CheckFailed("cancelled", "the executor is closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._serve, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            with contextlib.suppress(RuntimeError):
                loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Cancel every task, give them a moment to clean up, and end the thread. May be called twice.

        Args:
            last: What to run in the loop when the tasks have ended.
        """
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        with contextlib.suppress(concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            asyncio.run_coroutine_threadsafe(_cancel_all(last), loop).result(_GRACE)
        loop.call_soon_threadsafe(loop.stop)
        if thread is not threading.current_thread():
            thread.join(_GRACE)


async def _cancel_all(last: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
    own = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not own]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_GRACE / 2)
    if last is not None:
        await last()
