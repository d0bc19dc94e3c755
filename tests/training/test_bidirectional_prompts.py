"""Contract: with bidirectional prompts, training, both searches and plain ``generate`` read a prompt the same way.

The reference is made without any mask: a prompt alone through a model whose ``config.is_causal`` is false, then one
token at a time behind its cache.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax
from transformers import BertConfig, BertLMHeadModel, DynamicCache, MistralConfig, MistralForCausalLM

from toolscaler.agent import CodePlanner
from toolscaler.decoding import CodeTrie, GenerativeRetriever, PrefixConstrainedLogitsProcessor, fallback, self_check
from toolscaler.decoding.engine import SearchEngine
from toolscaler.decoding.scoring import ScoreRule
from toolscaler.embedding import initialize_code_embeddings
from toolscaler.errors import ConfigError, TrainingError
from toolscaler.prompt_attention import both_ways_mask, read_both_ways, reads_both_ways
from toolscaler.tokenization import ToolscalerTokenizer
from toolscaler.training.retrieval import RetrievalConfig, retrieval_trainer, tokenize_retrieval_rows
from toolscaler.training.trajectory import trajectory_trainer

CODES = [[0, 1], [1, 0], [2, 2], [2, 0], [0, 2]]
TOOLS = [f"tool_{number}" for number in range(len(CODES))]
QUERIES = ["How many feet are twelve metres?", "the day", "Count the words in this text, please, and sort them.", "x"]


@pytest.fixture(scope="module")
def tokenizer(make_tiny_tokenizer) -> ToolscalerTokenizer:
    return ToolscalerTokenizer.from_tokenizer(make_tiny_tokenizer(), codes=CODES, tool_ids=TOOLS, code_sizes=(3, 3))


@pytest.fixture
def make_model(make_tiny_model, tokenizer):
    def make(arch: str = "llama", attention: str = "sdpa"):
        torch.manual_seed(3)
        if arch == "bert":
            size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
            model = BertLMHeadModel(BertConfig(vocab_size=400, is_decoder=True, eos_token_id=2, pad_token_id=0, **size))
        else:
            model = make_tiny_model(arch, tokenizer)
        model.set_attn_implementation(attention)
        initialize_code_embeddings(model, tokenizer, init="random")
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.mul_(3)
        return model.eval()

    return make


@pytest.fixture
def rows(tokenizer) -> list[dict[str, str]]:
    return [{"prompt": q, "completion": tokenizer.tool_code_text(t)} for q, t in zip(QUERIES, TOOLS, strict=False)]


def config(folder: Path, **changes) -> RetrievalConfig:
    values = {"output_dir": str(folder), "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    values |= {"learning_rate": 1e-2, "disable_tqdm": True, "save_strategy": "no", "num_train_epochs": 2}
    return RetrievalConfig(**{**values, "bidirectional_prompts": True, **changes})


@torch.no_grad()
def stepwise(model, prompt: list[int], tokens: list[int]) -> list[float]:
    """Give the log-probability of each token behind a prompt."""
    cache, found, given = DynamicCache(), [], list(prompt)
    for token in tokens:
        place = torch.arange(cache.get_seq_length(), cache.get_seq_length() + len(given))[None]
        logits = model(
            input_ids=torch.tensor([given]), position_ids=place, past_key_values=cache, use_cache=True
        ).logits  # fmt: skip
        found.append(float(log_softmax(logits[0, -1].double(), -1)[token]))
        given = [token]
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_mask_lets_see_the_prompt_and_what_stands_before(make_model, seed) -> None:
    rng = np.random.default_rng(seed)
    width = 9
    lead, length = rng.integers(0, 3, 4), rng.integers(1, 5, 4)
    real = torch.tensor([[column >= first for column in range(width)] for first in lead]).long()
    hidden = rng.integers(0, width, 4)
    real[torch.arange(4), hidden] = 0
    prompt = torch.tensor(
        [[column < first + size for column in range(width)] for first, size in zip(lead, length, strict=True)]
    )
    mask = both_ways_mask(make_model(), real, prompt)
    assert mask.dtype == torch.bool
    for row, query, key in itertools.product(range(4), range(width), range(width)):
        may = bool(real[row, key]) and (key < lead[row] + length[row] or key <= query)
        assert bool(mask[row, 0, query, key]) == (may or key == query)
    added = both_ways_mask(make_model(attention="eager"), real, prompt)
    assert torch.equal(added == 0, mask)
    assert added[~mask].max() < -1e30


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("arch", ["llama", "phi3", "bert"])
def test_the_loss_is_that_of_prompt_then_tokens(make_model, tokenizer, rows, tmp_path, arch, attention) -> None:
    model = make_model(arch, attention)
    causal = [stepwise(model, p, c) for p, c in _split(tokenizer, rows, tmp_path)]
    trainer = retrieval_trainer(model, tokenizer, rows, config(tmp_path))
    assert reads_both_ways(model.eval())
    expected = [stepwise(model, p, c) for p, c in _split(tokenizer, rows, tmp_path)]
    batch = trainer.data_collator(list(trainer.train_dataset))
    with torch.no_grad():
        loss = float(trainer.compute_loss(model.eval(), batch))
    assert loss == pytest.approx(-np.mean(np.concatenate(expected)), rel=2e-6)
    assert np.abs(np.concatenate(expected) - np.concatenate(causal)).max() > 100 * abs(loss) * 1e-6
    assert loss != pytest.approx(-np.mean(np.concatenate(causal)), rel=1e-5)


def _split(tokenizer, rows, folder) -> list[tuple[list[int], list[int]]]:
    data = tokenize_retrieval_rows(tokenizer, rows, config(folder))
    cuts = [row["labels"].count(-100) for row in data]
    return [(row["input_ids"][:cut], row["input_ids"][cut:]) for row, cut in zip(data, cuts, strict=True)]


@pytest.mark.parametrize("way", ["tree", "generate"])
@pytest.mark.parametrize("arch", ["llama", "phi3", "bert"])
def test_searches_give_the_scores_of_prompt_then_tokens(make_model, tokenizer, arch, way, monkeypatch) -> None:
    model = make_model(arch)
    read_both_ways(model)
    assert self_check.capability_of(model, 40).tree
    prompts = [tokenizer.encode_retrieval_prompt(text) for text in QUERIES]
    trie = CodeTrie.from_tokenizer(tokenizer)
    end = tokenizer.eos_token_id
    rule = ScoreRule(end, ())
    with torch.no_grad():
        if way == "tree":
            found = SearchEngine(model).search(prompts, [trie] * len(prompts), len(TOOLS), rule)
        else:
            found = fallback.search_by_generate(model, prompts, [trie] * len(prompts), len(TOOLS), rule, 0)
    for prompt, one in zip(prompts, found, strict=True):
        expected = {
            tuple(codes): sum(stepwise(model, prompt, [*codes, end]))
            for codes in (tokenizer.encode_tool(tool) for tool in TOOLS)
        }
        paths = [tuple(trie.sequences[row].tolist()) for row in _rows_of(trie, one.nodes)]
        assert len(paths) == len(TOOLS)
        for path, score in zip(paths, one.scores, strict=True):
            assert score == pytest.approx(expected[path], rel=1e-4, abs=1e-4)


def _rows_of(trie: CodeTrie, nodes: np.ndarray) -> list[int]:
    ends = trie.walk(np.asarray(trie.sequences))
    return [int(np.flatnonzero(ends == node)[0]) for node in nodes]


def test_a_trained_model_is_saved_as_such_and_found_again(make_model, tokenizer, rows, tmp_path) -> None:
    model = make_model()
    trainer = retrieval_trainer(model, tokenizer, rows, config(tmp_path / "run", num_train_epochs=20))
    trainer.train()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    retriever = GenerativeRetriever.from_pretrained(tmp_path / "model", device="cpu")
    assert reads_both_ways(retriever.model)
    got = retriever.retrieve([row["prompt"] for row in rows], top_k=2)
    assert [ranking[0].name for ranking in got] == TOOLS[: len(rows)]
    # As plain generate, whose prompts are padded on the left.
    inputs = tokenizer.encode_retrieval_prompt(QUERIES[1])
    ids = torch.tensor([[0, 0, *inputs]])
    processor = PrefixConstrainedLogitsProcessor(CodeTrie.from_tokenizer(tokenizer), tokenizer.eos_token_id)
    out = retriever.model.generate(
        input_ids=ids, attention_mask=(ids != 0).long(), logits_processor=[processor], max_new_tokens=4, do_sample=False
    )
    assert tokenizer.decode_tool(out[0, ids.shape[1] :])[0] == TOOLS[1]


def test_prompts_share_no_beginning(make_model) -> None:
    model = make_model()
    prompts = [[5] * 40 + [number] for number in range(6, 30)]
    with torch.no_grad():
        assert SearchEngine(model).prefix_for(prompts, lasting=True) is not None
        read_both_ways(model)
        assert SearchEngine(model).prefix_for(prompts, lasting=True) is None


def test_what_cannot_go_together_is_refused(make_model, tokenizer, rows, tmp_path) -> None:
    with pytest.raises(ConfigError, match="padding_free"):
        config(tmp_path, padding_free=True)
    model = make_model()
    data = tokenize_retrieval_rows(tokenizer, rows, config(tmp_path))
    with pytest.raises(TrainingError, match="step_rows"):
        retrieval_trainer(model, tokenizer, rows, config(tmp_path), step_rows=data)
    assert not reads_both_ways(model)
    read_both_ways(model)
    with pytest.raises(TrainingError, match="causally"):
        trajectory_trainer(model, tokenizer, [])
    with pytest.raises(ConfigError, match="causally"):
        CodePlanner(model, tokenizer)


def test_models_that_cannot_are_refused_and_stay_as_they_are(tokenizer) -> None:
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    near = MistralForCausalLM(MistralConfig(vocab_size=99, num_key_value_heads=2, sliding_window=8, **size))
    with pytest.raises(TrainingError, match="looks back 8 tokens"):
        read_both_ways(near, 9)
    assert not reads_both_ways(near)
    read_both_ways(near, 8)
    assert reads_both_ways(near)
    stubborn = MistralForCausalLM(MistralConfig(vocab_size=99, num_key_value_heads=2, sliding_window=None, **size))
    stubborn.forward = _causal_forward(stubborn)
    with pytest.raises(TrainingError, match="reads config"):
        read_both_ways(stubborn)
    assert not reads_both_ways(stubborn)
    stubborn.config._attn_implementation = "flash_attention_2"
    with pytest.raises(TrainingError, match="'flash_attention_2'"):
        read_both_ways(stubborn)


def _causal_forward(model):
    plain = type(model).forward

    def forward(**given):
        model.config.is_causal = True
        try:
            return plain(model, **given)
        finally:
            model.config.is_causal = False

    return forward
