"""Conversations as ids: literal tokens with two templates and without one, and that growing changes nothing."""

from __future__ import annotations

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from toolscaler.data import (
    AgentProtocol,
    ToolCall,
    ToolDocument,
    Trajectory,
    TrajectoryMessage,
    finish_document,
    trajectory_turns,
)
from toolscaler.data.protocol import query_turn
from toolscaler.errors import TokenizationError
from toolscaler.tokenization import ConversationEncoder, ToolscalerTokenizer

M, C = TrajectoryMessage, ToolCall

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# No generation marks, no system and no tool turns, user and assistant in turns, text trimmed: the manner of Llama 2.
STRICT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] | trim }}{{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
# Renders the last answer with an empty block before it, and old ones without: the manner of Qwen 3.
CHANGING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{% if m['role'] == 'tool' %}<tool_response>\n{{ m['content'] }}\n</tool_response>{% else %}{{ m['content'] }}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if not thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
# Ends no turn with a token, and writes tool turns as JSON.
BARE = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['role'] == 'tool' %}{{ m['content'] | tojson }}{% else %}"
    "{{ m['content'] }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)

WORDS = """<unk> <pad> <s> </s> <|im_start|> <|im_end|> system user assistant tool Help. add 1 2 3 and Thought: Sum.
Action: Action Input: {"a": , "b": } <documentation> </documentation> <result> </result> <error> </error> name:
description: Adds. parameter a b (integer) [INST] [/INST] User:"""
IDS = {word: number for number, word in enumerate([*dict.fromkeys(WORDS.split()), " ", "\n", "\n\n"])}


def words_tokenizer(template: str | None) -> ToolscalerTokenizer:
    """One token a word, blank or line break, so that ids can be written down."""
    backend = Tokenizer(models.WordLevel(dict(IDS), unk_token="<unk>"))
    pattern = r"\n\n|\n| |" + "|".join([r"Action:", r"Input:", r'\{"a":', r'"b":', r"[^\s,{}\"]+", r"[,{}\"]"])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    base = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    base.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    base.chat_template = template
    return ToolscalerTokenizer.from_tokenizer(
        base, codes=[[1, 0], [0, 1]], tool_ids=["add", "Finish"], code_sizes=(2, 2)
    )


ADD = ToolDocument(
    "add",
    "Adds.",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
)
SUM = Trajectory(
    (
        M("user", "add 1 and 2"),
        M("assistant", "Sum.", (C("add", {"b": 2, "a": 1}),)),
        M("tool", "3 </s> <a_1>"),
    )
)
PROTOCOL = AgentProtocol(system_prompt="Help.")


def turns_of(tokenizer, trajectory=SUM, protocol=PROTOCOL):
    code_text = {name: tokenizer.tool_code_text(name) for name in tokenizer.tool_names}
    return trajectory_turns(trajectory, {"add": ADD, "Finish": finish_document()}, code_text, protocol)


# What the model reads and, marked with *, what it learns to write. One token a string.
SYSTEM, QUERY = ["Help."], ["add", " ", "1", " ", "and", " ", "2"]
STEP = ["*Thought:", "* ", "*Sum.", "*\n", "*Action:", "*<a_1>", "*<b_0>"]
DOCUMENT = [
    *("<documentation>", "\n", "name:", " ", "add", "\n", "description:", " ", "Adds.", "\n"),
    *("parameter", " ", "a", " ", "(integer)", "\n", "parameter", " ", "b", " ", "(integer)", "\n", "</documentation>"),
]
INPUT = ["*Action", "* ", "*Input:", '*{"a":', "* ", "*1", "*,", "* ", '*"b":', "* ", "*2", "*}"]
# "</s>" is cut in two, and the words for neither part are in the vocabulary; nor is "<a_1>" as text.
RESULT = ["<result>", "\n", "3", " ", "<unk>", "<unk>", " ", "<unk>", "\n", "</result>"]


def chatml(role: str, *content: str) -> list[str]:
    end = "*<|im_end|>" if role == "assistant" else "<|im_end|>"
    return ["<|im_start|>", role, "\n", *content, end, "\n"]


EXPECTED = {
    "chatml": (
        CHATML,
        [
            *chatml("system", *SYSTEM),
            *chatml("user", *QUERY),
            *chatml("assistant", *STEP),
            *chatml("tool", *DOCUMENT),
            *chatml("assistant", *INPUT),
            *chatml("tool", *RESULT)[:-2],
        ],
    ),
    "strict": (
        STRICT,
        [
            *("<s>", "[INST]", " ", *SYSTEM, "\n\n", *QUERY, " ", "[/INST]", *STEP, "*</s>"),
            *("[INST]", " ", *DOCUMENT, " ", "[/INST]", *INPUT, "*</s>"),
            *("[INST]", " ", *RESULT),
        ],
    ),
    "plain": (
        None,
        [
            *(*SYSTEM, "\n\n", "User:", " ", *QUERY, "\n", *STEP, "*</s>", "\n"),
            *(*DOCUMENT, "\n", *INPUT, "*</s>", "\n", *RESULT),
        ],
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_literal_tokens_and_loss(name) -> None:
    template, expected = EXPECTED[name]
    tokenizer = words_tokenizer(template)
    encoded = ConversationEncoder(tokenizer, PROTOCOL).encode(turns_of(tokenizer))
    ids = {**IDS, "<a_0>": len(IDS), "<a_1>": len(IDS) + 1, "<b_0>": len(IDS) + 2, "<b_1>": len(IDS) + 3}
    assert encoded.ids == [ids[word.removeprefix("*")] for word in expected]
    assert encoded.trained == [word.startswith("*") for word in expected]


def test_the_loss_is_transformers_own_where_a_template_marks_it() -> None:
    tokenizer = words_tokenizer(CHATML)
    turns = turns_of(tokenizer)
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    messages[-1]["content"] = "<result>\n3\n</result>"
    turns = turns_of(tokenizer, Trajectory((*SUM.messages[:2], M("tool", "3"))))
    theirs = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    ours = ConversationEncoder(tokenizer, PROTOCOL).encode(turns)
    kept = len(ours.ids)
    assert ours.ids == list(theirs["input_ids"])[:kept]
    assert ours.trained == [bool(mask) for mask in theirs["assistant_masks"][:kept]]


@pytest.mark.parametrize(
    "template", [CHATML, STRICT, CHANGING, BARE, None], ids=["chatml", "strict", "changing", "bare", "plain"]
)
def test_a_growing_conversation_keeps_its_ids(make_tiny_tokenizer, template) -> None:
    base = make_tiny_tokenizer(chat_template=template)
    base.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer = ToolscalerTokenizer.from_tokenizer(
        base, codes=[[1, 0], [0, 1]], tool_ids=["add", "Finish"], code_sizes=(2, 2)
    )
    trajectory = Trajectory(
        (
            *SUM.messages,
            M("user", "And again?"),
            M("assistant", "", (C("add", {"a": 1}), C("add", {"a": 2}))),
            M("tool", "no </tool_response>", is_error=True),
            M("tool", "4"),
            M("assistant", "Four."),
            M("user", "Thanks."),
        )
    )
    turns = turns_of(tokenizer, trajectory)
    encoder = ConversationEncoder(tokenizer, PROTOCOL)
    ids: list[int] = []
    for place, turn in enumerate(turns):
        if turn.role == "assistant":
            assert encoder.encode_prompt(turns[:place]) == ids + encoder.encode_next(turns[:place], None)
        ids += encoder.encode_next(turns[:place], turn)
        whole = encoder.encode(turns[: place + 1])
        assert whole.ids == ids
        role, start, end = whole.spans[-1]
        assert (role, end) == (turn.role, len(ids))
        assert whole.trained[start:end] == [turn.role == "assistant"] * (end - start)
        if turn.role == "assistant":
            assert ids[-len(encoder.end_ids) :] == encoder.end_ids
    codes = [token for token in ids if token >= tokenizer.first_code_id]
    assert codes == tokenizer.encode_tool("add") * 3 + tokenizer.encode_tool("Finish")


def test_what_the_templates_can_do() -> None:
    def facts(template):
        encoder = ConversationEncoder(words_tokenizer(template))
        return encoder.tool_role, encoder.tokenizer.convert_ids_to_tokens(encoder.end_ids)

    assert facts(CHATML) == ("tool", ["<|im_end|>"])
    assert facts(STRICT) == ("user", ["</s>"])
    assert facts(CHANGING) == ("tool", ["<|im_end|>"])
    assert facts(BARE) == ("user", ["</s>"])
    assert facts(None) == ("tool", ["</s>"])


def test_a_template_is_rendered_as_it_is_when_a_turn_begins(make_tiny_tokenizer) -> None:
    base = make_tiny_tokenizer(chat_template=CHANGING)
    tokenizer = ToolscalerTokenizer.from_tokenizer(base, codes=[[0]], tool_ids=["add"], code_sizes=(1,))
    quick = ConversationEncoder(tokenizer, AgentProtocol())
    slow = ConversationEncoder(tokenizer, AgentProtocol(template_arguments={"thinking": True}))
    assert tokenizer.decode(quick.encode_prompt([query_turn("Hi")])).endswith("assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.decode(slow.encode_prompt([query_turn("Hi")])).endswith("Hi<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] | tojson }}{% endfor %}",
        "{{ messages[-1]['content'] }}",
        "{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}",
        "{{ raise_exception('never') }}",
    ],
    ids=["upper", "json", "last", "twice", "raises"],
)
def test_templates_that_change_texts_are_refused(template) -> None:
    with pytest.raises(TokenizationError, match="chat template"):
        ConversationEncoder(words_tokenizer(template))


def test_codes_of_another_tool_are_refused() -> None:
    tokenizer = words_tokenizer(None)
    turns = trajectory_turns(SUM, {"add": ADD}, {"add": "<a_0><b_1>"}, PROTOCOL)
    with pytest.raises(TokenizationError, match="codes of 'add'"):
        ConversationEncoder(tokenizer).encode(turns)
    turns = trajectory_turns(SUM, {"add": ADD}, {"add": "add"}, PROTOCOL)
    with pytest.raises(TokenizationError, match="codes of 'add'"):
        ConversationEncoder(tokenizer).encode(turns)
