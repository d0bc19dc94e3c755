"""A tokenizer and a tool's JSON Schema in, token masks out: a model writes valid arguments and nothing else.

The grammar engine is llguidance; this module gives it schemas that it takes (see
:mod:`~toolscaler.agent.argument_schema`), keeps code tokens and special tokens out of every value, and keeps compiled
grammars.
"""

from __future__ import annotations

import bisect
import copy
import hashlib
import json
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from toolscaler.agent.argument_closing import TextClosing
from toolscaler.agent.argument_schema import ArgumentLimits, Narrowing, SchemaBuilder, TooManyNodes
from toolscaler.agent.argument_size import largest_growth
from toolscaler.agent.argument_text import ArgumentError, parse_arguments, tool_document
from toolscaler.agent.argument_vocabulary import DIGITS, NEVER, ArgumentVocabulary, engine, in_text
from toolscaler.agent.executors.checking import ArgumentChecker, CheckFailed
from toolscaler.agent.executors.limits import ExecutorLimits
from toolscaler.data.documents import ToolDocument
from toolscaler.errors import ConfigError, DecodingError

logger = logging.getLogger(__name__)

#: How close a grammar is to the schema: all of it but what :attr:`ArgumentGrammar.weakened` names; names and types
#: only; or any JSON object.
LEVELS = ("schema", "types", "object")

# No free white space, in which untrained models loop; the separators are json.dumps's own.
_OPTIONS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_ANY_OBJECT = {"type": "object"}


@lru_cache(maxsize=4096)
def _pattern_fits(pattern: str) -> bool:
    matchers = engine().LLMatcher
    grammar = matchers.grammar_from_json_schema(json.dumps({"type": "string", "pattern": pattern}))
    return not matchers.validate_grammar(grammar)


