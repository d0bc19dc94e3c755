"""Embedding: a language model and its tokenizer in, the model with rows for all code tokens out (section 4.2)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from toolscaler.errors import CodebookError, ConfigError, TokenizationError

if TYPE_CHECKING:
    from toolscaler.codebook import Codebook
    from toolscaler.tokenization import ToolscalerTokenizer
    from toolscaler.tokenization.strategies import TokenizedCatalogue

logger = logging.getLogger(__name__)

_SCALES = ("match", "none")
_INITS = ("reframe", "random", "mean")
_CHUNK = 8192
_MEAN_CHUNK = 256


@torch.no_grad()
def initialize_code_embeddings(
    model: Any,
    tokenizer: ToolscalerTokenizer,
    embeddings: np.ndarray | torch.Tensor | None = None,
    *,
    codebook: Codebook | None = None,
    scale: str = "match",
    init: str = "reframe",
    seed: int = 0,
    pad_to_multiple_of: int | None = None,
    write_head: bool = True,
    level_mean: bool = False,
    sources: Sequence[Sequence[int]] | None = None,
    vectors: np.ndarray | torch.Tensor | None = None,
) -> Any:
    """Give every code token its rows in the model: the "reframe embedding" of the paper (section 4.2).

    The row of code k at level l of gist i is the mean, over the tools that carry it, of the gist output (first level)
    or of the inverse PCA of the residual that the level quantised (later levels). A code that no tool carries gets the
    inverse PCA of its centroid; without ``embeddings`` every code does. The matrices grow where needed and never
    shrink. Rows of other tokens keep every bit; rows that growing adds and no code owns (padding) get the mean of the
    old rows.

    All V·L levels are written, to the input embeddings and, where it is not tied to them, to the output head; a bias of
    the head gets the mean of the old biases there. With ``scale="match"`` each row keeps its direction and gets the
    mean norm of the old rows of the matrix that it is written to: input rows that of the input rows, head rows that of
    the head rows. With ``scale="none"`` both get the vector itself. Input embeddings that multiply by a constant
    (Gemma) get the vector divided by it, so that the model sees the vector.

    A tokenizer whose codes are tokens of the base has no rows of its own: then nothing is written but rows that the
    model may lack for its vocabulary.

    Calling it again gives the same rows. Under DeepSpeed ZeRO-3 call it on every rank.

    Args:
        model: Causal language model of transformers, any floating dtype; changed in place. A PEFT wrapper comes later.
        tokenizer: Its tokenizer with code tokens.
        embeddings: Gist outputs, float (N, V, D), in the order of ``tokenizer.tool_names``, or ``None``.
        codebook: Codebook that made the codes; the tokenizer's if not given. Needed for ``init="reframe"``.
        scale: ``"match"`` or ``"none"`` (the paper's literal form).
        init: ``"reframe"``, or ``"random"``: the ablation "w/o reframe embedding", normal noise with the norm of
            ``"match"``, or with the model's ``initializer_range`` under ``scale="none"``; or ``"mean"``: the mean of
            the rows of other tokens (ToolGen's start, of the tokens of a tool's name), each matrix from its own rows.
        seed: For random rows.
        pad_to_multiple_of: Grow the matrices to a multiple of this.
        write_head: Write code rows to an untied output head too. ``False``: they get the mean of its old rows, which is
            an ablation (the paper's released code leaves the head alone).
        level_mean: See :func:`reframe_vectors`; an ablation.
        sources: For ``init="mean"``: for each code token, in id order, one or more ids of tokens of the base.
        vectors: Vectors of your own, float (num_code_tokens, D) in id order, as :func:`reframe_vectors` gives them;
            then ``init`` is not looked at.

    Returns:
        The model.

    Raises:
        ConfigError: ``scale`` or ``init`` is not one of the above, or ``sources`` does not fit.
        CodebookError: ``embeddings`` or the codebook fit neither the tokenizer nor the width of the model.
        TokenizationError: The model has no ordinary embedding matrix.
    """
    _check_choices(scale, init)
    layer = _input_embeddings(model)
    old_rows, width = _shape(layer.weight)
    count, init = tokenizer.num_code_tokens, init if vectors is None else "given"
    if init == "mean" or count == 0:
        _check_sources(sources, count, min(tokenizer.first_code_id, old_rows))
        drawn = torch.empty(0, width)
    elif vectors is not None:
        drawn = _given_vectors(vectors, count)
    elif init == "random":
        drawn = _random_vectors(model, count, width, seed)
    else:
        drawn = torch.from_numpy(reframe_vectors(tokenizer, embeddings, codebook=codebook, level_mean=level_mean))
    if drawn.shape[1] != width:
        raise CodebookError(
            f"the codebook's vectors have {drawn.shape[1]} dimensions, the model's embeddings {width}; use the model "
            "that the tools were compressed with, or one of the same width"
        )
    _grow(model, tokenizer.required_vocab_size, old_rows, pad_to_multiple_of)

    layer, head = _input_embeddings(model), model.get_output_embeddings()
    span = (tokenizer.first_code_id, old_rows)

    def write(weight: torch.Tensor, divisor: float) -> None:
        rows = drawn
        if init == "mean" and count:
            rows, divisor = _mean_rows(weight, sources or ()), 1.0
        if scale == "match":
            rows = _unit_rows(rows, seed)
        _write_rows(weight, rows, span, scale=scale, divisor=divisor)

    write(layer.weight, _embedding_scale(layer))
    if head is not None and not _tied(head.weight, layer.weight):
        if write_head:
            write(head.weight, 1.0)
        else:
            _write_mean(head.weight, count, span)
    if getattr(head, "bias", None) is not None:
        _write_bias(head.bias, count, span)
    return model


def initialize_first_rows(
    model: Any,
    catalogue: TokenizedCatalogue,
    embeddings: np.ndarray | torch.Tensor | None = None,
    *,
    scale: str = "match",
    init: str = "reframe",
    **more: Any,
) -> Any:
    """Give a model the rows that a tokenization strategy asks for (paper, section 4.2 and appendix C).

    Args:
        model: Causal language model; changed in place.
        catalogue: What the strategy gave.
        embeddings: Gist outputs, float (N, V, D); used where the strategy reframes them.
        scale: As in :func:`initialize_code_embeddings`, where the strategy has no scale of its own.
        init: ``"reframe"`` or ``"random"``, for a strategy that reframes; the others say themselves how rows start.
        **more: More arguments of :func:`initialize_code_embeddings`.

    Returns:
        The model.

    Raises:
        ConfigError, CodebookError, TokenizationError: As :func:`initialize_code_embeddings`.
    """
    rows = catalogue.first_rows
    reframes = rows.kind == "reframe"
    kind = init if reframes else "random" if rows.kind == "none" else rows.kind
    return initialize_code_embeddings(
        model,
        catalogue.tokenizer,
        embeddings if reframes else None,
        scale=rows.scale or scale,
        init=kind,
        sources=rows.sources,
        **more,
    )


def reframe_vectors(
    tokenizer: ToolscalerTokenizer,
    embeddings: np.ndarray | torch.Tensor | None = None,
    *,
    codebook: Codebook | None = None,
    level_mean: bool = False,
) -> np.ndarray:
    """Compute the vector of every code token from the tools that carry it, not scaled (paper, section 4.2).

    Args:
        tokenizer: Tokenizer whose tool index says which tool carries which code.
        embeddings: Gist outputs, float (N, V, D), in the order of ``tokenizer.tool_names``; ``None`` for the vectors
            that the codebook alone gives.
        codebook: Codebook that made the codes; the tokenizer's if not given.
        level_mean: Add the PCA mean of the gist position to the rows of later levels too. Their residuals are
            differences, which have no mean; a library's inverse PCA adds one all the same.

    Returns:
        float32 (num_code_tokens, D), in id order.

    Raises:
        CodebookError: There is no codebook, or sizes, shapes or values do not fit.
    """
    codebook = codebook if codebook is not None else tokenizer.codebook
    if codebook is None:
        raise CodebookError(
            "init='reframe' needs a codebook, and neither the tokenizer nor the call has one; pass codebook=, or use "
            "init='random'"
        )
    if tuple(codebook.code_sizes) != tokenizer.code_sizes:
        sizes = (tokenizer.code_sizes, tuple(codebook.code_sizes))
        raise CodebookError(f"expected a codebook with the tokenizer's code sizes {sizes[0]}, got {sizes[1]}")
    gists, width = codebook.num_gists, codebook.hidden_size
    if embeddings is None:
        table, codes = np.empty((0, gists, width), np.float32), np.empty((0, tokenizer.code_length), np.int32)
    else:
        table, codes = _as_float32(embeddings), tokenizer.tool_index.codes
        expected = (len(codes), gists, width)
        if table.shape != expected:
            raise CodebookError(f"embeddings: expected shape (tools, gists, width) = {expected}, got {table.shape}")
    levels = codebook.level_embeddings(table, codes)
    if level_mean:
        content = gists * codebook.num_levels
        for place in (place for place in range(content) if place % codebook.num_levels):
            levels[place] = levels[place] + codebook.pca_mean[place // codebook.num_levels]
    vectors = np.concatenate(levels).astype(np.float32, copy=False)
    if not np.isfinite(vectors).all():
        raise CodebookError("embeddings: expected finite numbers, got NaN or infinity")
    return vectors


@contextmanager
def gathered(parameters: Sequence[torch.Tensor]) -> Iterator[bool]:
    """Make parameters whole that DeepSpeed ZeRO-3 has partitioned; others are whole already.

    Args:
        parameters: Parameters to read and write inside the block.

    Yields:
        Whether this process should write: under ZeRO-3 only rank 0, whose values go to all ranks afterwards.
    """
    partitioned = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not partitioned:
        yield True
        return
    import deepspeed

    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    with deepspeed.zero.GatheredParameters(partitioned, modifier_rank=0):
        yield rank == 0


def _input_embeddings(model: Any) -> torch.nn.Embedding:
    layer = model.get_input_embeddings()
    if not isinstance(layer, torch.nn.Embedding) or layer.weight.is_meta:
        state = "on the meta device" if isinstance(layer, torch.nn.Embedding) else f"a {type(layer).__name__}"
        raise TokenizationError(
            f"the model's input embeddings are {state}, expected torch.nn.Embedding with values; load the model first, "
            "and wrap it with an adapter only after its code rows are initialised"
        )
    return layer


def _shape(weight: torch.Tensor) -> tuple[int, int]:
    """Give rows and columns; a parameter that ZeRO-3 has partitioned keeps them beside its empty self."""
    rows, columns = getattr(weight, "ds_shape", weight.shape)
    return int(rows), int(columns)


def _tied(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one is other or (one.numel() > 0 and one.data_ptr() == other.data_ptr())


def _embedding_scale(layer: torch.nn.Embedding) -> float:
    """Give the factor by which the layer multiplies its rows, as it is rounded in the forward pass."""
    factor = getattr(layer, "embed_scale", 1.0)
    return float(factor.to(layer.weight.dtype) if isinstance(factor, torch.Tensor) else factor)


def _as_float32(embeddings: np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(embeddings, torch.Tensor):
        return embeddings.detach().float().cpu().numpy()
    return np.asarray(embeddings, dtype=np.float32)


def _check_choices(scale: str, init: str) -> None:
    for key, value, allowed in (("scale", scale, _SCALES), ("init", init, _INITS)):
        if value not in allowed:
            raise ConfigError(key, value, " or ".join(map(repr, allowed)))


def _given_vectors(vectors: np.ndarray | torch.Tensor, count: int) -> torch.Tensor:
    table = _as_float32(vectors)
    if table.ndim != 2 or len(table) != count or not np.isfinite(table).all():
        raise CodebookError(
            f"vectors: expected finite numbers (code tokens, width) for {count} code tokens, got {table.shape}"
        )
    return torch.from_numpy(table.copy())


def _random_vectors(model: Any, count: int, width: int, seed: int) -> torch.Tensor:
    deviation = getattr(model.config.get_text_config(), "initializer_range", 0.02)
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * deviation


def _check_sources(sources: Sequence[Sequence[int]] | None, count: int, known: int) -> None:
    """Refuse sources of ``init="mean"`` that are not one or more known ids for each code token."""
    if count == 0:
        return
    if sources is None or len(sources) != count or not all(len(ids) for ids in sources):
        got = None if sources is None else len(sources)
        raise ConfigError("sources", got, f"one or more token ids for each of {count} code tokens")
    lowest, highest = min(map(min, sources)), max(map(max, sources))
    if lowest < 0 or highest >= known:
        raise ConfigError("sources", (lowest, highest), f"ids of the base, 0 to {known - 1}")


def _mean_rows(weight: torch.Tensor, sources: Sequence[Sequence[int]]) -> torch.Tensor:
    """Give the mean of the rows of each source, float32 (sources, width), a few sources at a time."""
    means = torch.empty(len(sources), _shape(weight)[1])
    with gathered([weight]):
        for start in range(0, len(sources), _MEAN_CHUNK):
            part = sources[start : start + _MEAN_CHUNK]
            ids = torch.tensor([token for source in part for token in source], device=weight.device)
            lengths = torch.tensor([len(source) for source in part], device=weight.device)
            owner = torch.repeat_interleave(torch.arange(len(part), device=weight.device), lengths)
            total = torch.zeros(len(part), weight.shape[1], device=weight.device)
            total.index_add_(0, owner, weight[ids].float())
            means[start : start + _MEAN_CHUNK] = (total / lengths[:, None]).cpu()
    return means


def _unit_rows(vectors: torch.Tensor, seed: int) -> torch.Tensor:
    """Scale rows to norm 1; a zero row, which has no direction, gets a random one."""
    norms = vectors.norm(dim=1, keepdim=True)
    empty = (norms == 0).squeeze(1)
    if empty.any():
        logger.warning("%d code tokens have a zero vector; their rows get random directions", int(empty.sum()))
        noise = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed))
        vectors = torch.where(empty[:, None], noise, vectors)
        norms = vectors.norm(dim=1, keepdim=True)
    return vectors / norms


def _grow(model: Any, needed: int, old_rows: int, multiple: int | None) -> None:
    """Resize the vocabulary to at least ``needed`` rows, and to a multiple if one is given; never to fewer rows."""
    rows = max(needed, old_rows)
    if multiple is not None:
        rows = -(-rows // multiple) * multiple
    if rows != old_rows:
        model.resize_token_embeddings(rows, mean_resizing=False)


def _statistics(weight: torch.Tensor, count: int) -> tuple[float, torch.Tensor]:
    """Give the mean norm and the mean of the first rows, a chunk at a time."""
    norms = 0.0
    total = torch.zeros(weight.shape[1], dtype=torch.float64)
    for start in range(0, count, _CHUNK):
        rows = weight[start : min(start + _CHUNK, count)].float()
        norms += float(rows.norm(dim=1).sum())
        total += rows.sum(dim=0).cpu().double()
    return norms / count, total / count


def _write_rows(
    weight: torch.Tensor, vectors: torch.Tensor, span: tuple[int, int], *, scale: str, divisor: float = 1.0
) -> None:
    """Write the code rows, and the mean of the old rows where growing has added rows that no code owns."""
    first, old_rows = span
    last = first + len(vectors)
    with gathered([weight]) as writes:
        norm, mean = _statistics(weight, min(first, old_rows))
        factor = norm if scale == "match" else 1.0 / divisor
        rows = (vectors * factor).to(weight.dtype)
        if not torch.isfinite(rows).all():
            raise CodebookError(f"code vectors do not fit into {weight.dtype}; use scale='match', or another dtype")
        if writes:
            weight[first:last] = rows.to(weight.device)
            for start, stop in ((old_rows, first), (max(last, old_rows), len(weight))):
                weight[start:stop] = mean.to(weight)


def _write_mean(weight: torch.Tensor, count: int, span: tuple[int, int]) -> None:
    """Give the code rows, and the rows that growing has added, the mean of the rows before."""
    first, old_rows = span
    last = first + count
    with gathered([weight]) as writes:
        _, mean = _statistics(weight, min(first, old_rows))
        if writes:
            for start, stop in ((first, last), (old_rows, first), (max(last, old_rows), len(weight))):
                weight[start:stop] = mean.to(weight)


def _write_bias(bias: torch.Tensor, count: int, span: tuple[int, int]) -> None:
    """Give the codes the mean of the old biases: no advantage over other tokens, and no disadvantage."""
    first, old_rows = span
    with gathered([bias]) as writes:
        if writes:
            mean = bias[: min(first, old_rows)].float().mean().to(bias.dtype)
            bias[first : first + count] = mean
            bias[max(first + count, old_rows) :] = mean
            bias[old_rows:first] = mean
