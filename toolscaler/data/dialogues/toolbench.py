"""ToolBench answer files: depth-first search trees, chains, and the flat form that StableToolBench makes of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from toolscaler.data.dialogues.base import DialogueReader, Reading, Turns, arguments_of, list_at, names_of, tool_name
from toolscaler.data.sources.base import expect_mapping, text_of
from toolscaler.data.sources.opening import Record, Source
from toolscaler.data.trajectories import FINISH_TOOL, GIVE_ANSWER, ToolCall, Trajectory
from toolscaler.errors import DataError

# Codes of observations: success, gave an answer, gave up. Every other code is a failed call.
_FINE = frozenset({0, 3, 4})
_ANSWERED = 3
# Results are cut off, so that many are no whole JSON: the start says whether there was an error.
_ERROR = re.compile(r'\s*\{\s*"error"\s*:\s*"(?!")')


def says_error(result: str) -> bool:
    """Say whether a ToolBench result, ``{"error": ..., "response": ...}``, reports an error."""
    return _ERROR.match(result) is not None


@dataclass(frozen=True)
class _Step:
    """One step of a path: a thought, or a call with its result."""

    thought: str = ""
    tool: str = ""
    arguments: Any = None
    result: str | None = None
    code: int | None = None

    @property
    def answers(self) -> bool:
        if self.tool != FINISH_TOOL or self.code not in (_ANSWERED, None):
            return False
        try:
            return arguments_of(self.arguments).get("return_type") == GIVE_ANSWER
        except DataError:
            return False


class ToolBenchAnswerReader(DialogueReader):
    """Reads answer files. A tree has one path for each leaf; the default keeps those that end in an answer.

    With ``branches="all"`` the others come too: paths that give up and paths that were broken off. Metadata: ``win``,
    ``branch`` and, of a failed one, ``shared_calls``, the number of first calls it shares with the successful path.
    ``unfinished`` is a last thought that led to no call; ``candidate_tools`` are the functions offered, as the source
    names them.
    """

    name = "toolbench"
    summary = "ToolBench answer files"

    def is_row(self, row: Any) -> bool:
        """Say whether a row is an answer file, or the converted form of several."""
        if not isinstance(row, Mapping):
            return False
        return isinstance(row.get("answer_generation"), Mapping) or _is_converted(row) or _is_converted_file(row)

    def records(self, source: Source, reading: Reading) -> Iterator[Record]:
        """Yield one record a path that is wanted; what is not wanted is counted."""
        stem = source.path.name.split(".", 1)[0] if source.path is not None else ""
        for record in source.records():
            if record.error:
                yield record
                continue
            for id, answer in _answers(record.data, stem):
                pointer = (*record.pointer, id) if id != stem else record.pointer
                try:
                    paths = _wanted(_Answer.of(answer, id), reading)
                except DataError as error:
                    yield Record(None, record.line, pointer, error.message)
                else:
                    yield from (Record(path, record.line, pointer) for path in paths)

    def trajectory(self, record: Record, reading: Reading) -> Trajectory:
        """Make the trajectory of one path."""
        path: _Path = record.data
        turns = Turns()
        turns.user(path.query)
        for step in path.steps:
            turns.say(step.thought)
            if step.tool:
                turns.call(ToolCall(tool_name(step.tool), arguments_of(step.arguments)))
            if step.tool and step.result is not None:
                failed = step.code not in _FINE and step.code is not None
                turns.result(step.result, is_error=failed or says_error(step.result))
        return turns.build(path.id, reading.split, {**path.metadata, "unfinished": turns.leftover()})


@dataclass(frozen=True)
class _Path:
    """One path of an answer."""

    id: str
    query: str
    steps: list[_Step]
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class _Answer:
    """One answer file, in whichever form: the query, the functions offered and every path."""

    id: str
    query: str
    functions: list[str]
    paths: list[list[_Step]]

    @classmethod
    def of(cls, data: Any, id: str) -> _Answer:
        """Read an answer.

        Raises:
            DataError: The layout is another one.
        """
        data = expect_mapping(data)
        if "answer_generation" not in data:
            nodes = list_at(expect_mapping(data.get("answer")), "answer_details")
            query, functions = text_of(data, "query"), names_of(data.get("available_tools"))
            return cls(id, query, functions, [path for node in nodes for path in _walk(node, "next")])
        about = expect_mapping(data["answer_generation"])
        if "tree" in data:
            paths = list(_walk(expect_mapping(data["tree"]).get("tree"), "children"))
        else:
            paths = [_chain(list_at(expect_mapping(item), "chain")) for item in list_at(data, "trys")]
        return cls(id, text_of(about, "query"), names_of(about.get("function")), paths)


def _is_converted(row: Any) -> bool:
    """Say whether a row is an answer in the converted form."""
    answer = row.get("answer") if isinstance(row, Mapping) else None
    return isinstance(answer, Mapping) and "answer_details" in answer


def _is_converted_file(row: Any) -> bool:
    """Say whether a row is several such answers by their ids."""
    return isinstance(row, Mapping) and bool(row) and all(map(_is_converted, row.values()))


def _answers(data: Any, stem: str) -> Iterator[tuple[str, Any]]:
    """Yield each answer of a record with its id: the file's name, or the key under which it stands."""
    if _is_converted_file(data):
        yield from ((str(key), value) for key, value in data.items())
    else:
        yield stem, data


