"""Contract: one function says how a query becomes model input; what it encodes is the prompt, with codes to follow."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.errors import ArtifactError, TokenizationError
from toolscaler.tokenization import ToolscalerTokenizer

NAMES = ["bytelevel", "metaspace", "metaspace-always", "wordpiece", "chat"]


def wrap(base, **options) -> ToolscalerTokenizer:
    return ToolscalerTokenizer.from_tokenizer(base, tool_ids=["t"], codes=[[1, 2]], code_sizes=(3, 3), **options)


@pytest.fixture(scope="module")
def wrapped(bases) -> dict[str, ToolscalerTokenizer]:
    return {name: wrap(base) for name, base in bases.items()}


def test_default_prompts(wrapped):
    assert wrapped["bytelevel"].format_retrieval_prompt("How far?") == "How far?\n"
    assert wrapped["bytelevel"].retrieval_template == "{query}\n"
    assert wrapped["chat"].retrieval_template is None
    assert wrapped["chat"].format_retrieval_prompt("How far?") == "<s>[user] How far?\n[assistant] "


def test_a_template_wins_over_the_chat_template(bases):
    tokenizer = wrap(bases["chat"], retrieval_template="Task {0} %s {{x}}: {query} ->")
    assert tokenizer.format_retrieval_prompt("{query} {1} %d") == "Task {0} %s {{x}}: {query} {1} %d ->"


@pytest.mark.parametrize("template", ["", "query", "{query} {query}", "{Query}", 3])
def test_bad_templates_are_refused(bases, template):
    with pytest.raises(TokenizationError, match="exactly once"):
        wrap(bases["bytelevel"], retrieval_template=template)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(query=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30))
def test_encoded_prompt_then_codes_is_the_encoded_text(wrapped, name, query):
    """What training sees as one text and what decoding continues from are the same ids."""
    tokenizer = wrapped[name]
    prompt, codes = tokenizer.encode_retrieval_prompt(query), tokenizer.encode_tool("t")
    text = tokenizer.format_retrieval_prompt(query) + tokenizer.tool_code_text("t")
    whole = tokenizer(text, add_special_tokens=name != "chat")["input_ids"]
    assert prompt + codes == whole[: len(prompt) + len(codes)]
    assert whole[len(prompt) + len(codes) :] in ([], [tokenizer.eos_token_id])
    assert not [k for k in prompt if k >= tokenizer.first_code_id]


def test_end_tokens_of_the_base_are_left_out_and_others_kept(wrapped):
    spm = wrapped["metaspace"]
    assert spm("Convert\n")["input_ids"][-1] == spm.eos_token_id  # premise: the base adds one
    ids = spm.encode_retrieval_prompt("Convert")
    assert ids[0] == spm.bos_token_id
    assert ids == spm("Convert\n")["input_ids"][:-1]
    bert = wrapped["wordpiece"]
    assert bert.encode_retrieval_prompt("Convert") == bert("Convert")["input_ids"][:-1]
    # An end token that the user wrote is text, not the base's addition.
    assert wrap_ends_with_eos(spm)


def wrap_ends_with_eos(tokenizer) -> bool:
    return tokenizer.encode_retrieval_prompt("a </s>")[-2] == tokenizer.eos_token_id


def test_chat_prompts_get_no_second_start_token(bases):
    tokenizer = wrap(bases["chat"])
    assert tokenizer.encode_retrieval_prompt("x").count(tokenizer.bos_token_id) == 1


def test_codes_in_a_query_lose_their_meaning(wrapped):
    for name in NAMES:
        prompt = wrapped[name].format_retrieval_prompt("what is <a_1><b_2>?")
        assert "< a_1>< b_2>" in prompt
        assert not [k for k in wrapped[name](prompt)["input_ids"] if k >= wrapped[name].first_code_id]


def test_long_queries_are_not_cut(wrapped):
    tokenizer = wrapped["bytelevel"]
    tokenizer("x", truncation=True, max_length=4)
    assert len(tokenizer.encode_retrieval_prompt("word " * 700)) > tokenizer.model_max_length


def test_only_text_is_a_query(wrapped):
    with pytest.raises(TokenizationError, match="expected text, got list"):
        wrapped["bytelevel"].format_retrieval_prompt(["a", "b"])


def test_the_template_travels_with_the_files(bases, tmp_path):
    tokenizer = wrap(bases["chat"], retrieval_template="Q: {query}\nA:")
    tokenizer.save_pretrained(tmp_path)
    loaded = ToolscalerTokenizer.from_pretrained(tmp_path)
    assert loaded.format_retrieval_prompt("é?") == "Q: é?\nA:"
    index = tmp_path / "tool_index.json"
    index.write_text(index.read_text(encoding="utf-8").replace("{query}", ""), encoding="utf-8")
    with pytest.raises(ArtifactError, match="exactly once"):
        ToolscalerTokenizer.from_pretrained(tmp_path)


def test_a_lost_chat_template_is_no_silent_change_of_prompt(bases):
    tokenizer = wrap(bases["chat"])
    tokenizer.chat_template = None
    with pytest.raises(TokenizationError, match="chat template"):
        tokenizer.format_retrieval_prompt("x")
