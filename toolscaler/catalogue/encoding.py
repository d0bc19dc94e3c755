"""Documents go in, gist embeddings by the artefact's own frozen compressor come out (paper, Algorithm 1)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolscaler.errors import ArtifactError, CatalogueError
from toolscaler.hub.artifact import COMPRESSOR_FOLDER, Artifact
from toolscaler.hub.manifest import MANIFEST_NAME, ArtifactManifest

if TYPE_CHECKING:
    from toolscaler.codebook import Codebook
    from toolscaler.data.documents import ToolDocument
    from toolscaler.tokenization.tool_index import ToolIndex

logger = logging.getLogger(__name__)

# Present tools that are encoded again to see whether a compressor belongs to the codes, and the share of their codes
# that must come out as they are stored. Of tools that were moved to free codes some differ, by intention.
_PROBES, _LEAST_SHARE = 16, 0.5
_BATCH_TOKENS = 4096


class DocumentEncoder:
    """The frozen compressor of a catalogue, loaded when it is first needed.

    Args:
        folder: The catalogue's folder.
        compressor: Folder of the compressor; default: the one inside an artefact, or that of the run that the folder
            belongs to.
    """

    def __init__(self, folder: Path, compressor: str | Path | None = None) -> None:
        self._folder = folder
        self._given = None if compressor is None else Path(compressor)
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self, documents: Sequence[ToolDocument], *, show_progress: bool = False) -> np.ndarray:
        """Encode documents.

        Returns:
            float32 (n, V, D).

        Raises:
            ArtifactError: There is no compressor, or it is damaged.
        """
        from toolscaler.compression import encode_documents

        model, tokenizer = self._load()
        return encode_documents(
            model, tokenizer, documents, max_tokens_per_batch=_BATCH_TOKENS, show_progress=show_progress
        )

    def check(self, codebook: Codebook, index: ToolIndex, documents: Sequence[ToolDocument]) -> None:
        """Refuse a compressor that other codes than these were made with: its codes would mean nothing to the model.

        Args:
            codebook: The saved codebook.
            index: Codes of the present tools.
            documents: Documents of some of them.

        Raises:
            CatalogueError: Its sizes do not fit, or most codes of the documents come out other than they are stored.
        """
        config = self._load()[0].config
        got = (config.num_gist_tokens, int(config.get_text_config().hidden_size))
        wanted = (codebook.num_gists, codebook.hidden_size)
        if got != wanted:
            raise CatalogueError(f"expected a compressor of (gists, hidden size) = {wanted}, got {got}")
        step = max(1, len(documents) // _PROBES)
        probes = list(documents[::step][:_PROBES])
        if len(probes) < 4:
            return
        content = codebook.num_gists * codebook.num_levels
        found = codebook.quantize(self(probes))
        stored = np.array([index[document.id][:content] for document in probes])
        share = float((found == stored).mean())
        if share < _LEAST_SHARE:
            raise CatalogueError(
                f"of the codes of {len(probes)} present tools the compressor gives only {share:.0%} again; it is not "
                "the one that this catalogue was coded with: give that one (compressor=FOLDER)"
            )

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            self._loaded = self._from_folder(self._given) if self._given is not None else self._found()
            self._loaded[0].eval()
        return self._loaded

    def _found(self) -> tuple[Any, Any]:
        if (self._folder / COMPRESSOR_FOLDER / "config.json").is_file():
            if (self._folder / MANIFEST_NAME).is_file():
                return Artifact(self._folder, ArtifactManifest.load(self._folder)).load_compressor()
            return self._from_folder(self._folder / COMPRESSOR_FOLDER)
        of_run = self._folder.parent / "compression" / "model"
        if (of_run / "config.json").is_file():
            return self._from_folder(of_run)
        raise ArtifactError(
            f"expected the compressor in {COMPRESSOR_FOLDER}/ or in the run that this folder belongs to, found none; "
            "give its folder (compressor=FOLDER), or push the run with its compressor",
            path=self._folder,
        )

    def _from_folder(self, folder: Path) -> tuple[Any, Any]:
        from transformers import AutoTokenizer

        from toolscaler.compression import GistForToolCompression

        if not (folder / "config.json").is_file():
            raise ArtifactError("expected the folder of a compressor, found no config.json in it", path=folder)
        return GistForToolCompression.from_pretrained(folder), AutoTokenizer.from_pretrained(str(folder))
