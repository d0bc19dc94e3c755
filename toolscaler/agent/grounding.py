"""A conversation in, grammars out whose values stand in it: a model cannot make up a number, an id or a date."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from toolscaler.agent.grounding_values import MAX_NUMBERS, MAX_WORDS, newest, numerals, pieces, spans, taken
from toolscaler.data.trajectories import FINISH_TOOL, TrajectoryMessage
from toolscaler.errors import ConfigError, DecodingError

if TYPE_CHECKING:
    from toolscaler.agent.arguments import ArgumentGrammar, ArgumentMatcher

logger = logging.getLogger(__name__)

# Numbers in a text, as the engine's regular expressions: what may stand before the first one, and between two. A
# sign or a point right before a number makes another one of it; so does a point, a comma or an exponent between two.
_FREE = r"[^\p{Nd}]"
_BEFORE = rf"{_FREE}*[^\p{{Nd}}.+\-\u2212]|{_FREE}*\p{{L}}[\-\u2212]"
_BETWEEN = rf"[^\p{{Nd}}.,eE+]|{_FREE}+[^\p{{Nd}}.+\-\u2212]|[a-df-zA-DF-Z][\-\u2212]|{_FREE}+\p{{L}}[\-\u2212]"
# Decimals up to which an answer may round.
_ROUNDED = 6
# Numbers that every JSON reader takes for the same, and the least one that is written out.
_MAX_EXACT, _LEAST = 2**53 - 1, 1e-30


@dataclass(frozen=True)
class Grounding:
    """What of a call is held to the conversation: to the user's words and to results of tools.

    Attributes:
        numbers: Numbers without ``enum`` or ``const`` are numbers of the conversation (:func:`numerals`).
        strings: Texts without ``enum``, ``const``, ``pattern`` and ``format`` are pieces of it.
        answer: Numbers written in digits in a call of :data:`~toolscaler.data.FINISH_TOOL` are numbers of the
            conversation, perhaps rounded; its text is free otherwise.
        max_spans: Pieces of text that are offered; shorter ones come first.

    Raises:
        ConfigError: A switch is neither true nor false, or ``max_spans`` is no whole number from 1 to 10,000.
    """

    numbers: bool = True
    strings: bool = True
    answer: bool = True
    max_spans: int = 2000

    def __post_init__(self) -> None:
        for key in ("numbers", "strings", "answer"):
            if not isinstance(getattr(self, key), bool):
                raise ConfigError(f"Grounding.{key}", getattr(self, key), "true or false")
        most = self.max_spans
        if not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= 10_000:
            raise ConfigError("Grounding.max_spans", most, "a whole number from 1 to 10000")

    @classmethod
    def of(cls, value: bool | Mapping[str, Any] | Grounding | None) -> Grounding | None:
        """Read a setting: true for all of it, false or ``None`` for nothing, or fields as in a run file.

        Raises:
            ConfigError: It is none of these, or a field is unknown or out of range.
        """
        if value is None or value is False:
            return None
        if value is True:
            return cls()
        if isinstance(value, cls):
            return value
        names = [item.name for item in fields(cls)]
        if not isinstance(value, Mapping) or not set(value) <= set(names):
            raise ConfigError("grounding", value, f"true, false, a Grounding, or its fields: {', '.join(names)}")
        return cls(**value)


class ConversationValues:
    """The values that stand in a conversation, read once for a step.

    Args:
        messages: The conversation; what the user and the tools said counts.
        settings: What is held to it.
    """

    def __init__(self, messages: Sequence[TrajectoryMessage], settings: Grounding) -> None:
        self.settings = settings
        self.asked = newest([message.content for message in messages if message.role == "user"])
        self.results = newest([message.content for message in messages if message.role == "tool"])
        self._lists: dict[tuple[Any, ...], dict[str, Any] | None] = {}

    @cached_property
    def _numerals(self) -> tuple[tuple[int | float, ...], tuple[str, ...]]:
        """The numbers, and how they are written in texts; the user's first, then the newest."""
        values: dict[int | float, None] = {}
        written: dict[str, None] = {}
        for text in (*self.asked, *self.results):
            for found in numerals(text):
                if len(values) >= MAX_NUMBERS or len(written) >= 2 * MAX_NUMBERS:
                    break
                values.setdefault(found.value)
                written.update(dict.fromkeys(_spellings(found.value)))
                if found.text:
                    written.setdefault(("-" if found.value < 0 else "") + found.text)
        return tuple(values), tuple(written)

    @property
    def numbers(self) -> tuple[int | float, ...]:
        """The numbers, each once."""
        return self._numerals[0]

    @property
    def words(self) -> tuple[str, ...]:
        """How the numbers may be written in an answer."""
        return self._numerals[1]

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The pieces of text; the user's and the results' halves do not crowd each other out."""
        most = self.settings.max_spans
        known: dict[str, None] = {}
        taken((piece for text in self.asked for piece in pieces(text)), -(-most // 4), known)
        taken(spans(self.asked, MAX_WORDS), -(-most // 2), known)
        taken((piece for text in self.results for piece in pieces(text)), -(-3 * most // 4), known)
        taken(spans(self.results, MAX_WORDS), most, known)
        taken((piece for text in self.asked for piece in pieces(text)), most, known)
        taken(spans(self.asked, MAX_WORDS), most, known)
        return tuple(known)

    @cached_property
    def answer_pattern(self) -> str:
        """What an answer may be, as a pattern of the engine's: free text with these numbers only."""
        if not self.words:
            return f"^{_FREE}*$"
        number = r"\+?(?:" + "|".join(map(_literal, sorted(self.words, key=len, reverse=True))) + ")"
        return f"^(?:(?:{_BEFORE})?{number}(?:(?:{_BETWEEN}){number})*)?{_FREE}*$"

    def narrowed(self, grammar: ArgumentGrammar) -> ArgumentGrammar:
        """Narrow a tool's grammar to these values; nothing keeps what comes out.

        A leaf that none of the values fits stays as it is.

        Raises:
            DecodingError: The narrower grammar cannot be compiled.
        """
        finish = grammar.document.id == FINISH_TOOL
        if finish and not self.settings.answer:
            return grammar
        characters = grammar.vocabulary.characters

        def narrow(kind: str, schema: Mapping[str, Any], made: dict[str, Any]) -> dict[str, Any] | None:
            if kind != "string":
                return self._number(kind, made) if self.settings.numbers else None
            if "pattern" in schema or "format" in schema:
                return None
            if finish:
                return {**made, "pattern": self.answer_pattern}
            return self._text(made, characters) if self.settings.strings else None

        return grammar.narrowed(narrow, self.words if finish else (), self.numbers if self.settings.numbers else ())

    def _number(self, kind: str, made: Mapping[str, Any]) -> dict[str, Any] | None:
        key = (kind, *sorted(made.items()))
        if key not in self._lists:
            fitting = [value for value in map(_plain, self.numbers) if _fits(kind, value, made)]
            self._lists[key] = {"enum": fitting} if fitting else None
        return self._lists[key]

    def _text(self, made: Mapping[str, Any], characters: frozenset[str] | None) -> dict[str, Any] | None:
        least, most = made.get("minLength", 0), made.get("maxLength", math.inf)
        key = ("string", least, most)
        if key not in self._lists:
            fitting = [
                text
                for text in self.texts
                if least <= len(text) <= most and (characters is None or characters.issuperset(text))
            ]
            self._lists[key] = {"enum": fitting} if fitting else None
        return self._lists[key]


