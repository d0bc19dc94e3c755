"""Numerical and Hierarchical: a tool is the digits of a number, or of its path in a tree of clusters (appendix C)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from toolscaler.errors import ConfigError, TokenizationError
from toolscaler.tokenization.foreign_text import encode_foreign_text
from toolscaler.tokenization.strategies.base import (
    FirstRows,
    TokenizationStrategy,
    TokenizedCatalogue,
    checked_documents,
    checked_embeddings,
    wrap_base,
)

if TYPE_CHECKING:
    from toolscaler.data.documents import ToolDocument

DigitTokens = Literal["base", "own"]

_DIGITS = "0123456789"
# Deeper down clusters are cut into even parts: k-means may go on peeling off single tools.
_DEEPEST = 32


@dataclass(frozen=True)
class NumericalStrategy(TokenizationStrategy):
    """A tool is its number in the catalogue, from 1, in digits of fixed width: the third of 47,000 is ``0 0 0 0 3``.

    Args:
        tokens: ``base``: the digits of the base vocabulary (the paper's text). ``own``: ten new tokens a position.
        order_seed: Shuffle the numbers with this seed; default: the order of the catalogue, in which tools of one
            provider often follow each other and so share digits.
    """

    name: ClassVar[str] = "numerical"
    tokens: DigitTokens = "base"
    order_seed: int | None = None

    def __post_init__(self) -> None:
        _check_tokens(self.name, self.tokens)

    def tokenize(
        self,
        documents: Sequence[ToolDocument],
        base: Any,
        embeddings: np.ndarray | None = None,
        *,
        retrieval_template: str | None = None,
    ) -> TokenizedCatalogue:
        """See :meth:`TokenizationStrategy.tokenize`."""
        found = checked_documents(documents)
        numbers = np.arange(1, len(found) + 1)
        if self.order_seed is not None:
            numbers = np.random.default_rng(self.order_seed).permutation(numbers)
        width = len(str(len(found)))
        digits = [[int(digit) for digit in f"{number:0{width}d}"] for number in numbers.tolist()]
        return _with_digits(self.name, base, found, digits, self.tokens, len(_DIGITS), retrieval_template)


@dataclass(frozen=True)
class HierarchicalStrategy(TokenizationStrategy):
    """A tool is its path in a tree: clusters are clustered again until few tools are left, which are then numbered.

    Paths differ in length, and none begins another. The tree is made of k-means on the main components of the
    embeddings, all gist positions side by side. Tools with equal embeddings are numbered in even parts.

    Args:
        tokens: As in :class:`NumericalStrategy`.
        branching: Clusters of a cluster, and most tools of a leaf; 2 to 10 with tokens of the base.
        reduced_dim: Dimensions after PCA, at most.
        seed: Seed of every k-means.
    """

    name: ClassVar[str] = "hierarchical"
    needs_embeddings: ClassVar[bool] = True
    tokens: DigitTokens = "base"
    branching: int = 10
    reduced_dim: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        _check_tokens(self.name, self.tokens)
        most = len(_DIGITS) if self.tokens == "base" else None
        if self.branching < 2 or (most is not None and self.branching > most):
            upper = "2 or more" if most is None else f"2 to {most}, the digits of the base (or tokens='own')"
            raise ConfigError("hierarchical.branching", self.branching, upper)
        if self.reduced_dim < 1:
            raise ConfigError("hierarchical.reduced_dim", self.reduced_dim, "1 or more")

    def tokenize(
        self,
        documents: Sequence[ToolDocument],
        base: Any,
        embeddings: np.ndarray | None = None,
        *,
        retrieval_template: str | None = None,
    ) -> TokenizedCatalogue:
        """See :meth:`TokenizationStrategy.tokenize`."""
        from toolscaler.codebook.pca import fit_pca

        found = checked_documents(documents)
        points = checked_embeddings(self.name, embeddings, len(found)).reshape(len(found), -1)
        pca = fit_pca(points, min(self.reduced_dim, *points.shape), rng=np.random.default_rng(self.seed))
        paths = cluster_paths(pca.transform(points), self.branching, seed=self.seed)
        return _with_digits(self.name, base, found, paths, self.tokens, self.branching, retrieval_template)


def cluster_paths(points: np.ndarray, branching: int, *, seed: int = 0) -> list[list[int]]:
    """Give each point its path in a tree of k-means.

    Args:
        points: float32 (N, R), N at least 1.
        branching: Most children of a node, at least 2.
        seed: Seed; each node draws from it and its own path.

    Returns:
        N paths of children's numbers below ``branching``, none empty, none the beginning of another.
    """
    from toolscaler.codebook.kmeans import kmeans

    paths: list[list[int]] = [[] for _ in range(len(points))]
    waiting = [(np.arange(len(points)), [])] if len(points) else []  # type: list[tuple[np.ndarray, list[int]]]
    while waiting:
        rows, path = waiting.pop()
        if len(rows) <= branching:
            parts = [rows[place : place + 1] for place in range(len(rows))]
        else:
            parts = np.array_split(rows, branching)
            if len(path) < _DEEPEST:
                labels = kmeans(points[rows], branching, rng=np.random.default_rng([seed, *path])).labels
                clusters = [rows[labels == label] for label in np.unique(labels)]
                parts = clusters if len(clusters) > 1 else parts
        for number, part in enumerate(parts):
            if len(part) == 1:
                paths[int(part[0])] = [*path, number]
            else:
                waiting.append((part, [*path, number]))
    return paths


def _check_tokens(name: str, tokens: str) -> None:
    if tokens not in ("base", "own"):
        raise ConfigError(f"{name}.tokens", tokens, "'base' or 'own'")


def _with_digits(
    name: str,
    base: Any,
    documents: Sequence[ToolDocument],
    digits: Sequence[Sequence[int]],
    tokens: DigitTokens,
    count: int,
    retrieval_template: str | None,
) -> TokenizedCatalogue:
    """Make the tokenizer of sequences of digits below ``count``."""
    longest = max(map(len, digits))
    ragged = min(map(len, digits)) < longest
    if tokens == "own":
        codes, sizes = [list(row) for row in digits], (count,) * longest
        rows = FirstRows("random")
    else:
        ids = digit_tokens(base)
        codes, sizes, rows = [[ids[digit] for digit in row] for row in digits], None, FirstRows("none")
    tokenizer = wrap_base(
        name, base, documents, codes, code_sizes=sizes, ragged=ragged, retrieval_template=retrieval_template
    )
    return TokenizedCatalogue(tokenizer, rows)


def digit_tokens(base: Any) -> list[int]:
    """Give the ids of the ten digits in a base vocabulary.

    Raises:
        TokenizationError: The base is no fast tokenizer, or has no token of its own for each digit.
    """
    found = [encode_foreign_text(base, digit) for digit in _DIGITS]
    if any(len(ids) != 1 for ids in found) or len({ids[0] for ids in found}) < len(_DIGITS):
        raise TokenizationError(
            f"the base tokenizer has no token of its own for each digit ({found}); use tokens='own', which adds some"
        )
    return [ids[0] for ids in found]
