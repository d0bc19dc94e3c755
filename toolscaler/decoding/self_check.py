"""Find out, once a model, whether a tree of tokens behind a prompt gives what plain forwards give."""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Any

import numpy as np
import torch

from toolscaler.decoding.model_adapter import Capability, ModelAdapter, Prefix, unwrapped
from toolscaler.prompt_attention import both_ways_mask, reads_both_ways

logger = logging.getLogger(__name__)

#: Config keys that say how far a layer looks back.
_WINDOWS = ("sliding_window", "window_size", "attention_window", "attention_chunk_size")

#: Share of the logits' range that two ways to compute them may differ by.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_ROUGH_TOLERANCE = 3e-2

_SIBLINGS = 3
_PROMPT = 9
_COLUMNS = 4096  # logits that are compared, of those of a large vocabulary

_known: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], Capability]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def capability_of(model: Any, columns: int) -> Capability:
    """Give what a model allows; measured on random tokens at the first call, remembered while the model lives.

    Args:
        model: Causal LM in evaluation mode; call it without gradients.
        columns: Columns that prompt and tree will take. Where they are more than some layer looks back, the check is
            made with a prompt as long as that.
    """
    config = model.config.get_text_config()
    window = min(
        (w for w in (getattr(config, key, None) for key in _WINDOWS) if isinstance(w, int) and w > 0), default=0
    )
    length = window + _PROMPT if window and columns > window else _PROMPT
    head = unwrapped(model).get_output_embeddings()
    way = getattr(config, "_attn_implementation", None), reads_both_ways(model)
    key = (length, *way, model.dtype, str(model.device), id(head))
    with _lock:
        known = _known.setdefault(model, {})
        if key in known:
            return known[key]
        capability, sound = _checked(model, length)
        if sound:  # else look again: the weights may be mended
            known[key] = capability
    if not capability.tree:
        logger.warning(
            "%s cannot share a prompt among beams (%s): using model.generate, which is slower",
            type(unwrapped(model)).__name__,
            capability.reason,
        )
    return capability


def _checked(model: Any, length: int) -> tuple[Capability, bool]:
    """Give what the model allows, and whether its numbers say anything."""
    reason = ""
    try:
        sample = _Sample(model, length)
        hidden, sliced = _head_parts(model, sample)
    except Exception as error:  # whatever a model of unknown make raises, generate may still do
        return Capability(False, reason=_first_line(error)), True
    sound = bool(sample.plain.isfinite().any())
    for by_type in (False, True):
        capability = Capability(True, by_type, hidden, sliced)
        try:
            wrong = sample.difference(ModelAdapter(model, capability))
        except Exception as error:
            reason = reason or _first_line(error)
            continue
        if wrong is None:
            return capability, sound
        reason = wrong
    return Capability(False, reason=reason), sound


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]


def _near(got: torch.Tensor, expected: torch.Tensor, share: float = 1.0) -> bool:
    """Compare two sets of logits by the range of the second; what is not finite must be so in both."""
    tolerance = _TOLERANCE.get(expected.dtype, _ROUGH_TOLERANCE)
    got, expected = got.double(), expected.double()
    finite = expected.isfinite()
    if not torch.equal(finite, got.isfinite()):
        return False
    if not finite.any():
        return True
    real = expected[finite]
    return bool((got[finite] - real).abs().max() <= share * tolerance * (real.max() - real.min()).clamp(min=1e-6))


@torch.no_grad()
def _head_parts(model: Any, sample: _Sample) -> tuple[bool, bool]:
    """Say whether head(hidden states) gives the logits, and whether a slice of its rows gives a slice of them."""
    adapter = ModelAdapter(model, Capability(True, hidden=True, sliced=True))
    ids = torch.tensor([sample.prompts[0]], device=model.device)
    try:
        states = adapter.inner.base_model(input_ids=ids, use_cache=False, return_dict=True).last_hidden_state[0]
        states = states[-2:]
        whole = adapter.logits(states)
        expected = sample.plain[0, 0]
        if not _near(whole[-1, :: sample.step].to(expected), expected):
            return False, False
    except Exception:
        return False, False
    start, stop = whole.shape[1] // 3, whole.shape[1] // 2 + 1
    try:
        return True, _near(
            adapter.part_of_logits(states, start, stop).to(sample.plain), whole[:, start:stop].to(sample.plain)
        )
    except Exception:
        return True, False


