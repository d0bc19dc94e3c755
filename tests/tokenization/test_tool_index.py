"""Contract: a tool index maps ids to codes and back, never changes, and survives its file and its pickle."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.errors import ArtifactError, TokenizationError, UnknownToolError
from toolscaler.tokenization import ToolIndex

SIZES = (4, 4, 3)
TOOLS = {"units/convert": (0, 1, 2), "dates/weekday": (0, 1, 1), "text/count words": (3, 0, 0)}

catalogues = st.dictionaries(
    st.text(min_size=1, max_size=12).filter(lambda name: not any(0xD800 <= ord(c) <= 0xDFFF for c in name)),
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)),
    max_size=20,
)


def make(tools=TOOLS, **options) -> ToolIndex:
    return ToolIndex(SIZES, tools.keys(), list(tools.values()), **options)


@settings(max_examples=60, deadline=None)
@given(catalogues)
def test_mapping_and_reverse_mapping(tools):
    index = make(tools, collisions="share")
    assert dict(index) == tools
    assert index.codes.shape == (len(tools), 3)
    assert index.codes.dtype == np.int32
    for first in range(4):
        for second in range(4):
            for third in range(3):
                codes = (first, second, third)
                assert index.tools_with(codes) == tuple(n for n, c in tools.items() if c == codes)
    unique = len(set(tools.values())) == len(tools)
    if unique:
        assert dict(make(tools)) == tools
    else:
        with pytest.raises(TokenizationError, match=r"twice.*share"):
            make(tools)


@settings(max_examples=40, deadline=None)
@given(catalogues)
def test_file_round_trip(tmp_path_factory, tools):
    path = tmp_path_factory.mktemp("index") / "tool_index.json"
    hashes = [None if k % 3 == 0 else f"{k:064x}" for k in range(len(tools))]
    index = make(tools, collisions="share", document_hashes=hashes)
    index.save(path, {"retrieval_template": "{query}\n"})
    loaded, extra = ToolIndex.load(path)
    assert loaded == index
    assert loaded.tool_ids == index.tool_ids
    assert loaded.document_hashes == tuple(hashes)
    assert extra == {"retrieval_template": "{query}\n"}


def test_file_is_one_tool_a_line(tmp_path):
    path = tmp_path / "tool_index.json"
    make().save(path)
    assert '"units/convert":[0,1,2],\n' in path.read_text(encoding="utf-8")
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["tools"] == {name: list(codes) for name, codes in TOOLS.items()}
    assert data["format_version"] == 1
    assert not list(tmp_path.glob(".*"))  # no temporary file stays behind


def test_changes_make_new_indices():
    index = make(document_hashes=["x", None, "z"])
    more = index.with_tools(["graphs/path"], [[1, 1, 1]], ["g"])
    fewer = more.without_tools(["units/convert"])
    renamed = fewer.renamed({"dates/weekday": "text/count words", "text/count words": "dates/weekday"})
    assert list(index) == list(TOOLS)  # untouched
    assert more.document_hash("graphs/path") == "g"
    assert list(fewer) == ["dates/weekday", "text/count words", "graphs/path"]
    assert fewer.document_hashes == (None, "z", "g")
    assert renamed["text/count words"] == TOOLS["dates/weekday"]
    assert renamed.document_hash("dates/weekday") == "z"
    assert index.tools_with((1, 1, 1)) == ()
    assert more.tools_with((1, 1, 1)) == ("graphs/path",)
    assert fewer.tools_with((0, 1, 2)) == ()
    # The freed sequence may be given again.
    assert fewer.with_tools(["units/new"], [[0, 1, 2]])["units/new"] == (0, 1, 2)
    with pytest.raises(ValueError, match="read-only"):
        index.codes[0, 0] = 1


def test_refusals_name_what_is_wrong():
    index = make()
    with pytest.raises(TokenizationError, match=r"exist already.*units/convert"):
        index.with_tools(["units/convert"], [[1, 1, 1]])
    with pytest.raises(TokenizationError, match=r"twice.*\[0, 1, 2\]"):
        index.with_tools(["other"], [[0, 1, 2]])
    with pytest.raises(TokenizationError, match="code 3 at position 2, expected 0 to 2"):
        index.with_tools(["other"], [[0, 0, 3]])
    with pytest.raises(TokenizationError, match="code -1 at position 0"):
        index.with_tools(["other"], [[-1, 0, 0]])
    with pytest.raises(UnknownToolError, match="'units/convert'"):
        index.without_tools(["dates/weekday", "units/conver"])
    with pytest.raises(UnknownToolError):
        index.renamed({"nothing": "something"})
    with pytest.raises(TokenizationError, match="several times"):
        index.renamed({"dates/weekday": "units/convert"})
    with pytest.raises(KeyError):
        index["nothing"]
    assert index.get("nothing") is None


@pytest.mark.parametrize(
    ("ids", "codes"),
    [
        (["a", "a"], [[0, 0, 0], [0, 0, 1]]),
        (["a", ""], [[0, 0, 0], [0, 0, 1]]),
        (["a", 3], [[0, 0, 0], [0, 0, 1]]),
        ("ab", [[0, 0, 0], [0, 0, 1]]),
        (["a"], [[0, 0]]),
        (["a"], [[0, 0, 0], [0, 0, 1]]),
        (["a"], [[0.0, 0.0, 0.0]]),
        (["a", "b"], [[0, 0, 0], [0, 0]]),
        (["a"], None),
        (["\ud800"], [[0, 0, 0]]),
    ],
)
def test_bad_tools_are_refused(ids, codes):
    with pytest.raises(TokenizationError):
        ToolIndex(SIZES, ids, codes)


def test_bad_settings_are_refused():
    with pytest.raises(TokenizationError, match="reassign, suffix, share"):
        make(collisions="ignore")
    with pytest.raises(TokenizationError, match="document_hashes"):
        make(document_hashes=["x"])
    with pytest.raises(TokenizationError, match="extra"):
        make().save("unused.json", {"tools": {}})


def test_pickle_does_not_depend_on_what_was_looked_up():
    index, used = make(), make()
    used.tools_with((0, 1, 2))
    assert "units/convert" in used
    assert pickle.dumps(index) == pickle.dumps(used)
    again = pickle.loads(pickle.dumps(used))
    assert again == index
    assert again.tools_with((3, 0, 0)) == ("text/count words",)
    assert copy.deepcopy(index) is index  # immutable, so one copy is enough


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"format_version": 1', '"format_version": 3'),
        lambda text: text.replace('"format_version": 1,', ""),
        lambda text: text.replace('"code_sizes": [4,4,3]', '"code_sizes": [4,4,2]'),
        lambda text: text.replace('"code_sizes": [4,4,3]', '"code_sizes": 4'),
        lambda text: text.replace("[0,1,2]", '[0,1,"2"]'),
        lambda text: text.replace("[0,1,2]", "[0,1]"),
        lambda text: text.replace("[0,1,2]", "[0,1,1]"),
        lambda text: text.replace('"dates/weekday"', '"units/convert"'),
        lambda text: text.replace('"tools"', '"tool"'),
        lambda text: text.replace('"collisions": "reassign"', '"collisions": "?"'),
    ],
)
def test_damaged_files_are_refused(tmp_path, damage):
    path = tmp_path / "tool_index.json"
    make().save(path)
    text = path.read_text(encoding="utf-8")
    damaged = damage(text)
    assert damaged != text
    path.write_text(damaged, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"tool_index\.json"):
        ToolIndex.load(path)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="nothing"):
        ToolIndex.load(tmp_path / "tool_index.json")
    (tmp_path / "tool_index.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactError):
        ToolIndex.load(tmp_path / "tool_index.json")
