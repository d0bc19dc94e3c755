"""IterFeedback: a chat model reads what a retriever finds and rewrites the query, for some rounds."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from toolscaler.data.documents import ToolDocument
from toolscaler.decoding import Ranking, Retriever, reciprocal_rank_fusion
from toolscaler.errors import ConfigError, EvaluationError, ToolscalerError
from toolscaler.evaluation.baselines.cache import ContentCache
from toolscaler.evaluation.baselines.catalogue import check_request
from toolscaler.evaluation.baselines.chat_models import (
    CachedChat,
    ChatModel,
    FailedAnswer,
    as_cached,
    list_items,
)

logger = logging.getLogger(__name__)

Combine = Literal["last", "fuse"]

#: How the model is asked to judge what was found. Our own words.
FEEDBACK_PROMPT = (
    "A user said:\n{query}\n\nA search for tools that do this found, best first:\n{tools}\n\nCheck each part of the "
    "request against these tools. If they do all of it, and the fitting ones come first, answer with the one word "
    "DONE. Otherwise write the request anew, on one line, so that the search finds fitting tools: name the operations, "
    "their objects and the data that go in and come out; keep all that the user wants; name no tool. Answer with that "
    "line alone."
)
_DONE = re.compile(r"^\W*done\W*$", re.IGNORECASE)
_LABEL = re.compile(
    r"^(?:(?:the )?(?:new|refined|rewritten) (?:request|query|instruction)|request)\s*:\s*", re.IGNORECASE
)
_SHOWN = 300


@dataclass
class _Search:
    """One query through the rounds."""

    text: str
    rankings: list[Ranking] = field(default_factory=list)
    done: bool = False


class IterFeedbackRetriever:
    """Rank tools by a retriever whose query a chat model refines (Xu et al. 2024, arXiv 2406.17465; paper appendix C).

    Each round the retriever ranks, and the model reads the query and the best tools; it is satisfied, or writes the
    query anew for the next round. The original also trains its retriever on the refined queries; here it is any
    retriever, for example a trained :func:`~toolscaler.evaluation.baselines.train_tool_retriever`.

    The prompt is ours. An answer that fails ends its query's rounds, with what was found so far, and :attr:`failures`
    says so. Where the endpoint refuses everybody, the error is raised.

    Args:
        retriever: Ranks the tools.
        documents: Their documents, which the chat model reads.
        chat: A chat model, or one with its cache (:class:`~toolscaler.evaluation.baselines.CachedChat`).
        cache: A file that keeps the model's answers; see there.
        num_rounds: Answers a query at most; the retriever ranks once more than that.
        num_shown: Tools that the model reads.
        combine: ``last``: the ranking of the last round. ``fuse``: reciprocal-rank fusion of all rounds.
        keep_query: Search for the user's words and the refined ones together.

    Attributes:
        failures: What went wrong.
        refined: Query -> what was searched for in each later round, of the last call.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        retriever: Retriever,
        documents: Sequence[ToolDocument],
        chat: ChatModel | CachedChat,
        *,
        cache: str | Path | ContentCache | None = None,
        num_rounds: int = 3,
        num_shown: int = 10,
        combine: Combine = "last",
        keep_query: bool = False,
    ) -> None:
        if not isinstance(retriever, Retriever):
            raise ConfigError("retriever", retriever, "an object with retrieve(queries, top_k, *, tools)")
        for key, value in (("num_rounds", num_rounds), ("num_shown", num_shown)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(key, value, "a whole number above zero")
        if combine not in get_args(Combine):
            raise ConfigError("combine", combine, f"one of {', '.join(get_args(Combine))}")
        self.retriever, self.chat = retriever, as_cached(chat, cache)
        self.num_rounds, self.num_shown, self.combine, self.keep_query = num_rounds, num_shown, combine, keep_query
        self._lines: Mapping[str, str] = {document.id: _line(document) for document in documents}
        self.failures: list[FailedAnswer] = []
        self.refined: dict[str, list[str]] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """What shaped the rankings, for a result's record: the model, the prompt and the numbers."""
        return {
            "chat": self.chat.identity,
            "prompt": FEEDBACK_PROMPT,
            "num_rounds": self.num_rounds,
            "num_shown": self.num_shown,
            "combine": self.combine,
            "keep_query": self.keep_query,
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
            top_k: Tools a query at most.
            tools: Ids of the allowed tools; default: all.
            show_progress: Show progress bars.

        Returns:
            One ranking a query, best first; scores are those of the retriever, or of the fusion.

        Raises:
            ConfigError: ``top_k`` is below one.
            EvaluationError: The retriever finds a tool without a document, or does not give one ranking a query.
            EndpointError: The endpoint refuses everybody.
        """
        texts = check_request(queries, top_k)
        if isinstance(tools, str):
            raise EvaluationError(f"tools: expected a collection of tool ids, got the text {tools!r}")
        allowed = None if tools is None else list(tools)
        searches = [_Search(text) for text in texts]
        self.refined = {text: [] for text in texts}
        depth = max(top_k, self.num_shown)
        self._search(searches, depth, allowed)
        for number in range(self.num_rounds):
            open_ones = [place for place, search in enumerate(searches) if not search.done]
            if not open_ones:
                break
            self._refine([(texts[place], searches[place]) for place in open_ones], number + 1, show_progress)
            self._search([searches[place] for place in open_ones if not searches[place].done], depth, allowed)
        if self.combine == "fuse":
            return [reciprocal_rank_fusion(search.rankings, top_k=top_k) for search in searches]
        return [Ranking(search.rankings[-1][:top_k]) for search in searches]

    def _search(self, searches: list[_Search], depth: int, allowed: list[str] | None) -> None:
        if not searches:
            return
        found = self.retriever.retrieve([search.text for search in searches], depth, tools=allowed)
        if len(found) != len(searches):
            raise EvaluationError(f"expected one ranking for each of {len(searches)} queries, got {len(found)}")
        for search, ranking in zip(searches, found, strict=True):
            search.rankings.append(ranking)

    def _refine(self, rows: list[tuple[str, _Search]], number: int, show_progress: bool) -> None:
        questions = [
            [{"role": "user", "content": FEEDBACK_PROMPT.format(query=query, tools=self._shown(search.rankings[-1]))}]
            for query, search in rows
        ]
        failed = []
        for (query, search), answer in zip(rows, self.chat.ask(questions, show_progress=show_progress), strict=True):
            items = [] if isinstance(answer, ToolscalerError) else list_items(answer)
            words = _LABEL.sub("", items[-1]).strip() if items else ""
            if not words:
                error = str(answer) if isinstance(answer, ToolscalerError) else "no request in it"
                failed.append(FailedAnswer("feedback", query, error, f"what round {number} found"))
            text = f"{query}\n{words}" if self.keep_query else words
            search.done = not words or bool(_DONE.match(words)) or text == search.text
            if not search.done:
                search.text = text
                self.refined[query].append(text)
        if failed:
            logger.warning(
                "%d of %d answers failed in round %d; those queries end there", len(failed), len(rows), number
            )
            self.failures += failed

    def _shown(self, ranking: Sequence[Any]) -> str:
        lines = []
        for place, tool in enumerate(ranking[: self.num_shown], start=1):
            if tool.name not in self._lines:
                raise EvaluationError(f"expected documents of all tools, got none of {tool.name!r}")
            lines.append(f"{place}. {self._lines[tool.name]}")
        return "\n".join(lines) or "nothing"


def _line(document: ToolDocument) -> str:
    words = " ".join(document.description.split())
    return f"{document.id}: {words[:_SHOWN]}{'…' if len(words) > _SHOWN else ''}"
