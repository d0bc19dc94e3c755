"""Toolscaler: a tool is the codes that a codebook gives its embeddings (paper, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from toolscaler.errors import TokenizationError
from toolscaler.tokenization.layout import DEFAULT_STRATEGY
from toolscaler.tokenization.strategies.base import (
    FirstRows,
    TokenizationStrategy,
    TokenizedCatalogue,
    checked_documents,
    checked_embeddings,
)
from toolscaler.tokenization.tokenizer import ToolscalerTokenizer

if TYPE_CHECKING:
    from toolscaler.codebook import Codebook
    from toolscaler.data.documents import ToolDocument


@dataclass(frozen=True)
class ToolscalerStrategy(TokenizationStrategy):
    """A tool is a code sequence of deep residual clustering; similar tools share codes.

    Args:
        settings: Keywords of :meth:`toolscaler.Codebook.fit`.
        codebook: A fitted codebook of these tools, instead of a fit.
    """

    name: ClassVar[str] = DEFAULT_STRATEGY
    needs_embeddings: ClassVar[bool] = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    codebook: Codebook | None = None

    def tokenize(
        self,
        documents: Sequence[ToolDocument],
        base: Any,
        embeddings: np.ndarray | None = None,
        *,
        retrieval_template: str | None = None,
    ) -> TokenizedCatalogue:
        """See :meth:`TokenizationStrategy.tokenize`; with :attr:`codebook` no embeddings are needed."""
        from toolscaler.codebook import Codebook

        found = checked_documents(documents)
        ids = [document.id for document in found]
        codebook = self.codebook
        if codebook is None:
            points = checked_embeddings(self.name, embeddings, len(found))
            codebook = Codebook.fit(points if points.ndim == 3 else points[:, None], ids, **self.settings)
        elif list(codebook.tool_ids) != ids:
            raise TokenizationError("codebook: expected one that was fitted on these tools, in their order")
        tokenizer = ToolscalerTokenizer.from_tokenizer(
            base,
            codebook,
            document_hashes={document.id: document.content_hash for document in found},
            retrieval_template=retrieval_template,
        )
        return TokenizedCatalogue(tokenizer, FirstRows("reframe"))
