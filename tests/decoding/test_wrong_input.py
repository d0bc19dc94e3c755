"""Contract: whatever comes in, what comes out is a result or an error of this library's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler import CodeTrie, PrefixConstrainedLogitsProcessor
from toolscaler.errors import DecodingError, ToolscalerError

TRIE = CodeTrie.from_token_sequences([[5, 9], [5, 10], [6, 11], [7]])
WRONG = [
    None,
    "ab",
    3.5,
    [1.5, 2.5],
    np.array([0.5]),
    np.array(["a"]),
    np.array([None]),
    np.array([10**9]),
    np.array([7.0]),
    torch.tensor([0.5]),
    [[1], [2, 3]],
    np.array([True]),
    {},
    np.array([2**63], dtype=np.uint64),
]


@pytest.mark.parametrize("trie", [TRIE, TRIE.subset(tools=["0", "3"])], ids=["whole", "view"])
@pytest.mark.parametrize("number", range(len(WRONG)))
def test_a_trie_refuses_what_are_no_nodes(trie, number):
    for name in ("expand", "children", "is_end", "allows", "depths"):
        with pytest.raises(DecodingError, match="nodes"):
            getattr(trie, name)(WRONG[number])
    with pytest.raises(DecodingError, match="prefixes"):
        trie.walk(WRONG[number])
    with pytest.raises(DecodingError, match="nodes"):
        trie.advance(WRONG[number], np.array([0]))
    with pytest.raises(DecodingError, match="node"):
        trie.tools_at(WRONG[number])
    if number != 1:
        with pytest.raises(DecodingError, match="tool_id"):
            trie.row_of(WRONG[number])


def test_a_trie_takes_integers_of_any_kind():
    for nodes in ([0, 1], np.array([0, 1], dtype=np.uint8), torch.tensor([0, 1]), np.array([0, -1])):
        assert len(TRIE.is_end(nodes)) == 2
    assert TRIE.expand([])[0].tolist() == TRIE.is_end([]).tolist() == []
    with pytest.raises(DecodingError, match="one for each of 2"):
        TRIE.advance(np.array([0, 0]), np.array([5]))


IDS, SCORES = torch.ones(2, 3, dtype=torch.long), torch.randn(2, 20)


@pytest.mark.parametrize("tries", [TRIE, [TRIE, TRIE.subset(tools=["3"])]], ids=["one", "a row each"])
def test_a_processor_refuses_what_is_no_step(tries):
    processor = PrefixConstrainedLogitsProcessor(tries, 2)
    assert processor(IDS, SCORES).shape == SCORES.shape
    for ids, scores in [
        (IDS.float(), SCORES),
        (IDS.bool(), SCORES),
        (IDS, SCORES.long()),
        (IDS, SCORES.to(torch.complex64)),
        (IDS[0], SCORES),
        (IDS, SCORES[0]),
        (IDS[:1], SCORES),
        (IDS, SCORES[:1]),
        (None, SCORES),
        (IDS, None),
        (IDS.numpy(), SCORES),
        (IDS, SCORES.numpy()),
        (IDS.to("meta"), SCORES),
        (IDS, SCORES.to("meta")),
        (IDS[..., None], SCORES),
        (IDS, SCORES[..., None]),
    ]:
        with pytest.raises(DecodingError, match="expected"):
            processor(ids, scores)
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        assert processor(IDS.int(), SCORES.to(kind)).dtype == kind


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 3),
    st.integers(0, 6),
    st.integers(0, 24),
    st.lists(st.sampled_from([-1, 0, 2, 5, 6, 7, 9, 11, 10**6, -(10**9), 2**62]), min_size=18, max_size=18),
)
def test_any_ids_of_any_shape(rows, width, columns, values):
    ids = torch.tensor(values[: rows * width], dtype=torch.long).reshape(rows, width)
    processor = PrefixConstrainedLogitsProcessor(TRIE, 2)
    try:
        masked = processor(ids, torch.zeros(rows, columns))
    except ToolscalerError:
        assert columns < 12
    else:
        kept = {tuple(torch.nonzero(row == 0).flatten().tolist()) for row in masked}
        assert kept <= {(5, 6, 7), (9, 10), (11,), (2,)}  # the first codes, the second ones, or the end
