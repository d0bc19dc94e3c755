"""What a stage needs: sizes of a model in, bytes of weights, gradients, optimizer, activations and disk out.

Formulas, with P the weights of the model with its code rows, T those that are trained, W the processes, and per process
B rows of S tokens at once:

- mixed precision (bf16, no DeepSpeed): weights 4 P and a copy of 2 bytes for the products, gradients 4 T, AdamW 8 T.
  Data-parallel processes hold another 4 T, the buckets that gradients travel in.
- DeepSpeed: weights 2 P, gradients 2 T, float32 weights and AdamW 12 T; ZeRO-1 gives each process 1/W of the last,
  ZeRO-2 of the gradients too, ZeRO-3 of the weights too (and one layer whole). With offload, all of that lies in main
  memory, cut W ways, and the GPU holds two layers. FSDP2: all of the mixed-precision terms 1/W, and one layer whole.
- activations: a layer keeps ``10 D + 2 D_kv + 4 I`` numbers a token for the backward pass (two norms, query, key,
  value, attention's result, two sums, gate, up, their product; D_kv: width of keys), and with LoRA the input of each
  matrix, which is among them; checkpointing keeps D and one layer's rest. Numbers have 2 bytes under bf16, else 4.
  Attention scores are not kept (sdpa, FlashAttention).
- logits: 3 numbers of 4 bytes for each position with a label and each word (logits, log-softmax, gradient), and under
  bf16 one of 2 bytes.

A GPU's allocator and its kernels take more: :data:`OVERHEAD` is added for them. Estimates are meant to choose a
configuration, and hold within a factor of 1.5 where they were measured (float32 on a CPU).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from toolscaler.errors import ConfigError

#: Bytes a process on a GPU holds beside its tensors: context, kernels, and fragments of the allocator's blocks.
OVERHEAD = 2 << 30
#: Configurations from the fastest to the one that needs least.
ORDER = ("single_gpu", "multi_gpu", "zero1", "zero2", "fsdp2", "zero3", "zero3_offload")


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a causal language model, from its configuration alone.

    Attributes:
        parameters: All weights, code rows left out; tied ones once.
        layers: Decoder layers.
        hidden: D.
        keys: Width of the keys of all key heads, D_kv.
        inner: Width of the feed-forward network, I.
        vocabulary: Rows of the embedding.
        tied: Whether the head shares the embedding.
        linear_widths: Sum of input and output widths of all matrices in the layers: LoRA of rank r trains r times it.
    """

    parameters: int
    layers: int
    hidden: int
    keys: int
    inner: int
    vocabulary: int
    tied: bool
    linear_widths: int

    def with_rows(self, rows: int) -> ModelSizes:
        """Give the sizes after ``rows`` more words."""
        matrices = 1 if self.tied else 2
        more = rows * self.hidden * matrices
        return replace(self, parameters=self.parameters + more, vocabulary=self.vocabulary + rows)

    @property
    def layer(self) -> int:
        """Weights of one layer, about."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return max(0, self.parameters - embeddings) // max(1, self.layers)


@dataclass(frozen=True)
class Workload:
    """What a stage does at once on one process.

    Attributes:
        rows: Rows of a micro-batch.
        tokens: Tokens of a row.
        labels: Positions of a row that have labels.
        trained: Trained weights; ``None``: all.
        checkpointing: Whether activations are computed again in the backward pass.
        bf16: Whether products are in bfloat16.
        gradients: Whether there is a backward pass.
        frozen_copies: Weights of further models that are kept whole and never trained.
    """

    rows: int
    tokens: int
    labels: int
    trained: int | None = None
    checkpointing: bool = False
    bf16: bool = True
    gradients: bool = True
    frozen_copies: int = 0


@dataclass(frozen=True)
class Need:
    """Bytes that one process needs on its device, by kind; ``main_memory`` beside it, for offloaded states."""

    weights: int
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    overhead: int = 0
    main_memory: int = field(default=0, compare=False)

    @property
    def total(self) -> int:
        """Bytes on the device."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.overhead

    def to_dict(self) -> dict[str, int]:
        """Give all fields and the total."""
        names = ("weights", "gradients", "optimizer", "activations", "overhead", "main_memory", "total")
        return {name: int(getattr(self, name)) for name in names}


