"""Contract: ``reassign`` gives unique codes whenever there is room, at little added error; twins are told apart.

``joint`` gives the least total error over the colliding tools, against full enumeration and scipy.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from toolscaler.codebook import Codebook, count_collisions, resolve_collisions
from toolscaler.codebook.checks import code_groups
from toolscaler.codebook.collisions import squared_errors, suffix_size
from toolscaler.codebook.quantizers import nearest_combinations
from toolscaler.codebook.residual_kmeans import encode_residual
from toolscaler.errors import CodebookError, MissingDependencyError


def problem(count, gists, levels, centroids, dim=3, seed=0, spread=0.3, distinct=None):
    """Crowded tools around a corner of the space: reduced embeddings, tables and nearest-centroid codes."""
    rng = np.random.default_rng(seed)
    tables = rng.normal(size=(gists, levels, centroids, dim)).astype(np.float32)
    tables[:, 1:] *= 0.4
    reduced = (rng.normal(size=(1, gists, dim)) + spread * rng.normal(size=(count, gists, dim))).astype(np.float32)
    if distinct:
        reduced = reduced[np.arange(count) % distinct]
    codes = np.concatenate([encode_residual(reduced[:, i], tables[i]) for i in range(gists)], axis=1)
    return codes, reduced, tables


def all_costs(reduced, tables):
    """The slow twin: squared error of every code sequence of the space for every tool, as a dictionary of vectors."""
    gists, levels, centroids, _ = tables.shape
    costs = {}
    for code in itertools.product(range(centroids), repeat=gists * levels):
        total = np.zeros(len(reduced))
        for gist in range(gists):
            point = sum(tables[gist, level, code[gist * levels + level]].astype(np.float64) for level in range(levels))
            total += ((reduced[:, gist] - point) ** 2).sum(axis=1)
        costs[code] = total
    return costs


def is_unique(codes):
    return len({tuple(row) for row in codes.tolist()}) == len(codes)


@pytest.mark.parametrize(("gists", "levels", "centroids"), [(1, 1, 5), (1, 2, 4), (2, 2, 3), (3, 1, 4), (2, 3, 2)])
def test_wide_beams_list_every_combination_in_order(gists, levels, centroids):
    _, reduced, tables = problem(6, gists, levels, centroids)
    costs, codes = nearest_combinations(reduced[:, 0], tables[0], centroids**levels)
    truth = all_costs(reduced[:, :1], tables[:1])
    assert costs.shape == (6, centroids**levels)
    assert (np.diff(costs, axis=1) >= 0).all()
    for tool in range(6):
        assert len({tuple(code) for code in codes[tool].tolist()}) == centroids**levels
        np.testing.assert_allclose(costs[tool], [truth[tuple(code)][tool] for code in codes[tool].tolist()], atol=1e-4)


def test_narrow_beams_give_true_costs_and_start_at_least_as_well_as_greedy():
    codes, reduced, tables = problem(50, 1, 2, 16, dim=4, seed=3)
    costs, found = nearest_combinations(reduced[:, 0], tables[0], 5)
    greedy = squared_errors(codes, reduced, tables)
    assert (costs[:, 0] <= greedy + 1e-4).all()
    for rank in range(5):
        np.testing.assert_allclose(costs[:, rank], squared_errors(found[:, rank], reduced, tables), atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(2, 4),
    st.integers(0, 10_000),
    st.sampled_from([1, 2, 8]),
    st.booleans(),
    st.data(),
)
def test_unique_whenever_there_is_room(gists, levels, centroids, seed, beam_width, crowd_of_twins, data):
    space = centroids ** (gists * levels)
    count = data.draw(st.integers(1, min(space, 60)))
    twins = data.draw(st.integers(1, count)) if crowd_of_twins else None
    codes, reduced, tables = problem(count, gists, levels, centroids, seed=seed, distinct=twins)
    result = resolve_collisions(codes, reduced, tables, beam_width=beam_width)
    assert is_unique(result.codes)
    groups, _ = code_groups(codes)
    lonely = np.bincount(groups)[groups] == 1
    np.testing.assert_array_equal(result.codes[lonely], codes[lonely])  # nobody is moved without need
    np.testing.assert_array_equal(result.moved, (result.codes != codes).any(axis=1))
    assert result.error_before == pytest.approx(squared_errors(codes, reduced, tables).sum())
    assert result.error_after == pytest.approx(squared_errors(result.codes, reduced, tables).sum())
    assert 0 <= result.codes.min() <= result.codes.max() < centroids


def test_the_space_can_be_filled_to_the_last_sequence():
    codes, reduced, tables = problem(81, 2, 2, 3, seed=1, spread=0.01)
    assert code_groups(codes)[1] < 5  # premise: nearly all tools collide
    assert is_unique(resolve_collisions(codes, reduced, tables, beam_width=1).codes)
    with pytest.raises(CodebookError, match=r"at most 81 tools .*3\^4.* got 82"):
        resolve_collisions(*problem(82, 2, 2, 3))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12))
def test_no_moved_tool_would_rather_have_a_free_sequence(seed, count):
    codes, reduced, tables = problem(count, 2, 2, 2, seed=seed)
    result = resolve_collisions(codes, reduced, tables, beam_width=4).codes  # 4 = K^L: the search is exact
    costs = all_costs(reduced, tables)
    used = {tuple(row) for row in result.tolist()}
    groups, _ = code_groups(codes)
    for tool in np.flatnonzero(np.bincount(groups)[groups] > 1):
        own = costs[tuple(result[tool].tolist())][tool]
        assert own <= min((cost[tool] for code, cost in costs.items() if code not in used), default=np.inf) + 1e-4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_a_pair_is_parted_at_the_least_possible_cost(seed):
    codes, reduced, tables = problem(2, 2, 2, 3, seed=seed, spread=0.1)
    assume((codes[0] == codes[1]).all())
    result = resolve_collisions(codes, reduced, tables, beam_width=9)
    costs = all_costs(reduced, tables)
    optimum = min(a[0] + b[1] for (x, a), (y, b) in itertools.product(costs.items(), repeat=2) if x != y)
    assert result.error_after == pytest.approx(optimum, rel=1e-4)


def test_crowds_come_close_to_the_exhaustive_optimum():
    ours = best = 0.0
    for seed in range(12):
        codes, reduced, tables = problem(4, 2, 1, 3, seed=seed, spread=0.05)
        assert code_groups(codes)[1] < 4
        ours += resolve_collisions(codes, reduced, tables).error_after
        groups, _ = code_groups(codes)
        crowd = np.bincount(groups)[groups] > 1
        costs = all_costs(reduced, tables)
        best += min(
            sum(costs[code][tool] for tool, code in enumerate(choice))
            for choice in itertools.permutations(costs, 4)
            if all(crowd[tool] or choice[tool] == tuple(codes[tool].tolist()) for tool in range(4))
        )
    assert best <= ours + 1e-6 <= 1.02 * best + 1e-6


def test_the_tool_that_would_lose_most_stays():
    tables = np.array([[[[0.0], [1.0], [10.0]]]], np.float32)
    reduced = np.array([[[0.4]], [[-0.3]], [[0.1]]], np.float32)  # nearest to 1.0 is the first
    result = resolve_collisions(np.zeros((3, 1), np.int32), reduced, tables).codes
    # Distances to the second choice: 0.36 - 0.16, 1.69 - 0.09, 0.81 - 0.01: tool 1 has most to lose.
    assert result[1, 0] == 0
    assert sorted(result[:, 0].tolist()) == [0, 1, 2]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_the_order_of_the_tools_does_not_matter(seed, random):
    codes, reduced, tables = problem(20, 2, 2, 3, seed=seed)
    order = list(range(20))
    random.shuffle(order)
    straight = resolve_collisions(codes, reduced, tables).codes
    shuffled = resolve_collisions(codes[order], reduced[order], tables).codes
    np.testing.assert_array_equal(shuffled, straight[order])


def test_sequences_in_use_are_never_given_again():
    codes, reduced, tables = problem(30, 2, 2, 3, seed=5)
    first = resolve_collisions(codes[:20], reduced[:20], tables).codes
    later = resolve_collisions(codes[20:], reduced[20:], tables, occupied=first).codes
    assert is_unique(np.concatenate([first, later]))
    suffixed = resolve_collisions(codes[:20], reduced[:20], tables, "suffix").codes
    later = resolve_collisions(codes[20:], reduced[20:], tables, "suffix", occupied=suffixed).codes
    assert is_unique(np.concatenate([suffixed, later]))
    np.testing.assert_array_equal(later[:, :4], codes[20:])
    with pytest.raises(CodebookError, match="beside 20 sequences"):
        resolve_collisions(*problem(62, 2, 2, 3), occupied=first)


def test_thousands_of_twins_end_soon():
    codes, reduced, tables = problem(3000, 2, 2, 16, dim=4, distinct=1)
    assert is_unique(resolve_collisions(codes, reduced, tables).codes)


def test_suffix_counts_in_order_and_fills_gaps():
    codes = np.array([[1, 1], [0, 2], [1, 1], [1, 1]])
    tables, reduced = np.zeros((2, 1, 3, 1), np.float32), np.zeros((4, 2, 1), np.float32)
    result = resolve_collisions(codes, reduced, tables, "suffix")
    assert result.codes.tolist() == [[1, 1, 0], [0, 2, 0], [1, 1, 1], [1, 1, 2]]
    assert not result.moved.any()
    assert suffix_size(result.codes) == 8
    occupied = np.array([[1, 1, 0], [1, 1, 2]])
    assert resolve_collisions(codes, reduced, tables, "suffix", occupied=occupied).codes[:, 2].tolist() == [1, 0, 3, 4]


def test_share_changes_nothing():
    codes, reduced, tables = problem(10, 1, 1, 2)
    result = resolve_collisions(codes, reduced, tables, "share")
    np.testing.assert_array_equal(result.codes, codes)
    assert result.added_error == 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 1)), max_size=25))
def test_counts_tell_duplicates_from_harmful_collisions(rows):
    codes = np.array([row[:2] for row in rows], np.int32).reshape(-1, 2)
    embeddings = np.array([[[float(row[2]), -0.0 if row[0] else 0.0]] for row in rows], np.float32).reshape(-1, 1, 2)
    counts = count_collisions(codes, embeddings)
    seen: dict[tuple[int, int], list[int]] = {}
    for a, b, content in rows:
        seen.setdefault((a, b), []).append(content)
    assert counts.num_codes == len(seen)
    assert counts.harmful == sum(len(set(group)) - 1 for group in seen.values())
    assert counts.duplicate == sum(len(group) - len(set(group)) for group in seen.values())
    assert counts.rate == pytest.approx((len(rows) - len(seen)) / len(rows) if rows else 0.0)


def test_bad_requests_are_refused():
    codes, reduced, tables = problem(4, 2, 2, 3)
    for arguments, message in (
        ((codes, reduced, tables, "drop"), "reassign, suffix, share"),
        ((codes[:, :3], reduced, tables), r"shape \(N, 4\)"),
        ((codes + 3, reduced, tables), "0 to 2 at position 0"),
        ((codes - 3, reduced, tables), "0 to 2"),
        ((codes.astype(float), reduced, tables), "integer codes"),
        ((codes, reduced[:3], tables), "reduced embeddings of shape"),
    ):
        with pytest.raises(CodebookError, match=message):
            resolve_collisions(*arguments)
    with pytest.raises(CodebookError, match="beam width"):
        resolve_collisions(codes, reduced, tables, beam_width=0)
    with pytest.raises(CodebookError, match=r"\(N, 5\)"):
        resolve_collisions(codes, reduced, tables, "suffix", occupied=codes)
    with pytest.raises(CodebookError, match="one row of codes"):
        count_collisions(codes, reduced[:2])


# ---------------------------------------------------------------- joint reassignment


def crowded(codes):
    groups, _ = code_groups(codes)
    return np.bincount(groups)[groups] > 1


def dense_optimum(codes, reduced, tables):
    """Slow twin: scipy's dense assignment of the colliding tools to every sequence that no other tool has."""
    optimize = pytest.importorskip("scipy.optimize")
    costs = all_costs(reduced, tables)
    crowd = crowded(codes)
    settled = {tuple(code) for code in codes[~crowd].tolist()}
    free = [code for code in costs if code not in settled]
    table = np.array([[costs[code][tool] for code in free] for tool in np.flatnonzero(crowd)]).reshape(-1, len(free))
    rows, columns = optimize.linear_sum_assignment(table)
    alone = sum(costs[tuple(codes[tool].tolist())][tool] for tool in np.flatnonzero(~crowd))
    return table[rows, columns].sum() + alone


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_against_full_enumeration(seed):
    codes, reduced, tables = problem(4, 2, 1, 3, seed=seed, spread=0.05)
    result = resolve_collisions(codes, reduced, tables, reassignment="joint", beam_width=3)
    costs, crowd = all_costs(reduced, tables), crowded(codes)
    best = min(
        sum(costs[code][tool] for tool, code in enumerate(choice))
        for choice in itertools.permutations(costs, 4)
        if all(crowd[tool] or choice[tool] == tuple(codes[tool].tolist()) for tool in range(4))
    )
    assert is_unique(result.codes)
    assert result.error_after == pytest.approx(best, rel=1e-4, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([(1, 2, 5), (2, 1, 6), (2, 2, 3), (3, 1, 4)]),
    st.integers(0, 10_000),
    st.floats(0.01, 0.6),
    st.booleans(),
    st.data(),
)
def test_against_dense_assignment(shape, seed, spread, twins, data):
    gists, levels, centroids = shape
    count = data.draw(st.integers(1, min(centroids ** (gists * levels), 40)))
    distinct = data.draw(st.integers(1, count)) if twins else None
    codes, reduced, tables = problem(count, *shape, seed=seed, spread=spread, distinct=distinct)
    width = centroids**levels  # lists are exact
    result = resolve_collisions(codes, reduced, tables, reassignment="joint", beam_width=width)
    assert is_unique(result.codes)
    np.testing.assert_array_equal(result.codes[~crowded(codes)], codes[~crowded(codes)])
    assert result.error_after == pytest.approx(dense_optimum(codes, reduced, tables), rel=1e-4, abs=1e-4)


