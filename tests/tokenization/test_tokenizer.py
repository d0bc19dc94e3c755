"""Contract: the wrapped tokenizer encodes ordinary text as its base does, and each code as one token of its own."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from toolscaler.errors import TokenizationError, UnknownToolError
from toolscaler.tokenization import ToolIndex, ToolscalerTokenizer

SIZES = (4, 4, 3)
TOOLS = {"units/convert": (0, 1, 2), "dates/weekday": (0, 1, 1), "text/count words": (3, 0, 0)}
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)


def wrap(base, tools=TOOLS, **options) -> ToolscalerTokenizer:
    options.setdefault("code_sizes", SIZES)
    return ToolscalerTokenizer.from_tokenizer(base, tool_ids=list(tools), codes=list(tools.values()) or None, **options)


@pytest.fixture(scope="module")
def wrapped(bases) -> dict[str, ToolscalerTokenizer]:
    return {name: wrap(base) for name, base in bases.items()}


def expected_id(tokenizer, position, code) -> int:
    return tokenizer.first_code_id + sum(SIZES[:position]) + code


def test_code_ids_are_contiguous_at_the_end(base):
    tokenizer = wrap(base)
    assert tokenizer.first_code_id == len(base)
    assert len(tokenizer) == len(base) + 11 == tokenizer.required_vocab_size
    assert tokenizer.num_code_tokens == 11
    assert (tokenizer.code_sizes, tokenizer.code_length) == (SIZES, 3)
    for position, letter in enumerate("abc"):
        for code in range(SIZES[position]):
            assert tokenizer.convert_tokens_to_ids(f"<{letter}_{code}>") == expected_id(tokenizer, position, code)


@pytest.mark.parametrize("name", ["bytelevel", "metaspace", "metaspace-always", "wordpiece"])
@settings(max_examples=60, deadline=None)
@given(text=TEXT)
def test_ordinary_text_has_the_ids_of_the_base(bases, wrapped, name, text):
    assert wrapped[name](text)["input_ids"] == bases[name](text)["input_ids"]
    assert wrapped[name].encode(text, add_special_tokens=False) == bases[name].encode(text, add_special_tokens=False)


@pytest.mark.parametrize("name", ["bytelevel", "metaspace", "metaspace-always", "wordpiece"])
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_each_code_is_one_token_next_to_any_neighbour(wrapped, name, data):
    tokenizer = wrapped[name]
    neighbour = st.one_of(TEXT, st.text("aZ09<>_ \n.,a_1", max_size=4), st.just(""))
    positions = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=6))
    pairs = [(position, data.draw(st.integers(0, SIZES[position] - 1))) for position in positions]
    text = data.draw(neighbour)
    for position, code in pairs:
        text += f"<{'abc'[position]}_{code}>{data.draw(neighbour)}"
    found = [k for k in tokenizer(text)["input_ids"] if k >= tokenizer.first_code_id]
    # Neighbours may themselves hold or complete a code; those in the text are what counts.
    literal = [expected_id(tokenizer, *pair) for pair in _codes_by_scanning(text)]
    assert found == literal
    assert len(found) >= len(pairs)


def _codes_by_scanning(text):
    """Slow twin: try every code at every place."""
    found, start = [], 0
    while start < len(text):
        here = [
            (position, code)
            for position, letter in enumerate("abc")
            for code in range(SIZES[position])
            if text.startswith(f"<{letter}_{code}>", start)
        ]
        found += here
        start += len("<a_0>") if here else 1
    return found


def test_decoding_keeps_codes(base):
    tokenizer = wrap(base)
    ids = [*tokenizer("Convert 12")["input_ids"], *tokenizer.encode_tool("text/count words"), tokenizer.eos_token_id]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text.replace(" ", "").endswith("<a_3><b_0><c_0>")
    assert tokenizer.eos_token not in text
    assert tokenizer.decode_tool(text) == ["text/count words"]
    codes = tokenizer.decode(tokenizer.encode_tool("units/convert"), skip_special_tokens=True)
    assert [k for k in tokenizer(codes)["input_ids"] if k >= len(base)] == tokenizer.encode_tool("units/convert")


def test_encode_and_decode_tools(base):
    tokenizer = wrap(base)
    table = tokenizer.tool_token_ids()
    assert table.dtype == np.int64
    assert tokenizer.tool_names == list(TOOLS)
    for row, (name, codes) in zip(table, TOOLS.items(), strict=True):
        expected = [expected_id(tokenizer, position, code) for position, code in enumerate(codes)]
        assert row.tolist() == tokenizer.encode_tool(name) == expected
        assert all(type(k) is int for k in tokenizer.encode_tool(name))
        text = tokenizer.tool_code_text(name)
        assert text == f"<a_{codes[0]}><b_{codes[1]}><c_{codes[2]}>"
        padded = [tokenizer.pad_token_id, *expected, tokenizer.eos_token_id]
        for output in (text, f"use {text}!", expected, padded, row, torch.tensor(padded)):
            assert tokenizer.decode_tool(output) == [name]
    with pytest.raises(UnknownToolError, match="units/convert"):
        tokenizer.encode_tool("units/convrt")


@pytest.mark.parametrize(
    "text", ["", "none", "<a_0><b_1>", "<b_1><a_0><c_2>", "<a_1><b_1><c_1>", "<a_0><b_1><c_2><a_0>"]
)
def test_what_names_no_tool_decodes_to_nothing(wrapped, text):
    tokenizer = wrapped["bytelevel"]
    assert tokenizer.decode_tool(text) == []
    assert tokenizer.decode_tool(tokenizer(text)["input_ids"]) == []


def test_batches_of_ids_are_refused(wrapped):
    with pytest.raises(TokenizationError, match="one sequence"):
        wrapped["bytelevel"].decode_tool([[1, 2], [3, 4]])
    with pytest.raises(TokenizationError, match="one sequence"):
        wrapped["bytelevel"].decode_tool([1.5])


def test_shared_codes_need_the_policy(bases):
    tools = {**TOOLS, "units/twin": (0, 1, 2)}
    with pytest.raises(TokenizationError, match="share"):
        wrap(bases["bytelevel"], tools)
    tokenizer = wrap(bases["bytelevel"], tools, collisions="share")
    assert tokenizer.decode_tool("<a_0><b_1><c_2>") == ["units/convert", "units/twin"]


def test_tools_come_and_go_at_once(bases):
    tokenizer = wrap(bases["bytelevel"], document_hashes={"dates/weekday": "h1"})
    before = tokenizer.tool_index
    codes = tokenizer.add_tools(["graphs/path"], codes=[[2, 2, 2]], document_hashes=["h2"])
    assert codes.tolist() == [[2, 2, 2]]
    assert tokenizer.tool_index is not before
    assert "graphs/path" not in before
    assert tokenizer.decode_tool("<a_2><b_2><c_2>") == ["graphs/path"]
    tokenizer.remove_tools(["units/convert"])
    assert tokenizer.decode_tool("<a_0><b_1><c_2>") == []
    tokenizer.rename_tools({"dates/weekday": "dates/day"})
    assert tokenizer.decode_tool("<a_0><b_1><c_1>") == ["dates/day"]
    assert tokenizer.tool_index.document_hash("dates/day") == "h1"
    assert tokenizer.tool_names == ["dates/day", "text/count words", "graphs/path"]
    with pytest.raises(UnknownToolError, match="text/count words"):
        tokenizer.remove_tools(["graphs/path", "text/countwords"])
    assert "graphs/path" in tokenizer.tool_index
    with pytest.raises(TokenizationError, match="exist"):
        tokenizer.add_tools(["graphs/path"], codes=[[1, 1, 1]])
    with pytest.raises(TokenizationError, match="either"):
        tokenizer.add_tools(["new"])
    with pytest.raises(TokenizationError, match="no codebook"):
        tokenizer.add_tools(["new"], embeddings=np.zeros((1, 1, 4), np.float32))


def test_another_assignment_needs_the_same_sizes(bases):
    tokenizer = wrap(bases["bytelevel"])
    tokenizer.replace_tool_index(ToolIndex(SIZES, ["only"], [[1, 1, 1]]))
    assert tokenizer.decode_tool("<a_1><b_1><c_1>") == ["only"]
    with pytest.raises(TokenizationError, match="from_tokenizer"):
        tokenizer.replace_tool_index(ToolIndex((4, 4), ["only"], [[1, 1]]))
    assert tokenizer.tool_names == ["only"]


def test_a_tokenizer_may_start_without_tools(bases):
    tokenizer = wrap(bases["bytelevel"], {})
    assert tokenizer.tool_token_ids().shape == (0, 3)
    tokenizer.add_tools(["first"], codes=[[0, 0, 0]])
    assert tokenizer.decode_tool("<a_0><b_0><c_0>") == ["first"]


def test_the_base_stays_as_it_was(bases):
    base = bases["bytelevel"]
    before = base.backend_tokenizer.to_str()
    wrap(base)
    assert base.backend_tokenizer.to_str() == before


def test_settings_of_the_base_are_taken_over(bases):
    base = bases["wordpiece"]
    tokenizer = wrap(base)
    assert tokenizer.model_max_length == 128
    assert tokenizer.mask_token == "[MASK]"
    assert sorted(tokenizer.all_special_ids) == sorted(base.all_special_ids)
    assert wrap(bases["metaspace"]).padding_side == "left"
    assert wrap(bases["chat"]).chat_template == bases["chat"].chat_template


def test_a_truncation_left_over_in_the_base_is_not_taken_over(make_tiny_tokenizer):
    base = make_tiny_tokenizer()
    base("one two three four", truncation=True, max_length=2, padding="max_length")
    tokenizer = wrap(base)
    assert "max_length" not in tokenizer.init_kwargs
    assert len(tokenizer("one two three four")["input_ids"]) > 2


def test_missing_end_and_padding_tokens(bases, new_metaspace, caplog):
    with caplog.at_level(logging.WARNING, logger="toolscaler"):
        bert_like = wrap(bases["wordpiece"])
    assert bert_like.eos_token == "[SEP]"
    assert "sep_token '[SEP]' is used" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="toolscaler"):
        unpadded = wrap(bases["metaspace"])
    assert unpadded.pad_token == unpadded.eos_token == "</s>"
    assert "eos_token '</s>' is used" in caplog.text
    endless = new_metaspace()
    endless.eos_token = None
    with pytest.raises(TokenizationError, match=r"no end-of-sequence token.*set base\.eos_token"):
        wrap(endless)


def test_a_base_with_code_tokens_is_refused(bases, make_tiny_tokenizer):
    with pytest.raises(TokenizationError, match="add_tools"):
        wrap(wrap(bases["bytelevel"]))
    base = make_tiny_tokenizer()
    base.add_tokens(["<b_3>"])
    with pytest.raises(TokenizationError, match="<b_3>"):
        wrap(base)


@pytest.mark.parametrize("text", ["x<", "|<a_", "[<a_0>]", "<a_1>>"])
def test_a_base_token_that_would_swallow_a_code_is_refused(make_tiny_tokenizer, text):
    base = make_tiny_tokenizer()
    base.add_tokens([AddedToken(text, normalized=False)])
    with pytest.raises(TokenizationError, match="overlaps"):
        wrap(base)


@pytest.mark.parametrize("text", ["<", "<a", ">x", "<x_0>", "<|im_end|>", "a_0>"])
def test_a_base_token_that_leaves_codes_alone_is_welcome(make_tiny_tokenizer, text):
    base = make_tiny_tokenizer()
    base.add_tokens([AddedToken(text, normalized=False)])
    tokenizer = wrap(base)
    ids = tokenizer(f"{text}<a_0>{text}<b_3><c_2>{text}", add_special_tokens=False)["input_ids"]
    assert [k for k in ids if k >= tokenizer.first_code_id] == [
        expected_id(tokenizer, 0, 0),
        expected_id(tokenizer, 1, 3),
        expected_id(tokenizer, 2, 2),
    ]


def test_only_fast_tokenizers_can_be_wrapped():
    for thing in ("not a tokenizer", object(), Tokenizer(models.BPE())):
        with pytest.raises(TokenizationError, match="fast tokenizer"):
            wrap(thing)


def _word_level(ids):
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend


def test_gaps_in_the_ids_of_the_base():
    # A gap inside the model's vocabulary: the next free id lies below the highest, which no block of rows can have.
    backend = _word_level({"<unk>": 0, "</s>": 1, "word": 50})
    with pytest.raises(TokenizationError, match="gaps"):
        wrap(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"))


def test_arguments_that_do_not_fit(bases):
    base = bases["bytelevel"]
    with pytest.raises(TokenizationError, match="code_sizes"):
        ToolscalerTokenizer.from_tokenizer(base, codes=[[0]], tool_ids=["x"])
    with pytest.raises(TokenizationError, match="tool_ids"):
        ToolscalerTokenizer.from_tokenizer(base, codes=[[0]], code_sizes=(2,))
    with pytest.raises(TokenizationError, match="expected 0 to 1"):
        ToolscalerTokenizer.from_tokenizer(base, codes=[[2]], tool_ids=["x"], code_sizes=(2,))
    with pytest.raises(TokenizationError, match="list of ids"):
        ToolscalerTokenizer.from_tokenizer(base, codes=[[1]], tool_ids="x", code_sizes=(2,))


def test_an_instance_without_codes_says_so(bases):
    tokenizer = ToolscalerTokenizer(
        tokenizer_object=bases["bytelevel"].backend_tokenizer, eos_token="</s>", pad_token="<pad>"
    )
    assert tokenizer("text")["input_ids"] == bases["bytelevel"]("text")["input_ids"]
    with pytest.raises(TokenizationError, match="from_tokenizer"):
        tokenizer.tool_names  # noqa: B018
