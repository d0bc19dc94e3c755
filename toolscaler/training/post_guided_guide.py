"""L_traj of post-guided training (section 4.2): a frozen tuned model and code rows go in, the loss comes out.

Which network does what. Gists come from the compressor alone: its backbone with the fresh stage-1 adapter, its gist and
task embeddings. L_traj comes from theta_{t-1}, the model that the last round's supervised stages ended with, frozen,
without that adapter. Its text rows and layers are its own; its rows of code tokens are replaced by those that embedding
init would write for the current codebook and the current gist outputs: so L_traj is the trajectory loss of the very
model from which the round's supervised stages will start.

The paper does not say what stands at code positions in L_traj; this is the choice here (``code_targets="current"``):

- Input: the row of the code, a mean over the tools that carry it. Its gradient goes straight through to the gist
  outputs of the tool that is mentioned, in full, whoever else carries the code.
- Label: the tool's code in the current codebook. Output head: the rows of all codes, computed in the same way. At the
  label the gradient goes straight through to the mentioned tool; elsewhere it is that of the mean, so that it reaches
  the tools of the batch that carry the code, by their share.

Rows at the head are what draws co-used tools together: two tools called from the same context have the same hidden
state behind their label, and both gist outputs move towards it. With ``code_targets="previous"`` the labels are the
old codes under theta_{t-1}'s own head, and only the input embeddings carry a gradient; a query with one tool then
teaches nothing about other tools.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from toolscaler.errors import TrainingError
from toolscaler.training.post_guided_codes import CodeRowBank, LiveRows

if TYPE_CHECKING:
    from toolscaler.tokenization import ToolscalerTokenizer

IGNORE_INDEX = -100

_CHUNK = 8192
_TINY = 1e-12
# Vectors shorter than this share of the others hold nothing but rounding.
_FLAT = 1e-4


@dataclass(frozen=True)
class _Mentions:
    """Where tools stand in a batch of rows: Q mentions of P codes each.

    Attributes:
        row: int64 (Q, 1).
        columns: int64 (Q, P).
        slots: int64 (Q,), number among the live tools, -1 for tools without gradient.
        places: int64 (Q, P), row of each code in the table.
    """

    row: Tensor
    columns: Tensor
    slots: Tensor
    places: Tensor


class FrozenGuide:
    """theta_{t-1}, frozen, as the judge of gist outputs.

    Args:
        model: Tuned causal LM with code rows. It is put into evaluation mode and frozen, in place.
        tokenizer: Its tokenizer.
        scale: ``match`` or ``none``, as in :func:`toolscaler.initialize_code_embeddings`.
        code_targets: ``current`` or ``previous``; see the module's text.
        checkpointing: Recompute activations in the backward pass.

    Raises:
        TrainingError: The model is wrapped by peft, has no output head, or fewer rows than the tokenizer needs.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: ToolscalerTokenizer,
        *,
        scale: str = "match",
        code_targets: str = "current",
        checkpointing: bool = False,
    ) -> None:
        if hasattr(model, "peft_config"):
            raise TrainingError("the tuned model: expected a plain model, got one with an adapter; merge_and_unload()")
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        if embedding is None or head is None:
            raise TrainingError(
                f"the tuned model: expected a causal LM with an output head, got {type(model).__name__}"
            )
        if len(embedding.weight) < tokenizer.required_vocab_size:
            raise TrainingError(
                f"the tuned model: expected at least {tokenizer.required_vocab_size} embedding rows for its "
                f"tokenizer's codes, got {len(embedding.weight)}"
            )
        self.model = model.eval().requires_grad_(False)
        self.first_code_id, self.code_length = tokenizer.first_code_id, tokenizer.code_length
        self.scale, self.code_targets = scale, code_targets
        # As embedding init would count them: the rows of text.
        self._input_norm = _mean_norm(embedding.weight, self.first_code_id)
        self._head_norm = _mean_norm(head.weight, self.first_code_id)
        factor = getattr(embedding, "embed_scale", 1.0)
        self._factor = float(factor.to(embedding.weight.dtype) if isinstance(factor, Tensor) else factor)
        # One matrix for both holds what is written for the input, divided by the factor.
        shared = head.weight is embedding.weight or head.weight.data_ptr() == embedding.weight.data_ptr()
        self._head_factor = 1.0 / self._factor if shared and scale == "none" else 1.0
        bias = getattr(head, "bias", None)
        self._bias = None if bias is None else bias[: self.first_code_id].float().mean()
        if checkpointing:
            _checkpoint_in_evaluation(self.model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.get_input_embeddings().weight.device

    def loss(self, batch: Mapping[str, Tensor], bank: CodeRowBank, live: LiveRows) -> tuple[Tensor, Tensor]:
        """Give L_traj of a batch (paper section 4.2).

        Args:
            batch: ``trajectory_ids``, ``trajectory_mask`` and ``trajectory_labels`` (R, S), padded on the right, in the
                ids of theta_{t-1}'s tokenizer; ``mention_row``, ``mention_start``, ``mention_tool`` and
                ``mention_slot`` (Q,): row, first column, number in the catalogue and number among the live tools (-1:
                none) of each tool mention.
            bank: The codebook with its rows.
            live: The rows of this step.

        Returns:
            Sum of the negative log-likelihoods, float32 scalar with gradient to ``live`` only, and the number of tokens
            that count, int64 scalar.
        """
        ids, labels = batch["trajectory_ids"], batch["trajectory_labels"]
        mentions = _Mentions(
            row=batch["mention_row"][:, None],
            columns=batch["mention_start"][:, None] + torch.arange(self.code_length, device=ids.device),
            slots=batch["mention_slot"],
            places=bank.places[batch["mention_tool"]],
        )
        with torch.no_grad():
            embeds = self.model.get_input_embeddings()(ids)
        embeds = embeds.index_put((mentions.row, mentions.columns), self._input_rows(mentions, live).to(embeds.dtype))
        if self.code_targets == "current":
            labels = labels.clone()
            counted = labels[mentions.row, mentions.columns] != IGNORE_INDEX
            labels[mentions.row, mentions.columns] = torch.where(
                counted, mentions.places + self.first_code_id, IGNORE_INDEX
            )
        before = nn.functional.pad(labels[:, 1:] != IGNORE_INDEX, (0, 1))  # positions whose next token counts
        targets = labels[:, 1:][before[:, :-1]]
        # Gradients of rows cross processes, so that every process must send some, even where it has nothing to say.
        nothing = live.table.sum() * 0.0
        if not len(targets):
            return nothing, before.sum()
        with self._head(before, mentions, live):
            outputs = self.model(inputs_embeds=embeds, attention_mask=batch["trajectory_mask"], use_cache=False)
        if len(outputs.logits) != len(targets):
            raise TrainingError(
                f"the tuned model: expected logits of {len(targets)} positions, got {tuple(outputs.logits.shape)}; "
                "its forward was replaced (a trainer does that): save it and load it with from_pretrained"
            )
        total = nn.functional.cross_entropy(outputs.logits.float(), targets, reduction="sum")
        return total + nothing, before.sum()

    def _scaled(self, vectors: Tensor, norm: float) -> Tensor:
        if self.scale == "none":
            return vectors
        return vectors * (norm / vectors.norm(dim=-1, keepdim=True).clamp(min=_TINY))

    def _gradient(self, vectors: Tensor, live: LiveRows, positions: Tensor, norm: float) -> Tensor:
        """Give zeros that carry the gradient of scaled vectors.

        Scaling a vector to ``norm`` multiplies gradients by ``norm`` over its length, which has no bound: a tool alone
        in its first cluster leaves a residual of nearly nothing. So one factor serves all rows of a position, that of
        their mean length. What would only change the length is left out, as in the derivative of the scaling.

        Args:
            vectors: float32 (..., D), not scaled.
            live: The rows of this step.
            positions: int64, the code position of each vector.
            norm: Length after scaling.
        """
        if self.scale == "none":
            return vectors - vectors.detach()
        factors = torch.where(live.norms > _FLAT * live.norms.max(), norm / live.norms.clamp(min=_TINY), 0.0)
        fixed = vectors.detach()
        length = fixed.norm(dim=-1, keepdim=True)
        pointing = length > _FLAT * live.norms[positions][..., None]  # else the direction is rounding too
        direction = torch.where(pointing, fixed / length.clamp(min=_TINY), 0.0)
        change = vectors - fixed
        change = change - (change * direction).sum(-1, keepdim=True) * direction
        return change * factors[positions][..., None]

    def _straight_through(self, mentions: _Mentions, live: LiveRows, norm: float) -> tuple[Tensor, Tensor]:
        """Give the rows of the mentioned codes, (Q, P, D), without gradient, and a zero that carries the gradient."""
        rows = self._scaled(live.table.detach(), norm)[mentions.places]
        if not len(live.own):
            return rows, torch.zeros_like(rows)
        places = torch.arange(live.own.shape[1], device=rows.device).expand(live.own.shape[:2])
        zero = self._gradient(live.own, live, places, norm)[mentions.slots.clamp(min=0)]
        return rows, zero * (mentions.slots >= 0)[:, None, None]

    def _input_rows(self, mentions: _Mentions, live: LiveRows) -> Tensor:
        rows, zero = self._straight_through(mentions, live, self._input_norm)
        # With scale="none" the row is written divided by the layer's factor, so that the model sees the vector itself.
        return (rows + zero) * (self._factor if self.scale == "match" else 1.0)

    @contextmanager
    def _head(self, before: Tensor, mentions: _Mentions, live: LiveRows) -> Iterator[None]:
        """Let the output head see the counted positions alone, and give it the current rows of the codes."""
        head = self.model.get_output_embeddings()
        hooks = [head.register_forward_pre_hook(lambda _, given: (given[0][before], *given[1:]))]
        if self.code_targets == "current":
            hooks.append(head.register_forward_hook(_CodeColumns(self, before, mentions, live)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class _CodeColumns:
    """Forward hook of the head: its columns of codes are computed from the rows of this step."""

    def __init__(self, guide: FrozenGuide, before: Tensor, mentions: _Mentions, live: LiveRows) -> None:
        self.guide = guide
        table = guide._scaled(live.table.detach(), guide._head_norm)
        table = table + guide._gradient(live.table, live, live.positions, guide._head_norm)
        self.table = table * guide._head_factor
        self.zero = guide._straight_through(mentions, live, guide._head_norm)[1] * guide._head_factor
        # Number of (mention, position) behind each counted position, -1 for text.
        numbers = torch.arange(mentions.places.numel(), device=before.device).view(mentions.places.shape)
        target = torch.full(before.shape, -1, dtype=torch.long, device=before.device)
        target[mentions.row, mentions.columns - 1] = numbers
        self.target, self.places = target[before], mentions.places.flatten()

    def __call__(self, _: nn.Module, given: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        hidden, first, size = given[0], self.guide.first_code_id, len(self.table)
        table = self.table.to(hidden.dtype)
        codes = (hidden @ table.T).to(logits.dtype)
        if self.guide._bias is not None:
            codes = codes + self.guide._bias.to(codes.dtype)
        at = (self.target >= 0).nonzero().squeeze(1)
        places = self.places[self.target[at]]
        # Zero in value. It takes the gradient of the label's row away from the mean and gives it to the tool itself.
        mean = table[places]
        zero = self.zero.flatten(0, 1)[self.target[at]].to(hidden.dtype) - (mean - mean.detach())
        change = (hidden[at].detach() * zero).sum(-1).to(codes.dtype)
        codes = codes.index_put((at, places), change, accumulate=True)
        return torch.cat([logits[:, :first], codes, logits[:, first + size :]], dim=1)


@torch.no_grad()
def _mean_norm(weight: Tensor, count: int) -> float:
    """Mean norm of the first rows, a chunk at a time."""
    total = 0.0
    for start in range(0, count, _CHUNK):
        total += float(weight[start : min(start + _CHUNK, count)].float().norm(dim=1).sum())
    return total / max(count, 1)


def _checkpoint_in_evaluation(model: Any) -> None:
    """Switch gradient checkpointing on; transformers does it in training mode only, which must not bring dropout."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True  # of this module alone: its children stay in evaluation mode
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
