"""Contract: the log leads from any state to any other, order of the tools included. The twin keeps every state."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.catalogue.history import change_index, index_at, retired_codes, undo_changes, untrained_tools
from toolscaler.catalogue.log import CatalogueLog, LogEntry, ToolChange
from toolscaler.errors import CatalogueError
from toolscaler.tokenization.tool_index import ToolIndex

SIZES = (8, 8, 8)
SUM = "0" * 64


def start() -> ToolIndex:
    return ToolIndex(SIZES, ["a", "b", "c"], [[0, 0, 0], [0, 0, 1], [0, 0, 2]], document_hashes=["ha", None, "hc"])


@st.composite
def histories(draw):
    """Random changes; gives the log, every state, and the codes that each tool was trained with."""
    index, states = start(), [start()]
    log = CatalogueLog().appended("start", num_tools=3, index_sha256=SUM)
    fresh = 0
    for step in range(draw(st.integers(1, 8))):
        verb = draw(st.sampled_from(["sync", "rename", "rollback"]))
        if verb == "rollback":
            target = draw(st.integers(0, len(states) - 1))
            log = log.appended("rollback", num_tools=0, index_sha256=SUM, target=target)
            states.append(states[target])
            index = states[target]
            continue
        names = list(index)
        marks = draw(st.lists(st.sampled_from("kru"), min_size=len(names), max_size=len(names)))
        changes = []
        for row, (name, mark) in enumerate(zip(names, marks, strict=True)):
            codes, content = index[name], index.document_hash(name)
            if verb == "rename":
                if mark != "k":
                    changes.append(ToolChange(f"{name}'", name, row, codes, codes, content, content))
            elif mark == "r":
                changes.append(ToolChange(name, None, row, codes, None, content))
            elif mark == "u":
                fresh += 1
                new = (1 + fresh // 64 % 7, fresh // 8 % 8, fresh % 8)
                changes.append(ToolChange(name, None, row, codes, new, content, f"h{fresh}"))
        if verb == "sync":
            for _ in range(draw(st.integers(0, 3))):
                fresh += 1
                new = (1 + fresh // 64 % 7, fresh // 8 % 8, fresh % 8)
                changes.append(ToolChange(f"n{step}_{fresh}", new_codes=new, new_document=f"h{fresh}"))
        index = change_index(index, changes)
        log = log.appended(verb, num_tools=len(index), index_sha256=SUM, tools=changes)
        states.append(index)
    return log, states


@settings(max_examples=60, deadline=None)
@given(histories())
def test_every_state_can_be_made_from_the_last(history):
    log, states = history
    for number, state in enumerate(states):
        assert index_at(states[-1], log, number) == state
    assert CatalogueLog(LogEntry.from_dict(entry.to_dict()) for entry in log)[:] == log[:]


@settings(max_examples=60, deadline=None)
@given(histories())
def test_codes_that_nobody_has_any_more_are_retired(history):
    log, states = history
    ever = {tuple(row) for state in states for row in state.codes.tolist()}
    gone = {codes for codes in ever if codes not in {tuple(row) for row in states[-1].codes.tolist()}}
    assert retired_codes(log, states[-1]).keys() == gone


@settings(max_examples=60, deadline=None)
@given(histories())
def test_only_tools_with_the_codes_of_training_are_trained(history):
    """Codes here are never given twice, so that a tool is one that was trained exactly if its codes were there."""
    log, states = history
    first = {tuple(row) for row in states[0].codes.tolist()}
    expected = tuple(name for name in states[-1] if states[-1][name] not in first)
    assert untrained_tools(states[-1], log) == expected
    trained = log.appended("adapt", num_tools=len(states[-1]), index_sha256=SUM)
    assert untrained_tools(states[-1], trained) == ()


def test_changes_by_hand():
    changes = [
        ToolChange("a", None, 0, (0, 0, 0), None, "ha"),
        ToolChange("B", "b", 1, (0, 0, 1), (0, 0, 1)),
        ToolChange("c", None, 2, (0, 0, 2), (0, 7, 2), "hc", "new"),
        ToolChange("d", new_codes=(1, 1, 1), new_document="hd"),
    ]
    after = change_index(start(), changes)
    expected = {"B": (0, 0, 1), "c": (0, 7, 2), "d": (1, 1, 1)}
    assert dict(after) == expected
    assert after.document_hashes == (None, "new", "hd")
    assert undo_changes(after, changes) == start()
    assert [change.kind for change in changes] == ["removed", "renamed", "updated", "added"]
    assert (changes[2].distance, changes[2].prefix_kept) == (1, 1)
    assert (changes[3].distance, changes[3].prefix_kept) == (None, None)
    with pytest.raises(CatalogueError, match="does not fit the index"):
        change_index(after, changes)
    with pytest.raises(CatalogueError, match="does not fit the index"):
        undo_changes(start(), changes)


def good_entry() -> dict:
    log = CatalogueLog().appended("start", num_tools=3, index_sha256=SUM)
    return log.appended("add", num_tools=4, index_sha256=SUM, tools=[ToolChange("d", new_codes=(1, 1, 1))])[1].to_dict()


@pytest.mark.parametrize(
    "damage",
    [
        {"format_version": 2},
        {"format_version": True},
        {"verb": "burn"},
        {"sequence": -1},
        {"sequence": 1.0},
        {"target": 0},
        {"tools": {}},
        {"tools": [{}]},
        {"hash": "xyz"},
        {"previous": 3},
        {"note": None},
        {"surprise": 1},
    ],
    ids=str,
)
def test_a_damaged_entry_is_refused(damage):
    assert LogEntry.from_dict(good_entry()).verb == "add"
    with pytest.raises(CatalogueError):
        LogEntry.from_dict({**good_entry(), **damage})


@pytest.mark.parametrize(
    "damage",
    [
        {"id": ""},
        {"id": 5},
        {"old_id": ""},
        {"row": 0},
        {"old_codes": [1, 1, 1]},
        {"new_codes": None},
        {"new_codes": []},
        {"new_codes": [True, 1, 1]},
        {"new_codes": "abc"},
        {"new_codes": [-1, 0, 0]},
        {"new_document": 5},
    ],
    ids=str,
)
def test_a_damaged_change_is_refused(damage):
    plain = ToolChange("d", new_codes=(1, 1, 1)).to_dict()
    assert ToolChange.from_dict(plain) == ToolChange("d", new_codes=(1, 1, 1))
    with pytest.raises(CatalogueError):
        ToolChange.from_dict({**plain, **damage})


def test_tools_with_codes_of_several_lengths_come_back_too():
    """Strategies without a codebook: their tools can be removed, renamed and rolled back."""
    index = ToolIndex((4, 4, 4), ["a", "b", "c"], [[0], [1, 2], [1, 2, 3]], ragged=True)
    changes = [ToolChange("b", None, 1, (1, 2), None), ToolChange("C", "c", 2, (1, 2, 3), (1, 2, 3))]
    after = change_index(index, changes)
    assert dict(after) == {"a": (0,), "C": (1, 2, 3)}
    assert undo_changes(after, changes) == index
