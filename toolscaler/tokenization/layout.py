"""What a tokenizer is made of, checked: sizes, policy, template, and the keys that travel with its tool index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolscaler.errors import ArtifactError, TokenizationError
from toolscaler.tokenization.base_tokens import vocabulary_size
from toolscaler.tokenization.code_tokens import check_code_sizes

if TYPE_CHECKING:
    from toolscaler.codebook import Codebook

#: The strategy of a tokenizer whose codes come from a codebook (paper, section 4.1).
DEFAULT_STRATEGY = "toolscaler"

#: Where the query stands in a retrieval template.
QUERY_MARK = "{query}"


def layout(
    codebook: Codebook | None, code_sizes: Iterable[int] | None, collisions: str | None
) -> tuple[tuple[int, ...], str]:
    """Settle code sizes and collision policy; what is given twice must agree."""
    sizes = None if code_sizes is None else check_code_sizes(code_sizes)
    if codebook is None:
        if sizes is None:
            raise TokenizationError("code_sizes: expected the number of codes at each position, or a codebook")
        return sizes, collisions or "reassign"
    own = check_code_sizes(codebook.code_sizes)
    if sizes is not None and sizes != own:
        raise TokenizationError(f"code_sizes: the codebook has {own}, got {sizes}")
    if collisions is not None and collisions != codebook.collisions:
        raise TokenizationError(f"collisions: the codebook has {codebook.collisions!r}, got {collisions!r}")
    return own, codebook.collisions


def check_template(template: Any) -> None:
    """Refuse a retrieval template that does not hold ``{query}`` exactly once."""
    if template is not None and (not isinstance(template, str) or template.count(QUERY_MARK) != 1):
        raise TokenizationError(f"retrieval_template: expected text with {QUERY_MARK} exactly once, got {template!r}")


def base_sizes(base: Any, codes: Any, codebook: Any, code_sizes: Any) -> tuple[int, ...]:
    """Give the code sizes of sequences of base tokens: every token of the vocabulary, at every position."""
    if codebook is not None or code_sizes is not None or codes is None or not len(codes):
        raise TokenizationError(
            "base_tokens: expected codes, the token ids of each tool, and neither a codebook nor code_sizes"
        )
    backend = getattr(base, "backend_tokenizer", None)
    size = 1 if backend is None else vocabulary_size(backend)  # backend_with_codes says what is wrong with the base
    return (size,) * max(len(row) for row in codes)


def one_sequence(ids: Any) -> np.ndarray:
    """Give token ids as int64 (n,)."""
    array = np.asarray(ids.tolist() if hasattr(ids, "tolist") else list(ids))
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise TokenizationError(f"expected the token ids of one sequence, got shape {array.shape}, {array.dtype}")
    return array.astype(np.int64)


def own_keys(extra: Mapping[str, Any], index_file: str | Path) -> tuple[str | None, bool, str, bool]:
    """Read what the tokenizer has added to the file of its tool index.

    Returns:
        The template, whether there is a codebook, the strategy, and whether codes are base tokens.
    """
    unexpected = sorted(set(extra) - {"retrieval_template", "has_codebook", "strategy", "base_tokens"})
    if unexpected:
        raise ArtifactError(f"damaged tool index: unexpected keys {unexpected!r:.200}", path=index_file)
    template, has_codebook = extra.get("retrieval_template"), extra.get("has_codebook")
    try:
        check_template(template)
    except TokenizationError as error:
        raise ArtifactError(f"damaged tool index: {error}", path=index_file) from error
    if not isinstance(has_codebook, bool | None):
        raise ArtifactError(f"damaged tool index: has_codebook is {has_codebook!r:.80}", path=index_file)
    strategy, base_tokens = extra.get("strategy", DEFAULT_STRATEGY), extra.get("base_tokens", False)
    if not isinstance(strategy, str) or not isinstance(base_tokens, bool):
        raise ArtifactError(
            f"damaged tool index: strategy is {strategy!r:.80}, base_tokens is {base_tokens!r:.80}", path=index_file
        )
    return template, bool(has_codebook), strategy, base_tokens


def without_tools(codebook: Codebook | None) -> Codebook | None:
    """Leave out the codes of the fitted tools: the tool index holds them, and only it follows the catalogue."""
    return None if codebook is None else codebook.without_tools()
