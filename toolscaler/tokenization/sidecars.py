"""The codebook's two files as they travel with a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.numpy import save

from toolscaler._files import atomic_path, write_json
from toolscaler.errors import ArtifactError
from toolscaler.tokenization.tool_index import ToolIndex

if TYPE_CHECKING:
    from toolscaler.codebook import Codebook


def save_codebook(codebook: Codebook, tensors_file: Path, config_file: Path) -> None:
    """Write a codebook as safetensors and JSON, each atomically."""
    with atomic_path(tensors_file) as temporary:
        temporary.write_bytes(save(codebook.to_tensors(), metadata={"format": "np"}))
    write_json(config_file, codebook.to_config())


def load_codebook(
    tensors_file: str | None, config_file: str | None, *, index: ToolIndex, index_file: str | Path
) -> Codebook:
    """Read the codebook that belongs to a tool index.

    Raises:
        ArtifactError: A file is missing or damaged, or the codebook's layout is not the index's.
    """
    from toolscaler.codebook import codebook_from_files

    if tensors_file is None or config_file is None:
        raise ArtifactError(
            "the tool index says that a codebook belongs to it, but codebook.safetensors or codebook_config.json is "
            "not beside it; copy the whole folder",
            path=index_file,
        )
    codebook = codebook_from_files(tensors_file, config_file)
    expected, got = (index.code_sizes, index.collisions), (tuple(codebook.code_sizes), codebook.collisions)
    if got != expected:
        raise ArtifactError(f"the tool index has code sizes and policy {expected}, the codebook {got}", path=index_file)
    return codebook