def test_narrow_lists_are_lengthened_until_the_optimum_is_sure():
    # 25 tools at one point of 729 sequences: sixteen first candidates are too few for all.
    codes, reduced, tables = problem(120, 2, 3, 3, seed=2, spread=0.02)
    joint = resolve_collisions(codes, reduced, tables, reassignment="joint", beam_width=27)
    assert joint.error_after == pytest.approx(dense_optimum(codes, reduced, tables), rel=1e-4)
    greedy = resolve_collisions(codes, reduced, tables, beam_width=27)
    assert joint.error_after <= greedy.error_after + 1e-4
    narrow = resolve_collisions(codes, reduced, tables, reassignment="joint", beam_width=1)
    assert is_unique(narrow.codes)
    assert narrow.error_after <= 1.1 * joint.error_after


def test_the_space_can_be_filled_and_occupied_sequences_stay_out():
    codes, reduced, tables = problem(81, 2, 2, 3, seed=1, spread=0.01)
    full = resolve_collisions(codes, reduced, tables, reassignment="joint")
    assert is_unique(full.codes)
    first = resolve_collisions(codes[:50], reduced[:50], tables, reassignment="joint").codes
    rest = resolve_collisions(codes[50:], reduced[50:], tables, reassignment="joint", occupied=first).codes
    assert is_unique(np.concatenate([first, rest]))
    with pytest.raises(CodebookError, match=r"at most 81 tools .*3\^4.* beside 50"):
        resolve_collisions(*problem(32, 2, 2, 3), reassignment="joint", occupied=first)


