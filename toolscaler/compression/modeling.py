"""The gist compressor (section 4.1): a causal language model that squeezes a document into V vectors.

One training sample of the paper has four blocks, and this mask between them (rows attend to columns)::

                 Content   Token   Placeholder   Task
    Content      causal      -          -          -
    Token          x      causal        -          -
    Placeholder    -         -       causal        -
    Task           -         -          x       causal

The Placeholder's inputs are the Token block's last-layer outputs, so two passes of the network are needed anyway; and
since no block of one pass may look into the other, two plain causal passes are the mask, exactly::

    pass 1   [Content ; Token]                 -> h = outputs at Token, (B, V, D)
    pass 2   [h as inputs ; t_j ; target a_j]  -> logits of a_j

No 4-D mask is built, so that every attention implementation fits, and Task cannot reach Content by construction. Pass 1
runs once for all the m targets of a document.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import ModelOutput

from toolscaler.compression import persistence
from toolscaler.compression.configuration import GistConfig
from toolscaler.compression.functional import embedding_statistics, target_loss
from toolscaler.errors import CompressionError

if TYPE_CHECKING:
    import numpy as np

    from toolscaler.data.documents import ToolDocument


@dataclass
class CompressionOutput(ModelOutput):
    """What :meth:`GistForToolCompression.forward` returns.

    Attributes:
        loss: Cross-entropy over target tokens, a scalar in float32.
        logits: Prediction of each target token, ``labels.shape + (vocabulary,)``.
        gist_outputs: Gist embeddings h, ``(B, V, D)``.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    gist_outputs: Tensor | None = None


