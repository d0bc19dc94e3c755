"""The starter's tasks and trajectories: how many of which kind, that they replay, and that the splits are apart."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import jsonschema
import pytest

from toolscaler.data.trajectories import FINISH_TOOL, Trajectory
from toolscaler.errors import ConfigError
from toolscaler.starter import (
    StarterTask,
    load_starter_documents,
    load_starter_queries,
    load_starter_tasks,
    load_starter_trajectories,
    run_starter_call,
)
from toolscaler.starter.tasks.build import starter_families

DOCUMENTS = {document.id: document for document in load_starter_documents()}
FILE_TOOLS = {tool for tool, document in DOCUMENTS.items() if document.category == "Files"}


@pytest.fixture(scope="module")
def tasks() -> list[StarterTask]:
    return load_starter_tasks()


def of_split(tasks: list[StarterTask], split: str) -> list[StarterTask]:
    return [task for task in tasks if task.split == split]


def leaves(value: Any) -> list[Any]:
    """Every text, number and truth value inside JSON data."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


# --- counts ----------------------------------------------------------------------------------------------------------


def test_there_are_enough_tasks_of_each_kind_and_length(tasks: list[StarterTask]) -> None:
    train, test = of_split(tasks, "train"), of_split(tasks, "test")
    assert len(train) >= 600
    assert len(test) >= 120
    kinds = Counter(task.kind for task in train)
    assert kinds["call"] == pytest.approx(len(train) / 2, rel=0.15)
    assert min(kinds[kind] for kind in ("chain", "recovery", "give_up", "no_tool")) >= 25
    lengths = Counter(len(task.calls) for task in train)
    assert set(lengths) == {0, 1, 2, 3, 4}
    assert min(lengths[count] for count in (2, 3, 4)) >= 40
    assert {task.kind for task in test} == set(kinds)
    assert {len(task.calls) for task in test} == set(lengths)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_tool_is_called_with_success(tasks: list[StarterTask], split: str) -> None:
    called = Counter(tool for task in of_split(tasks, split) for tool in task.expected_tools)
    assert set(called) == set(DOCUMENTS)
    if split == "train":
        assert min(called.values()) >= 3


def test_the_kinds_are_what_they_say(tasks: list[StarterTask]) -> None:
    for task in tasks:
        failures = [call.is_error for call in task.calls]
        if task.kind == "call":
            assert failures == [False]
        elif task.kind == "chain":
            assert len(failures) >= 2
            assert not any(failures)
        elif task.kind == "recovery":
            assert failures[0]
            assert not failures[-1]
        elif task.kind == "give_up":
            assert failures[0]
        else:
            assert failures == []
        assert (task.outcome == "give_up") == (
            task.kind == "give_up" or (task.kind == "no_tool" and task.family != "thanks")
        )


def test_half_of_the_yes_and_no_families_have_both_answers(tasks: list[StarterTask]) -> None:
    answers: dict[str, set[bool]] = {}
    for task in of_split(tasks, "train"):
        if isinstance(task.reference, bool):
            answers.setdefault(task.family, set()).add(task.reference)
    assert len(answers) >= 6
    assert sum(len(found) == 2 for found in answers.values()) >= len(answers) / 2


# --- splits ----------------------------------------------------------------------------------------------------------


def test_no_query_occurs_twice_or_among_the_labelled_queries(tasks: list[StarterTask]) -> None:
    texts = [task.query.casefold() for task in tasks]
    assert len(set(texts)) == len(texts)
    assert not set(texts) & {query.text.casefold() for query in load_starter_queries()}


def test_no_wording_is_in_both_splits() -> None:
    families = starter_families()
    assert all(family.train and family.test for family in families)
    train = {wording for family in families for wording in family.train}
    assert not train & {wording for family in families for wording in family.test}


def test_no_calls_with_their_files_occur_in_both_splits(tasks: list[StarterTask]) -> None:
    def solved(split: str) -> set[str]:
        return {
            json.dumps([[call.tool, dict(call.arguments)] for call in task.calls] + [dict(task.files)])
            for task in of_split(tasks, split)
            if task.calls
        }

    assert not solved("train") & solved("test")


def test_no_query_gives_a_tool_name_away(tasks: list[StarterTask]) -> None:
    names = [tool.split("/")[1] for tool in DOCUMENTS]
    assert not [task.query for task in tasks if any(name in task.query for name in names)]


def test_more_variants_give_more_tasks_and_keep_the_first_ones() -> None:
    once, twice = load_starter_tasks("train"), load_starter_tasks("train", variants=2)
    assert len(twice) > 1.9 * len(once)
    assert {task.id: task for task in once}.items() <= {task.id: task for task in twice}.items()
    assert len({task.query for task in twice}) == len(twice)
    held_out = {task.query for task in load_starter_tasks("test", variants=2)}
    assert not held_out & {task.query for task in twice}


@pytest.mark.parametrize(("split", "variants"), [("validation", 1), ("train", 0), ("train", True), ("train", 1.5)])
def test_other_settings_are_refused(split: str, variants: Any) -> None:
    with pytest.raises(ConfigError):
        load_starter_tasks(split, variants=variants)


