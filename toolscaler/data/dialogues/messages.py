"""Chat messages: OpenAI's, with ``tool_calls``, and this library's own rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from toolscaler.data.dialogues.base import (
    DialogueReader,
    Reading,
    Turns,
    arguments_of,
    as_text,
    is_one_of,
    list_at,
    names_of,
    scalar,
    tool_name,
)
from toolscaler.data.sources.base import expect_mapping, text_of
from toolscaler.data.sources.opening import Record, Source
from toolscaler.data.trajectories import ToolCall, Trajectory
from toolscaler.errors import DataError

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


class OpenAIMessagesReader(DialogueReader):
    """Reads OpenAI chat messages: ``{"messages": [...]}``, a list of messages a row, or a source that is one such list.

    ``tool_calls`` and the older ``function_call`` are understood; arguments are JSON text or an object. Roles
    ``developer`` and ``function`` are ``system`` and ``tool``. ``reasoning_content`` is the Thought. The names under
    ``tools`` or ``functions`` are ``candidate_tools`` in the metadata.
    """

    name = "openai"
    summary = "OpenAI messages with tool_calls"

    def is_row(self, row: Any) -> bool:
        """Say whether a row is a list of messages, has one, or is a message."""
        messages = _messages_of(row)
        return bool(messages) and all(map(_is_message, messages)) and not is_own_row(row)

    def fits(self, source: Source) -> bool:
        """Say whether most rows are messages, and none is a row of this library."""
        return super().fits(source) and not any(map(is_own_row, source.sample))

    def records(self, source: Source, reading: Reading) -> Iterator[Record]:
        """Yield one record a conversation: a source whose rows are messages is one."""
        if source.sample and all(map(_is_message, source.sample)):
            records = list(source.records())
            broken = next((record for record in records if record.error), None)
            yield broken if broken is not None else Record([record.data for record in records])
        else:
            yield from source.records()

    def trajectory(self, record: Record, reading: Reading) -> Trajectory:
        """Make the trajectory of one conversation."""
        row = record.data
        turns = Turns()
        data = row if isinstance(row, Mapping) else {"messages": row}
        for number, message in enumerate(list_at(data, "messages"), 1):
            try:
                _read_message(turns, expect_mapping(message))
            except DataError as error:
                raise DataError(f"message {number}: {error.message}") from None
        metadata = {"candidate_tools": names_of(data.get("tools") or data.get("functions"))}
        return turns.build(scalar(data.get("id")), scalar(data.get("split")) or reading.split, metadata)


class OwnReader(DialogueReader):
    """Reads this library's own rows (:meth:`toolscaler.data.Trajectory.to_dict`)."""

    name = "trajectories"
    summary = "rows of toolscaler's save_trajectories"

    def is_row(self, row: Any) -> bool:
        """Say whether a row is one of this library's, by a call or a result as only it writes them."""
        return is_own_row(row)

    def fits(self, source: Source) -> bool:
        """Say whether some row is one of this library's: rows without calls look like any messages."""
        return any(map(is_own_row, source.sample))

    def trajectory(self, record: Record, reading: Reading) -> Trajectory:
        """Make the trajectory of one row."""
        trajectory = Trajectory.from_dict(expect_mapping(record.data))
        return trajectory if trajectory.split or not reading.split else replace(trajectory, split=reading.split)


def is_own_row(row: Any) -> bool:
    """Say whether a row is written by this library: a call has ``tool``, or a result ``is_error``."""
    messages = row.get("messages") if isinstance(row, Mapping) else None
    for message in messages if isinstance(messages, list | tuple) else ():
        if not isinstance(message, Mapping):
            continue
        calls = message.get("tool_calls")
        if "is_error" in message:
            return True
        if isinstance(calls, list | tuple) and any(isinstance(call, Mapping) and "tool" in call for call in calls):
            return True
    return False


def _messages_of(row: Any) -> list[Any]:
    if isinstance(row, Mapping):
        row = row.get("messages", [row])
    return list(row) if isinstance(row, list | tuple) else []


def _is_message(message: Any) -> bool:
    if not isinstance(message, Mapping) or not is_one_of(message.get("role"), _ROLES):
        return False
    if not {"content", "tool_calls", "function_call"} & set(message):
        return False
    content = message.get("content")
    parts = content if isinstance(content, list | tuple) else ()
    return all(isinstance(part, Mapping) and "value" not in part for part in parts)


def _read_message(turns: Turns, message: Mapping[str, Any]) -> None:
    role = message.get("role")
    text = _content(message.get("content"))
    if role in ("system", "developer"):
        turns.system(text)
    elif role == "user":
        turns.user(text)
    elif role in ("tool", "function"):
        turns.result(text, call_id=text_of(message, "tool_call_id"))
    elif role == "assistant":
        _read_assistant(turns, message, text or text_of(message, "refusal"))
    else:
        raise DataError(f"expected a role ({', '.join(sorted(_ROLES))}), got {role!r:.80}")


def _read_assistant(turns: Turns, message: Mapping[str, Any], text: str) -> None:
    thought = text_of(message, "reasoning_content")
    items = message.get("tool_calls") or []
    if not isinstance(items, list | tuple):
        raise DataError(f"expected a list under 'tool_calls', got {type(items).__name__}")
    calls = [_call(item) for item in items]
    if message.get("function_call") is not None:
        calls.append(_call({"function": message["function_call"]}))
    if calls:
        turns.say(thought)
        turns.say(text)
        turns.call(*calls)
    else:
        turns.answer(text, thought)


def _call(item: Any) -> ToolCall:
    item = expect_mapping(item)
    function = expect_mapping(item.get("function", item))
    return ToolCall(tool_name(function.get("name")), arguments_of(function.get("arguments")), scalar(item.get("id")))


def _content(content: Any) -> str:
    if content is None:
        return ""
    if not isinstance(content, list | tuple):
        return as_text(content)
    texts = []
    for part in content:
        part = expect_mapping(part)
        if not is_one_of(part.get("type"), _TEXT_PARTS):
            raise DataError(f"expected parts of text, got {part.get('type')!r:.80}")
        texts.append(text_of(part, "text"))
    return "\n".join(texts)
