"""The starter's tasks and trajectories, made when they are loaded by really running the starter's tools."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from toolscaler.data.trajectories import GIVE_ANSWER, GIVE_UP, ToolCall, Trajectory, TrajectoryMessage
from toolscaler.errors import ConfigError
from toolscaler.starter.tasks.build import StarterTask, build_tasks

_SPLITS = ("train", "test")


def load_starter_tasks(split: str | None = None, *, variants: int = 1) -> list[StarterTask]:
    """Give the starter's tasks: queries with the calls that answer them and a reference value.

    The test tasks have wordings and values of their own, which no training task has.

    Args:
        split: ``"train"``, ``"test"`` or ``None`` for both.
        variants: How many times each wording is filled with values; more give more tasks of the same families, the
            first ones unchanged. Wordings with few possible values give fewer.

    Returns:
        The tasks, the same ones on every call.

    Raises:
        ConfigError: Another split name, or fewer than one variant.
    """
    if split is not None and split not in _SPLITS:
        raise ConfigError("split", split, "'train', 'test' or None")
    if isinstance(variants, bool) or not isinstance(variants, int) or variants < 1:
        raise ConfigError("variants", variants, "a whole number of at least 1")
    return [task for part in ((split,) if split else _SPLITS) for task in _tasks(part, variants)]


@lru_cache(maxsize=8)
def _tasks(split: str, variants: int) -> tuple[StarterTask, ...]:
    return tuple(build_tasks(split, variants))


def task_trajectory(task: StarterTask) -> Trajectory:
    """Write a task's reference solution as a trajectory: thought, call, feedback, and so on, then ``Finish``.

    Args:
        task: The task.

    Returns:
        The trajectory. Its metadata names ``family``, ``kind``, ``reference``, ``files`` and
        ``breaks_schema``.
    """
    messages = [TrajectoryMessage("user", task.query)]
    for number, call in enumerate(task.calls, 1):
        made = ToolCall(call.tool, call.arguments, id=f"call_{number}")
        messages.append(TrajectoryMessage("assistant", call.thought, (made,)))
        messages.append(TrajectoryMessage("tool", call.feedback, tool_call_id=made.id, is_error=call.is_error))
    finish = ToolCall.finish(task.answer, return_type=GIVE_UP if task.outcome == "give_up" else GIVE_ANSWER)
    messages.append(TrajectoryMessage("assistant", task.last_thought, (finish,)))
    metadata = {
        "family": task.family,
        "kind": task.kind,
        "reference": task.reference,
        "files": dict(task.files),
        "breaks_schema": task.breaks_schema,
    }
    return Trajectory(tuple(messages), id=task.id, split=task.split, metadata=metadata)


def load_starter_trajectories(split: str | None = None, *, variants: int = 1) -> list[Trajectory]:
    """Give the starter's trajectories: the reference solutions of :func:`load_starter_tasks`, in the same order.

    Args:
        split: ``"train"``, ``"test"`` or ``None`` for both.
        variants: How many times each wording is filled with values.

    Raises:
        ConfigError: Another split name, or fewer than one variant.
    """
    tasks: Sequence[StarterTask] = load_starter_tasks(split, variants=variants)
    return [task_trajectory(task) for task in tasks]
