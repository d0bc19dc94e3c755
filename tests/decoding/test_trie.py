"""Contract: a trie knows the same prefixes, children, ends and tools as nested dictionaries of the same sequences."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler import CodeTrie
from toolscaler.decoding.trie import DEAD, SUBSET_CACHE_SIZE
from toolscaler.decoding.trie_build import build_arrays
from toolscaler.errors import ArtifactError, DecodingError, EmptyCatalogueError, UnknownToolError

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


def assert_same(trie: CodeTrie, sequences, names=None) -> None:
    """Compare every node of the two tries: prefix, children, end, tools."""
    expected = list(slow_nodes(slow_trie(sequences)))
    nodes = np.array([walk(trie, prefix) for prefix, _ in expected])
    assert len(set(nodes)) == len(nodes) == trie.num_nodes  # each node once, and no other
    if trie.whole is trie:
        assert sorted(nodes) == list(range(trie.num_nodes))
    rows, tokens, children = trie.expand(nodes)
    assert rows.dtype == tokens.dtype == children.dtype == np.int64
    assert [array.tolist() for array in trie.children(nodes)] == [rows.tolist(), tokens.tolist()]
    assert np.array_equal(trie.advance(nodes[rows], tokens), children)
    assert trie.depths(nodes).tolist() == [len(prefix) for prefix, _ in expected]
    assert trie.allows(nodes).all()
    ends = trie.is_end(nodes)
    for place, (_, node) in enumerate(expected):
        assert tokens[rows == place].tolist() == sorted(token for token in node if token != END)
        assert ends[place] == (END in node)
        here = [trie.catalogue[tool] for tool in trie.tools_at(nodes[place])]
        assert here == [(names or trie.tool_ids)[tool] for tool in node.get(END, [])]
        # Rows of one depth take a shorter way through the code than rows of many.
        alone = trie.expand(nodes[place : place + 1])
        assert alone[1].tolist() == tokens[rows == place].tolist()
        assert alone[2].tolist() == children[rows == place].tolist()
    assert np.array_equal(np.sort(rows), rows)
    assert len(trie) == len(sequences)
    assert trie.largest_token >= max(map(max, sequences))


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
    same = [trie.subset(mask=mask), trie.subset(mask=torch.tensor(mask)), trie.subset(mask=mask.tolist())]
    same += [trie.subset(predicate=part.tool_ids.__contains__), trie.subset(tools=part.tool_ids)]
    if len(part) < len(trie):
        same += [trie.subset(without=set(trie.tool_ids) - set(part.tool_ids))]
    assert all(other is part for other in same)  # made once for each content
    assert part.whole is trie
    assert part.sequences.tolist() == trie.sequences[mask].tolist()
    # A subset of a subset, by every form.
    fewer = data.draw(st.lists(st.sampled_from(part.tool_ids), min_size=1))
    expected = [row for row, name in enumerate(trie.tool_ids) if name in fewer]
    within = np.isin(part.tool_ids, fewer)
    smaller = part.subset(tools=fewer)
    assert_same(smaller, [sequences[row] for row in expected])
    assert part.subset(mask=within) is part.subset(predicate=lambda name: name in fewer) is smaller
    outside = sorted(set(trie.tool_ids) - set(part.tool_ids))
    if outside:
        with pytest.raises(UnknownToolError):
            part.subset(tools=outside[:1])
        with pytest.raises(UnknownToolError):
            part.row_of(outside[0])
    assert_same(trie, sequences)  # the whole is as before
    restored = pickle.loads(pickle.dumps(part))
    assert_same(restored, [sequences[k] for k in rows])


@settings(max_examples=60, deadline=None)
@given(sequence_sets, st.data())
def test_a_node_is_allowed_exactly_where_an_allowed_tool_lies_below(sequences, data):
    trie = CodeTrie.from_token_sequences(sequences)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(sequences), max_size=len(sequences))))
    mask[data.draw(st.integers(0, len(sequences) - 1))] = True
    part = trie.subset(mask=mask)
    kept = [tuple(row) for row, keep in zip(sequences, mask, strict=True) if keep]
    for prefix, _ in slow_nodes(slow_trie(sequences)):
        node = walk(trie, prefix)
        below = any(row[: len(prefix)] == prefix for row in kept)
        assert part.allows(np.array([node, DEAD])).tolist() == [below, False]
        if part is not trie:
            assert bool(part.node_bits[node // 8] >> node % 8 & 1) == below


@settings(max_examples=80, deadline=None)
@given(sequence_sets, sequence_sets, st.data())
def test_with_and_without_tools_is_the_trie_made_anew(sequences, more, data):
    trie = CodeTrie.from_token_sequences(sequences, [f"t{k}" for k in range(len(sequences))])
    view = data.draw(st.booleans())
    kept = sorted(data.draw(st.sets(st.integers(0, len(sequences) - 1), min_size=1)))
    if view:
        trie = trie.subset(tools=[f"t{k}" for k in kept])
        sequences = [sequences[k] for k in kept]
    grown = trie.with_tools([f"n{k}" for k in range(len(more))], more)
    assert grown.tool_ids == (*trie.tool_ids, *(f"n{k}" for k in range(len(more))))
    assert_same(grown, [*sequences, *more])
    assert [grown.row_of(name) for name in grown.tool_ids] == list(range(len(grown)))
    gone = set(data.draw(st.lists(st.sampled_from(grown.tool_ids), max_size=len(grown) - 1)))
    left = [row for row, name in enumerate(grown.tool_ids) if name not in gone]
    rest = grown.without_tools(gone)
    assert rest.tool_ids == tuple(grown.tool_ids[row] for row in left)
    assert_same(rest, [[*sequences, *more][row] for row in left])
    assert_same(trie, sequences)
    with pytest.raises(DecodingError, match="'n0'"):
        grown.with_tools(["n0"], more[:1])
    with pytest.raises(UnknownToolError):
        trie.without_tools(["n0"])
    with pytest.raises(EmptyCatalogueError):
        trie.without_tools(trie.tool_ids)


@settings(max_examples=60, deadline=None)
@given(sequence_sets, st.booleans())
def test_a_saved_trie_comes_back(tmp_path_factory, sequences, view):
    path = tmp_path_factory.mktemp("trie") / "new folder" / "trie.safetensors"
    names = [f"Wetter/Straße {k}\n" for k in range(len(sequences))]
    trie = CodeTrie.from_token_sequences(sequences, names)
    if view:
        trie, sequences, names = trie.subset(tools=names[:1]), sequences[:1], names[:1]
    trie.save(path)
    loaded = CodeTrie.load(path)
    assert loaded.tool_ids == tuple(names)
    assert_same(loaded, sequences)
    assert_same(loaded.subset(tools=names[-1:]), sequences[-1:])
    assert isinstance(loaded.arrays.child_start.base, np.ndarray)
    with pytest.raises(ValueError, match="read-only"):
        loaded.arrays.child_start[0] = 3


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "trie.safetensors"
    with pytest.raises(ArtifactError, match="cannot read"):
        CodeTrie.load(path)
    CodeTrie.from_token_sequences([[1, 2], [1], [3, 4, 5]]).save(path)
    good = path.read_bytes()
    for bad in (
        b"",
        good[:7],
        good[:40],
        good[:-1],
        b"\xff" * len(good),
        good.replace(b"level_starts", b"levelxstarts"),
    ):
        path.write_bytes(bad)
        with pytest.raises(ArtifactError, match=str(path)):
            CodeTrie.load(path)
    for old, new, match in (
        (b'"format_version":"1"', b'"format_version":"9"', "format 1, got 9"),
        (b"toolscaler.code_trie", b"toolscaler.codebooks", "another kind"),
        (b'"num_tools":"3"', b'"num_tools":"7"', "fit together"),
    ):
        assert old in good
        path.write_bytes(good.replace(old, new))
        with pytest.raises(ArtifactError, match=match):
            CodeTrie.load(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ArtifactError, match="cannot write"):
        CodeTrie.from_token_sequences([[1]]).save(path)


@pytest.mark.parametrize(("length", "size"), [(8, 512), (8, 2**17), (5, 2**31 - 1), (12, 64), (1, 5), (4, 2**16 + 1)])
@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
def test_keys_that_do_not_fit_into_one_number(length, size, ragged):
    """Many positions or large vocabularies: the packed keys begin anew on the way down."""
    rng = np.random.default_rng(length)
    base = rng.integers(0, size, (3, length))
    rows = []
    for _ in range(60):
        row = base[rng.integers(3)].copy()
        change = rng.integers(0, length)
        row[change:] = rng.integers(0, size, length - change)
        rows.append(row[: rng.integers(1, length + 1)] if ragged else row)
    rows += rows[:3]  # equal sequences
    sequences = [row.tolist() for row in rows]
    trie = CodeTrie.from_token_sequences(sequences)
    if length * (size - 1).bit_length() > 80:
        assert any(trie.arrays.anchors)
    assert_same(trie, sequences)
    known = {prefix for prefix, _ in slow_nodes(slow_trie(sequences))}
    wrong = base.copy()
    wrong[:, -1] = (wrong[:, -1] + 1) % size
    for row in [*wrong.tolist(), (base[0] + 2**40).tolist(), (-base[0] - 1).tolist()]:
        for depth in range(1, length + 1):
            assert (walk(trie, row[:depth]) != DEAD) == (tuple(row[:depth]) in known)


def test_requests_under_way_keep_their_snapshot():
    """One thread changes the catalogue all the time; readers of a trie never see anything but its own tools."""
    rng = np.random.default_rng(3)
    sequences = np.unique(rng.integers(0, 40, (400, 3)), axis=0)
    current = [CodeTrie.from_token_sequences(sequences[:200], [f"t{k}" for k in range(200)])]
    stop, wrong = threading.Event(), []

    def change() -> None:
        step = np.random.default_rng(1)
        while not stop.is_set():
            trie = current[0]
            if len(trie) > 150:
                trie = trie.without_tools(step.choice(trie.tool_ids, 10, replace=False).tolist())
            free = [k for k in range(len(sequences)) if f"t{k}" not in trie.tool_ids]
            new = step.choice(free, 10, replace=False).tolist()
            current[0] = trie.with_tools([f"t{k}" for k in new], sequences[new])

    def read() -> None:
        for _ in range(60):
            trie = current[0]
            names = trie.tool_ids
            own = sequences[[int(name[1:]) for name in names]]
            part = trie.subset(tools=names[::2])
            for _ in range(5):
                nodes = trie.walk(sequences)
                inside = {tuple(row) for row in own.tolist()}
                if [(tuple(row) in inside) for row in sequences.tolist()] != (nodes != DEAD).tolist():
                    wrong.append("walk")
                if [names[trie.tools_at(node)[0]] for node in trie.walk(own)] != list(names):
                    wrong.append("tools")
                if (part.walk(own) != DEAD).tolist() != [row % 2 == 0 for row in range(len(own))]:
                    wrong.append("subset")

    writer = threading.Thread(target=change)
    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in (writer, *readers):
        thread.start()
    for thread in readers:
        thread.join()
    stop.set()
    writer.join()
    assert not wrong
    assert current[0].tool_ids != tuple(f"t{k}" for k in range(200))  # it did change meanwhile


def test_allow_lists_are_remembered_up_to_a_bound():
    trie = CodeTrie.from_token_sequences([[k] for k in range(200)])
    first = trie.subset(tools=["0"])
    assert trie.subset(mask=np.arange(200) == 0) is first
    for k in range(1, SUBSET_CACHE_SIZE):
        trie.subset(tools=[str(k)])
    assert trie.subset(tools=["0"]) is first  # used again: the youngest now
    trie.subset(tools=["100"])
    trie.subset(tools=["101"])
    assert trie.subset(tools=["0"]) is first
    for k in range(100, 100 + SUBSET_CACHE_SIZE):
        trie.subset(tools=[str(k)])
    assert len(trie._views) == SUBSET_CACHE_SIZE
    assert trie.subset(tools=["0"]) is not first
    assert trie.subset(predicate=lambda _: True) is trie


def test_index_size_at_a_million_tools():
    rng = np.random.default_rng(0)
    codes = np.minimum(rng.zipf(1.3, (1_300_000, 4)) - 1 + rng.integers(0, 200, (1_300_000, 4)), 511)
    codes = np.unique(codes, axis=0)[:1_000_000]
    codes = rng.permutation(codes)
    arrays = build_arrays(codes + 512 * np.arange(4), ragged=False)
    assert arrays.num_tools == len(codes) > 800_000
    parts = [arrays.child_start, *arrays.keys, arrays.last_labels, arrays.order]
    assert arrays.nbytes - sum(part.nbytes for part in parts) < 1000  # nothing else grows with the tools
    assert arrays.nbytes < 16 * len(codes)


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
    trie.tools_at(walk(trie, [1, 2]))[0] = 1  # a copy
    assert trie.tools_at(walk(trie, [1, 2])).tolist() == [0]
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
    with pytest.raises(UnknownToolError, match="nearest: 'convert_length'"):
        trie.subset(without=["convert_lenght"])  # a misspelt deny list would allow what it means to forbid
    with pytest.raises(DecodingError, match="without: expected"):
        trie.subset(without="week_day")
    with pytest.raises(EmptyCatalogueError):
        trie.subset(tools=["week_day"], without=["week_day"])
    with pytest.raises(EmptyCatalogueError):
        trie.subset(predicate=lambda _: False)
    for both in ({}, {"tools": ["week_day"], "mask": [True, False]}, {"mask": [True, True], "predicate": str}):
        with pytest.raises(DecodingError, match="none or several"):
            trie.subset(**both)


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
        CodeTrie.from_token_sequences([[1, 2]]).check_end_token(end)


@pytest.mark.parametrize("shape", [(3,), (1, 2, 2), ()])
def test_walk_wants_rows(shape):
    with pytest.raises(DecodingError, match="prefixes"):
        CodeTrie.from_token_sequences([[1, 2]]).walk(np.ones(shape, dtype=int))


def test_tries_and_rankings_need_no_torch():
    code = "import sys; from toolscaler import CodeTrie, RetrievedTool; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
