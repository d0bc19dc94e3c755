"""Two sequences of calls in, how far they are the same out: tools, calls, arguments and dependencies, as counts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolscaler.data.trajectories import ToolCall
from toolscaler.evaluation.tool_calling.assignment import best_assignment
from toolscaler.evaluation.tool_calling.predictions import PredictedCalls
from toolscaler.evaluation.tool_calling.tasks import ToolCallTask
from toolscaler.evaluation.tool_calling.values import same_json

_NESTFUL = re.compile(r"\$(var_?\d+)([^$]*)\$")
_SEAL = re.compile(r"(API_call_\d+)()\b")
_PLACEHOLDER = re.compile(r"<[^<>]+>")
# A reference to a former result, in the one form to which every data set's form is brought.
_CANONICAL = re.compile("\x00[^\x00]*\x00")
# Chains of references are short: each round settles one more link.
_ROUNDS = 8
_TIE = 1e-6
#: Whether a predicted value is what a reference value asks for.
_Same = Callable[[Any, Any], bool]


@dataclass(frozen=True)
class Overlap:
    """What two collections share.

    Attributes:
        both: Number of elements that are in both.
        predicted: Number of elements predicted.
        reference: Number of elements of the reference.
    """

    both: int
    predicted: int
    reference: int

    @property
    def precision(self) -> float:
        """Share of what was predicted that is right; of nothing, 1 where nothing was wanted, else 0."""
        return _share(self.both, self.predicted, self.reference)

    @property
    def recall(self) -> float:
        """Share of the reference that was predicted; of nothing, 1 where nothing was predicted, else 0."""
        return _share(self.both, self.reference, self.predicted)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.predicted + self.reference
        return 2.0 * self.both / total if total else 1.0


@dataclass(frozen=True)
class SequenceMatch:
    """How far predicted calls are the reference.

    Attributes:
        tools: Overlap of the tools called, as often as they are called, order apart.
        calls: Overlap of whole calls, arguments included, order apart.
        arguments: Overlap of (call, argument, value): calls of one tool are paired so that most arguments agree.
        dependencies: The same of those arguments that refer to a former result.
        tools_in_order: Whether the same tools are called in the same order.
        exact: Whether the same calls are made in the same order.
        unordered: Whether the same calls are made, order apart.
        ordered: Whether the reference calls are made in their order; others may stand between them.
        partial: Longest common subsequence of whole calls, as a share of the longer sequence.
    """

    tools: Overlap
    calls: Overlap
    arguments: Overlap
    dependencies: Overlap
    tools_in_order: bool
    exact: bool
    unordered: bool
    ordered: bool
    partial: float


def match_sequences(prediction: PredictedCalls, task: ToolCallTask, kind: str) -> SequenceMatch:
    """Compare predicted calls with a task's reference calls.

    Values are compared as JSON: 5 is 5.0, true is not 1, texts by every character. A reference to a former result is
    compared by the call that it means, not by its label: sequences may name results and order independent calls as they
    like. Which call is which is found by pairing calls of one tool so that most arguments agree. Of ``ultratool`` a
    placeholder such as ``<order id>`` stands for a former result that has no name, so any value is right there.

    Args:
        prediction: The predicted calls.
        task: The task.
        kind: One of :data:`TOOL_CALL_KINDS`.
    """
    named = [task.names.get(call.tool, call.tool) for call in prediction.calls]
    mine = [ToolCall(name, call.arguments, call.id) for name, call in zip(named, prediction.calls, strict=True)]
    same = _same_or_placeholder if kind == "ultratool" else same_json
    reference = _canonical(task.calls, [str(place) for place in range(len(task.calls))], kind, task.outputs, ())
    # What a reference means depends on which call is which, and that on the arguments: begin without references, and
    # go on until nothing changes.
    meant: list[int | None] = [None] * len(mine)
    for _ in range(_ROUNDS):
        ids = [f"predicted {place}" if other is None else str(other) for place, other in enumerate(meant)]
        predicted = _canonical(mine, ids, kind, task.outputs, prediction.outputs)
        found = _counterparts(predicted, reference, same)
        if found == meant:
            break
        meant = found
    equal = [[_same_call(one, other, same) for other in reference] for one in predicted]
    tools = [call.tool for call in predicted], [call.tool for call in reference]
    shared_tools = sum((Counter(tools[0]) & Counter(tools[1])).values())
    arguments, dependencies = _argument_overlaps(predicted, reference, same)
    longest = _longest_common(equal)
    sizes = len(predicted), len(reference)
    calls = Overlap(_most_pairs(equal), *sizes)
    return SequenceMatch(
        tools=Overlap(shared_tools, *sizes),
        calls=calls,
        arguments=arguments,
        dependencies=dependencies,
        tools_in_order=tools[0] == tools[1],
        exact=longest == max(sizes),
        unordered=calls.both == max(sizes),
        ordered=longest == len(reference),
        partial=longest / max(sizes) if max(sizes) else 1.0,
    )


def _counterparts(predicted: Sequence[ToolCall], reference: Sequence[ToolCall], same: _Same) -> list[int | None]:
    """Give for each predicted call its place in the reference, if any; of equally good ones the first for the first."""
    found: list[int | None] = [None] * len(predicted)
    for tool in {call.tool for call in reference}:
        mine = [place for place, call in enumerate(predicted) if call.tool == tool]
        theirs = [place for place, call in enumerate(reference) if call.tool == tool]
        weights = [
            [
                _agreed(predicted[one], reference[other], same) + _TIE * (row == column)
                for column, other in enumerate(theirs)
            ]
            for row, one in enumerate(mine)
        ]
        for row, column in _pairs(weights, len(theirs)):
            found[mine[row]] = theirs[column]
    return found


def _canonical(
    calls: Sequence[ToolCall],
    ids: Sequence[str],
    kind: str,
    outputs: Mapping[str, int],
    named: Sequence[Sequence[str]],
) -> list[ToolCall]:
    """Bring references to former results to one form: the id of the call, and what of its result."""
    pattern = {"nestful": _NESTFUL, "seal-tools": _SEAL}.get(kind)
    if pattern is None:
        return list(calls)
    meanings: dict[str, str] = {}
    counted = 0
    found = []
    for number, call in enumerate(calls):

        def meant(match: re.Match[str]) -> str:
            meaning = meanings.get(match.group(1).replace("_", "") if kind == "nestful" else match.group(1))
            return match.group() if meaning is None else f"\x00{meaning}|{match.group(2)}\x00"

        found.append(ToolCall(call.tool, _replaced(call.arguments, pattern, meant), call.id))
        if kind == "nestful":
            meanings[(call.id or f"var{number + 1}").replace("_", "")] = ids[number]
            continue
        names = list(named[number]) if number < len(named) and named[number] else []
        names = names or [f"API_call_{counted + place}" for place in range(outputs.get(call.tool, 1))]
        meanings.update({name: f"{ids[number]}|{place}" for place, name in enumerate(names)})
        counted += len(names)
    return found


def _replaced(value: Any, pattern: re.Pattern[str], meant: Callable[[re.Match[str]], str]) -> Any:
    if isinstance(value, str):
        return pattern.sub(meant, value)
    if isinstance(value, Mapping):
        return {key: _replaced(item, pattern, meant) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, pattern, meant) for item in value]
    return value


def _same_or_placeholder(predicted: Any, reference: Any) -> bool:
    return is_placeholder(reference) or same_json(predicted, reference)


def is_placeholder(value: Any) -> bool:
    """Say whether a value is a text such as ``<order id>``, which stands for a former result."""
    return isinstance(value, str) and _PLACEHOLDER.fullmatch(value.strip()) is not None


def _same_call(predicted: ToolCall, reference: ToolCall, same: _Same) -> bool:
    if predicted.tool != reference.tool or predicted.arguments.keys() != reference.arguments.keys():
        return False
    return all(same(predicted.arguments[key], value) for key, value in reference.arguments.items())


def _argument_overlaps(
    predicted: Sequence[ToolCall], reference: Sequence[ToolCall], same: _Same
) -> tuple[Overlap, Overlap]:
    """Count arguments, and those that refer to a former result."""
    shared = shared_dependent = 0
    for tool in {call.tool for call in reference}:
        mine = [call for call in predicted if call.tool == tool]
        theirs = [call for call in reference if call.tool == tool]
        agreed = [[_agreed(one, other, same) for other in theirs] for one in mine]
        for row, column in _pairs(agreed, len(theirs)):
            keys = [key for key, value in theirs[column].arguments.items() if _has(mine[row], key, value, same)]
            shared += len(keys)
            shared_dependent += sum(_depends(theirs[column].arguments[key]) for key in keys)
    sizes = [sum(len(call.arguments) for call in calls) for calls in (predicted, reference)]
    dependent = [
        sum(map(_depends, (v for call in calls for v in call.arguments.values()))) for calls in (predicted, reference)
    ]
    return Overlap(shared, *sizes), Overlap(shared_dependent, *dependent)


def _has(call: ToolCall, key: str, value: Any, same: _Same) -> bool:
    return key in call.arguments and same(call.arguments[key], value)


def _agreed(predicted: ToolCall, reference: ToolCall, same: _Same) -> float:
    return float(sum(_has(predicted, key, value, same) for key, value in reference.arguments.items()))


def _depends(value: Any) -> bool:
    """Say whether a value refers to a former result that exists."""
    if isinstance(value, str):
        return _CANONICAL.search(value) is not None
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return any(map(_depends, items))


def _pairs(weights: Sequence[Sequence[float]], columns: int) -> list[tuple[int, int]]:
    """Pair rows and columns so that the sum of weights is largest; the shorter side is used up."""
    if not weights or not columns:
        return []
    if len(weights) <= columns:
        return list(enumerate(best_assignment(weights)))
    turned = best_assignment([list(column) for column in zip(*weights, strict=True)])
    return [(row, column) for column, row in enumerate(turned)]


def _most_pairs(equal: Sequence[Sequence[bool]]) -> int:
    columns = len(equal[0]) if equal else 0
    return sum(equal[row][column] for row, column in _pairs([[float(cell) for cell in row] for row in equal], columns))


def _longest_common(equal: Sequence[Sequence[bool]]) -> int:
    """Give the length of the longest common subsequence of two sequences whose elements are equal as the table says."""
    columns = len(equal[0]) if equal else 0
    best = [0] * (columns + 1)
    for row in equal:
        before = best
        best = [0] * (columns + 1)
        for at, fits in enumerate(row):
            best[at + 1] = before[at] + 1 if fits else max(before[at + 1], best[at])
    return best[columns]


def _share(both: int, of: int, other: int) -> float:
    return both / of if of else float(not other)
