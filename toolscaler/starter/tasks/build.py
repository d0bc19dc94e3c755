"""From families to tasks: draw values, run the plan with the real tools, take reference and answer from the results."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from toolscaler.errors import DataError
from toolscaler.starter.registry import PROVIDER, call_starter_tool, starter_function
from toolscaler.starter.sandbox import sandbox
from toolscaler.starter.tasks.check import holds_value, same_arguments, value_text
from toolscaler.starter.tasks.draw import Draw
from toolscaler.starter.tasks.family import Family, Kind, Values, shown
from toolscaler.starter.tasks.thoughts import last_thought, step_thought

_ATTEMPTS = 2000


@dataclass(frozen=True)
class StarterCall:
    """One call that was really run.

    Attributes:
        tool: Tool id.
        arguments: The call's arguments, plain JSON data.
        thought: What is said before the call.
        feedback: The result as JSON, or the message of the error.
        is_error: Whether the tool refused the call.
    """

    tool: str
    arguments: Mapping[str, Any]
    thought: str
    feedback: str
    is_error: bool = False


@dataclass(frozen=True)
class StarterTask:
    """A task with its reference solution.

    Attributes:
        id: ``<family>/<split>/<number>``.
        split: ``train`` or ``test``.
        family: Name of the family.
        kind: ``call`` (one call), ``chain`` (two to four), ``recovery`` (a call fails, a later one is right),
            ``give_up`` (a call fails and nothing helps) or ``no_tool`` (no tool fits).
        query: What the user says.
        calls: The calls of the reference solution, failing ones included.
        reference: The reference value, plain JSON data, made from the results by code.
        answer: Final answer of the reference solution; it holds the reference value.
        outcome: ``answer`` or ``give_up``: how the task should end.
        last_thought: Thought before the answer.
        files: Files that must be in the sandbox before the task: path to text.
        final_files: Files that the reference solution leaves in the sandbox: path to text.
        breaks_schema: Whether a failing call has arguments that the tool's schema forbids; a decoder that keeps to
            the schema cannot make this mistake.
    """

    id: str
    split: str
    family: str
    kind: Kind
    query: str
    calls: tuple[StarterCall, ...]
    reference: Any
    answer: str
    outcome: Literal["answer", "give_up"]
    last_thought: str
    files: Mapping[str, str] = field(default_factory=dict)
    final_files: Mapping[str, str] = field(default_factory=dict)
    breaks_schema: bool = False

    @property
    def expected_tools(self) -> tuple[str, ...]:
        """Ids of the tools of the calls that succeed, in call order."""
        return tuple(call.tool for call in self.calls if not call.is_error)

    @property
    def expected_arguments(self) -> tuple[Mapping[str, Any], ...]:
        """Arguments of the calls that succeed, in call order."""
        return tuple(call.arguments for call in self.calls if not call.is_error)

    def check(self, answer: str) -> bool:
        """Say whether a final answer is right: whether it holds the reference value.

        See :func:`toolscaler.starter.tasks.check.holds_value`. Where the right end is to give up, capitals do not
        matter, and the caller compares the outcome too.

        Args:
            answer: The final answer of an agent.
        """
        if self.outcome == "give_up":
            return holds_value(answer.casefold(), str(self.reference).casefold())
        return holds_value(answer, self.reference)

    def solved_by(self, calls: Iterable[tuple[str, Mapping[str, Any]]]) -> bool:
        """Say whether calls hold the expected ones, in their order; further calls in between do not matter.

        Arguments are compared with the defaults of the tools filled in, numbers by value (3 is 3.0).

        Args:
            calls: Tool id and arguments of each call that an agent made.
        """
        left = list(zip(self.expected_tools, self.expected_arguments, strict=True))
        for tool, arguments in calls:
            if left and tool == left[0][0] and same_arguments(tool, arguments, left[0][1]):
                left.pop(0)
        return not left

    def check_files(self, folder: str | Path) -> bool:
        """Say whether a sandbox holds exactly the files that it should hold after the task.

        Args:
            folder: The folder that :meth:`workspace` gave, while it is open.
        """
        return _read_files(Path(folder)) == dict(self.final_files)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Give the task a sandbox of its own with its files; the file tools work there inside the ``with`` block.

        Yields:
            The temporary folder, which is removed afterwards.
        """
        with tempfile.TemporaryDirectory(prefix="toolscaler-task-") as folder, _workspace(Path(folder), self.files):
            yield Path(folder)


@contextmanager
def _workspace(folder: Path, files: Mapping[str, str]) -> Iterator[None]:
    with sandbox(folder) as root:
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(text.encode("utf-8"))
        yield


def _read_files(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes().decode("utf-8", "replace") for path in found}


def run_starter_call(tool: str, arguments: Mapping[str, Any]) -> tuple[str, bool]:
    """Run a starter tool and give its feedback.

    Args:
        tool: Tool id or function name.
        arguments: Arguments by name.

    Returns:
        The result as JSON and ``False``, or the message of the error and ``True``.

    Raises:
        UnknownToolError: No such tool.
    """
    try:
        return json.dumps(call_starter_tool(tool, **arguments), ensure_ascii=False), False
    except (ValueError, TypeError) as error:
        return str(error), True