class ArgumentGrammar:
    """The grammar of one tool's arguments, compiled. It never changes; several threads may use it.

    Args:
        tokenizer: The model's tokenizer (fast).
        schema: The tool's document, or the JSON Schema of its arguments.
        limits: Bounds of what is generated.
        end_token_ids: Tokens that may follow the arguments; default: the tokenizer's end token.

    Attributes:
        document: The tool's document, or one made for the bare schema.
        level: How close the grammar is to the schema, one of :data:`LEVELS`. A level below ``schema`` is logged.
        weakened: What only the check afterwards (:meth:`parse`) sees: a place in the schema and a keyword each.
        engine_schema: The schema that the engine was given.
        fingerprint: SHA-256 (hex) of that schema.
        growth: Bound on the tokens by which one more token can lengthen the shortest way to whole arguments.

    Raises:
        ArgumentError: ``invalid_schema``: the schema is broken, or no finite arguments fit it.
        DecodingError: The tokenizer is of a kind that the engine does not read.
        MissingDependencyError: llguidance is not installed.
    """

    def __init__(
        self,
        tokenizer: Any,
        schema: ToolDocument | Mapping[str, Any],
        *,
        limits: ArgumentLimits | None = None,
        end_token_ids: tuple[int, ...] | None = None,
    ) -> None:
        self.vocabulary = ArgumentVocabulary.of(tokenizer)
        self.end_token_ids = self.vocabulary.end_token_ids if end_token_ids is None else tuple(end_token_ids)
        if any(not 0 <= token < self.vocabulary.size for token in self.end_token_ids):
            raise DecodingError(f"end_token_ids: expected ids below {self.vocabulary.size}, got {self.end_token_ids}")
        self.limits, self._check_limits = limits or ArgumentLimits(), ExecutorLimits()
        self.document = tool_document(schema, self._check_limits)
        self._checker = ArgumentChecker(self.document, self._check_limits)
        self._lock = threading.Lock()
        self._closing: TextClosing | None = None
        self._bytes: Any = None
        self._narrowed_from: tuple[ArgumentGrammar, tuple[str, ...]] | None = None
        self._numbers: list[int | float] = []
        self._schema = _plain_schema(self.document, self._check_limits)
        self._compile(self._schema)
        if self.level != LEVELS[0]:
            logger.warning(
                "arguments of %r: the grammar falls back to level %r; left to the check afterwards: %s",
                self.document.id, self.level, ", ".join(self.weakened) or "the rest of the schema",
            )  # fmt: skip

    def __repr__(self) -> str:
        return f"ArgumentGrammar({self.document.id!r}, level={self.level!r}, weakened={len(self.weakened)})"

    def _compile(self, schema: dict[str, Any]) -> None:
        """Try the levels one after the other."""
        problem = ""
        ladder: tuple[tuple[str, dict[str, bool]], ...] = (
            ("schema", {}),
            ("schema", {"one_of": False}),
            ("types", {"one_of": False, "types_only": True}),
            ("object", {}),
        )
        for level, options in ladder:
            given = _ANY_OBJECT if level == "object" else schema
            builder = SchemaBuilder(given, self.limits, _pattern_fits, narrow=None, **options)
            try:
                built = builder.build()
            except TooManyNodes:
                continue
            problem, matcher = self._try(built)
            if matcher is not None:
                self.level, self._options = level, options
                self.weakened = tuple(builder.notes) if level != "object" else ("$: everything but the type",)
                self._set(built, matcher)
                return
            if level == "schema" and "Unsatisfiable" in problem:
                raise ArgumentError("invalid_schema", f"no arguments fit the schema: {problem:.200}")
        raise DecodingError(f"the grammar engine refuses even a plain JSON object: {problem:.200}")

    def _set(self, built: dict[str, Any], matcher: Any) -> None:
        self.engine_schema, self._matcher = built, matcher
        self.growth = largest_growth(built)
        self.fingerprint = hashlib.sha256(json.dumps(built, sort_keys=True).encode()).hexdigest()

    def narrowed(
        self, narrow: Narrowing, words: Sequence[str] = (), numbers: Sequence[int | float] = ()
    ) -> ArgumentGrammar:
        """Give a grammar of the same tool that allows fewer values; :meth:`parse` checks against the tool's own schema.

        Args:
            narrow: What narrows the leaves of the schema.
            words: Texts with which an open text may have to go on before it can end.
            numbers: Numbers that are meant where one is written that differs by the last bits: the engine reads about
                one number of 17 digits in ten as a neighbour of it.

        Returns:
            A grammar that nothing keeps; this one where nothing was narrowed.

        Raises:
            DecodingError: The engine does not take the narrower schema, or nothing fits it.
        """
        if self.level == LEVELS[-1]:
            return self
        builder = SchemaBuilder(self._schema, self.limits, _pattern_fits, narrow=narrow, **self._options)
        try:
            built = builder.build()
        except (TooManyNodes, ArgumentError) as error:
            raise DecodingError(f"the narrower schema cannot be built: {error!s:.200}") from error
        if not builder.narrowed:
            return self
        problem, matcher = self._try(built)
        if matcher is None:
            raise DecodingError(f"the grammar engine refuses the narrower schema: {problem:.200}")
        made = copy.copy(self)
        made._lock, made._closing, made._bytes = threading.Lock(), None, None
        made._narrowed_from, made._numbers = (self, tuple(words)), sorted(numbers)
        made._set(built, matcher)
        return made

    def _try(self, schema: dict[str, Any]) -> tuple[str, Any]:
        """Compile a schema and take the first step; give the problem, or the matcher."""
        matchers = engine().LLMatcher
        try:
            grammar = _engine_grammar(schema)
        except (ValueError, RecursionError) as error:
            return str(error), None
        matcher = matchers(self.vocabulary.engine_tokenizer, grammar, log_level=0)
        if matcher.is_error():
            return str(matcher.get_error()), None
        first = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        if not first.any() or matcher.is_error():
            return "Unsatisfiable: nothing can be written", None
        return "", matcher

    @property
    def closing(self) -> TextClosing:
        """What finds the ends of texts; made at first use."""
        with self._lock:
            if self._closing is None:
                base, words = self._narrowed_from or (self, ())
                self._closing = TextClosing(self.engine_schema, self.vocabulary, base.engine_schema, words)
            return self._closing

    def byte_matcher(self) -> Any:
        """Give the engine's matcher of single bytes, at the beginning: what a vocabulary cannot say, it can."""
        with self._lock:
            if self._bytes is None:
                llguidance = engine()
                grammar = _engine_grammar(self.engine_schema)
                self._bytes = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar, log_level=0)
            return self._bytes.deep_copy()

    def matcher(self) -> ArgumentMatcher:
        """Give a matcher that stands at the beginning."""
        with self._lock:
            return ArgumentMatcher(self, self._matcher.deep_copy())

    def parse(self, text: str) -> dict[str, Any]:
        """Read and check what was generated (:func:`parse_arguments`); of a key written twice the last counts.

        Raises:
            ArgumentError: The text is incomplete, or does not fit what :attr:`weakened` names.
        """
        found = parse_arguments(
            text, self.document, limits=self._check_limits, checker=self._checker, single_keys=False
        )
        meant = _nearest(found, self._numbers) if self._numbers else found
        if meant == found:
            return found
        try:
            return self._checker.check(meant)
        except CheckFailed:
            return found


