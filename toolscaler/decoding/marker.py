"""A text marker as an automaton over token ids, whatever way a tokenizer cuts text into tokens."""

from __future__ import annotations

import re
import threading
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolscaler.errors import ConfigError, DecodingError

#: Bytes of the longest marker; the table has a row for each.
MAX_MARKER_BYTES = 128

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_UNREADABLE = "\ufffd"


@dataclass(frozen=True, eq=False)
class MarkerTable:
    """What each token of a vocabulary does to the longest part of a marker that the text ends with.

    The pattern is the marker in UTF-8: its *core* (all but white space at its end), then that white space. State s says
    that the first s bytes of the pattern are the longest that the text ends with; from ``core`` on the marker is there.
    Column n stands for ids that the tokenizer does not know.

    Attributes:
        text: The marker as the tokenizer writes it.
        core: Bytes of the core.
        length: Bytes of the pattern, P.
        vocabulary: n, one more than the largest token id.
        next: uint8 (P + 1, n + 1) the state behind a token.
        broken: bool (P + 1, n + 1) whether the token completes the core, or follows it, and goes on with something else
            than the marker's own white space.
        silent: bool (n + 1,) tokens without any text; they take the state back to 0.
    """

    text: str
    core: int
    length: int
    vocabulary: int
    next: np.ndarray
    broken: np.ndarray
    silent: np.ndarray

    def run(self, tokens: np.ndarray, state: int = 0) -> int:
        """Give the state behind int (T,) token ids."""
        for token in np.minimum(tokens, self.vocabulary).tolist():
            state = int(self.next[state, token])
        return state

    def spaces(self, state: int) -> np.ndarray:
        """Give the tokens that go on with the marker's own white space behind its core, int64."""
        return np.flatnonzero(~self.broken[state] & ~self.silent)


def marker_table(tokenizer: Any, marker: str) -> MarkerTable:
    """Make a marker's table for a tokenizer; made once as long as the tokenizer lives and its vocabulary stays.

    Raises:
        ConfigError: The marker is no text, white space alone, or too long.
        DecodingError: The tokenizer is no fast one, or its own encoding of the marker does not give the marker.
    """
    if not isinstance(marker, str) or not marker.strip():
        raise ConfigError("trigger", marker, "text that is more than white space")
    if len(marker.encode()) > MAX_MARKER_BYTES:
        raise ConfigError("trigger", marker, f"at most {MAX_MARKER_BYTES} bytes of text")
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise DecodingError(
            f"tokenizer: expected a fast tokenizer of transformers, got {type(tokenizer).__name__}; load it with "
            "AutoTokenizer"
        )
    with _lock:
        size, texts, tables = _cache.get(tokenizer, (-1, None, {}))
        if size != len(tokenizer) or texts is None:
            texts, tables = _TokenTexts(tokenizer.backend_tokenizer), {}
            _cache[tokenizer] = (len(tokenizer), texts, tables)
        if marker not in tables:
            tables[marker] = _table(tokenizer, marker, texts)
        return tables[marker]


class _TokenTexts:
    """The bytes that each token adds to a text, by length: the longest tokens first.

    Attributes:
        count: n.
        order: int64 (n,) token ids, those of more bytes first.
        starts: int64 (n,) where the bytes of ``order[k]`` begin in ``data``.
        lengths: int64 (n,) how many they are, descending.
        data: uint8 bytes of all tokens.
    """

    def __init__(self, backend: Any) -> None:
        texts = token_bytes(backend)
        self.count = len(texts)
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        self.order = np.argsort(-lengths, kind="stable")
        self.starts = (np.cumsum(lengths) - lengths)[self.order]
        self.lengths = lengths[self.order]
        self.data = np.frombuffer(b"".join(texts), dtype=np.uint8)


def token_bytes(backend: Any) -> list[bytes]:
    """Give the bytes that each token adds to a text when it stands behind other text.

    They are what the tokenizer's own decoder makes of it there, so any kind of tokenizer will do. Parts of a character,
    which decode to a replacement mark, are read off the token itself (byte-level alphabet, or ``<0xE4>``).

    Args:
        backend: A ``tokenizers.Tokenizer``.

    Returns:
        A list over all ids up to the largest; empty for ids that are missing.
    """
    ids = backend.get_vocab(with_added_tokens=True).values()
    count = max(ids, default=-1) + 1
    anchor = _plain_token(backend, count)
    head = backend.decode(anchor, skip_special_tokens=False)
    texts = []
    for token, text in enumerate(
        backend.decode_batch([[*anchor, token] for token in range(count)], skip_special_tokens=False)
    ):
        own = text[len(head) :] if text.startswith(head) else backend.decode([token], skip_special_tokens=False)
        texts.append(_raw_bytes(backend.id_to_token(token), own) if _UNREADABLE in own else own.encode())
    return texts


