"""A toolscaler model as planner: free Thought, a code from the trie, arguments that fit the tool's schema."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from toolscaler.agent.abstention import ABSTENTION_FILE, AbstentionThreshold
from toolscaler.agent.argument_text import ArgumentError
from toolscaler.agent.argument_vocabulary import ArgumentVocabulary
from toolscaler.agent.arguments import ArgumentGrammars
from toolscaler.agent.grounding import ConversationValues, Grounder, Grounding
from toolscaler.agent.planning import REFUSED_FINISH, Plan, PlannedCall, Planner, PlanRequest, TextDelta
from toolscaler.agent.text_model import ReadText, TextModel
from toolscaler.data.documents import ToolDocument
from toolscaler.data.protocol import (
    ACTION,
    ACTION_INPUT,
    PROTOCOL_FILE,
    THOUGHT,
    AgentProtocol,
    Turn,
    action_turn,
    clean_thought,
    documentation_turn,
    input_turn,
    trajectory_turns,
)
from toolscaler.data.trajectories import FINISH_TOOL, Trajectory, finish_document
from toolscaler.decoding.engine import SearchEngine
from toolscaler.decoding.model_io import artifact_folder, check_model, load_model, longest_input
from toolscaler.decoding.scoring import ScoreRule
from toolscaler.decoding.trie import CodeTrie
from toolscaler.errors import ConfigError, DecodingError, EmptyCatalogueError
from toolscaler.prompt_attention import reads_both_ways
from toolscaler.tokenization.code_tokens import code_offsets
from toolscaler.tokenization.conversations import ConversationEncoder
from toolscaler.tokenization.foreign_text import encode_foreign_text

if TYPE_CHECKING:
    from toolscaler.agent.arguments import ArgumentMatcher
    from toolscaler.tokenization import ToolIndex, ToolscalerTokenizer

logger = logging.getLogger(__name__)

#: Tokens in which arguments that became too long must come to an end.
_CLOSING_TOKENS = 1024

#: What a planner does where no tool is likely enough: say so, or ask which of the likeliest is meant.
Abstention = Literal["say", "ask"]


class CodePlanner(Planner):
    """Plans steps with a model that writes code sequences (paper sections 4.2 and 4.3).

    A step is read and written as in training (:mod:`toolscaler.data.protocol`): the model writes a Thought freely,
    then the code of one allowed tool, found by constrained beam search; that tool's documentation is put in; then the
    arguments, constrained to its JSON Schema. A tool outside the request, an unknown tool and arguments that are no
    JSON of the schema's form cannot be written.

    Args:
        model: Causal LM trained on codes and trajectories.
        tokenizer: Its tokenizer; its catalogue holds :data:`~toolscaler.data.FINISH_TOOL`.
        protocol: Text form that the model was trained with; default: the library's.
        num_beams: Beam width at Action.
        temperature: Of the Thought and the arguments; 0 takes the likeliest token.
        seed: Of the random numbers, where the temperature is above zero.
        max_thought_tokens: Tokens of a Thought.
        max_argument_tokens: Tokens of the arguments of one call.
        max_parallel_calls: Calls in one step.
        abstain_below: Margin (log-probability of the best tool less that of the runner-up) under which no tool is
            called; ``None``: never. :func:`~toolscaler.agent.calibrate_abstention` finds one.
        abstain_with: What is said then.
        grounding: Hold the values that are written to what stands in the conversation: true for all of it, a
            :class:`~toolscaler.agent.Grounding` or its fields for a part. Default: not at all.

    Raises:
        DecodingError: The model has no rows for the code tokens, is no decoder-only model, or has a tokenizer that
            cannot write JSON letter by letter (WordPiece), or whose codes are tokens of the base or differ in number.
        EmptyCatalogueError: The tokenizer has no codes for Finish.
        ConfigError: A setting is out of range.
        TokenizationError: The chat template cannot be used.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: ToolscalerTokenizer,
        *,
        protocol: AgentProtocol | None = None,
        num_beams: int = 10,
        temperature: float = 0.0,
        seed: int = 0,
        max_thought_tokens: int = 128,
        max_argument_tokens: int = 512,
        max_parallel_calls: int = 4,
        abstain_below: float | None = None,
        abstain_with: Abstention = "say",
        grounding: bool | Mapping[str, Any] | Grounding = False,
    ) -> None:
        counts = {
            "num_beams": num_beams,
            "max_thought_tokens": max_thought_tokens,
            "max_argument_tokens": max_argument_tokens,
            "max_parallel_calls": max_parallel_calls,
        }
        for key, value in counts.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"CodePlanner.{key}", value, "a whole number above zero")
        if not isinstance(temperature, int | float) or isinstance(temperature, bool) or not temperature >= 0:
            raise ConfigError("CodePlanner.temperature", temperature, "a number from 0")
        if abstain_with not in ("say", "ask"):
            raise ConfigError("CodePlanner.abstain_with", abstain_with, "'say' or 'ask'")
        self.grounder = Grounder(Grounding.of(grounding))
        check_model(model, tokenizer.required_vocab_size)
        if reads_both_ways(model):
            raise ConfigError(
                "CodePlanner.model",
                "a model trained with bidirectional_prompts",
                "one that reads causally, as dialogues",
            )
        _check_codes(tokenizer)
        if FINISH_TOOL not in tokenizer.tool_index:
            raise EmptyCatalogueError(
                f"expected a tokenizer with codes for {FINISH_TOOL!r}, with which a run ends; add "
                "toolscaler.data.finish_document() to the catalogue before training"
            )
        self.model, self.tokenizer = model, tokenizer
        self.protocol = protocol or AgentProtocol()
        self.num_beams, self.temperature = num_beams, float(temperature)
        self.max_thought_tokens, self.max_argument_tokens = max_thought_tokens, max_argument_tokens
        self.max_parallel_calls = max_parallel_calls
        self.abstain_below, self.abstain_with = abstain_below, abstain_with
        self.encoder = ConversationEncoder(tokenizer, self.protocol)
        self._text = TextModel(model)
        self._engine = SearchEngine(model)
        self.grammars = ArgumentGrammars(tokenizer)
        self._check_tokenizer()
        self._random = torch.Generator().manual_seed(seed)
        self._trie: tuple[ToolIndex, CodeTrie] | None = None
        self.room = longest_input(model, 1)
        # As the model writes them: a tokenizer may fold case.
        self.thought_mark, self.action_mark = map(self._as_written, (THOUGHT, ACTION))
        self._free = self._free_tokens()
        self._told: set[int] = set()
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, device: str | torch.device | None = None, **kwargs: Any
    ) -> CodePlanner:
        """Load model, tokenizer and protocol from one folder or Hub repo.

        Args:
            name_or_path: Folder or repo id. Where the folder holds a calibrated threshold
                (:meth:`~toolscaler.agent.AbstentionThreshold.save`), that is ``abstain_below``; ``abstain_below=None``
                leaves it out.
            device: As in :meth:`toolscaler.GenerativeRetriever.from_pretrained`.
            **kwargs: Settings of the planner; all others go to ``AutoModelForCausalLM.from_pretrained``.

        Raises:
            ArtifactError: The folder is incomplete.
            DecodingError: Model and tokenizer do not belong together.
        """
        own = {key: kwargs.pop(key) for key in list(kwargs) if key in _OPTIONS}
        folder = artifact_folder(name_or_path, kwargs) or Path(name_or_path)
        model, tokenizer = load_model(name_or_path, device, kwargs)
        if own.get("protocol") is None and (folder / PROTOCOL_FILE).is_file():
            own["protocol"] = AgentProtocol.load(folder)
        if "abstain_below" not in own and (folder / ABSTENTION_FILE).is_file():
            own["abstain_below"] = AbstentionThreshold.load(folder).threshold
        return cls(model, tokenizer, **own)

    def _check_tokenizer(self) -> None:
        """Refuse a tokenizer under which no arguments can be constrained, before any call needs them."""
        ArgumentVocabulary.of(self.tokenizer)

    # Planning

    def plan(self, request: PlanRequest) -> Generator[TextDelta, None, Plan]:
        """Propose a step; see :meth:`Planner.plan`.

        Raises:
            EmptyCatalogueError: No tool of the request has codes.
            DecodingError: The model's numbers are not finite.
        """
        trie = self._allowed(request)
        if trie is None:
            return Plan("abstain", "Every allowed tool was tried.")
        turns = self._turns(request)
        prompt = self.encoder.encode_prompt(turns)
        with self._reading(prompt) as text:
            writer = Writer(self, text, request, values=self.grounder.values(request.messages))
            try:
                return (yield from self._write(writer, trie, turns, prompt, request))
            except Spent:
                return Plan("budget", tokens=writer.tokens)
            except TooLong:
                return Plan("context", tokens=writer.tokens)

    def _write(
        self, writer: Writer, trie: CodeTrie, turns: list[Turn], prompt: list[int], request: PlanRequest
    ) -> Generator[TextDelta, None, Plan]:
        thought = yield from writer.thought(prompt)
        head = f"{THOUGHT}{thought}\n{ACTION}" if thought else ACTION
        written = prompt + encode_foreign_text(self.tokenizer, head)
        calls: list[PlannedCall] = []
        candidates: tuple[tuple[str, float], ...] = ()
        while True:
            ranking = self._rank(writer, written, trie)
            best, score = ranking[0]
            margin = score - ranking[1][1] if len(ranking) > 1 else None
            if not calls:
                candidates = tuple(ranking[: self.num_beams])
                if self._abstains(best, margin):
                    return Plan(self._abstention(), self._doubt(ranking), (), candidates, writer.tokens)
            elif best == FINISH_TOOL:  # Finish stands alone: what was planned runs first
                break
            code = self.tokenizer.tool_code_text(best)
            yield TextDelta("action", best)
            document = request.documents[best]
            turns, written = self._with_documentation(
                turns, written, thought if not calls else None, best, code, document
            )
            text, arguments, error = yield from self._arguments(writer, written, document)
            problem = ("", "") if error is None else (error.error_type, error.message)
            calls.append(PlannedCall(best, arguments, score, margin, code, "", *problem))
            if best == FINISH_TOOL or len(calls) >= self.max_parallel_calls:
                break
            written = written + encode_foreign_text(self.tokenizer, text)
            if not writer.goes_on(written):
                break
            turns = [*turns, input_turn(text, None)]
            written = written + encode_foreign_text(self.tokenizer, f"\n{ACTION}")
        return Plan("calls", thought, tuple(calls), candidates, writer.tokens)

    def _arguments(
        self, writer: Writer, written: list[int], document: ToolDocument
    ) -> Generator[TextDelta, None, tuple[str, dict[str, Any], ArgumentError | None]]:
        """Write the arguments of a call."""
        return (yield from writer.arguments(written, document))

    def _with_documentation(
        self, turns: list[Turn], written: list[int], thought: str | None, tool: str, code: str, document: ToolDocument
    ) -> tuple[list[Turn], list[int]]:
        """Put a tool's documentation behind its code; give the turns, and the ids up to its Action Input."""
        codes = self.tokenizer.encode_tool(tool)
        if not self.protocol.shows_documentation(tool):
            return turns, written + codes + encode_foreign_text(self.tokenizer, f"\n{ACTION_INPUT}")
        if thought is not None:
            turns = [*turns, action_turn(thought, tool, code)]
        else:  # a further call of the step ends the turn of the arguments before it
            *turns, before = turns
            arguments = next(segment.text for segment in before.segments if segment.kind == "input")
            turns = [*turns, input_turn(arguments, (tool, code))]
        turns = [*turns, documentation_turn(document)]
        return turns, self.encoder.encode_prompt(turns) + encode_foreign_text(self.tokenizer, ACTION_INPUT)

    def _turns(self, request: PlanRequest) -> list[Turn]:
        """Give the conversation as turns.

        A past call of a tool that has left the catalogue has no codes any more: it is left out with its results. A tool
        that this run may not call any more is shown without its documentation.
        """
        known = self.tokenizer.tool_index
        messages, gone = [], False
        for message in request.messages:
            if message.role == "assistant":
                gone = any(call.tool not in known and call.tool != REFUSED_FINISH for call in message.tool_calls)
            if gone and message.role in ("assistant", "tool"):
                continue
            messages.append(message)
        called = {call.tool for message in messages for call in message.tool_calls}
        documents = {**request.documents}
        for tool in called - set(documents):
            documents[tool] = ToolDocument(tool, "Not available any more.")
        # A past answer in plain text is shown as a call of Finish.
        documents.setdefault(FINISH_TOOL, finish_document())
        codes = {tool: self.tokenizer.tool_code_text(tool) for tool in (called - {REFUSED_FINISH}) | {FINISH_TOOL}}
        documents[REFUSED_FINISH], codes[REFUSED_FINISH] = documents[FINISH_TOOL], codes[FINISH_TOOL]
        turns = trajectory_turns(Trajectory(tuple(messages)), documents, codes, self.protocol)
        return [_naming_finish(turn) for turn in turns] if REFUSED_FINISH in called else turns

    # Tools

    def _allowed(self, request: PlanRequest) -> CodeTrie | None:
        """Give the trie of what may be proposed; ``None`` where all of it was tried."""
        index = self.tokenizer.tool_index
        cached = self._trie
        if cached is None or cached[0] is not index:
            cached = self._trie = (index, CodeTrie.from_tool_index(index, self.tokenizer.first_code_id))
        usable = [tool for tool in request.tools if tool in index]
        if not [tool for tool in usable if tool != FINISH_TOOL]:
            raise EmptyCatalogueError(
                f"none of the {len(request.tools)} allowed tools has codes; add them with tokenizer.add_tools"
            )
        missing = len(request.tools) - len(usable)
        if missing and missing not in self._told:
            self._told.add(missing)
            logger.warning("%d of %d allowed tools have no codes and are never proposed", missing, len(request.tools))
        left = [tool for tool in usable if tool not in request.exclude]
        return cached[1].subset(tools=left) if left else None

    def _rank(self, writer: Writer, written: list[int], trie: CodeTrie) -> list[tuple[str, float]]:
        """Rank allowed tools behind the ids written so far, best first."""
        if self.room is not None and len(written) + self.tokenizer.code_length > self.room:
            raise TooLong
        writer.text.read(written)
        sizes = self.tokenizer.code_sizes
        starts = code_offsets(sizes) + self.tokenizer.first_code_id
        groups = tuple((int(start), int(start) + size) for start, size in zip(starts, sizes, strict=True))
        with torch.no_grad():
            (found,) = self._engine.search(
                [written], [trie], self.num_beams, ScoreRule(None, groups), padding=0, prefix=writer.text.prefix()
            )
        if isinstance(found, DecodingError):
            raise found
        order = np.argsort(-found.scores, kind="stable")
        names = trie.catalogue
        return [
            (names[int(tool)], float(found.scores[place]))
            for place in order
            for tool in trie.tools_at(int(found.nodes[place]))
        ]

    def _abstains(self, best: str, margin: float | None) -> bool:
        return (
            self.abstain_below is not None
            and best != FINISH_TOOL
            and margin is not None
            and margin < self.abstain_below
        )

    def _abstention(self) -> Literal["abstain", "answer"]:
        return "answer" if self.abstain_with == "ask" else "abstain"

    def _doubt(self, ranking: Sequence[tuple[str, float]]) -> str:
        names = [tool for tool, _ in ranking if tool != FINISH_TOOL][:3]
        if self.abstain_with == "ask":
            return f"I am not sure which tool is meant: {', '.join(names)}. Which of them, or what exactly do you need?"
        return f"No tool fits clearly; the nearest are {', '.join(names)}."

    # The model

    @contextmanager
    def _reading(self, prompt: list[int]) -> Generator[ReadText, None, None]:
        training = self.model.training
        if training:
            self.model.eval()
        text = self._text.take(prompt)
        try:
            yield text
        finally:
            self._text.put_back(text)
            if training:
                self.model.train()

    def _as_written(self, mark: str) -> str:
        return self.tokenizer.decode(encode_foreign_text(self.tokenizer, mark)).strip()

    def _free_tokens(self) -> torch.Tensor:
        """Give what free text may hold, bool (ids,): no code token and no special token."""
        size = self.tokenizer.required_vocab_size
        free = torch.ones(size, dtype=torch.bool)
        free[self.tokenizer.first_code_id : self.tokenizer.first_code_id + self.tokenizer.num_code_tokens] = False
        for token, added in self.tokenizer.added_tokens_decoder.items():
            if added.special and token < size:
                free[token] = False
        return free

    def choose(self, logits: torch.Tensor, allowed: torch.Tensor) -> int:
        """Choose the next token.

        Args:
            logits: float32 (vocabulary,).
            allowed: bool (at most vocabulary,).

        Raises:
            DecodingError: The logits are not finite, or nothing is allowed.
        """
        part = logits[: len(allowed)].cpu().masked_fill(~allowed, -torch.inf)
        best = int(part.argmax())
        if not bool(part[best].isfinite()):
            raise DecodingError(
                "expected finite scores; the model's numbers overflow: load it with dtype=torch.float32"
            )
        if not self.temperature:
            return best
        with self._lock:  # a generator is not for two threads at once
            return int(torch.multinomial((part / self.temperature).softmax(0), 1, generator=self._random))


