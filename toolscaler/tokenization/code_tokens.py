"""Codes and their text: code ``k`` at position ``p`` is the token ``<letters_k>`` (paper, section 4.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np

from toolscaler.errors import TokenizationError

_CODE_TOKEN = re.compile(r"<([a-z]+)_(0|[1-9][0-9]*)>")


def check_code_sizes(code_sizes: Iterable[int]) -> tuple[int, ...]:
    """Give the code sizes as a tuple of Python integers.

    Args:
        code_sizes: Number of codes at each position of a code sequence.

    Returns:
        The same numbers.

    Raises:
        TokenizationError: There is no position, or a size is not a positive whole number.
    """
    sizes = tuple(code_sizes)
    whole = all(isinstance(size, int | np.integer) and not isinstance(size, bool) and size >= 1 for size in sizes)
    if not sizes or not whole:
        raise TokenizationError(f"code_sizes: expected one positive whole number for each code position, got {sizes!r}")
    return tuple(int(size) for size in sizes)


def position_letters(position: int) -> str:
    """Name a code position: ``a`` to ``z``, then ``aa``, ``ab`` and so on.

    Args:
        position: Zero-based position in the code sequence, ``p = i * L + l``.

    Returns:
        Lower-case letters, different for every position.

    >>> [position_letters(p) for p in (0, 3, 25, 26, 27, 701, 702)]
    ['a', 'd', 'z', 'aa', 'ab', 'zz', 'aaa']
    """
    if position < 0:
        raise TokenizationError(f"position: expected 0 or more, got {position}")
    letters = ""
    number = position + 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return letters


def _position(letters: str) -> int:
    """Invert :func:`position_letters`."""
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - ord("a") + 1
    return number - 1


def code_token(position: int, code: int) -> str:
    """Give the token text of one code.

    >>> code_token(1, 17)
    '<b_17>'
    """
    return f"<{position_letters(position)}_{code}>"


def all_code_tokens(code_sizes: Sequence[int]) -> list[str]:
    """List every code token in the order of their ids: position by position, code by code.

    Args:
        code_sizes: Number of codes at each position, (code_length,).

    Returns:
        ``sum(code_sizes)`` token texts.

    >>> all_code_tokens((2, 1))
    ['<a_0>', '<a_1>', '<b_0>']
    """
    return [code_token(position, code) for position, size in enumerate(code_sizes) for code in range(size)]


def code_offsets(code_sizes: Sequence[int]) -> np.ndarray:
    """Give, for each position, how many code tokens come before its first one.

    Returns:
        int64 (code_length,). The id of code ``k`` at position ``p`` is ``first_code_id + offsets[p] + k``.

    >>> code_offsets((512, 512, 3)).tolist()
    [0, 512, 1024]
    """
    return np.array([0, *accumulate(code_sizes)][:-1], dtype=np.int64)


def codes_to_text(codes: Iterable[int]) -> str:
    """Write a code sequence as text.

    >>> codes_to_text((282, 123, 144, 204))
    '<a_282><b_123><c_144><d_204>'
    """
    return "".join(code_token(position, int(code)) for position, code in enumerate(codes))


def find_codes(text: str, code_sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Find the code tokens of a text; what only looks like one (unknown position, code out of range) is left out.

    Args:
        text: Any text.
        code_sizes: Number of codes at each position.

    Returns:
        (position, code) pairs in the order of the text.

    >>> find_codes("use <a_1> <b_0>, not <a_9> or <a_01>", (2, 2))
    [(0, 1), (1, 0)]
    """
    found = []
    for match in _CODE_TOKEN.finditer(text):
        position, code = _position(match.group(1)), int(match.group(2))
        if position < len(code_sizes) and code < code_sizes[position]:
            found.append((position, code))
    return found


def neutralise_codes(text: str, code_sizes: Sequence[int]) -> str:
    """Take the meaning from code tokens in a user's text, so that codes in a prompt are never the user's.

    A code token gets a space after its ``<``; every other character stays.

    >>> neutralise_codes("what is <a_1>? <x_1> stays", (2, 2))
    'what is < a_1>? <x_1> stays'
    """

    def spaced(match: re.Match[str]) -> str:
        token = match.group(0)
        return f"< {token[1:]}" if find_codes(token, code_sizes) else token

    return _CODE_TOKEN.sub(spaced, text)
