"""Contract: the engine gives, for every kind of model, the scores of plain forwards and the beams of a plain search."""

from __future__ import annotations

import logging
from functools import cache

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler import CodeTrie, GenerativeRetriever, PrefixConstrainedLogitsProcessor
from toolscaler.decoding import engine as engine_module
from toolscaler.decoding import model_adapter, search_plan
from toolscaler.decoding.engine import SearchEngine
from toolscaler.decoding.scoring import Found, ScoreRule
from toolscaler.decoding.self_check import capability_of

FIRST, SIZES, END, VOCABULARY = 40, (4, 3, 4), 2, 51
GROUPS = ((40, 44), (44, 47), (47, 51))
FULL, GROUP = ScoreRule(END, GROUPS), ScoreRule(None, GROUPS)
PROMPTS = [[5, 9, 17, 30, 31, 8, 21, 12, 3], [7, 22, 6], [5, 9, 11, 30, 31, 33, 21, 12, 3, 4, 4, 19, 25, 13, 16]]
TOLERANCE = 2e-5

_WIDE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": END,
    "pad_token_id": 0,
}
_GROUPED = {**_WIDE, "num_key_value_heads": 2}
_HEADS = {**_GROUPED, "head_dim": 8}
#: Name -> (config, does a prompt have to be read again for each beam?)
MODELS = {
    "llama": (lambda: hf.LlamaConfig(**_GROUPED), False),
    "qwen2": (lambda: hf.Qwen2Config(**_GROUPED), False),
    "qwen2, tied": (lambda: hf.Qwen2Config(**_GROUPED, tie_word_embeddings=True), False),
    "qwen3": (lambda: hf.Qwen3Config(**_HEADS), False),
    "mistral": (lambda: hf.MistralConfig(**_HEADS, sliding_window=None), False),
    "gemma": (lambda: hf.GemmaConfig(**_HEADS), False),
    "gemma2": (lambda: hf.Gemma2Config(**_HEADS, final_logit_softcapping=2.0), False),
    "phi3": (lambda: hf.Phi3Config(**_GROUPED), False),
    "gpt2": (
        lambda: hf.GPT2Config(vocab_size=VOCABULARY, n_positions=128, n_embd=32, n_layer=2, n_head=4, eos_token_id=END),
        False,
    ),
    "gpt_neox": (lambda: hf.GPTNeoXConfig(**_WIDE), False),
    "gpt_neo, window": (
        lambda: hf.GPTNeoConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=16,
            max_position_embeddings=128,
            eos_token_id=END,
        ),
        True,
    ),
    "opt": (
        lambda: hf.OPTConfig(
            **{k: v for k, v in _WIDE.items() if k != "intermediate_size"}, ffn_dim=64, word_embed_proj_dim=32
        ),
        False,
    ),
    "phi": (lambda: hf.PhiConfig(**_WIDE), False),
    "granite, scaled logits": (lambda: hf.GraniteConfig(**_GROUPED, logits_scaling=0.5), False),
    "bert": (lambda: hf.BertConfig(**_WIDE, is_decoder=True), False),
    "mistral, window": (lambda: hf.MistralConfig(**_HEADS, sliding_window=4), False),
    "phi3, window": (lambda: hf.Phi3Config(**_GROUPED, sliding_window=4), False),
    "gemma2, window": (lambda: hf.Gemma2Config(**_HEADS, sliding_window=4), False),
    "gemma3, window": (
        lambda: hf.Gemma3TextConfig(
            **_HEADS, sliding_window=4, layer_types=["sliding_attention", "full_attention"], rope_parameters=None
        ),
        False,
    ),
    "qwen2, window": (
        lambda: hf.Qwen2Config(**_GROUPED, use_sliding_window=True, sliding_window=4, max_window_layers=1),
        False,
    ),
    "bloom": (
        lambda: hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, pad_token_id=0),
        True,
    ),
    "mamba": (
        lambda: hf.MambaConfig(
            vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4, pad_token_id=0, eos_token_id=END
        ),
        True,
    ),
}


@cache
def model_of(name: str, *, untied: bool = False) -> hf.PreTrainedModel:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    config = MODELS[name][0]()
    if untied:
        config.tie_word_embeddings = False
    model = hf.BertLMHeadModel(config) if name == "bert" else hf.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # clearly different scores
        for key, weight in model.named_parameters():
            if weight.ndim == 2 and "mixer" not in key:
                weight.mul_(4)
    torch.set_rng_state(state)
    return model.eval()


