"""Contract: every code token gets the row that the method prescribes; every other row keeps each of its bits."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel

from support.quantizers import KINDS, make_embeddings
from toolscaler.codebook import Codebook
from toolscaler.embedding import gathered, initialize_code_embeddings, reframe_vectors
from toolscaler.errors import CodebookError, ConfigError, TokenizationError
from toolscaler.tokenization import ToolscalerTokenizer

GISTS, LEVELS, CENTROIDS, WIDTH, REDUCED, TOOLS = 2, 2, 4, 32, 6, 24
ARCHITECTURES = [(arch, tie) for arch in ("llama", "qwen3", "gemma") for tie in (False, True)]


class HandMadeCodebook:
    """A codebook small enough to check by hand: its parts are drawn, not fitted, and everything is a literal loop."""

    num_gists, num_levels, hidden_size, collisions = GISTS, LEVELS, WIDTH, "reassign"
    code_sizes = (CENTROIDS,) * (GISTS * LEVELS)
    code_length = GISTS * LEVELS

    def __init__(self, embeddings: np.ndarray) -> None:
        rng = np.random.default_rng(1)
        self.means = [embeddings[:, gist].mean(axis=0) for gist in range(GISTS)]
        self.bases = [np.linalg.qr(rng.normal(size=(WIDTH, REDUCED)))[0].T for _ in range(GISTS)]
        self.centroids = 4 * rng.normal(size=(GISTS, LEVELS, CENTROIDS, REDUCED))
        seen, codes = set(), []
        while len(codes) < len(embeddings):
            row = tuple(rng.integers(0, CENTROIDS - 1, self.code_length))  # the last code of each position stays unused
            if row not in seen:
                seen.add(row)
                codes.append(row)
        self.codes = np.array(codes, dtype=np.int32)
        self.tool_ids = tuple(f"tool{k}" for k in range(len(embeddings)))

    def without_tools(self) -> HandMadeCodebook:
        return self

    def vector(self, embeddings: np.ndarray, codes: np.ndarray, position: int, code: int) -> np.ndarray:
        """Method section 3 for one code, tool by tool."""
        gist, level = divmod(position, LEVELS)
        parts = []
        for tool in range(len(codes)):
            if codes[tool, position] != code:
                continue
            output = embeddings[tool, gist]
            if level == 0:
                parts.append(output)
                continue
            residual = self.bases[gist] @ (output - self.means[gist])
            for earlier in range(level):
                residual = residual - self.centroids[gist, earlier, codes[tool, gist * LEVELS + earlier]]
            parts.append(residual @ self.bases[gist])
        if parts:
            return np.mean(parts, axis=0)
        unused = self.centroids[gist, level, code] @ self.bases[gist]
        return unused + self.means[gist] if level == 0 else unused

    def level_embeddings(self, embeddings: np.ndarray, codes: np.ndarray) -> list[np.ndarray]:
        return [
            np.stack([self.vector(embeddings, codes, position, code) for code in range(size)]).astype(np.float32)
            for position, size in enumerate(self.code_sizes)
        ]


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    return (5 * np.random.default_rng(0).normal(size=(TOOLS, GISTS, WIDTH)) + 3).astype(np.float32)


@pytest.fixture(scope="module")
def codebook(embeddings) -> HandMadeCodebook:
    return HandMadeCodebook(embeddings)


@pytest.fixture(scope="module")
def tokenizer(make_tiny_tokenizer, codebook) -> ToolscalerTokenizer:
    return ToolscalerTokenizer.from_tokenizer(make_tiny_tokenizer(), codebook)


@pytest.fixture
def make_model(make_tiny_model):
    def make(arch="llama", tie=False, dtype=torch.float32):
        return make_tiny_model(arch, tie=tie, hidden_size=WIDTH, seed=1).to(dtype)

    return make


def rows_of(model) -> torch.Tensor:
    return model.get_input_embeddings().weight


def head_of(model) -> torch.Tensor:
    return model.get_output_embeddings().weight


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(("arch", "tie"), ARCHITECTURES)
def test_rows_are_those_of_the_method(make_model, tokenizer, codebook, embeddings, arch, tie):
    model = make_model(arch, tie)
    base = len(rows_of(model))
    assert initialize_code_embeddings(model, tokenizer, embeddings, scale="none") is model
    assert model.config.vocab_size == len(rows_of(model)) == len(head_of(model)) == len(tokenizer)
    assert (head_of(model) is rows_of(model)) is tie
    seen_by_model = model.get_input_embeddings()(torch.arange(base, len(tokenizer))).detach().numpy()
    identifier = base
    for position in range(GISTS * LEVELS):
        for code in range(CENTROIDS):
            assert tokenizer.convert_ids_to_tokens(identifier) == f"<{'abcd'[position]}_{code}>"
            expected = codebook.vector(embeddings, codebook.codes, position, code)
            np.testing.assert_allclose(seen_by_model[identifier - base], expected, rtol=1e-4, atol=1e-4)
            if not tie:
                np.testing.assert_allclose(head_of(model)[identifier].detach().numpy(), expected, rtol=1e-4, atol=1e-4)
            identifier += 1


@pytest.mark.parametrize(("arch", "tie"), ARCHITECTURES)
@pytest.mark.parametrize("init", ["reframe", "random"])
def test_match_keeps_directions_and_takes_the_mean_norm(make_model, tokenizer, codebook, embeddings, arch, tie, init):
    model = make_model(arch, tie)
    with torch.no_grad():
        head_of(model).mul_(1.0 if tie else 3.0)  # so that the norms of head and input differ where they can
    base = len(rows_of(model))
    norms = [float(weight[:base].detach().norm(dim=1).mean()) for weight in (rows_of(model), head_of(model))]
    initialize_code_embeddings(model, tokenizer, embeddings, init=init)
    vectors = torch.from_numpy(np.concatenate(codebook.level_embeddings(embeddings, codebook.codes)))
    for weight, norm in zip((rows_of(model), head_of(model)), norms, strict=True):
        torch.testing.assert_close(weight[base:].norm(dim=1), torch.full((len(vectors),), norm))
        cosine = torch.nn.functional.cosine_similarity(weight[base:], vectors)
        assert bool((cosine > 0.9999).all()) is (init == "reframe")


@pytest.mark.parametrize(("arch", "tie"), ARCHITECTURES)
def test_everything_else_keeps_every_bit(make_model, tokenizer, embeddings, arch, tie):
    model = make_model(arch, tie)
    before, base = snapshot(model), len(rows_of(model))
    ids = torch.tensor([tokenizer("How many feet are twelve metres?")["input_ids"]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        initialize_code_embeddings(model, tokenizer, embeddings)
        after = model(input_ids=ids).logits
    for name, value in model.state_dict().items():
        old = before[name]
        assert torch.equal(value[: len(old)] if value.shape != old.shape else value, old), name
    torch.testing.assert_close(after[..., :base], logits, rtol=0, atol=1e-6)
    assert not torch.equal(rows_of(model)[base], rows_of(model)[base + 1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(make_model, tokenizer, codebook, embeddings, dtype):
    model = make_model(dtype=dtype)
    before, base = snapshot(model), len(rows_of(model))
    initialize_code_embeddings(model, tokenizer, embeddings, scale="none")
    assert rows_of(model).dtype == head_of(model).dtype == dtype
    vectors = torch.from_numpy(reframe_vectors(tokenizer, embeddings)).to(dtype)
    assert torch.equal(rows_of(model)[base:], vectors)
    assert torch.equal(rows_of(model)[:base], before["model.embed_tokens.weight"])
    with pytest.raises(CodebookError, match="match"):
        initialize_code_embeddings(make_model(dtype=torch.float16), tokenizer, embeddings * 1e5, scale="none")


def test_calling_again_changes_nothing(make_model, tokenizer, embeddings):
    model = make_model()
    initialize_code_embeddings(model, tokenizer, embeddings)
    before = snapshot(model)
    initialize_code_embeddings(model, tokenizer, embeddings)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_with_more_rows_than_tokens_is_not_cut(make_model, tokenizer, embeddings):
    model = make_model()
    model.resize_token_embeddings(len(tokenizer) + 40, mean_resizing=False)
    before = rows_of(model).detach().clone()
    base = tokenizer.first_code_id
    initialize_code_embeddings(model, tokenizer, embeddings)
    assert len(rows_of(model)) == len(before)
    assert torch.equal(rows_of(model)[len(tokenizer) :], before[len(tokenizer) :])
    # Spare rows beyond the vocabulary are noise; only rows of the base's tokens say what norm is usual.
    norm = before[:base].norm(dim=1).mean().expand(len(tokenizer) - base)
    torch.testing.assert_close(rows_of(model)[base : len(tokenizer)].norm(dim=1), norm)


def test_padding_rows_are_the_mean_and_reproducible(make_model, tokenizer, embeddings):
    states = []
    for seed in (1, 2):
        model = make_model()
        base = len(rows_of(model))
        torch.manual_seed(seed)
        initialize_code_embeddings(model, tokenizer, embeddings, pad_to_multiple_of=64)
        states.append(snapshot(model))
    rows = rows_of(model)
    assert len(rows) == len(head_of(model)) == 448
    assert model.config.vocab_size == 448
    mean = rows[:base].mean(dim=0)
    torch.testing.assert_close(rows[len(tokenizer) :], mean.expand(448 - len(tokenizer), -1))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_tokens_that_the_model_lacks_get_the_mean(make_tiny_tokenizer, make_model, codebook, embeddings):
    longer = make_tiny_tokenizer()
    longer.add_tokens(["<extra>"])
    tokenizer = ToolscalerTokenizer.from_tokenizer(longer, codebook)
    model = make_model()
    base = len(rows_of(model))
    initialize_code_embeddings(model, tokenizer, embeddings)
    assert tokenizer.first_code_id == base + 1
    torch.testing.assert_close(rows_of(model)[base], rows_of(model)[:base].mean(dim=0))
    torch.testing.assert_close(head_of(model)[base], head_of(model)[:base].mean(dim=0))


def test_without_embeddings_rows_come_from_the_codebook(make_model, tokenizer, codebook):
    model = make_model()
    base = len(rows_of(model))
    initialize_code_embeddings(model, tokenizer, scale="none")
    none = np.empty((0, codebook.code_length), np.int32)
    for position in range(codebook.code_length):
        for code in range(CENTROIDS):
            expected = codebook.vector(np.empty((0, GISTS, WIDTH)), none, position, code)
            row = rows_of(model)[base + position * CENTROIDS + code].detach().numpy()
            np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-5)


def test_embeddings_follow_the_tools_of_the_tokenizer(make_tiny_tokenizer, codebook, embeddings):
    tokenizer = ToolscalerTokenizer.from_tokenizer(make_tiny_tokenizer(), codebook)
    tokenizer.remove_tools(["tool0", "tool5"])
    with pytest.raises(CodebookError, match=r"\(22, 2, 32\), got \(24, 2, 32\)"):
        reframe_vectors(tokenizer, embeddings)
    kept = [k for k in range(TOOLS) if k not in (0, 5)]
    expected = np.concatenate(codebook.level_embeddings(embeddings[kept], codebook.codes[kept]))
    np.testing.assert_array_equal(reframe_vectors(tokenizer, torch.from_numpy(embeddings[kept])), expected)


def test_a_fitted_codebook(make_tiny_tokenizer, make_model, embeddings):
    """The real codebook against the same loops: its parts are put into the hand-made one."""
    fitted = Codebook.fit(embeddings, num_levels=LEVELS, num_centroids=CENTROIDS, reduced_dim=REDUCED, seed=0)
    twin = HandMadeCodebook(embeddings)
    twin.means, twin.bases, twin.centroids = fitted.pca_mean, fitted.pca_components, fitted.centroids
    tokenizer = ToolscalerTokenizer.from_tokenizer(make_tiny_tokenizer(), fitted)
    model = make_model()
    for given in (embeddings, None):
        table = np.empty((0, GISTS, WIDTH)) if given is None else embeddings
        codes = np.empty((0, fitted.code_length), np.int32) if given is None else fitted.codes
        initialize_code_embeddings(model, tokenizer, given, scale="none")
        expected = np.concatenate(twin.level_embeddings(table, codes))
        for weight in (rows_of(model), head_of(model)):
            got = weight[tokenizer.first_code_id :].detach().numpy()
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_random_rows_follow_the_seed(make_model, tokenizer):
    rows = {}
    for key, options in {"a": {}, "b": {}, "other": {"seed": 1}, "none": {"scale": "none"}}.items():
        model = initialize_code_embeddings(make_model(), tokenizer, init="random", **options)
        rows[key] = rows_of(model)[tokenizer.first_code_id :].detach()
    assert torch.equal(rows["a"], rows["b"])
    assert not torch.equal(rows["a"], rows["other"])
    assert 0.015 < float(rows["none"].std()) < 0.025  # initializer_range is 0.02


def test_vectors_of_ones_own(make_model, tokenizer, embeddings):
    """Given the reframed vectors, the rows are those of init="reframe"; other vectors are taken as they are."""
    own = reframe_vectors(tokenizer, embeddings)
    first = tokenizer.first_code_id
    wanted = rows_of(initialize_code_embeddings(make_model(), tokenizer, embeddings))[first:]
    assert torch.equal(rows_of(initialize_code_embeddings(make_model(), tokenizer, vectors=own))[first:], wanted)
    other = np.random.default_rng(0).normal(size=own.shape).astype(np.float32)
    got = rows_of(initialize_code_embeddings(make_model(), tokenizer, vectors=torch.from_numpy(other), scale="none"))
    np.testing.assert_array_equal(got[first : first + len(other)].detach().numpy(), other)
    for wrong in (own[:-1], own[:, None], np.full_like(own, np.inf)):
        with pytest.raises(CodebookError, match="vectors: expected finite numbers"):
            initialize_code_embeddings(make_model(), tokenizer, vectors=wrong)
    with pytest.raises(CodebookError, match="the model's embeddings"):
        initialize_code_embeddings(make_model(), tokenizer, vectors=own[:, :-1])


def test_random_rows_need_no_codebook(make_tiny_tokenizer, make_model):
    tokenizer = ToolscalerTokenizer.from_tokenizer(
        make_tiny_tokenizer(), code_sizes=(3, 3), tool_ids=["x"], codes=[[0, 1]]
    )
    model = initialize_code_embeddings(make_model(), tokenizer, init="random")
    assert len(rows_of(model)) == len(tokenizer)
    with pytest.raises(CodebookError, match="init='random'"):
        initialize_code_embeddings(make_model(), tokenizer)


def test_zero_vectors_get_a_direction(make_tiny_tokenizer, make_model, codebook, embeddings, caplog):
    class WithZero(HandMadeCodebook):
        def level_embeddings(self, embeddings, codes):
            tables = super().level_embeddings(embeddings, codes)
            tables[1][2] = 0
            return tables

    tokenizer = ToolscalerTokenizer.from_tokenizer(make_tiny_tokenizer(), WithZero(embeddings))
    model = make_model()
    with caplog.at_level(logging.WARNING, logger="toolscaler"):
        initialize_code_embeddings(model, tokenizer, embeddings)
    assert "1 code tokens have a zero vector" in caplog.text
    norms = rows_of(model)[tokenizer.first_code_id :].norm(dim=1)
    torch.testing.assert_close(norms, norms[:1].expand(len(norms)))


def test_a_head_with_bias_and_a_head_of_another_make(tokenizer, embeddings):
    """BERT as a decoder: tied head with a bias. GPT-2: other module names."""
    size = {"vocab_size": tokenizer.first_code_id, "num_hidden_layers": 1}
    bert = BertLMHeadModel(
        BertConfig(hidden_size=WIDTH, num_attention_heads=4, intermediate_size=64, is_decoder=True, **size)
    )
    bias = torch.linspace(-1, 2, tokenizer.first_code_id)
    with torch.no_grad():
        bert.get_output_embeddings().bias.copy_(bias)
    initialize_code_embeddings(bert, tokenizer, embeddings, pad_to_multiple_of=8)
    head = bert.get_output_embeddings()
    assert head.weight is rows_of(bert)
    assert torch.equal(head.bias[: len(bias)], bias)
    torch.testing.assert_close(head.bias[len(bias) :], bias.mean().expand(len(head.bias) - len(bias)))
    assert bert(input_ids=torch.tensor([[3, tokenizer.first_code_id]])).logits.shape[-1] == len(head.bias)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=WIDTH, n_head=4, n_layer=1, vocab_size=tokenizer.first_code_id))
    initialize_code_embeddings(gpt2, tokenizer, embeddings)
    assert len(rows_of(gpt2)) == len(tokenizer)


def test_the_model_survives_its_folder(make_model, tokenizer, embeddings, tmp_path):
    for tie in (False, True):
        model = initialize_code_embeddings(make_model("qwen3", tie), tokenizer, embeddings)
        model.save_pretrained(tmp_path / str(tie))
        loaded = type(model).from_pretrained(tmp_path / str(tie))
        assert torch.equal(rows_of(loaded), rows_of(model))
        assert torch.equal(head_of(loaded), head_of(model))


def test_refusals(make_tiny_model, make_model, make_tiny_tokenizer, tokenizer, codebook, embeddings):
    with pytest.raises(ConfigError, match="scale"):
        initialize_code_embeddings(make_model(), tokenizer, embeddings, scale="unit")
    with pytest.raises(ConfigError, match="init"):
        initialize_code_embeddings(make_model(), tokenizer, embeddings, init="zeros")
    narrow = make_tiny_model("llama", hidden_size=16)
    before = snapshot(narrow)
    with pytest.raises(CodebookError, match="32 dimensions, the model's embeddings 16"):
        initialize_code_embeddings(narrow, tokenizer, embeddings)
    assert all(torch.equal(value, before[name]) for name, value in narrow.state_dict().items())
    spoilt = embeddings.copy()
    spoilt[3, 1, 7] = np.nan
    with pytest.raises(CodebookError, match="finite"):
        initialize_code_embeddings(make_model(), tokenizer, spoilt)
    other = ToolscalerTokenizer.from_tokenizer(make_tiny_tokenizer(), code_sizes=(4, 4))
    with pytest.raises(CodebookError, match="code sizes"):
        initialize_code_embeddings(make_model(), other, codebook=codebook)
    with pytest.raises(TokenizationError, match="meta"):
        initialize_code_embeddings(make_model().to("meta"), tokenizer, embeddings)


def test_adapters_come_after(make_model, tokenizer, embeddings):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="CAUSAL_LM", trainable_token_indices=[1], target_modules=["q_proj"])
    wrapped = peft.get_peft_model(make_model(), config)
    with pytest.raises(TokenizationError, match="adapter"):
        initialize_code_embeddings(wrapped, tokenizer, embeddings)


def test_partitioned_parameters_are_gathered(monkeypatch, make_model, tokenizer, embeddings):
    """ZeRO-3 by a stand-in: a partitioned parameter is empty outside a gathering block, and rank 0 alone writes."""
    gatherings = []

    @contextmanager
    def gather(parameters, modifier_rank=None):
        assert modifier_rank == 0
        gatherings.append(len(parameters))
        for parameter in parameters:
            parameter.data = parameter.whole
        yield
        for parameter in parameters:
            parameter.whole, parameter.data = parameter.data, torch.empty(0)

    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(zero=SimpleNamespace(GatheredParameters=gather)))
    plain = initialize_code_embeddings(make_model(), tokenizer, embeddings)
    model = make_model()
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for weight in (rows_of(model), head_of(model)):
        weight.ds_id, weight.ds_shape, weight.whole = 1, weight.shape, weight.data
        weight.data = torch.empty(0)
    initialize_code_embeddings(model, tokenizer, embeddings)
    assert gatherings == [1, 1]
    assert torch.equal(rows_of(model).whole, rows_of(plain))
    assert torch.equal(head_of(model).whole, head_of(plain))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    with gathered([rows_of(model)]) as writes:
        assert not writes
    with gathered([torch.zeros(2)]) as writes:
        assert writes


def test_a_head_that_is_not_written_has_the_mean_of_its_old_rows(make_model, tokenizer, embeddings):
    model, plain = make_model(), make_model()
    base = len(rows_of(model))
    old = head_of(model).detach().clone()
    initialize_code_embeddings(model, tokenizer, embeddings, write_head=False, pad_to_multiple_of=64)
    initialize_code_embeddings(plain, tokenizer, embeddings, pad_to_multiple_of=64)
    assert torch.equal(rows_of(model), rows_of(plain))
    assert torch.equal(head_of(model)[:base], old)
    mean = old.double().mean(dim=0).float()
    torch.testing.assert_close(head_of(model)[base:].detach(), mean.expand(len(head_of(model)) - base, -1))
    assert not torch.equal(head_of(plain)[base], head_of(plain)[base + 1])
    tied, tied_plain = make_model(tie=True), make_model(tie=True)
    initialize_code_embeddings(tied, tokenizer, embeddings, write_head=False)
    initialize_code_embeddings(tied_plain, tokenizer, embeddings)
    assert torch.equal(rows_of(tied), rows_of(tied_plain))  # a tied head is the input matrix


def test_level_mean_adds_the_pca_mean_to_later_levels_alone(make_tiny_tokenizer, embeddings):
    fitted = Codebook.fit(embeddings, num_centroids=4, reduced_dim=4, num_levels=2, collisions="suffix")
    tokenizer = ToolscalerTokenizer.from_tokenizer(make_tiny_tokenizer(), fitted)
    plain = reframe_vectors(tokenizer, embeddings)
    moved = reframe_vectors(tokenizer, embeddings, level_mean=True)
    difference, start = moved - plain, 0
    for position, size in enumerate(fitted.code_sizes):
        gist, level = divmod(position, 2)
        expected = fitted.pca_mean[gist] if gist < 2 and level == 1 else np.zeros(WIDTH)
        np.testing.assert_allclose(difference[start : start + size], np.tile(expected, (size, 1)), atol=1e-5)
        start += size


@pytest.mark.parametrize("kind", list(KINDS))
def test_rows_of_every_quantiser_are_where_its_tokens_are(make_tiny_tokenizer, make_model, kind):
    keywords, sizes = KINDS[kind]
    data = make_embeddings(40, WIDTH)
    fitted = Codebook.fit(data, num_centroids=8, reduced_dim=4, **keywords)
    tokenizer = ToolscalerTokenizer.from_tokenizer(make_tiny_tokenizer(), fitted)
    model = make_model()
    initialize_code_embeddings(model, tokenizer, data, scale="none")
    rows, reduced = rows_of(model).detach().numpy(), fitted.reduce(data)
    for position, size in enumerate(sizes):
        gist, level = divmod(position, fitted.num_levels)
        quantizer, own = fitted.quantizers[gist], fitted.gist_codes(fitted.codes, gist)
        for code in range(size):
            carriers = np.flatnonzero(own[:, level] == code)
            if not len(carriers):
                continue
            parts = []
            for tool in carriers:
                if level == 0:
                    parts.append(data[tool, gist])
                    continue
                known = quantizer.partials(own[tool : tool + 1])[level]  # what the levels before stand for
                parts.append(fitted.expand(reduced[tool : tool + 1, gist] - known, gist)[0])
            token = tokenizer.convert_tokens_to_ids(f"<{'abcdef'[position]}_{code}>")
            np.testing.assert_allclose(rows[token], np.mean(parts, axis=0), rtol=1e-3, atol=1e-4)
            np.testing.assert_array_equal(rows[token], head_of(model)[token].detach().numpy())
    assert np.isfinite(rows).all()
    if fitted.collisions == "suffix":  # what all codes leave over, averaged; the last position
        left = reduced[:, -1] - fitted.quantizers[-1].partials(fitted.gist_codes(fitted.codes, 1))[-1]
        mean = left[fitted.codes[:, -1] == 0].mean(axis=0, keepdims=True)
        token = tokenizer.convert_tokens_to_ids("<e_0>")
        np.testing.assert_allclose(rows[token], fitted.expand(mean, 1)[0], rtol=1e-3, atol=1e-4)
