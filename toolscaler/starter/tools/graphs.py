"""Graphs: questions about nodes and the edges between them."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from toolscaler.starter.registry import starter_tool

_MAX_EDGES = 10_000
_MAX_FLOW_EDGES = 1_000
_Adjacency = dict[str, list[str]]


def _pairs(edges: Sequence[Sequence[Any]], size: int = 2, limit: int = _MAX_EDGES) -> list[tuple[Any, ...]]:
    """Check edges: ``size`` entries each, two node names and then, for 3, a number that is not negative."""
    form = "[node, node]" if size == 2 else "[node, node, number]"
    if not isinstance(edges, list | tuple) or len(edges) > limit:
        raise ValueError(f"edges: expected a list of at most {limit} edges {form}")
    checked: list[tuple[Any, ...]] = []
    for index, edge in enumerate(edges):
        if not isinstance(edge, list | tuple) or len(edge) != size:
            raise ValueError(f"edges[{index}]: expected {form}, got {edge!r}")
        if not all(isinstance(name, str) and name for name in edge[:2]):
            raise ValueError(f"edges[{index}]: node names are non-empty texts, got {edge!r}")
        if size == 3:
            number = edge[2]
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ValueError(f"edges[{index}]: the third entry is a number, got {edge!r}")
            if not math.isfinite(number) or number < 0:
                raise ValueError(f"edges[{index}]: the number must be finite and not negative, got {edge!r}")
        checked.append(tuple(edge))
    return checked


def _adjacency(pairs: Iterable[tuple[Any, ...]], directed: bool, extra: Iterable[str] = ()) -> _Adjacency:
    """Give the sorted neighbours of every node; repeated edges count once."""
    neighbours: dict[str, set[str]] = {node: set() for node in extra}
    for first, second, *_ in pairs:
        neighbours.setdefault(first, set()).add(second)
        neighbours.setdefault(second, set())
        if not directed:
            neighbours[second].add(first)
    return {node: sorted(neighbours[node]) for node in sorted(neighbours)}


def _known(name: str, node: str, graph: Iterable[str]) -> str:
    if node not in graph:
        raise ValueError(f"{name}: {node!r} is not in the graph")
    return node


def _distances(graph: _Adjacency, start: str) -> dict[str, int]:
    """Give the number of edges from ``start`` to each node that it reaches."""
    hops = {start: 0}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for other in graph[node]:
            if other not in hops:
                hops[other] = hops[node] + 1
                queue.append(other)
    return hops


def _path_back(previous: dict[str, str], goal: str) -> list[str]:
    path = [goal]
    while path[-1] in previous:
        path.append(previous[path[-1]])
    return path[::-1]


@starter_tool("Graphs")
def shortest_path(edges: list[tuple[str, str, float]], start: str, goal: str, directed: bool = False) -> dict[str, Any]:
    """Find the shortest, cheapest or fastest route between two nodes of a weighted network.

    Dijkstra's algorithm on edges with a length, cost or travel time each: the best way from one place to another and
    its total distance.

    Args:
        edges: Connections as [from, to, length]; lengths are not negative; use 1 everywhere to count stops.
        start: Node where the route begins.
        goal: Node where the route ends.
        directed: Whether edges go one way only, from the first node to the second.

    Returns:
        The path as a list of nodes and its total length; both null if the goal cannot be reached.

    Raises:
        ValueError: An edge is malformed or negative, or a node is unknown.
    """
    pairs = _pairs(edges, 3)
    graph = _adjacency(pairs, directed)
    lengths: dict[tuple[str, str], float] = {}
    for first, second, length in pairs:
        for link in ((first, second),) if directed else ((first, second), (second, first)):
            lengths[link] = min(length, lengths.get(link, length))
    best: dict[str, float] = {_known("start", start, graph): 0}
    _known("goal", goal, graph)
    previous: dict[str, str] = {}
    heap: list[tuple[float, str]] = [(0, start)]
    while heap:
        distance, node = heapq.heappop(heap)
        if node == goal:
            return {"path": _path_back(previous, goal), "length": distance}
        if distance > best[node]:
            continue
        for other in graph[node]:
            candidate = distance + lengths[node, other]
            if candidate < best.get(other, math.inf):
                best[other], previous[other] = candidate, node
                heapq.heappush(heap, (candidate, other))
    return {"path": None, "length": None}


@starter_tool("Graphs")
def connected_components(edges: list[tuple[str, str]], nodes: list[str] | None = None) -> list[list[str]]:
    """Split an undirected graph into its connected components: the clusters or islands that hang together.

    Which nodes belong to the same group because some chain of links joins them, and how many separate pieces the
    network has.

    Args:
        edges: Links as [node, node]; direction does not matter.
        nodes: Further nodes without any link, each a group of its own; null for none.

    Returns:
        The groups, largest first, each a sorted list of nodes.

    Raises:
        ValueError: An edge is malformed.
    """
    graph = _adjacency(_pairs(edges), False, nodes or ())
    seen: set[str] = set()
    groups: list[list[str]] = []
    for node in graph:
        if node not in seen:
            group = sorted(_distances(graph, node))
            seen.update(group)
            groups.append(group)
    return sorted(groups, key=lambda group: (-len(group), group))


@starter_tool("Graphs")
def topological_order(edges: list[tuple[str, str]], nodes: list[str] | None = None) -> list[str]:
    """Put tasks with prerequisites into an order in which every task comes after what it depends on.

    Topological sort of a directed acyclic graph: build order of packages, course plan, dressing order, a schedule that
    respects dependencies. Where there is a choice the alphabet decides.

    Args:
        edges: Dependencies as [before, after]: the first must be done before the second.
        nodes: Further tasks without any dependency; null for none.

    Returns:
        All tasks in a valid order.

    Raises:
        ValueError: An edge is malformed, or the dependencies go round in a circle.
    """
    graph = _adjacency(_pairs(edges), True, nodes or ())
    waiting = dict.fromkeys(graph, 0)
    for node in graph:
        for other in graph[node]:
            waiting[other] += 1
    ready = [node for node, count in waiting.items() if not count]
    heapq.heapify(ready)
    order: list[str] = []
    while ready:
        node = heapq.heappop(ready)
        order.append(node)
        for other in graph[node]:
            waiting[other] -= 1
            if not waiting[other]:
                heapq.heappush(ready, other)
    if len(order) < len(graph):
        stuck = ", ".join(sorted(set(graph) - set(order))[:10])
        raise ValueError(f"edges: the dependencies go round in a circle; it holds up: {stuck}")
    return order


@starter_tool("Graphs")
def find_cycle(edges: list[tuple[str, str]], directed: bool = True) -> list[str]:
    """Look for a cycle (loop, circular dependency) in a graph and show one.

    Tells whether links lead round in a circle, as with imports that need each other or a deadlock, or whether the
    graph is acyclic.

    Args:
        edges: Links as [from, to]; repeated links count once.
        directed: Whether links go one way only, from the first node to the second.

    Returns:
        The nodes along one cycle, first and last the same; empty if there is none.

    Raises:
        ValueError: An edge is malformed.
    """
    graph = _adjacency(_pairs(edges), directed)
    finished: set[str] = set()
    for root in graph:
        if root in finished:
            continue
        path, places = [root], {root: 0}
        stack: list[Iterator[str]] = [iter(graph[root])]
        while stack:
            other = next(stack[-1], None)
            if other is None:
                stack.pop()
                node = path.pop()
                del places[node]
                finished.add(node)
            elif not directed and len(path) > 1 and other == path[-2]:
                continue  # the link that was just walked is no way back
            elif other in places:
                return [*path[places[other] :], other]
            elif other not in finished:
                places[other] = len(path)
                path.append(other)
                stack.append(iter(graph[other]))
    return []


@starter_tool("Graphs")
def minimum_spanning_tree(edges: list[tuple[str, str, float]]) -> dict[str, Any]:
    """Find the cheapest set of links that connects all nodes (minimum spanning tree).

    Kruskal's algorithm: lay cables, pipes or roads so that every place is joined to the network, directly or through
    others, at the least total cost.

    Args:
        edges: Possible links as [node, node, cost]; costs are not negative; direction does not matter.

    Returns:
        The chosen links, their total cost, and whether all nodes could be joined (else there is one tree a piece).

    Raises:
        ValueError: An edge is malformed or its cost negative.
    """
    pairs = _pairs(edges, 3)
    parent = {node: node for node in _adjacency(pairs, False)}

    def root(node: str) -> str:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    chosen: list[list[Any]] = []
    for first, second, cost in sorted(pairs, key=lambda edge: (edge[2], *sorted(edge[:2]))):
        if root(first) != root(second):
            parent[root(first)] = root(second)
            chosen.append([first, second, cost])
    total = sum(edge[2] for edge in chosen)
    return {"edges": chosen, "total": total, "connected": len(chosen) >= len(parent) - 1}


@starter_tool("Graphs")
def node_degrees(edges: list[tuple[str, str]], directed: bool = False) -> list[dict[str, Any]]:
    """Count how many links each node of a graph has: its degree.

    Finds the best connected hubs and the loners: who has the most friends, which airport the most routes, how many
    links come in and go out.

    Args:
        edges: Links as [from, to]; repeated links count each time, a link of a node to itself counts twice.
        directed: Whether to count incoming and outgoing links apart.

    Returns:
        One record a node, highest degree first: node and degree, and with ``directed`` also in and out.

    Raises:
        ValueError: An edge is malformed.
    """
    pairs = _pairs(edges)
    outgoing, incoming = (dict.fromkeys(_adjacency(pairs, False), 0) for _ in range(2))
    for first, second in pairs:
        outgoing[first] += 1
        incoming[second] += 1
    records: list[dict[str, Any]] = []
    for node in sorted(outgoing, key=lambda name: (-outgoing[name] - incoming[name], name)):
        sides = {"in": incoming[node], "out": outgoing[node]} if directed else {}
        records.append({"node": node, "degree": outgoing[node] + incoming[node], **sides})
    return records


@starter_tool("Graphs")
def bipartite_groups(edges: list[tuple[str, str]]) -> dict[str, Any]:
    """Check whether the nodes can be split into two groups with links only between the groups.

    Bipartite test (two-colouring): seat people who quarrel at two tables, colour a map with two colours, pair workers
    with jobs. If it cannot be done, an odd cycle shows why.

    Args:
        edges: Links or conflicts as [node, node]; direction does not matter.

    Returns:
        Whether it is bipartite, the two groups (empty if not), and an odd cycle that prevents it (empty if none).

    Raises:
        ValueError: An edge is malformed.
    """
    graph = _adjacency(_pairs(edges), False)
    colour: dict[str, int] = {}
    previous: dict[str, str] = {}
    for root in graph:
        if root in colour:
            continue
        colour[root] = 0
        queue = deque([root])
        while queue:
            node = queue.popleft()
            for other in graph[node]:
                if other not in colour:
                    colour[other], previous[other] = 1 - colour[node], node
                    queue.append(other)
                elif colour[other] == colour[node]:
                    one, two = _path_back(previous, node), _path_back(previous, other)
                    shared = sum(a == b for a, b in zip(one, two, strict=True))  # same colour in one tree: same depth
                    cycle = [*one[shared - 1 :], *two[: shared - 1 : -1], one[shared - 1]]
                    return {"bipartite": False, "groups": [], "odd_cycle": cycle}
    groups = [[node for node in graph if colour[node] == side] for side in (0, 1)]
    return {"bipartite": True, "groups": groups, "odd_cycle": []}


@starter_tool("Graphs")
def reachable_nodes(
    edges: list[tuple[str, str]], start: str, directed: bool = True, max_hops: int | None = None
) -> list[dict[str, Any]]:
    """List every node that can be reached from a starting node by following links, with the number of hops.

    Everything downstream of a point: what a change affects, how far a rumour or virus spreads, who is within so many
    handshakes.

    Args:
        edges: Links as [from, to].
        start: Node to start from.
        directed: Whether links can be followed only from the first node to the second.
        max_hops: Largest number of links to follow, at least 1; null for no limit.

    Returns:
        One record a reachable node other than the start, nearest first: node and hops.

    Raises:
        ValueError: An edge is malformed, the start is unknown, or the limit is below 1.
    """
    if max_hops is not None and max_hops < 1:
        raise ValueError(f"max_hops: expected at least 1 or null, got {max_hops}")
    graph = _adjacency(_pairs(edges), directed)
    hops = _distances(graph, _known("start", start, graph))
    found = sorted((count, node) for node, count in hops.items() if count)
    return [{"node": node, "hops": count} for count, node in found if max_hops is None or count <= max_hops]


@starter_tool("Graphs")
def direct_neighbours(
    edges: list[tuple[str, str]], node: str, direction: Literal["both", "in", "out"] = "both"
) -> list[str]:
    """List the nodes that are directly linked to one node: its immediate neighbours (adjacent nodes).

    One step only, for example a person's own friends, the stations next to a station, or the rooms with a door to a
    room.

    Args:
        edges: Links as [from, to].
        node: Node whose neighbours are wanted.
        direction: ``out`` for nodes it points to, ``in`` for nodes that point to it, ``both`` for either.

    Returns:
        The neighbours, sorted.

    Raises:
        ValueError: An edge is malformed, the node is unknown, or the direction is not one of the three.
    """
    pairs = _pairs(edges)
    if direction not in ("both", "in", "out"):
        raise ValueError(f"direction: expected 'both', 'in' or 'out', got {direction!r}")
    _known("node", node, _adjacency(pairs, False))
    found: set[str] = set()
    if direction != "in":
        found.update(second for first, second in pairs if first == node)
    if direction != "out":
        found.update(first for first, second in pairs if second == node)
    return sorted(found)


@starter_tool("Graphs")
def maximum_flow(edges: list[tuple[str, str, float]], source: str, sink: str) -> dict[str, Any]:
    """Compute the greatest amount that can flow from a source to a sink through links of limited capacity.

    Max flow, min cut (Edmonds-Karp): how much water, traffic or data a network of pipes, roads or lines can carry, and
    which links are the bottleneck.

    Args:
        edges: One-way links as [from, to, capacity]; capacities are not negative; at most 1000 links.
        source: Node where the flow starts.
        sink: Node where the flow ends.

    Returns:
        The greatest flow and the bottleneck: the saturated links of a minimum cut as [from, to].

    Raises:
        ValueError: An edge is malformed, a node is unknown, or source and sink are the same.
    """
    pairs = _pairs(edges, 3, _MAX_FLOW_EDGES)
    graph = _adjacency(pairs, False)
    if _known("source", source, graph) == _known("sink", sink, graph):
        raise ValueError("sink: must differ from the source")
    left: dict[tuple[str, str], float] = {}
    for first, second, capacity in pairs:
        left[first, second] = left.get((first, second), 0) + capacity
        left.setdefault((second, first), 0)
    flow: float = 0
    previous = _augmenting_tree(graph, left, source)
    while sink in previous:
        path = _path_back(previous, sink)
        links = list(itertools.pairwise(path))
        amount = min(left[link] for link in links)
        for first, second in links:
            left[first, second] -= amount
            left[second, first] += amount
        flow += amount
        previous = _augmenting_tree(graph, left, source)
    near = {source, *previous}
    cut = {(first, second) for first, second, size in pairs if size and first in near and second not in near}
    return {"flow": flow, "bottleneck": [list(link) for link in sorted(cut)]}


def _augmenting_tree(graph: _Adjacency, left: dict[tuple[str, str], float], source: str) -> dict[str, str]:
    """Give the predecessor of each node that links with capacity left reach from the source."""
    previous: dict[str, str] = {}
    queue = deque([source])
    while queue:
        node = queue.popleft()
        for other in graph[node]:
            if other != source and other not in previous and left[node, other] > 0:
                previous[other] = node
                queue.append(other)
    return previous


@starter_tool("Graphs")
def bridge_edges(edges: list[tuple[str, str]]) -> list[list[str]]:
    """Find the bridges of a network: the single links whose loss would cut it into pieces.

    Weak points and critical connections: roads, cables or servers' lines without any detour, where one failure
    separates nodes from the rest.

    Args:
        edges: Links as [node, node]; direction does not matter; a doubled link is no bridge.

    Returns:
        The critical links as [node, node], names in each sorted, links sorted.

    Raises:
        ValueError: An edge is malformed.
    """
    pairs = _pairs(edges)
    graph = _adjacency(pairs, False)
    copies: dict[tuple[str, str], int] = {}
    for first, second in pairs:
        link = (min(first, second), max(first, second))
        copies[link] = copies.get(link, 0) + 1
    entered: dict[str, int] = {}
    lowest: dict[str, int] = {}
    bridges: list[list[str]] = []
    for root in graph:
        if root in entered:
            continue
        entered[root] = lowest[root] = len(entered)
        stack = [(root, "", iter(graph[root]))]
        while stack:
            node, parent, others = stack[-1]
            other = next(others, None)
            if other is None:
                stack.pop()
                if parent:
                    lowest[parent] = min(lowest[parent], lowest[node])
                    link = (min(node, parent), max(node, parent))
                    if lowest[node] > entered[parent] and copies[link] == 1:
                        bridges.append(list(link))
            elif other in entered:
                if other != parent:
                    lowest[node] = min(lowest[node], entered[other])
            else:
                entered[other] = lowest[other] = len(entered)
                stack.append((other, node, iter(graph[other])))
    return sorted(bridges)