@dataclass
class Writer:
    """Writes the free and the constrained parts of one step, and counts tokens."""

    planner: CodePlanner
    text: ReadText
    request: PlanRequest
    tokens: int = 0
    values: ConversationValues | None = field(default=None, kw_only=True)

    def read(self, ids: list[int]) -> torch.Tensor:
        """Give the logits of the token behind ids, float32 (vocabulary,)."""
        room = self.planner.room
        if room is not None and len(ids) > room:
            logger.info("the conversation has %d tokens, the model reads %d at most", len(ids), room)
            raise TooLong
        return self.text.read(ids)

    def count(self) -> None:
        """Count a generated token; stop where the budget is spent."""
        self.tokens += 1
        deadline = self.request.deadline
        if self.tokens > self.request.max_tokens or (deadline is not None and time.monotonic() > deadline):
            raise Spent

    def thought(self, prompt: list[int]) -> Generator[TextDelta, None, str]:
        """Write a Thought: up to the mark of the action, the end of the turn, or the limit."""
        planner, tokenizer = self.planner, self.planner.tokenizer
        end = planner.encoder.end_ids[0]
        allowed = planner._free.clone()
        allowed[end] = True
        ids, shown = list(prompt), ""
        for _ in range(planner.max_thought_tokens):
            token = planner.choose(self.read(ids), allowed)
            self.count()
            if token == end:
                break
            ids.append(token)
            text = _body(tokenizer.decode(ids[len(prompt) :]), planner.thought_mark)
            if text is None:
                continue
            body, found, _ = text.partition(planner.action_mark)
            if not found and "�" in body[-4:]:  # half a character
                continue
            fresh = body.rstrip() if found else _settled(body, planner.action_mark)
            if len(fresh) > len(shown):
                yield TextDelta("thought", fresh[len(shown) :])
                shown = fresh
            if found:
                return clean_thought(body)
        text = _body(tokenizer.decode(ids[len(prompt) :]), planner.thought_mark) or ""
        return clean_thought(text.partition(planner.action_mark)[0].replace("�", ""))

    def arguments(
        self, written: list[int], document: ToolDocument
    ) -> Generator[TextDelta, None, tuple[str, dict[str, Any], ArgumentError | None]]:
        """Write the arguments of a call; give their text, the same parsed, and what is wrong with them.

        Only a schema that the grammar cannot hold in full leaves room for something to be wrong.
        """
        planner = self.planner
        try:
            grammar = planner.grammars.get(document)
            matcher = planner.grounder.matcher(grammar, self.values)
        except ArgumentError as error:
            return "{}", {}, error
        ids, shown = list(written), ""
        while not matcher.complete:
            if len(ids) - len(written) >= planner.max_argument_tokens:
                endless = self._close(matcher)
                plain = planner.grounder.released(matcher, grammar, endless) if endless is not None else None
                if plain is not None:
                    matcher, endless = plain, self._close(plain)
                if endless is not None:
                    return "{}", {}, endless
                break
            try:
                allowed = torch.from_numpy(matcher.allowed())
            except DecodingError as error:
                plain = planner.grounder.released(matcher, grammar, error)
                if plain is not None:
                    matcher = plain
                    continue
                # This schema asks for what the tokenizer cannot write.
                return "{}", {}, ArgumentError("invalid_schema", f"{document.id!r} cannot be called: {error}")
            token = planner.choose(self.read(ids), allowed)
            self.count()
            matcher.accept(token)
            ids.append(token)
            if not matcher.text.endswith("�") and len(matcher.text) > len(shown):
                yield TextDelta("arguments", matcher.text[len(shown) :])
                shown = matcher.text
        text = matcher.text
        try:
            return text, matcher.grammar.parse(text), None
        except ArgumentError as error:
            return text, {}, error

    def _close(self, matcher: ArgumentMatcher) -> ArgumentError | None:
        """End arguments that became too long in as few tokens as the schema allows; say so where that is too many."""
        closing = matcher.closing_tokens(_CLOSING_TOKENS)
        if closing is None:
            spent = f"{len(matcher.tokens)} tokens were written, and {_CLOSING_TOKENS} more do not end them"
            return ArgumentError("too_large", f"the arguments are too long: {spent}; give fewer or shorter values")
        for token in closing:
            matcher.accept(token)
            self.tokens += 1
        return None

    def goes_on(self, written: list[int]) -> bool:
        """Say whether the model wants a further call in this step rather than the end of its turn."""
        planner = self.planner
        more = encode_foreign_text(planner.tokenizer, f"\n{ACTION}")[0]
        logits = self.read(written)
        return bool(logits[more] > logits[planner.encoder.end_ids[0]])


