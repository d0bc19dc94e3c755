"""Conversations of ToolBench's and ToolGen's training files: turns of text in which actions are written out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from toolscaler.data.dialogues.base import DialogueReader, Reading, Turns, arguments_of, list_at, scalar, tool_name
from toolscaler.data.dialogues.toolbench import says_error
from toolscaler.data.sources.base import expect_mapping
from toolscaler.data.sources.opening import Record
from toolscaler.data.sources.toolbench import parse_virtual_token, toolbench_id
from toolscaler.data.trajectories import ToolCall, Trajectory
from toolscaler.errors import DataError

USER_ROLES = frozenset({"user", "human"})
ASSISTANT_ROLES = frozenset({"assistant", "gpt", "model"})
RESULT_ROLES = frozenset({"function", "tool", "observation"})

_ACTION = re.compile(r"^[ \t]*Action:", re.MULTILINE)
_INPUT = re.compile(r"^[ \t]*Action Input:", re.MULTILINE)
_TOKEN = re.compile(r"\s*(<<.+>>)\s*", re.DOTALL)
# What the search program says to the model between two steps; it is no wish of the user's.
_RETRY = "This is not the first time you try this task"
_ASKS_ACTION = re.compile(r"\s*(?:Please )?generate the action\.?\s*", re.IGNORECASE)
_ASKS_INPUT = re.compile(r"\s*Please give the input", re.IGNORECASE)
# Lines by which MGToolBench tells the planner the answer.
_TAGS = re.compile(r"^(?:Cate_Tag|Tool_Tag|API_Tag|Tag_Trace):.*\n?", re.MULTILINE)


def turns_of(row: Any) -> Iterator[tuple[str, str]]:
    """Yield role, in lower case, and text of each turn under ``conversations``.

    Turns are ``{"role", "content"}`` or ``{"from", "value"}``.

    Raises:
        DataError: A turn is neither.
    """
    for number, turn in enumerate(list_at(expect_mapping(row), "conversations"), 1):
        turn = expect_mapping(turn)
        role = turn.get("role", turn.get("from"))
        content = turn.get("content", turn.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(f"turn {number}: expected role and content as text, got keys {sorted(map(str, turn))}")
        yield role.lower(), content


def said(row: Any, roles: frozenset[str]) -> list[str]:
    """Give the texts of some roles, for sniffing; nothing for what is no conversation."""
    try:
        return [text for role, text in turns_of(row) if role in roles]
    except DataError:
        return []


class _ConversationReader(DialogueReader):
    """What the two formats share: the query's wrapping, retries and results."""

    def _start(self, turns: Turns, text: str, metadata: dict[str, Any]) -> None:
        tags = "".join(_TAGS.findall(text))
        metadata["tags"] = tags.strip()
        turns.user(_TAGS.sub("", text).rstrip().removesuffix("Begin!"))

    def _user(self, turns: Turns, text: str, metadata: dict[str, Any]) -> None:
        if text.lstrip().startswith(_RETRY):
            metadata["retries"] = metadata.get("retries", 0) + 1
        elif "tags" not in metadata:
            self._start(turns, text, metadata)
        else:
            turns.user(text)


class ToolLlamaReader(_ConversationReader):
    """Reads ``Thought: / Action: / Action Input:`` conversations, as ToolLLaMA was trained on.

    The system message lists tools and goes; so do the program's retry messages (counted in the metadata's
    ``retries``) and lines that tell the answer (``tags``).
    """

    name = "toolllama"
    summary = "conversations with Thought, Action and Action Input as text"

    def is_row(self, row: Any) -> bool:
        """Say whether a turn of the assistant names an action and its input."""
        return any(_action(text) for text in said(row, ASSISTANT_ROLES))

    def trajectory(self, record: Record, reading: Reading) -> Trajectory:
        """Make the trajectory of one conversation."""
        turns = Turns()
        metadata: dict[str, Any] = {}
        for role, text in turns_of(record.data):
            if role in USER_ROLES:
                self._user(turns, text, metadata)
            elif role in RESULT_ROLES:
                turns.result(text, is_error=says_error(text))
            elif role in ASSISTANT_ROLES:
                _act(turns, text)
            elif role != "system":
                raise DataError(f"expected a role of ToolLLaMA, got {role!r:.80}")
        return turns.build(scalar(record.data.get("id")), reading.split, metadata)


def _act(turns: Turns, text: str) -> None:
    found = _action(text)
    thought = text if found is None else found[0]
    turns.say(thought.strip().removeprefix("Thought:"))
    if found is not None:
        turns.call(ToolCall(tool_name(found[1]), arguments_of(found[2])))


def _action(text: str) -> tuple[str, str, str] | None:
    """Divide a turn into thought, action and its input; ``None`` where it has no action."""
    action = _ACTION.search(text)
    given = _INPUT.search(text, action.end()) if action is not None else None
    if action is None or given is None:
        return None
    return text[: action.start()], text[action.end() : given.start()].strip(), text[given.end() :]


class ToolGenReader(_ConversationReader):
    """Reads ToolGen's trajectories: thought, ``<<tool&&api>>``, then the arguments, each a turn of its own.

    The requests between them ("Generate the action.", the documentation) go, and so does the system message. Ids are
    ``tool/api``.
    """

    name = "toolgen"
    summary = "ToolGen conversations with <<tool&&api>> and arguments"

    def is_row(self, row: Any) -> bool:
        """Say whether a turn of the assistant is a token; with arguments, or it is a row of queries."""
        texts = said(row, ASSISTANT_ROLES)
        return any(_TOKEN.fullmatch(text) for text in texts[:-1])

    def trajectory(self, record: Record, reading: Reading) -> Trajectory:
        """Make the trajectory of one conversation.

        Raises:
            DataError: A token without arguments, as in rows of queries (see
                :func:`~toolscaler.data.load_tool_queries`).
        """
        turns = Turns()
        metadata: dict[str, Any] = {}
        token = ""
        answered = True
        for role, text in turns_of(record.data):
            if role in ASSISTANT_ROLES and token:
                turns.call(_token_call(token, text))
                token, answered = "", False
            elif role in ASSISTANT_ROLES:
                match = _TOKEN.fullmatch(text)
                token = match.group(1) if match else ""
                turns.say("" if match else text)
            elif role in RESULT_ROLES or (not answered and _looks_like_result(text)):
                turns.result(text, is_error=says_error(text))
                answered = True
            elif role in USER_ROLES and not _ASKS_ACTION.fullmatch(text) and not _ASKS_INPUT.match(text):
                self._user(turns, text, metadata)
            elif role not in USER_ROLES and role != "system":
                raise DataError(f"expected a role of ToolGen, got {role!r:.80}")
        if token:
            raise DataError(f"expected arguments after {token!r:.120}, got nothing; are these rows of queries?")
        return turns.build(scalar(record.data.get("id")), reading.split, metadata)


def _token_call(token: str, arguments: str) -> ToolCall:
    tool, api = parse_virtual_token(token)
    return ToolCall(toolbench_id(tool, api) if tool else api, arguments_of(arguments))


def _looks_like_result(text: str) -> bool:
    return re.match(r'\s*\{\s*"(?:error|response)"\s*:', text) is not None
