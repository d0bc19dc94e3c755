"""The same model without any constraint: what it writes of its own accord, for comparison."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch

from toolscaler.agent.argument_text import ArgumentError, parse_arguments
from toolscaler.agent.code_planner import CodePlanner, Writer
from toolscaler.agent.planning import Plan, PlannedCall, PlanRequest, TextDelta
from toolscaler.data.documents import ToolDocument
from toolscaler.decoding.trie import CodeTrie
from toolscaler.tokenization.foreign_text import encode_foreign_text


class FreePlanner(CodePlanner):
    """A :class:`CodePlanner` that writes codes and arguments freely, greedily, as plain ``generate`` would.

    What it writes may name no tool, a forbidden one, or be no JSON. The executor and the policy see to it that nothing
    of that runs; here it is only counted. For baselines, not for use.
    """

    def _check_tokenizer(self) -> None:
        """Take any tokenizer: nothing is constrained."""

    def plan(self, request: PlanRequest) -> Generator[TextDelta, None, Plan]:
        """Propose a step; see :meth:`CodePlanner.plan`. A code that names no allowed tool is a call of ``?CODE``."""
        try:
            return (yield from super().plan(request))
        except _NoTool as wrong:
            call = PlannedCall(
                wrong.text, {}, code=wrong.text, error_type="unknown_tool", error=f"{wrong.text} names no tool"
            )
            return Plan("calls", "", (call,), tokens=self.tokenizer.code_length)

    def _rank(self, writer: Writer, written: list[int], trie: CodeTrie) -> list[tuple[str, float]]:
        ids, score = list(written), 0.0
        anything = torch.ones(self.tokenizer.required_vocab_size, dtype=torch.bool)
        for _ in range(self.tokenizer.code_length):
            logits = writer.read(ids)
            token = self.choose(logits, anything)
            writer.count()
            score += float(logits.log_softmax(0)[token])
            ids.append(token)
        node = trie.walk(torch.tensor([ids[len(written) :]]).numpy())[0]
        rows = trie.tools_at(int(node))
        if not len(rows):
            raise _NoTool("?" + self.tokenizer.decode(ids[len(written) :]))
        return [(trie.catalogue[int(row)], score) for row in rows]

    def _arguments(
        self, writer: Writer, written: list[int], document: ToolDocument
    ) -> Generator[TextDelta, None, tuple[str, dict[str, Any], ArgumentError | None]]:
        ids = list(written)
        allowed = self._free.clone()
        ends = {self.encoder.end_ids[0], encode_foreign_text(self.tokenizer, "\n")[0]}
        allowed[list(ends)] = True
        for _ in range(self.max_argument_tokens):
            token = self.choose(writer.read(ids), allowed)
            writer.count()
            if token in ends:
                break
            ids.append(token)
        text = self.tokenizer.decode(ids[len(written) :]).strip()
        yield TextDelta("arguments", text)
        try:
            return text, parse_arguments(text, document), None
        except ArgumentError as error:
            return text, {}, error


class _NoTool(Exception):
    """The codes name no allowed tool."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)
