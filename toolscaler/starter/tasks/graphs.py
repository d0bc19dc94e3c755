"""One-call task families about networks. Edges stand in the query as JSON."""

from __future__ import annotations

from typing import Any

from toolscaler.starter.tasks.draw import NODES, Draw
from toolscaler.starter.tasks.family import Values, call


def _route(d: Draw) -> Values:
    a, b, c, e = d.sample(NODES, 4)
    edges = [[a, b, d.num(1, 9)], [b, e, d.num(1, 9)], [a, c, d.num(1, 9)], [c, e, d.num(1, 9)]]
    return {"edges": edges, "start": a, "goal": e}


def _pieces(d: Draw) -> Values:
    a, b, c, e, f, g = d.sample(NODES, 6)
    return {
        "edges": d.pick(([[a, b], [b, c], [e, f], [e, g]], [[a, b], [c, e], [f, g]], [[a, b], [c, e], [e, f], [f, g]]))
    }


def _order(d: Draw) -> Values:
    tasks = d.words(4)
    links = [[tasks[index], tasks[index + 1]] for index in range(3)]
    return {"edges": d.shuffled(links)}


def _ring(d: Draw) -> Values:
    a, b, c, e, f = d.sample(NODES, 5)
    return {
        "edges": d.pick(([[a, b], [b, c], [c, a], [c, e]], [[a, b], [b, c], [c, e], [e, f]], [[a, b], [b, a], [c, e]]))
    }


def _cables(d: Draw) -> Values:
    a, b, c, e = d.sample(NODES, 4)
    costs = d.different(5, 1, 20)
    return {
        "edges": [[*pair, cost] for pair, cost in zip(([a, b], [b, c], [a, c], [c, e], [b, e]), costs, strict=True)]
    }


def hub_edges(d: Draw) -> Values:
    """Give links between people, one of whom has the most."""
    a, b, c, e, f = d.names(5)
    return {"edges": d.shuffled([[a, b], [a, c], [e, a], [f, b]])}


def _friend(d: Draw) -> Values:
    values = hub_edges(d)
    return {**values, "node": values["edges"][0][0]}


def _groups(d: Draw) -> Values:
    a, b, c, e = d.names(4)
    return {
        "edges": d.pick(
            (
                [[a, b], [b, c], [c, e]],
                [[a, b], [b, c], [c, a]],
                [[a, b], [c, e], [a, e]],
                [[a, b], [b, e], [e, a], [a, c]],
            )
        )
    }


def _downstream(d: Draw) -> Values:
    a, b, c, e, f = d.sample(NODES, 5)
    return {"edges": d.shuffled([[a, b], [b, c], [e, f], [c, f]]), "start": d.pick((a, b))}


def _pipes(d: Draw) -> Values:
    a, b, c, e = d.sample(NODES, 4)
    sizes = d.ints(4, 2, 12)
    pairs = ([a, b], [b, e], [a, c], [c, e])
    return {"edges": [[*pair, size] for pair, size in zip(pairs, sizes, strict=True)], "source": a, "sink": e}


def _bridge(d: Draw) -> Values:
    a, b, c, e = d.sample(NODES, 4)
    return {"edges": d.shuffled([[a, b], [b, c], [c, a], [c, e]])}


def _is_cyclic(result: list[Any]) -> bool:
    return bool(result)