def catalogue(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).choice(np.prod(SIZES), size=count, replace=False)
    return np.stack(np.unravel_index(rows, SIZES), 1) + np.array([start for start, _ in GROUPS])


@torch.no_grad()
def plain_score(model, prompt: list[int], sequence, rule: ScoreRule) -> float:
    """Score one sequence by one forward, without cache, mask or batch."""
    tokens = [int(token) for token in sequence if token >= 0]
    rows = model(torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0, len(prompt) - 1 :].double()
    if rule.full:
        return float(sum(row.log_softmax(0)[token] for row, token in zip(rows, [*tokens, END], strict=True)))
    parts = [row[start:stop].log_softmax(0) for row, (start, stop) in zip(rows[:-1], GROUPS, strict=False)]
    return float(sum(part[token - start] for part, token, (start, _) in zip(parts, tokens, GROUPS, strict=False)))


def by_tool(trie: CodeTrie, found: Found) -> dict[int, float]:
    return {
        int(tool): float(score)
        for score, node in zip(found.scores, found.nodes, strict=True)
        for tool in trie.tools_at(int(node))
    }


@torch.no_grad()
def search(model, trie, beams, rule, prompts=PROMPTS, **options) -> list[Found]:
    tries = trie if isinstance(trie, list) else [trie] * len(prompts)
    return SearchEngine(model).search(prompts, tries, beams, rule, **options)


# Every kind of model


@pytest.mark.parametrize("rule", [FULL, GROUP], ids=["full", "group"])
@pytest.mark.parametrize("name", list(MODELS))
def test_scores_equal_plain_forwards(name, rule):
    model = model_of(name)
    with torch.no_grad():
        assert capability_of(model, 60).tree is not MODELS[name][1]
    sequences = catalogue(20)
    trie = CodeTrie(sequences)
    expected = np.array([[plain_score(model, prompt, row, rule) for row in sequences] for prompt in PROMPTS])
    assert np.ptp(expected, axis=1).min() > 0.1  # premise: tools differ
    for found, row in zip(search(model, trie, 20, rule), expected, strict=True):
        scores = by_tool(trie, found)
        assert sorted(scores) == list(range(20))
        assert [scores[tool] for tool in range(20)] == pytest.approx(row, abs=TOLERANCE)
        assert found.bound == -np.inf
    with torch.no_grad():
        got, failures = SearchEngine(model).score(PROMPTS, sequences, rule)
    assert failures == {}
    np.testing.assert_allclose(got, expected, atol=TOLERANCE)


def test_what_is_found_out_about_models():
    with torch.no_grad():
        found = {name: capability_of(model_of(name), 60) for name in MODELS}
    assert all(found[name].sliced for name in ("llama", "gpt2", "gemma2", "qwen2, tied", "opt", "phi"))
    assert not found["bert"].hidden  # its head transforms the states first
    assert not found["granite, scaled logits"].hidden
    assert found["gemma3, window"].by_type
    assert found["gemma2, window"].by_type
    assert not found["mistral, window"].by_type
    assert "plain forwards" in found["gpt_neo, window"].reason
    with torch.no_grad():
        assert capability_of(model_of("gpt_neo, window"), 16).tree is False  # the check itself needs more columns


def test_a_fallback_is_said_once(caplog):
    model = hf.AutoModelForCausalLM.from_config(MODELS["bloom"][0]()).eval()
    with caplog.at_level(logging.WARNING, logger="toolscaler"):
        for _ in range(2):
            search(model, CodeTrie(catalogue(5)), 5, FULL)
    assert caplog.text.count("using model.generate") == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_float32(dtype):
    model = hf.AutoModelForCausalLM.from_config(MODELS["qwen2"][0]()).eval()
    trie = CodeTrie(catalogue(20))
    exact = search(model, trie, 20, FULL)
    model = model.to(dtype)
    with torch.no_grad():
        assert capability_of(model, 60).tree
    for one, other in zip(exact, search(model, trie, 20, FULL), strict=True):
        expected, got = by_tool(trie, one), by_tool(trie, other)
        assert [got[tool] for tool in range(20)] == pytest.approx([expected[tool] for tool in range(20)], abs=0.1)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_kinds_of_attention(attention):
    model = hf.AutoModelForCausalLM.from_config(MODELS["llama"][0](), attn_implementation=attention).eval()
    sequences = catalogue(8)
    for found, prompt in zip(search(model, CodeTrie(sequences), 8, FULL), PROMPTS, strict=True):
        scores = by_tool(CodeTrie(sequences), found)
        expected = [plain_score(model, prompt, row, FULL) for row in sequences]
        assert [scores[tool] for tool in range(8)] == pytest.approx(expected, abs=TOLERANCE)


