"""Queries and a catalogue in, what their labels and ids have in common out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.errors import ConfigError, UnknownToolError

_SUGGESTED = 5


@dataclass(frozen=True)
class LabelReport:
    """How the labels of queries and the tools of a catalogue fit together.

    Attributes:
        labels: Number of labels, over all queries.
        unknown: Label -> how many queries name it, for labels that are no tool of the catalogue.
        suggestions: Unknown label -> nearest ids of the catalogue, best first; for the first five.
        queries: Number of queries with an unknown label.
        unused: Number of tools that no query names.
    """

    labels: int
    unknown: Mapping[str, int] = field(default_factory=dict)
    suggestions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    queries: int = 0
    unused: int = 0

    @property
    def ok(self) -> bool:
        """Whether every label is a tool of the catalogue."""
        return not self.unknown


def check_labels(
    queries: Iterable[ToolQuery],
    documents: Iterable[ToolDocument | str],
    on_error: Literal["raise", "report"] = "raise",
) -> LabelReport:
    """Compare the labels of queries with the ids of a catalogue.

    Args:
        queries: Labelled queries.
        documents: The catalogue: documents, or their ids.
        on_error: ``"raise"``: a label that is no id is an error. ``"report"``: it is counted.

    Returns:
        The counts; suggestions for the first five unknown labels (comparing with every name of a large catalogue
        takes time).

    Raises:
        UnknownToolError: ``on_error="raise"``, for the first unknown label, with the nearest ids.
        ConfigError: ``on_error`` is neither.
    """
    if on_error not in ("raise", "report"):
        raise ConfigError("on_error", on_error, "'raise' or 'report'")
    known = {item if isinstance(item, str) else item.id for item in documents}
    unknown: Counter[str] = Counter()
    used: set[str] = set()
    labels = affected = 0
    for query in queries:
        missing = [tool for tool in query.tools if tool not in known]
        if missing and on_error == "raise":
            raise UnknownToolError(missing[0], sorted(known))
        labels += len(query.tools)
        affected += bool(missing)
        unknown.update(missing)
        used.update(query.tools)
    candidates = sorted(known)
    suggestions = {
        name: tuple(get_close_matches(name, candidates, n=3, cutoff=0.6)) for name in list(unknown)[:_SUGGESTED]
    }
    return LabelReport(labels, dict(unknown), suggestions, affected, len(known - used))
