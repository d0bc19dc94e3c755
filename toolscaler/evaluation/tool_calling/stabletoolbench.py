"""Runs in, answer files of ToolBench and StableToolBench out, and back: so that their own evaluators read ours.

Two forms. The raw one is a file a query, ``<query id>_<method>.json``: search tries or a search tree, and
``answer_generation`` with the functions offered, the final answer and the messages of the path that gave it. The
converted one is one file a test set: query id -> query, functions and a flat list of steps; it is what evaluators read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolscaler._files import write_json
from toolscaler.agent.openai_messages import function_schema, safe_name
from toolscaler.agent.records import AgentTrajectory
from toolscaler.data.dialogues.loading import load_trajectories
from toolscaler.data.dialogues.names import catalogue_aliases
from toolscaler.data.documents import ToolDocument
from toolscaler.data.sources.opening import Source
from toolscaler.data.sources.toolbench import finish_document, function_name
from toolscaler.data.trajectories import FINISH_TOOL, GIVE_ANSWER, ToolCall, Trajectory, TrajectoryMessage
from toolscaler.data.trajectory_lists import resolve_tools
from toolscaler.errors import ConfigError, DataError, EvaluationError

_SYSTEM = "Answer the request with the functions offered, and end with Finish."
#: Observation codes of ToolBench: a result, an answer, giving up, a failed call.
_FINE, _ANSWERED, _GAVE_UP, _FAILED = 0, 3, 4, 12
_GIVE_UP = "give_up_and_restart"
_METHOD = re.compile(r"[\w@.+-]+")


def stabletoolbench_answer(
    run: AgentTrajectory | Trajectory,
    documents: Iterable[ToolDocument] = (),
    *,
    offered: Iterable[str] | None = None,
    method: str = "CoT@1",
) -> dict[str, Any]:
    """Give a run in ToolBench's raw form.

    An answer in plain text becomes a call of ``Finish``, since evaluators count every other end as unsolved. Steps that
    were taken back are not in it: the path that led to the end is the only try, or the only branch of the tree.

    Args:
        run: The run.
        documents: Documents of the tools. ToolBench's get their standard names, ``<api>_for_<tool>``.
        offered: Ids of the tools that were offered; default: those that the run called.
        method: Name of the method. With ``DFS`` in it the answer holds a ``tree``, with ``CoT`` it holds ``trys``;
            upstream's converter goes by that.

    Returns:
        Plain JSON data with ``win``, ``trys`` or ``tree``, ``forward_args``, ``compare_candidates`` and
        ``answer_generation``.

    Raises:
        ConfigError: The method's name is not of this kind.
        DataError: An offered tool has no document.
    """
    as_tree = _is_tree(method)
    known = {document.id: document for document in documents}
    trajectory = run.trajectory if isinstance(run, AgentTrajectory) else run
    ended = run.outcome in ("answer", "give_up") if isinstance(run, AgentTrajectory) else run.outcome != "open"
    trajectory = trajectory.with_finish() if ended else trajectory
    win = ended and trajectory.outcome == "answer"
    names = {id: _name(id, known) for id in [*known, *trajectory.tools]}
    shown = list(dict.fromkeys(trajectory.tools if offered is None else offered))
    missing = [id for id in shown if id not in known and offered is not None]
    if missing:
        raise DataError(f"offered: expected tools with a document, got {missing[:5]}")
    functions = [_function(known[id] if id in known else ToolDocument(id), names[id]) for id in shown]
    chain = _chain(trajectory, names)
    tokens = run.tokens if isinstance(run, AgentTrajectory) else 0
    answer = {
        "valid_data": win,
        "final_answer": _finish_arguments(trajectory) if win else "",
        "finish_type": GIVE_ANSWER if win else _GIVE_UP,
        "function": [*functions, _function(finish_document(), FINISH_TOOL)],
        "query_count": sum(message.role == "assistant" for message in trajectory.messages),
        "total_tokens": tokens,
        "train_messages": [_train_messages(trajectory, names)] if win else [],
        "chain": [],
        "query": trajectory.query,
    }
    tries = {"tree": _tree(chain)} if as_tree else {"try_count": 1, "trys": [{"chain": chain, "win": win}]}
    return {"win": win, **tries, "forward_args": {}, "compare_candidates": [], "answer_generation": answer}


def convert_stabletoolbench_answer(answer: Mapping[str, Any], *, method: str = "CoT@1") -> dict[str, Any]:
    """Give a raw answer in the converted form, which the evaluators read.

    Of an answer that did not win, the last path counts; upstream draws one of them.

    Args:
        answer: A raw answer, of whatever system.
        method: Name of the method.

    Raises:
        DataError: The data is no raw answer.
    """
    try:
        about = answer["answer_generation"]
        steps = _converted_path(answer, about)
        functions, query, final = about["function"], about["query"], about["final_answer"]
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"expected a raw answer of ToolBench, got other data ({type(error).__name__}: {error})"
        ) from error
    nodes: list[dict[str, Any]] = [{"role": "system", "message": ""}, {"role": "user", "message": ""}, *steps]
    following: list[dict[str, Any]] = []
    for node in reversed(nodes):
        following = [{**node, "next": following}]
    details = {"method": method, "total_steps": len(nodes), "final_answer": final, "answer_details": following}
    return {"query": query, "available_tools": functions, "answer": details}


def write_stabletoolbench_answers(
    folder: str | Path,
    runs: Mapping[str, AgentTrajectory | Trajectory | None],
    documents: Iterable[ToolDocument] = (),
    *,
    queries: Mapping[str, str] | None = None,
    offered: Mapping[str, Iterable[str]] | None = None,
    method: str = "CoT@1",
) -> list[Path]:
    """Write raw answers, one file a query.

    Args:
        folder: The folder.
        runs: Query id -> run; ``None``: there is none.
        documents: Documents of the tools.
        queries: Query id -> query, of every query that should have been answered. One without a run is written as a
            failed answer: upstream's evaluator does not count what it does not find.
        offered: Query id -> ids of the tools that were offered.
        method: As in :func:`stabletoolbench_answer`.

    Returns:
        The files.

    Raises:
        ConfigError: The method's name is not of this kind.
        EvaluationError: A query id cannot stand in a file's name, or a run is missing whose query is not given.
    """
    known = list(documents)
    paths = []
    for id, run in _completed(runs, queries).items():
        if not id or not re.fullmatch(r"[A-Za-z0-9.-]+", id):
            raise EvaluationError(f"query id: expected letters, digits, dots and hyphens, got {id!r}")
        tools = None if offered is None else offered.get(id)
        path = Path(folder) / f"{id}_{method}.json"
        write_json(path, stabletoolbench_answer(run, known, offered=tools, method=method))
        paths.append(path)
    return paths


def write_converted_answers(
    path: str | Path,
    runs: Mapping[str, AgentTrajectory | Trajectory | None],
    documents: Iterable[ToolDocument] = (),
    *,
    queries: Mapping[str, str] | None = None,
    offered: Mapping[str, Iterable[str]] | None = None,
    method: str = "CoT@1",
) -> None:
    """Write the converted form of a test set: one file, ``<test set>.json``, in a folder named after the system.

    Arguments and errors are those of :func:`write_stabletoolbench_answers`; ``path`` is the file.
    """
    known = list(documents)
    converted = {}
    for id, run in _completed(runs, queries).items():
        tools = None if offered is None else offered.get(id)
        answer = stabletoolbench_answer(run, known, offered=tools, method=method)
        converted[id] = convert_stabletoolbench_answer(answer, method=method)
    write_json(path, converted)


def read_stabletoolbench_answers(
    path: str | Path, documents: Iterable[ToolDocument] | None = None
) -> dict[str, Trajectory]:
    """Read the answers of a system: query id -> the path that counts, the winning one or else the last.

    Args:
        path: A folder of raw files, or a converted file.
        documents: Documents of the tools; with them, functions get the ids of the tools that their names stand for.

    Returns:
        The conversations, as :func:`judge_pass_rate` takes them. Names that stand for no tool stay as they are.

    Raises:
        DataError: Nothing there, or a file is no answer; with its name.
    """
    place = Path(path)
    files = sorted(place.glob("*.json*")) if place.is_dir() else [place]
    if not files:
        raise DataError("expected answer files (.json), found none", path=path)
    found: dict[str, Trajectory] = {}
    for file in files:
        for id, row in _rows(file):
            if id in found:
                raise DataError(f"expected one answer a query, got two of {id!r}", path=file)
            try:
                paths = load_trajectories([row], "toolbench", branches="all")
            except DataError as error:
                raise DataError(f"answer {id!r}: {error.message}", path=file) from error
            wins = [trajectory for trajectory in paths if trajectory.metadata.get("win")]
            found[id] = (wins or list(paths))[-1]
    if documents is None:
        return found
    known = list(documents)
    names = dict.fromkeys(tool for trajectory in found.values() for tool in trajectory.tools)
    aliases = catalogue_aliases(names, known).aliases
    return dict(zip(found, resolve_tools(found.values(), known, aliases, "report"), strict=True))


def _rows(file: Path) -> list[tuple[str, Any]]:
    """Give the answers of a file with their ids."""
    value = Source.open(file).value
    if not isinstance(value, Mapping):
        raise DataError(f"expected an answer or several by their ids, got {type(value).__name__}", path=file)
    if "answer_generation" in value:
        return [(file.name.split("_")[0].split(".json")[0], value)]
    return [(str(id), row) for id, row in value.items()]


def _completed(
    runs: Mapping[str, AgentTrajectory | Trajectory | None], queries: Mapping[str, str] | None
) -> dict[str, AgentTrajectory | Trajectory]:
    """Give every query a run: one that did nothing where there is none."""
    wanted = dict.fromkeys([*(queries or {}), *runs])
    found: dict[str, AgentTrajectory | Trajectory] = {}
    for id in wanted:
        run = runs.get(id)
        if run is None and id not in (queries or {}):
            raise EvaluationError(f"queries: expected the query of {id!r}, which has no run, got none")
        found[id] = Trajectory((TrajectoryMessage("user", (queries or {})[id]),)) if run is None else run
    return found


def _is_tree(method: str) -> bool:
    as_tree, as_chain = "dfs" in method.lower(), "CoT" in method or "cot" in method
    if as_tree == as_chain or not _METHOD.fullmatch(method):
        raise ConfigError("method", method, "a name with either CoT or DFS in it, of letters, digits and @ . _ + -")
    return as_tree


def _name(id: str, known: Mapping[str, ToolDocument]) -> str:
    document = known.get(id)
    if document is not None and document.provider:
        return function_name(document.provider, document.name)
    return safe_name(id)


def _function(document: ToolDocument, name: str) -> dict[str, Any]:
    """Give a function as ToolBench writes it: optional arguments are listed too."""
    function: dict[str, Any] = function_schema(document, name)["function"]
    parameters = dict(function["parameters"])
    required = list(parameters.get("required", ()))
    optional = [key for key in parameters.get("properties", {}) if key not in required]
    return {**function, "parameters": {**parameters, "required": required, "optional": optional}}


def _arguments(call: ToolCall) -> str:
    if call.tool == FINISH_TOOL and call.arguments.get("return_type") != GIVE_ANSWER:
        return json.dumps({"return_type": _GIVE_UP, **_reason(call)}, ensure_ascii=False)
    return call.arguments_json()


def _reason(call: ToolCall) -> dict[str, Any]:
    return {"final_answer": call.arguments["final_answer"]} if call.arguments.get("final_answer") else {}


def _finish_arguments(trajectory: Trajectory) -> str:
    return _arguments(trajectory.messages[-1].tool_calls[0])


def _steps(trajectory: Trajectory, names: Mapping[str, str]) -> list[tuple[str, str, str, TrajectoryMessage | None]]:
    """Give (thought, function, arguments, result) of each step; a step has a thought or a call."""
    steps: list[tuple[str, str, str, TrajectoryMessage | None]] = []
    for message, pairs in zip(trajectory.messages, trajectory.results(), strict=True):
        if message.role == "assistant" and message.content.strip():
            steps.append((message.content, "", "", None))
        steps += [("", names.get(call.tool, call.tool), _arguments(call), result) for call, result in pairs]
    return steps


def _chain(trajectory: Trajectory, names: Mapping[str, str]) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = []
    for thought, function, arguments, result in _steps(trajectory, names):
        if not function:
            nodes.append(_node("Thought", thought, len(nodes)))
            continue
        nodes.append(_node("Action", function, len(nodes)))
        text, code = ("", _FINE) if result is None else (result.content, _FAILED if result.is_error else _FINE)
        if function == FINISH_TOOL:
            gave = _GIVE_UP not in arguments
            text, code = ("", _ANSWERED) if gave else ("", _GAVE_UP)
        nodes.append(
            {
                **_node("Action Input", arguments, len(nodes)),
                "observation": text,
                "observation_code": code,
                "io_state": {},
            }
        )
    if nodes:
        nodes[-1].update(finished=nodes[-1].get("observation_code") == _ANSWERED, is_terminal=True)
    return nodes


def _node(kind: str, text: str, depth: int) -> dict[str, Any]:
    flags = {"is_terminal": False, "pruned": False, "finished": False, "depth": depth + 1}
    return {**flags, "node_type": kind, "description": text, "Elo": 1000.0, "child_count": 1, "expand_num": 0}


def _tree(chain: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    following: list[dict[str, Any]] = []
    for node in reversed(chain):
        following = [{**node, "child_count": len(following), "children": following}]
    root = {**_node("Action Input", "", -1), "io_state": {}, "child_count": len(following), "children": following}
    return {"size": len(chain) + 1, "max_length": len(chain), "tree": root}


def _train_messages(trajectory: Trajectory, names: Mapping[str, str]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": trajectory.query},
    ]
    for thought, function, arguments, result in _steps(trajectory, names):
        if not function:
            messages.append({"role": "assistant", "content": thought})
            continue
        messages.append({"role": "assistant", "function_call": {"name": function, "arguments": arguments}})
        if function != FINISH_TOOL:
            text = "" if result is None else result.content
            messages.append({"role": "function", "name": function, "content": text})
    return messages


def _converted_path(answer: Mapping[str, Any], about: Mapping[str, Any]) -> list[dict[str, Any]]:
    if about["valid_data"]:
        return _from_messages(about["train_messages"][-1][2:])
    if "trys" in answer:
        return _from_nodes(answer["trys"][-1]["chain"])
    nodes, at = [], answer["tree"]["tree"]
    while at["children"]:
        at = at["children"][-1]
        nodes.append(at)
    return _from_nodes(nodes)


def _from_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    steps = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        call = message.get("function_call")
        if call is None:
            steps.append({"role": "assistant", "message": message["content"]})
            continue
        response = "" if call["name"] == FINISH_TOOL else messages[number + 1]["content"]
        steps.append(_tool_step(call["name"], call["arguments"], response))
    return steps


def _from_nodes(nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    steps = []
    for number, node in enumerate(nodes):
        following = nodes[number + 1] if number + 1 < len(nodes) else {}
        if node["node_type"] == "Thought":
            steps.append({"role": "assistant", "message": node["description"]})
        elif node["node_type"] == "Action" and following.get("node_type") == "Action Input":
            steps.append(_tool_step(node["description"], following["description"], following.get("observation", "")))
    return steps


def _tool_step(name: str, arguments: str, response: str) -> dict[str, Any]:
    return {"role": "tool", "message": {"name": name, "arguments": arguments, "response": response}}