# Pruning


def slow_search(model, prompt, trie, beams, rule) -> tuple[dict[int, float], float]:
    """Search by transformers' rule, one prefix at a time; give the scores of final nodes, and the bound.

    The end of a sequence counts among the B best; besides, B prefixes go on.
    """

    @cache
    def log_probs(prefix):
        with torch.no_grad():
            return model(torch.tensor([[*prompt, *prefix]]), use_cache=False).logits[0, -1].double().log_softmax(0)

    def value(prefix, token):
        if rule.full:
            return float(log_probs(prefix)[token])
        start, stop = GROUPS[len(prefix)]
        return float(log_probs(prefix)[start:stop].log_softmax(0)[token - start])

    live, ended, bound = {(): 0.0}, {}, -np.inf
    while live:
        going, closing = {}, {}
        for prefix, total in live.items():
            node = trie.walk(np.array([prefix], dtype=np.int64).reshape(1, -1))
            if trie.is_end(node)[0] and rule.full:
                closing[prefix] = total + value(prefix, END)
            for token in trie.children(node)[1]:
                going[(*prefix, int(token))] = total + value(prefix, int(token))
        best = sorted([*going.values(), *closing.values()], reverse=True)[:beams]
        for prefix, total in closing.items():
            if total >= best[-1]:
                ended[prefix] = total
            else:
                bound = max(bound, total)
        kept = sorted(going, key=going.get, reverse=True)[:beams]
        bound = max([bound, *(going[prefix] for prefix in going if prefix not in kept)])
        live = {prefix: going[prefix] for prefix in kept}
        if not rule.full:
            ended |= {p: t for p, t in live.items() if trie.is_end(trie.walk(np.array([p])))[0]}
    nodes = {int(trie.walk(np.array([prefix]))[0]): total for prefix, total in ended.items()}
    return nodes, bound


@st.composite
def ragged_catalogues(draw):
    sequences = []
    for _ in range(draw(st.integers(1, 25))):
        codes = [draw(st.integers(start, stop - 1)) for start, stop in GROUPS]
        sequences.append(codes[: draw(st.integers(1, 3))])
    return sequences


@settings(max_examples=60, deadline=None)
@given(
    sequences=ragged_catalogues(),
    beams=st.integers(1, 12),
    rule=st.sampled_from([FULL, GROUP]),
    forward=st.sampled_from([-(10**6), 0, 32, 10**6]),
    prompts=st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=3),
)
def test_equals_a_plain_search(sequences, beams, rule, forward, prompts):
    """For sequences of any lengths, one beginning another, and whether a forward jumps or steps."""
    model = model_of("llama")
    trie = CodeTrie(sequences)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "CPU_COST", search_plan.CostModel(forward, 10**6))
        found = search(model, trie, beams, rule, prompts)
    for prompt, result in zip(prompts, found, strict=True):
        expected, bound = slow_search(model, prompt, trie, beams, rule)
        got = dict(zip(result.nodes.tolist(), result.scores.tolist(), strict=True))
        assert got == pytest.approx(expected, abs=TOLERANCE)
        assert result.bound == pytest.approx(bound, abs=TOLERANCE)


@pytest.mark.parametrize("beams", [2, 5, 8])
def test_equals_generate_for_sequences_of_any_length(beams):
    model = model_of("qwen2")
    rng = np.random.default_rng(3)
    sequences = [row[: rng.integers(1, 4)].tolist() for row in catalogue(30, seed=4)]
    trie = CodeTrie(sequences)
    for prompt, found in zip(PROMPTS, search(model, trie, beams, FULL), strict=True):
        outputs = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            logits_processor=[PrefixConstrainedLogitsProcessor(trie, END, prompt_length=len(prompt))],
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=4,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        expected = []
        for ids, score in zip(outputs.sequences[:, len(prompt) :].tolist(), outputs.sequences_scores, strict=True):
            if float(score) > -1e8 and END in ids:
                expected.append((int(trie.walk(np.array([ids[: ids.index(END)]]))[0]), float(score)))
        order = np.argsort(-found.scores, kind="stable")[: len(expected)]
        assert found.nodes[order].tolist() == [node for node, _ in expected]
        assert found.scores[order].tolist() == pytest.approx([score for _, score in expected], abs=TOLERANCE)


