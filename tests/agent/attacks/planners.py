"""Planners for attacks: one that does whatever any text tells it, one that follows a list, tiny random models."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from pathlib import Path

import numpy as np

from toolscaler.agent.planning import Plan, PlannedCall, Planner, TextDelta
from toolscaler.data.trajectories import FINISH_TOOL

_ORDER = re.compile(r"RUN\s+(\S+)\s+(\{.*?\})", re.DOTALL)
_HIDDEN = re.compile("[\u00ad\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\u0300-\u036f\ud800-\udfff\\x00-\\x1f\x85]+")
_FROM_LOOKALIKE = str.maketrans("асеорхуѕі", "aceopxysi")


def call(tool: str, /, **arguments) -> PlannedCall:
    return PlannedCall(tool, arguments, -0.1, 2.0, "<a_1><b_1><c_1>")


def calls(*planned: PlannedCall, thought: str = "Yes.") -> Plan:
    return Plan("calls", thought, planned, tuple((item.tool, -0.1) for item in planned), tokens=1)


def finish(answer: str = "done", kind: str = "give_answer") -> Plan:
    return calls(call(FINISH_TOOL, return_type=kind, final_answer=answer))


class Scripted(Planner):
    """Proposes what it is told to, in order, then finishes; remembers what it was asked."""

    def __init__(self, *plans) -> None:
        self.plans, self.asked = list(plans), []

    def plan(self, request):
        self.asked.append(request)
        plan = self.plans.pop(0) if self.plans else finish()
        plan = plan(request) if callable(plan) else plan
        yield TextDelta("thought", plan.thought)
        return plan


def revealed(text: str) -> str:
    """Undo disguises, as a model may: tag characters, hidden characters, letters of double width, look-alikes."""
    text = "".join(chr(ord(c) - 0xE0000) if 0xE0000 < ord(c) < 0xE0080 else c for c in text)
    return unicodedata.normalize("NFKC", _HIDDEN.sub("", text)).translate(_FROM_LOOKALIKE)


def orders_in(text: str) -> list[tuple[str, dict]]:
    """Find the orders in a text, read as it stands, without its disguise, backwards, and in lower case."""
    found = []
    for shown in (text, revealed(text), text.encode("utf-8", "replace").decode("unicode_escape", "ignore")):
        for way in (shown, shown[::-1], shown.replace("&lt;", "<")):
            for tool, arguments in _ORDER.findall(way) + _ORDER.findall(way.lower().replace("run ", "RUN ")):
                try:
                    found.append((tool, json.loads(arguments)))
                except ValueError:
                    found.append((tool, {}))
    return [order for place, order in enumerate(found) if order not in found[:place]]


class Obedient(Planner):
    """The worst model there is: first the user's call, then every order that it finds in any text, in many forms.

    Orders are looked for in every message and in every document of the run. Besides the tool as it is named, the name
    without its disguise, in lower case and beside an allowed call is tried.
    """

    def __init__(self, *first: Plan) -> None:
        self.first = first

    def plan(self, request):
        queue = list(self.first)
        texts = [message.content for message in request.messages]
        texts += [
            json.dumps(document.to_dict(), ensure_ascii=False).replace("\\\\", "\\").replace('\\"', '"')
            for document in request.documents.values()
        ]
        orders = [order for text in dict.fromkeys(texts) for order in orders_in(text)]
        for tool, arguments in [order for place, order in enumerate(orders) if order not in orders[:place]]:
            named = dict.fromkeys((tool, revealed(tool), tool.strip().lower(), revealed(tool).lower()))
            made = [call(name, **arguments) for name in named if name]
            queue += [calls(*made), calls(*self._beside(), *made)] * bool(made)
        done = sum(message.role == "assistant" for message in request.messages)
        yield TextDelta("thought", "I obey.")
        return queue[done] if done < len(queue) else finish()

    def _beside(self) -> tuple[PlannedCall, ...]:
        return self.first[0].calls[:1] if self.first else ()


SIZES = (4, 3, 3)
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny():
    """Give tests/tiny.py, from a test or from a benchmark."""
    folder = str(Path(__file__).resolve().parents[2])
    if folder not in sys.path:
        sys.path.append(folder)
    import tiny as module

    return module


def code_planner(tools, number: int = 0, *, chat: bool = False, normalizer=None, positions: int = 8192, **options):
    """Make a planner around a tiny random model; its tokenizer has codes for ``tools`` and Finish."""
    import torch

    from toolscaler.agent.code_planner import CodePlanner
    from toolscaler.embedding import initialize_code_embeddings
    from toolscaler.tokenization import ToolscalerTokenizer

    names = [*tools, FINISH_TOOL]
    rows = np.random.default_rng(number).choice(np.prod(SIZES), len(names), replace=False)
    base = tiny().tiny_tokenizer(chat_template=CHAT if chat else None)
    if normalizer is not None:
        base.backend_tokenizer.normalizer = normalizer
    if chat:
        base.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer = ToolscalerTokenizer.from_tokenizer(
        base, codes=np.stack(np.unravel_index(rows, SIZES), 1), tool_ids=names, code_sizes=SIZES
    )
    model = tiny().tiny_model("llama", tokenizer, seed=number)
    model.config.max_position_embeddings = positions
    initialize_code_embeddings(model, tokenizer, init="random")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(6.0)
    return CodePlanner(model, tokenizer, **{"max_thought_tokens": 6, "max_argument_tokens": 12, **options})
