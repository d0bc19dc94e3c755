"""The Graphs tools against hand-known answers and brute force."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.starter.tools import graphs

NAMES = "abcdef"
ROADS = [["A", "B", 4], ["A", "C", 2], ["C", "B", 1], ["B", "D", 5], ["C", "D", 8], ["X", "Y", 1]]

links = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), min_size=1, max_size=10)
weighted = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES), st.integers(0, 9)), min_size=1, max_size=8
)


def _nodes(edges):
    return sorted({name for edge in edges for name in edge[:2]})


def _reach(edges, directed):
    """Reachability by repeated squaring of the relation (Warshall)."""
    nodes = _nodes(edges)
    able = {(n, n) for n in nodes} | {tuple(e[:2]) for e in edges}
    if not directed:
        able |= {(b, a) for a, b in able}
    for middle, first, last in itertools.product(nodes, repeat=3):
        if (first, middle) in able and (middle, last) in able:
            able.add((first, last))
    return able


def _pieces(edges):
    able = _reach(edges, False)
    return {frozenset(b for b in _nodes(edges) if (a, b) in able) for a in _nodes(edges)}


def test_shortest_path_known():
    assert graphs.shortest_path(ROADS, "A", "D") == {"path": ["A", "C", "B", "D"], "length": 8}
    assert graphs.shortest_path(ROADS, "D", "A") == {"path": ["D", "B", "C", "A"], "length": 8}
    assert graphs.shortest_path(ROADS, "D", "A", directed=True) == {"path": None, "length": None}
    assert graphs.shortest_path(ROADS, "A", "X") == {"path": None, "length": None}
    assert graphs.shortest_path(ROADS, "A", "A") == {"path": ["A"], "length": 0}
    assert graphs.shortest_path([["a", "b", 5], ["b", "a", 2]], "a", "b")["length"] == 2


@given(weighted, st.booleans())
def test_shortest_path_by_brute_force(edges, directed):
    nodes = _nodes(edges)
    distance = {(a, b): 0 if a == b else math.inf for a in nodes for b in nodes}
    for a, b, length in edges:
        distance[a, b] = min(distance[a, b], length)
        if not directed:
            distance[b, a] = min(distance[b, a], length)
    steps = dict(distance)
    for k, i, j in itertools.product(nodes, repeat=3):
        distance[i, j] = min(distance[i, j], distance[i, k] + distance[k, j])
    for i, j in itertools.product(nodes, repeat=2):
        result = graphs.shortest_path(edges, i, j, directed)
        if distance[i, j] == math.inf:
            assert result == {"path": None, "length": None}
        else:
            path = result["path"]
            assert result["length"] == distance[i, j] == sum(steps[link] for link in itertools.pairwise(path))
            assert (path[0], path[-1]) == (i, j)


@pytest.mark.parametrize(
    "edges",
    [[["A", "B", -1]], [["A", "B"]], [["A", 2, 3]], [["A", "B", "far"]], [["A", "B", math.nan]], ["AB1"], "AB", None],
)
def test_bad_weighted_edges(edges):
    with pytest.raises(ValueError, match="edges"):
        graphs.shortest_path(edges, "A", "B")
    with pytest.raises(ValueError, match="edges"):
        graphs.minimum_spanning_tree(edges)
    with pytest.raises(ValueError, match="edges"):
        graphs.maximum_flow(edges, "A", "B")


@pytest.mark.parametrize("edges", [[["A", "B", 1]], [["A"]], [["A", ""]], [["A", None]], ["AB"], 3])
def test_bad_plain_edges(edges):
    for call in (
        graphs.connected_components,
        graphs.topological_order,
        graphs.find_cycle,
        graphs.node_degrees,
        graphs.bipartite_groups,
        graphs.bridge_edges,
        lambda given: graphs.reachable_nodes(given, "A"),
        lambda given: graphs.direct_neighbours(given, "A"),
    ):
        with pytest.raises(ValueError, match="edges"):
            call(edges)


def test_unknown_nodes():
    for call in (
        lambda: graphs.shortest_path(ROADS, "A", "Q"),
        lambda: graphs.shortest_path(ROADS, "Q", "A"),
        lambda: graphs.reachable_nodes([["A", "B"]], "Q"),
        lambda: graphs.direct_neighbours([["A", "B"]], "Q"),
        lambda: graphs.maximum_flow(ROADS, "A", "Q"),
    ):
        with pytest.raises(ValueError, match="'Q' is not in the graph"):
            call()


def test_connected_components_known():
    edges = [["a", "b"], ["c", "b"], ["d", "e"]]
    assert graphs.connected_components(edges) == [["a", "b", "c"], ["d", "e"]]
    assert graphs.connected_components(edges, ["z", "a"])[-1] == ["z"]
    assert graphs.connected_components([]) == []


@given(links)
def test_connected_components_by_brute_force(edges):
    groups = graphs.connected_components(edges)
    assert {frozenset(group) for group in groups} == _pieces(edges)
    assert sorted(itertools.chain(*groups)) == _nodes(edges)


def test_topological_order_known():
    edges = [["socks", "shoes"], ["trousers", "shoes"], ["trousers", "belt"]]
    assert graphs.topological_order(edges) == ["socks", "trousers", "belt", "shoes"]
    assert graphs.topological_order([["b", "a"], ["b", "a"]], ["c"]) == ["b", "a", "c"]
    with pytest.raises(ValueError, match=r"circle.*: a, b"):
        graphs.topological_order([["a", "b"], ["b", "a"], ["x", "y"]])
    with pytest.raises(ValueError, match="circle"):
        graphs.topological_order([["a", "a"]])


@given(links)
def test_order_exists_exactly_when_there_is_no_cycle(edges):
    cycle = graphs.find_cycle(edges)
    able = _reach(edges, True)
    cyclic = any(a == b or (b, a) in able for a, b in edges)
    assert bool(cycle) == cyclic
    if cyclic:
        assert cycle[0] == cycle[-1]
        assert len(set(cycle)) == len(cycle) - 1
        assert set(itertools.pairwise(cycle)) <= set(edges)
        with pytest.raises(ValueError, match="circle"):
            graphs.topological_order(edges)
    else:
        order = graphs.topological_order(edges)
        assert sorted(order) == _nodes(edges)
        assert all(order.index(a) < order.index(b) for a, b in edges)


def test_find_cycle_known():
    assert graphs.find_cycle([["a", "b"], ["b", "c"], ["c", "a"]]) == ["a", "b", "c", "a"]
    assert graphs.find_cycle([["a", "b"], ["b", "c"], ["a", "c"]]) == []
    assert graphs.find_cycle([["a", "b"], ["b", "c"], ["a", "c"]], directed=False) == ["a", "b", "c", "a"]
    assert graphs.find_cycle([["a", "b"], ["b", "a"]], directed=False) == []
    assert graphs.find_cycle([["a", "b"], ["b", "a"]]) == ["a", "b", "a"]
    assert graphs.find_cycle([["a", "a"]], directed=False) == ["a", "a"]


@given(links)
def test_undirected_cycle_by_counting(edges):
    different = {frozenset(edge) for edge in edges}
    cyclic = len(different) > len(_nodes(edges)) - len(_pieces(edges))
    cycle = graphs.find_cycle(edges, directed=False)
    assert bool(cycle) == cyclic
    assert all(frozenset(link) in different for link in itertools.pairwise(cycle))
    assert len(cycle) in (0, 2) or len(cycle) >= 4


def test_minimum_spanning_tree_known():
    result = graphs.minimum_spanning_tree(ROADS)
    assert result == {
        "edges": [["C", "B", 1], ["X", "Y", 1], ["A", "C", 2], ["B", "D", 5]],
        "total": 9,
        "connected": False,
    }
    assert graphs.minimum_spanning_tree(ROADS[:5])["connected"]
    assert graphs.minimum_spanning_tree([]) == {"edges": [], "total": 0, "connected": True}


@settings(max_examples=50)
@given(weighted)
def test_minimum_spanning_tree_by_brute_force(edges):
    result = graphs.minimum_spanning_tree(edges)
    pieces = _pieces(edges)
    size = len(_nodes(edges)) - len(pieces)
    cheapest = min(
        (
            sum(edge[2] for edge in chosen)
            for chosen in itertools.combinations(edges, size)
            if _pieces([*chosen, *([n, n] for n in _nodes(edges))]) == pieces
        ),
    )
    assert result["total"] == cheapest
    assert len(result["edges"]) == size
    assert result["connected"] == (len(pieces) == 1)


def test_node_degrees():
    edges = [["a", "b"], ["a", "c"], ["a", "b"], ["d", "d"]]
    assert graphs.node_degrees(edges) == [
        {"node": "a", "degree": 3},
        {"node": "b", "degree": 2},
        {"node": "d", "degree": 2},
        {"node": "c", "degree": 1},
    ]
    assert graphs.node_degrees(edges, directed=True)[0] == {"node": "a", "degree": 3, "in": 0, "out": 3}
    assert graphs.node_degrees([]) == []


@given(links)
def test_degrees_sum_to_twice_the_edges(edges):
    records = graphs.node_degrees(edges, directed=True)
    assert sum(record["degree"] for record in records) == 2 * len(edges)
    assert sum(record["in"] for record in records) == sum(record["out"] for record in records) == len(edges)


def test_bipartite_groups_known():
    square = [["a", "b"], ["b", "c"], ["c", "d"], ["d", "a"]]
    assert graphs.bipartite_groups(square) == {
        "bipartite": True,
        "groups": [["a", "c"], ["b", "d"]],
        "odd_cycle": [],
    }
    triangle = graphs.bipartite_groups([["a", "b"], ["b", "c"], ["c", "a"]])
    assert not triangle["bipartite"]
    assert set(triangle["odd_cycle"]) == {"a", "b", "c"}
    assert graphs.bipartite_groups([["a", "a"]])["odd_cycle"] == ["a", "a"]


@given(links)
def test_bipartite_by_brute_force(edges):
    nodes = _nodes(edges)
    possible = any(
        all(colour[a] != colour[b] for a, b in edges)
        for colour in (dict(zip(nodes, c, strict=True)) for c in itertools.product((0, 1), repeat=len(nodes)))
    )
    result = graphs.bipartite_groups(edges)
    assert result["bipartite"] == possible
    if possible:
        first, second = result["groups"]
        assert sorted(first + second) == nodes
        assert all((a in first) != (b in first) for a, b in edges)
    else:
        cycle = result["odd_cycle"]
        different = {frozenset(edge) for edge in edges}
        assert cycle[0] == cycle[-1]
        assert len(cycle) % 2 == 0, "an odd number of links"
        assert len(set(cycle)) == len(cycle) - 1
        assert all(frozenset(link) in different for link in itertools.pairwise(cycle))


def test_reachable_nodes():
    edges = [["a", "b"], ["b", "c"], ["d", "a"], ["c", "b"]]
    assert graphs.reachable_nodes(edges, "a") == [{"node": "b", "hops": 1}, {"node": "c", "hops": 2}]
    assert graphs.reachable_nodes(edges, "a", max_hops=1) == [{"node": "b", "hops": 1}]
    assert [r["node"] for r in graphs.reachable_nodes(edges, "c", directed=False)] == ["b", "a", "d"]
    with pytest.raises(ValueError, match="max_hops"):
        graphs.reachable_nodes(edges, "a", max_hops=0)


@given(links, st.booleans())
def test_reachable_by_brute_force(edges, directed):
    able = _reach(edges, directed)
    for start in _nodes(edges):
        found = {record["node"] for record in graphs.reachable_nodes(edges, start, directed)}
        assert found == {b for a, b in able if a == start} - {start}


def test_direct_neighbours():
    edges = [["a", "b"], ["c", "a"], ["b", "d"], ["a", "b"]]
    assert graphs.direct_neighbours(edges, "a") == ["b", "c"]
    assert graphs.direct_neighbours(edges, "a", "out") == ["b"]
    assert graphs.direct_neighbours(edges, "a", "in") == ["c"]
    assert graphs.direct_neighbours([["a", "a"]], "a") == ["a"]
    with pytest.raises(ValueError, match="direction"):
        graphs.direct_neighbours(edges, "a", "sideways")


def test_maximum_flow_known():
    pipes = [["s", "a", 10], ["s", "b", 5], ["a", "b", 15], ["a", "t", 4], ["b", "t", 10]]
    assert graphs.maximum_flow(pipes, "s", "t") == {"flow": 14, "bottleneck": [["a", "t"], ["b", "t"]]}
    assert graphs.maximum_flow(pipes, "t", "s") == {"flow": 0, "bottleneck": []}
    assert graphs.maximum_flow([["s", "t", 1], ["s", "t", 2]], "s", "t") == {"flow": 3, "bottleneck": [["s", "t"]]}
    with pytest.raises(ValueError, match="sink"):
        graphs.maximum_flow(pipes, "s", "s")


@given(weighted)
def test_maximum_flow_equals_the_least_cut(edges):
    nodes = _nodes(edges)
    if len(nodes) < 2:
        return
    source, sink, *rest = nodes
    cuts = []
    for size in range(len(rest) + 1):
        for side in itertools.combinations(rest, size):
            near = {source, *side}
            cuts.append(sum(c for a, b, c in edges if a in near and b not in near))
    result = graphs.maximum_flow(edges, source, sink)
    assert result["flow"] == min(cuts)
    assert sum(c for a, b, c in edges if [a, b] in result["bottleneck"]) == min(cuts)


def test_bridge_edges_known():
    edges = [["a", "b"], ["b", "c"], ["c", "a"], ["d", "c"], ["e", "d"], ["d", "e"]]
    assert graphs.bridge_edges(edges) == [["c", "d"]]
    assert graphs.bridge_edges([["b", "a"], ["b", "c"], ["c", "c"]]) == [["a", "b"], ["b", "c"]]
    assert graphs.bridge_edges([]) == []


@given(links)
def test_bridges_by_removal(edges):
    expected = []
    loops = [(node, node) for node in _nodes(edges)]
    for index, (a, b) in enumerate(edges):
        without = [*edges[:index], *edges[index + 1 :], *loops]
        if len(_pieces(without)) > len(_pieces(edges)):
            expected.append(sorted([a, b]))
    assert graphs.bridge_edges(edges) == sorted(expected)


def test_long_chains_need_no_deep_recursion():
    chain = [[f"n{i:05}", f"n{i + 1:05}"] for i in range(5000)]
    assert graphs.find_cycle(chain) == []
    assert len(graphs.bridge_edges(chain)) == 5000
    with pytest.raises(ValueError, match="at most 10000"):
        graphs.find_cycle(chain * 3)