def test_jumps_and_steps_take_different_numbers_of_forwards(monkeypatch):
    """Premise of the tests above, and what the engine is for: a prompt is fed once, beams behind it."""
    model, trie = model_of("llama"), CodeTrie(catalogue(20))
    fed = []
    handle = model.model.register_forward_pre_hook(
        lambda _, args, given: fed.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    counts = {}
    try:
        with torch.no_grad():
            capability_of(model, 60)
        for forward in (-(10**6), 10**6):
            monkeypatch.setattr(engine_module, "CPU_COST", search_plan.CostModel(forward, 10**6))
            for rule in (FULL, GROUP):
                fed.clear()
                search(model, trie, 3, rule)
                counts[forward, rule.full] = len(fed)
                assert fed[0] == (3, max(map(len, PROMPTS)))
                assert all(rows == 3 for rows, _ in fed)
    finally:
        handle.remove()
    assert counts == {(-(10**6), True): 4, (-(10**6), False): 3, (10**6, True): 2, (10**6, False): 2}


@pytest.mark.parametrize("rule", [FULL, GROUP], ids=["full", "group"])
def test_bounds_of_memory_change_nothing(monkeypatch, rule):
    model, sequences = model_of("llama"), catalogue(30)
    trie = CodeTrie(sequences)
    expected = search(model, trie, 12, rule)
    with torch.no_grad():
        scores, _ = SearchEngine(model).score(PROMPTS, sequences, rule)
        monkeypatch.setattr(engine_module, "SCORE_TOKENS", 1)
        monkeypatch.setattr(model_adapter, "MAX_FEED", 3)
        monkeypatch.setattr(model_adapter, "HEAD_ELEMENTS", 2 * VOCABULARY)
        cut, _ = SearchEngine(model).score(PROMPTS, sequences, rule)
    np.testing.assert_allclose(cut, scores, atol=TOLERANCE)
    for one, other in zip(expected, search(model, trie, 12, rule), strict=True):
        assert by_tool(trie, other) == pytest.approx(by_tool(trie, one), abs=TOLERANCE)
        assert other.bound == pytest.approx(one.bound, abs=TOLERANCE)


# Numbers that are none


@pytest.mark.parametrize("name", ["llama", "bert", "bloom"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("rule", [FULL, GROUP], ids=["full", "group"])
def test_one_bad_query_fails_alone(name, number, rule):
    """A token that only the second prompt has makes its numbers none."""
    model = model_of(name, untied=True)
    trie = CodeTrie(catalogue(10))
    expected = search(model, trie, 4, rule, [PROMPTS[0], PROMPTS[2]])
    weight = model.get_input_embeddings().weight
    assert not any(22 in prompt for prompt in (PROMPTS[0], PROMPTS[2]))  # premise
    before = weight.data[22].clone()
    try:
        weight.data[22] = number
        found = search(model, trie, 4, rule)
        with torch.no_grad():
            scores, failures = SearchEngine(model).score(PROMPTS, catalogue(10), rule)
    finally:
        weight.data[22] = before
    assert "finite" in str(found[1])
    assert sorted(failures) == [1]
    for one, other in zip(expected, [found[0], found[2]], strict=True):
        assert by_tool(trie, other) == pytest.approx(by_tool(trie, one), abs=TOLERANCE)
    assert np.isfinite(np.asarray(scores)[[0, 2]]).all()


def test_tools_of_probability_zero_are_no_failure():
    """A head that gives -inf to a code is not damaged."""
    model = hf.AutoModelForCausalLM.from_config(MODELS["gpt2"][0](), dtype=torch.float32).eval()
    model.lm_head = torch.nn.Linear(32, VOCABULARY)
    with torch.no_grad():
        model.lm_head.bias[GROUPS[0][0]] = -torch.inf
    sequences = catalogue(10)
    for rule in (FULL, GROUP):
        for found in search(model, CodeTrie(sequences), 10, rule):
            scores = by_tool(CodeTrie(sequences), found)
            assert {tool for tool, score in scores.items() if score == -np.inf} == set(
                np.flatnonzero(sequences[:, 0] == GROUPS[0][0])
            )


# The retriever's door is tested in test_retriever*.py; here only that it is this engine.


def test_the_retriever_uses_the_engine(make_tokenizer, make_model, monkeypatch):
    tokenizer = make_tokenizer(6)
    retriever = GenerativeRetriever(make_model(tokenizer), tokenizer)
    calls = []
    search_once = SearchEngine.search

    def spy(self, *given, **more):
        calls.append(self)
        return search_once(self, *given, **more)

    monkeypatch.setattr(SearchEngine, "search", spy)
    retriever.retrieve("Count")
    retriever.retrieve("Count")
    assert len(calls) == 2
    assert calls[0] is calls[1]
