"""The codebook's two files as they travel with a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from toolscaler._files import atomic_path, read_json, write_json
from toolscaler.errors import ArtifactError, ToolscalerError
from toolscaler.tokenization.tool_index import ToolIndex

if TYPE_CHECKING:
    from toolscaler.codebook import Codebook


def save_codebook(codebook: Codebook, tensors_file: Path, config_file: Path) -> None:
    """Write a codebook as safetensors and JSON, each atomically."""
    tensors, config = codebook.to_tensors()
    with atomic_path(tensors_file) as temporary:
        save_file(tensors, temporary)
    write_json(config_file, config)


def load_codebook(
    tensors_file: str | None, config_file: str | None, *, index: ToolIndex, index_file: str | Path
) -> Codebook:
    """Read the codebook that belongs to a tool index.

    Raises:
        ArtifactError: A file is missing or damaged, or the codebook's layout is not the index's.
    """
    from toolscaler.codebook import Codebook

    if tensors_file is None or config_file is None:
        raise ArtifactError(
            "the tool index says that a codebook belongs to it, but codebook.safetensors or codebook_config.json is "
            "not beside it; copy the whole folder",
            path=index_file,
        )
    try:
        codebook = Codebook.from_tensors(load_file(tensors_file), read_json(config_file))
    except ArtifactError:
        raise
    except (SafetensorError, OSError, ToolscalerError) as error:
        raise ArtifactError(f"damaged codebook: {error}", path=tensors_file) from error
    expected, got = (index.code_sizes, index.collisions), (tuple(codebook.code_sizes), codebook.collisions)
    if got != expected:
        raise ArtifactError(f"the tool index has code sizes and policy {expected}, the codebook {got}", path=index_file)
    return codebook
