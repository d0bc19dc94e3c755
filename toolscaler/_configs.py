"""Configurations from strangers: what would have code loaded is refused, and of adapters all but plain LoRA."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolscaler._files import read_json
from toolscaler.errors import ArtifactError

ADAPTER_CONFIG_NAME = "adapter_config.json"
ADAPTER_NAME = "adapter_model.safetensors"

#: Largest configuration of a model or tokenizer, in bytes.
MAX_CONFIG_BYTES = 1 << 24

# Keys by which a configuration could have code loaded, or weights unpacked by another library.
_FORBIDDEN = {
    *("auto_map", "quantization_config", "attn_implementation", "_attn_implementation", "trust_remote_code"),
    *("_attn_implementation_internal", "_experts_implementation", "experts_implementation", "custom_pipelines"),
    *("custom_generate", "kernel_config", "use_kernels", "quantizer_class_name"),
}

_MODULE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
# Read here and checked below.
_CHECKED = {
    *("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "trainable_token_indices", "modules_to_save"),
    *("use_rslora", "fan_in_fan_out", "bias"),
}
# They change nothing about a trained adapter, whatever they say; the base is named elsewhere.
_IGNORED = {
    *("base_model_name_or_path", "revision", "inference_mode", "peft_version", "init_lora_weights", "task_type"),
    *("megatron_core", "qalora_group_size", "auto_mapping", "ensure_weight_tying"),
}


def read_plain_config(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that a library will configure itself by, and refuse keys that would have code loaded.

    Args:
        path: ``config.json``, ``generation_config.json`` or ``tokenizer_config.json``.

    Returns:
        Its content.

    Raises:
        ArtifactError: It is missing, too large, no JSON object, or has such a key at any depth.
    """
    data = read_json(path, what="a JSON object", max_bytes=MAX_CONFIG_BYTES)
    if not isinstance(data, dict):
        raise ArtifactError("expected a JSON object", path=path)
    found = sorted({key for key, _ in walk(data)} & _FORBIDDEN)
    if found:
        raise ArtifactError(
            f"keys {json.dumps(found)}: an artefact may not ask for code or other number formats; save it again "
            "without them",
            path=path,
        )
    return data


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield each key of nested JSON objects with its value."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            yield from one.items()
            stack.extend(one.values())
        elif isinstance(one, list):
            stack.extend(one)


@dataclass(frozen=True)
class AdapterConfig:
    """What a plain LoRA adapter's configuration says, checked.

    Attributes:
        rank: LoRA rank.
        alpha: LoRA scale.
        dropout: Dropout, for training on.
        rslora: The scale is divided by the root of the rank, not by the rank.
        fan_in_fan_out: Weights lie transposed (GPT-2).
        target_modules: Names, or ends of names, of the adapted modules.
        token_rows: Module name -> ids of its trained rows.
        modules_to_save: Names of modules saved whole.
    """

    rank: int
    alpha: float
    dropout: float
    rslora: bool
    fan_in_fan_out: bool
    target_modules: tuple[str, ...]
    token_rows: dict[str, tuple[int, ...]]
    modules_to_save: tuple[str, ...]

    @property
    def scaling(self) -> float:
        """Factor of the product of the two matrices."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


def read_adapter_config(path: str | Path) -> AdapterConfig:
    """Read peft's configuration of a LoRA adapter.

    Raises:
        ArtifactError: The file is missing or damaged, or switches on something beyond plain LoRA with trained rows;
            what it is, is named.
    """
    data = read_json(path, what="the configuration of an adapter", max_bytes=1 << 26)
    if not isinstance(data, dict) or data.get("peft_type") != "LORA":
        raise ArtifactError("expected the configuration of a LoRA adapter (peft_type LORA)", path=path)
    on = sorted(key for key, value in data.items() if key not in _CHECKED | _IGNORED and value)
    if on or data.get("bias", "none") != "none":
        raise ArtifactError(
            f"expected plain LoRA with trained rows, got {json.dumps(on or ['bias'])[:200]} switched on; train without "
            "it, or merge the adapter and save the whole model",
            path=path,
        )
    wrong = next((key for key, fits in _fits(data) if not fits), None)
    if wrong is not None:
        raise ArtifactError(f"{wrong}: got {json.dumps(data.get(wrong))[:200]}, which no adapter has", path=path)
    rows = data.get("trainable_token_indices") or {}
    return AdapterConfig(
        rank=data["r"],
        alpha=float(data["lora_alpha"]),
        dropout=float(data.get("lora_dropout", 0.0)),
        rslora=bool(data.get("use_rslora")),
        fan_in_fan_out=bool(data.get("fan_in_fan_out")),
        target_modules=tuple(sorted(data["target_modules"])),
        token_rows={name: tuple(ids) for name, ids in rows.items()},
        modules_to_save=tuple(data.get("modules_to_save") or ()),
    )


def _fits(data: dict[str, Any]) -> list[tuple[str, bool]]:
    """Say of each checked key whether its value can be."""
    rows = data.get("trainable_token_indices") or {}
    return [
        ("r", _whole(data.get("r"), 1, 1 << 16)),
        ("lora_alpha", _number(data.get("lora_alpha"), 1e-6, 1e6)),
        ("lora_dropout", _number(data.get("lora_dropout", 0.0), 0.0, 1.0)),
        ("target_modules", _names(data.get("target_modules"), 1)),
        ("modules_to_save", _names(data.get("modules_to_save") or [], 0)),
        ("use_rslora", data.get("use_rslora") in (None, False, True)),
        ("fan_in_fan_out", data.get("fan_in_fan_out") in (None, False, True)),
        ("trainable_token_indices", isinstance(rows, dict) and len(rows) <= 4 and all(map(_rows_fit, *_split(rows)))),
    ]


def _split(rows: dict[str, Any]) -> tuple[list[str], list[Any]]:
    return list(rows), list(rows.values())


def _rows_fit(name: str, ids: Any) -> bool:
    whole = isinstance(ids, list) and len(ids) <= 1 << 24 and all(_whole(index, 0, 1 << 24) for index in ids)
    return whole and _MODULE.fullmatch(name) is not None and len(set(ids)) == len(ids)


def _names(values: Any, least: int) -> bool:
    if not isinstance(values, list) or not least <= len(values) <= 1 << 16:
        return False
    return all(isinstance(value, str) and len(value) <= 200 and _MODULE.fullmatch(value) for value in values)


def _whole(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value < high


def _number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high
