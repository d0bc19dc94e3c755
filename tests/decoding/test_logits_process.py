"""Contract: the mask is the one of transformers' own class with a naive callback; what stays keeps every bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PrefixConstrainedLogitsProcessor as Reference

from toolscaler import CodeTrie, PrefixConstrainedLogitsProcessor, ToolscalerTokenizer
from toolscaler.errors import ConfigError, DecodingError

VOCABULARY, FIRST, EOS, PAD = 24, 12, 2, 0  # codes are the ids from FIRST


def allowed_after(sequences, eos, taken) -> list[int]:
    """Say by brute force what may follow the tokens that were generated so far."""
    taken = [int(token) for token in taken]
    following = {row[len(taken)] for row in sequences if len(row) > len(taken) and row[: len(taken)] == taken}
    if taken in sequences or not following:
        following.add(eos)
    return sorted(following)


def expected_mask(sequences, ids, scores, start: int) -> torch.Tensor:
    return Reference(lambda _, row: allowed_after(sequences, EOS, row[start:].tolist()), num_beams=1)(ids, scores)


def assert_masked(masked: torch.Tensor, scores: torch.Tensor, expected: torch.Tensor) -> None:
    stays = masked != -torch.inf
    assert torch.equal(stays, expected != -torch.inf)
    assert torch.equal(masked[stays], scores[stays])  # bit-identical
    assert stays.any(1).all()
    assert (masked.dtype, masked.shape) == (scores.dtype, scores.shape)


code_sequences = st.lists(st.lists(st.integers(FIRST, VOCABULARY - 1), min_size=1, max_size=4), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(code_sequences, st.data())
def test_equals_transformers_at_any_state(sequences, data):
    """Rows inside, after and past a sequence, and off the trie, behind any prompt, of one known length."""
    width, steps = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 6))
    rows = []
    for _ in range(data.draw(st.integers(1, 6))):
        prompt = data.draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=width, max_size=width))
        begun = data.draw(st.sampled_from(sequences)) + [EOS] * data.draw(st.integers(0, 2))
        other = data.draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=steps, max_size=steps))
        rows.append([*prompt, *(begun[:steps] + other[len(begun) :])[:steps]])
    ids = torch.tensor(rows, dtype=torch.long).reshape(len(rows), -1)
    scores = torch.randn(len(rows), VOCABULARY, generator=torch.Generator().manual_seed(steps))
    before = scores.clone()
    processor = PrefixConstrainedLogitsProcessor(CodeTrie.from_token_sequences(sequences), EOS, prompt_length=width)
    assert_masked(processor(ids, scores), scores, expected_mask(sequences, ids, scores, width))
    assert torch.equal(scores, before)  # the caller's scores are its own


@settings(max_examples=150, deadline=None)
@given(code_sequences, st.data())
def test_equals_transformers_without_prompt_length(sequences, data):
    """Behind a prompt whose last token is no code, of whatever length, the state is read off the tail."""
    step = data.draw(st.integers(0, 4))
    rows, starts = [], []
    for _ in range(data.draw(st.integers(1, 6))):
        begun = data.draw(st.sampled_from([row for row in sequences if len(row) >= step] or [[]]))
        # Whole sequences and the end token inside the prompt mean nothing, as long as a plain token closes it.
        inside = data.draw(st.lists(st.sampled_from([PAD, EOS, 5, *sequences[0]]), min_size=6, max_size=6))
        close = data.draw(st.integers(3, FIRST - 1))
        rows.append([*inside, close, *begun[:step]])
        starts.append(7)
    width = min(map(len, rows))
    ids = torch.tensor([row[len(row) - width :] for row in rows])
    starts = [start - (len(row) - width) for start, row in zip(starts, rows, strict=True)]
    scores = torch.randn(len(rows), VOCABULARY, generator=torch.Generator().manual_seed(step))
    masked = PrefixConstrainedLogitsProcessor(CodeTrie.from_token_sequences(sequences), EOS)(ids, scores)
    for row, start in enumerate(starts):
        expected = expected_mask(sequences, ids[row : row + 1], scores[row : row + 1], start)
        assert_masked(masked[row : row + 1], scores[row : row + 1], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_scores_that_stay_keep_every_bit(dtype):
    trie = CodeTrie.from_token_sequences([[12, 15], [12, 16], [13, 17]])
    ids = torch.tensor([[5, 5], [5, 12], [12, 15], [15, EOS]])
    scores = torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(0)).to(dtype)
    masked = PrefixConstrainedLogitsProcessor(trie, EOS)(ids, scores)
    assert masked.dtype == dtype
    for row, stays in enumerate([[12, 13], [15, 16], [EOS], [12, 13]]):  # 15, EOS: no whole sequence before the end
        assert torch.nonzero(masked[row] != -torch.inf).flatten().tolist() == stays
        assert torch.equal(masked[row, stays], scores[row, stays])


def test_a_row_that_is_over_keeps_the_end_token_only():
    trie = CodeTrie.from_token_sequences([[12, 15], [12]])
    scores = torch.zeros(4, VOCABULARY)
    ids = torch.tensor([[5, 12, 15], [12, 15, EOS], [5, 12, EOS], [5, 5, 12]])
    masked = PrefixConstrainedLogitsProcessor(trie, EOS)(ids, scores)
    assert [torch.nonzero(row == 0).flatten().tolist() for row in masked] == [[EOS], [EOS], [EOS], [EOS, 15]]
    # Without an end token nothing is left for a whole sequence that begins no other.
    open_end = PrefixConstrainedLogitsProcessor(trie)(ids[:1], scores[:1])
    assert (open_end == -torch.inf).all()


def test_a_prompt_that_closes_with_the_end_token_is_not_over():
    """Chat templates may close so, and some models have one token for begin and end."""
    trie = CodeTrie.from_token_sequences([[12, 15]])
    scores = torch.zeros(3, VOCABULARY)
    masked = PrefixConstrainedLogitsProcessor(trie, EOS)(torch.tensor([[5, EOS], [EOS, EOS], [15, EOS]]), scores)
    assert [torch.nonzero(row == 0).flatten().tolist() for row in masked] == [[12]] * 3
    assert (PrefixConstrainedLogitsProcessor(trie, EOS)(torch.tensor([[EOS]]), scores[:1]) == 0).sum() == 1
    nothing_yet = torch.empty(3, 0, dtype=torch.long)  # what generate shows where it starts from inputs_embeds
    assert torch.equal(PrefixConstrainedLogitsProcessor(trie, EOS)(nothing_yet, scores), masked)


def test_codes_at_the_end_of_a_prompt_need_prompt_length():
    trie = CodeTrie.from_token_sequences([[12, 15], [13, 16]])
    ids, scores = torch.tensor([[5, 12, 15], [5, 5, 13]]), torch.zeros(2, VOCABULARY)

    def stay(processor):
        return [torch.nonzero(row == 0).flatten().tolist() for row in processor(ids, scores)]

    assert stay(PrefixConstrainedLogitsProcessor(trie, EOS)) == [[EOS], [16]]
    assert stay(PrefixConstrainedLogitsProcessor(trie, EOS, prompt_length=3)) == [[12, 13], [12, 13]]


def test_errors():
    trie = CodeTrie.from_token_sequences([[12, 15]])
    with pytest.raises(DecodingError, match="CodeTrie"):
        PrefixConstrainedLogitsProcessor([[12, 15]], EOS)
    for end in (15, [EOS], -1, True):
        with pytest.raises(DecodingError, match="end token"):
            PrefixConstrainedLogitsProcessor(trie, end)
    for length in (-1, 2.0, True):
        with pytest.raises(ConfigError, match="prompt_length"):
            PrefixConstrainedLogitsProcessor(trie, EOS, prompt_length=length)
    ids = torch.tensor([[5, 5]])
    with pytest.raises(DecodingError, match="at least 16 tokens, got 15"):
        PrefixConstrainedLogitsProcessor(trie, EOS)(ids, torch.zeros(1, 15))
    with pytest.raises(DecodingError, match="at least 31 tokens, got 24"):
        PrefixConstrainedLogitsProcessor(trie, 30)(ids, torch.zeros(1, VOCABULARY))
    with pytest.raises(DecodingError, match="prompt_length: expected at most 2, got 3"):
        PrefixConstrainedLogitsProcessor(trie, EOS, prompt_length=3)(ids, torch.zeros(1, VOCABULARY))


# Inside model.generate


QUERIES = ["How many feet are twelve metres?", "Count", "Which day of the week was <a_1><b_2><c_3>?"]


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer):
    return make_tokenizer(12)


@pytest.fixture(scope="module")
def model(make_model, tokenizer):
    return make_model(tokenizer)


def inputs_of(tokenizer, queries=QUERIES) -> dict[str, torch.Tensor]:
    prompts = [tokenizer.encode_retrieval_prompt(query) for query in queries]
    return dict(tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt"))


def own(tokenizer, **options) -> list:
    processor = PrefixConstrainedLogitsProcessor(
        CodeTrie.from_tokenizer(tokenizer), eos_token_id=tokenizer.eos_token_id, **options
    )
    return [processor]


def naive(tokenizer, width: int):
    sequences = tokenizer.tool_token_ids().tolist()
    return lambda _, row: allowed_after(sequences, tokenizer.eos_token_id, row[width:].tolist())


MODES = {
    "greedy": {},
    "beams": {"num_beams": 4, "length_penalty": 0.0},
    "beams, several": {"num_beams": 5, "num_return_sequences": 5},
    "sampling": {"do_sample": True, "top_k": 3, "temperature": 1.5},
    "sampling, several": {"do_sample": True, "num_return_sequences": 4},
    "sampled beams": {"do_sample": True, "num_beams": 3, "num_return_sequences": 2},
}


#: What sampling draws from: torch's own generator is everybody's, and a thread that another test left may draw too.
DICE = torch.Generator()


@pytest.fixture(autouse=True)
def own_dice(monkeypatch) -> None:
    draw = torch.multinomial
    monkeypatch.setattr(torch, "multinomial", lambda *given, **options: draw(*given, **options, generator=DICE))


@pytest.mark.parametrize("with_length", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_generate_equals_generate_with_a_callback(model, tokenizer, mode, with_length):
    """Left-padded prompts of different lengths, one with the text of codes in it."""
    inputs = inputs_of(tokenizer)
    width = inputs["input_ids"].shape[1]
    assert inputs["attention_mask"].sum(1).unique().numel() == 3  # premise: there is padding
    options = {"max_new_tokens": 8, "return_dict_in_generate": True, "output_scores": True, **MODES[mode]}
    DICE.manual_seed(1)
    expected = model.generate(**inputs, prefix_allowed_tokens_fn=naive(tokenizer, width), **options)
    DICE.manual_seed(1)
    processors = own(tokenizer, **({"prompt_length": width} if with_length else {}))
    got = model.generate(**inputs, logits_processor=processors, **options)
    assert torch.equal(got.sequences, expected.sequences)
    if "beams" in mode:
        assert torch.equal(got.sequences_scores, expected.sequences_scores)
    names = [tokenizer.decode_tool(row[width:]) for row in got.sequences]
    assert all(len(name) == 1 for name in names)


def test_one_object_serves_several_calls(model, tokenizer):
    processors = own(tokenizer)
    for queries in (QUERIES, QUERIES[:1], QUERIES[1:] * 2, ["Convert " * 40]):
        inputs = inputs_of(tokenizer, queries)
        width = inputs["input_ids"].shape[1]
        got = model.generate(**inputs, logits_processor=processors, max_new_tokens=6, num_beams=3)
        callback = naive(tokenizer, width)
        expected = model.generate(**inputs, prefix_allowed_tokens_fn=callback, max_new_tokens=6, num_beams=3)
        assert torch.equal(got, expected)


def test_a_head_wider_than_the_tokenizer(make_model, tokenizer):
    model = make_model(tokenizer, pad_to_multiple_of=128)
    assert model.lm_head.weight.shape[0] > len(tokenizer) + 10  # premise
    inputs = inputs_of(tokenizer)
    width = inputs["input_ids"].shape[1]
    got = model.generate(**inputs, logits_processor=own(tokenizer), max_new_tokens=6, num_beams=3)
    expected = model.generate(**inputs, prefix_allowed_tokens_fn=naive(tokenizer, width), max_new_tokens=6, num_beams=3)
    assert torch.equal(got, expected)


def test_a_model_without_code_rows_is_refused(make_tiny_model, make_tiny_tokenizer, tokenizer):
    model = make_tiny_model("llama", make_tiny_tokenizer())
    with pytest.raises(DecodingError, match="initialize_code_embeddings"):
        model.generate(**inputs_of(tokenizer), logits_processor=own(tokenizer), max_new_tokens=6)


def test_generate_from_embeddings(model, tokenizer):
    inputs = inputs_of(tokenizer)
    width = inputs["input_ids"].shape[1]
    expected = model.generate(**inputs, logits_processor=own(tokenizer), max_new_tokens=6)
    embedded = model.get_input_embeddings()(inputs["input_ids"])
    got = model.generate(
        inputs_embeds=embedded,
        attention_mask=inputs["attention_mask"],
        logits_processor=own(tokenizer),
        max_new_tokens=6,
    )
    assert torch.equal(got, expected[:, width:])


def test_raw_codes_at_the_end_of_a_prompt(model, tokenizer):
    """Only a prompt that nobody neutralised can end so; then prompt_length tells prompt and output apart."""
    prompt = torch.tensor([[*tokenizer.encode_retrieval_prompt("Count"), *tokenizer.encode_tool("tool_3")]])
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 6}
    width = prompt.shape[1]
    got = model.generate(prompt, logits_processor=own(tokenizer, prompt_length=width), **options)
    expected = model.generate(prompt, prefix_allowed_tokens_fn=naive(tokenizer, width), **options)
    assert torch.equal(got, expected)
    assert len(tokenizer.decode_tool(got[0, width:])) == 1
    closed = model.generate(prompt, logits_processor=own(tokenizer), **options)
    assert closed[0, width:].tolist() == [tokenizer.eos_token_id]


def test_without_an_end_token_the_codes_alone(model, tokenizer):
    processor = PrefixConstrainedLogitsProcessor(CodeTrie.from_tokenizer(tokenizer))
    inputs = inputs_of(tokenizer)
    width = inputs["input_ids"].shape[1]
    got = model.generate(**inputs, logits_processor=[processor], max_new_tokens=3, num_beams=4, num_return_sequences=4)
    found = [tokenizer.decode_tool(row[width:]) for row in got]
    assert all(len(names) == 1 for names in found)
    assert all(len({names[0] for names in found[start : start + 4]}) == 4 for start in (0, 4, 8))


def test_the_documented_snippet(model, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    inputs = inputs_of(tokenizer, QUERIES[:1])

    tokenizer = ToolscalerTokenizer.from_pretrained(tmp_path)
    processor = PrefixConstrainedLogitsProcessor(
        CodeTrie.from_tokenizer(tokenizer), eos_token_id=tokenizer.eos_token_id
    )
    found = model.generate(**inputs, logits_processor=[processor], num_beams=5, num_return_sequences=5)

    names = [tokenizer.decode_tool(row[inputs["input_ids"].shape[1] :]) for row in found]
    assert len({name for (name,) in names}) == 5


def test_fewer_tools_than_beams(model, tokenizer):
    """What transformers returns then, as the class documents: every tool once, and fillers far below -1e8."""
    trie = CodeTrie.from_tokenizer(tokenizer).subset(tools=["tool_1", "tool_4"])
    inputs = inputs_of(tokenizer, QUERIES[:1])
    width = inputs["input_ids"].shape[1]
    for length_penalty in (0.0, 1.0):
        found = model.generate(
            **inputs,
            logits_processor=[PrefixConstrainedLogitsProcessor(trie, tokenizer.eos_token_id)],
            num_beams=5,
            num_return_sequences=5,
            max_new_tokens=6,
            length_penalty=length_penalty,
            return_dict_in_generate=True,
            output_scores=True,
        )
        real = np.flatnonzero(found.sequences_scores.numpy() > -1e8)
        assert real.tolist() == [0, 1]  # best first
        assert {name for row in real for name in tokenizer.decode_tool(found.sequences[row, width:])} == {
            "tool_1",
            "tool_4",
        }


def scored(model, inputs, processors, **options):
    DICE.manual_seed(1)
    options = {"max_new_tokens": 8, "return_dict_in_generate": True, "output_scores": True, **options}
    return model.generate(**inputs, logits_processor=processors, **options)


def assert_same_output(got, expected):
    assert torch.equal(got.sequences, expected.sequences)
    assert len(got.scores) == len(expected.scores)
    assert all(torch.equal(one, other) for one, other in zip(got.scores, expected.scores, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_a_buffer_used_again_is_never_seen(model, tokenizer, mode):
    """With scores that sampling keeps as they are, with processors behind that write in place, twice over."""

    def writes_in_place(ids, scores):
        return scores.div_(1.5)

    inputs = inputs_of(tokenizer)
    for behind in ([], [writes_in_place]):
        expected = scored(model, inputs, own(tokenizer) + behind, **MODES[mode])
        processors = own(tokenizer, reuse_buffer=True) + behind
        kept = [scored(model, inputs, processors, **MODES[mode]) for _ in range(2)]
        model.generate(**inputs_of(tokenizer, QUERIES[:1]), logits_processor=processors, max_new_tokens=6)
        kept.append(scored(model, inputs, processors, **MODES[mode]))
        for got in kept:
            assert_same_output(got, expected)


def test_two_calls_at_once_share_no_buffer(model, tokenizer):
    processors = own(tokenizer, reuse_buffer=True)
    jobs = [(queries, mode) for queries in (QUERIES, QUERIES[1:], QUERIES[:1]) for mode in ("greedy", "beams")]
    expected = [scored(model, inputs_of(tokenizer, queries), own(tokenizer), **MODES[mode]) for queries, mode in jobs]
    with ThreadPoolExecutor(3) as pool:
        inputs = [inputs_of(tokenizer, queries) for queries, _ in jobs]
        got = pool.map(lambda k: scored(model, inputs[k % 6], processors, **MODES[jobs[k % 6][1]]), range(18))
        for number, one in enumerate(got):
            assert_same_output(one, expected[number % 6])


@pytest.mark.parametrize("mode", ["greedy", "beams", "sampling, several"])
def test_each_prompt_follows_its_own_list(model, tokenizer, mode):
    """As a callback that knows the prompt; in float64, so that rounding moves no draw to another token."""
    model = deepcopy(model).double()
    trie = CodeTrie.from_tokenizer(tokenizer)
    views = [trie.subset(tools=names) for names in (["tool_1", "tool_5", "tool_7"], ["tool_2"], ["tool_0", "tool_3"])]
    inputs = inputs_of(tokenizer)
    width = inputs["input_ids"].shape[1]
    lists = [view.sequences.tolist() for view in views]

    # What number a callback is told where a prompt has several rows depends on the version of transformers.
    prompts = inputs["input_ids"].tolist()

    def callback(_, row):
        return allowed_after(lists[prompts.index(row[:width].tolist())], tokenizer.eos_token_id, row[width:].tolist())

    options = {"max_new_tokens": 8, **MODES[mode]}
    DICE.manual_seed(1)
    expected = model.generate(**inputs, prefix_allowed_tokens_fn=callback, **options)
    DICE.manual_seed(1)
    processor = PrefixConstrainedLogitsProcessor(views, tokenizer.eos_token_id)
    got = model.generate(**inputs, logits_processor=[processor], **options)
    assert torch.equal(got, expected)
    names = [tokenizer.decode_tool(row[width:])[0] for row in got]
    each = len(names) // 3
    assert all(name in views[number // each].tool_ids for number, name in enumerate(names))


@pytest.mark.parametrize("numpy", [True, False], ids=["numpy", "torch"])
@pytest.mark.parametrize("mode", ["greedy", "beams"])
def test_with_a_static_cache(model, tokenizer, mode, numpy):
    inputs = inputs_of(tokenizer)
    processors = own(tokenizer)
    processors[0]._numpy = numpy
    options = {"max_new_tokens": 6, **MODES[mode]}
    got = model.generate(**inputs, logits_processor=processors, cache_implementation="static", **options)
    callback = naive(tokenizer, inputs["input_ids"].shape[1])
    assert torch.equal(got, model.generate(**inputs, prefix_allowed_tokens_fn=callback, **options))


def test_as_many_beams_as_tools_find_what_enumeration_finds(model, tokenizer):
    """Every tool once, in the order of its log-probability from a plain forward pass, end token included."""
    prompt = torch.tensor([tokenizer.encode_retrieval_prompt(QUERIES[0])])
    tools = torch.from_numpy(tokenizer.tool_token_ids())
    codes = torch.nn.functional.pad(tools, (0, 1), value=tokenizer.eos_token_id)
    with torch.no_grad():
        whole = torch.cat([prompt.expand(len(codes), -1), codes], 1)
        logits = model(whole).logits[:, prompt.shape[1] - 1 : -1].log_softmax(-1)
    expected = logits.gather(2, codes[:, :, None])[:, :, 0].sum(1)
    found = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        logits_processor=own(tokenizer),
        num_beams=len(tools),
        num_return_sequences=len(tools),
        max_new_tokens=6,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    order = expected.argsort(descending=True)
    assert [tokenizer.decode_tool(row[prompt.shape[1] :]) for row in found.sequences] == [
        [tokenizer.tool_names[number]] for number in order
    ]
    assert torch.allclose(found.sequences_scores, expected[order], atol=2e-5)
