"""A tokenizer in, what the grammar engine needs of it out: its own form, the tokens that stand in no value, ranks."""

from __future__ import annotations

import json
import re
import secrets
import threading
import weakref
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from toolscaler._optional import require
from toolscaler.errors import DecodingError

#: The rank of a token that is never preferred.
NEVER = 2**60
#: Ranks of digits outside of a text, and where the next ranks begin.
DIGITS = 200, 480

_QUOTE = re.compile(rb'\\.|(")', re.DOTALL)
_SEPARATORS = b"@.-:/_, "  # the separators of formats and patterns, the most telling first


def engine() -> Any:
    """Give the grammar engine, llguidance.

    Raises:
        MissingDependencyError: It is not installed.
    """
    return require("llguidance", extra="agent", purpose="constraining arguments to a schema")


class ArgumentVocabulary:
    """What the engine knows of a tokenizer. Get one with :meth:`of`, which keeps it for the tokenizer's life.

    A token must stand for the same bytes wherever it is. So it is in byte-level tokenizers and in those of
    sentencepiece's kind; WordPiece and WordLevel put spaces between their tokens that no token holds, and cannot write
    JSON letter by letter. A vocabulary without single bytes (Unigram without byte fallback) leaves out what it cannot
    write; a schema that asks for such a character cannot be filled.

    Args:
        tokenizer: A fast tokenizer.

    Attributes:
        engine_tokenizer: The engine's own form.
        size: Number of token ids.
        forbidden: bool (size,), true for tokens that stand in no value: special tokens, added tokens (code tokens
            are such), and ids that no token has.
        end_token_ids: The tokenizer's end token, if it has one.

    Raises:
        DecodingError: It is no fast tokenizer, or of a kind that the engine does not read.
    """

    _known: ClassVar[weakref.WeakKeyDictionary[Any, tuple[Any, ArgumentVocabulary]]] = weakref.WeakKeyDictionary()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, tokenizer: Any) -> None:
        llguidance = engine()
        try:
            ids = set(tokenizer.get_vocab().values())
            self.size = max([*ids, len(tokenizer) - 1]) + 1
            text = _without_added_texts(tokenizer.backend_tokenizer.to_str())
            self.engine_tokenizer = llguidance.LLTokenizer(text, n_vocab=self.size, eos_token=tokenizer.eos_token_id)
        except (AttributeError, TypeError, ValueError) as error:
            raise DecodingError(
                "tokenizer: expected a fast byte-level one, or one of sentencepiece's kind (Unigram, BPE with byte "
                f"fallback), whose tokens are pieces of text; got {_kind(tokenizer)}: {error!s:.200}"
            ) from error
        self.forbidden = np.ones(self.size, dtype=bool)
        self.forbidden[sorted(ids)] = False
        self.forbidden[[*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids]] = True
        first = getattr(tokenizer, "first_code_id", None)
        if first is not None:
            self.forbidden[first : first + tokenizer.num_code_tokens] = True
        end = tokenizer.eos_token_id
        self.end_token_ids = () if end is None else (int(end),)

    @classmethod
    def of(cls, tokenizer: Any) -> ArgumentVocabulary:
        """Give the vocabulary of a tokenizer, made anew where tokens were added since."""
        with cls._lock:
            try:
                state = (len(tokenizer), tokenizer.eos_token_id)
                known = cls._known.get(tokenizer)
            except (AttributeError, TypeError) as error:
                raise DecodingError(f"tokenizer: expected a fast tokenizer, got {type(tokenizer).__name__}") from error
            if known is None or known[0] != state:
                known = cls._known[tokenizer] = (state, cls(tokenizer))
            return known[1]

    @cached_property
    def closing_ranks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which token to prefer where arguments shall end soon; the smallest rank first.

        Returns:
            int64 (size,) outside of a text, int64 (size,) inside of one, and int64 (size,): each token's kind.
        """
        outside, inside = (np.full(self.size, NEVER, dtype=np.int64) for _ in range(2))
        kinds = np.zeros(self.size, dtype=np.int64)
        for token in np.flatnonzero(~self.forbidden).tolist():
            text = self.engine_tokenizer.decode_bytes([token])
            outside[token], inside[token] = _rank_outside(text), _rank_inside(text)
            kinds[token] = (
                256 if len(text) != 1 else ord("0") if text.isdigit() else ord("a") if text.isalpha() else text[0]
            )
        return outside, inside, kinds

    @cached_property
    def _spellings(self) -> tuple[dict[bytes, int], int]:
        """Which token writes which bytes, and the longest of these; tokens that stand in no value are left out."""
        found: dict[bytes, int] = {}
        for token in np.flatnonzero(~self.forbidden).tolist():
            text = self.engine_tokenizer.decode_bytes([token])
            if text:
                found.setdefault(text, token)
        return found, max(map(len, found), default=0)

    @cached_property
    def characters(self) -> frozenset[str] | None:
        """The characters that the vocabulary can write inside of a JSON text; ``None``: all of them."""
        if all(self.spell(bytes([byte])) for byte in (*range(0x20, 0xC0), *range(0xC2, 0xF5))):
            return None
        texts = (text.decode("utf-8", "ignore") for text in self._spellings[0])
        return frozenset(char for text in texts for char in text if self.spell(char.encode()))

    @cached_property
    def any_character(self) -> str:
        """Any of :attr:`characters`, as a regular expression."""
        if self.characters is None:
            return "(?s:.)"
        codes = sorted(map(ord, self.characters))
        ranges: list[list[int]] = []
        for code in codes:
            if ranges and code == ranges[-1][1] + 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
        return "[" + "".join(f"\\u{{{low:x}}}-\\u{{{high:x}}}" for low, high in ranges) + "]"

    def spell(self, text: bytes) -> list[int] | None:
        """Give the fewest tokens that write some bytes; ``None`` where no tokens do."""
        tokens, longest = self._spellings
        best: list[tuple[int, int] | None] = [(0, 0)]  # for each end: how many tokens, and where the last one begins
        for end in range(1, len(text) + 1):
            ways = (
                (before[0] + 1, start)
                for start in range(max(0, end - longest), end)
                if (before := best[start]) is not None and text[start:end] in tokens
            )
            best.append(min(ways, default=None))
        if best[-1] is None:
            return None
        found: list[int] = []
        end = len(text)
        while end:
            start = best[end][1]  # type: ignore[index]
            found.append(tokens[text[start:end]])
            end = start
        return found[::-1]


def _without_added_texts(tokenizer_json: str) -> str:
    """Give every added token another text, one that nobody can know, and mark it as special.

    Where a text is forced (a value of an ``enum`` that reads ``<a_1>``) the engine allows the text's usual tokens
    only, and these must be letters, not the code token.
    """
    data = json.loads(tokenizer_json)
    names = {}
    for token in data.get("added_tokens") or ():
        names[token["content"]] = token["content"] = f"<|{secrets.token_hex(16)}|>"
        token["special"] = True
    vocabulary = data["model"].get("vocab")
    if isinstance(vocabulary, dict):
        data["model"]["vocab"] = {names.get(text, text): number for text, number in vocabulary.items()}
    elif isinstance(vocabulary, list):
        data["model"]["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
    if (data.get("decoder") or {}).get("type") == "Metaspace":  # the engine knows the same rule under other names
        mark = data["decoder"].get("replacement", "\u2581")
        replace = {"type": "Replace", "pattern": {"String": mark}, "content": " "}
        data["decoder"] = {"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    # Where a text is forced the engine encodes it: that must give this text, no space before it and no other case.
    for key in ("truncation", "padding", "post_processor"):
        data[key] = None
    data["normalizer"] = _replacing_only(data.get("normalizer"))
    _without_prefix_space(data.get("pre_tokenizer"))
    return json.dumps(data)


def _kind(tokenizer: Any) -> str:
    """Name a tokenizer's model and decoder."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return type(tokenizer).__name__
    data = json.loads(backend.to_str())
    return f"{data['model'].get('type')} with the decoder {(data.get('decoder') or {}).get('type')}"


