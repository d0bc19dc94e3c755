"""A conversation in which an assistant thinks, calls tools, reads their results and answers, as immutable records."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from toolscaler.data.documents import ToolDocument
from toolscaler.errors import DataError

#: Id of the tool that ends a trajectory (paper section 4.2). It is a tool of the catalogue, with codes of its own.
FINISH_TOOL = "Finish"
#: Values of ``return_type`` in a call of :data:`FINISH_TOOL`.
GIVE_ANSWER, GIVE_UP = "give_answer", "give_up"
# ToolBench's catalogue and trajectories name giving up so.
_RETURN_TYPES = (GIVE_ANSWER, GIVE_UP, "give_up_and_restart")

#: Who speaks: ``tool`` messages are results.
Role = Literal["system", "user", "assistant", "tool"]
#: How a trajectory ends: with an answer, with the statement that there is none, or in the middle.
Outcome = Literal["answer", "give_up", "open"]

_ROLES = get_args(Role)


def finish_document() -> ToolDocument:
    """Give the document of :data:`FINISH_TOOL` (paper section 4.2), for catalogues that lack one."""
    properties = {
        "return_type": {"type": "string", "enum": [GIVE_ANSWER, GIVE_UP]},
        "final_answer": {"type": "string", "description": "The answer, or why there is none."},
    }
    schema = {"type": "object", "properties": properties, "required": ["return_type", "final_answer"]}
    return ToolDocument(FINISH_TOOL, "End the task: give the final answer, or give up.", parameters=schema)


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool.

    Attributes:
        tool: Id of the tool (:attr:`toolscaler.data.ToolDocument.id`), or :data:`FINISH_TOOL`. Not empty.
        arguments: The arguments: a JSON object. A copy in plain dictionaries and lists; do not change it.
        id: Identifier that a result refers to; may be empty.

    Raises:
        DataError: The tool is empty, or the arguments are no JSON object.
    """

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""

    def __post_init__(self) -> None:
        _check_texts(self, "tool", "id")
        if not self.tool.strip():
            raise DataError("ToolCall.tool: expected the id of a tool, got nothing")
        if not isinstance(self.arguments, Mapping):
            got = type(self.arguments).__name__
            raise DataError(f"ToolCall.arguments of {self.tool!r}: expected a JSON object, got {got}")
        try:
            object.__setattr__(self, "arguments", _json_copy(self.arguments))
        except (DataError, RecursionError) as error:
            reason = error.message if isinstance(error, DataError) else "nested too deeply"
            raise DataError(f"ToolCall.arguments of {self.tool!r}: {reason}") from None

    def __hash__(self) -> int:
        return hash((self.tool, tuple(sorted(self.arguments)), self.id))

    @classmethod
    def finish(cls, answer: str, *, return_type: str = GIVE_ANSWER) -> ToolCall:
        """Make the call that ends a trajectory.

        Args:
            answer: The answer, or why there is none.
            return_type: :data:`GIVE_ANSWER` or :data:`GIVE_UP`.
        """
        return cls(FINISH_TOOL, {"return_type": return_type, "final_answer": answer})

    def arguments_json(self) -> str:
        """Give the arguments as JSON on one line, in their order, with ``", "`` and ``": "`` as separators."""
        return json.dumps(self.arguments, ensure_ascii=False)

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON data; :meth:`from_dict` is the way back. An empty id is left out."""
        data: dict[str, Any] = {"tool": self.tool, "arguments": _json_copy(self.arguments)}
        return {**data, "id": self.id} if self.id else data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ToolCall:
        """Build a call from :meth:`to_dict`'s data.

        Raises:
            DataError: No JSON object, an unknown key, or no tool.
        """
        return cls(**_known(cls, data, required=("tool",)))


@dataclass(frozen=True)
class TrajectoryMessage:
    """One message.

    Attributes:
        role: ``system``, ``user``, ``assistant`` or ``tool``.
        content: The text. Of an assistant message with calls: the Thought; without calls: the answer in plain text. Of
            a ``tool`` message: the result (feedback), which may be empty.
        tool_calls: The calls of an assistant message, in order.
        tool_call_id: Of a ``tool`` message: the id of the call it answers. Empty: results answer calls in order.
        is_error: Of a ``tool`` message: whether the call failed.

    Raises:
        DataError: A field has a wrong type or belongs to another role, or there is nothing where text is needed.
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    is_error: bool = False

    def __post_init__(self) -> None:
        if self.role not in _ROLES:
            raise DataError(f"TrajectoryMessage.role: expected one of {', '.join(_ROLES)}, got {self.role!r:.80}")
        _check_texts(self, "content", "tool_call_id")
        if isinstance(self.tool_calls, str | Mapping) or not isinstance(self.tool_calls, Iterable):
            raise DataError(f"TrajectoryMessage.tool_calls: expected calls, got {type(self.tool_calls).__name__}")
        object.__setattr__(self, "tool_calls", tuple(self.tool_calls))
        for call in self.tool_calls:
            if not isinstance(call, ToolCall):
                raise DataError(f"TrajectoryMessage.tool_calls: expected ToolCall, got {type(call).__name__}")
        if not isinstance(self.is_error, bool):
            raise DataError(f"TrajectoryMessage.is_error: expected true or false, got {self.is_error!r:.80}")
        self._check_role()

    def _check_role(self) -> None:
        if self.tool_calls and self.role != "assistant":
            raise DataError(f"a {self.role} message has tool calls; only the assistant calls tools")
        if (self.tool_call_id or self.is_error) and self.role != "tool":
            raise DataError(f"a {self.role} message has tool_call_id or is_error; these belong to results (role tool)")
        if self.role == "user" and not self.content.strip():
            raise DataError("a user message: expected text, got nothing")
        if self.role == "assistant" and not self.tool_calls and not self.content.strip():
            raise DataError("an assistant message: expected text or tool calls, got neither")
        ids = [call.id for call in self.tool_calls if call.id]
        if len(set(ids)) < len(ids):
            raise DataError(f"an assistant message: expected different call ids, got {ids}")
        if len(self.tool_calls) > 1 and self.finishes:
            raise DataError(
                f"an assistant message: expected {FINISH_TOOL} as its only call, got {len(self.tool_calls)}"
            )

    @property
    def finishes(self) -> bool:
        """Whether the message calls :data:`FINISH_TOOL`."""
        return any(call.tool == FINISH_TOOL for call in self.tool_calls)

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON data; :meth:`from_dict` is the way back. Fields at their default are left out."""
        data: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            data["tool_calls"] = [call.to_dict() for call in self.tool_calls]
        if self.tool_call_id:
            data["tool_call_id"] = self.tool_call_id
        return {**data, "is_error": True} if self.is_error else data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrajectoryMessage:
        """Build a message from :meth:`to_dict`'s data.

        Raises:
            DataError: No JSON object, an unknown key, no role, or a field that is not valid.
        """
        values = _known(cls, data, required=("role",))
        calls = values.get("tool_calls", ())
        if not isinstance(calls, list | tuple):
            raise DataError(f"TrajectoryMessage.tool_calls: expected a list, got {type(calls).__name__}")
        values["tool_calls"] = tuple(ToolCall.from_dict(call) for call in calls)
        return cls(**values)


@dataclass(frozen=True)
class Trajectory:
    """A whole conversation (paper section 3: query, then thought, action, action input and feedback, then the answer).

    Its messages stand in this order: any system messages, a user message, then assistant, ``tool`` and user messages.
    Results follow the assistant message whose calls they answer, at most one a call; a call may lack its result.
    A message that calls :data:`FINISH_TOOL` is the last one, or a user message follows.

    Attributes:
        messages: The messages, at least one of them the user's.
        id: Identifier inside its source; may be empty.
        split: The source's own split; may be empty.
        metadata: Anything else the source says, plain JSON data.

    Raises:
        DataError: The messages are not in such an order, a result names no open call, or a call of
            :data:`FINISH_TOOL` says neither that it answers nor that it gives up.
    """

    messages: tuple[TrajectoryMessage, ...]
    id: str = ""
    split: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        _check_texts(self, "id", "split")
        if isinstance(self.messages, str | Mapping) or not isinstance(self.messages, Iterable):
            raise DataError(f"Trajectory.messages: expected messages, got {type(self.messages).__name__}")
        object.__setattr__(self, "messages", tuple(self.messages))
        for message in self.messages:
            if not isinstance(message, TrajectoryMessage):
                raise DataError(f"Trajectory.messages: expected TrajectoryMessage, got {type(message).__name__}")
        if not isinstance(self.metadata, Mapping):
            raise DataError(f"Trajectory.metadata: expected a JSON object, got {type(self.metadata).__name__}")
        object.__setattr__(self, "metadata", _json_copy(self.metadata))
        _check_order(self.messages)

    @property
    def query(self) -> str:
        """The first user message."""
        return next(message.content for message in self.messages if message.role == "user")

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Every call, in order, :data:`FINISH_TOOL` among them."""
        return tuple(call for message in self.messages for call in message.tool_calls)

    @property
    def tools(self) -> tuple[str, ...]:
        """Ids of the tools called, one for each call, in order, without :data:`FINISH_TOOL`."""
        return tuple(call.tool for call in self.calls if call.tool != FINISH_TOOL)

    @property
    def answer(self) -> str:
        """What the last message says to the user: the final answer, or plain text; empty where it says nothing."""
        last = self.messages[-1]
        if last.finishes:
            return str(last.tool_calls[0].arguments.get("final_answer") or "")
        return last.content if last.role == "assistant" and not last.tool_calls else ""

    @property
    def outcome(self) -> Outcome:
        """``answer``: the last message answers, by :data:`FINISH_TOOL` or in plain text; ``give_up``; else ``open``."""
        last = self.messages[-1]
        if last.finishes:
            return "answer" if last.tool_calls[0].arguments["return_type"] == GIVE_ANSWER else "give_up"
        return "answer" if last.role == "assistant" and not last.tool_calls else "open"

    def results(self) -> list[list[tuple[ToolCall, TrajectoryMessage | None]]]:
        """Pair calls with their results.

        Returns:
            For each message, in order, its calls with their ``tool`` messages; ``None`` where a result is missing.
        """
        return [
            _pairs(message.tool_calls, _results_after(self.messages, index))
            for index, message in enumerate(self.messages)
        ]

    def with_finish(self) -> Trajectory:
        """Give the trajectory with plain-text answers as calls of :data:`FINISH_TOOL`.

        An answer is an assistant message without calls that is the last message or stands before a user message. Its
        text becomes ``final_answer``; the Thought is then empty.
        """
        messages = list(self.messages)
        for index, message in enumerate(messages):
            ends = index + 1 == len(messages) or messages[index + 1].role == "user"
            if message.role == "assistant" and not message.tool_calls and ends:
                messages[index] = TrajectoryMessage("assistant", "", (ToolCall.finish(message.content),))
        return replace(self, messages=tuple(messages))

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON data; :meth:`from_dict` is the way back. Empty fields are left out."""
        data: dict[str, Any] = {"messages": [message.to_dict() for message in self.messages]}
        for key in ("id", "split"):
            if getattr(self, key):
                data[key] = getattr(self, key)
        return {**data, "metadata": _json_copy(self.metadata)} if self.metadata else data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trajectory:
        """Build a trajectory from :meth:`to_dict`'s data.

        Raises:
            DataError: No JSON object, an unknown key, no messages, or a message that is not valid, with its number.
        """
        values = _known(cls, data, required=("messages",))
        if not isinstance(values["messages"], list | tuple):
            raise DataError(f"Trajectory.messages: expected a list, got {type(values['messages']).__name__}")
        messages = []
        for number, message in enumerate(values["messages"], 1):
            try:
                messages.append(TrajectoryMessage.from_dict(message))
            except DataError as error:
                raise DataError(f"message {number}: {error.message}") from None
        return cls(**{**values, "messages": tuple(messages)})


def _check_order(messages: tuple[TrajectoryMessage, ...]) -> None:
    """Refuse messages in an order that no conversation has."""
    if not any(message.role == "user" for message in messages):
        raise DataError("Trajectory.messages: expected a user message, got none")
    spoken = False
    for number, message in enumerate(messages, 1):
        if message.role == "user":
            spoken = True
        elif message.role != "system" and not spoken:
            raise DataError(f"message {number}: expected a user message before the first {message.role} message")
        elif message.role == "system" and spoken:
            raise DataError(f"message {number}: expected system messages before the first user message")
        elif message.role == "tool" and messages[number - 2].role not in ("assistant", "tool"):
            raise DataError(f"message {number}: expected a result after the assistant's call, got it after the user")
        if message.tool_calls:
            _pairs(message.tool_calls, _results_after(messages, number - 1), number)
        elif message.role == "assistant" and _results_after(messages, number - 1):
            raise DataError(f"message {number + 1}: a result, but the assistant message before it calls no tool")
        if message.finishes:
            _check_finish(messages, number)


def _check_finish(messages: tuple[TrajectoryMessage, ...], number: int) -> None:
    arguments = messages[number - 1].tool_calls[0].arguments
    kind, answer = arguments.get("return_type"), arguments.get("final_answer")
    if kind not in _RETURN_TYPES:
        expected = f"return_type {' or '.join(map(repr, _RETURN_TYPES))}"
        raise DataError(f"message {number}: {FINISH_TOOL}: expected {expected}, got {kind!r:.80}")
    if answer is not None and not isinstance(answer, str):
        raise DataError(f"message {number}: {FINISH_TOOL}: expected final_answer as text, got {type(answer).__name__}")
    if number < len(messages) and messages[number].role != "user":
        got = messages[number].role
        raise DataError(f"message {number + 1}: expected a user message or nothing after {FINISH_TOOL}, got {got}")


def _results_after(messages: tuple[TrajectoryMessage, ...], index: int) -> list[TrajectoryMessage]:
    """Give the ``tool`` messages that follow an assistant message without a gap."""
    found: list[TrajectoryMessage] = []
    if messages[index].role == "assistant":
        for message in messages[index + 1 :]:
            if message.role != "tool":
                break
            found.append(message)
    return found


def _pairs(
    calls: tuple[ToolCall, ...], results: list[TrajectoryMessage], number: int = 0
) -> list[tuple[ToolCall, TrajectoryMessage | None]]:
    """Match results with calls: by id where both have one, the others in order."""
    paired: list[TrajectoryMessage | None] = [None] * len(calls)
    places = {call.id: place for place, call in enumerate(calls) if call.id}
    for offset, result in enumerate(results, 1):
        if result.tool_call_id and places:
            place = places.get(result.tool_call_id, -1)
            if place < 0 or paired[place] is not None:
                raise DataError(
                    f"message {number + offset}: result for {result.tool_call_id!r}, expected one of the open calls "
                    f"{[call.id for call, taken in zip(calls, paired, strict=True) if taken is None]}"
                )
        elif None not in paired:
            raise DataError(f"message {number + offset}: expected at most one result for each of {len(calls)} calls")
        else:
            place = paired.index(None)
        paired[place] = result
    return list(zip(calls, paired, strict=True))


def _check_texts(owner: Any, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, str):
            raise DataError(f"{type(owner).__name__}.{name}: expected text, got {type(value).__name__}")


def _known(cls: type, data: Any, required: tuple[str, ...]) -> dict[str, Any]:
    """Give the data of a record as keyword arguments; refuse unknown and missing keys."""
    if not isinstance(data, Mapping):
        raise DataError(f"{cls.__name__}: expected a JSON object, got {type(data).__name__}")
    known = list(cls.__dataclass_fields__)  # type: ignore[attr-defined]
    unknown = sorted(set(map(str, data)) - set(known))
    if unknown:
        raise DataError(f"{cls.__name__}: unknown keys {unknown}; expected {known}")
    missing = [key for key in required if key not in data]
    if missing:
        raise DataError(f"{cls.__name__}: expected the keys {list(required)}, got {sorted(data)}")
    return dict(data)


def _json_copy(value: Any) -> Any:
    """Copy JSON data into plain dictionaries and lists.

    Raises:
        DataError: The value is no JSON data.
    """
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise DataError(f"expected text as key, got {key!r:.80} ({type(key).__name__})")
        return {key: _json_copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_copy(item) for item in value]
    is_json = math.isfinite(value) if isinstance(value, float) else value is None or isinstance(value, str | int)
    if not is_json:
        raise DataError(f"expected plain JSON data, got {value!r:.80} ({type(value).__name__})")
    return value