@lru_cache(maxsize=1)
def starter_families() -> tuple[Family, ...]:
    """Give all task families, sorted by name.

    Raises:
        DataError: Two families have the same name.
    """
    from toolscaler.starter import tasks

    found: dict[str, Family] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(tasks.__path__)):
        for family in getattr(importlib.import_module(f"{tasks.__name__}.{module}"), "FAMILIES", ()):
            if family.name in found:
                raise DataError(f"two task families are named {family.name!r}")
            found[family.name] = family
    return tuple(found[name] for name in sorted(found))


def build_tasks(split: str, variants: int = 1) -> list[StarterTask]:
    """Draw the tasks of a split and run their plans.

    Args:
        split: ``train`` or ``test``. No values of one are drawn in the other.
        variants: Value draws of each wording; the first ones are the same for every number. A wording whose values
            are used up gives fewer.

    Returns:
        The tasks, sorted by family; the same ones on every call.

    Raises:
        DataError: A family is faulty: no values fit, or a call fails where it should not.
    """
    with tempfile.TemporaryDirectory(prefix="toolscaler-tasks-") as folder:
        return [task for family in starter_families() for task in _family_tasks(family, split, variants, Path(folder))]


def _family_tasks(family: Family, split: str, variants: int, folder: Path) -> list[StarterTask]:
    tasks: list[StarterTask] = []
    queries: set[str] = set()
    wordings = family.train if split == "train" else family.test
    repeat = family.repeat if split == "train" else 1
    for round_number in range(variants * repeat):
        for index, wording in enumerate(wordings):
            place = folder / f"{family.name}-{len(tasks)}"
            draw = Draw(f"{family.name}/{split}/{index}/{round_number}")
            task = _draw_task(family, split, wording, draw, queries, place, len(tasks))
            if task is not None:
                queries.add(task.query)
                tasks.append(task)
            elif round_number < repeat:
                raise DataError(f"task family {family.name!r}: no values fit the {split} wording {wording!r}")
    return tasks


def _draw_task(
    family: Family, split: str, wording: str, draw: Draw, queries: set[str], folder: Path, number: int
) -> StarterTask | None:
    """Draw values until they belong to the split and the task is sound; ``None`` if no new ones are found."""
    for attempt in range(_ATTEMPTS):
        values = family.values(draw)
        if _split_of(values) != split:
            continue
        query = wording.format_map(_texts(family, values))
        if query in queries:
            continue
        task = _run_plan(family, split, query, values, draw, folder / str(attempt), number)
        text = json.dumps(task.reference)
        too_long = (family.longest and len(text) > family.longest) or (
            isinstance(task.reference, float) and "e" in text  # nobody writes 1.7e-05
        )
        echoes = not family.echo and task.calls and not isinstance(task.reference, bool) and task.check(query)
        if not too_long and not echoes:
            return task
    return None


def _texts(family: Family, values: Values) -> dict[str, str]:
    return {name: family.show.get(name, shown)(value) for name, value in values.items()}


def _split_of(values: Values) -> str:
    """Give the split in which values may occur: one set of values in four is held out."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return "test" if zlib.crc32(text.encode()) % 4 == 0 else "train"


def _run_plan(
    family: Family, split: str, query: str, values: Values, draw: Draw, folder: Path, number: int
) -> StarterTask:
    texts = _texts(family, values)
    files = dict(family.files(values)) if family.files else {}
    results: list[Any] = []
    calls: list[StarterCall] = []
    final_files: dict[str, str] = {}
    with ExitStack() as stack:
        uses_files = bool(files) or any(_is_file_tool(step.tool) for step in family.steps)
        if uses_files:
            stack.enter_context(_workspace(folder, files))
        for position, step in enumerate(family.steps):
            arguments = _ordered(step.tool, step.arguments(values, results))
            feedback, is_error = run_starter_call(step.tool, arguments)
            if is_error != step.fails:
                raise DataError(f"task family {family.name!r}: {step.tool}({arguments}) gave {feedback!r}")
            results.append(feedback if is_error else json.loads(feedback))
            thought = step_thought(family.steps, position, texts, draw)
            calls.append(StarterCall(f"{PROVIDER}/{step.tool}", arguments, thought, feedback, is_error))
        if uses_files:
            final_files = _read_files(folder)
    reference = family.reference(results)
    template = family.answer if isinstance(family.answer, str) else family.answer[0 if reference else 1]
    return StarterTask(
        id=f"{family.name}/{split}/{number}",
        split=split,
        family=family.name,
        kind=family.kind,
        query=query,
        calls=tuple(calls),
        reference=reference,
        answer=template.format_map({**texts, "ref": value_text(reference)}),
        outcome="give_up" if family.gives_up else "answer",
        last_thought=last_thought(family, texts, draw),
        files=files,
        final_files=final_files,
        breaks_schema=family.breaks_schema,
    )


def _ordered(tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Put arguments into the order of the tool's parameters, in which its schema names them."""
    places = list(inspect.signature(starter_function(tool)).parameters)
    return {name: arguments[name] for name in sorted(arguments, key=places.index)}


def _is_file_tool(tool: str) -> bool:
    return starter_function(tool).__module__.endswith(".tools.files")
