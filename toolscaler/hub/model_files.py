"""A model's own files, checked before transformers sees them: no code, no pickles, no sizes that the weights lack."""

from __future__ import annotations

import json
from pathlib import Path

from toolscaler._configs import read_plain_config, walk
from toolscaler._files import read_json
from toolscaler._tensors import TensorFile, open_tensors
from toolscaler.errors import ArtifactError
from toolscaler.hub.manifest import is_safe_name

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"


def refuse_code(folder: Path, names: tuple[str, ...] = ("config.json", "generation_config.json")) -> None:
    """Check the JSON files of a model or tokenizer for keys that would have code loaded.

    Raises:
        ArtifactError: Such a key, or a file that is no JSON object.
    """
    for name in (*names, "tokenizer_config.json"):
        if (folder / name).exists():
            read_plain_config(folder / name)


def check_model_files(folder: str | Path, *, causal_lm: bool = True) -> dict[str, TensorFile]:
    """Check that the weights of a folder are whole and that its configuration asks for no more than they hold.

    Args:
        folder: With ``config.json`` and ``model.safetensors``, or shards and their index.
        causal_lm: Also count the parameters of the causal language model that it describes.

    Returns:
        File name -> its checked header.

    Raises:
        ArtifactError: A file is missing or damaged, the index points outside or to tensors that are not there, or the
            configuration asks for a larger model than the weights.
    """
    root = Path(folder)
    refuse_code(root)
    config = read_plain_config(root / CONFIG_NAME)
    files = {name: open_tensors(root / name, "weights", max_bytes=1 << 40) for name in _weight_files(root)}
    tensors = [info for file in files.values() for info in file.tensors.values()]
    largest = max([len(tensors), *(size for info in tensors for size in info.shape)], default=0)
    for key, value in walk(config):
        if _is_size(key) and isinstance(value, int | float) and value > largest:
            raise ArtifactError(
                f"{key}: got {value!r:.40}, but no tensor of the weights is larger than {largest}; the files do not "
                "belong together",
                path=root / CONFIG_NAME,
            )
    held = sum(_count(info.shape) for info in tensors)
    asked = _parameters(root) if causal_lm else 0
    if asked > held:
        raise ArtifactError(
            f"the configuration asks for {asked} parameters, the weights hold {held}; the files do not belong together",
            path=root / CONFIG_NAME,
        )
    return files


def _weight_files(root: Path) -> list[str]:
    index = root / INDEX_NAME
    if not index.exists():
        return [WEIGHTS_NAME]
    data = read_json(index, what="the index of weights", max_bytes=1 << 26)
    table = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(table, dict) or not table:
        raise ArtifactError("expected a weight_map", path=index)
    wrong = next((name for name in table.values() if not is_safe_name(name) or "/" in name), None)
    if wrong is not None:
        raise ArtifactError(f"weight_map: expected file names in this folder, got {wrong!r:.200}", path=index)
    names = sorted(set(table.values()))
    for name in names:
        file = open_tensors(root / name, "a shard of weights", max_bytes=1 << 40)
        lost = sorted(tensor for tensor in table if table[tensor] == name and tensor not in file.tensors)
        if lost:
            raise ArtifactError(f"{name} lacks {json.dumps(lost[:3])[:200]}, which the index places there", path=index)
    return names


def _parameters(root: Path) -> int:
    """Count the parameters that a configuration asks for, without memory for them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(str(root))
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        return sum(parameter.numel() for parameter in model.parameters())
    except MemoryError:
        raise
    except Exception as error:
        # Whatever a configuration makes of a constructor: zero sizes, wrong types, unknown names.
        raise ArtifactError(
            f"expected the configuration of a causal language model, got {type(error).__name__}: {str(error)[:200]}",
            path=root / CONFIG_NAME,
        ) from error


def _is_size(key: str) -> bool:
    return key.startswith(("num_", "n_")) or key.endswith(("_size", "_dim", "_rank", "_layers", "_heads"))


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
