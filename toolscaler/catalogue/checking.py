"""A retriever with added tools goes in; how well it finds them, and what they cost the old ones, comes out.

Nothing promises that a model finds a tool that it was never trained on: this measures it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.errors import CatalogueError

if TYPE_CHECKING:
    from toolscaler.decoding.result import Retriever

# Words round a document's own, so that a query does not begin as its description does. Written for this library.
_FRAMES = ("I need something that can {}", "{}, please", "How do I {}?", "Is there a way to {}?")


@dataclass(frozen=True)
class CatalogueCheck:
    """What added tools do, query by query.

    Attributes:
        k: Cut-off.
        added: Number of added tools.
        added_recall: float64 (A,), Recall@k of queries for added tools: of their labels those count that were added.
        added_first: float64 (A,), 1 where an added tool's query has a relevant tool in the first place.
        old_first_before: float64 (O,), NDCG@1 of old queries with the added tools forbidden.
        old_first_after: float64 (O,), the same with all tools allowed.
        old_recall_before: float64 (O,), Recall@k of old queries with the added tools forbidden.
        old_recall_after: float64 (O,), the same with all tools allowed.
        intruded: float64 (O,), 1 where an added tool that is no label now has the first place of an old query (cold
            intrusion).
        synthetic: Whether the queries for added tools were made from their documents.
        synthetic_old: The same of the old queries.
        left_out: Queries that say nothing: no label of theirs is an added tool, or for the old queries an old one.
    """

    k: int
    added: int
    added_recall: np.ndarray
    added_first: np.ndarray
    old_first_before: np.ndarray
    old_first_after: np.ndarray
    old_recall_before: np.ndarray
    old_recall_after: np.ndarray
    intruded: np.ndarray
    synthetic: bool = False
    synthetic_old: bool = False
    left_out: int = 0

    def values(self) -> dict[str, np.ndarray]:
        """Give the measures by name, one value a query; an empty array where there were no such queries."""
        return {
            f"recall@{self.k} of added tools": self.added_recall,
            "ndcg@1 of added tools": self.added_first,
            "cold intrusion": self.intruded,
            "ndcg@1 of old tools, before": self.old_first_before,
            "ndcg@1 of old tools, after": self.old_first_after,
            "loss of ndcg@1 on old tools": self.old_first_before - self.old_first_after,
            f"recall@{self.k} of old tools, before": self.old_recall_before,
            f"recall@{self.k} of old tools, after": self.old_recall_after,
            f"loss of recall@{self.k} on old tools": self.old_recall_before - self.old_recall_after,
        }


def synthetic_queries(documents: Iterable[ToolDocument], per_tool: int = 3) -> list[ToolQuery]:
    """Make queries from the words of documents, by templates.

    They share words with the documents that users' queries do not, so that they are easier than real ones: good for
    comparing one state of a catalogue with another, not for a figure to publish.

    Args:
        documents: The tools.
        per_tool: Queries a tool at most; fewer where a document has few words.

    Returns:
        Queries, each labelled with its one tool.

    Raises:
        CatalogueError: ``per_tool`` is below 1.
    """
    if per_tool < 1:
        raise CatalogueError(f"per_tool: expected at least 1, got {per_tool!r}")
    found = []
    for document in documents:
        name = " ".join(document.name.replace("_", " ").replace("/", " ").replace("-", " ").split())
        sentences = [part.strip().rstrip(".") for part in " ".join(document.description.split()).split(". ")]
        bodies = [_lowered(part) for part in sentences if part] or [name.lower()]
        texts = [_FRAMES[n % len(_FRAMES)].format(bodies[n % len(bodies)]) for n in range(max(per_tool, len(_FRAMES)))]
        for text in list(dict.fromkeys(text[:1].upper() + text[1:] for text in texts if text))[:per_tool]:
            found.append(ToolQuery(text, (document.id,), metadata={"synthetic": True}))
    return found


def check_added_tools(
    retriever: Retriever,
    tool_ids: Sequence[str],
    added: Iterable[str],
    added_queries: Sequence[ToolQuery],
    old_queries: Sequence[ToolQuery],
    *,
    k: int = 5,
    synthetic: bool = False,
    synthetic_old: bool = False,
    **options: Any,
) -> CatalogueCheck:
    """Measure what added tools do.

    Args:
        retriever: Any retriever over the whole catalogue.
        tool_ids: The whole catalogue.
        added: Ids of the added tools.
        added_queries: Queries for added tools, with labels; labels that are other tools may stand beside.
        old_queries: Queries for the others. The state before is the same retriever with the added tools forbidden.
        k: Cut-off.
        synthetic: Whether ``added_queries`` were made from documents; noted in the result.
        synthetic_old: The same of ``old_queries``.
        **options: More arguments of ``retriever.retrieve``.

    Raises:
        CatalogueError: There is no added or no old tool.
        UnknownToolError: An added tool is not in the catalogue.
    """
    new, every = set(added), list(tool_ids)
    old = [name for name in every if name not in new]
    if not new or not old:
        raise CatalogueError(f"expected added and old tools, got {len(new)} and {len(old)}")
    unknown = sorted(new - set(every))
    if unknown:
        raise CatalogueError(f"expected added tools of the catalogue, got {unknown[0]!r}")
    present = set(every)
    fresh = [query for query in added_queries if new.intersection(query.tools)]
    known = [query for query in old_queries if present.difference(new).intersection(query.tools)]
    found = _names(retriever, fresh, k, None, options)
    after = _names(retriever, known, k, None, options)
    before = _names(retriever, known, k, old, options)
    labels = [[tool for tool in query.tools if tool in present] for query in known]
    intruded = [
        float(bool(row) and row[0] in new and row[0] not in query.tools)
        for row, query in zip(after, known, strict=True)
    ]
    return CatalogueCheck(
        k=k,
        added=len(new),
        added_recall=_recall(found, [[tool for tool in query.tools if tool in new] for query in fresh]),
        added_first=_first(found, [query.tools for query in fresh]),
        old_first_before=_first(before, labels),
        old_first_after=_first(after, labels),
        old_recall_before=_recall(before, labels),
        old_recall_after=_recall(after, labels),
        intruded=np.array(intruded, dtype=np.float64),
        synthetic=synthetic,
        synthetic_old=synthetic_old,
        left_out=len(added_queries) - len(fresh) + len(old_queries) - len(known),
    )


def _names(
    retriever: Any, queries: Sequence[ToolQuery], k: int, tools: list[str] | None, options: dict[str, Any]
) -> list[list[str]]:
    if not queries:
        return []
    rankings = retriever.retrieve([query.text for query in queries], k, tools=tools, **options)
    return [[tool.name for tool in ranking][:k] for ranking in rankings]


def _recall(rankings: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> np.ndarray:
    """Share of the labels that are in the ranking, float64 (n,)."""
    pairs = zip(rankings, labels, strict=True)
    return np.array([len(set(row) & set(tools)) / len(tools) for row, tools in pairs], dtype=np.float64)


def _first(rankings: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> np.ndarray:
    """1 where the first tool is a label (with one tool NDCG is just that), float64 (n,)."""
    pairs = zip(rankings, labels, strict=True)
    return np.array([float(bool(row) and row[0] in tools) for row, tools in pairs], dtype=np.float64)


def _lowered(text: str) -> str:
    """Make a sentence fit into another one; abbreviations and names of code keep their letters."""
    word = text.split()[0]
    return text if word[1:] != word[1:].lower() else text[:1].lower() + text[1:]