class GistForToolCompression(PreTrainedModel):
    """A causal language model with V gist embeddings and m task embeddings (section 4.1).

    Make one with :meth:`from_base_model`, train it with :func:`toolscaler.training.compression_trainer` and use it with
    :func:`toolscaler.compression.encode_documents` (or :meth:`encode`).

    Attributes:
        backbone: Any ``AutoModelForCausalLM`` that takes ``inputs_embeds``.
        gist_embeddings: Input embeddings of the Token block, ``(V, D)``.
        task_embeddings: Task indicators t_j, ``(m, D)``.
        save_base: What :meth:`save_pretrained` does where its own ``save_base`` is not given.
    """

    save_base: bool | None = None
    config_class = GistConfig
    base_model_prefix = "backbone"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    # The Trainer counts the target tokens of the whole accumulated batch and hands the number in.
    accepts_loss_kwargs = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    # The trained rows are few and learn at a high rate: half precision would round their updates away.
    _keep_in_fp32_modules_strict = ("gist_embeddings", "task_embeddings")

    def __init__(self, config: GistConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if backbone is None and config.backbone_config is None:
            raise CompressionError("backbone_config: expected the configuration of a causal language model, got None")
        hidden_size = config.get_text_config().hidden_size
        # The backbone first: transformers takes the first parameter's dtype for the model's.
        self.backbone = AutoModelForCausalLM.from_config(config.backbone_config) if backbone is None else backbone
        self.gist_embeddings = nn.Embedding(config.num_gist_tokens, hidden_size, dtype=torch.float32)
        self.task_embeddings = nn.Embedding(config.num_tasks, hidden_size, dtype=torch.float32)
        parameters = inspect.signature(self.backbone.base_model.forward).parameters
        self._takes_position_ids = "position_ids" in parameters
        if "inputs_embeds" not in parameters:
            name = type(self.backbone).__name__
            raise CompressionError(f"base model: {name} takes no inputs_embeds; expected a causal model that does")
        self.post_init()

    # ---- construction ----

    @classmethod
    def from_base_model(
        cls,
        base: PreTrainedModel | str | Path,
        num_gist_tokens: int = 2,
        num_tasks: int | None = None,
        *,
        task_names: Sequence[str] | None = None,
        max_content_length: int | None = None,
        max_target_length: int | None = None,
        seed: int = 0,
        **base_kwargs: Any,
    ) -> GistForToolCompression:
        """Put gist and task embeddings on a causal language model.

        The new rows are drawn from a normal distribution with the mean and standard deviation (per dimension) of the
        base's own input embeddings, as the base's layers see them.

        Args:
            base: A causal language model (used as it is, not copied), or the folder or Hub name of one.
            num_gist_tokens: Number V of gist tokens.
            num_tasks: Number m of task indicators. Default: as many as ``task_names``, or the paper's 4.
            task_names: What the tasks are: names of document fields, ``query`` for the generation task, or others of
                your own. Default: category, name, code, description, then ``query``.
            max_content_length: Tokens kept of a document. Default 1024, or what the base's positions allow.
            max_target_length: Tokens kept of a target. Default 256, or what the base's positions allow.
            seed: Seed of the new rows.
            **base_kwargs: Passed to ``AutoModelForCausalLM.from_pretrained`` where ``base`` is a name.

        Returns:
            The compressor, in evaluation mode.

        Raises:
            CompressionError: The base is no causal language model, or a number does not fit it.
        """
        fingerprint = ""
        if isinstance(base, str | Path):
            base, fingerprint = persistence.load_base(base, base_kwargs)
        elif base_kwargs:
            raise CompressionError(f"from_base_model: {sorted(base_kwargs)} go with a base given by name only")
        if not isinstance(base, PreTrainedModel) or base.get_output_embeddings() is None:
            raise CompressionError(
                f"base model: expected a causal language model or its name, got {type(base).__name__}; "
                "load it with AutoModelForCausalLM"
            )
        config = GistConfig(
            backbone_config=base.config,
            num_gist_tokens=num_gist_tokens,
            num_tasks=num_tasks,
            task_names=task_names,
            max_content_length=max_content_length,
            max_target_length=max_target_length,
            base_model_name_or_path=base.name_or_path,
            base_fingerprint=fingerprint,
            dtype=base.dtype,
        )
        model = cls(config, backbone=base)
        device = base.get_input_embeddings().weight.device
        model.gist_embeddings.to(device)
        model.task_embeddings.to(device)
        model._draw_rows(seed)
        return model.eval()

    @torch.no_grad()
    def _draw_rows(self, seed: int) -> None:
        """Fill the gist and task rows with draws that look like the base's embedded tokens."""
        mean, std = embedding_statistics(self.get_input_embeddings())
        generator = torch.Generator().manual_seed(seed)
        for table in (self.gist_embeddings, self.task_embeddings):
            noise = torch.randn(table.weight.shape, generator=generator)
            table.weight.copy_(mean + std * noise)

    @classmethod
    def from_pretrained(cls, name: str | Path, *args: Any, merge_adapter: bool = True, **kwargs: Any) -> Any:
        """Load a folder or Hub repository that :meth:`save_pretrained` wrote, whichever form it has.

        Args:
            name: Folder or Hub name.
            *args: Passed on.
            merge_adapter: Merge a saved adapter into the backbone. ``False`` keeps its layers apart.
            **kwargs: What ``PreTrainedModel.from_pretrained`` takes.

        Returns:
            The compressor, in evaluation mode.

        Raises:
            ArtifactError: The folder is incomplete, or the base it refers to has other weights now.
        """
        config = kwargs.pop("config", None) or persistence.load_config(name, kwargs)
        if config.weights == "model":
            whole = super().from_pretrained
            return persistence.load_whole(name, lambda: whole(str(name), *args, config=config, **kwargs))
        return persistence.load_on_base(cls, name, config, merge_adapter, kwargs)

    def save_pretrained(
        self, save_directory: str | Path, *args: Any, save_base: bool | None = None, **kwargs: Any
    ) -> None:
        """Save the compressor; :meth:`from_pretrained` reads it back, bit for bit.

        Args:
            save_directory: Folder.
            *args: Passed on.
            save_base: ``True`` writes the whole network. ``False`` writes the trained rows (and the adapter, if its
                layers are still apart) and refers to the base by name. Default: ``False`` where the base was loaded by
                name and its weights are still what they were, else ``True``.
            **kwargs: What ``PreTrainedModel.save_pretrained`` takes.

        Raises:
            CompressionError: ``save_base=False``, but the base has no name or was changed.
        """
        form = persistence.choose_form(self, save_base)
        self.config.weights = form
        if form == "model":
            super().save_pretrained(str(save_directory), *args, **kwargs)
        else:
            persistence.save_rows(self, Path(save_directory), form)

    # ---- what transformers asks a model for ----

    def get_input_embeddings(self) -> nn.Module:
        """Give the backbone's token embedding."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Set the backbone's token embedding."""
        self.backbone.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Give the backbone's head."""
        return self.backbone.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Set the backbone's head."""
        self.backbone.set_output_embeddings(value)

    # ---- the two passes ----

    def gist_outputs(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, readout_layers: int = 1
    ) -> Tensor:
        """Run pass 1: compress documents (section 4.1).

        Args:
            input_ids: Tokens of the documents, ``(B, S)`` int64.
            attention_mask: 1 at tokens, 0 at padding, ``(B, S)``; padding may be left or right. Default: no padding.
            readout_layers: 1 (the paper): outputs of the last layer. More: the mean over the hidden states of so many
                last layers, as transformers gives them (the last one after the final norm). Pass 2 is trained on the
                last layer's outputs alone, so this is for reading codes off, not for training.

        Returns:
            Outputs of the Token block, ``(B, V, D)``, in the backbone's dtype. A document's rows do not depend on the
            batch it is in.

        Raises:
            CompressionError: The shapes do not fit, or the backbone has fewer layers.
        """
        if readout_layers < 1:
            raise CompressionError(f"readout_layers: expected at least 1, got {readout_layers}")
        if input_ids.ndim != 2:
            raise CompressionError(f"input_ids: expected shape (B, S), got {tuple(input_ids.shape)}")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if attention_mask.shape != input_ids.shape:
            raise CompressionError(
                f"attention_mask: expected shape {tuple(input_ids.shape)}, got {tuple(attention_mask.shape)}"
            )
        attention_mask = attention_mask.to(torch.long)
        # Padding goes to the left, whichever side it came from: the gists then follow the last token directly, as
        # they would alone, also for models that count distances in places and not in positions (sliding windows).
        order = torch.argsort(attention_mask, dim=1, stable=True)
        input_ids, attention_mask = input_ids.gather(1, order), attention_mask.gather(1, order)
        content = self.get_input_embeddings()(input_ids)
        gists = self._rows(self.gist_embeddings, content).expand(len(content), -1, -1)
        mask = torch.cat([attention_mask, attention_mask.new_ones(gists.shape[:2])], dim=1)
        keys: dict[str, Any] = {}
        if self._takes_position_ids:
            keys["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        outputs = self.backbone.base_model(
            inputs_embeds=torch.cat([content, gists], dim=1),
            attention_mask=mask,
            use_cache=False,
            output_hidden_states=readout_layers > 1,
            **keys,
        )
        if readout_layers == 1:
            return outputs.last_hidden_state[:, -self.config.num_gist_tokens :]
        layers = outputs.hidden_states[1:]  # the first are the input embeddings
        if readout_layers > len(layers):
            raise CompressionError(f"readout_layers: expected at most the {len(layers)} layers, got {readout_layers}")
        return torch.stack([layer[:, -self.config.num_gist_tokens :] for layer in layers[-readout_layers:]]).mean(0)

    def target_logits(self, gist_outputs: Tensor, labels: Tensor, task_ids: Tensor) -> Tensor:
        """Run pass 2: predict targets from gist outputs and task indicators alone.

        Args:
            gist_outputs: ``(R, V, D)``, one block a target.
            labels: Target tokens, ``(R, T)`` int64, padded on the right with -100.
            task_ids: Task of each target, ``(R,)`` int64.

        Returns:
            Logits of each target token, ``(R, T, vocabulary)``.
        """
        # The last target token is predicted, never read. Padding stands right of everything that counts, where a
        # causal model cannot see it: no mask is needed.
        targets = self.get_input_embeddings()(labels[:, :-1].clamp(min=0))
        placeholder = gist_outputs.to(device=targets.device, dtype=targets.dtype)
        tasks = self._rows(self.task_embeddings, targets)[task_ids].unsqueeze(1)
        inputs = torch.cat([placeholder, tasks, targets], dim=1)
        outputs = self.backbone(inputs_embeds=inputs, use_cache=False, logits_to_keep=labels.shape[1])
        return outputs.logits

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        task_ids: Tensor | None = None,
        document_index: Tensor | None = None,
        gist_outputs: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        encode_once: bool = True,
        **kwargs: Any,
    ) -> CompressionOutput:
        """Compress documents and, with ``labels``, predict their targets.

        Args:
            input_ids: Tokens of the documents, ``(B, S)`` int64. Not needed with ``gist_outputs``.
            attention_mask: 1 at tokens, 0 at padding, ``(B, S)``.
            labels: Target tokens, padded on the right with -100: ``(B, m, T)``, m targets for each document, or
                flattened ``(R, T)``.
            task_ids: Task of each target, ``labels.shape[:-1]``. Default for ``(B, m, T)`` where m is the number of
                tasks: target j is of task j.
            document_index: For flattened labels, the document of each target, ``(R,)``. Default: R / B consecutive
                targets a document.
            gist_outputs: Gist outputs to decode from, ``(B, V, D)``, in place of pass 1.
            num_items_in_batch: Number that the summed loss is divided by. Default: the target tokens of this batch.
            encode_once: Run pass 1 once a document. ``False`` runs it once a target, for the same loss at several times
                the cost (and R gist outputs); it is there to be measured and tested against.
            **kwargs: Nothing else is taken; a name that a batch should not have is an error.

        Returns:
            Loss (with ``labels``), logits and gist outputs.

        Raises:
            CompressionError: Shapes do not fit, or an unknown argument came.
        """
        if kwargs:
            raise CompressionError(f"forward: unexpected {sorted(kwargs)}")
        if (input_ids is None) == (gist_outputs is None):
            raise CompressionError("forward: expected exactly one of input_ids and gist_outputs")
        count = len(input_ids) if gist_outputs is None else len(gist_outputs)  # type: ignore[arg-type]
        if labels is None:
            gists = self.gist_outputs(input_ids, attention_mask) if gist_outputs is None else gist_outputs
            return CompressionOutput(gist_outputs=gists)
        rows, tasks, index = self._flatten(labels, task_ids, document_index, count)
        if gist_outputs is not None:
            repeated = gist_outputs.index_select(0, index)
        elif encode_once:
            gist_outputs = self.gist_outputs(input_ids, attention_mask)
            repeated = gist_outputs.index_select(0, index)
        else:
            mask = None if attention_mask is None else attention_mask[index]
            repeated = gist_outputs = self.gist_outputs(input_ids[index], mask)  # type: ignore[index]
        logits = self.target_logits(repeated, rows, tasks)
        loss = target_loss(logits, rows, num_items_in_batch)
        return CompressionOutput(loss=loss, logits=logits.view(*labels.shape, -1), gist_outputs=gist_outputs)

    def _flatten(
        self, labels: Tensor, task_ids: Tensor | None, document_index: Tensor | None, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Bring targets to rows: labels (R, T), task ids (R,) and the document of each (R,)."""
        tasks = self.config.num_tasks
        if labels.ndim == 3 and len(labels) == count and document_index is None:
            if task_ids is None and labels.shape[1] == tasks:
                task_ids = torch.arange(tasks, device=labels.device).expand(labels.shape[:2])
        elif labels.ndim != 2 or (document_index is None and len(labels) % count):
            raise CompressionError(
                f"labels: expected shape (B, m, T) or (R, T) for B={count} documents, got {tuple(labels.shape)}"
            )
        if task_ids is None or task_ids.shape != labels.shape[:-1]:
            got = None if task_ids is None else tuple(task_ids.shape)
            raise CompressionError(f"task_ids: expected shape {tuple(labels.shape[:-1])}, got {got}")
        labels, task_ids = labels.reshape(-1, labels.shape[-1]), task_ids.reshape(-1)
        if document_index is None:
            document_index = torch.arange(count, device=labels.device).repeat_interleave(len(labels) // count)
        elif document_index.shape != task_ids.shape:
            raise CompressionError(
                f"document_index: expected shape {tuple(task_ids.shape)}, got {tuple(document_index.shape)}"
            )
        return labels, task_ids, document_index

    @staticmethod
    def _rows(table: nn.Module, like: Tensor) -> Tensor:
        """Give all the rows of a table in the dtype of ``like``; called, not indexed, so that wrappers can step in."""
        count = table.num_embeddings if isinstance(table, nn.Embedding) else len(table.weight)
        return table(torch.arange(count, device=like.device)).to(like.dtype)

    # ---- checks and use ----

    @torch.no_grad()
    def check_causal(self) -> None:
        """Make sure that the backbone looks only backwards; a bidirectional one would read its targets off the input.

        Raises:
            CompressionError: The output at a position changes with a later token.
        """
        was_training = self.training
        self.eval()
        last = min(3, self.get_input_embeddings().weight.shape[0] - 1)
        ids = torch.tensor([[0, 1, 0], [0, 1, last]], device=self.device)
        hidden = self.backbone.base_model(input_ids=ids, use_cache=False).last_hidden_state.float()
        self.train(was_training)
        if not torch.allclose(hidden[0, :2], hidden[1, :2], rtol=1e-3, atol=1e-3):
            raise CompressionError(
                f"base model: {type(self.backbone).__name__} attends to later tokens; expected a causal model "
                "(encoders such as BERT need config.is_decoder = True)"
            )

    def encode(self, tokenizer: Any, documents: Sequence[ToolDocument | str], **kwargs: Any) -> np.ndarray:
        """Encode documents: :func:`toolscaler.compression.encode_documents` as a method.

        Returns:
            Gist embeddings E, ``(N, V, D)`` float32, in the order of ``documents``.
        """
        from toolscaler.compression.export import encode_documents

        return encode_documents(self, tokenizer, documents, **kwargs)


AutoModel.register(GistConfig, GistForToolCompression, exist_ok=True)