def _nearest(value: Any, numbers: Sequence[int | float]) -> Any:
    """Give JSON data with each number replaced by the known decimal one from which only the last bits part it."""
    if isinstance(value, dict):
        return {key: _nearest(item, numbers) for key, item in value.items()}
    if isinstance(value, list):
        return [_nearest(item, numbers) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    at = bisect.bisect_left(numbers, value)
    near = min(numbers[max(at - 1, 0) : at + 1], key=lambda number: abs(number - value))
    # A decimal number may have become a whole one, never a whole one another.
    if isinstance(value, int) and (abs(value) >= 2**53 or float(near).is_integer()):
        return value
    return near if near != value and abs(near - value) <= 8 * math.ulp(value) else value


def _engine_grammar(schema: Mapping[str, Any]) -> str:
    grammar: str = engine().LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_OPTIONS)
    return grammar


def _plain_schema(document: ToolDocument, limits: ExecutorLimits) -> dict[str, Any]:
    from toolscaler.agent.executors.checking import check_schema_size
    from toolscaler.data.schema import check_arguments_schema
    from toolscaler.errors import DataError

    try:
        plain = check_schema_size(document.parameters, limits)
        check_arguments_schema(plain)
    except CheckFailed as error:
        raise ArgumentError(error.error_type, error.message) from error
    except DataError as error:
        raise ArgumentError("invalid_schema", error.message) from error
    return plain


class ArgumentMatcher:
    """How far one row has got in its arguments. For one thread at a time; get one from a grammar.

    Attributes:
        grammar: The grammar.
        tokens: Tokens accepted so far.
    """

    def __init__(self, grammar: ArgumentGrammar, engine_matcher: Any, tokens: tuple[int, ...] = ()) -> None:
        self.grammar, self._engine, self.tokens = grammar, engine_matcher, tokens
        self._ended = 0  # end tokens among the accepted ones

    @property
    def text(self) -> str:
        """The arguments so far; a character that is not whole yet shows as U+FFFD."""
        tokens = self.tokens[: len(self.tokens) - self._ended]
        data: bytes = self.grammar.vocabulary.engine_tokenizer.decode_bytes(list(tokens))
        return data.decode("utf-8", "replace")

    @property
    def accepting(self) -> bool:
        """Whether the arguments may end here."""
        return bool(self._engine.is_accepting())

    @property
    def complete(self) -> bool:
        """Whether the arguments are whole and nothing can follow but an end token."""
        return self.accepting and bool(self._engine.is_stopped())

    @property
    def finished(self) -> bool:
        """Whether an end token was accepted."""
        return self._ended > 0

    def allowed(self) -> np.ndarray:
        """Say which tokens may come next.

        Returns:
            bool (vocabulary,). After an end token: end tokens only.

        Raises:
            DecodingError: The engine gave up (a limit of its own), or the tokenizer cannot write what must follow.
        """
        vocabulary = self.grammar.vocabulary
        if self.finished:
            found = np.zeros(vocabulary.size, dtype=bool)
        else:
            bits = np.frombuffer(self._engine.compute_bitmask(), dtype=np.uint8)
            found = np.unpackbits(bits, bitorder="little")[: vocabulary.size].astype(bool)
            if self._engine.is_error():
                raise DecodingError(f"the grammar engine gave up: {self._engine.get_error():.200}")
            found &= ~vocabulary.forbidden
        if self.finished or self.accepting:
            found[list(self.grammar.end_token_ids)] = True
        if not found.any() and not self.accepting and not self.finished:
            raise DecodingError(f"the tokenizer has no token that can follow {self.text[-40:]!r}")
        return found

    def accept(self, token: int) -> None:
        """Take one token.

        Raises:
            DecodingError: The token may not come next; nothing has changed then.
        """
        token = int(token)
        if token in self.grammar.end_token_ids and (self.finished or self.accepting):
            self._ended += 1
        elif self.finished or not self._consumes(token):
            raise DecodingError(f"token {token} may not follow {self.text[-40:]!r}")
        self.tokens = (*self.tokens, token)

    def _consumes(self, token: int) -> bool:
        vocabulary = self.grammar.vocabulary
        fits = 0 <= token < vocabulary.size and not vocabulary.forbidden[token]
        return bool(fits and self._engine.try_consume_tokens([token]) == 1)

    def rollback(self, count: int) -> None:
        """Take the last tokens back.

        Raises:
            DecodingError: There are not so many.
        """
        if not 0 <= count <= len(self.tokens):
            raise DecodingError(f"rollback: expected a number from 0 to {len(self.tokens)}, got {count}")
        ends = min(self._ended, count)
        if count > ends and not self._engine.rollback(count - ends):
            raise DecodingError(f"the grammar engine cannot go back: {self._engine.get_error():.200}")
        self._ended -= ends
        self.tokens = self.tokens[: len(self.tokens) - count]

    def copy(self) -> ArgumentMatcher:
        """Give a matcher in the same state that goes its own way: another beam."""
        other = ArgumentMatcher(self.grammar, self._engine.deep_copy(), self.tokens)
        other._ended = self._ended
        return other

    def closing_tokens(self, limit: int) -> list[int] | None:
        """Find a short way to whole arguments: texts and arrays end at once, only required properties are written.

        Args:
            limit: Most tokens.

        Returns:
            Tokens after which the arguments are whole (end token not counted), or ``None`` where none were found. The
            shortest end of an open text is found exactly, but for what
            :meth:`~toolscaler.agent.argument_closing.TextClosing.end` names; outside of texts whatever closes most
            comes first.
        """
        vocabulary, way = self.grammar.vocabulary, self._engine.deep_copy()
        read = vocabulary.engine_tokenizer.decode_bytes
        written = read(list(self.tokens[: len(self.tokens) - self._ended]))
        found: list[int] = []
        used = np.zeros(257, dtype=np.int64)  # kinds written in a text: none for ever, or a pattern may not end
        outside = vocabulary.closing_ranks[0].copy()
        wait, pause = 0, 1  # tokens until the end of a text is searched again
        while not way.is_accepting():
            if len(found) >= limit:
                return None
            forced = way.compute_ff_tokens()[: limit - len(found)]
            if vocabulary.forbidden[forced].any() or way.try_consume_tokens(forced) != len(forced) or not forced:
                inside = in_text(written)
                wait = wait - 1 if inside else 0
                forced = self._text_end(way, written) if inside and wait <= 0 else []
                if inside and wait <= 0 and not forced:  # none yet: search again later, ever more seldom
                    pause = wait = 2 * pause
                if not forced:
                    forced = self._closest(way, inside, used, outside)
                    if not forced or way.try_consume_tokens(forced) != 1:
                        return None
            found += forced
            written += read(forced)
        return found if len(found) <= limit else None

    def _text_end(self, way: Any, written: bytes) -> list[int]:
        """Close the open text, in as few characters as the grammar allows; give the tokens, none where that fails."""
        state = self.grammar.byte_matcher()
        if state.try_consume_tokens(list(written)) != len(written):
            return []
        end = self.grammar.closing.end(written, lambda data: state.validate_tokens(list(data)) == len(data))
        tokens = self.grammar.vocabulary.spell(end) if end is not None else None
        if not tokens:
            return []
        taken = int(way.try_consume_tokens(tokens))
        if taken < len(tokens):  # the engine reads tokens in another way than bytes: not seen, but never believed
            if taken:
                way.rollback(taken)
            return []
        return tokens

    def _closest(self, way: Any, inside_text: bool, used: np.ndarray, outside: np.ndarray) -> list[int]:
        vocabulary = self.grammar.vocabulary
        bits = np.frombuffer(way.compute_bitmask(), dtype=np.uint8)
        mask = np.unpackbits(bits, bitorder="little")[: vocabulary.size].astype(bool) & ~vocabulary.forbidden
        if not mask.any():
            return []
        _, inside, kinds = vocabulary.closing_ranks
        rank = inside + used[kinds] * 100_000 if inside_text else outside
        token = int(np.where(mask, rank, NEVER).argmin())
        used[kinds[token]] += inside_text
        if not inside_text and DIGITS[0] <= outside[token] < DIGITS[1]:
            outside[token] += 10  # other digits too: above 0, no number of zeros is enough
        return [token]


