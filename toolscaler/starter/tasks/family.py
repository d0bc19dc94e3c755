"""A task family: several wordings, a way to draw values, a plan of calls, and the reference that its results give."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from toolscaler.starter.tasks.draw import Draw

Values = dict[str, Any]
Kind = Literal["call", "chain", "recovery", "give_up", "no_tool"]


@dataclass(frozen=True)
class Step:
    """One call of a plan.

    Attributes:
        tool: Function name of the tool.
        arguments: Makes the call's arguments from the task's values and the results of the earlier calls.
        need: What the call is for, after "I need": ``the date``.
        do: What is done, after "I": ``add the days``.
        thought: A whole thought instead of one made from ``need`` and ``do``; ``{name}`` stands for a value. After a
            failed call it may get a few words about that in front.
        fails: Whether the tool refuses the call; its message is then the result.
    """

    tool: str
    arguments: Callable[[Values, list[Any]], Mapping[str, Any]]
    need: str = ""
    do: str = ""
    thought: str = ""
    fails: bool = False


@dataclass(frozen=True)
class Family:
    """A family of tasks that differ in wording and values.

    Attributes:
        name: Name, each once.
        steps: The plan: no call for a question that no tool answers, else one to four, failing calls included.
        values: Draws the values of a task.
        train: Wordings of training tasks; ``{name}`` stands for a value.
        test: Wordings of held-out tasks.
        answer: The final answer: ``{ref}`` stands for the reference value; for yes and no a pair of sentences.
        reference: Makes the reference value from the results of all calls.
        kind: What the family shows.
        gives_up: Whether the right end is to give up; the reference is then what the explanation must say.
        show: How a value is written in a wording, by name; others as :func:`shown` does.
        files: Makes the files of the sandbox before the task (path to text).
        echo: Whether the reference may stand in the query already, as the largest number of a list does.
        longest: Most characters of the reference as JSON, or 0; values that give a longer one are drawn again.
        repeat: Tasks of each training wording.
        last_thought: Thought before the answer; by default a general one. Before giving up: the reason, without a full
            stop.
        breaks_schema: Whether a failing call has arguments that the tool's schema forbids.
    """

    name: str
    steps: tuple[Step, ...]
    values: Callable[[Draw], Values]
    train: tuple[str, ...]
    test: tuple[str, ...]
    answer: str | tuple[str, str]
    reference: Callable[[list[Any]], Any]
    kind: Kind = "call"
    gives_up: bool = False
    show: Mapping[str, Callable[[Any], str]] = field(default_factory=dict)
    files: Callable[[Values], Mapping[str, str]] | None = None
    echo: bool = False
    longest: int = 0
    repeat: int = 1
    last_thought: str = ""
    breaks_schema: bool = False


def shown(value: Any) -> str:
    """Write a value as a user types it: texts plain, lists of single values with commas, anything nested as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and not any(isinstance(item, list | tuple | dict) for item in value):
        return ", ".join(shown(item) for item in value)
    return json.dumps(value, ensure_ascii=False)


def call(
    tool: str,
    values: Callable[[Draw], Values],
    train: tuple[str, ...],
    test: tuple[str, ...],
    need: str,
    do: str,
    answer: str | tuple[str, str],
    *,
    name: str = "",
    ref: str | Callable[[Any], Any] = "",
    fixed: Mapping[str, Any] | None = None,
    **options: Any,
) -> Family:
    """Make a family of one call, whose arguments are the values of the same names.

    Args:
        tool: Function name of the tool.
        values: Draws the values; a name that begins with ``_`` is for the wording alone.
        train: Wordings of training tasks.
        test: Wordings of held-out tasks.
        need: What the call is for.
        do: What is done.
        answer: The final answer.
        name: Name of the family; by default the tool's.
        ref: Key of the result that is the reference, or a function of the result; by default the whole result.
        fixed: Further arguments, the same in each task.
        **options: Further attributes of :class:`Family`.
    """
    constant = dict(fixed or {})

    def arguments(drawn: Values, _: list[Any]) -> Mapping[str, Any]:
        return {key: value for key, value in drawn.items() if not key.startswith("_")} | constant

    def reference(results: list[Any]) -> Any:
        if callable(ref):
            return ref(results[-1])
        return results[-1][ref] if ref else results[-1]

    step = Step(tool, arguments, need, do)
    return Family(name or tool, (step,), values, train, test, answer, reference, **options)


def chain(
    name: str,
    values: Callable[[Draw], Values],
    steps: Sequence[Step],
    train: tuple[str, ...],
    test: tuple[str, ...],
    answer: str | tuple[str, str],
    *,
    ref: Callable[[list[Any]], Any] = lambda results: results[-1],
    **options: Any,
) -> Family:
    """Make a family of several calls.

    Args:
        name: Name of the family.
        values: Draws the values.
        steps: The calls.
        train: Wordings of training tasks.
        test: Wordings of held-out tasks.
        answer: The final answer.
        ref: Makes the reference from the results; by default the last result.
        **options: Further attributes of :class:`Family`.
    """
    options.setdefault("kind", "chain")
    return Family(name, tuple(steps), values, train, test, answer, ref, **options)
