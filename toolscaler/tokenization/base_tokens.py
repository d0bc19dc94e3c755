"""Tools whose codes are tokens that the base vocabulary has already: token ids to readable text, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from toolscaler.errors import TokenizationError

_BLANK, _SHOWN_BLANK = " ", "\u2420"


def vocabulary_size(backend: Any) -> int:
    """Give the number that follows the highest token id of a Rust tokenizer."""
    return max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def pieces_to_text(backend: Any, ids: Iterable[int]) -> str:
    """Write tokens as their pieces with blanks between them, ``0 0 0 0 3`` or ``get _ weather``.

    Args:
        backend: Rust tokenizer.
        ids: Token ids.

    Returns:
        Text that :func:`text_to_pieces` reads; a blank inside a piece becomes ``␠``.
    """
    return _BLANK.join(str(backend.id_to_token(int(token))).replace(_BLANK, _SHOWN_BLANK) for token in ids)


def text_to_pieces(backend: Any, text: str) -> list[int]:
    """Read the token ids off a text of :func:`pieces_to_text`.

    Raises:
        TokenizationError: A piece is no token of the vocabulary.
    """
    ids = []
    for piece in text.split(_BLANK):
        token = backend.token_to_id(piece.replace(_SHOWN_BLANK, _BLANK))
        if token is None:
            raise TokenizationError(f"expected tokens with blanks between them, got {piece!r:.80} in {text!r:.120}")
        ids.append(int(token))
    return ids


def without_tokens(ids: Sequence[int], left_out: Iterable[int | None]) -> tuple[int, ...]:
    """Leave out padding, start and end tokens."""
    gone = {token for token in left_out if token is not None}
    return tuple(int(token) for token in ids if int(token) not in gone)
