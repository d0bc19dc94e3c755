"""Contract: a trie knows the same prefixes, children, ends and tools as nested dictionaries of the same sequences."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler import CodeTrie
from toolscaler.decoding.trie import DEAD
from toolscaler.errors import DecodingError, EmptyCatalogueError, UnknownToolError

END = "tools"

ragged = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=25)
rectangular = st.integers(1, 4).flatmap(
    lambda length: st.lists(st.lists(st.integers(0, 9), min_size=length, max_size=length), min_size=1, max_size=25)
)
sequence_sets = ragged | rectangular
prefixes = st.lists(st.integers(-2, 10), max_size=5)


def slow_trie(sequences) -> dict:
    """Make the trie as dictionaries of dictionaries; the tools that end at a node stand under END."""
    root: dict = {}
    for tool, sequence in enumerate(sequences):
        node = root
        for token in sequence:
            node = node.setdefault(token, {})
        node.setdefault(END, []).append(tool)
    return root


def slow_nodes(node: dict, prefix: tuple = ()):
    """Yield (prefix, node) of every node."""
    yield prefix, node
    for token, child in node.items():
        if token != END:
            yield from slow_nodes(child, (*prefix, token))


def pad(sequences, length: int | None = None) -> np.ndarray:
    length = length or max(map(len, sequences))
    return np.array([[*row, *[-1] * (length - len(row))] for row in sequences])


def walk(trie: CodeTrie, prefix) -> int:
    return int(trie.walk(np.array([prefix], dtype=np.int64).reshape(1, -1))[0])


def assert_same(trie: CodeTrie, sequences) -> None:
    """Compare every node of the two tries: prefix, children, end, tools."""
    expected = list(slow_nodes(slow_trie(sequences)))
    nodes = np.array([walk(trie, prefix) for prefix, _ in expected])
    assert sorted(nodes) == list(range(trie.num_nodes))  # each node once, and no other
    rows, tokens = trie.children(nodes)
    assert (rows.dtype, tokens.dtype) == (np.int64, np.int64)
    ends = trie.is_end(nodes)
    for place, (_, node) in enumerate(expected):
        assert tokens[rows == place].tolist() == sorted(token for token in node if token != END)
        assert ends[place] == (END in node)
        assert trie.tools_at(nodes[place]).tolist() == node.get(END, [])
    assert np.array_equal(np.sort(rows), rows)


@settings(max_examples=150, deadline=None)
@given(sequence_sets)
def test_same_as_dictionaries(sequences):
    trie = CodeTrie.from_token_sequences(sequences)
    assert_same(trie, sequences)
    assert len(trie) == len(sequences)
    assert trie.tool_ids == tuple(str(k) for k in range(len(sequences)))
    assert trie.max_length == max(map(len, sequences)) == trie.sequences.shape[1]
    assert [row[row >= 0].tolist() for row in trie.sequences] == sequences


@settings(max_examples=100, deadline=None)
@given(sequence_sets, st.lists(prefixes, min_size=1, max_size=20))
def test_walk_and_advance_tell_prefixes_from_others(sequences, wanted):
    trie = CodeTrie.from_token_sequences(sequences)
    known = dict(slow_nodes(slow_trie(sequences)))
    for prefix in wanted:
        assert (walk(trie, prefix) != DEAD) == (tuple(prefix) in known), prefix
    # In one batch, step by step: rows of different fates do not touch each other, and the dead stay dead.
    padded = pad(wanted, 5)
    nodes = np.zeros(len(wanted), dtype=np.int64)
    for step in range(5):
        nodes = trie.advance(nodes, padded[:, step])
        assert nodes.dtype == np.int64
        for row, node in enumerate(nodes):
            taken = tuple(padded[row, : step + 1].tolist())
            assert node == (walk(trie, taken) if taken in known else DEAD)


@settings(max_examples=60, deadline=None)
@given(sequence_sets, st.integers(0, 2))
def test_every_form_of_input_gives_the_same_trie(sequences, spare):
    """Lists, padded arrays of any integer type, tensors and a trie's own array; spare padding columns do not count."""
    padded = pad(sequences, max(map(len, sequences)) + spare)
    forms = [padded, padded.astype(np.int16), torch.tensor(padded), [np.array(row) for row in sequences]]
    forms += [[torch.tensor(row) for row in sequences], iter(sequences)]
    first = CodeTrie.from_token_sequences(sequences)
    for form in forms:
        trie = CodeTrie.from_token_sequences(form)
        assert np.array_equal(trie.sequences, first.sequences)
        assert trie.sequences.dtype == np.int64
        assert_same(trie, sequences)
    assert np.array_equal(CodeTrie.from_token_sequences(first.sequences).sequences, first.sequences)


