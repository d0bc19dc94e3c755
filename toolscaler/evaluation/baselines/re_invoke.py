"""Re-Invoke: documents enriched with synthetic queries, queries split into intents, ranked over all views."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from toolscaler.data.documents import ToolDocument
from toolscaler.decoding import Ranking
from toolscaler.errors import ConfigError, ToolscalerError
from toolscaler.evaluation.baselines.cache import ContentCache
from toolscaler.evaluation.baselines.catalogue import Catalogue, check_request, document_text
from toolscaler.evaluation.baselines.chat_models import (
    CachedChat,
    ChatModel,
    FailedAnswer,
    as_cached,
    list_items,
)
from toolscaler.evaluation.baselines.embedding import EmbeddingRetriever, TextEncoder

logger = logging.getLogger(__name__)

Views = Literal["mean", "max"]

#: How the model is asked for synthetic queries of a tool. Our own words.
QUERIES_PROMPT = (
    "Below is the documentation of a tool. Write {count} different requests that a user could make and that this tool "
    "answers. Write as users do: say what is wanted, with concrete values, and never name the tool. One request a "
    "line, nothing else.\n\n{document}"
)
#: How the model is asked for the intents of a query. Our own words.
INTENTS_PROMPT = (
    "Below is what a user said. List what the user wants done, one intent a line, each short, complete in itself and "
    "without the story around it. Most requests have one intent; never write more than {count}. Nothing else."
    "\n\n{query}"
)


class ReInvokeRetriever:
    """Rank tools by Re-Invoke (Chen et al. 2024, arXiv 2408.01875; paper appendix C), without any training.

    1. A chat model writes synthetic queries for each tool. A tool's views are its document followed by one of them.
    2. The model lists the intents of a query.
    3. An intent's similarity with a tool is the mean (or the largest) cosine over the tool's views. Each intent ranks
       the tools; tools are ordered by their best rank over the intents, and by similarity among equal ranks.

    The prompts are ours. An answer that fails costs no more than itself: its tool is ranked by the document alone, its
    query is its own intent, and :attr:`failures` says so. Where the endpoint refuses everybody, the error is raised.

    Args:
        documents: The tools.
        encoder: As in :class:`~toolscaler.evaluation.baselines.EmbeddingRetriever`.
        chat: A chat model, or one with its cache (:class:`~toolscaler.evaluation.baselines.CachedChat`).
        cache: A file that keeps the model's answers; see there.
        num_queries: Synthetic queries a tool at most; 0: none are asked for.
        max_intents: Intents a query at most; 0: none are asked for.
        views: ``mean`` or ``max`` over a tool's views.
        batch_size: Texts given to the encoder at a time.
        text: What of a document is read, by the encoder and by the chat model.
        show_progress: Show progress bars while documents are enriched and encoded.

    Attributes:
        synthetic: Tool id -> its synthetic queries.
        failures: What went wrong with tools and, since, with queries.

    Raises:
        EmptyCatalogueError: There are no documents.
        EvaluationError: Two documents have the same id, or the encoder gives something else than finite vectors.
        ConfigError: A setting is out of range.
        EndpointError: The endpoint refuses everybody.
    """

    def __init__(
        self,
        documents: Sequence[ToolDocument],
        encoder: TextEncoder | str,
        chat: ChatModel | CachedChat,
        *,
        cache: str | Path | ContentCache | None = None,
        num_queries: int = 5,
        max_intents: int = 4,
        views: Views = "mean",
        batch_size: int = 64,
        text: Callable[[ToolDocument], str] = document_text,
        show_progress: bool = False,
    ) -> None:
        for key, value in (("num_queries", num_queries), ("max_intents", max_intents)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigError(key, value, "a whole number of at least 0")
        if views not in get_args(Views):
            raise ConfigError("views", views, f"one of {', '.join(get_args(Views))}")
        self.catalogue, self.views = Catalogue(documents), views
        self.num_queries, self.max_intents, self.batch_size = num_queries, max_intents, batch_size
        self.chat = as_cached(chat, cache)
        self.failures: list[FailedAnswer] = []
        texts = [text(document) for document in documents]
        self.synthetic = self._enrich(texts, show_progress)
        views_of = self._views(texts)
        self._owner = np.repeat(np.arange(len(views_of)), [len(row) for row in views_of])
        flat = [view for row in views_of for view in row]
        # Views as documents of their own, so that one encoder path serves both.
        self._encoder = EmbeddingRetriever(
            [ToolDocument(name=str(row), description=view) for row, view in enumerate(flat)],
            encoder,
            batch_size=batch_size,
            text=lambda document: document.description,
            show_progress=show_progress,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What shaped the rankings, for a result's record: the model, the prompts and the numbers."""
        return {
            "chat": self.chat.identity,
            "queries_prompt": QUERIES_PROMPT,
            "intents_prompt": INTENTS_PROMPT,
            "num_queries": self.num_queries,
            "max_intents": self.max_intents,
            "views": self.views,
            "failures": len(self.failures),
        }

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
            top_k: Tools a query; fewer only where fewer are allowed.
            tools: Ids of the allowed tools; default: all.
            show_progress: Show a progress bar.

        Returns:
            One ranking a query, best first. A score is ``(1 + similarity) / 2 - rank``, with the best rank over the
            intents (from 1) and the similarity there.

        Raises:
            UnknownToolError: An allowed tool does not exist.
            EmptyCatalogueError: No tool is allowed.
            ConfigError: ``top_k`` is below one.
            EvaluationError: The encoder gives something else than finite vectors.
            EndpointError: The endpoint refuses everybody.
        """
        texts, rows = check_request(queries, top_k), self.catalogue.rows(tools)
        return [
            self.catalogue.best(self._scores(intents, rows), top_k, rows)
            for intents in self.intents(texts, show_progress=show_progress)
        ]

    def intents(self, queries: Sequence[str], *, show_progress: bool = False) -> list[list[str]]:
        """Give each query's intents: at least one, at most :attr:`max_intents`."""
        if not self.max_intents:
            return [[query] for query in queries]
        prompts = [INTENTS_PROMPT.format(count=self.max_intents, query=query) for query in queries]
        found = self._ask(prompts, queries, "intents", "the query itself", show_progress)
        return [intents[: self.max_intents] or [query] for query, intents in zip(queries, found, strict=True)]

    def _enrich(self, texts: list[str], show_progress: bool) -> dict[str, list[str]]:
        ids = self.catalogue.ids
        if not self.num_queries:
            return {name: [] for name in ids}
        prompts = [QUERIES_PROMPT.format(count=self.num_queries, document=text) for text in texts]
        found = self._ask(prompts, ids, "queries", "the document alone", show_progress)
        return {name: queries[: self.num_queries] for name, queries in zip(ids, found, strict=True)}

    def _views(self, texts: list[str]) -> list[list[str]]:
        made = (self.synthetic[name] for name in self.catalogue.ids)
        return [[f"{text}\n{query}" for query in row] or [text] for text, row in zip(texts, made, strict=True)]

    def _ask(
        self, prompts: list[str], items: Sequence[str], step: str, instead: str, show_progress: bool
    ) -> list[list[str]]:
        answers = self.chat.ask([[{"role": "user", "content": text}] for text in prompts], show_progress=show_progress)
        found = [[] if isinstance(answer, ToolscalerError) else list_items(answer) for answer in answers]
        failed = [
            FailedAnswer(step, item, str(answer) if isinstance(answer, ToolscalerError) else "no item in it", instead)
            for item, answer, row in zip(items, answers, found, strict=True)
            if not row
        ]
        if failed:
            logger.warning("%d of %d answers (%s) failed; %s is used there", len(failed), len(items), step, instead)
            self.failures += failed
        return found

    def _scores(self, intents: list[str], rows: np.ndarray | None) -> np.ndarray:
        """Give float64 (N,) scores; ranks are among the allowed tools."""
        cosines = self._encoder.scores(intents).astype(np.float64)  # (intents, views)
        similarity = np.full((len(intents), len(self.catalogue)), -np.inf)
        if self.views == "max":
            for line, values in zip(similarity, cosines, strict=True):
                np.maximum.at(line, self._owner, values)
        else:
            counts = np.bincount(self._owner)
            for place, values in enumerate(cosines):
                similarity[place] = np.bincount(self._owner, weights=values) / counts
        allowed = np.arange(len(self.catalogue)) if rows is None else rows
        scores = np.full(len(self.catalogue), -np.inf)
        for line in similarity:
            order = allowed[np.argsort(-line[allowed], kind="stable")]
            scores[order] = np.maximum(scores[order], (1 + line[order]) / 2 - np.arange(1, len(order) + 1))
        return scores