FAMILIES = (
    call(
        "shortest_path",
        _route,
        (
            "What is the length of the shortest way from {start} to {goal} with the edges {edges}?",
            "The roads are {edges}. How long is the quickest route from {start} to {goal}?",
            "shortest path length {start} to {goal}: {edges}",
        ),
        ("I travel from {start} to {goal} on {edges}. What is the least total distance?",),
        "the shortest way", "search the network", "The length is {ref}.",
        ref="length",
    ),
    call(
        "connected_components",
        _pieces,
        (
            "Which connected groups are in the graph {edges}?",
            "The links are {edges}. Which nodes hang together?",
            "connected components of {edges}",
        ),
        ("Into which separate clusters does the network {edges} fall?",),
        "the connected groups", "split the graph", "The groups are: {ref}",
    ),
    call(
        "topological_order",
        _order,
        (
            "Put the tasks in order, each pair is before and after: {edges}",
            "The dependencies are {edges}. In which order do I work?",
            "topological order of {edges}",
        ),
        ("What comes first and what next if these must be done one before the other: {edges}",),
        "an order of the tasks", "sort them by what they depend on", "The order is: {ref}",
        echo=True,
    ),
    call(
        "find_cycle",
        _ring,
        (
            "Is there a cycle in the graph {edges}?",
            "Do the imports {edges} go round in a circle?",
            "circular dependency in {edges}?",
        ),
        ("The one-way links are {edges}. Do they contain a loop?",),
        "a search for a loop", "look for a cycle", ("Yes, there is a cycle.", "No, there is no cycle."),
        ref=_is_cyclic,
    ),
    call(
        "minimum_spanning_tree",
        _cables,
        (
            "What is the least total cost to connect all nodes with the links {edges}?",
            "Cables can be laid like this: {edges}. What does the cheapest network cost?",
            "minimum spanning tree total of {edges}",
        ),
        ("Every place must be joined, possible pipes with costs are {edges}. How little can it cost?",),
        "the cheapest network", "find the minimum spanning tree", "The total cost is {ref}.",
        ref="total",
    ),
    call(
        "node_degrees",
        hub_edges,
        (
            "Who has the most links in {edges}?",
            "The friendships are {edges}. Who has the most friends?",
            "node with the highest degree in {edges}",
        ),
        ("Which one is the best connected in {edges}?",),
        "the best connected node", "count the links of each node", "It is {ref}.",
        ref=lambda result: result[0]["node"], echo=True,
    ),
    call(
        "bipartite_groups",
        _groups,
        (
            "Can the people be split into two groups without the conflicts {edges}?",
            "These pairs quarrel: {edges}. Are two tables enough?",
            "is the graph {edges} bipartite",
        ),
        ("Nobody shall share a room with a rival. The rivals are {edges}. Do two rooms do?",),
        "a test for two groups", "colour the graph with two colours",
        ("Yes, two groups are enough.", "No, two groups are not enough."),
        ref="bipartite",
    ),
    call(
        "reachable_nodes",
        _downstream,
        (
            "Which nodes can be reached from {start} in {edges}?",
            "With the one-way links {edges}, where can I get from {start}?",
            "everything reachable from {start}: {edges}",
        ),
        ("A change at {start} spreads along {edges}. What does it affect?",),
        "all nodes behind a node", "follow the links", "Reachable: {ref}",
        ref=lambda result: [record["node"] for record in result],
    ),
    call(
        "direct_neighbours",
        _friend,
        (
            "Who is directly linked to {node} in {edges}?",
            "The contacts are {edges}. List the direct neighbours of {node}.",
            "neighbours of {node}: {edges}",
        ),
        ("Which ones are only one step away from {node} in {edges}?",),
        "the neighbours of a node", "list its direct links", "The neighbours are: {ref}",
    ),
    call(
        "maximum_flow",
        _pipes,
        (
            "How much can flow from {source} to {sink} through the pipes {edges}?",
            "The capacities are {edges}. What is the maximum flow from {source} to {sink}?",
            "max flow {source} to {sink}: {edges}",
        ),
        ("Water runs from {source} to {sink} along {edges}. What is the largest amount?",),
        "the greatest flow", "compute it for the network", "The maximum flow is {ref}.",
        ref="flow",
    ),
    call(
        "bridge_edges",
        _bridge,
        (
            "Which link of {edges} is critical, so that its loss cuts the network?",
            "Find the bridge in the network {edges}.",
            "bridges of {edges}",
        ),
        ("The cables are {edges}. Which one has no detour?",),
        "the critical links", "look for bridges", "The bridge is: {ref}",
        echo=True,
    ),
)  # fmt: skip
