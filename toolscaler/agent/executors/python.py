"""Python functions as tools: in a thread of this process, or in a process of their own that can be killed."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal

from toolscaler.agent.executors.base import ToolResult
from toolscaler.agent.executors.checking import CheckFailed
from toolscaler.agent.executors.conversion import result_text, typed_arguments
from toolscaler.agent.executors.guarded import Attempt, CallableTool, GuardedExecutor, describe, timed_out
from toolscaler.agent.executors.limits import ExecutorLimits
from toolscaler.data.documents import ToolDocument
from toolscaler.data.sources.functions import document_from_function, documents_from_functions
from toolscaler.errors import ConfigError, DataError

Function = Callable[..., Any]
#: Where functions run.
Isolation = Literal["thread", "process"]
#: What a failed function may raise for another try to make sense.
_TRANSIENT = (OSError, EOFError)


class PythonExecutor(GuardedExecutor):
    """Calls Python functions whose type hints and docstring are their document.

    Arguments are checked against the document's schema, then get the types of the function's hints. The result is
    text, or JSON. ``async def`` functions run in an event loop of their own.

    A thread cannot be killed: with ``isolation="thread"`` a function that hangs is left behind when its time is over,
    and keeps one of ``max_running`` places. With ``isolation="process"`` each call has a process of its own for its
    time, which is killed (with what it started) at the time limit, and may crash without harm. Such functions must be
    importable by name, and do not see context variables or changes to this process's state.

    Args:
        functions: One function, several, a module, or tool id → function.
        documents: The documents of a mapping's tools. Default: made from each function, with ``provider`` and
            ``category``.
        provider: Provider of the tools.
        category: Category of the tools.
        isolation: Where functions run.
        idempotent: Ids of tools that may be run twice without harm, or ``True`` for all. These are tried again where
            they raise ``OSError`` or their process dies.
        max_running: Most calls at a time; others wait for a place. Default: 256 threads, or one process a core.
        limits: Time, sizes and retries.

    Raises:
        DataError: A function cannot be described, two have one id, or a document has no function.
        ConfigError: A setting is not allowed, ``idempotent`` names no tool, or a function cannot run in a process.
    """

    def __init__(
        self,
        functions: Function | Iterable[Function] | Mapping[str, Function] | types.ModuleType,
        *,
        documents: Iterable[ToolDocument] | None = None,
        provider: str = "",
        category: str = "",
        isolation: Isolation = "thread",
        idempotent: Collection[str] | bool = (),
        max_running: int | None = None,
        limits: ExecutorLimits | None = None,
    ) -> None:
        super().__init__(limits)
        if isolation not in ("thread", "process"):
            raise ConfigError("isolation", isolation, "'thread' or 'process'")
        if max_running is not None and (not isinstance(max_running, int) or max_running < 1):
            raise ConfigError("max_running", max_running, "a whole number of at least 1")
        pairs = _described(functions, documents, provider, category)
        known = [document.id for document, _ in pairs]
        if len(set(known)) < len(known):
            raise DataError(f"expected each tool id once, got {sorted({i for i in known if known.count(i) > 1})}")
        if isinstance(idempotent, str) or (not isinstance(idempotent, bool) and not set(idempotent) <= set(known)):
            raise ConfigError("idempotent", idempotent, f"ids out of {known[:10]}, or True")
        self._tools = {
            document.id: self._callable(
                document, document.id in idempotent if not isinstance(idempotent, bool) else idempotent, function
            )
            for document, function in pairs
        }
        self._threads = _ThreadRunner(max_running or 256, self._closed) if isolation == "thread" else None
        self._processes: Any = None
        if isolation == "process":
            from toolscaler.agent.executors.processes import ProcessRunner

            functions_by_id = {document.id: function for document, function in pairs}
            self._processes = ProcessRunner(functions_by_id, max_running, self.limits)

    @classmethod
    def from_registry(
        cls, documents: Iterable[ToolDocument], lookup: Callable[[str], Function], **options: Any
    ) -> PythonExecutor:
        """Make an executor of documents and a function that finds the function of a tool id.

        The starter's tools, for example: ``from_registry(load_starter_documents(), starter_function)``.

        Args:
            documents: The tools.
            lookup: Tool id → function.
            **options: Further arguments of :class:`PythonExecutor`.
        """
        listed = list(documents)
        return cls({document.id: lookup(document.id) for document in listed}, documents=listed, **options)

    def documents(self) -> list[ToolDocument]:
        """Give the functions' documents."""
        return [tool.document for tool in self._tools.values()]

    def _find(self, tool: str, deadline: float) -> CallableTool | None:
        return self._tools.get(tool)

    def _attempt(self, tool: CallableTool, arguments: dict[str, Any], deadline: float) -> Attempt:
        if self._threads is None:
            attempt: Attempt = self._processes.run(tool.document.id, arguments, deadline)
            return attempt
        return self._threads.run(tool.target, arguments, deadline)

    def close(self) -> None:
        """End running calls: processes are killed, threads are left behind."""
        super().close()
        if self._threads is not None:
            self._threads.close()
        if self._processes is not None:
            self._processes.close()


