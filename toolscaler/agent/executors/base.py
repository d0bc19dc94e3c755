"""The executor's contract: a tool's result as text, and failures as results, never as exceptions."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, TypeVar

from toolscaler.data.documents import ToolDocument

#: The stable names of failures in :attr:`ToolResult.error_type`.
ERROR_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "cancelled": "the executor was closed while the call ran",
        "connection": "the tool's server or process could not be reached, or died during the call",
        "forbidden": "the call would leave the hosts that the tool may reach",
        "invalid_arguments": "the arguments do not fit the tool's schema",
        "invalid_response": "the answer came, but is no result of this protocol",
        "invalid_schema": "the tool's own schema is broken, or too deep, too large or too slow to check",
        "timeout": "the call took longer than its time limit",
        "too_large": "the arguments or the result are larger than the limit",
        "tool_error": "the tool ran and failed",
        "unknown_tool": "the executor has no tool with this id",
    }
)

_Self = TypeVar("_Self", bound="ToolExecutor")


@dataclass(frozen=True)
class ToolResult:
    """What one tool call gave.

    Attributes:
        content: The result, or the error's message, as text for the model. Untrusted: a tool may write anything.
        is_error: Whether the call failed.
        error_type: Why it failed, one of :data:`ERROR_TYPES`; empty where it did not.
        seconds: Wall time of the call in seconds, retries included.
        metadata: Facts about the call that the model does not see: ``attempts`` (int), ``status_code``, ``structured``
            and so on. Read-only.
    """

    content: str
    is_error: bool = False
    error_type: str = ""
    seconds: float = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild from plain data: read-only mappings do not pickle by themselves."""
        return (ToolResult, (self.content, self.is_error, self.error_type, self.seconds, dict(self.metadata)))

    @classmethod
    def failure(cls, error_type: str, message: str, **metadata: Any) -> ToolResult:
        """Make the result of a failed call.

        Args:
            error_type: One of :data:`ERROR_TYPES`.
            message: What happened and what to do, for the model.
            **metadata: Facts about the call.

        Raises:
            ValueError: ``error_type`` is not one of :data:`ERROR_TYPES`.
        """
        if error_type not in ERROR_TYPES:
            raise ValueError(f"error_type: expected one of {sorted(ERROR_TYPES)}, got {error_type!r}")
        return cls(message, True, error_type, metadata=metadata)


class ToolExecutor(abc.ABC):
    """Runs tools. One executor is shared by any number of threads.

    It is a context manager: leaving the ``with`` block closes it.
    """

    @abc.abstractmethod
    def documents(self) -> list[ToolDocument]:
        """Give the documents of the tools that can be called now.

        Raises:
            ExecutorError: The tools cannot be listed, for example because a server does not answer.
        """

    @abc.abstractmethod
    def call(self, tool: str, arguments: Mapping[str, Any], *, timeout: float | None = None) -> ToolResult:
        """Run a tool.

        Whatever the tool or its server does, this gives a result: a failure, a hang, a huge or undecodable answer and
        arguments that do not fit are results with :attr:`ToolResult.is_error`.

        Args:
            tool: Tool id, as in :attr:`ToolDocument.id`.
            arguments: Arguments by name: plain JSON data.
            timeout: Time limit in seconds for the whole call; ``None`` takes the executor's own.
        """

    def time_limit(self, tool: str) -> float | None:
        """Give the time limit in seconds that a call has where it names none; ``None`` where there is none."""
        return None

    def idempotent(self, tool: str) -> bool:
        """Say whether a call may be repeated without another effect. Unknown is no.

        Args:
            tool: Tool id.
        """
        return False

    def close(self) -> None:  # noqa: B027 - nothing to close is the common case
        """End running calls and let go of processes and connections. May be called twice."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
