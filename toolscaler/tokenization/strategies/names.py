"""Semantic: a tool is its own name in tokens of the base vocabulary (paper, appendix C)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

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

logger = logging.getLogger(__name__)

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class SemanticStrategy(TokenizationStrategy):
    """A tool is its name as text, for example ``compress_for_imagon``; no token is new.

    A name that begins another is told apart by the end token. Tools with one name, or whose names give the same tokens,
    get longer names until they differ: ``NAME_for_PROVIDER``, then the tool's id, then the id and a number.

    Args:
        max_tokens: Longest sequence; longer names are cut, and numbered where they then collide.
        with_provider: Use ``NAME_for_PROVIDER`` for every tool that has a provider, as ToolBench writes names.
    """

    name: ClassVar[str] = "semantic"
    max_tokens: int = 64
    with_provider: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens < 8:  # a name's beginning and a number
            raise ConfigError("semantic.max_tokens", self.max_tokens, "8 or more")

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
        sequences = self.name_tokens(found, base)
        tokenizer = wrap_base(
            self.name,
            base,
            found,
            [list(row) for row in sequences],
            ragged=len(set(map(len, sequences))) > 1,
            retrieval_template=retrieval_template,
        )
        return TokenizedCatalogue(tokenizer, FirstRows("none"))

    def name_tokens(self, documents: Sequence[ToolDocument], base: Any) -> list[Tokens]:
        """Give each tool's name as token ids: N different sequences of 1 to ``max_tokens`` ids.

        Raises:
            TokenizationError: The base is no fast tokenizer, or cannot write numbers that tell tools apart.
        """
        forms = [self._forms(document) for document in documents]
        stage = [0] * len(documents)
        cut = 0

        def encode(text: str) -> Tokens:
            nonlocal cut
            ids = encode_foreign_text(base, text)
            cut += len(ids) > self.max_tokens
            return tuple(ids[: self.max_tokens])

        tokens = [encode(form[0]) for form in forms]
        while True:
            counts = Counter(tokens)
            unclear = [row for row, ids in enumerate(tokens) if not ids or counts[ids] > 1]
            open_rows = [row for row in unclear if stage[row] + 1 < len(forms[row])]
            for row in open_rows:
                stage[row] += 1
                tokens[row] = encode(forms[row][stage[row]])
            if not open_rows:
                break
        if cut:
            logger.warning("names of more than %d tokens were cut (%d times)", self.max_tokens, cut)
        if unclear:
            logger.warning("%d names are told apart by numbers alone, for example %r", len(unclear), forms[unclear[0]])
        return self._numbered(tokens, set(unclear), base)

    def _forms(self, document: ToolDocument) -> list[str]:
        name = document.name.strip()
        long = f"{name}_for_{document.provider.strip()}" if document.provider.strip() else name
        forms = [long, document.id] if self.with_provider else [name, long, document.id]
        return list(dict.fromkeys(forms))

    def _numbered(self, tokens: list[Tokens], unclear: set[int], base: Any) -> list[Tokens]:
        """Put numbers behind the names that others have too; the first tool of a name keeps it."""
        taken: set[Tokens] = {ids for row, ids in enumerate(tokens) if row not in unclear}
        following: dict[Tokens, int] = {}
        for row in sorted(unclear):
            name = ids = tokens[row]
            attempts = 0
            while not ids or ids in taken:
                number = following.get(name, 2)
                following[name] = number + 1
                mark = tuple(encode_foreign_text(base, f"_{number}"))
                ids = (*name[: self.max_tokens - len(mark)], *mark)[: self.max_tokens]
                attempts += 1
                if attempts > len(tokens):
                    raise TokenizationError(
                        f"tool {row}: the base tokenizer writes no numbers that tell it from others (last tried: "
                        f"{number}); use another strategy"
                    )
            taken.add(ids)
            tokens[row] = ids
        return tokens
