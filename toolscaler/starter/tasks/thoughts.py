"""Thoughts: one or two short sentences that say what to do next and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolscaler.starter.tasks.draw import Draw
from toolscaler.starter.tasks.family import Family, Step

_FIRST = (
    "The user wants {need}. I {do}.",
    "I need {need}, so I {do}.",
    "This asks for {need}. I {do}.",
    "To get {need} I {do}.",
)
_OPENING = ("First I need {need}. I {do}.", "I start with {need} and {do}.", "To begin I need {need}, so I {do}.")
_NEXT = (
    "Now I need {need}. I {do}.",
    "Next I need {need}, so I {do}.",
    "With that I can get {need}. I {do}.",
    "Then I {do} to get {need}.",
)
_AFTER_ERROR = ("", "That failed. ", "The call was refused. ", "This did not work. ")
_GIVING_UP = (", so I give up.", ". I give up.", ". I can do no more here.", ", so there is no result.")
_LAST = ("I have the result.", "Now I can answer.", "The result is there, so I finish.", "That answers the question.")


def step_thought(steps: Sequence[Step], position: int, texts: Mapping[str, str], draw: Draw) -> str:
    """Give the thought before a call.

    Args:
        steps: The plan.
        position: Which of its calls, from 0.
        texts: The task's values as the query shows them, by name.
        draw: Chooses among the sentences.
    """
    step = steps[position]
    failed = position > 0 and steps[position - 1].fails
    if step.thought:
        return (draw.pick(_AFTER_ERROR) if failed else "") + step.thought.format_map(texts)
    one_call_seems_enough = len(steps) == 1 or steps[0].fails
    patterns = _NEXT if position else _FIRST if one_call_seems_enough else _OPENING
    return draw.pick(patterns).format(need=step.need, do=step.do)


def last_thought(family: Family, texts: Mapping[str, str], draw: Draw) -> str:
    """Give the thought before the answer, or before giving up.

    Args:
        family: The task's family.
        texts: The task's values as the query shows them, by name.
        draw: Chooses among the sentences.
    """
    reason = family.last_thought.format_map(texts)
    if family.gives_up:
        return reason + draw.pick(_GIVING_UP)
    return reason or draw.pick(_LAST)
