"""BM25: the words that a query and a document share, weighted by how rare they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from toolscaler._optional import require
from toolscaler.data.documents import ToolDocument
from toolscaler.decoding import Ranking
from toolscaler.evaluation.baselines.catalogue import Catalogue, check_request, document_text, search_words


class BM25Retriever:
    """Rank tools by BM25 (Lucene's form) over their documents; needs the extra ``eval``.

    A tool's score is the sum of ``log(1 + (N - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * L / mean L))``
    over the words of the query that stand in its document (a word twice in the query counts twice), with df the number
    of documents that have the word, tf how often this one has it, and L the length of this one in words. A tool that
    shares no word with the query is not returned, so that rankings may be shorter than asked for: what stands last in
    them is never a guess.

    Args:
        documents: The tools.
        text: What of a document is searched; default:
            :func:`~toolscaler.evaluation.baselines.document_text`.
        tokenize: Text -> words, for documents and queries alike; default:
            :func:`~toolscaler.evaluation.baselines.search_words`, which leaves out English function words and folds
            plurals.
        k1: Saturation of repeated words.
        b: Weight of document length.

    Raises:
        EmptyCatalogueError: There are no documents.
        EvaluationError: Two documents have the same id.
        MissingDependencyError: bm25s is not installed.
    """

    def __init__(
        self,
        documents: Sequence[ToolDocument],
        *,
        text: Callable[[ToolDocument], str] = document_text,
        tokenize: Callable[[str], list[str]] = search_words,
        k1: float = 1.5,
        b: float = 0.75,
    ) -> None:
        bm25s = require("bm25s", extra="eval", purpose="BM25Retriever")
        self.catalogue = Catalogue(documents)
        self._tokenize = tokenize
        words = [tokenize(text(document)) for document in documents]
        self._vocabulary = {word for row in words for word in row}
        self._index: Any = None
        if self._vocabulary:
            self._index = bm25s.BM25(method="lucene", k1=k1, b=b)
            self._index.index(words, show_progress=False)

    def scores(self, query: str) -> np.ndarray:
        """Give the scores of all tools, float32 (N,); 0 means no word in common."""
        known = [word for word in self._tokenize(query) if word in self._vocabulary]
        if not known:
            return np.zeros(len(self.catalogue), dtype=np.float32)
        return np.asarray(self._index.get_scores(known))

    def retrieve(
        self,
        queries: str | Sequence[str],
        top_k: int = 5,
        *,
        tools: Iterable[str] | None = None,
        show_progress: bool = False,
    ) -> list[Ranking]:
        """Rank tools for each query.

        Args:
            queries: One query or several.
            top_k: Tools a query at most; fewer where fewer are allowed or share a word with the query.
            tools: Ids of the allowed tools; default: all. Word statistics stay those of the whole catalogue.
            show_progress: Show a progress bar.

        Returns:
            One ranking a query, best first; equal scores in the order of the documents.

        Raises:
            UnknownToolError: An allowed tool does not exist.
            EmptyCatalogueError: No tool is allowed.
            ConfigError: ``top_k`` is below one.
        """
        texts, rows = check_request(queries, top_k), self.catalogue.rows(tools)
        progress = tqdm(texts, desc="bm25", disable=not show_progress)
        rankings = [self.catalogue.best(self.scores(query), top_k, rows) for query in progress]
        return [Ranking(tool for tool in ranking if tool.score > 0) for ranking in rankings]
