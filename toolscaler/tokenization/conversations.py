"""Turns of a conversation in, token ids and their share in the loss out, with a chat template or without."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError

from toolscaler.data.protocol import AgentProtocol, Segment, Turn
from toolscaler.errors import TokenizationError
from toolscaler.tokenization.foreign_text import encode_foreign_text, encode_own_text

logger = logging.getLogger(__name__)

#: Between two turns that become one, where a template knows no system or tool turns.
_SEPARATOR = "\n\n"
# Without a chat template: what stands before and after a turn. The end token follows the assistant's turns besides.
_PLAIN_BEFORE = {"system": "", "user": "User: ", "assistant": "", "tool": ""}
_PLAIN_AFTER = {"system": "\n\n", "user": "\n", "assistant": "\n", "tool": "\n"}
# Content of a probe: a template that trims is welcome, one that changes the inside of a text is not.
_INSIDE = " \"a\" & 'b'\n<c> {{d}} \\n "


@dataclass
class EncodedConversation:
    """Token ids of a conversation.

    Attributes:
        ids: Token ids, (T,).
        trained: Whether each counts in the loss: the assistant's tokens and the token that ends its turn, (T,).
        spans: For each turn its role, the place of its first token and the place after its last one. What a template
            puts between turns belongs to none.
    """

    ids: list[int] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)
    spans: list[tuple[str, int, int]] = field(default_factory=list)

    def add(self, ids: Sequence[int], trained: bool = False) -> None:
        """Append tokens."""
        self.ids.extend(ids)
        self.trained.extend([trained] * len(ids))


class ConversationEncoder:
    """Encodes turns (:mod:`toolscaler.data.protocol`) for one tokenizer, the same way in training and in use.

    Ids are built piece by piece: the template's own text with its special tokens, code sequences as code tokens, and
    everything else with :func:`~toolscaler.tokenization.encode_foreign_text`, so that no text of a user, a document or
    a result becomes a code token or ends a turn. What a template writes between two turns is what it writes at the
    moment the later turn is added, so a conversation that grows never changes the ids that are there already, even
    where a template renders old turns in another way. No ``{% generation %}`` marks are needed.

    A template's ``tool`` turns are used where it keeps their text as it is, else documentation and results are user
    turns. Every assistant turn ends with the token by which the template ends it; the tokenizer's end token where it
    writes none, and without a template.

    Args:
        tokenizer: A :class:`~toolscaler.tokenization.ToolscalerTokenizer`.
        protocol: Its ``template_arguments`` are used; default: :class:`~toolscaler.data.protocol.AgentProtocol`.

    Raises:
        TokenizationError: The chat template cannot render a question and an answer, or changes their text.
    """

    def __init__(self, tokenizer: Any, protocol: AgentProtocol | None = None) -> None:
        self.tokenizer = tokenizer
        self.protocol = protocol or AgentProtocol()
        self._gaps: dict[tuple[str, ...], list[int]] = {}
        self._has_template = bool(tokenizer.chat_template)
        self._end = [int(tokenizer.eos_token_id)]
        self._roles = {"user": "user", "assistant": "assistant", "system": "system", "tool": "tool"}
        if self._has_template:
            self._probe()

    @property
    def end_ids(self) -> list[int]:
        """Tokens that end a turn of the assistant; the last of them is where generation has to stop."""
        return list(self._end)

    @property
    def tool_role(self) -> str:
        """Role under which documentation and results go to the template: ``tool`` or ``user``."""
        return self._roles["tool"]

    def encode(self, turns: Sequence[Turn]) -> EncodedConversation:
        """Encode whole turns.

        Returns:
            The ids; after a last turn of the assistant they end with :attr:`end_ids`.

        Raises:
            TokenizationError: The template cannot render these turns, or a code text is no code sequence of its tool.
        """
        result = EncodedConversation()
        roles: list[str] = []
        for turn in turns:
            self._add(result, roles, turn)
        return result

    def encode_prompt(self, turns: Sequence[Turn]) -> list[int]:
        """Encode turns and what opens the assistant's next turn.

        Raises:
            TokenizationError: As :meth:`encode`.
        """
        return self.encode(turns).ids + self.encode_next(turns, None)

    def encode_next(self, before: Sequence[Turn], turn: Turn | None) -> list[int]:
        """Encode what follows a conversation, without encoding the conversation again.

        Args:
            before: The turns so far. After an assistant turn, :attr:`end_ids` must be in the context already.
            turn: The next turn; ``None``: only what opens the assistant's turn.

        Returns:
            Ids such that ``encode(before).ids + encode_next(before, turn) == encode([*before, turn]).ids``.

        Raises:
            TokenizationError: As :meth:`encode`.
        """
        roles = self._rendered_roles(before)
        if turn is None:
            return list(self._gap((*roles, "assistant")))
        result = EncodedConversation()
        self._add(result, roles, turn)
        return result.ids

    def _rendered_roles(self, turns: Sequence[Turn]) -> list[str]:
        roles: list[str] = []
        for turn in turns:
            role = self._roles[turn.role]
            if not self._joins(roles, role):
                roles.append(role)
        return roles

    def _joins(self, roles: list[str], role: str) -> bool:
        """Say whether a turn goes on in the turn before it: chat templates want user and assistant in turns."""
        return self._has_template and bool(roles) and roles[-1] == role != "assistant"

    def _add(self, result: EncodedConversation, roles: list[str], turn: Turn) -> None:
        role = self._roles[turn.role]
        if self._joins(roles, role):
            result.add(encode_foreign_text(self.tokenizer, _SEPARATOR))
        else:
            roles.append(role)
            result.add(self._gap(tuple(roles)))
        start = len(result.ids)
        self._add_segments(result, turn.segments)
        if role == "assistant":
            result.add(self._end, trained=True)
        result.spans.append((turn.role, start, len(result.ids)))

    def _add_segments(self, result: EncodedConversation, segments: Sequence[Segment]) -> None:
        """Encode pieces; codes and arguments start afresh, other neighbours with the same share in the loss are one."""
        waiting, trained = "", False
        for segment in segments:
            alone = segment.kind in ("codes", "input")
            if waiting and (alone or segment.trained != trained):
                result.add(encode_foreign_text(self.tokenizer, waiting), trained)
                waiting = ""
            if segment.kind == "codes":
                result.add(self._code_ids(segment), segment.trained)
            elif alone:
                result.add(encode_foreign_text(self.tokenizer, segment.text), segment.trained)
            else:
                waiting, trained = waiting + segment.text, segment.trained
        if waiting:
            result.add(encode_foreign_text(self.tokenizer, waiting), trained)

    def _code_ids(self, segment: Segment) -> list[int]:
        try:
            ids = self.tokenizer.encode_code_text(segment.text)
        except TokenizationError:
            ids = []
        if segment.tool not in self.tokenizer.decode_tool(ids):
            raise TokenizationError(f"expected the codes of {segment.tool!r}, got {segment.text!r:.120}")
        return ids

    # --- what stands between turns --------------------------------------------------------------------------------

    def _gap(self, roles: tuple[str, ...]) -> list[int]:
        """Give the ids between the last turn but one and the last one; after an assistant turn without its end."""
        if roles not in self._gaps:
            text = self._template_gap(roles) if self._has_template else _plain_gap(roles)
            if len(roles) > 1:
                ids = encode_own_text(self.tokenizer, text)
            elif self._has_template:
                ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            else:
                ids = self._start_ids() + encode_own_text(self.tokenizer, text)
            if len(roles) > 1 and roles[-2] == "assistant" and ids[: len(self._end)] == self._end:
                ids = ids[len(self._end) :]
            self._gaps[roles] = ids
        return self._gaps[roles]

    def _start_ids(self) -> list[int]:
        """Give the special tokens that the tokenizer puts before a text."""
        encoded = self.tokenizer("a", add_special_tokens=True, return_special_tokens_mask=True)
        mask = list(encoded["special_tokens_mask"])
        return list(encoded["input_ids"])[: mask.index(0)] if 0 in mask else []

    def _template_gap(self, roles: tuple[str, ...]) -> str:
        last = len(roles) - 1
        if roles[-1] == "assistant":
            return self._pieces(roles[:-1], generation=True)[-1]
        if roles == ("system",):  # a template may put the system text into the user's turn
            return self._pieces(("system", "user"))[0]
        return self._pieces(roles)[last]

    def _pieces(self, roles: tuple[str, ...], *, generation: bool = False, inside: str = "") -> list[str]:
        """Render a conversation of marks and cut it at them.

        Returns:
            What the template writes before, between and after the turns: one piece more than there are turns.

        Raises:
            TokenizationError: The template raises an error, or does not write each turn's text once, in order.
        """
        marks = [f"qX{number:05d}{inside}Xq" for number in range(len(roles))]
        turns = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        try:
            text = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=generation, **self.protocol.template_arguments
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise TokenizationError(f"the chat template cannot render the roles {list(roles)}: {error}") from error
        pieces: list[str] = []
        for mark in marks:
            before, found, text = text.partition(mark)
            if not found or mark in text:
                raise TokenizationError(
                    f"the chat template does not keep the text of each turn as it is, once and in order; roles "
                    f"{list(roles)}"
                )
            pieces.append(before)
        return [*pieces, text]

    def _renders(self, *roles: str) -> bool:
        try:
            self._pieces(roles, inside=_INSIDE)
            self._pieces(roles[:-1] if roles[-1] == "assistant" else roles, generation=True, inside=_INSIDE)
        except TokenizationError as error:
            logger.debug("%s", error)
            return False
        return True

    def _probe(self) -> None:
        """Find out what the template can do and how it ends a turn of the assistant."""
        closing = self._pieces(("user", "assistant"), inside=_INSIDE)[-1]
        self._pieces(("user",), generation=True, inside=_INSIDE)
        if not self._renders("system", "user", "assistant"):
            self._roles["system"] = "user"
        if not (self._renders("user", "assistant", "tool") and self._renders("user", "assistant", "tool", "assistant")):
            self._roles["tool"] = "user"
        added = self.tokenizer.backend_tokenizer.get_added_tokens_decoder()
        ids = encode_own_text(self.tokenizer, closing)
        for place, token in enumerate(ids):
            text = added[token].content if token in added else self.tokenizer.decode([token])
            if token in added and text.strip():
                self._end = ids[: place + 1]
                return
            if text.strip():
                return


def _plain_gap(roles: tuple[str, ...]) -> str:
    before = _PLAIN_AFTER[roles[-2]] if len(roles) > 1 else ""
    return f"{before}{_PLAIN_BEFORE[roles[-1]]}"