@settings(max_examples=80, deadline=None)
@given(sequence_sets, st.data())
def test_subset_is_the_trie_of_the_kept_tools(sequences, data):
    trie = CodeTrie.from_token_sequences(sequences, [f"t{k}" for k in range(len(sequences))])
    kept = data.draw(st.lists(st.integers(0, len(sequences) - 1), min_size=1, max_size=8))
    rows = sorted(set(kept))  # order and repeats of the request do not matter
    mask = np.isin(np.arange(len(sequences)), kept)
    for part in (trie.subset(tools=[f"t{k}" for k in kept]), trie.subset(tools=(f"t{k}" for k in kept))):
        assert part.tool_ids == tuple(f"t{k}" for k in rows)
        assert_same(part, [sequences[k] for k in rows])
    assert trie.subset(mask=mask).tool_ids == part.tool_ids
    assert trie.subset(mask=mask.tolist()).subset(tools=part.tool_ids).tool_ids == part.tool_ids
    assert_same(trie, sequences)  # the whole is as before


@settings(max_examples=60, deadline=None)
@given(sequence_sets)
def test_end_token_closes_every_sequence(sequences):
    ended = CodeTrie.from_token_sequences(sequences).with_end_token(77)
    assert_same(ended, [[*row, 77] for row in sequences])
    ends = np.flatnonzero(ended.is_end(np.arange(ended.num_nodes)))
    assert not len(ended.children(ends)[0])  # no sequence begins another any more


def test_one_sequence_begins_another_and_two_are_equal():
    trie = CodeTrie.from_token_sequences([[7, 8], [7], [7, 8], [9]], ["long", "short", "twin", "other"])
    short, long = walk(trie, [7]), walk(trie, [7, 8])
    assert trie.is_end(np.array([0, short, long, DEAD])).tolist() == [False, True, True, False]
    assert [trie.tool_ids[tool] for tool in trie.tools_at(long)] == ["long", "twin"]
    assert trie.tools_at(DEAD).tolist() == trie.tools_at(0).tolist() == []
    rows, tokens = trie.children(np.array([short, DEAD, long, 0]))
    assert (rows.tolist(), tokens.tolist()) == ([0, 3, 3], [8, 7, 9])
    assert repr(trie) == "CodeTrie(4 tools, 4 nodes, max_length=2)"


