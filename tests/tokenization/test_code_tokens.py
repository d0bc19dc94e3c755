"""Contract: every code has one token text; text and (position, code) pairs go into each other without loss."""

from __future__ import annotations

import itertools
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolscaler.errors import TokenizationError
from toolscaler.tokenization import (
    all_code_tokens,
    code_offsets,
    code_token,
    codes_to_text,
    find_codes,
    position_letters,
)
from toolscaler.tokenization.code_tokens import check_code_sizes, neutralise_codes

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=30).map(tuple)


def test_letters_count_like_spreadsheet_columns():
    # Slow twin: all words of one letter, then all of two, then three, in dictionary order.
    words = ("".join(word) for length in (1, 2, 3) for word in itertools.product(string.ascii_lowercase, repeat=length))
    for position, word in zip(range(2000), words, strict=False):
        assert position_letters(position) == word
    with pytest.raises(TokenizationError):
        position_letters(-1)


def test_the_papers_example():
    assert codes_to_text([282, 123, 144, 204]) == "<a_282><b_123><c_144><d_204>"
    assert code_token(27, 3) == "<ab_3>"


@given(SIZES)
def test_tokens_are_distinct_and_offsets_point_at_them(sizes):
    tokens = all_code_tokens(sizes)
    assert len(set(tokens)) == len(tokens) == sum(sizes)
    offsets = code_offsets(sizes)
    assert offsets.dtype == np.int64
    assert offsets.shape == (len(sizes),)
    for position, size in enumerate(sizes):
        for code in range(size):
            assert tokens[offsets[position] + code] == code_token(position, code)


@given(SIZES, st.data())
def test_text_round_trip(sizes, data):
    pairs = data.draw(
        st.lists(
            st.integers(0, len(sizes) - 1).flatmap(lambda p: st.tuples(st.just(p), st.integers(0, sizes[p] - 1))),
            max_size=8,
        )
    )
    between = st.text("xyz 09,.\n", max_size=3)
    text = "".join(data.draw(between) + code_token(*pair) for pair in pairs) + data.draw(between)
    assert find_codes(text, sizes) == pairs
    assert find_codes(neutralise_codes(text, sizes), sizes) == []


@pytest.mark.parametrize(
    "text", ["<a_2>", "<c_0>", "<a_01>", "<a_>", "<A_0>", "<a_0", "a_0>", "<a_-1>", "<a 0>", "<a_0 >"]
)
def test_lookalikes_are_no_codes(text):
    assert find_codes(text, (2, 2)) == []
    assert neutralise_codes(text, (2, 2)) == text


def test_neutralised_text_keeps_every_other_character():
    assert neutralise_codes("<<a_1>> {x} <a_7>", (2,)) == "<< a_1>> {x} <a_7>"


@pytest.mark.parametrize("sizes", [(), (0,), (4, -1), (2.5,), (True,), ("4",)])
def test_bad_code_sizes_are_refused(sizes):
    with pytest.raises(TokenizationError, match="code_sizes"):
        check_code_sizes(sizes)


def test_numpy_sizes_become_plain_integers():
    assert [type(size) for size in check_code_sizes(np.array([3, 4]))] == [int, int]