def _described(
    functions: Any, documents: Iterable[ToolDocument] | None, provider: str, category: str
) -> list[tuple[ToolDocument, Function]]:
    if isinstance(functions, Mapping):
        if documents is None:
            return [
                (document_from_function(function, name=name, provider=provider, category=category), function)
                for name, function in functions.items()
            ]
        listed = list(documents)
        if {document.id for document in listed} != set(functions):
            missing = sorted({document.id for document in listed} ^ set(functions))
            raise DataError(f"expected one function for each document, got only one of the two for {missing[:10]}")
        return [(document, functions[document.id]) for document in listed]
    if documents is not None:
        raise DataError("documents: expected a mapping of tool id to function beside them")
    if isinstance(functions, types.ModuleType):
        made = documents_from_functions(functions, provider=provider, category=category)
        return [(document, getattr(functions, document.name)) for document in made]
    items = [functions] if callable(functions) else list(functions)
    made = documents_from_functions(items, provider=provider, category=category)
    return list(zip(made, items, strict=True))


def run_function(function: Function, arguments: dict[str, Any]) -> Attempt:
    """Run a function to its end: its result as text, or its exception as a failure."""
    try:
        value = function(**typed_arguments(function, arguments))
        if inspect.isawaitable(value):
            value = asyncio.run(_awaited(value))
        return Attempt(ToolResult(result_text(value)))
    except CheckFailed as error:
        return Attempt(ToolResult.failure(error.error_type, error.message))
    except BaseException as error:  # also SystemExit: a tool does not end the program
        return Attempt(ToolResult.failure("tool_error", describe(error)), isinstance(error, _TRANSIENT))


async def _awaited(value: Any) -> Any:
    return await value


class _Call:
    """A call in its thread: done when it ends, is given up, or the executor closes."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.attempt: Attempt | None = None

    def finish(self, attempt: Attempt) -> None:
        if not self.done.is_set():
            self.attempt = attempt
            self.done.set()


class _ThreadRunner:
    """Runs each call in a daemon thread of its own, so that one that hangs keeps nothing else from ending."""

    def __init__(self, places: int, closed: threading.Event) -> None:
        self._places = threading.BoundedSemaphore(places)
        self._closed = closed
        self._calls: set[_Call] = set()
        self._lock = threading.Lock()

    def run(self, function: Function, arguments: dict[str, Any], deadline: float) -> Attempt:
        if not self._places.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return Attempt(ToolResult.failure("timeout", "too many calls are running; try again later"))
        call = _Call()
        context = contextvars.copy_context()  # the caller's settings hold in the tool, such as its sandbox folder

        def work() -> None:
            try:
                call.finish(context.run(run_function, function, arguments))
            finally:
                self._places.release()

        with self._lock:
            self._calls.add(call)
        try:
            threading.Thread(target=work, name="toolscaler-tool", daemon=True).start()
        except RuntimeError as error:  # no thread to be had
            self._places.release()
            call.finish(Attempt(ToolResult.failure("connection", describe(error)), True))
        try:
            if self._closed.is_set():
                self.close()
            started = time.monotonic()
            call.done.wait(max(0.0, deadline - started))
            return call.attempt or Attempt(timed_out(deadline - started))
        finally:
            with self._lock:
                self._calls.discard(call)

    def close(self) -> None:
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.finish(Attempt(ToolResult.failure("cancelled", "the executor was closed")))
