"""Contract: whatever quantiser made the codes, and however unequal its positions, tokens, look-ups and files agree."""

from __future__ import annotations

import numpy as np
import pytest

from support.quantizers import KINDS, make_embeddings
from toolscaler.codebook import Codebook
from toolscaler.tokenization import ToolscalerTokenizer

TOOLS, WIDTH = 40, 12
NAMES = [f"tool {k}" for k in range(TOOLS)]


@pytest.fixture(scope="module")
def embeddings():
    return make_embeddings(TOOLS, WIDTH)


@pytest.fixture(scope="module", params=list(KINDS))
def made(request, embeddings):
    """(name, codebook, sizes without a suffix)"""
    keywords, sizes = KINDS[request.param]
    return request.param, Codebook.fit(embeddings, NAMES, num_centroids=8, reduced_dim=4, **keywords), sizes


@pytest.fixture
def tokenizer(bases, made):
    return ToolscalerTokenizer.from_tokenizer(bases["bytelevel"], made[1])


def test_tokens_follow_the_sizes_of_the_positions(tokenizer, made):
    _, codebook, sizes = made
    assert tokenizer.code_sizes[: len(sizes)] == sizes
    assert tokenizer.code_length == len(sizes) + (codebook.collisions == "suffix")
    identifier = tokenizer.first_code_id
    for letter, size in zip("abcdefg", tokenizer.code_sizes, strict=False):
        for code in range(size):
            assert tokenizer.convert_tokens_to_ids(f"<{letter}_{code}>") == identifier
            identifier += 1
        # One number more is no token of this position, though it may be one of another.
        assert f"<{letter}_{size}>" not in tokenizer.get_vocab()
    assert identifier == tokenizer.required_vocab_size == len(tokenizer)
    assert tokenizer.num_code_tokens == sum(tokenizer.code_sizes)


def test_every_tool_comes_back_from_ids_and_text(tokenizer, made):
    shares = made[1].collisions == "share"
    ids = tokenizer.tool_token_ids()
    for row, (name, codes) in enumerate(zip(NAMES, made[1].codes.tolist(), strict=True)):
        text = "".join(f"<{letter}_{code}>" for letter, code in zip("abcdefg", codes, strict=False))
        assert tokenizer.tool_code_text(name) == text
        assert tokenizer.encode_tool(name) == ids[row].tolist()
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids[row].tolist()
        holders = [other for other, own in zip(NAMES, made[1].codes.tolist(), strict=True) if own == codes]
        assert tokenizer.decode_tool(text) == tokenizer.decode_tool(ids[row]) == holders
        assert holders == [name] or shares


def test_users_cannot_write_codes_of_any_position(tokenizer):
    inside = "".join(f"<{letter}_{size - 1}>" for letter, size in zip("abcdefg", tokenizer.code_sizes, strict=False))
    outside = "".join(f"<{letter}_{size}>" for letter, size in zip("abcdefg", tokenizer.code_sizes, strict=False))
    ids = tokenizer.encode_retrieval_prompt(inside + outside)
    assert max(ids) < tokenizer.first_code_id


def test_files_hold_everything(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = ToolscalerTokenizer.from_pretrained(tmp_path)
    assert loaded.code_sizes == tokenizer.code_sizes
    assert loaded.tool_index == tokenizer.tool_index
    assert loaded.codebook == tokenizer.codebook
    new = make_embeddings(5, WIDTH, seed=9)[:3]
    if loaded.tool_index.collisions != "suffix":
        np.testing.assert_array_equal(
            loaded.add_tools(list("xyz"), embeddings=new), tokenizer.add_tools(list("xyz"), embeddings=new)
        )


def test_new_tools_fit_in(tokenizer, made, embeddings):
    policy = made[1].collisions
    rng = np.random.default_rng(3)
    new = embeddings[rng.choice(TOOLS, 6)] + rng.normal(size=(6, 2, WIDTH)).astype(np.float32)
    if policy == "reassign":
        new = np.concatenate([new, embeddings[:2]])  # twins of tools that are there
    names = [f"new {k}" for k in range(len(new))]
    before = dict(tokenizer.tool_index)
    nearest = made[1].quantize(new)
    codes = tokenizer.add_tools(names, embeddings=new)
    assert (codes >= 0).all()
    assert (codes < np.array(tokenizer.code_sizes)).all()
    assert {name: tokenizer.tool_index[name] for name in NAMES} == before
    for row, near in zip(codes.tolist(), nearest.tolist(), strict=True):
        if policy != "reassign":
            assert row[: len(near)] == near
        elif tuple(near) not in before.values() and nearest.tolist().count(near) == 1:
            assert row == near  # nobody is in the way
    if policy != "share":
        assert len({*before.values(), *map(tuple, codes.tolist())}) == TOOLS + len(new)
    for name in names:
        assert name in tokenizer.decode_tool(tokenizer.encode_tool(name))
