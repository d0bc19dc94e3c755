"""Contract: the host's part of a search keeps the best, and lays trees out so that each node sees its own path only."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler import CodeTrie
from toolscaler.decoding import search_plan as plan
from toolscaler.decoding.prefix_cache import common_prefix
from toolscaler.decoding.request import batches_of

SEQUENCES = st.lists(st.lists(st.integers(3, 6), min_size=1, max_size=4), min_size=1, max_size=25)


@given(
    values=st.lists(st.lists(st.sampled_from([-np.inf, -2.0, -1.5, -1.0, 0.0]), max_size=8), min_size=1, max_size=4),
    beams=st.integers(1, 9),
)
def test_keep_best_is_a_stable_sort(values, beams):
    owner = np.array([row for row, part in enumerate(values) for _ in part], dtype=np.int64)
    flat = np.array([value for part in values for value in part])
    kept = plan.keep_best(owner, flat, beams, len(values))
    expected = [
        place in sorted(range(len(part)), key=lambda k, part=part: -part[k])[:beams]
        for part in values
        for place in range(len(part))
    ]
    assert kept.tolist() == expected
    best = plan.best_of_each(owner, flat, len(values))
    assert best.tolist() == [max(part, default=-np.inf) for part in values]


def paths_of(trie: CodeTrie, levels: list[plan.Level]) -> list[list[tuple[int, ...]]]:
    """Give the tokens from the root to each node of each level, by the parents that the levels name."""
    paths = [[()] * len(levels[0])]
    for level in levels[1:]:
        paths.append([(*paths[-1][up], token) for up, token in zip(level.parent, level.token.tolist(), strict=True)])
    return paths


@settings(deadline=None)
@given(one=SEQUENCES, other=SEQUENCES, leaves=st.booleans(), forward=st.sampled_from([-(10**6), 0, 10**6]))
def test_a_plan_shows_each_node_its_path(one, other, leaves, forward):
    """Two queries with allow-lists of their own; all columns but those of a node's path are hidden from it."""
    whole = CodeTrie([*one, *other])
    views = [whole.subset(mask=np.arange(len(whole)) < len(one)), whole.subset(mask=np.arange(len(whole)) >= len(one))]
    tries = plan.Tries(views)
    live = tries.below(tries.root())
    assert [set(live.token[live.owner == q].tolist()) for q in (0, 1)] == [
        {row[0] for row in part} for part in (one, other)
    ]
    levels = plan.grow(tries, live, 3, plan.CostModel(forward, 10**6), leaves=leaves)
    if forward > 0 and len(levels[1]):
        assert not len(levels[-1])
    if forward < 0:
        assert len(levels) == 2
    if not leaves and not len(levels[1]):
        return
    feed = plan.plan_feed(levels, np.zeros((len(live), 0), dtype=bool), np.array([10, 20]), 1, leaves=leaves, padding=9)
    width = feed.ids.shape[1]
    paths = [[(token, *path) for token, path in zip(live.token.tolist(), [()] * len(live), strict=True)]]
    for level in levels[1:-1]:
        paths.append([(*paths[-1][up], token) for up, token in zip(level.parent, level.token.tolist(), strict=True)])
    place, seen_by = 0, {}
    for level, own, index in zip(levels, paths, feed.fed, strict=False):
        for node in index:
            query, column = divmod(int(feed.row[place]), width)
            place += 1
            assert query == level.owner[node]
            assert own[node] in {tuple(row[: len(own[node])]) for row in (one, other)[query]}
            assert feed.ids[query, column] == own[node][-1]
            assert feed.positions[query, column] == (10, 20)[query] + len(own[node]) - 1
            seen_by[query, column] = own[node]
    by_path = {(query, path): column for (query, column), path in seen_by.items()}
    assert len(by_path) == place == len(feed.row)
    for query in (0, 1):
        for column in range(width):
            path = seen_by.get((query, column))
            expected = {column} if path is None else {by_path[query, path[: k + 1]] for k in range(len(path))}
            assert set(np.flatnonzero(feed.visible[query, column]).tolist()) == expected
    if leaves:
        assert {path for (query, path) in by_path if query == 0} == {
            tuple(row[: k + 1]) for row in one for k in range(len(row)) if k < len(levels) - 1
        }


@given(sequences=SEQUENCES, limit=st.integers(1, 12))
def test_chunks_hold_every_sequence_once(sequences, limit):
    table = np.full((len(sequences), max(map(len, sequences))), -1, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        table[row, : len(sequence)] = sequence
    seen = []
    for chunk in plan.chunks_of(table, limit):
        paths = [[(token,) for token in chunk.levels[0].token.tolist()]]
        assert not chunk.levels[0].parent.any()
        for level in chunk.levels[1:]:
            paths.append(
                [(*paths[-1][up], token) for up, token in zip(level.parent, level.token.tolist(), strict=True)]
            )
        nodes = [path for level in paths for path in level]
        assert len(set(nodes)) == len(nodes)
        assert len(nodes) <= max(limit, len(sequences[chunk.rows[0]]))
        for row, level, index in zip(chunk.rows, chunk.level, chunk.index, strict=True):
            assert paths[level][index] == tuple(sequences[row])
        seen += chunk.rows.tolist()
    assert sorted(seen) == list(range(len(sequences)))


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=5))
def test_common_prefix(rows):
    expected = []
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        expected.append(column[0])
    assert common_prefix(rows) == expected


@given(
    lengths=st.lists(st.integers(1, 50), max_size=12),
    size=st.integers(1, 5),
    tokens=st.integers(1, 200),
    more=st.integers(0, 30),
)
def test_batches_keep_within_the_budget(lengths, size, tokens, more):
    batches = list(batches_of(lengths, size, tokens, [more] * len(lengths)))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= size
        assert len(batch) == 1 or len(batch) * (max(lengths[row] for row in batch) + more) <= tokens
    flat = [lengths[row] for batch in batches for row in batch]
    assert flat == sorted(flat, reverse=True)


def test_a_jump_pays_where_it_costs_less_than_the_forwards_it_saves():
    trie = CodeTrie(np.stack(np.unravel_index(np.arange(64), (4, 4, 4)), 1) + np.array([0, 4, 8]))
    for queries, forward, jumps in ((1, 20, False), (1, 40, True), (8, 40, False), (8, 400, True)):
        tries = plan.Tries([trie] * queries)
        live = tries.below(tries.root())
        # A query: 4 + 16 + 64 nodes in one forward, or 4 + 4 + 4 in three.
        levels = plan.grow(tries, live, 4, plan.CostModel(forward, 10**6), leaves=True)
        assert (len(levels) > 2) is jumps is (queries * (84 - 12) <= forward * 2)
        assert len(plan.grow(tries, live, 4, plan.CostModel(forward, 50), leaves=True)) == 2
