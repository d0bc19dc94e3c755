"""Text of others in, token ids out that hold no code token and no special token, whatever the text says."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer

from toolscaler.errors import TokenizationError

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class _Backends:
    """Copies of a tokenizer's Rust backend, neither of which puts a space or a start token before a text.

    Attributes:
        size: Length of the tokenizer they were made from; another length means that tokens were added since.
        plain: Knows no added token but those of blanks.
        marked: Knows every added token.
        renumbered: Ids of ``plain`` that differ -> the tokenizer's ids.
        forbidden: Ids that must not come out of text of others -> token.
        stand_ins: Ids among them that stand for characters the vocabulary lacks (unknown token, bytes); forbidden only
            where the text spells them.
        unknown: Id of the unknown token; ``None`` where there is none.
    """

    size: int
    plain: Tokenizer
    marked: Tokenizer
    renumbered: dict[int, int]
    forbidden: dict[int, str]
    stand_ins: frozenset[int]
    unknown: int | None


_cache: WeakKeyDictionary[Any, _Backends] = WeakKeyDictionary()


def encode_foreign_text(tokenizer: Any, text: str) -> list[int]:
    """Encode text that is not the library's own: queries, documents, results, thoughts and arguments.

    Code tokens (``<a_1>``), special tokens (``</s>``) and all other added tokens (``<tool_call>``) in the text are
    encoded as the characters that they are written with, so that no user and no tool can write a call or end a turn.
    Added tokens of blanks alone keep their meaning. The text is encoded as the continuation of a sequence: nothing is
    put before or after it.

    Args:
        tokenizer: A fast tokenizer, such as :class:`~toolscaler.tokenization.ToolscalerTokenizer`.
        text: Any text. Half of a surrogate pair, which is no character, becomes ``?``.

    Returns:
        Token ids. They decode to the text as far as the tokenizer's normalisation keeps it.

    Raises:
        TokenizationError: ``text`` is no text, or the tokenizer is not a fast one.
    """
    if not isinstance(text, str):
        raise TokenizationError(f"expected text, got {type(text).__name__}")
    return _encode_plain(_backends_of(tokenizer), text.encode("utf-8", "replace").decode("utf-8"))


def encode_own_text(tokenizer: Any, text: str) -> list[int]:
    """Encode text of a chat template, whose special tokens have their meaning, as the continuation of a sequence.

    Args:
        tokenizer: A fast tokenizer.
        text: Text that holds nothing of others.

    Returns:
        Token ids; nothing is put before or after them.

    Raises:
        TokenizationError: The tokenizer is not a fast one.
    """
    return list(_backends_of(tokenizer).marked.encode(text, add_special_tokens=False).ids)


def _encode_plain(backends: _Backends, text: str) -> list[int]:
    encoding = backends.plain.encode(text, add_special_tokens=False)
    ids, forbidden = [backends.renumbered.get(token, token) for token in encoding.ids], backends.forbidden
    if forbidden.keys().isdisjoint(ids):
        return ids
    # The model's own vocabulary may hold special tokens (Unigram, whole words): cut the text inside the first of them.
    for (start, end), token in zip(encoding.offsets, ids, strict=True):
        if token not in forbidden or end - start < 2:
            continue
        if token in backends.stand_ins and text[start:end].strip() != forbidden[token]:
            continue
        middle = start + (end - start) // 2
        return _encode_plain(backends, text[:middle]) + _encode_plain(backends, text[middle:])
    # A mark of one character cannot be cut: it is an unknown character.
    bad = forbidden.keys() - backends.stand_ins
    replaced = [backends.unknown if token in bad else token for token in ids]
    return [token for token in replaced if token is not None]


def _backends_of(tokenizer: Any) -> _Backends:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise TokenizationError(f"expected a fast tokenizer, got {type(tokenizer).__name__}")
    found = _cache.get(tokenizer)
    if found is None or found.size != len(tokenizer):
        found = _cache[tokenizer] = _make_backends(tokenizer, backend)
    return found


def _make_backends(tokenizer: Any, backend: Tokenizer) -> _Backends:
    data = json.loads(backend.to_str())
    data.update(truncation=None, padding=None, post_processor=None)
    data["normalizer"] = _without_prefix(data.get("normalizer"))
    data["pre_tokenizer"] = _without_prefix(data.get("pre_tokenizer"))
    marked = Tokenizer.from_str(json.dumps(data))
    added = data["added_tokens"]
    data["added_tokens"] = [token for token in added if not token["content"].strip()]
    plain = Tokenizer.from_str(json.dumps(data))
    # Without the others, an added token that the model's vocabulary lacks gets another id.
    blanks = {int(plain.token_to_id(token["content"]) or 0): int(token["id"]) for token in data["added_tokens"]}
    forbidden = {token["id"]: token["content"] for token in added if token["content"].strip()}
    unknown = tokenizer.unk_token_id
    fallback = bool(data["model"].get("byte_fallback"))
    stand_ins = {key for key, text in forbidden.items() if key == unknown or (fallback and _BYTE.fullmatch(text))}
    return _Backends(
        size=len(tokenizer),
        plain=plain,
        marked=marked,
        renumbered={ours: theirs for ours, theirs in blanks.items() if ours != theirs},
        forbidden=forbidden,
        stand_ins=frozenset(stand_ins),
        unknown=unknown,
    )


def _without_prefix(step: Any) -> Any:
    """Give the JSON of a normaliser or pre-tokenizer that puts nothing before a text."""
    if not isinstance(step, dict):
        return step
    if step.get("type") == "Prepend":
        return None
    step = dict(step)
    if "add_prefix_space" in step:
        step["add_prefix_space"] = False
    if "prepend_scheme" in step:
        step["prepend_scheme"] = "never"
    for key in ("normalizers", "pretokenizers"):
        if key in step:
            step[key] = [kept for item in step[key] if (kept := _without_prefix(item)) is not None]
    return step
