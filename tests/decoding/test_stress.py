"""Contract: whatever the logits are, what is decoded is a tool's sequence, and an allowed one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler import CodeTrie, PrefixConstrainedLogitsProcessor
from toolscaler.errors import DecodingError

FIRST, EOS = 3, 2  # ids below FIRST are no codes


def catalogue(rng, tools: int, length: int, size: int, *, shared: bool, one_prefix: bool, suffix: bool) -> np.ndarray:
    """Draw a catalogue: token ids (tools, length), a range of ids for each position."""
    codes = rng.integers(0, size, (tools, length))
    if one_prefix and length > 1:
        codes[:, :-1] = codes[0, :-1]
    if suffix:  # equal codes, told apart by one more position that counts
        seen: dict = {}
        codes = np.array(
            [[*row, seen.setdefault(tuple(row), []).append(0) or len(seen[tuple(row)]) - 1] for row in codes]
        )
    elif not shared:
        codes = np.unique(codes, axis=0)
        rng.shuffle(codes)
    offsets = np.concatenate([[0], np.cumsum(codes.max(0) + 1)[:-1]])
    return codes + offsets + FIRST


def sampled(processor, vocabulary: int, rows: int, length: int, rng: torch.Generator) -> np.ndarray:
    """Decode greedily with fresh random logits at every step, which is sampling; give the generated ids."""
    ids = torch.ones(rows, 2, dtype=torch.long)
    for _ in range(length):
        scores = torch.randn(rows, vocabulary, generator=rng) * 5
        ids = torch.cat([ids, processor(ids, scores).argmax(1, keepdim=True)], 1)
    return ids[:, 2:].numpy()


catalogues = st.fixed_dictionaries(
    {
        "tools": st.sampled_from([1, 2, 7, 60]),
        "length": st.integers(1, 8),
        "size": st.sampled_from([1, 2, 5, 64, 512]),
        "shared": st.booleans(),
        "one_prefix": st.booleans(),
        "suffix": st.booleans(),
    }
)


@settings(max_examples=150, deadline=None)
@given(catalogues, st.integers(0, 2**32 - 1), st.booleans())
def test_random_catalogues_decode_to_tools_only(shape, seed, reuse):
    rng = np.random.default_rng(seed)
    sequences = catalogue(rng, **shape)
    trie = CodeTrie.from_token_sequences(sequences)
    kept = rng.random(len(trie)) < 0.4
    kept[rng.integers(len(trie))] = True
    allowed = trie.subset(mask=kept)
    vocabulary, generator = int(sequences.max()) + 3, torch.Generator().manual_seed(seed % 2**31)
    for some, legal in ((trie, sequences), (allowed, sequences[kept])):
        processor = PrefixConstrainedLogitsProcessor(some, EOS, reuse_buffer=reuse)
        found = sampled(processor, vocabulary, 40, sequences.shape[1] + 1, generator)
        assert {tuple(row) for row in found.tolist()} <= {(*row, EOS) for row in legal.tolist()}


@settings(max_examples=60, deadline=None)
@given(catalogues, st.integers(0, 2**32 - 1))
def test_rows_with_callers_of_their_own(shape, seed):
    """Each row of the batch has its own allow-list; three rows each, as beams make them."""
    rng = np.random.default_rng(seed)
    sequences = catalogue(rng, **shape)
    trie = CodeTrie.from_token_sequences(sequences)
    masks = rng.random((5, len(trie))) < 0.3
    masks[np.arange(5), rng.integers(len(trie), size=5)] = True
    masks[3] = True  # one caller may use everything
    processor = PrefixConstrainedLogitsProcessor([trie.subset(mask=mask) for mask in masks], EOS)
    generator = torch.Generator().manual_seed(seed % 2**31)
    found = sampled(processor, int(sequences.max()) + 1, 15, sequences.shape[1] + 1, generator)
    for row, ids in enumerate(found.tolist()):
        assert tuple(ids) in {(*legal, EOS) for legal in sequences[masks[row // 3]].tolist()}


@pytest.mark.parametrize("reuse", [False, True], ids=["fresh", "reused"])
def test_a_million_decodes_without_an_illegal_one(reuse):
    rng, generator = np.random.default_rng(5), torch.Generator().manual_seed(5)
    sequences = catalogue(rng, tools=3000, length=4, size=12, shared=False, one_prefix=False, suffix=False)
    trie = CodeTrie.from_token_sequences(sequences)
    half = trie.subset(mask=rng.random(len(trie)) < 0.5)
    decoded, seen = 0, set()
    place = 64 ** np.arange(5)
    legal = {True: set(), False: set()}
    for some in (trie, half):
        legal[some is trie] = set(np.column_stack([some.sequences, np.full(len(some), EOS)]) @ place)
    for batch in range(50):
        some = half if batch % 2 else trie
        processor = PrefixConstrainedLogitsProcessor(some, EOS, reuse_buffer=reuse)
        found = sampled(processor, 64, 10_000, 5, generator) @ place
        assert set(found.tolist()) <= legal[some is trie]
        seen |= set(found.tolist())
        decoded += len(found)
    assert decoded == 500_000  # and as many again with the other buffer
    assert len(seen) > 0.95 * len(trie)  # the mask is no narrower than the catalogue either


@pytest.mark.parametrize("tools", [46_985, 1_000_000])
def test_masks_of_large_catalogues_equal_a_search_through_all_tools(tools):
    rng = np.random.default_rng(1)
    codes = np.unique(rng.integers(0, 512, (tools, 4)) ** 2 // 512, axis=0)
    sequences = rng.permutation(codes) + 512 * np.arange(4) + FIRST
    trie = CodeTrie.from_token_sequences(sequences)
    mask = rng.random(len(trie)) < 0.3
    part = trie.subset(mask=mask)
    vocabulary = FIRST + 2048 + 5
    for depth in range(4):
        rows = rng.choice(len(trie), 6)
        ids = torch.tensor(np.column_stack([np.ones((6, 1), dtype=int), sequences[rows, :depth]]))
        scores = torch.randn(6, vocabulary)
        for some, present in ((trie, sequences), (part, sequences[mask])):
            masked = PrefixConstrainedLogitsProcessor(some, EOS, prompt_length=1)(ids, scores)
            for row in range(6):
                under = present[(present[:, :depth] == ids[row, 1:].numpy()).all(1)]
                legal = np.unique(under[:, depth]).tolist() or [EOS]
                assert torch.nonzero(masked[row] != -torch.inf).flatten().tolist() == legal
                assert torch.equal(masked[row, legal], scores[row, legal])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=["nan", "inf"])
def test_logits_that_are_no_numbers_name_their_rows(bad):
    trie = CodeTrie.from_token_sequences([[3, 5], [4, 6]])
    scores = torch.randn(3, 8)
    scores[1, 4] = bad
    processor = PrefixConstrainedLogitsProcessor(trie, EOS)
    with pytest.raises(DecodingError, match=r"row.*\b1\b"):
        processor(torch.ones(3, 1, dtype=torch.long), scores)
    scores[1, 4], scores[2, 7] = -torch.inf, bad  # forbidden by another processor; and not among the allowed
    assert processor(torch.ones(3, 1, dtype=torch.long), scores).isfinite().sum() == 5
