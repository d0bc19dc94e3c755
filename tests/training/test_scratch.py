"""A base made from scratch: its tokenizer, heads that copy from the first step, practice in copying."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from toolscaler.errors import ConfigError, TrainingError
from toolscaler.training.induction import (
    INDUCTION_HEAD_DIM,
    INDUCTION_ROPE_THETA,
    protect_induction_heads,
    write_induction_heads,
)
from toolscaler.training.scratch import ScratchConfig, make_scratch_base, train_tokenizer

TEXTS = [
    "Convert a length from feet to metres.",
    'Sort the rows of a table by the column "price".',
    "Which weekday is 2024-02-29? How many days are left?",
    "red blue green quiet golden copper window garden bridge",
] * 3


def _llama(seed: int = 0, **changes: object) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    values: dict[str, object] = {
        "vocab_size": 1000,
        "hidden_size": 128,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": INDUCTION_HEAD_DIM,
        "attention_bias": True,
        "initializer_range": 128**-0.5,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": INDUCTION_ROPE_THETA},
    }
    return LlamaForCausalLM(LlamaConfig(**{**values, **changes})).eval()


def _repeat_accuracy(model: LlamaForCausalLM, seed: int = 0) -> float:
    """Share of random tokens, said a second time, that the model foretells."""
    first = torch.randint(3, 1000, (6, 60), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        said = model(input_ids=torch.cat([first, first], 1)).logits[:, 60:-1].argmax(-1)
    return float((said == first[:, 1:]).float().mean())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_written_heads_repeat_random_tokens_without_training(seed: int) -> None:
    model = _llama(seed, pad_token_id=0, bos_token_id=1)
    assert _repeat_accuracy(model, seed) < 0.05
    write_induction_heads(model, seed)
    assert _repeat_accuracy(model, seed) > 0.9
    assert all(bool(value.isfinite().all()) for value in model.parameters())


def test_two_tokens_of_context_decide() -> None:
    """``a b X`` and ``c b Y`` stand before: after ``c b`` comes Y, which one token of context could not tell."""
    model = _llama()
    write_induction_heads(model)
    drawn = torch.randperm(990, generator=torch.Generator().manual_seed(5))[:400].view(40, 10) + 3
    right = 0
    for row in drawn.tolist():
        a, b, c, first, second = row[:5]
        context = [*row[5:], a, b, first, *row[7:9], c, b, second, *row[5:8]]
        with torch.no_grad():
            tails = torch.tensor([[*context, a, b], [*context, c, b]])
            said = model(input_ids=tails).logits[:, -1].argmax(-1).tolist()
        right += (said[0] == first) + (said[1] == second)
    assert right >= 60  # of 80; one token of context gives 40 at most on average


def test_the_same_seed_writes_the_same_heads_and_every_weight_can_learn() -> None:
    one, two, other = _llama(), _llama(), _llama()
    write_induction_heads(one, 3)
    write_induction_heads(two, 3)
    write_induction_heads(other, 4)
    for (name, first), second in zip(one.named_parameters(), two.parameters(), strict=True):
        assert torch.equal(first, second), name
        assert first.requires_grad, name
    assert not torch.equal(one.model.layers[1].self_attn.q_proj.weight, other.model.layers[1].self_attn.q_proj.weight)


def test_protected_heads_stay_as_they_were_written_and_all_else_learns() -> None:
    model = _llama(num_attention_heads=4, num_key_value_heads=4)
    write_induction_heads(model)
    protect_induction_heads(model)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(2):  # what writes to the stream starts at zero: what stands before it learns from the second step on
        ids = torch.randint(3, 1000, (4, 20))
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    width, written = INDUCTION_HEAD_DIM, {0: 2, 1: 1}
    for name, value in model.named_parameters():
        moved = (value.detach() - before[name]) != 0
        layer = int(name.split(".")[2]) if ".layers." in name else None
        if "self_attn" in name and "o_proj.bias" not in name:
            held = written[layer] * width
            part, rest = (moved[:, :held], moved[:, held:]) if "o_proj" in name else (moved[:held], moved[held:])
            assert not part.any(), name
            assert rest.any(), name
        elif "input_layernorm" in name:
            assert not moved.any(), name
        else:
            assert moved.any(), name


@pytest.mark.parametrize(
    "changes",
    [{"attention_bias": False}, {"num_hidden_layers": 1}, {"num_attention_heads": 1, "num_key_value_heads": 1}],
    ids=["no-biases", "one-layer", "one-head"],
)
def test_a_model_without_room_for_the_heads_is_an_error(changes: dict[str, object]) -> None:
    model = _llama(**changes)
    with pytest.raises(ConfigError, match="induction_heads"):
        write_induction_heads(model)


def test_split_spaces_gives_a_word_the_same_tokens_everywhere() -> None:
    tokenizer = train_tokenizer(TEXTS, 400, lowercase=False, split_spaces=True)
    joined = train_tokenizer(TEXTS, 400, lowercase=False)
    for word in ("window", "Convert", "zebra", "39.62"):
        places = [word, f" {word}", f'{{"{word}": 1}}', f"a,{word}"]
        ids = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(word))
        for text in places:
            found = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert any(found[start : start + len(ids)] == ids for start in range(len(found)))
    quoted, spaced = joined.tokenize('"window'), joined.tokenize("a window")
    assert quoted[-1] != spaced[-1]


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_split_spaces_loses_no_text(text: str) -> None:
    tokenizer = train_tokenizer(TEXTS, 400, lowercase=False, split_spaces=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not re.search(r"<(pad|s|/s)>", text):
        assert tokenizer.decode(ids) == text


def test_a_base_with_the_heads_goes_on_with_what_stands_before(tmp_path) -> None:
    sizes = {"vocab_size": 400, "num_train_epochs": 0, "lowercase": False, "split_spaces": True}
    texts = 'golden copper 39.62 bridge; {"value": "golden copper 39.'
    found = {}
    for heads in (False, True):
        model, tokenizer = make_scratch_base(TEXTS, tmp_path, ScratchConfig(induction_heads=heads, **sizes))
        ids = tokenizer(texts, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            found[heads] = tokenizer.decode(model.eval()(input_ids=ids).logits[0, -1].argmax())
    assert found[True] == "6"
    assert found[False] != "6"


def test_wrong_settings_and_no_texts(tmp_path) -> None:
    with pytest.raises(ConfigError, match="induction_heads"):
        make_scratch_base(TEXTS, tmp_path, ScratchConfig(induction_heads=True, num_hidden_layers=1))
    with pytest.raises(TrainingError, match="texts"):
        make_scratch_base([" "], tmp_path)