def _wanted(answer: _Answer, reading: Reading) -> list[_Path]:
    wins = [steps for steps in answer.paths if steps and steps[-1].answers]
    if not answer.paths or (not wins and reading.branches == "success"):
        reading.left_out["answers without a successful path"] += 1
    found = []
    for number, steps in enumerate(answer.paths):
        win = any(steps is winner for winner in wins)
        if not win and reading.branches == "success":
            reading.left_out["failed paths"] += 1
            continue
        metadata: dict[str, Any] = {"win": win, "branch": number, "candidate_tools": answer.functions}
        if not win and wins:
            metadata["shared_calls"] = _shared_calls(steps, wins[0])
        several = len(wins) > 1 or reading.branches == "all"
        found.append(_Path(f"{answer.id}#{number}" if several else answer.id, answer.query, steps, metadata))
    return found


def _shared_calls(steps: list[_Step], other: list[_Step]) -> int:
    count = 0
    for mine, theirs in zip(steps, other, strict=False):
        if mine is not theirs:
            break
        count += bool(mine.tool)
    return count


def _walk(root: Any, children: str) -> Iterator[list[_Step]]:
    """Yield the path to every leaf, first branch first; paths share the steps that they have in common."""
    stack: list[tuple[Any, list[_Step], str]] = [(root, [], "")]
    while stack:
        node, steps, action = stack.pop()
        node = expect_mapping(node)
        step, action = _step(node, action)
        steps = [*steps, step] if step is not None else steps
        following = list_at(node, children)
        if not following:
            yield steps
        stack.extend((child, steps, action) for child in reversed(following))


def _chain(nodes: list[Any]) -> list[_Step]:
    steps, action = [], ""
    for node in nodes:
        step, action = _step(expect_mapping(node), action)
        if step is not None:
            steps.append(step)
    return steps


def _step(node: Mapping[str, Any], action: str) -> tuple[_Step | None, str]:
    """Read a node.

    Returns:
        The step that the node completes, if any, and the tool whose input comes next.
    """
    if "message" in node:
        return _converted_step(node), ""
    kind, text = node.get("node_type"), text_of(node, "description")
    if kind == "Thought":
        return _Step(thought=text), ""
    if kind == "Action":
        return None, tool_name(text)
    if kind != "Action Input":
        raise DataError(f"expected a node Thought, Action or Action Input, got {kind!r:.80}")
    if not action:
        return None, ""  # the root of a tree
    code = node.get("observation_code")
    result = text_of(node, "observation") if "observation" in node else None
    return _Step("", action, text, result, code if isinstance(code, int) else None), ""


def _converted_step(node: Mapping[str, Any]) -> _Step | None:
    role, message = node.get("role"), node["message"]
    if role == "tool":
        message = expect_mapping(message)
        result = text_of(message, "response") if "response" in message else None
        return _Step("", tool_name(message.get("name")), message.get("arguments"), result)
    if role == "assistant":
        return _Step(thought=text_of(node, "message"))
    return None  # system and user: empty, the query stands apart
