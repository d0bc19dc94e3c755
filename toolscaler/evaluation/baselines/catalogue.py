"""What all baselines share: the words of a document, the allowed subset, and the best tools of a row of scores."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from toolscaler.data.documents import ToolDocument
from toolscaler.decoding import Ranking, RetrievedTool
from toolscaler.errors import ConfigError, EmptyCatalogueError, EvaluationError, UnknownToolError

# A run of capitals before a capitalised word (HTTPServer -> HTTP Server), a small letter before a capital, and the
# border of letters and digits.
_BORDERS = re.compile(r"(?<=[A-Z])(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")
_WORDS = re.compile(r"[^\W_]+")


_STOP_WORDS = """
a an the this that these those i you he she it we they me him her us them my your his its our their mine yours
is am are was were be been being do does did done have has had having can could will would shall should may might must
and or but if of in on at to for from by with about into as than then so what which who whom whose when where why how
there here s t d ll m re ve don please just also any some
"""

#: English words that a request is made of, whatever it asks for. Words that carry meaning for tools ("not", "before",
#: "after", "between", "all") are left out.
STOP_WORDS = frozenset(_STOP_WORDS.split())


def split_words(text: str) -> list[str]:
    """Give the words of a text in lower case; snake_case, camelCase and digits are taken apart.

    Example:
        >>> split_words("getLastBlockNumber, parse_HTTPServer2")
        ['get', 'last', 'block', 'number', 'parse', 'http', 'server', '2']
    """
    return [word.lower() for word in _WORDS.findall(_BORDERS.sub(" ", text))]


def search_words(text: str) -> list[str]:
    """Give the words of a text that a search by words should look at.

    :func:`split_words` without :data:`STOP_WORDS`, English plurals folded (Harman's S-stemmer). Both make the baselines
    stronger: on ToolE's held-out queries they lift BM25's NDCG@1 from 28.9 to 41.9.

    Example:
        >>> search_words("Can you list the cities of my countries?")
        ['list', 'city', 'country']
    """
    return [_singular(word) for word in split_words(text) if word not in STOP_WORDS]


def _singular(word: str) -> str:
    if len(word) < 4 or not word.endswith("s"):
        return word
    if word.endswith("ies"):
        return word if word.endswith(("aies", "eies")) else word[:-3] + "y"
    return word if word.endswith(("aes", "ees", "oes", "us", "ss")) else word[:-1]


def document_text(document: ToolDocument) -> str:
    """Give the text that baselines search: name in words, provider, category, description and parameters.

    Field labels and types are left out: they are the same in every document and say nothing about one.
    """
    head = [" ".join(split_words(document.name)), document.provider, document.category, document.description]
    tail = [f"{' '.join(split_words(p.name))} {p.description}".strip() for p in document.iter_parameters()]
    return "\n".join(part for part in [*head, *tail] if part)


class Catalogue:
    """Tool ids in a fixed order, and the rules by which baselines pick from them.

    Args:
        documents: The tools.

    Raises:
        EmptyCatalogueError: There are none.
        EvaluationError: Two documents have the same id.
    """

    def __init__(self, documents: Sequence[ToolDocument]) -> None:
        self.ids = [document.id for document in documents]
        if not self.ids:
            raise EmptyCatalogueError("documents: expected at least one tool, got none")
        self._rows = {name: row for row, name in enumerate(self.ids)}
        if len(self._rows) < len(self.ids):
            # The dictionary keeps the last row of an id; an earlier row with the same id gives the repeat away.
            twice = next(name for row, name in enumerate(self.ids) if self._rows[name] != row)
            raise EvaluationError(f"documents: expected different ids, got {twice!r} more than once")

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, tools: Iterable[str] | None) -> np.ndarray | None:
        """Give the allowed tools as sorted int64 row numbers, ``None`` for all.

        Raises:
            UnknownToolError: An id is not in the catalogue.
            EmptyCatalogueError: Nothing is allowed.
            EvaluationError: Text stands where a collection of ids belongs.
        """
        if tools is None:
            return None
        if isinstance(tools, str):
            raise EvaluationError(f"tools: expected a collection of tool ids, got the text {tools!r}")
        chosen = set()
        for name in tools:
            if name not in self._rows:
                raise UnknownToolError(name, self.ids)
            chosen.add(self._rows[name])
        if not chosen:
            raise EmptyCatalogueError("tools: expected at least one tool id, got none; None means the whole catalogue")
        return np.array(sorted(chosen), dtype=np.int64)

    def best(self, scores: np.ndarray, top_k: int, rows: np.ndarray | None) -> Ranking:
        """Give the best tools of one query.

        Args:
            scores: (N,) scores of all tools; higher is better.
            top_k: Tools at most; fewer where fewer are allowed.
            rows: Allowed rows, as :meth:`rows` gives them.

        Returns:
            Best first; of equal scores the earlier document comes first, whatever ``top_k`` is.
        """
        allowed = np.arange(len(scores)) if rows is None else rows
        values = scores[allowed]
        if top_k < len(values):
            # All that reach the top_k-th score, and not just top_k of them: which of equals survive must not be chance.
            bound = np.partition(values, len(values) - top_k)[len(values) - top_k]
            keep = values >= bound
            allowed, values = allowed[keep], values[keep]
        order = np.argsort(-values, kind="stable")[:top_k]
        pairs = zip(allowed[order], values[order], strict=True)
        return Ranking(RetrievedTool(self.ids[row], float(value)) for row, value in pairs)


def check_request(queries: str | Sequence[str], top_k: int) -> list[str]:
    """Give the queries as a list.

    Raises:
        ConfigError: ``top_k`` is below one.
        EvaluationError: A query is no text.
    """
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise ConfigError("top_k", top_k, "a whole number above zero")
    texts = [queries] if isinstance(queries, str) else list(queries)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise EvaluationError(f"query {row}: expected text, got {type(text).__name__}")
    return texts
