"""Atomic: a tool is one new token, ToolGen's form (paper, appendix C)."""

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
    wrap_base,
)

if TYPE_CHECKING:
    from toolscaler.data.documents import ToolDocument

AtomicInit = Literal["name", "document", "random"]


@dataclass(frozen=True)
class AtomicStrategy(TokenizationStrategy):
    """A tool is one token ``<a_k>``; its row starts as the mean of the rows of its name's tokens.

    The vocabulary grows by N rows in the input embeddings and in an untied output head.

    Args:
        init: What the mean is over: the tokens of provider and ``name`` (ToolGen), or of the whole ``document``;
            ``random`` takes noise.
        scale: ``none``: the mean itself (ToolGen); ``match``: the norm of the base's rows, as code tokens have.
        max_source_tokens: Tokens of a document that count.
    """

    name: ClassVar[str] = "atomic"
    init: AtomicInit = "name"
    scale: Literal["match", "none"] = "none"
    max_source_tokens: int = 256

    def __post_init__(self) -> None:
        if self.init not in ("name", "document", "random"):
            raise ConfigError("atomic.init", self.init, "'name', 'document' or 'random'")
        if self.scale not in ("match", "none"):
            raise ConfigError("atomic.scale", self.scale, "'match' or 'none'")
        if self.max_source_tokens < 1:
            raise ConfigError("atomic.max_source_tokens", self.max_source_tokens, "1 or more")

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
        codes = np.arange(len(found), dtype=np.int32)[:, None]
        tokenizer = wrap_base(
            self.name, base, found, codes, code_sizes=(len(found),), retrieval_template=retrieval_template
        )
        if self.init == "random":
            return TokenizedCatalogue(tokenizer, FirstRows("random"))
        sources = tuple(self._sources(document, base) for document in found)
        return TokenizedCatalogue(tokenizer, FirstRows("mean", sources, self.scale))

    def _sources(self, document: ToolDocument, base: Any) -> tuple[int, ...]:
        text = document.to_text() if self.init == "document" else document.task_targets()["name"]
        ids = encode_foreign_text(base, text) or encode_foreign_text(base, document.id)
        if not ids:
            raise TokenizationError(
                f"the base tokenizer gives no token for the tool {document.id!r}; use init='random'"
            )
        return tuple(ids[: self.max_source_tokens])
