"""Settings of the gist compressor, as a Hugging Face configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from toolscaler.data.documents import TASK_FIELDS
from toolscaler.errors import CompressionError

#: Name of the generation task (section 4.1, j > r): a query that the tool answers.
QUERY_TASK = "query"

#: What a model folder may hold: the whole network, an adapter with the rows, or the rows alone.
WEIGHT_FORMS: tuple[str, ...] = ("model", "adapter", "rows")

_KNOWN_TASKS: tuple[str, ...] = (*TASK_FIELDS, QUERY_TASK)
_DEFAULT_CONTENT_LENGTH = 1024
_DEFAULT_TARGET_LENGTH = 256


def resolve_task_names(num_tasks: int | None, task_names: Sequence[str] | None) -> tuple[str, ...]:
    """Give the task names for a number of tasks: the document fields in the paper's order, then ``query``.

    Args:
        num_tasks: Number m of task indicators; ``None`` takes it from ``task_names``.
        task_names: Explicit names, one a task indicator; ``None`` takes the first ``num_tasks`` known ones.

    Returns:
        The m names.

    Raises:
        CompressionError: The names are not unique, not ``num_tasks`` of them, or cannot be guessed.
    """
    if task_names is None:
        count = len(TASK_FIELDS) if num_tasks is None else num_tasks
        if not 1 <= count <= len(_KNOWN_TASKS):
            raise CompressionError(
                f"num_tasks: got {count}, expected 1 to {len(_KNOWN_TASKS)}; name further tasks with task_names=[...]"
            )
        return _KNOWN_TASKS[:count]
    names = tuple(task_names)
    if not names or len(set(names)) != len(names) or not all(isinstance(name, str) and name for name in names):
        raise CompressionError(f"task_names: got {list(names)}, expected distinct names, at least one")
    if num_tasks is not None and num_tasks != len(names):
        raise CompressionError(f"task_names: got {len(names)} names for num_tasks={num_tasks}")
    return names


class GistConfig(PretrainedConfig):
    """Configuration of :class:`~toolscaler.compression.GistForToolCompression` (section 4.1).

    Attributes:
        backbone_config: Configuration of the causal language model that compresses.
        num_gist_tokens: Number V of gist tokens a document (the Token block; paper: 2).
        num_tasks: Number m of task indicators (paper: 4).
        task_names: What each task indicator stands for, in order.
        max_content_length: Documents longer than this many tokens are cut at the end.
        max_target_length: Targets longer than this many tokens are cut at the end.
        base_model_name_or_path: Where the backbone came from; empty for a model made on the spot.
        base_fingerprint: Checksum of the backbone's weights as they came from there; empty where it is not needed.
        weights: What the model folder holds (:data:`WEIGHT_FORMS`).

    Raises:
        CompressionError: A number is below one, or the task names do not fit.
    """

    model_type = "toolscaler_gist"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012 - the attribute that transformers reads

    def __init__(
        self,
        backbone_config: dict[str, Any] | PretrainedConfig | None = None,
        num_gist_tokens: int = 2,
        num_tasks: int | None = None,
        task_names: Sequence[str] | None = None,
        max_content_length: int | None = None,
        max_target_length: int | None = None,
        base_model_name_or_path: str = "",
        base_fingerprint: str = "",
        weights: str = "model",
        **kwargs: Any,
    ) -> None:
        backbone = AutoConfig.for_model(**backbone_config) if isinstance(backbone_config, dict) else backbone_config
        names = resolve_task_names(num_tasks, task_names)
        if num_gist_tokens < 1:
            raise CompressionError(f"num_gist_tokens: got {num_gist_tokens}, expected at least 1")
        if weights not in WEIGHT_FORMS:
            raise CompressionError(f"weights: got {weights!r}, expected one of {list(WEIGHT_FORMS)}")
        self.backbone_config: PretrainedConfig | None = backbone
        self.num_gist_tokens = num_gist_tokens
        self.num_tasks = len(names)
        self.task_names = list(names)
        self.base_model_name_or_path = base_model_name_or_path
        self.base_fingerprint = base_fingerprint
        self.weights = weights
        room = _max_positions(backbone)
        self.max_content_length = _length(
            "max_content_length", max_content_length, _DEFAULT_CONTENT_LENGTH, room, num_gist_tokens
        )
        self.max_target_length = _length(
            "max_target_length", max_target_length, _DEFAULT_TARGET_LENGTH, room, num_gist_tokens
        )
        # The base class hands attn_implementation on to the sub-configuration. Without a value it would erase the
        # backbone's, and transformers then builds no causal mask at all: a bidirectional model, without an error.
        kwargs.setdefault("attn_implementation", getattr(backbone, "_attn_implementation", None))
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)

    def get_text_config(self, *args: Any, **kwargs: Any) -> PretrainedConfig:
        """Give the configuration that holds vocabulary and hidden size: the backbone's."""
        if self.backbone_config is None:
            return self
        return self.backbone_config.get_text_config(*args, **kwargs)


def _max_positions(backbone_config: PretrainedConfig | None) -> int | None:
    """Give the longest sequence that the backbone's configuration names, if it names one."""
    if backbone_config is None:
        return None
    return getattr(backbone_config.get_text_config(), "max_position_embeddings", None)


def _length(key: str, value: int | None, default: int, max_positions: int | None, num_gist_tokens: int) -> int:
    """Resolve a length in tokens: a default shrinks to what the backbone's positions leave, a given value must fit."""
    # One more than the gists: the task indicator stands beside them in the second pass.
    room = None if max_positions is None else max_positions - num_gist_tokens - 1
    if value is None:
        value = default if room is None else min(default, room)
    elif room is not None and value > room:
        raise CompressionError(f"{key}: got {value}, expected at most {room}: the base has {max_positions} positions")
    if value < 1:
        raise CompressionError(f"{key}: got {value}, expected at least 1")
    return int(value)


AutoConfig.register(GistConfig.model_type, GistConfig, exist_ok=True)