class ArgumentGrammars:
    """Compiled grammars of one tokenizer, kept by content: the least recently used go first. Thread-safe.

    Args:
        tokenizer: The model's tokenizer.
        limits: Bounds of what is generated.
        max_size: Grammars to keep.

    Raises:
        ConfigError: ``max_size`` is no whole number from 1.
    """

    def __init__(self, tokenizer: Any, *, limits: ArgumentLimits | None = None, max_size: int = 256) -> None:
        if not isinstance(max_size, int) or isinstance(max_size, bool) or max_size < 1:
            raise ConfigError("ArgumentGrammars.max_size", max_size, "a whole number from 1")
        self._make: Callable[[Any], ArgumentGrammar] = lambda tool: ArgumentGrammar(tokenizer, tool, limits=limits)
        self._size, self._lock = max_size, threading.Lock()
        self._kept: OrderedDict[str, ArgumentGrammar] = OrderedDict()

    def __len__(self) -> int:
        """Count the grammars that are kept."""
        return len(self._kept)

    def get(self, tool: ToolDocument | Mapping[str, Any]) -> ArgumentGrammar:
        """Give the grammar of a tool, compiled at first use.

        Raises:
            ArgumentError: The schema is broken, or no finite arguments fit it.
        """
        document = tool_document(tool)
        key = document.content_hash
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = self._make(document)  # outside the lock: a slow schema delays nobody else
        with self._lock:
            made = self._kept.setdefault(key, made)
            self._kept.move_to_end(key)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return made
