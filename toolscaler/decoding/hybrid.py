"""Draft with any retriever, verify with the generative model: for large catalogues, and for tools added since."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from toolscaler.decoding.fusion import allowed_ids, ask, check_count, query_texts
from toolscaler.decoding.result import Ranking, RetrievedTool, Retriever
from toolscaler.errors import ConfigError, DecodingError, RetrievalError

if TYPE_CHECKING:
    from toolscaler.decoding.retriever import GenerativeRetriever
    from toolscaler.decoding.trie import CodeTrie

Mode = Literal["verify", "fuse"]
Normalise = Literal["softmax", "zscore"]

# The least share of probability that drafted added tools leave to the others, and the lowest log-probability: scores
# stay finite.
_LEAST, _LOWEST = 1e-9, -1e6
# What calibration tries, the most trust in the draft first: a tenth to a hundred, about 12 % apart.
_TEMPERATURES = tuple(round(10 ** (place / 20), 4) for place in range(-20, 41))
# And where none of them is enough: 1 down to 1e-40.
_WEIGHTS = tuple(10 ** (-place / 10) for place in range(401))


@dataclass
class _Query:
    """What is known of one query."""

    draft: Ranking
    model: dict[str, float] = field(default_factory=dict)  # tool -> log-probability


class HybridRetriever:
    """Let a retriever propose tools and the generative model judge them.

    The draft's candidates of a query are scored exactly: a search in the trie of just these tools, wide enough to drop
    none, gives the log-probabilities of :meth:`GenerativeRetriever.score
    <toolscaler.decoding.GenerativeRetriever.score>` at the cost of one reading of the prompt.

    With D the draft's scores over a query's candidates C, z(x) = (x - mean) / deviation over C (0 where all are equal),
    d = softmax(z(D) / temperature), and g the model's log-probabilities:

    * ``verify``: the candidates in the model's order; a score is g.
    * ``fuse``, ``softmax``: ``log(alpha * softmax(g) + (1 - alpha) * d)``.
    * ``fuse``, ``zscore``: ``alpha * z(g) + (1 - alpha) * z(D)``.

    Tools in ``unseen``, which the model was not trained on, are scored by the draft alone. With u the sum of d over
    them (both times ``unseen_weight``), an unseen tool has log d and any other tool log(1 - u) + g in ``verify``; in
    ``fuse`` an unseen tool has log d or z(D), and softmax(g) of the others is multiplied by 1 - u. So the draft says
    how likely an added tool is, and the model shares the rest among the tools that it knows. A model sure of a known
    tool keeps it first; one that spreads its probability, as for what it has never seen, gives way.

    Args:
        draft: Any retriever; lexical, dense or your own.
        model: The generative retriever.
        draft_k: Candidates a query; more where more tools are asked for.
        mode: ``verify`` or ``fuse``.
        alpha: Weight of the model in ``fuse``, from 0 (the draft alone) to 1.
        normalise: How ``fuse`` makes scores comparable.
        temperature: Of the draft's softmax; the smaller, the more its first candidate stands out. :meth:`calibrate`
            finds one that added tools need and known ones can bear.
        unseen_weight: Factor, up to 1, of the draft's share d of each unseen tool. :meth:`calibrate` lowers it where no
            temperature is enough: where the model is unsure, even a flat draft gives an unseen tool more than that.
        union_k: Add the model's own best tools of the whole catalogue; 0: none. A tool that the draft did not propose
            counts there as its last candidate does.
        unseen: Ids of tools that were added after training. They need not be in the model's tokenizer; where they are,
            their codes are not searched.
        hold_unseen: Behind the first place, an unseen tool stands no lower than in the draft (one lower where the first
            place went to a tool that the draft ranks behind it). So added tools are found as well as by the draft.
        num_beams: Beam width of the search for ``union_k``; default: as in :meth:`GenerativeRetriever.retrieve
            <toolscaler.decoding.GenerativeRetriever.retrieve>`.
        batch_size: Queries a batch at most.

    Raises:
        ConfigError: A setting is out of range, or the draft has no ``retrieve``.

    Example:
        >>> hybrid = HybridRetriever(BM25Retriever(documents), generative, unseen=new_ids)  # doctest: +SKIP
        >>> hybrid.retrieve("How far is it to the moon?", top_k=5)  # doctest: +SKIP
    """

    def __init__(
        self,
        draft: Retriever,
        model: GenerativeRetriever,
        *,
        draft_k: int = 20,
        mode: Mode = "verify",
        alpha: float = 0.5,
        normalise: Normalise = "softmax",
        temperature: float = 1.0,
        unseen_weight: float = 1.0,
        union_k: int = 0,
        unseen: Iterable[str] = (),
        hold_unseen: bool = True,
        num_beams: int | None = None,
        batch_size: int = 16,
    ) -> None:
        if not isinstance(draft, Retriever):
            raise ConfigError("draft", draft, "an object with retrieve(queries, top_k, *, tools)")
        for key, value, allowed in (("mode", mode, get_args(Mode)), ("normalise", normalise, get_args(Normalise))):
            if value not in allowed:
                raise ConfigError(key, value, f"one of {', '.join(allowed)}")
        if not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
            raise ConfigError("alpha", alpha, "a number from 0 to 1")
        if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
            raise ConfigError("temperature", temperature, "a finite number above 0")
        if not isinstance(unseen_weight, int | float) or not 0 < unseen_weight <= 1:
            raise ConfigError("unseen_weight", unseen_weight, "a number above 0, up to 1")
        if isinstance(unseen, str):
            raise ConfigError("unseen", unseen, "a collection of tool ids")
        self.draft, self.model, self.draft_k = draft, model, check_count("draft_k", draft_k)
        self.mode, self.alpha, self.normalise, self.temperature = mode, float(alpha), normalise, float(temperature)
        self.unseen_weight = float(unseen_weight)
        self.union_k = union_k if union_k == 0 and not isinstance(union_k, bool) else check_count("union_k", union_k)
        self.unseen = frozenset(unseen)
        self.hold_unseen, self.num_beams = hold_unseen, num_beams
        self.batch_size = check_count("batch_size", batch_size)

    def retrieve(
        self, queries: str | Sequence[str], top_k: int = 5, *, tools: Iterable[str] | None = None
    ) -> list[Ranking]:
        """Rank tools for each query.

        Args:
            queries: Q queries, or one as text.
            top_k: Tools a query at most.
            tools: Ids of the allowed tools, known to the draft; default: all.

        Returns:
            Q rankings, best first; shorter where the draft proposes fewer and ``union_k`` adds none. Of equal scores
            the tool that the draft ranks first comes first.

        Raises:
            ConfigError: ``top_k`` is below one.
            UnknownToolError: An allowed tool does not exist.
            EmptyCatalogueError: No tool is allowed.
            DecodingError: A query is no text; or the draft proposes a tool that the model has no codes for and that is
                not in ``unseen``.
            RetrievalError: The model gives numbers that are not finite for some queries; the others' rankings are in
                the error.
        """
        texts, allowed = query_texts(queries), allowed_ids(tools)
        rows, failures = self._gather(texts, allowed, max(self.draft_k, check_count("top_k", top_k)))
        found = [None if row in failures else self._rank(query, top_k) for row, query in enumerate(rows)]
        if failures:
            raise RetrievalError(failures, found)
        return [ranking for ranking in found if ranking is not None]

    def calibrate(self, queries: Sequence[str], labels: Sequence[Iterable[str]], *, max_loss: float = 0.01) -> float:
        """Set the temperature so that added tools cost known ones no more than a given share of first places.

        A small temperature trusts the draft: added tools come first more often, wrongly too. The smallest one is taken
        at which, of the given queries, at most ``max_loss`` have an unseen tool in the first place although the best of
        the known tools is right. Where no temperature is enough it stays as it is, and the largest
        :attr:`unseen_weight` is taken that keeps the bound.

        Args:
            queries: Q queries of known tools that the model was not trained on.
            labels: The relevant tools of each.
            max_loss: Share of the queries, from 0 to 1.

        Returns:
            The temperature, which is :attr:`temperature` from now on.

        Raises:
            ConfigError: ``max_loss`` is out of range, or the mode has no temperature.
            DecodingError: There are no queries or not as many labels; or neither keeps the bound.
            RetrievalError: As in :meth:`retrieve`.
        """
        texts, wanted = query_texts(queries), [frozenset(row) for row in labels]
        if not isinstance(max_loss, int | float) or not 0 <= max_loss <= 1:
            raise ConfigError("max_loss", max_loss, "a share from 0 to 1")
        if self.mode == "fuse" and self.normalise == "zscore":
            raise ConfigError("normalise", self.normalise, "softmax: z-scores have no temperature")
        if not texts or len(texts) != len(wanted):
            raise DecodingError(f"expected queries and their labels, got {len(texts)} and {len(wanted)}")
        rows, failures = self._gather(texts, None, self.draft_k)
        if failures:
            raise RetrievalError(failures, [None] * len(rows))
        before, weight = self.temperature, self.unseen_weight

        def lost() -> float:
            return sum(self._loses(query, right) for query, right in zip(rows, wanted, strict=True)) / len(rows)

        self.unseen_weight = 1.0
        for self.temperature in _TEMPERATURES:
            if lost() <= max_loss:
                return self.temperature
        self.temperature = before
        for self.unseen_weight in _WEIGHTS:
            if lost() <= max_loss:
                return self.temperature
        share, self.unseen_weight = lost(), weight
        raise DecodingError(
            f"expected a weight of unseen tools down to {_WEIGHTS[-1]:g} that loses at most {max_loss:g} of "
            f"{len(rows)} queries, it loses {share:.4g}; allow more, train further, or use union_k"
        )

    def _loses(self, query: _Query, right: frozenset[str]) -> bool:
        """Say whether an unseen tool stands before the best known one, which is right."""
        ranking = self._rank(query, len(query.draft) + len(query.model))
        known = next((tool.name for tool in ranking if tool.name not in self.unseen), None)
        return known in right and ranking[0].name in self.unseen and ranking[0].name not in right

    def _gather(
        self, texts: list[str], allowed: list[str] | None, depth: int
    ) -> tuple[list[_Query], dict[int, DecodingError]]:
        """Draft and verify; the second is what went wrong with single queries."""
        rows = [_Query(_unique(ranking)) for ranking in ask(self.draft, texts, depth, allowed)]
        failures: dict[int, DecodingError] = {}
        self._verify(texts, rows, failures)
        if self.union_k:
            self._add_own(texts, rows, allowed, failures)
        return rows, failures

    def _verify(self, texts: list[str], rows: list[_Query], failures: dict[int, DecodingError]) -> None:
        """Score each query's candidates that the model knows."""
        index, trie = self.model.tokenizer.tool_index, None
        asked: list[int] = []
        tries: list[CodeTrie] = []
        for row, query in enumerate(rows):
            names = [tool.name for tool in query.draft if tool.name not in self.unseen]
            strange = next((name for name in names if name not in index), None)
            if strange is not None:
                raise DecodingError(
                    f"query {row}: the draft proposes {strange!r}, which the model has no codes for; make the draft of "
                    "the tokenizer's catalogue, or name tools that were added since in `unseen`"
                )
            if names:
                trie = trie or self.model.trie
                asked.append(row)
                tries.append(trie.subset(tools=names))
        if asked:
            most = max(len(subset) for subset in tries)
            self._ask_model(texts, rows, asked, failures, most, tries, most)

    def _add_own(
        self,
        texts: list[str],
        rows: list[_Query],
        allowed: list[str] | None,
        failures: dict[int, DecodingError],
    ) -> None:
        """Add the model's own best tools; their scores do not depend on the trie, so they fit the others'."""
        trie = self.model.trie
        hidden = [name for name in trie.tool_ids if name in self.unseen]
        known = None if allowed is None else [name for name in allowed if name not in self.unseen]
        if known == [] or len(hidden) == len(trie):
            return
        if known is not None:
            trie = trie.subset(tools=known)
        elif hidden:
            trie = trie.subset(without=hidden)
        self._ask_model(texts, rows, list(range(len(rows))), failures, self.union_k, trie, self.num_beams)

    def _ask_model(
        self,
        texts: list[str],
        rows: list[_Query],
        asked: list[int],
        failures: dict[int, DecodingError],
        top_k: int,
        tries: CodeTrie | Sequence[CodeTrie],
        num_beams: int | None,
    ) -> None:
        results: Sequence[Ranking | None]
        try:
            results = self.model.retrieve(
                [texts[row] for row in asked], top_k, tools=tries, num_beams=num_beams, batch_size=self.batch_size
            )
        except RetrievalError as error:
            results = error.results
            failures.update({asked[place]: failure for place, failure in error.failures.items()})
        for row, ranking in zip(asked, results, strict=True):
            rows[row].model.update({tool.name: tool.score for tool in ranking or ()})

    def _rank(self, query: _Query, top_k: int) -> Ranking:
        drafted = {tool.name: tool.score for tool in query.draft}
        last = min(drafted.values(), default=0.0)
        drafted.update({name: last for name in query.model if name not in drafted})
        if not drafted:
            return Ranking()
        known = {name: max(query.model.get(name, _LOWEST), _LOWEST) for name in drafted if name not in self.unseen}
        scores = self._scores(drafted, known)
        order = sorted(drafted, key=lambda name: -scores[name])  # stable: equal scores in the draft's order
        if self.unseen and self.hold_unseen:
            ranks = {tool.name: rank for rank, tool in enumerate(query.draft) if tool.name in self.unseen}
            order = _held(order, ranks)
            for better, worse in zip(order[-2::-1], order[:0:-1], strict=True):
                if scores[better] < scores[worse]:  # whoever sorts by score finds the same ranking
                    scores[better] = math.nextafter(scores[worse], math.inf)
        return Ranking(RetrievedTool(name, scores[name], self._codes(name)) for name in order[:top_k])

    def _codes(self, name: str) -> tuple[int, ...]:
        index = self.model.tokenizer.tool_index
        if name in index:  # Mapping.get would look for near names first
            return index[name]
        return ()

    def _scores(self, drafted: Mapping[str, float], model: Mapping[str, float]) -> dict[str, float]:
        """Give each candidate's score, as the class says."""
        standard = _zscores(drafted)
        if self.mode == "fuse" and self.normalise == "zscore":
            own = _zscores(model)
            return {
                name: self.alpha * own[name] + (1 - self.alpha) * value if name in own else value
                for name, value in standard.items()
            }
        share = _softmax({name: value / self.temperature for name, value in standard.items()})
        share = {name: value if name in model else self.unseen_weight * value for name, value in share.items()}
        rest = max(1.0 - sum(share[name] for name in drafted if name not in model), _LEAST)
        if len(model) == len(drafted):
            rest = 1.0  # exactly: nothing here is unseen
        if self.mode == "verify":
            return {name: math.log(rest) + model[name] if name in model else _log(share[name]) for name in drafted}
        own = _softmax(model)
        return {
            name: _log(self.alpha * rest * own[name] + (1 - self.alpha) * share[name] if name in own else share[name])
            for name in drafted
        }


