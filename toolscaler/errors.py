"""Every error toolscaler raises on purpose: each says what was expected, what came and what to do.

All of them are children of :class:`ToolscalerError` and, where Python has a fitting builtin, of that builtin too, so
that ``except ValueError`` keeps working for callers who know nothing of this module.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


class ToolscalerError(Exception):
    """Base class of every error that this library raises on purpose."""


class ConfigError(ToolscalerError, ValueError):
    """A configuration key has a value that is not allowed.

    Args:
        key: Dotted name of the key, for example ``codebook.num_centroids``.
        value: What was given.
        expected: What is allowed, in words.
    """

    def __init__(self, key: str, value: object, expected: str) -> None:
        self.key, self.value, self.expected = key, value, expected
        super().__init__(f"{key}: got {value!r}, expected {expected}")


class DataError(ToolscalerError, ValueError):
    """A file or row of a tool or query source cannot be used.

    Args:
        message: What is wrong and what to do.
        path: The file, if there is one.
        line: 1-based line (or record) number in that file.

    Attributes:
        message: The message without file and line.
    """

    def __init__(self, message: str, *, path: str | Path | None = None, line: int | None = None) -> None:
        self.path = None if path is None else str(path)
        self.line = line
        self.message = message
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(f"{where}{message}")


class AmbiguousSourceError(DataError):
    """More than one reader fits a source; name one of ``candidates`` explicitly."""

    def __init__(self, candidates: Iterable[str], *, path: str | Path | None = None) -> None:
        self.candidates = tuple(sorted(candidates))
        names = ", ".join(self.candidates)
        super().__init__(f"several readers fit: {names}; choose one with format=...", path=path)


def _near(name: str, known: Iterable[str]) -> list[str]:
    """Give the names worth a close comparison, which takes a minute for a million of them."""
    names = list(known)
    if len(names) <= 10_000:
        return names
    low, high = len(name) * 2 // 3, len(name) * 3 // 2
    start, end = name[:2].casefold(), name[-3:].casefold()
    alike = [
        other
        for other in names
        if low <= len(other) <= high and (other[:2].casefold() == start or other[-3:].casefold() == end)
    ]
    # Of very many, those that share the most on either side.
    alike.sort(key=lambda other: -max(_shared(name, other), _shared(name[::-1], other[::-1])))
    return alike[:5_000]


def _shared(one: str, other: str) -> int:
    """Count the characters with which both begin."""
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(other))


class UnknownToolError(ToolscalerError, KeyError):
    """A tool name is not in the catalogue; the nearest names are suggested.

    Args:
        name: What was asked for.
        known: The names that exist, for suggestions.
    """

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        self.name = name
        self.suggestions = tuple(difflib.get_close_matches(name, _near(name, known), n=3, cutoff=0.6))
        hint = f"; nearest: {', '.join(map(repr, self.suggestions))}" if self.suggestions else ""
        self.message = f"no tool named {name!r} in the catalogue{hint}"
        super().__init__(self.message)

    def __str__(self) -> str:
        """Give the plain message (``KeyError`` would quote it)."""
        return self.message


class CodebookError(ToolscalerError, ValueError):
    """Embeddings, codes or settings do not fit the codebook."""


class TokenizationError(ToolscalerError, ValueError):
    """A tokenizer, its code tokens and its tool index do not fit together."""


class CompressionError(ToolscalerError, ValueError):
    """Documents or settings do not fit the gist compressor."""


class TrainingError(ToolscalerError, RuntimeError):
    """A training stage cannot start or go on."""


class DecodingError(ToolscalerError, ValueError):
    """A decoding request cannot be served."""


class EmptyCatalogueError(DecodingError):
    """A subset leaves no tool to choose from; an empty set never means "everything"."""


class ExecutorError(ToolscalerError, RuntimeError):
    """An executor cannot start, or cannot list its tools; a failing call is a result instead."""


class CatalogueError(ToolscalerError, ValueError):
    """A change of a catalogue cannot be made; nothing was changed."""


class CodeSpaceError(CatalogueError):
    """There is no free code sequence for a new tool where it belongs.

    Args:
        message: What is full.
        tool: The tool's id.
        codes: Its nearest code sequence, which another tool has.
        options: What can be done, each in a sentence.
    """

    def __init__(self, message: str, *, tool: str, codes: Iterable[int], options: Iterable[str]) -> None:
        self.message, self.tool = message, tool
        self.codes, self.options = tuple(codes), tuple(options)
        super().__init__(f"{message}; nothing was changed. Options: {'; '.join(self.options)}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments, not by the message."""
        return _code_space_error, (self.message, self.tool, self.codes, self.options)


