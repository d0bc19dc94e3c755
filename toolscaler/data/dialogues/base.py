"""What every reader of dialogues shares: its interface, the builder of messages, and checked access to rows."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from toolscaler.data.sources.opening import Record, Source
from toolscaler.data.trajectories import FINISH_TOOL, ToolCall, Trajectory, TrajectoryMessage
from toolscaler.errors import DataError

#: Which paths of a search tree become trajectories: those that give an answer, or every one.
Branches = Literal["success", "all"]


@dataclass(frozen=True)
class Reading:
    """What a caller tells a reader, and what the reader tells back.

    Attributes:
        branches: Which paths of a search tree are wanted.
        split: Split of trajectories whose source names none.
        left_out: What was left out on purpose -> how often; readers add to it.
    """

    branches: Branches = "success"
    split: str = ""
    left_out: Counter[str] = field(default_factory=Counter)


class DialogueReader(ABC):
    """Reads one format. A reader is stateless.

    A subclass says which rows are of its format (:meth:`is_row`), which records of a source are trajectories
    (:meth:`records`) and what trajectory a record becomes (:meth:`trajectory`).

    Attributes:
        name: Name of the format, as in ``format="nestful"``.
        summary: The format in a few words, for error messages.
    """

    name: str = ""
    summary: str = ""

    @abstractmethod
    def is_row(self, row: Any) -> bool:
        """Say whether a parsed row is of this format; be strict, since two readers that fit are an error."""

    def fits(self, source: Source) -> bool:
        """Say whether more than half of the source's first rows are of this format.

        A bad row is then reported as such and does not hide the format.
        """
        return 2 * sum(map(self.is_row, source.sample)) > len(source.sample)

    def records(self, source: Source, reading: Reading) -> Iterator[Record]:
        """Yield one record a trajectory. Default: the source's own records.

        Raises:
            DataError: The source as a whole cannot be read.
        """
        return source.records()

    @abstractmethod
    def trajectory(self, record: Record, reading: Reading) -> Trajectory:
        """Make the trajectory of one record.

        Raises:
            DataError: The record is none; the message says what was expected. File and row are added outside.
        """


class Turns:
    """Builds a trajectory's messages from the turns of a dialogue.

    Text of the assistant waits for what follows: it becomes the Thought of the call after it, else a message.
    """

    def __init__(self) -> None:
        self._messages: list[TrajectoryMessage] = []
        self._waiting: list[str] = []

    def system(self, text: str) -> None:
        """Add a system message; blank text adds none."""
        if text.strip():
            self._messages.append(TrajectoryMessage("system", text))

    def user(self, text: str) -> None:
        """Add a user message, blanks at its edges apart."""
        self._speak()
        self._messages.append(TrajectoryMessage("user", text.strip()))

    def say(self, text: str) -> None:
        """Add text of the assistant; blank text adds none."""
        if text.strip():
            self._waiting.append(text.strip())

    def call(self, *calls: ToolCall) -> None:
        """Add calls of the assistant, made at once; what it said before is their Thought."""
        self._messages.append(TrajectoryMessage("assistant", self._take(), calls))

    def result(self, text: str, *, is_error: bool = False, call_id: str = "") -> None:
        """Add a tool's result. What comes back from :data:`~toolscaler.data.FINISH_TOOL` is none."""
        self._speak()
        if not (self._messages and self._messages[-1].finishes):
            self._messages.append(TrajectoryMessage("tool", text, (), call_id, is_error))

    def answer(self, text: str, thought: str = "") -> None:
        """Add an answer. With a Thought it is a call of :data:`~toolscaler.data.FINISH_TOOL`, which can carry one."""
        if not thought.strip():
            self.say(text)
        elif text.strip():
            self.say(thought)
            self.call(ToolCall.finish(text.strip()))

    def leftover(self) -> str:
        """Take back what the assistant said and nothing followed."""
        return self._take()

    def build(self, id: str = "", split: str = "", metadata: Mapping[str, Any] | None = None) -> Trajectory:
        """Make the trajectory; entries of the metadata that are empty are left out.

        Raises:
            DataError: The turns are no conversation.
        """
        self._speak()
        kept = {key: value for key, value in (metadata or {}).items() if value not in (None, "", [], {})}
        return Trajectory(tuple(self._messages), id, split, kept)

    def _take(self) -> str:
        text = "\n".join(self._waiting)
        self._waiting.clear()
        return text

    def _speak(self) -> None:
        if self._waiting:
            self._messages.append(TrajectoryMessage("assistant", self._take()))


def list_at(data: Mapping[str, Any], key: str) -> list[Any]:
    """Give the list under ``key``.

    Raises:
        DataError: There is none.
    """
    value = data.get(key)
    if not isinstance(value, list | tuple):
        got = type(value).__name__ if key in data else f"keys {sorted(map(str, data))}"
        raise DataError(f"expected a list under {key!r}, got {got}")
    return list(value)


def is_one_of(value: Any, names: frozenset[str]) -> bool:
    """Say whether a value, of whatever type, is one of the names."""
    return isinstance(value, str) and value in names


def scalar(value: Any) -> str:
    """Give an identifier as text: text and whole numbers as they are, anything else as empty text."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def as_text(value: Any) -> str:
    """Give a result as text: text as it is, other data as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def parse_json(text: str, what: str) -> Any:
    """Parse JSON.

    Raises:
        DataError: The text is none; ``what`` says what it should have been.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"expected {what} as JSON, got {text!r:.120} ({error.msg})") from error
    except RecursionError as error:
        raise DataError(f"expected {what} as JSON, got too deep a nesting") from error


def arguments_of(value: Any) -> Mapping[str, Any]:
    """Give a call's arguments: an object, or its JSON text; null and blank text are no arguments.

    Raises:
        DataError: Anything else.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}
    if isinstance(value, str):
        value = parse_json(value, "arguments")
    if not isinstance(value, Mapping):
        raise DataError(f"expected arguments as a JSON object, got {type(value).__name__}")
    return value


def tool_name(value: Any) -> str:
    """Give the name of a called tool, blanks at its edges kept.

    Raises:
        DataError: There is none.
    """
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"expected the name of a tool, got {value!r:.80}")
    return value


def pieces(text: str, heading: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Divide a text at its headings.

    Yields:
        The heading's first group, and the text up to the next heading. What stands before the first one goes.
    """
    marks = list(heading.finditer(text))
    for number, mark in enumerate(marks, 1):
        yield mark.group(1), text[mark.end() : marks[number].start() if number < len(marks) else len(text)]


def find_references(calls: Iterable[ToolCall], pattern: re.Pattern[str]) -> list[str]:
    """Give the references to former results in the arguments of calls, each once, in order."""
    found: dict[str, None] = {}
    for call in calls:
        for text in _strings(call.arguments):
            found.update(dict.fromkeys(match.group() for match in pattern.finditer(text)))
    return list(found)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def names_of(functions: Any) -> list[str]:
    """Give the names of the tools that a row offers: function schemas, wrapped or bare, or their JSON text.

    A list that cannot be understood gives no names: it is a remark, not the dialogue.
    """
    if isinstance(functions, str):
        try:
            functions = json.loads(functions)
        except (ValueError, RecursionError):
            return []
    names = []
    for item in functions if isinstance(functions, list | tuple) else ():
        inner = item.get("function", item) if isinstance(item, Mapping) else None
        name = inner.get("name") if isinstance(inner, Mapping) else None
        if isinstance(name, str) and name.strip() and name != FINISH_TOOL:
            names.append(name)
    return names