def _replacing_only(normalizer: Any) -> Any:
    """Keep of a normaliser what writes spaces in the vocabulary's way, and nothing that changes or adds letters."""
    if not isinstance(normalizer, dict):
        return None
    if normalizer.get("type") == "Sequence":
        kept = [part for part in map(_replacing_only, normalizer.get("normalizers") or ()) if part is not None]
        return {"type": "Sequence", "normalizers": kept} if kept else None
    return normalizer if normalizer.get("type") == "Replace" else None


def _without_prefix_space(pre_tokenizer: Any) -> None:
    if not isinstance(pre_tokenizer, dict):
        return
    if "add_prefix_space" in pre_tokenizer:
        pre_tokenizer["add_prefix_space"] = False
    if "prepend_scheme" in pre_tokenizer:
        pre_tokenizer["prepend_scheme"] = "never"
    for part in pre_tokenizer.get("pretokenizers") or ():
        _without_prefix_space(part)


def _rank_outside(text: bytes) -> int:
    """Rank a token outside of a text: close, go on to the next item, write a digit, open a text; small is first."""
    if not text.strip(b"]}"):
        return 10 - min(len(text), 9)
    if text.startswith(b","):
        return 100 + len(text)
    return 500 if text == b'"' else _rank_other(text)


def _rank_other(text: bytes) -> int:
    return DIGITS[0] + min(len(text), 99) if text.isdigit() else 1000 + len(text)


def _rank_inside(text: bytes) -> int:
    """Rank a token inside of a text: close it, or write one of what patterns ask for."""
    if text == b'"':
        return 1
    if len(text) == 1 and text in _SEPARATORS:
        return 300 + _SEPARATORS.index(text)
    return 400 if len(text) == 1 and text.isalpha() else _rank_other(text)


def in_text(written: bytes) -> bool:
    """Say whether JSON that was written so far has an open text."""
    return sum(map(bool, _QUOTE.findall(written))) % 2 == 1