def _plain_token(backend: Any, count: int) -> list[int]:
    """Give one token that is a word or letter, if there is one."""
    for start in range(0, count, 1000):
        ids = range(start, min(start + 1000, count))
        texts = backend.decode_batch([[token] for token in ids], skip_special_tokens=False)
        for token, text in zip(ids, texts, strict=True):
            if text.isalnum() and text.isascii():
                return [token]
    return []


def _raw_bytes(token: str, text: str) -> bytes:
    """Give the bytes of a token that is no whole text."""
    found = _BYTE_TOKEN.fullmatch(token)
    if found:
        return bytes([int(found[1], 16)])
    if all(letter in _BYTE_OF for letter in token):
        return bytes(_BYTE_OF[letter] for letter in token)
    return text.encode()


def _byte_alphabet() -> dict[str, int]:
    """Give the byte that each letter of the byte-level alphabet stands for: printable ones for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + k): byte for k, byte in enumerate(others)}}


_BYTE_OF = _byte_alphabet()


def _table(tokenizer: Any, marker: str, texts: _TokenTexts) -> MarkerTable:
    ids = tokenizer(marker, add_special_tokens=False)["input_ids"]
    written = tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)
    # Some tokenizers change letters ("action :"), and then so does all text that they write; white space around the
    # marker may be lost at the start of a text only, so there the caller's own is kept.
    same = written.strip() == marker.strip()
    text = marker if same else written.strip() + marker[len(marker.rstrip()) :]
    if getattr(tokenizer, "unk_token_id", None) in ids or not text.strip():
        raise DecodingError(
            f"trigger: expected text that the tokenizer knows, got {marker!r}, which it reads as {written!r}"
        )
    core, pattern = len(text.rstrip().encode()), text.encode()
    following, broken = _transitions(pattern, core, texts)
    silent = np.ones(texts.count + 1, dtype=bool)
    silent[texts.order] = texts.lengths == 0
    table = MarkerTable(text, core, len(pattern), texts.count, following, broken, silent)
    for context in ("", "a", "a\n"):
        ids = tokenizer(context + marker, add_special_tokens=False)["input_ids"]
        if table.run(np.array(ids, dtype=np.int64)) < core:
            raise DecodingError(
                f"trigger: expected the tokenizer to write {text!r}, but its encoding of {context + marker!r} reads "
                f"{tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)!r}; choose another marker"
            )
    return table


def _transitions(pattern: bytes, core: int, texts: _TokenTexts) -> tuple[np.ndarray, np.ndarray]:
    """Run all tokens from all states at once, one byte a round; the table and where a token breaks a marker."""
    step = _byte_automaton(pattern)
    states = np.repeat(np.arange(len(pattern) + 1, dtype=np.uint8)[:, None], texts.count + 1, 1)
    broken = np.zeros(states.shape, dtype=bool)
    for place in range(int(texts.lengths.max(initial=0))):
        active = int(np.searchsorted(-texts.lengths, -place, side="left"))  # tokens of more than `place` bytes
        before = states[:, :active]
        after = step[before, texts.data[texts.starts[:active] + place]]
        broken[:, :active] |= (before >= core) & (after != before + 1)
        states[:, :active] = after
    following, breaks = np.zeros_like(states), np.zeros_like(broken)
    following[:, texts.order], breaks[:, texts.order] = states[:, :-1], broken[:, :-1]
    silent = texts.order[texts.lengths == 0]
    following[:, silent] = 0
    return following, breaks


def _byte_automaton(pattern: bytes) -> np.ndarray:
    """Give the automaton of Knuth, Morris and Pratt: uint8 (P + 1, 256) state behind each byte."""
    step = np.zeros((len(pattern) + 1, 256), dtype=np.uint8)
    fallback = 0
    for state in range(len(pattern) + 1):
        step[state] = step[fallback] if state else 0
        if state < len(pattern):
            step[state, pattern[state]] = state + 1
            if state:
                fallback = int(step[fallback, pattern[state]])
    return step


_cache: weakref.WeakKeyDictionary[Any, tuple[int, _TokenTexts | None, dict[str, MarkerTable]]]
_cache = weakref.WeakKeyDictionary()
_lock = threading.Lock()
