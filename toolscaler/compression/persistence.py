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
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.hub import cached_file

from toolscaler._files import atomic_path
from toolscaler._optional import require
from toolscaler.compression.configuration import GistConfig
from toolscaler.errors import ArtifactError, CompressionError

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
    values, _ = GistConfig.get_config_dict(str(name), **hub)
    found = values.get("model_type")
    if found != GistConfig.model_type:
        raise ArtifactError(f"expected model_type {GistConfig.model_type!r} in config.json, got {found!r}", path=name)
    return GistConfig.from_pretrained(str(name), **hub)


def load_on_base(
    cls: type[GistForToolCompression], name: str | Path, config: GistConfig, merge: bool, kwargs: Mapping[str, Any]
) -> GistForToolCompression:
    """Load the base by its name, check that it is the one, and put rows and adapter on it.

    Raises:
        ArtifactError: Base or rows are missing, or do not fit together.
    """
    base = _load_base(name, config, kwargs)
    model = cls(config, backbone=base)
    model.to(base.device)
    if config.weights == "rows":
        hub = {key: kwargs[key] for key in _HUB_KEYS if key in kwargs}
        try:
            tables: dict[str, Tensor] = load_file(cached_file(str(name), ROWS_NAME, **hub))
        except OSError as error:
            raise ArtifactError(f"expected {ROWS_NAME} beside config.json: {error}", path=name) from error
        for table in _ROW_TABLES:
            weight, found = getattr(model, table).weight, tables.get(table)
            if found is None or found.shape != weight.shape:
                got = None if found is None else tuple(found.shape)
                raise ArtifactError(f"{ROWS_NAME}: expected {table} of {tuple(weight.shape)}, got {got}", path=name)
            with torch.no_grad():
                weight.copy_(found)
        return model.eval()
    peft = require("peft", extra="train", purpose="loading a gist compressor saved as an adapter")
    adapted = peft.PeftModel.from_pretrained(model, str(name))
    return (merge_adapter(adapted) if merge else attach_adapter(adapted)).eval()


def _load_base(name: str | Path, config: GistConfig, kwargs: Mapping[str, Any]) -> PreTrainedModel:
    """Load the base that the rows refer to and compare its checksum, where its dtype is still the same."""
    wanted = kwargs.get("dtype") or kwargs.get("torch_dtype") or config.dtype or "auto"
    keys = {key: kwargs[key] for key in _BASE_KEYS if key in kwargs}
    if config.backbone_config is not None:
        # As it was set up for training: the base's own file may say otherwise (an encoder used as a decoder).
        keys["config"] = config.backbone_config
    try:
        base = AutoModelForCausalLM.from_pretrained(config.base_model_name_or_path, dtype=wanted, **keys)
    except OSError as error:
        base_name = config.base_model_name_or_path
        raise ArtifactError(
            f"the base {base_name!r} that it was trained on cannot be loaded: {error}", path=name
        ) from error
    comparable = config.dtype is None or str(base.dtype) == str(config.dtype)
    if comparable and config.base_fingerprint and weights_fingerprint(base) != config.base_fingerprint:
        raise ArtifactError(
            f"the base {config.base_model_name_or_path!r} has other weights than the one the rows were trained on; "
            "put the original base back, or train again",
            path=name,
        )
    return base