def _unique(ranking: Sequence[RetrievedTool]) -> Ranking:
    return Ranking({tool.name: tool for tool in reversed(ranking)}[name] for name in _names(ranking))


def _names(ranking: Sequence[RetrievedTool]) -> list[str]:
    return list(dict.fromkeys(tool.name for tool in ranking))


def _log(value: float) -> float:
    """Logarithm; of a probability that rounds to zero a number below all others that stays finite."""
    return math.log(max(value, 1e-300))


def _zscores(values: Mapping[str, float]) -> dict[str, float]:
    if not values:
        return {}
    mean = math.fsum(values.values()) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values.values()) / len(values))
    # Differences within rounding are none: dividing by them would make noise decide.
    flat = deviation <= 1e-12 * max(1.0, abs(mean))
    return {name: 0.0 if flat else (value - mean) / deviation for name, value in values.items()}


def _softmax(values: Mapping[str, float]) -> dict[str, float]:
    if not values:
        return {}
    top = max(values.values())
    raised = {name: math.exp(value - top) for name, value in values.items()}
    total = math.fsum(raised.values())
    return {name: value / total for name, value in raised.items()}


def _held(order: list[str], ranks: Mapping[str, int]) -> list[str]:
    """Keep the first; behind it no named tool stands lower than its rank (from 0), as far as room allows."""
    due = sorted((name for name in ranks if name != order[0]), key=lambda name: ranks[name])
    rest = order[1:]
    kept = order[:1]
    for place in range(1, len(order)):
        name = due[0] if due and ranks[due[0]] <= place else rest[0]
        kept.append(name)
        rest.remove(name)
        if name in due:
            due.remove(name)
    return kept
