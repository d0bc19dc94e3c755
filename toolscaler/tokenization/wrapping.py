"""What a base tokenizer must be, and what a :class:`ToolscalerTokenizer` takes over from it."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer

from toolscaler.errors import TokenizationError

logger = logging.getLogger(__name__)

_LIKE_A_CODE = re.compile(r"<[a-z]+_[0-9]+>")

_SETTINGS = (
    "model_max_length",
    "padding_side",
    "truncation_side",
    "model_input_names",
    "clean_up_tokenization_spaces",
    "split_special_tokens",
)


def backend_with_codes(base: Any, tokens: Sequence[str]) -> tuple[Tokenizer, int]:
    """Copy the Rust tokenizer of ``base`` and put the code tokens at the end of its vocabulary.

    The code tokens are not special, so that ``skip_special_tokens=True`` keeps them, and not normalised, so that a
    lower-casing or prefixing tokenizer finds them as they are written, next to any neighbour.

    Args:
        base: Any fast tokenizer.
        tokens: Code tokens in id order; may be none.

    Returns:
        The copy, and the id of the first code token; the others follow without a gap. Without code tokens, the first id
        behind the vocabulary.

    Raises:
        TokenizationError: ``base`` is no fast tokenizer, has such tokens already, has a token that would swallow the
            start of a code token, or would not give the code tokens the last ids.
    """
    source = getattr(base, "backend_tokenizer", None)
    if not isinstance(source, Tokenizer):
        raise TokenizationError(
            f"expected a fast tokenizer (PreTrainedTokenizerFast, backed by the tokenizers library), got "
            f"{type(base).__name__}; load it with AutoTokenizer.from_pretrained or convert it to a tokenizer.json"
        )
    if tokens:
        _refuse_conflicts(base, source, tokens)
    backend = copy.deepcopy(source)
    # A truncation or padding left over from an earlier call must not become a setting of the new tokenizer.
    backend.no_truncation()
    backend.no_padding()
    highest = max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
    if not tokens:
        return backend, highest + 1
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in tokens])
    first = backend.token_to_id(tokens[0])
    if first is None or first <= highest or not codes_are_contiguous(backend, tokens, first):
        raise TokenizationError(
            f"the vocabulary of the base tokenizer has gaps in its ids (highest {highest}, first free {first}), so the "
            "code tokens cannot have the last ids; fill the gaps with tokens of your own first"
        )
    return backend, first


def codes_are_contiguous(backend: Tokenizer, tokens: Sequence[str], first: int | None) -> bool:
    """Tell whether the code tokens have the ids ``first, first + 1, …``."""
    return first is not None and all(backend.token_to_id(token) == first + k for k, token in enumerate(tokens))


def special_arguments(base: Any) -> dict[str, Any]:
    """Collect the special tokens and settings of ``base`` as arguments of a tokenizer's constructor.

    A missing end token becomes the separator where there is one (BERT-like tokenizers: ``[SEP]``); a missing padding
    token becomes the end token. Both are logged.

    Raises:
        TokenizationError: ``base`` has neither an end token nor a separator.
    """
    arguments: dict[str, Any] = {name: getattr(base, name) for name in _SETTINGS if hasattr(base, name)}
    arguments.update(base.special_tokens_map)
    # On transformers 5 the named map holds strings only; lists of further tokens travel on their own.
    for name in [name for name, value in arguments.items() if name.endswith("_tokens") and isinstance(value, list)]:
        del arguments[name]
    arguments["extra_special_tokens"] = list(base.extra_special_tokens)
    if arguments.get("eos_token") is None:
        if arguments.get("sep_token") is None:
            raise TokenizationError(
                "the base tokenizer has no end-of-sequence token (eos_token), so generation would not know where to "
                "stop; set base.eos_token to a token of its vocabulary, or base.sep_token, and wrap it again"
            )
        arguments["eos_token"] = arguments["sep_token"]
        logger.warning("the base tokenizer has no eos_token; its sep_token %r is used", arguments["eos_token"])
    if arguments.get("pad_token") is None:
        arguments["pad_token"] = arguments["eos_token"]
        logger.warning("the base tokenizer has no pad_token; its eos_token %r is used", arguments["pad_token"])
    return arguments


def _refuse_conflicts(base: Any, backend: Tokenizer, tokens: Sequence[str]) -> None:
    """Raise where the base has code tokens, or added tokens that would win over them in a text."""
    taken = [token for token in tokens if backend.token_to_id(token) is not None]
    if taken:
        raise TokenizationError(
            f"{type(base).__name__} has {len(taken)} tokens that look like codes, for example {taken[0]!r}; wrap the "
            "original base tokenizer (to add tools to a ToolscalerTokenizer use add_tools)"
        )
    # Added tokens are found leftmost first, then longest: one that ends like a code token begins takes its head away.
    starts = {token[:length] for token in tokens for length in range(1, len(token))}
    codes = set(tokens)
    longest = max(map(len, tokens))
    for added in backend.get_added_tokens_decoder().values():
        text = added.content
        tails = {text[-length:] for length in range(1, min(longest, len(text)))}
        if not added.normalized and (tails & starts or codes.intersection(_LIKE_A_CODE.findall(text))):
            raise TokenizationError(
                f"the base tokenizer's added token {text!r} overlaps code tokens such as {tokens[0]!r}, which "
                "would then not always be found; remove it from the base tokenizer first"
            )
