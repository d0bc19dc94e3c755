"""Old codes become new ones and come back; what names no tool is refused or left alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.codebook import Codebook
from toolscaler.codebook.translation import CodeTranslation, co_used_pairs, pair_distances
from toolscaler.data import ToolCall, Trajectory, TrajectoryMessage
from toolscaler.errors import ArtifactError, CodebookError
from toolscaler.tokenization.code_tokens import codes_to_text
from toolscaler.tokenization.tool_index import ToolIndex

SIZES = (4, 5, 3)
NAMES = ["wind", "rain", "sun", "fog"]
OLD = np.array([[0, 1, 2], [3, 4, 0], [1, 1, 1], [0, 1, 1]])
NEW = np.array([[2, 0, 0], [3, 4, 0], [0, 0, 0], [1, 4, 2]])


@pytest.fixture
def translation() -> CodeTranslation:
    return CodeTranslation(tuple(NAMES), OLD, NEW, SIZES, SIZES)


@st.composite
def pairs_of_indexes(draw) -> tuple[ToolIndex, ToolIndex]:
    count = draw(st.integers(1, 12))
    names = [f"tool {number}" for number in range(count)]
    sizes = [tuple(draw(st.lists(st.integers(3, 6), min_size=3, max_size=30))) for _ in range(2)]
    indexes = []
    for size in sizes:
        rng = np.random.default_rng(draw(st.integers(0, 1000)))
        rows: dict[tuple[int, ...], None] = {}
        while len(rows) < count:
            rows[tuple(int(value) for value in rng.integers(0, size))] = None
        order = rng.permutation(count)
        indexes.append(ToolIndex(size, [names[place] for place in order], [list(rows)[place] for place in order]))
    return indexes[0], indexes[1]


@settings(max_examples=60, deadline=None)
@given(pairs_of_indexes())
def test_every_form_round_trips(indexes: tuple[ToolIndex, ToolIndex]) -> None:
    old, new = indexes
    there = CodeTranslation.between(old, new)
    back = there.inverse()
    np.testing.assert_array_equal(there.translate_codes(old.codes), [new[name] for name in old.tool_ids])
    np.testing.assert_array_equal(back.translate_codes(there.translate_codes(old.codes)), old.codes)
    for name in old.tool_ids:
        before, after = codes_to_text(old[name]), codes_to_text(new[name])
        assert there.translate_text(f"Action:{before}\nx") == f"Action:{after}\nx"
        assert back.translate_text(after) == before
    everything = "".join(codes_to_text(old[name]) for name in old.tool_ids)
    assert there.translate_text(everything) == "".join(codes_to_text(new[name]) for name in old.tool_ids)
    translated = there.translate_index(old)
    assert dict(translated) == dict(new)
    assert translated.tool_ids == old.tool_ids
    assert back.translate_index(translated) == old


def test_it_comes_back_from_its_file(translation, tmp_path) -> None:
    path = tmp_path / "translation.json"
    translation.save(path)
    found = CodeTranslation.load(path)
    for name in ("tool_ids", "old_sizes", "new_sizes"):
        assert getattr(found, name) == getattr(translation, name)
    np.testing.assert_array_equal(found.old_codes, OLD)
    np.testing.assert_array_equal(found.new_codes, NEW)
    assert json.loads(path.read_text())["tools"]["rain"] == [[3, 4, 0], [3, 4, 0]]
    path.write_text(json.dumps({"format_version": 9}))
    with pytest.raises(ArtifactError, match="format_version"):
        CodeTranslation.load(path)
    path.write_text(json.dumps({"format_version": 1, "old_sizes": [2], "new_sizes": [2], "tools": {"a": [[5], [0]]}}))
    with pytest.raises(ArtifactError, match="damaged"):
        CodeTranslation.load(path)


def test_what_is_no_tool_is_refused_or_stays(translation) -> None:
    with pytest.raises(CodebookError, match=r"no tool had the codes \[0, 0, 0\]"):
        translation.translate_codes([0, 0, 0])
    with pytest.raises(CodebookError, match="no tool had"):
        translation.translate_text("<a_0><b_0><c_0>")
    with pytest.raises(CodebookError, match="sequences of 3 codes"):
        translation.translate_codes([0, 0])
    for text in ("", "plain", "<a_0><b_1>", "<c_2><a_0>", "< a_0><b_1><c_2>", "<a_01><b_1><c_2>"):
        assert translation.translate_text(text) == text
    assert translation.translate_text("<b_1><a_0><b_1><c_2>") == "<b_1><a_2><b_0><c_0>"


def test_tools_that_shared_codes_are_translated_only_where_they_agree() -> None:
    old = np.array([[1, 1, 1], [1, 1, 1], [2, 2, 2], [2, 2, 2]])
    new = np.array([[0, 0, 0], [0, 0, 0], [1, 1, 1], [2, 2, 2]])
    translation = CodeTranslation(tuple(NAMES), old, new, SIZES, SIZES)
    assert translation.tools_with([1, 1, 1]) == ("wind", "rain")
    assert translation.translate_codes([1, 1, 1]).tolist() == [0, 0, 0]
    with pytest.raises(CodebookError, match="'sun', 'fog'"):
        translation.translate_codes([2, 2, 2])


def test_trajectories_keep_everything_but_codes(translation) -> None:
    messages = (
        TrajectoryMessage("user", "what blows?"),
        TrajectoryMessage("assistant", "I take <a_0><b_1><c_2>", (ToolCall("<a_0><b_1><c_2>", {"at": "<a_3>"}),)),
        TrajectoryMessage("tool", "6"),
        TrajectoryMessage("assistant", "six"),
    )
    by_id = Trajectory((messages[0], TrajectoryMessage("assistant", "", (ToolCall("wind", {}),))))
    found, same = translation.translate_trajectories([Trajectory(messages, id="x"), by_id])
    assert same == by_id
    assert found.id == "x"
    assert found.tools[0] == "<a_2><b_0><c_0>"
    assert found.messages[1].content == "I take <a_2><b_0><c_0>"
    assert found.messages[1].tool_calls[0].arguments == {"at": "<a_3>"}


def test_changes_are_counted_with_and_without_the_names_of_codes(translation) -> None:
    assert translation.changed.tolist() == [True, False, True, True]
    renamed = np.mod(OLD + np.array([1, 2, 1]), SIZES)
    only_names = CodeTranslation(tuple(NAMES), OLD, renamed, SIZES, SIZES)
    assert only_names.changed.all()
    assert not only_names.changed_up_to_names().any()
    renamed[2, 0] = renamed[0, 0]  # one tool has gone to another cluster
    one = CodeTranslation(tuple(NAMES), OLD, renamed, SIZES, SIZES)
    assert one.changed_up_to_names().tolist() == [False, False, True, False]


def test_other_tools_and_other_codes_are_refused(translation) -> None:
    old = ToolIndex(SIZES, NAMES, OLD)
    with pytest.raises(CodebookError, match="1 differ, for example 'fog'"):
        CodeTranslation.between(old, old.without_tools(["fog"]))
    with pytest.raises(CodebookError, match="old codes of these tools"):
        translation.translate_index(ToolIndex(SIZES, NAMES, NEW))
    with pytest.raises(CodebookError):
        CodeTranslation(("a", "a"), OLD[:2], NEW[:2], SIZES, SIZES)


def test_codebooks_are_compared_too() -> None:
    values = np.random.default_rng(0).normal(size=(40, 2, 16)).astype(np.float32)
    ids = [f"t{number}" for number in range(40)]
    options = {"num_levels": 2, "num_centroids": 8, "reduced_dim": 6}
    one, other = (Codebook.fit(values, ids, **options, seed=seed) for seed in (0, 1))
    translation = CodeTranslation.between(one, other)
    np.testing.assert_array_equal(translation.translate_codes(one.codes), other.codes)
    assert translation.changed_up_to_names().sum() <= translation.changed.sum()


def test_co_used_pairs_and_their_distances_by_hand() -> None:
    pairs = co_used_pairs([["rain", "wind", "unknown"], ["wind", "rain", "fog"], ["sun"]], NAMES)
    assert pairs.tolist() == [[0, 1], [0, 3], [1, 3]]
    found = pair_distances(OLD, pairs)
    assert found["co_used"] == pytest.approx((3 + 1 + 3) / 3)
    assert found["random"] == pytest.approx((2 + 3 + 1) / 3)  # sun with wind, rain and fog
    assert (found["co_used_pairs"], found["random_pairs"]) == (3, 3)
    none = pair_distances(OLD, co_used_pairs([], NAMES))
    assert none["co_used"] is None
    many = np.random.default_rng(0).integers(0, 10, size=(2000, 4))
    drawn = pair_distances(many, pairs, num_random=5000)
    assert drawn["random"] == pytest.approx(3.6, abs=0.05)
    assert drawn == pair_distances(many, pairs, num_random=5000)
