"""Small adapters: a ``PeftModel`` or an adapter's two files go in, LoRA and code rows on a base come out."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolscaler._configs import ADAPTER_CONFIG_NAME, ADAPTER_NAME, AdapterConfig, read_adapter_config
from toolscaler._files import atomic_path, write_json
from toolscaler._optional import require
from toolscaler._tensors import TensorFile, open_tensors
from toolscaler.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from toolscaler.tokenization import ToolscalerTokenizer

_LORA = re.compile(r"base_model\.model\.([A-Za-z0-9_.]+)\.lora_([AB])\.weight")
_ROWS = re.compile(r"base_model\.model\.([A-Za-z0-9_.]+)\.token_adapter\.trainable_tokens_delta")
_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class SmallAdapter:
    """An adapter's files, checked but not read.

    Attributes:
        config: What its configuration says.
        file: Its tensors.
        modules: Names of the modules with LoRA matrices.
        row_modules: Names of the modules with trained rows.
    """

    config: AdapterConfig
    file: TensorFile
    modules: tuple[str, ...]
    row_modules: tuple[str, ...]

    def read(self) -> dict[str, Tensor]:
        """Read the tensors."""
        from safetensors.torch import load_file

        return load_file(self.file.path)


def open_adapter(folder: str | Path) -> SmallAdapter:
    """Check the two files of an adapter against each other.

    Raises:
        ArtifactError: One is missing or damaged, a tensor is missing or unexpected, or has another shape than the
            configuration asks for.
    """
    root = Path(folder)
    config = read_adapter_config(root / ADAPTER_CONFIG_NAME)
    file = open_tensors(root / ADAPTER_NAME, "the tensors of an adapter")
    pairs = {match[1] for name in file.tensors if (match := _LORA.fullmatch(name))}
    rows = {match[1] for name in file.tensors if (match := _ROWS.fullmatch(name))}
    if config.modules_to_save:
        raise ArtifactError("modules_to_save: expected none, since it stores whole matrices", path=folder)
    wanted = [_lora_name(module, part) for module in pairs for part in "AB"]
    file.refuse_others([*wanted, *map(_rows_name, config.token_rows)])
    for module in pairs:
        file.expect(_lora_name(module, "A"), (config.rank, None), _FLOATS)
        file.expect(_lora_name(module, "B"), (None, config.rank), _FLOATS)
    for module, ids in config.token_rows.items():
        file.expect(_rows_name(module), (len(ids), None), _FLOATS)
    return SmallAdapter(config, file, tuple(sorted(pairs)), tuple(sorted(rows)))


def write_adapter(model: Any, tokenizer: ToolscalerTokenizer, folder: Path, base_name: str | None) -> SmallAdapter:
    """Write the adapter of a ``PeftModel``: LoRA matrices and code rows, not the embedding matrix.

    Args:
        model: A ``PeftModel`` from :func:`toolscaler.training.adapters.with_adapter`.
        tokenizer: Its tokenizer.
        folder: Where to.
        base_name: Hub id for plain peft to find the base by.

    Raises:
        ConfigError: It has several adapters, or one that does not train exactly the code rows.
        ArtifactError: It has something beyond plain LoRA.
    """
    check_adapter(model, tokenizer)
    with tempfile.TemporaryDirectory(prefix=".adapter.", dir=folder.parent) as scratch:
        model.save_pretrained(scratch, save_embedding_layers=False)
        small = open_adapter(scratch)
        tensors = small.read()
    with atomic_path(folder / ADAPTER_NAME) as temporary:
        from safetensors.torch import save_file

        save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, temporary, metadata={"format": "pt"})
    config = small.config
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if config.alpha.is_integer() else config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "fan_in_fan_out": config.fan_in_fan_out,
        "bias": "none",
        "target_modules": list(small.modules),
        "trainable_token_indices": {name: list(ids) for name, ids in sorted(config.token_rows.items())},
    }
    write_json(folder / ADAPTER_CONFIG_NAME, values, indent=None)
    return open_adapter(folder)


def check_adapter(model: Any, tokenizer: ToolscalerTokenizer) -> None:
    """Check that an adapter trains the code rows of input and head, and nothing else of the vocabulary.

    Raises:
        ConfigError: See :func:`write_adapter`.
    """
    if list(model.peft_config) != ["default"]:
        raise ConfigError("model", sorted(model.peft_config), "a PeftModel with one adapter, 'default'")
    settings = model.peft_config["default"]
    codes = list(range(tokenizer.first_code_id, tokenizer.first_code_id + tokenizer.num_code_tokens))
    rows = settings.trainable_token_indices
    advice = "rows of all codes in input and untied head, as toolscaler.training.adapters.with_adapter sets them"
    if not isinstance(rows, dict) or any(list(ids) != codes for ids in rows.values()):
        raise ConfigError("trainable_token_indices", _brief(rows), advice)
    wrapped = [
        layer
        for layer in (model.get_input_embeddings(), model.get_output_embeddings())
        if hasattr(layer, "token_adapter") or hasattr(layer, "trainable_tokens_delta")
    ]
    if len(wrapped) != 2:
        raise ConfigError("trainable_token_indices", _brief(rows), advice)


def merge_adapter(model: Any, small: SmallAdapter) -> Any:
    """Put an adapter into a model's weights, as peft's ``merge_and_unload`` would, without peft.

    Args:
        model: The base with code rows, changed in place.
        small: The adapter.

    Returns:
        The model.

    Raises:
        ArtifactError: The adapter does not fit the model.
    """
    import torch

    layers = _fitting_layers(model, small)
    tensors = small.read()
    config = small.config
    with torch.no_grad():
        for module in small.modules:
            weight = layers[module].weight
            down, up = (tensors[_lora_name(module, part)].to(weight.device) for part in "AB")
            delta = (up.float() @ down.float()) * config.scaling
            delta = (delta.T if config.fan_in_fan_out else delta).to(up.dtype)
            _refuse_infinite(delta, module, small)
            weight += delta
        for module, ids in config.token_rows.items():
            weight, rows = layers[module].weight, tensors[_rows_name(module)]
            _refuse_infinite(rows, module, small)
            weight[torch.tensor(ids, device=weight.device)] = rows.to(weight)
    return model


def attach_adapter(model: Any, small: SmallAdapter) -> Any:
    """Wrap a model with an adapter whose layers stay apart, for training on; needs peft.

    Returns:
        A ``PeftModel``.

    Raises:
        ArtifactError: The adapter does not fit the model.
        MissingDependencyError: peft is not installed.
    """
    _fitting_layers(model, small)
    peft = require("peft", extra="train", purpose="an adapter that is not merged")
    config = small.config
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=config.rslora,
        fan_in_fan_out=config.fan_in_fan_out,
        target_modules=list(small.modules),
        trainable_token_indices={name: list(ids) for name, ids in config.token_rows.items()},
    )
    wrapped = peft.get_peft_model(model, settings)
    peft.set_peft_model_state_dict(wrapped, small.read())
    return wrapped


def _fitting_layers(model: Any, small: SmallAdapter) -> dict[str, Any]:
    """Find the layers that an adapter names and compare shapes, before a tensor is read."""
    layers = dict(model.named_modules())
    for module in (*small.modules, *small.config.token_rows):
        shape = tuple(getattr(getattr(layers.get(module), "weight", None), "shape", ()))
        if len(shape) != 2:
            raise ArtifactError(
                f"expected a model with a matrix {module!r:.200}, {type(model).__name__} has none; the adapter belongs "
                "on another base",
                path=small.file.path,
            )
        if module in small.modules:
            wanted = shape[::-1] if small.config.fan_in_fan_out else shape
            small.file.expect(_lora_name(module, "A"), (small.config.rank, wanted[1]), _FLOATS)
            small.file.expect(_lora_name(module, "B"), (wanted[0], small.config.rank), _FLOATS)
        else:
            ids = small.config.token_rows[module]
            small.file.expect(_rows_name(module), (len(ids), shape[1]), _FLOATS)
            if max(ids, default=0) >= shape[0]:
                raise ArtifactError(f"rows of {module!r:.200}: expected ids below {shape[0]}", path=small.file.path)
    return layers


def _refuse_infinite(values: Any, module: str, small: SmallAdapter) -> None:
    if not bool(values.isfinite().all()):
        raise ArtifactError(f"{module!r:.200}: expected finite numbers, got NaN or infinity", path=small.file.path)


def _lora_name(module: str, part: str) -> str:
    return f"base_model.model.{module}.lora_{part}.weight"


def _rows_name(module: str) -> str:
    return f"base_model.model.{module}.token_adapter.trainable_tokens_delta"


def _brief(rows: Any) -> Any:
    return {name: f"{len(ids)} ids" for name, ids in rows.items()} if isinstance(rows, dict) else rows
