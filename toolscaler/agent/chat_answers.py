"""What a chat endpoint sends, whole or as a stream of events, in; one plain answer out. Nothing in it is trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolscaler.agent.executors.checking import CheckFailed

#: Characters a token, where a server does not count its tokens.
_CHARACTERS_A_TOKEN = 4
#: Calls in one answer that are read; a model that writes more has gone astray.
_MAX_CALLS = 256


@dataclass(frozen=True)
class ChatCall:
    """A function call as the model wrote it.

    Attributes:
        name: Name of the function; it need not exist.
        arguments: Its arguments as text; they need not be JSON.
        id: The endpoint's identifier; may be empty.
    """

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True)
class ChatAnswer:
    """One message of a chat model.

    Attributes:
        content: Its text.
        calls: Its function calls.
        finish_reason: Why it ends: ``stop``, ``length``, ``tool_calls``, or the endpoint's own word; may be empty.
        reasoning: What the model thought before, where the endpoint says so apart from the text.
        tokens: Tokens generated. Where the endpoint does not count them, a quarter of the characters.
    """

    content: str = ""
    calls: tuple[ChatCall, ...] = ()
    finish_reason: str = ""
    reasoning: str = ""
    tokens: int = 0


class StreamedAnswer:
    """Puts the events of a stream together."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, dict[str, list[str]]] = {}
        self._reason = ""
        self._usage: Any = None
        #: Whether the answer is whole, and whether the stream has said that nothing follows.
        self.ended = self.done = False

    def add(self, data: str) -> str:
        """Take the data of one event; give the text that it adds to the answer.

        Raises:
            CheckFailed: ``invalid_response``: it is no event of this protocol; ``status``: it reports a failure.
        """
        if data.strip() == "[DONE]":
            self.ended = self.done = True
            return ""
        event = parsed(data)
        self._usage = event.get("usage") or self._usage
        choices = event.get("choices")
        if not isinstance(choices, list) or not choices:
            return ""  # the event with the counts has no choice
        choice = _object(choices[0])
        if choice.get("finish_reason"):
            self._reason, self.ended = text_of(choice["finish_reason"]), True
        delta = _object(choice.get("delta"))
        self._reasoning.append(text_of(delta.get("reasoning_content") or delta.get("reasoning")))
        for place, item in enumerate(_calls(delta.get("tool_calls"))):
            self._add_call(_object(item), place)
        text = text_of(delta.get("content")) or text_of(delta.get("refusal"))
        self._content.append(text)
        return text

    def _add_call(self, item: Mapping[str, Any], place: int) -> None:
        index = item.get("index", place)
        whole_number = isinstance(index, int) and not isinstance(index, bool)
        if not whole_number or (len(self._calls) >= _MAX_CALLS and index not in self._calls):
            raise CheckFailed("invalid_response", f"expected at most {_MAX_CALLS} numbered calls, got {index!r:.40}")
        parts = self._calls.setdefault(index, {"id": [], "name": [], "arguments": []})
        function = _object(item.get("function"))
        if item.get("id") and not parts["id"]:
            parts["id"].append(text_of(item["id"]))
        if function.get("name") and not parts["name"]:  # some servers repeat the whole name in each event
            parts["name"].append(text_of(function["name"]))
        parts["arguments"].append(_arguments(function.get("arguments")))

    def answer(self) -> ChatAnswer:
        """Give the whole answer."""
        calls = tuple(
            ChatCall("".join(parts["name"]), "".join(parts["arguments"]), "".join(parts["id"]))
            for _, parts in sorted(self._calls.items())
        )
        content, reasoning = whole("".join(self._content)), whole("".join(self._reasoning))
        return ChatAnswer(content, calls, self._reason, reasoning, _tokens(self._usage, content, reasoning, calls))


def read_answer(body: str) -> ChatAnswer:
    """Read the body of an answer that came whole.

    Raises:
        CheckFailed: ``invalid_response``: it is no answer of this protocol; ``status``: it reports a failure.
    """
    data = parsed(body)
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise CheckFailed("invalid_response", f"expected a JSON object with 'choices', got {body!r:.200}")
    message = choices[0].get("message")
    if not isinstance(message, dict):
        raise CheckFailed("invalid_response", f"expected a message in the first choice, got {choices[0]!r:.200}")
    calls = []
    for item in _calls(message.get("tool_calls")):
        function = _object(_object(item).get("function"))
        name, arguments = text_of(function.get("name")), _arguments(function.get("arguments"))
        calls.append(ChatCall(name, arguments, text_of(_object(item).get("id"))))
    content = text_of(message.get("content")) or text_of(message.get("refusal"))
    reasoning = text_of(message.get("reasoning_content") or message.get("reasoning"))
    tokens = _tokens(data.get("usage"), content, reasoning, calls)
    return ChatAnswer(content, tuple(calls), text_of(choices[0].get("finish_reason")), reasoning, tokens)


def parsed(text: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckFailed: ``invalid_response``: it is none; ``status``: it has an error in it and no answer.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckFailed("invalid_response", f"expected JSON, got {text!r:.200}") from error
    if not isinstance(data, dict):
        raise CheckFailed("invalid_response", f"expected a JSON object, got {text!r:.200}")
    if data.get("error") and not data.get("choices"):
        raise CheckFailed("status", f"the endpoint reports an error: {data['error']!r:.300}")
    return data


def text_of(value: Any) -> str:
    """Give a text, the joined texts of a list of parts, or nothing; half characters become question marks."""
    if isinstance(value, list):
        return "".join(text_of(_object(part).get("text")) for part in value)
    return whole(value) if isinstance(value, str) else ""


def whole(text: str) -> str:
    """Give a text that every file can hold: a lone surrogate, which JSON may spell, becomes a question mark.

    >>> whole("a" + chr(0xD83D) + chr(0xDE00))  # two halves are one character
    'a😀'
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\ufffd", "?")
    return text


def _calls(value: Any) -> list[Any]:
    calls = value if isinstance(value, list) else []
    if len(calls) > _MAX_CALLS:
        raise CheckFailed("invalid_response", f"expected at most {_MAX_CALLS} calls, got {len(calls)}")
    return calls


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _arguments(value: Any) -> str:
    """Give arguments as text: the protocol's form; a few servers send the object itself."""
    if isinstance(value, dict | list):
        return json.dumps(value)
    return text_of(value)


def _tokens(usage: Any, content: str, reasoning: str, calls: Any) -> int:
    given = _object(usage).get("completion_tokens")
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return given
    letters = len(content) + len(reasoning) + sum(len(call.name) + len(call.arguments) for call in calls)
    return -(-letters // _CHARACTERS_A_TOKEN)
