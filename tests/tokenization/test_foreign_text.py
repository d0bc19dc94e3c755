"""Text of others is text: no code token, no special token and no other mark comes out of it."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from toolscaler.errors import TokenizationError
from toolscaler.tokenization import ToolscalerTokenizer, encode_foreign_text
from toolscaler.tokenization.foreign_text import encode_own_text

SIZES = (4, 3)
MARKS = ["<tool_call>", "</tool_response>", "<think>"]
PIECES = ["<a_1>", "<b_0>", "</s>", "[SEP]", "<s>", "＜s＞", "<", "a_1>", " ", "é", "\ud800", "<think>", "<0x0A>"]
KINDS = ["bytelevel", "prefixed", "metaspace", "metaspace-always", "llama", "wordpiece", "unigram", "words"]


def unigram(corpus) -> PreTrainedTokenizerFast:
    """A vocabulary that holds the special tokens as pieces of its own, behind a compatibility normalisation."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator([*corpus * 5, "<>/_0123456789abc"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def words(corpus) -> PreTrainedTokenizerFast:
    """Whole words, the special tokens among them."""
    names = ["<unk>", "<s>", "</s>", "one", "two", "<", "s>", "/"]
    backend = Tokenizer(models.WordLevel({name: k for k, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def llama(base: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The older form of Llama's tokenizer: the space before a text is a normaliser's work."""
    backend = copy.deepcopy(base.backend_tokenizer)
    backend.pre_tokenizer = pre_tokenizers.Split("\x00", "isolated")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def tokenizers(bases, make_tiny_tokenizer, corpus) -> dict[str, ToolscalerTokenizer]:
    prefixed = make_tiny_tokenizer()
    prefixed.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made = {
        "bytelevel": make_tiny_tokenizer(),
        "prefixed": prefixed,
        "metaspace": bases["metaspace"],
        "metaspace-always": bases["metaspace-always"],
        "llama": llama(bases["metaspace"]),
        "wordpiece": bases["wordpiece"],
        "unigram": unigram(corpus),
        "words": words(corpus),
    }
    found = {}
    for name, base in made.items():
        base = copy.deepcopy(base)
        base.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKS])
        base.add_tokens([AddedToken("    ", special=False, normalized=False)])
        base.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
        found[name] = ToolscalerTokenizer.from_tokenizer(base, codes=[[0, 1]], tool_ids=["t"], code_sizes=SIZES)
    return found


@pytest.fixture(scope="module")
def corpus() -> tuple[str, ...]:
    return ("Convert a length between metres and feet, 12 or 3.5 of them.", "Which day was the first of May?")


def marks_of(tokenizer) -> dict[int, str]:
    """Ids that mean more than text, from transformers' own view of the tokenizer."""
    stand_ins = {tokenizer.unk_token_id}
    return {
        token: str(added)
        for token, added in tokenizer.added_tokens_decoder.items()
        if str(added).strip() and token not in stand_ins and not str(added).startswith("<0x")
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_mark_in_a_text_stays_text(tokenizers, kind) -> None:
    tokenizer = tokenizers[kind]
    marks = marks_of(tokenizer)
    codes = {f"<{letter}_{k}>" for letter, size in zip("ab", SIZES, strict=True) for k in range(size)}
    assert codes | set(MARKS) | {"<|im_end|>", tokenizer.eos_token} <= set(marks.values())
    for mark in marks.values():
        for text in (mark, f" {mark}", f"x{mark}y", f"{mark}{mark}", f"one {mark} two", f"{mark}\n", f"    {mark}"):
            own = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert marks.keys() & set(own), f"{text!r} has no mark even as ordinary text"
            ids = encode_foreign_text(tokenizer, text)
            assert ids, text
            assert not marks.keys() & set(ids), (text, tokenizer.convert_ids_to_tokens(ids))
            assert tokenizer.decode_tool(ids) == []


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8))
def test_no_text_makes_a_mark(tokenizers, kind, parts) -> None:
    tokenizer = tokenizers[kind]
    assert not marks_of(tokenizer).keys() & set(encode_foreign_text(tokenizer, "".join(parts)))


@pytest.mark.parametrize("kind", ["bytelevel", "prefixed", "metaspace", "metaspace-always", "llama"])
def test_the_text_comes_back_whole_with_nothing_before_it(tokenizers, kind) -> None:
    tokenizer = tokenizers[kind]
    start = encode_own_text(tokenizer, "x")
    for text in (
        "use <a_1><b_2> now</s>",
        " two  blanks ",
        '{"a": 1}',
        "line\nline <|im_end|>",
        "zoë ＜s＞",
        "    four",
    ):
        ids = encode_foreign_text(tokenizer, text)
        assert tokenizer.decode([*start, *ids], skip_special_tokens=False) == f"x{text}"
    blanks = tokenizer.convert_tokens_to_ids("    ")
    assert encode_foreign_text(tokenizer, "    ") == [blanks]


@pytest.mark.parametrize("kind", ["bytelevel", "wordpiece"])
def test_text_without_marks_has_its_usual_ids(tokenizers, kind) -> None:
    tokenizer = tokenizers[kind]
    for text in ("How many feet are twelve metres?", 'x = {"a": [1, 2.5]}\n\nline'):
        assert encode_foreign_text(tokenizer, text) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_own_text_has_its_marks_and_no_prefix(tokenizers) -> None:
    for kind in KINDS:
        tokenizer = tokenizers[kind]
        expected = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<a_3>", "<b_2>", tokenizer.eos_token])
        assert encode_own_text(tokenizer, f"<|im_end|><a_3><b_2>{tokenizer.eos_token}") == expected


def test_tokens_added_later_are_marks_too(make_tiny_tokenizer) -> None:
    tokenizer = make_tiny_tokenizer()
    assert encode_foreign_text(tokenizer, "a<new>")
    tokenizer.add_tokens(["<new>"], special_tokens=True)
    assert tokenizer.convert_tokens_to_ids("<new>") not in encode_foreign_text(tokenizer, "a<new>")
    assert tokenizer.convert_tokens_to_ids("<new>") in encode_own_text(tokenizer, "a<new>")


def test_bad_input_is_refused(make_tiny_tokenizer) -> None:
    with pytest.raises(TokenizationError, match="expected text"):
        encode_foreign_text(make_tiny_tokenizer(), b"x")
    with pytest.raises(TokenizationError, match="fast tokenizer"):
        encode_foreign_text(object(), "x")