def model_sizes(model: str, *, trust_remote_code: bool = False) -> ModelSizes:
    """Read a model's configuration; its weights are neither read nor fetched.

    Args:
        model: Folder or Hub id.
        trust_remote_code: Passed on to transformers.

    Raises:
        ConfigError: There is no configuration of a causal language model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigError("model", model, f"a causal language model's folder or Hub id: {error}") from error
    return sizes_of(skeleton)


def sizes_of(model: Any) -> ModelSizes:
    """Give the sizes of a model; it may be on the meta device."""
    import torch

    config = model.config.get_text_config()
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is None or head.weight is embedding.weight or bool(config.tie_word_embeddings)
    parameters = sum({id(weight): weight.numel() for weight in model.parameters()}.values())
    if tied and head is not None and head.weight is not embedding.weight:
        parameters -= head.weight.numel()  # tied when weights are loaded, not yet in a skeleton
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    heads = getattr(config, "num_attention_heads", 1)
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return ModelSizes(
        parameters=parameters,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        keys=key_heads * width,
        inner=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        vocabulary=embedding.weight.shape[0],
        tied=tied,
        linear_widths=sum(m.in_features + m.out_features for m in linear),
    )


def activation_bytes(sizes: ModelSizes, work: Workload) -> int:
    """Give the bytes that a micro-batch keeps for its backward pass, logits among them (formulas above)."""
    size = 2 if work.bf16 else 4
    tokens = work.rows * work.tokens
    layer = tokens * (10 * sizes.hidden + 2 * sizes.keys + 4 * sizes.inner) * size
    if not work.gradients:
        return 2 * layer + work.rows * work.labels * sizes.vocabulary * 4
    kept = sizes.layers * tokens * sizes.hidden * size + layer if work.checkpointing else sizes.layers * layer
    logits = work.rows * work.labels * sizes.vocabulary * (12 + (2 if work.bf16 else 0))
    return kept + logits


def need(sizes: ModelSizes, work: Workload, config: str = "single_gpu", processes: int = 1) -> Need:
    """Give what one process needs under a packaged configuration (formulas above).

    Args:
        sizes: The model, code rows included.
        work: What is done at once.
        config: Name of a packaged accelerate configuration; ``cpu`` counts as data parallel, without overhead.
        processes: W.

    Raises:
        ConfigError: There are no formulas for ``config``.
    """
    if config not in (*ORDER, "cpu"):
        raise ConfigError("config", config, f"one of {', '.join((*ORDER, 'cpu'))}")
    total, extra = sizes.parameters, work.frozen_copies * (2 if work.bf16 else 4)
    trained = (total if work.trained is None else work.trained) if work.gradients else 0
    held = total + (trained if work.trained is not None else 0)  # an adapter's weights come on top
    common = Need(0, activations=activation_bytes(sizes, work), overhead=0 if config == "cpu" else OVERHEAD)
    if config in ("single_gpu", "multi_gpu", "cpu", "fsdp2"):
        weights = 4 * held + (2 * held if work.bf16 else 0)
        buckets = 4 * trained if config in ("multi_gpu", "cpu") and processes > 1 else 0
        share = processes if config == "fsdp2" else 1
        whole = 6 * 2 * sizes.layer if config == "fsdp2" else 0
        return replace(
            common,
            weights=weights // share + whole + extra,
            gradients=4 * trained // share + buckets,
            optimizer=8 * trained // share,
        )
    size = 2 if work.bf16 else 4
    states = 12 * trained if work.bf16 else 8 * trained
    cut = {"zero1": (1, 1), "zero2": (1, processes)}.get(config, (processes, processes))
    weights, gradients, optimizer = size * held // cut[0], size * trained // cut[1], states // processes
    if config == "zero3_offload":
        moved = weights + gradients + optimizer
        return replace(common, weights=2 * size * sizes.layer + extra, main_memory=moved)
    if config == "zero3":
        weights += size * sizes.layer
    return replace(common, weights=weights + extra, gradients=gradients, optimizer=optimizer)


def fitting(
    sizes: ModelSizes, work: Workload, gpus: int, memory: int
) -> tuple[str | None, Workload, Mapping[str, Need]]:
    """Choose the first configuration of :data:`ORDER` that fits; gradient checkpointing comes before offloading.

    Args:
        sizes: The model, code rows included.
        work: What is done at once on a process.
        gpus: How many GPUs there are; 0: a CPU.
        memory: Bytes of each, or of the machine without GPUs.

    Returns:
        Its name, ``None`` where none fits; the work, with ``checkpointing`` where that was needed; and the needs under
        each configuration that this number of GPUs can use.
    """
    usable = ["cpu"] if gpus == 0 else ["single_gpu", "zero3_offload"] if gpus == 1 else list(ORDER[1:])
    works = [work] if work.checkpointing or not work.gradients else [work, replace(work, checkpointing=True)]
    for offloads in (False, True):
        for tried in works:
            needs = {name: need(sizes, tried, name, max(1, gpus)) for name in usable}
            for name, found in needs.items():
                if name.endswith("_offload") == offloads and found.total <= memory:
                    return name, tried, needs
    return None, works[-1], needs