class Spent(Exception):
    """The budget of the run, or of a part, is spent."""


class TooLong(Exception):
    """The conversation is longer than the model can read."""


def _naming_finish(turn: Turn) -> Turn:
    """Give a turn in which a refused call of Finish bears the name that its codes have."""
    return replace(
        turn,
        segments=tuple(
            replace(segment, tool=FINISH_TOOL) if segment.tool == REFUSED_FINISH else segment
            for segment in turn.segments
        ),
    )


def _body(text: str, mark: str) -> str | None:
    """Give what a Thought says so far; ``None`` while its mark is still being written."""
    text = text.lstrip()
    if text.startswith(mark):
        return text[len(mark) :].lstrip()
    return None if mark.startswith(text) else text


def _settled(text: str, mark: str) -> str:
    """Give the part of a text that can no longer become the mark of an action."""
    for size in range(min(len(mark), len(text)), 0, -1):
        if text.endswith(mark[:size]):
            return text[:-size].rstrip()
    return text.rstrip("\n")


_OPTIONS = frozenset(
    {
        "protocol",
        "num_beams",
        "temperature",
        "seed",
        "max_thought_tokens",
        "max_argument_tokens",
        "max_parallel_calls",
        "abstain_below",
        "abstain_with",
        "grounding",
    }
)


def _check_codes(tokenizer: ToolscalerTokenizer) -> None:
    """Refuse tools whose tokens cannot be told from the text around them."""
    if tokenizer.base_tokens or tokenizer.tool_index.ragged:
        raise DecodingError(
            "tokenizer: expected code tokens and sequences of one length, got those of the strategy "
            f"{tokenizer.strategy!r}, which a planner cannot tell from the text around them"
        )
