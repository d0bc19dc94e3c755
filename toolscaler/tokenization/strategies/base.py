"""What a tokenization strategy is, and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from toolscaler.errors import ConfigError, TokenizationError
from toolscaler.tokenization.tokenizer import ToolscalerTokenizer

if TYPE_CHECKING:
    from toolscaler.data.documents import ToolDocument

RowKind = Literal["none", "reframe", "mean", "random"]


@dataclass(frozen=True)
class FirstRows:
    """How the rows of new code tokens start; :func:`toolscaler.embedding.initialize_first_rows` writes them.

    Attributes:
        kind: ``none`` (there is no new token), ``reframe`` (from codebook and embeddings; the caller may choose random
            rows instead), ``mean`` (the mean of the rows of ``sources``) or ``random``.
        sources: For ``mean``: for each code token, in id order, ids of tokens of the base.
        scale: ``match`` or ``none`` (:func:`toolscaler.initialize_code_embeddings`); ``None``: the caller's choice.
    """

    kind: RowKind
    sources: tuple[tuple[int, ...], ...] | None = None
    scale: Literal["match", "none"] | None = None


@dataclass(frozen=True)
class TokenizedCatalogue:
    """A catalogue as a strategy sees it.

    Attributes:
        tokenizer: Knows every tool's sequence, and the strategy's name; saves and loads as an ordinary folder.
        first_rows: How the rows of its new tokens start.
    """

    tokenizer: ToolscalerTokenizer
    first_rows: FirstRows

    @property
    def strategy(self) -> str:
        """Name of the strategy."""
        return self.tokenizer.strategy

    @property
    def sequences(self) -> list[list[int]]:
        """The token ids of each tool, in the order of ``tokenizer.tool_names``; the end token is not among them."""
        return [[token for token in row if token >= 0] for row in self.tokenizer.tool_token_ids().tolist()]


class TokenizationStrategy(ABC):
    """Turn a catalogue into token sequences, one a tool, no two alike (paper, appendix C).

    One sequence may begin another: the end token after each of them tells them apart. A strategy is a frozen dataclass
    of its options, so that a run file can name it (:func:`make_strategy`).

    Attributes:
        name: The name in run files and in the saved tokenizer.
        needs_embeddings: Whether :meth:`tokenize` needs embeddings of the tools.
    """

    name: ClassVar[str]
    needs_embeddings: ClassVar[bool] = False

    @abstractmethod
    def tokenize(
        self,
        documents: Sequence[ToolDocument],
        base: Any,
        embeddings: np.ndarray | None = None,
        *,
        retrieval_template: str | None = None,
    ) -> TokenizedCatalogue:
        """Give every tool its sequence.

        Args:
            documents: N documents with different ids.
            base: Fast tokenizer of the base model; it stays as it is.
            embeddings: Float (N, V, D) gist embeddings, or (N, D), in the order of ``documents``; strategies that do
                not need them pass them over.
            retrieval_template: Prompt text with ``{query}`` (:meth:`ToolscalerTokenizer.from_tokenizer`).

        Raises:
            TokenizationError: There is no document, two have one id, or the base cannot be used.
            ConfigError: The strategy needs embeddings and there are none.
            CodebookError: Embeddings of a wrong shape, or not finite.
        """


def checked_documents(documents: Sequence[ToolDocument]) -> list[ToolDocument]:
    """Give the documents as a list.

    Raises:
        TokenizationError: There is none.
    """
    found = list(documents)
    if not found:
        raise TokenizationError("documents: expected at least one tool, got none")
    return found


def checked_embeddings(strategy: str, embeddings: np.ndarray | None, count: int) -> np.ndarray:
    """Give embeddings as an array whose first axis is the tools.

    Raises:
        ConfigError: There are none.
        TokenizationError: They are not one for each of ``count`` tools.
    """
    if embeddings is None:
        raise ConfigError("embeddings", None, f"embeddings (N, V, D) or (N, D): the strategy {strategy!r} needs them")
    array = np.asarray(embeddings)
    if array.ndim not in (2, 3) or len(array) != count or array.dtype.kind != "f":
        raise TokenizationError(
            f"embeddings: expected floats of shape (N, V, D) or (N, D) with N = {count}, got {array.dtype} of shape "
            f"{array.shape}"
        )
    return array


def wrap_base(
    strategy: str,
    base: Any,
    documents: Sequence[ToolDocument],
    codes: Any,
    *,
    retrieval_template: str | None,
    code_sizes: Sequence[int] | None = None,
    ragged: bool = False,
) -> ToolscalerTokenizer:
    """Make the tokenizer of a strategy without a codebook.

    Args:
        strategy: Its name.
        base: Base tokenizer.
        documents: N documents.
        codes: N sequences: codes below ``code_sizes``, or without these token ids of the base.
        retrieval_template: See :meth:`ToolscalerTokenizer.from_tokenizer`.
        code_sizes: New code tokens of each position.
        ragged: Whether lengths may differ.
    """
    return ToolscalerTokenizer.from_tokenizer(
        base,
        codes=codes,
        tool_ids=[document.id for document in documents],
        document_hashes=[document.content_hash for document in documents],
        code_sizes=code_sizes,
        retrieval_template=retrieval_template,
        ragged=ragged,
        base_tokens=code_sizes is None,
        strategy=strategy,
    )
