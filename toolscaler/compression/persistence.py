"""How a gist compressor lies on disk: the whole network, or its trained parts beside the name of the base.

Three forms of a model folder, told apart by ``weights`` in its ``config.json``:

- ``model``: ``model.safetensors`` with everything; nothing else is needed to load it.
- ``rows``: ``gist_rows.safetensors`` with gist and task rows; the base is loaded by its name.
- ``adapter``: peft's adapter files, which hold the rows too; the base is loaded by its name.

The two small forms carry a checksum of the base's weights, so that rows never meet a base they were not trained on.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.hub import cached_file

from toolscaler._configs import ADAPTER_CONFIG_NAME, ADAPTER_NAME, read_adapter_config, read_plain_config
from toolscaler._files import atomic_path
from toolscaler._optional import require
from toolscaler._tensors import TensorFile, open_tensors
from toolscaler.compression.configuration import GistConfig
from toolscaler.errors import ArtifactError, CompressionError, ToolscalerError

if TYPE_CHECKING:
    from toolscaler.compression.modeling import GistForToolCompression

logger = logging.getLogger(__name__)

#: File of gist and task rows in a folder of the form ``rows``.
ROWS_NAME = "gist_rows.safetensors"

_HUB_KEYS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
_BASE_KEYS = ("cache_dir", "local_files_only", "token", "device_map", "attn_implementation", "trust_remote_code")
_SAMPLES = 64


@torch.no_grad()
def weights_fingerprint(model: nn.Module, *, base_only: bool = True) -> str:
    """Give a checksum of a model's weights that does not depend on the device or the file they came from.

    Of each parameter go in: name, shape, dtype, the exact integer sum over its bits, and a sample of its values. One
    pass over the weights, no copy of them.

    Args:
        model: Any model.
        base_only: Leave adapters out, and read through their wrapping, so that adding one changes nothing.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.sha256()
    named = {}
    for name, parameter in model.named_parameters():
        if base_only:
            if "lora_" in name:
                continue
            name = name.replace(".base_layer.", ".")
        named[name] = parameter
    for name in sorted(named):
        values = named[name].detach().reshape(-1)
        integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
        bits = values.view(integers)
        sample = bits[:: max(1, len(bits) // _SAMPLES)].cpu().tolist()
        total = int(bits.sum(dtype=torch.int64))
        digest.update(f"{name} {tuple(named[name].shape)} {values.dtype} {total} {sample}\n".encode())
    return digest.hexdigest()[:32]


def load_base(name: str | Path, kwargs: Mapping[str, Any]) -> tuple[PreTrainedModel, str]:
    """Load a base by its name, with the checksum that lets a saved compressor leave it out.

    Args:
        name: Folder or Hub name.
        kwargs: What ``AutoModelForCausalLM.from_pretrained`` takes.

    Returns:
        The model and the checksum; the checksum is empty where weights were drawn at random because the checkpoint
        lacks them (the head of an encoder, say), so that loading it again would give another model.
    """
    keys = {"dtype": "auto", **kwargs, "output_loading_info": True}
    base, info = AutoModelForCausalLM.from_pretrained(str(name), **keys)
    missing = sorted(info["missing_keys"])
    if missing:
        logger.warning("%s has no weights for %s; they are drawn at random and must be trained", name, missing)
        return base, ""
    return base, weights_fingerprint(base)


def choose_form(model: GistForToolCompression, save_base: bool | None) -> str:
    """Decide what :meth:`GistForToolCompression.save_pretrained` writes; its docstring gives the rule.

    Raises:
        CompressionError: What was asked for cannot be loaded again.
    """
    config, adapted = model.config, adapter_of(model) is not None
    if save_base is None and not adapted:
        save_base = model.save_base
    if save_base:
        if adapted:
            raise CompressionError("save_base=True: the adapter's layers are still apart; merge them first")
        return "model"
    small = "adapter" if adapted else "rows"
    unchanged = bool(config.base_fingerprint) and weights_fingerprint(model.backbone) == config.base_fingerprint
    if unchanged:
        return small
    if save_base is None and not adapted:
        return "model"
    if not config.base_model_name_or_path or config.base_fingerprint:
        why = "was changed since it was loaded" if config.base_fingerprint else "has no name to load it by"
        raise CompressionError(f"the base cannot be left out: it {why}; merge the adapter and save with save_base=True")
    # A base handed in as an object: its name is taken on trust here and checked against its weights at loading.
    config.base_fingerprint = weights_fingerprint(model.backbone)
    return small


def adapter_of(model: GistForToolCompression) -> Any:
    """Give the ``PeftModel`` whose layers sit in the backbone, or ``None``."""
    return model.__dict__.get("_adapter")


def attach_adapter(peft_model: Any) -> GistForToolCompression:
    """Give the compressor inside a ``PeftModel``, its adapter layers active and known to ``save_pretrained``."""
    model = peft_model.get_base_model()
    # Past nn.Module.__setattr__: the wrapper holds the model, and must not become its child.
    model.__dict__["_adapter"] = peft_model
    return model


def merge_adapter(peft_model: Any) -> GistForToolCompression:
    """Merge the adapter into the backbone and put the trained rows in their place."""
    model = peft_model.merge_and_unload()
    model.__dict__.pop("_adapter", None)
    return model


def save_rows(model: GistForToolCompression, folder: Path, form: str) -> None:
    """Write the small forms: configuration, and the rows or the adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    if form == "adapter":
        adapter_of(model).save_pretrained(str(folder), save_embedding_layers=False)
    else:
        rows = {name: getattr(model, name).weight.detach().cpu().contiguous() for name in _ROW_TABLES}
        with atomic_path(folder / ROWS_NAME) as temporary:
            save_file(rows, temporary, metadata={"format": "pt"})
    model.config.architectures = [type(model).__name__]
    # Last: a folder without config.json is no model, so an interrupted save is seen as such.
    model.config.save_pretrained(str(folder))


_ROW_TABLES = ("gist_embeddings", "task_embeddings")


def load_config(name: str | Path, kwargs: Mapping[str, Any]) -> GistConfig:
    """Read a compressor's configuration from a folder or the Hub.

    Raises:
        ArtifactError: There is none, or it belongs to another kind of model.
    """
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ArtifactError("expected the folder of a gist compressor, found no config.json in it", path=name)
    hub = {key: kwargs[key] for key in _HUB_KEYS if key in kwargs}
    found = read_plain_config(_file(name, "config.json", hub)).get("model_type")
    if found != GistConfig.model_type:
        raise ArtifactError(
            f"expected model_type {GistConfig.model_type!r} in config.json, got {found!r:.80}", path=name
        )
    try:
        config = GistConfig.from_pretrained(str(name), **hub)
    except MemoryError:
        raise
    except Exception as error:
        # Wrong types and numbers reach the constructors of several libraries.
        raise ArtifactError(f"config.json is damaged: {type(error).__name__}: {str(error)[:200]}", path=name) from error
    if config.backbone_config is None:
        raise ArtifactError("config.json is damaged: expected a backbone_config, got none", path=name)
    return config


def load_whole(name: str | Path, load: Callable[[], Any]) -> Any:
    """Load the form ``model``; what a damaged folder makes of the loader is said in our words.

    Raises:
        ArtifactError: ``name`` is a folder, and no whole model is in it.
    """
    try:
        return load()
    except (ToolscalerError, MemoryError):
        raise
    except Exception as error:
        if not Path(name).is_dir():  # a repository: the Hub client says what is wrong
            raise
        raise ArtifactError(
            f"expected a whole gist compressor (its config.json says so), got {type(error).__name__}: "
            f"{str(error)[:300]}",
            path=name,
        ) from error


def _file(name: str | Path, file: str, hub: Mapping[str, Any]) -> str:
    """Find a file of a folder or Hub repository.

    Raises:
        ArtifactError: It is not there.
    """
    try:
        return str(cached_file(str(name), file, **hub))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"expected {file}, got: {str(error)[:300]}", path=name) from error


def load_on_base(
    cls: type[GistForToolCompression], name: str | Path, config: GistConfig, merge: bool, kwargs: Mapping[str, Any]
) -> GistForToolCompression:
    """Load the base by its name, check that it is the one, and put rows and adapter on it.

    Raises:
        ArtifactError: Base or rows are missing, or do not fit together.
    """
    hub = {key: kwargs[key] for key in _HUB_KEYS if key in kwargs}
    # Before the base is loaded and a table is made: the numbers in a configuration are a stranger's.
    rows = _checked_rows(name, config, hub) if config.weights == "rows" else _checked_adapter(name, config, hub)
    base = _load_base(name, config, kwargs)
    model = cls(config, backbone=base)
    model.to(base.device)
    if config.weights == "rows":
        tables: dict[str, Tensor] = load_file(rows.path)
        for table in _ROW_TABLES:
            weight = getattr(model, table).weight
            rows.expect(table, tuple(weight.shape), _FLOATS)
            with torch.no_grad():
                weight.copy_(tables[table])
        return model.eval()
    peft = require("peft", extra="train", purpose="loading a gist compressor saved as an adapter")
    try:
        adapted = peft.PeftModel.from_pretrained(model, str(rows.path.parent))
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ArtifactError(f"the adapter does not fit its base: {str(error)[:300]}", path=name) from error
    return (merge_adapter(adapted) if merge else attach_adapter(adapted)).eval()


_FLOATS = ("F32", "F16", "BF16")


def _checked_rows(name: str | Path, config: GistConfig, hub: Mapping[str, Any]) -> TensorFile:
    """Check the header of the form ``rows`` against the configuration."""
    file = open_tensors(_file(name, ROWS_NAME, hub), "gist and task rows")
    file.refuse_others(_ROW_TABLES)
    for table, count in zip(_ROW_TABLES, (config.num_gist_tokens, config.num_tasks), strict=True):
        file.expect(table, (count, None), _FLOATS)
    return file


def _checked_adapter(name: str | Path, config: GistConfig, hub: Mapping[str, Any]) -> TensorFile:
    """Check the files of the form ``adapter``: plain LoRA, no more than its tensors, and the two tables of rows."""
    settings = read_adapter_config(_file(name, ADAPTER_CONFIG_NAME, hub))
    file = open_tensors(_file(name, ADAPTER_NAME, hub), "the tensors of an adapter")
    if not set(settings.modules_to_save) <= set(_ROW_TABLES) or settings.token_rows:
        raise ArtifactError(
            f"modules_to_save: expected {', '.join(_ROW_TABLES)}, got {list(settings.modules_to_save)!r:.200}",
            path=name,
        )
    for tensor in file.tensors:
        if ".lora_A." in tensor:
            file.expect(tensor, (settings.rank, None), _FLOATS)
        elif ".lora_B." in tensor:
            file.expect(tensor, (None, settings.rank), _FLOATS)
    for table, count in zip(_ROW_TABLES, (config.num_gist_tokens, config.num_tasks), strict=True):
        for tensor in file.tensors:
            if f".{table}." in tensor:
                file.expect(tensor, (count, None), _FLOATS)
    if max(config.num_gist_tokens, config.num_tasks) > max(size for t in file.tensors.values() for size in t.shape):
        raise ArtifactError("the configuration asks for more rows than the adapter has", path=name)
    return file


def _load_base(name: str | Path, config: GistConfig, kwargs: Mapping[str, Any]) -> PreTrainedModel:
    """Load the base that the rows refer to and compare its checksum, where its dtype is still the same."""
    wanted = kwargs.get("dtype") or kwargs.get("torch_dtype") or config.dtype or "auto"
    keys = {key: kwargs[key] for key in _BASE_KEYS if key in kwargs}
    base_name = config.base_model_name_or_path
    try:
        if config.backbone_config is not None:
            # As it was set up for training: the base's own file may say otherwise (an encoder used as a decoder).
            keys["config"] = config.backbone_config
            _same_sizes(config.backbone_config, AutoConfig.from_pretrained(base_name, **_without_layout(keys)), name)
        base = AutoModelForCausalLM.from_pretrained(base_name, dtype=wanted, **keys)
    except (ArtifactError, MemoryError):
        raise
    except Exception as error:
        raise ArtifactError(
            f"the base {str(base_name)[:200]!r} that it was trained on cannot be loaded: {type(error).__name__}: "
            f"{str(error)[:300]}",
            path=name,
        ) from error
    comparable = config.dtype is None or str(base.dtype) == str(config.dtype)
    if comparable and config.base_fingerprint and weights_fingerprint(base) != config.base_fingerprint:
        raise ArtifactError(
            f"the base {config.base_model_name_or_path!r} has other weights than the one the rows were trained on; "
            "put the original base back, or train again",
            path=name,
        )
    return base


def _without_layout(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {key: keys[key] for key in ("cache_dir", "local_files_only", "token", "trust_remote_code") if key in keys}


def _same_sizes(saved: Any, own: Any, name: str | Path) -> None:
    """Refuse a saved configuration of the base that asks for another size than the base's weights have."""
    theirs = own.get_text_config().to_dict()
    for key, value in saved.get_text_config().to_dict().items():
        size = key.startswith("num_") or key.endswith(("_size", "_dim", "_layers", "_heads"))
        if size and type(theirs.get(key)) is int and value is not None and value != theirs[key]:
            raise ArtifactError(f"backbone_config.{key}: got {value!r:.80}, the base has {theirs[key]}", path=name)