def test_another_process_makes_the_same_tasks(tasks: list[StarterTask]) -> None:
    code = (
        "import json, hashlib; from toolscaler.starter import load_starter_trajectories as load;"
        "print(hashlib.sha256(json.dumps([t.to_dict() for t in load()]).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    own = json.dumps([trajectory.to_dict() for trajectory in load_starter_trajectories()])
    assert printed.stdout.strip() == hashlib.sha256(own.encode()).hexdigest()


# --- replay ----------------------------------------------------------------------------------------------------------


def test_every_trajectory_replays(tasks: list[StarterTask]) -> None:
    trajectories = load_starter_trajectories()
    assert [trajectory.id for trajectory in trajectories] == [task.id for task in tasks]
    for task, trajectory in zip(tasks, trajectories, strict=True):
        with task.workspace() as folder:
            for pairs in trajectory.results():
                for call, result in pairs:
                    if call.tool != FINISH_TOOL:
                        assert result is not None
                        assert run_starter_call(call.tool, call.arguments) == (result.content, result.is_error)
            assert task.check_files(folder)


def test_the_files_tell_whether_a_task_was_done(tasks: list[StarterTask]) -> None:
    changed = [task for task in tasks if dict(task.files) != dict(task.final_files)]
    assert len({task.family for task in changed}) >= 8
    for task in changed[:20]:
        with task.workspace() as folder:
            assert not task.check_files(folder)


def test_only_tasks_about_files_have_files(tasks: list[StarterTask]) -> None:
    for task in tasks:
        if task.files or task.final_files:
            assert FILE_TOOLS & {call.tool for call in task.calls}


# --- arguments -------------------------------------------------------------------------------------------------------


def test_arguments_keep_to_the_schemas_and_their_order(tasks: list[StarterTask]) -> None:
    schemas = {tool: document.to_dict()["parameters"] for tool, document in DOCUMENTS.items()}
    broken = set()
    for task in tasks:
        for call in task.calls:
            schema = schemas[call.tool]
            order = [name for name in schema["properties"] if name in call.arguments]
            assert list(call.arguments) == order
            if list(jsonschema.Draft202012Validator(schema).iter_errors(dict(call.arguments))):
                assert call.is_error
                broken.add(task.id)
    assert broken == {task.id for task in tasks if task.breaks_schema}


def test_later_calls_use_earlier_results(tasks: list[StarterTask]) -> None:
    chains = [task for task in tasks if task.kind == "chain"]
    assert chains
    for task in chains:
        before = [str(leaf) for call in task.calls[:-1] for leaf in leaves(json.loads(call.feedback))]
        later = [str(leaf) for call in task.calls[1:] for leaf in leaves(dict(call.arguments))]
        pairs = [(one, two) for one in before for two in later if one not in ("True", "False")]
        assert any(one in two or (two in one and len(two) > 1) for one, two in pairs), task.id


def test_values_of_first_calls_can_be_copied_from_the_query(tasks: list[StarterTask]) -> None:
    copied, all_values = 0, 0
    for task in tasks:
        if task.kind != "call":
            continue
        query = task.query.replace("\\", "")
        for leaf in leaves(dict(task.calls[0].arguments)):
            if isinstance(leaf, str | int | float) and not isinstance(leaf, bool):
                text = str(leaf).replace("\\", "")
                all_values += 1
                copied += text in query or text.replace("_", " ") in query
    assert copied / all_values > 0.95


def test_numbers_in_answers_are_not_in_scientific_notation(tasks: list[StarterTask]) -> None:
    assert not [task.id for task in tasks if isinstance(task.reference, float) and "e" in json.dumps(task.reference)]


# --- trajectories ----------------------------------------------------------------------------------------------------


def test_trajectories_are_whole(tasks: list[StarterTask]) -> None:
    for task, trajectory in zip(tasks, load_starter_trajectories(), strict=True):
        assert trajectory.query == task.query
        assert trajectory.split == task.split
        assert trajectory.outcome == task.outcome
        assert trajectory.answer == task.answer
        assert trajectory.tools == tuple(call.tool for call in task.calls)
        assert trajectory.metadata["reference"] == task.reference
        assert trajectory.calls[-1].tool == FINISH_TOOL
        assert Trajectory.from_dict(json.loads(json.dumps(trajectory.to_dict()))) == trajectory


def test_thoughts_are_short_varied_and_filled_in() -> None:
    thoughts = [
        message.content
        for trajectory in load_starter_trajectories("train")
        for message in trajectory.messages
        if message.role == "assistant"
    ]
    assert all(thought and "{" not in thought and thought.endswith(".") for thought in thoughts)
    assert max(len(thought) for thought in thoughts) <= 110
    assert len(set(thoughts)) >= 500


def test_one_split_alone_is_a_part_of_both() -> None:
    both = load_starter_trajectories()
    assert load_starter_trajectories("train") + load_starter_trajectories("test") == both