def test_nothing_to_do_and_unknown_names():
    codes, reduced, tables = problem(1, 2, 2, 3)
    np.testing.assert_array_equal(resolve_collisions(codes, reduced, tables, reassignment="joint").codes, codes)
    with pytest.raises(CodebookError, match="reassignment of greedy, joint"):
        resolve_collisions(codes, reduced, tables, reassignment="some")


def test_a_codebook_keeps_its_reassignment(embeddings, make_embeddings):
    settings_ = {"num_centroids": 5, "reduced_dim": 4}
    greedy = Codebook.fit(embeddings, **settings_)
    joint = Codebook.fit(embeddings, **settings_, reassignment="joint")
    np.testing.assert_array_equal(greedy.quantize(embeddings), joint.quantize(embeddings))
    reduced = joint.reduce(embeddings)
    errors = [squared_errors(book.codes, reduced, book.quantizers).sum() for book in (greedy, joint)]
    assert errors[1] <= errors[0] + 1e-3
    new = make_embeddings(40, seed=4)
    assert is_unique(np.concatenate([joint.codes, joint.assign(new)]))
    assert Codebook.from_tensors(joint.to_tensors(), joint.to_config()).settings.reassignment == "joint"


def test_without_scipy_the_extra_is_named(monkeypatch):
    codes, reduced, tables = problem(20, 2, 2, 3, spread=0.01)
    monkeypatch.setitem(__import__("sys").modules, "scipy.sparse", None)
    with pytest.raises(MissingDependencyError, match=r"toolscaler\[train\]"):
        resolve_collisions(codes, reduced, tables, reassignment="joint")