def _code_space_error(message: str, tool: str, codes: Iterable[int], options: Iterable[str]) -> CodeSpaceError:
    return CodeSpaceError(message, tool=tool, codes=codes, options=options)


class CalibrationError(ToolscalerError, ValueError):
    """No threshold reaches the wanted precision on the given queries.

    Args:
        target: The wanted precision.
        best: The best precision that a threshold reaches.
        n: Number of queries.
    """

    def __init__(self, target: float, best: float, n: int) -> None:
        self.target, self.best, self.n = target, best, n
        super().__init__(
            f"no threshold reaches a precision of {target:g} on {n} queries; the best is {best:.4g}: choose a lower "
            "target, or train further"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments, not by the message."""
        return type(self), (self.target, self.best, self.n)


class EndpointError(ToolscalerError, RuntimeError):
    """A model behind an HTTP endpoint gave no usable answer.

    Args:
        message: What happened; keys are blotted out.
        kind: ``connection``, ``timeout``, ``status``, ``too_large``, ``invalid_response``, ``request``, ``key`` or
            ``cancelled``.
        status: The HTTP status, where one came.
        body: Beginning of the answer's body, where it says why; keys are blotted out.

    Attributes:
        trajectory: What an agent had done until then (:class:`toolscaler.agent.AgentTrajectory`); ``None`` outside of
            a run.
    """

    def __init__(self, message: str, *, kind: str, status: int | None = None, body: str = "") -> None:
        self.message, self.kind, self.status, self.body = message, kind, status, body
        self.trajectory: Any = None
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments, not by the message alone."""
        state = {"kind": self.kind, "status": self.status, "body": self.body, "trajectory": self.trajectory}
        return type(self)._again, (self.message, self.kind), state

    @classmethod
    def _again(cls, message: str, kind: str) -> EndpointError:
        return cls(message, kind=kind)


class InvalidPrefixError(DecodingError):
    """Rows of a batch hold tokens that begin no allowed sequence.

    Args:
        rows: Their numbers.
        message: What is wrong and what to do.
    """

    def __init__(self, rows: Iterable[int], message: str) -> None:
        self.rows = tuple(rows)
        super().__init__(f"rows {list(self.rows)}: {message}")


class RetrievalError(DecodingError):
    """Some queries of a call failed, for reasons of their own; what the others gave is kept.

    Args:
        failures: Query number -> what is wrong with it.
        results: What the call would have returned, ``None`` where a query failed.

    Attributes:
        failures: As given.
        results: As given.
    """

    def __init__(self, failures: Mapping[int, DecodingError], results: Sequence[Any]) -> None:
        self.failures, self.results = dict(failures), list(results)
        first = min(self.failures)
        super().__init__(
            f"{len(self.failures)} of {len(self.results)} queries failed, the first is query {first}: "
            f"{self.failures[first]}; .failures has each, .results the rankings of the others"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments, not by the message."""
        return type(self), (self.failures, self.results)


class EvaluationError(ToolscalerError, ValueError):
    """Predictions and references do not fit together."""


class ArtifactError(ToolscalerError, OSError):
    """A saved artefact is missing, damaged or of an unknown format version.

    Args:
        message: What was expected, what was found and what to do. What was found is a stranger's: of more than 2,000
            characters the middle is left out.
        path: The file or folder.
    """

    def __init__(self, message: str, *, path: str | Path | None = None) -> None:
        self.path = None if path is None else str(path)
        if len(message) > 2_000:
            message = f"{message[:1_000]} [{len(message) - 1_500:,} characters left out] {message[-500:]}"
        super().__init__(message if path is None else f"{path}: {message}")


class HubError(ToolscalerError, RuntimeError):
    """A push to the Hub did not go through; nothing of it can be seen there.

    Args:
        message: What happened and what to do.
        repo_id: The repository.
        status: The HTTP status, where one came.
    """

    def __init__(self, message: str, *, repo_id: str, status: int | None = None) -> None:
        self.message, self.repo_id, self.status = message, repo_id, status
        super().__init__(f"{repo_id}: {message}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments, not by the message."""
        return _hub_error, (self.message, self.repo_id, self.status)


def _hub_error(message: str, repo_id: str, status: int | None) -> HubError:
    return HubError(message, repo_id=repo_id, status=status)


class MissingDependencyError(ToolscalerError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(f"{purpose} needs {package!r}: pip install 'toolscaler[{extra}]'")
