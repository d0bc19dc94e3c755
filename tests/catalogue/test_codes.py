"""Contract: new tools get free codes; where their place is taken, the free ones of least error with their own first
code. The twin lists every code sequence.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from toolscaler.catalogue.codes import moved_codes, new_codes
from toolscaler.codebook import Codebook
from toolscaler.codebook.collisions import squared_errors
from toolscaler.errors import CodeSpaceError


@pytest.fixture(scope="module")
def book():
    points = np.random.default_rng(0).normal(size=(30, 2, 12)).astype(np.float32)
    return Codebook.fit(points, num_levels=3, num_centroids=2, reduced_dim=4)  # few enough for an exact search


def best_free(book, gist, taken, prefix):
    """Every sequence with the prefix that is free, the one of least error."""
    every = [code for code in itertools.product(*map(range, book.code_sizes)) if code[: len(prefix)] == prefix]
    free = np.array([code for code in every if code not in taken], dtype=np.int32)
    errors = squared_errors(free, np.repeat(book.reduce(gist), len(free), axis=0), book.quantizers)
    return tuple(free[errors.argmin()].tolist())


@pytest.mark.parametrize("keep", [0, 1, 2, 4])
def test_a_crowded_place_gives_the_nearest_free_codes_with_the_kept_beginning(book, keep):
    rng = np.random.default_rng(keep)
    for _ in range(8):
        gist = rng.normal(size=(1, 2, 12)).astype(np.float32)
        natural = tuple(book.quantize(gist)[0].tolist())
        every = [code for code in itertools.product(*map(range, book.code_sizes)) if code != natural]
        rng.shuffle(every)
        # All but a few are taken; of those with the kept beginning one at least is free.
        free = [*every[:6], next(tuple(code) for code in every if tuple(code)[:keep] == natural[:keep])]
        taken = set(map(tuple, every)) - set(map(tuple, free)) | {natural}
        found = new_codes(book, gist, ["x"], np.array(sorted(taken)), keep_codes=keep)
        anywhere = best_free(book, gist, taken, ())
        within = anywhere if anywhere[:keep] == natural[:keep] else best_free(book, gist, taken, natural[:keep])
        assert tuple(found[0].tolist()) == within


def test_a_full_first_code_is_an_error_and_keep_codes_0_goes_elsewhere(book):
    gist = np.random.default_rng(1).normal(size=(1, 2, 12)).astype(np.float32)
    natural = tuple(book.quantize(gist)[0].tolist())
    below = [code for code in itertools.product(*map(range, book.code_sizes)) if code[0] == natural[0]]
    resting = set([code for code in below if code != natural][:5])
    present = np.array([code for code in below if code not in resting])
    with pytest.raises(
        CodeSpaceError, match=r"27 by tools, 5 retired.*reuse_retired=True gives .* 5 of these"
    ) as error:
        new_codes(book, gist, ["x"], present, resting)
    assert error.value.codes == natural
    assert tuple(new_codes(book, gist, ["x"], present)[0].tolist()) in resting
    assert new_codes(book, gist, ["x"], present, resting, keep_codes=0)[0, 0] != natural[0]


@pytest.mark.parametrize("policy", ["suffix", "share"])
def test_other_policies(policy):
    points = np.random.default_rng(0).normal(size=(30, 2, 12)).astype(np.float32)
    book = Codebook.fit(points, num_centroids=3, reduced_dim=4, collisions=policy)
    same = np.repeat(points[:1], 3, axis=0)
    found = new_codes(book, same, ["x", "y", "z"], book.codes)
    assert (found[:, :4] == book.codes[0, :4]).all()
    if policy == "suffix":
        assert len({tuple(row) for row in np.concatenate([book.codes, found]).tolist()}) == 33
        resting = {tuple(row) for row in found.tolist()}
        again = new_codes(book, same[:1], ["w"], book.codes, resting)
        assert tuple(again[0].tolist()) not in resting
        with pytest.raises(CodeSpaceError, match="taken"):
            new_codes(book, np.repeat(points[:1], 40, axis=0), list("abcdefghij" * 4), book.codes)


def test_tools_whose_place_is_the_same_do_not_move_and_others_do_not_swap(book):
    rng = np.random.default_rng(2)
    gists = rng.normal(size=(6, 2, 12)).astype(np.float32)
    present = new_codes(book, gists, list("abcdef"), book.codes[:0])
    still = moved_codes(book, gists, list("abcdef"), range(6), present)
    natural = book.quantize(gists)
    kept = (natural == present).all(axis=1)
    assert kept.any()
    assert (still[kept] == present[kept]).all()
    # Two tools exchange their documents: neither gets the other's codes, which rest.
    turned = moved_codes(book, gists[[1, 0]], ["a", "b"], [0, 1], present)
    codes = {tuple(row) for row in [*present[2:].tolist(), *turned.tolist()]}
    assert len(codes) == 6
    if kept[:2].all():
        assert tuple(turned[0].tolist()) != tuple(present[1].tolist())
