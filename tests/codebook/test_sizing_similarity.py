"""Contract: small catalogues lower K, R and L as documented; code distances equal their definitions."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from toolscaler.codebook import CatalogueSizeWarning, hamming_distance, prefix_similarity, shrink_for_catalogue
from toolscaler.errors import CodebookError


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        (1, (1, 1, 1)),
        (2, (2, 1, 1)),
        (3, (3, 2, 1)),
        (10, (5, 9, 2)),
        (132, (32, 32, 2)),
        (199, (32, 32, 2)),
        (1000, (128, 32, 2)),
        (2047, (256, 32, 2)),
    ],
)
def test_documented_values(tools, expected):
    with pytest.warns(CatalogueSizeWarning, match=f"{tools} tools") as caught:
        assert shrink_for_catalogue(tools, 512, 32, 4096, 2) == expected
    assert f"num_centroids 512 -> {expected[0]}" in str(caught[0].message)


@pytest.mark.parametrize(("tools", "asked"), [(2048, 512), (46_985, 512), (132, 33), (132, 16), (100, 3)])
def test_what_can_be_filled_is_kept_without_a_word(tools, asked):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shrink_for_catalogue(tools, asked, 32, 4096, 2) == (asked, 32, 2)


@given(st.integers(1, 5000), st.integers(1, 600), st.integers(1, 64), st.integers(1, 64), st.integers(1, 4))
def test_never_raised_always_possible(tools, centroids, reduced, hidden, levels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CatalogueSizeWarning)
        k, r, depth = shrink_for_catalogue(tools, centroids, reduced, hidden, levels)
        again = shrink_for_catalogue(tools, k, r, hidden, depth)
    assert 1 <= k <= min(centroids, tools)
    assert 1 <= r <= min(reduced, hidden, max(tools - 1, 1))
    assert 1 <= depth <= levels
    if k < centroids:  # shrinking itself never takes away the room that the tools need
        assert k**depth >= tools
    assert again == (k, r, depth)


def test_values_below_one_are_refused():
    for place in range(5):
        values = [4, 4, 4, 4, 2]
        values[place] = 0
        with pytest.raises(CodebookError, match="at least 1, got 0"):
            shrink_for_catalogue(*values)


codes = hnp.arrays(np.int32, st.tuples(st.integers(0, 6), st.just(4)), elements=st.integers(0, 2))


@given(codes, codes)
def test_distances_by_definition(a, b):
    hamming, whole = hamming_distance(a, b), prefix_similarity(a, b)
    by_gist = prefix_similarity(a, b, num_levels=2)
    assert hamming.shape == whole.shape == by_gist.shape == (len(a), len(b))
    for x, y in np.ndindex(len(a), len(b)):
        equal = (a[x] == b[y]).tolist()
        assert hamming[x, y] == 4 - sum(equal)
        prefix = [*equal, False].index(False)
        assert whole[x, y] == prefix / 4
        parts = [[*equal[s : s + 2], False].index(False) for s in (0, 2)]
        assert by_gist[x, y] == sum(parts) / 4


def test_one_tool_and_one_catalogue():
    table = np.array([[0, 1], [0, 2], [3, 1]])
    assert hamming_distance(table).tolist() == [[0, 1, 1], [1, 0, 2], [1, 2, 0]]
    assert hamming_distance(table[0], table).tolist() == [0, 1, 1]
    assert hamming_distance(table, table[0]).tolist() == [0, 1, 1]
    assert hamming_distance(table[0], table[1]) == 1
    assert prefix_similarity(table[0], table).tolist() == [1.0, 0.5, 0.0]


def test_lengths_must_agree():
    with pytest.raises(CodebookError, match="one length"):
        hamming_distance(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(CodebookError, match="num_levels"):
        prefix_similarity(np.zeros((2, 4)), num_levels=0)