class Grounder:
    """Gives the grammars of calls that are held to a conversation. Thread-safe.

    Args:
        settings: What is held to it; ``None``: nothing.
    """

    def __init__(self, settings: Grounding | None) -> None:
        self.settings = settings
        self._told = False
        self._lock = threading.Lock()

    def values(self, messages: Sequence[TrajectoryMessage]) -> ConversationValues | None:
        """Read a conversation; ``None`` where nothing is held to it."""
        return ConversationValues(messages, self.settings) if self.settings is not None else None

    def matcher(self, grammar: ArgumentGrammar, values: ConversationValues | None) -> ArgumentMatcher:
        """Give a matcher held to a conversation, or a plain one where that cannot be."""
        if values is None:
            return grammar.matcher()
        try:
            return values.narrowed(grammar).matcher()
        except DecodingError as error:
            self._tell(grammar, error)
            return grammar.matcher()

    def released(
        self, matcher: ArgumentMatcher, grammar: ArgumentGrammar, error: Exception | str
    ) -> ArgumentMatcher | None:
        """Give a plain matcher that stands where a held one got stuck; ``None`` where it is a plain one itself."""
        if matcher.grammar is grammar:
            return None
        self._tell(grammar, error)
        plain = grammar.matcher()
        for token in matcher.tokens:
            plain.accept(token)
        return plain

    def _tell(self, grammar: ArgumentGrammar, error: Exception | str) -> None:
        with self._lock:
            told, self._told = self._told, True
        logger.log(
            logging.DEBUG if told else logging.WARNING,
            "the arguments of %r are not held to the conversation: %s", grammar.document.id, error,
        )  # fmt: skip


def _plain(value: int | float) -> int | float:
    """Give a whole number as ``int``: the engine writes it so."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _fits(kind: str, value: int | float, schema: Mapping[str, Any]) -> bool:
    step = schema.get("multipleOf")
    return (
        (kind == "number" or isinstance(value, int))
        and (not value or _LEAST <= abs(value) <= _MAX_EXACT)
        and schema.get("minimum", value) <= value <= schema.get("maximum", value)
        and schema.get("exclusiveMinimum", -math.inf) < value < schema.get("exclusiveMaximum", math.inf)
        and (step is None or (value % step == 0 if isinstance(step, int) else (value / step).is_integer()))
    )


def _spellings(value: int | float) -> list[str]:
    """Write a number as JSON and people do: plain, rounded, and with commas between thousands."""
    plain = _plain(value)
    text = repr(plain)
    if abs(plain) > 10**18 or "e" in text:
        return [text]
    decimals = len(text.partition(".")[2])
    found = [text, *(f"{plain:.{count}f}" for count in range(min(decimals - 1, _ROUNDED), -1, -1) if decimals)]
    if abs(plain) >= 1000:
        found += [f"{int(whole):,}{point}{rest}" for whole, point, rest in (part.partition(".") for part in found)]
    return found


def _literal(text: str) -> str:
    return "".join(char if char.isalnum() else f"\\u{{{ord(char):x}}}" for char in text)
