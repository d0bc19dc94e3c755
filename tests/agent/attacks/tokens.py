"""Injection at the level of tokens: codes and special tokens are where the library put them, and nowhere else."""

from __future__ import annotations

import itertools
import random
import threading
from dataclasses import replace

from agent.attacks.planners import code_planner
from agent.attacks.tally import Tally
from agent.attacks.texts import hostile_texts
from toolscaler.agent.agent import ToolAgent
from toolscaler.agent.config import AgentConfig
from toolscaler.agent.executors import PythonExecutor
from toolscaler.agent.policy import ToolPolicy
from toolscaler.data.documents import ToolDocument
from toolscaler.data.trajectories import ToolCall, TrajectoryMessage

CHANNELS = ("result", "error", "user", "system", "history", "description", "parameter", "enum", "arguments")
TOOLS = ("look", "count", "send")


class Reader:
    """A planner's eyes: looks at all ids that its model reads, and says which of them nobody should have written."""

    def __init__(self, planner) -> None:
        self.planner, self.wrong, self.seen = planner, [], 0
        tokenizer = planner.tokenizer
        self.first, self.stop = tokenizer.first_code_id, tokenizer.first_code_id + tokenizer.num_code_tokens
        added = tokenizer.added_tokens_decoder
        self.special = {token for token, kind in added.items() if not self.first <= token < self.stop and kind.special}
        self._encode, self._forward = planner.encoder.encode_prompt, planner._text.forward
        self._codes = {tuple(tokenizer.encode_tool(tool)) for tool in tokenizer.tool_index.tool_ids}
        self._lock = threading.Lock()
        planner.encoder.encode_prompt, planner._text.forward = self.encode, self.forward

    def encode(self, turns):
        """Encode turns, and compare with the same turns whose texts of others are harmless."""
        ids = self._encode(turns)
        expected = self._encode(_harmless(turns, ("codes", "scaffold")))
        own = [token for turn in turns for s in turn.segments if s.kind == "codes"
               for token in self.planner.tokenizer.encode_tool(s.tool)]  # fmt: skip
        self._check([t for t in ids if self.first <= t < self.stop] == own, "codes", ids)
        self._check([t for t in ids if t in self.special] == [t for t in expected if t in self.special], "marks", ids)
        # The caller's own system text and the model's own arguments may name the marks of results.
        plain = self._encode(_harmless(turns, ("codes", "scaffold", "system", "input")))
        text, plain = (self.planner.tokenizer.decode(row).lower() for row in (ids, plain))
        for tag in ("<result>", "</result>", "<documentation>", "</documentation>", "<error>", "</error>"):
            self._check(text.count(tag) == plain.count(tag), f"protocol {tag}", ids)
        return ids

    def forward(self, ids, read, cache):
        """Let the model read, and check that code tokens come as whole code sequences only."""
        found = [token for token in ids if self.first <= token < self.stop]
        size = self.planner.tokenizer.code_length
        rows = [tuple(found[k : k + size]) for k in range(0, len(found), size)]
        self._check(all(row in self._codes for row in rows), "codes read", ids)
        return self._forward(ids, read, cache)

    def _check(self, right: bool, what: str, ids) -> None:
        with self._lock:
            self.seen += 1
            if not right:
                self.wrong.append(f"{what}: {self.planner.tokenizer.decode(ids[-200:])!r}")


def _harmless(turns, kept):
    return [
        replace(turn, segments=tuple(s if s.kind in kept else replace(s, text="x") for s in turn.segments))
        for turn in turns
    ]


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


class Place:
    """Tools of which one carries the hostile text; remembers runs of the one that is forbidden."""

    def __init__(self, text: str, where: str) -> None:
        self.ran: list[str] = []

        def look(**_: object) -> str:
            if where == "error":
                raise ValueError(text)
            return text if where == "result" else "a page"

        properties: dict = {"q": {"type": "string", "maxLength": 5}}
        if where == "parameter":
            properties = {_utf8(text)[:60] or "x": {"type": "boolean", "description": _utf8(text)}}
        elif where == "enum":
            properties = {"kind": {"enum": [_utf8(text), "page"]}}
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        empty = {"type": "object", "properties": {}}
        documents = [
            ToolDocument("look", _utf8(text) if where == "description" else "Look.", parameters=schema),
            ToolDocument("count", "Count.", parameters=empty),
            ToolDocument("send", "Send.", parameters=empty),
        ]
        functions = {"look": look, "count": lambda **_: 3, "send": lambda **kw: self.ran.append(str(kw))}
        self.executor = PythonExecutor(functions, documents=documents)


def _history(text: str, where: str) -> list[TrajectoryMessage]:
    if where == "system":
        return [TrajectoryMessage("system", text)]
    if where == "history":
        return [TrajectoryMessage("user", text), TrajectoryMessage("assistant", text)]
    if where == "arguments":
        call = ToolCall("look", {"q": text})
        said = [TrajectoryMessage("user", "?"), TrajectoryMessage("assistant", text, (call,))]
        return [*said, TrajectoryMessage("tool", text), TrajectoryMessage("assistant", "So.")]
    return []


def _planners(most: int):
    from tokenizers import normalizers

    folding = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    options = [
        {"max_parallel_calls": 2},
        {"chat": True, "normalizer": folding},
        {"chat": True},
        {"normalizer": folding},
    ]
    return [code_planner(TOOLS, number, **chosen) for number, chosen in enumerate(options[:most])]


def tokens(count: int, seed: int = 0) -> Tally:
    """Texts of others add no code token and no special token to what any model reads; forbidden tools never run."""
    tally, planners = Tally("prompt injection: token ids read by random models"), _planners(count // 4)
    cases = [
        (planner, text, where)
        for planner in planners
        for text in hostile_texts(planner.tokenizer)
        for where in CHANNELS
    ]
    random.Random(seed).shuffle(cases)
    readers = {id(planner): Reader(planner) for planner in planners}
    config = AgentConfig(max_steps=2, max_calls=4)
    for planner, text, where in itertools.islice(itertools.cycle(cases), count):
        reader, place = readers[id(planner)], Place(text, where)
        reader.wrong.clear()
        with place.executor:
            agent = ToolAgent(planner, place.executor, config=config, policy=ToolPolicy(deny=["send"]))
            try:
                run = agent.session(messages=_history(text, where)).run(f"Look. {text}" if where == "user" else "Look.")
                problem = "" if {call.tool for call in run.calls} <= {"look", "count", "Finish"} else "forbidden tool"
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
        tally.saw(not (problem or reader.wrong or place.ran), f"{where} {text!r:.80}: {problem} {reader.wrong[:1]}")
    return tally
