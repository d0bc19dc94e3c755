"""Several executors as one: calls are routed by tool id."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from toolscaler.agent.executors.base import ToolExecutor, ToolResult
from toolscaler.data.documents import ToolDocument
from toolscaler.errors import DataError


class CompositeExecutor(ToolExecutor):
    """Routes each call to the executor that has the tool.

    Two executors with one tool id are an error: otherwise a second provider could take over a tool's name
    (shadowing). An id stays with the executor that had it first, also after that one has given it up. With a mapping,
    each executor's ids get its key and a slash in front, so that they cannot meet.

    Args:
        executors: The executors; or prefix → executor. They are closed with this one.

    Raises:
        DataError: Two executors have the same tool id, or a prefix is empty.
    """

    def __init__(self, executors: Iterable[ToolExecutor] | Mapping[str, ToolExecutor]) -> None:
        if isinstance(executors, Mapping):
            if not all(isinstance(prefix, str) and prefix for prefix in executors):
                raise DataError(f"expected a name in front of each executor, got {sorted(map(str, executors))}")
            self._parts = [(f"{prefix}/", executor) for prefix, executor in executors.items()]
        else:
            self._parts = [("", executor) for executor in executors]
        self._lock = threading.Lock()
        self._routes: dict[str, tuple[ToolExecutor, str]] = {}
        self._owners: dict[str, ToolExecutor] = {}
        self.documents()

    def documents(self) -> list[ToolDocument]:
        """Give the documents of every executor, in order, with prefixed ids.

        Raises:
            DataError: Two executors have the same tool id, now or one after the other.
            ExecutorError: An executor cannot list its tools.
        """
        documents: list[ToolDocument] = []
        routes: dict[str, tuple[ToolExecutor, str]] = {}
        for prefix, executor in self._parts:
            for document in executor.documents():
                name = f"{prefix}{document.id}"
                if name in routes:
                    raise DataError(
                        f"two tools have the id {name!r}: expected each id once; "
                        "pass {prefix: executor} to put a name in front of each executor's ids"
                    )
                routes[name] = (executor, document.id)
                documents.append(replace(document, id=name) if prefix else document)
        with self._lock:
            for name, (executor, _) in routes.items():
                if self._owners.get(name, executor) is not executor:
                    raise DataError(
                        f"the tool {name!r} was another executor's: expected each id to stay where it was; make a new "
                        "CompositeExecutor if the change is wanted"
                    )
            self._owners.update({name: executor for name, (executor, _) in routes.items()})
            self._routes = routes
        return documents

    def time_limit(self, tool: str) -> float | None:
        """Give the time limit of the executor that has the tool."""
        with self._lock:
            route = self._routes.get(tool)
        return route[0].time_limit(route[1]) if route is not None else None

    def idempotent(self, tool: str) -> bool:
        """Ask the executor that has the tool."""
        with self._lock:
            route = self._routes.get(tool)
        return route is not None and route[0].idempotent(route[1])

    def call(self, tool: str, arguments: Mapping[str, Any], *, timeout: float | None = None) -> ToolResult:
        """Run a tool through the executor that has it."""
        with self._lock:
            route = self._routes.get(tool)
        if route is None:
            return ToolResult.failure("unknown_tool", f"there is no tool {tool!r:.200}")
        executor, name = route
        return executor.call(name, arguments, timeout=timeout)

    def close(self) -> None:
        """Close every executor, also where one of them fails to close; the first error is raised at the end."""
        errors: list[Exception] = []
        for _, executor in self._parts:
            try:
                executor.close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]