def test_full_size_catalogue():
    rng = np.random.default_rng(0)
    rows = rng.choice(512 * 512, size=46_985, replace=False)
    codes = np.stack([rows // 512, rows % 512, rng.integers(0, 512, 46_985), rng.integers(0, 512, 46_985)], 1)
    sequences = codes + 150_000 + 512 * np.arange(4)
    trie = CodeTrie.from_token_sequences(sequences, [f"provider/tool {k}" for k in range(len(sequences))])
    assert trie.num_nodes == 1 + sum(len(np.unique(sequences[:, :depth], axis=0)) for depth in range(1, 5))
    nodes = trie.walk(sequences)
    assert len(np.unique(nodes)) == len(sequences)
    assert trie.is_end(nodes).all()
    for tool in rng.integers(0, len(sequences), 300):
        assert trie.tools_at(nodes[tool]).tolist() == [tool]
    assert trie.children(np.array([0]))[1].tolist() == np.unique(sequences[:, 0]).tolist()
    assert (trie.walk(np.roll(sequences, 1, axis=1)) == DEAD).all()  # codes of another position lead nowhere
    part = trie.subset(mask=np.arange(len(trie)) % 7 == 0)
    assert (part.walk(sequences) != DEAD).sum() == len(part) == len(sequences[::7])


def test_trie_of_a_tokenizer_is_a_snapshot(make_tokenizer):
    tokenizer = make_tokenizer(6)
    trie = CodeTrie.from_tokenizer(tokenizer)
    assert trie.tool_ids == tuple(tokenizer.tool_names)
    assert np.array_equal(trie.sequences, tokenizer.tool_token_ids())
    for name in tokenizer.tool_names:
        (tool,) = trie.tools_at(walk(trie, tokenizer.encode_tool(name)))
        assert trie.tool_ids[tool] == name
    tokenizer.remove_tools(["tool_2"])
    assert "tool_2" in trie.tool_ids
    assert CodeTrie.from_tokenizer(tokenizer).tool_ids == ("tool_0", "tool_1", "tool_3", "tool_4", "tool_5")
    tokenizer.remove_tools(tokenizer.tool_names)
    with pytest.raises(EmptyCatalogueError, match="add tools"):
        CodeTrie.from_tokenizer(tokenizer)


def test_a_trie_never_changes():
    source = np.array([[1, 2], [3, 4]])
    trie = CodeTrie.from_token_sequences(source)
    source[:] = 9
    assert trie.sequences.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match="read-only"):
        trie.sequences[0, 0] = 5
    with pytest.raises(ValueError, match="read-only"):
        trie.tools_at(walk(trie, [1, 2]))[0] = 1
    assert_same(pickle.loads(pickle.dumps(trie)), [[1, 2], [3, 4]])


def test_subset_errors():
    trie = CodeTrie.from_token_sequences([[1], [2]], ["convert_length", "week_day"])
    with pytest.raises(UnknownToolError, match="nearest: 'convert_length'") as caught:
        trie.subset(tools=["week_day", "convert_lenght"])
    assert caught.value.suggestions == ("convert_length",)
    for nothing in ({"tools": []}, {"tools": iter(())}, {"mask": [False, False]}):
        with pytest.raises(EmptyCatalogueError):
            trie.subset(**nothing)
    for wrong in ("week_day", 3, [3], [None], [b"week_day"], [["week_day"]]):
        with pytest.raises(DecodingError, match="tools: expected"):
            trie.subset(tools=wrong)
    for wrong in ([True], [1, 0], [[True, False]], np.ones(3, dtype=bool), []):
        with pytest.raises(DecodingError, match=r"mask: expected bool \(2,\)"):
            trie.subset(mask=wrong)
    with pytest.raises(DecodingError, match="both or neither"):
        trie.subset()
    with pytest.raises(DecodingError, match="both or neither"):
        trie.subset(tools=["week_day"], mask=[True, False])


@pytest.mark.parametrize(
    "sequences",
    [
        [[1], []],
        [[1.0, 2.0]],
        [[True, False]],
        [1, 2],
        ["ab"],
        "ab",
        5,
        [[[1, 2]]],
        np.ones((2, 2)),
        np.ones((2, 2, 2), dtype=int),
        np.array([[1, 2], [-1, -1]]),
        np.array([[1, -1, 2]]),
        np.array([[-1, 2]]),
        [[1, -2]],
        [[2**31]],
        torch.ones(3, dtype=torch.long),
    ],
    ids=repr,
)
def test_what_is_no_token_sequence_is_refused(sequences):
    with pytest.raises(DecodingError, match="sequences"):
        CodeTrie.from_token_sequences(sequences)


@pytest.mark.parametrize(
    "nothing",
    [[], np.empty((0, 4), dtype=int), np.empty((0, 0)), iter(())],
    ids=["list", "integers", "floats", "iterator"],
)
def test_no_sequence_is_an_empty_catalogue(nothing):
    with pytest.raises(EmptyCatalogueError):
        CodeTrie.from_token_sequences(nothing)


@pytest.mark.parametrize("ids", [["a"], ["a", "b", "c"], "ab", ["a", "a"], ["a", 3], 2], ids=repr)
def test_tool_ids_that_do_not_fit_are_refused(ids):
    with pytest.raises(DecodingError, match="tool_ids: expected"):
        CodeTrie.from_token_sequences([[1], [2]], ids)


@pytest.mark.parametrize("end", [None, -1, 2, [50], 5.0, True], ids=repr)
def test_end_tokens_that_cannot_be_told_apart_are_refused(end):
    with pytest.raises(DecodingError, match="end token"):
        CodeTrie.from_token_sequences([[1, 2]]).with_end_token(end)


@pytest.mark.parametrize("shape", [(3,), (1, 2, 2), ()])
def test_walk_wants_rows(shape):
    with pytest.raises(DecodingError, match="prefixes"):
        CodeTrie.from_token_sequences([[1, 2]]).walk(np.ones(shape, dtype=int))


def test_tries_and_rankings_need_no_torch():
    code = "import sys; from toolscaler import CodeTrie, RetrievedTool; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
