"""Some tools of a catalogue, by id, provider, category or predicate; names that nobody has are refused."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from toolscaler.data.documents import ToolDocument
from toolscaler.data.sources.mcp import ANNOTATIONS_KEY
from toolscaler.errors import ConfigError, UnknownToolError

logger = logging.getLogger(__name__)

_NAME_FIELDS = ("tools", "providers", "categories")


def _names(key: str, value: Any) -> frozenset[str]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError(key, value, "a collection of names; write [name]")
    names = frozenset(value)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise ConfigError(key, wrong[0], "names as text")
    return names


@dataclass(frozen=True)
class ToolSelection:
    """Some tools of a catalogue: all that at least one of the four criteria names.

    Names are compared exactly: no wildcards, no folding of case or of Unicode.

    Attributes:
        tools: Tool ids.
        providers: Providers.
        categories: Categories.
        predicate: Any function of the document. Only ``True`` selects.

    Raises:
        ConfigError: A field is no collection of names, or the predicate cannot be called.
    """

    tools: frozenset[str] = frozenset()
    providers: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()
    predicate: Callable[[ToolDocument], bool] | None = None

    def __post_init__(self) -> None:
        for key in _NAME_FIELDS:
            object.__setattr__(self, key, _names(f"ToolSelection.{key}", getattr(self, key)))
        if self.predicate is not None and not callable(self.predicate):
            raise ConfigError("ToolSelection.predicate", self.predicate, "a function of a ToolDocument, or None")

    def matches(self, document: ToolDocument, *, on_error: bool) -> bool:
        """Say whether a document is selected.

        Args:
            document: The tool.
            on_error: The answer where the predicate raises: a broken rule must forbid, whichever way it points.
        """
        if document.id in self.tools or document.provider in self.providers or document.category in self.categories:
            return True
        if self.predicate is None:
            return False
        try:
            return self.predicate(document) is True
        except Exception:
            logger.exception("the predicate of a tool policy raised on %r; the policy forbids the tool", document.id)
            return on_error

    def check_names(self, documents: Iterable[ToolDocument], where: str = "selection") -> None:
        """Refuse names that no document has.

        Raises:
            UnknownToolError: A tool id is unknown; the nearest are suggested.
            ConfigError: A provider or category is unknown; the nearest is suggested.
        """
        documents = list(documents)
        ids = {document.id for document in documents}
        for name in sorted(self.tools - ids):
            raise UnknownToolError(name, ids)
        known = {"providers": {d.provider for d in documents}, "categories": {d.category for d in documents}}
        for key, names in known.items():
            for name in sorted(getattr(self, key) - names):
                near = difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.5)
                hint = f"; nearest: {', '.join(map(repr, near))}" if near else ""
                raise ConfigError(f"{where}.{key}", name, f"one of the catalogue's {len(names)} {key}{hint}")


def selection_of(key: str, value: Any) -> ToolSelection | None:
    """Take a selection as it is, and a collection of tool ids as a selection of these.

    Args:
        key: Name of the setting, for the error.
        value: A selection, a collection of tool ids, or ``None``.

    Raises:
        ConfigError: ``value`` is none of these.
    """
    if value is None or isinstance(value, ToolSelection):
        return value
    return ToolSelection(tools=_names(key, value))


def says_read_only(document: ToolDocument) -> bool:
    """Say whether a document itself claims that its tool changes nothing (MCP ``readOnlyHint``).

    The claim stands in the parameter schema under :data:`ANNOTATIONS_KEY`. It is the server's own word.
    """
    hints = _hints(document)
    return hints.get("readOnlyHint") is True and hints.get("destructiveHint") is not True


def says_idempotent(document: ToolDocument) -> bool:
    """Say whether a document itself claims that a call may be repeated (MCP ``idempotentHint``, or it only reads)."""
    return says_read_only(document) or _hints(document).get("idempotentHint") is True


def _hints(document: ToolDocument) -> Mapping[str, Any]:
    hints = document.parameters.get(ANNOTATIONS_KEY)
    return hints if isinstance(hints, Mapping) else {}
