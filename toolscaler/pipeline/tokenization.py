"""The tokenization strategy of a run: which one, what it needs of earlier stages, and what it does not go with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolscaler.errors import ConfigError
from toolscaler.pipeline.config import RunConfig, TokenizationSection

if TYPE_CHECKING:
    from toolscaler.pipeline.stages import Run
    from toolscaler.tokenization.strategies import TokenizationStrategy, TokenizedCatalogue

DEFAULT = TokenizationSection().strategy


def is_default(config: RunConfig) -> bool:
    """Say whether tools get codes of a codebook, as in the paper."""
    return config.tokenization.strategy == DEFAULT


def left_out(config: RunConfig, stage: str) -> dict[str, Any] | None:
    """Say why a strategy leaves out ``compress``, ``encode`` or ``codebook``; ``None`` where it does not."""
    name = config.tokenization.strategy
    if is_default(config):
        return None
    if not _strategy(config).needs_embeddings:
        return {"left_out": f"the strategy {name!r} needs no gist embeddings"}
    return {"left_out": f"the strategy {name!r} makes its own clusters"} if stage == "codebook" else None


def check_tokenization_settings(config: RunConfig) -> None:
    """Check the section ``tokenization`` before anything runs.

    Raises:
        ConfigError: An option is unknown or not allowed, or another section asks for what the strategy has not.
    """
    name, options = config.tokenization.strategy, config.tokenization.options
    if is_default(config):
        if options:
            raise ConfigError("tokenization.options", options, "none: the codebook has a section of its own")
        return
    strategy = _strategy(config)
    if config.embedding.start_from == "compressor" and not strategy.needs_embeddings:
        raise ConfigError("embedding.start_from", "compressor", f"'base': {name!r} leaves the compressor out")
    if config.rounds.count > 1:
        raise ConfigError("rounds.count", config.rounds.count, f"1: {name!r} has no codes that rounds could change")
    if config.evaluation.scores == "group" and not _has_groups(strategy):
        raise ConfigError("evaluation.scores", "group", f"'full': {name!r} has no code tokens of one length")
    if config.data.trajectories is not None and not _has_groups(strategy):
        raise ConfigError(
            "data.trajectories",
            config.data.trajectories,
            f"none: agents need code tokens and sequences of one length, which {name!r} has not with these options",
        )


def _has_groups(strategy: TokenizationStrategy) -> bool:
    """Say whether every tool has one token of each position's own."""
    return strategy.name == "atomic" or (strategy.name == "numerical" and getattr(strategy, "tokens", "") == "own")


def tokenize_run(run: Run, base_tokenizer: Any) -> tuple[TokenizedCatalogue, Any]:
    """Give a run's tools their sequences.

    Returns:
        The catalogue, and the gist embeddings, or ``None`` where the strategy needs none.
    """
    from toolscaler.tokenization.strategies import ToolscalerStrategy

    default = is_default(run.config)
    strategy = ToolscalerStrategy(codebook=run.load_codebook()) if default else _strategy(run.config)
    embeddings = run.load_embeddings() if strategy.needs_embeddings else None
    template = run.config.embedding.retrieval_template
    return strategy.tokenize(run.documents, base_tokenizer, embeddings, retrieval_template=template), embeddings


def _strategy(config: RunConfig) -> TokenizationStrategy:
    from toolscaler.tokenization.strategies import make_strategy

    try:
        return make_strategy(config.tokenization.strategy, config.tokenization.options)
    except ConfigError as error:
        raise ConfigError(f"tokenization.options ({error.key})", error.value, error.expected) from error