class _Sample:
    """Two prompts, of unlike length and with two first tokens in common, and a small tree behind them.

    The tree: four siblings, a child of each, and (fed apart) a child of each of these.
    """

    def __init__(self, model: Any, length: int) -> None:
        rng = np.random.default_rng(0)
        rows = unwrapped(model).get_input_embeddings().weight.shape[0]
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if isinstance(limit, int) and limit > 0:
            length = max(4, min(length, limit - 3))
        first = rng.integers(0, rows, length)
        self.prompts = [first.tolist(), [*first[:2].tolist(), *rng.integers(0, rows, max(1, length - 5)).tolist()]]
        self.tree = rng.integers(0, rows, (3, _SIBLINGS))  # level by level
        self.model = model
        paths = [[*prompt, *self.tree[:, branch].tolist()] for prompt in self.prompts for branch in range(_SIBLINGS)]
        width = max(map(len, paths))
        ids = torch.tensor([path + path[-1:] * (width - len(path)) for path in paths], device=model.device)
        # Padded on the right, where a causal model cannot look: no mask is needed, and none can be misread.
        self.both_ways = reads_both_ways(model)
        given = {}
        if self.both_ways:
            ends = torch.tensor([[len(prompt)] for prompt in self.prompts for _ in range(_SIBLINGS)])
            given["attention_mask"] = both_ways_mask(model, torch.ones_like(ids), torch.arange(width) < ends)
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False, return_dict=True, **given).logits
        at = torch.tensor([[len(p) - 1 + d for d in range(4)] for p in self.prompts for _ in range(_SIBLINGS)])
        self.step = max(1, logits.shape[-1] // _COLUMNS)
        # (2 x siblings, 4, some of the vocabulary)
        self.plain = logits[torch.arange(len(paths), device=logits.device)[:, None], at.to(logits.device), :: self.step]

    @torch.no_grad()
    def difference(self, adapter: ModelAdapter) -> str | None:
        """Say what a tree gets wrong; ``None``: nothing."""
        got = self._by_tree(adapter, self.tree, None)
        expected = self.plain.reshape(2, _SIBLINGS, 4, -1).transpose(1, 2)  # (2, 4, siblings, vocabulary)
        if not _near(got.to(expected), expected):
            return "a tree of tokens gives other logits than plain forwards"
        # Any leak between branches, however small beside rounding: the first one must not change with the others.
        other = self.tree.copy()
        other[:, 1:] = np.roll(other[:, 1:], 1, axis=0)
        again = self._by_tree(adapter, other, None)
        if not _near(again[:, :, 0].to(expected), got[:, :, 0].to(expected), 0.3):
            return "branches of a tree are not apart"
        if self.both_ways:  # such prompts are read in one part
            return None
        prefix = adapter.read_prefix(tuple(self.prompts[0][:2]))
        if not _near(self._by_tree(adapter, self.tree, prefix).to(expected), expected):
            return "a prompt read in two parts gives other logits"
        return None

    def _by_tree(self, adapter: ModelAdapter, tree: np.ndarray, prefix: Prefix | None) -> torch.Tensor:
        """Give the logits (2, 4, siblings, vocabulary) of prompt and tree."""
        context, last = adapter.prefill(self.prompts, prefix)
        # Two levels in one forward behind the prompt, then one more behind both; a fork must leave its origin alone.
        context = context.fork()
        eye = np.eye(_SIBLINGS, dtype=bool)
        none = np.zeros_like(eye)
        both = np.block([[eye, none], [eye, eye]])
        lengths = context.lengths[:, None]
        ids = np.broadcast_to(tree[:2].reshape(-1), (2, 2 * _SIBLINGS))
        depth = np.repeat([0, 1], _SIBLINGS)
        states = [adapter.feed(context, ids, lengths + depth, np.broadcast_to(both, (2, *both.shape)))]
        third = np.hstack([eye, eye, eye])
        ids = np.broadcast_to(tree[2], (2, _SIBLINGS))
        states.append(
            adapter.feed(
                context, ids, np.broadcast_to(lengths + 2, ids.shape), np.broadcast_to(third, (2, *third.shape))
            )
        )
        found = torch.cat([last[:, None].expand(-1, _SIBLINGS, -1), *states], 1)
        return adapter.logits(found.flatten(0, 1))[:, :: self.step].reshape(2, 4, _SIBLINGS, -1)
