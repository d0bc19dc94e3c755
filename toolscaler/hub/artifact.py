"""Open an artefact: a folder or repository id goes in, a checked folder with loaders for its parts comes out."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolscaler._files import read_bytes
from toolscaler.errors import ArtifactError, ToolscalerError
from toolscaler.hub.checksums import base_checksum, tokenizer_sha256
from toolscaler.hub.manifest import MANIFEST_NAME, ArtifactManifest
from toolscaler.hub.resolve import WHERE, find_artifact

if TYPE_CHECKING:
    from toolscaler.compression import GistForToolCompression
    from toolscaler.data import AgentProtocol, ToolDocument
    from toolscaler.hub.manifest import BaseModel
    from toolscaler.tokenization import ToolscalerTokenizer

logger = logging.getLogger(__name__)

#: Folder of the compressor inside an artefact.
COMPRESSOR_FOLDER = "compressor"
#: Documents of the tools, one JSON object a line.
DOCUMENTS_NAME = "tools.jsonl"
_MAX_DOCUMENT_BYTES = 1 << 32
# Rows that padding to a multiple may add behind the codes.
_MAX_PADDING = 1 << 16


@dataclass(frozen=True)
class Artifact:
    """A published model with its tokenizer, codebook, tools, documents and compressor.

    Make one with :meth:`from_pretrained`; each part is loaded when it is asked for.

    Attributes:
        folder: Where its files lie on this machine.
        manifest: What belongs to it.
    """

    folder: Path
    manifest: ArtifactManifest

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        verify: bool = True,
    ) -> Artifact:
        """Find an artefact, fetch what its manifest lists, and compare every file with its sum.

        Args:
            source: Folder or repository id.
            revision: Branch, tag or commit.
            subfolder: Folder inside ``source``.
            token: Hub token.
            cache_dir: Where downloads are kept.
            local_files_only: Use only what was downloaded before (also where ``HF_HUB_OFFLINE=1`` is set).
            force_download: Download again.
            verify: Compare SHA-256 sums; ``False`` compares sizes only, which saves reading large weights twice.

        Raises:
            ArtifactError: There is no such artefact, it is incomplete or damaged, or of a newer format.
        """
        values = (revision, subfolder, token, cache_dir, local_files_only or None, force_download or None)
        where = {key: value for key, value in zip(WHERE, values, strict=True) if value is not None}
        folder = find_artifact(source, where, must=True)
        if folder is None:
            raise ArtifactError(
                f"expected an artefact with {MANIFEST_NAME}, found none; an ordinary model folder opens with "
                "GenerativeRetriever.from_pretrained",
                path=str(source),
            )
        return cls._opened(folder, verify)

    @classmethod
    def _opened(cls, folder: Path, verify: bool = True) -> Artifact:
        manifest = ArtifactManifest.load(folder)
        manifest.verify(folder, sums=verify)
        return cls(folder, manifest)

    def load_tokenizer(self) -> ToolscalerTokenizer:
        """Load the tokenizer with codebook and tool index.

        Raises:
            ArtifactError: Its files are damaged, or it is made from another base tokenizer than the manifest says.
        """
        from toolscaler.hub.model_files import refuse_code
        from toolscaler.tokenization import ToolscalerTokenizer

        refuse_code(self.folder)
        with _damage(self.folder, "the tokenizer"):
            tokenizer = ToolscalerTokenizer.from_pretrained(str(self.folder))
            # A setting of the wrong type shows only in use.
            tokenizer.decode(tokenizer.encode_retrieval_prompt("probe"))
        if tokenizer_sha256(tokenizer) != self.manifest.base_tokenizer_sha256:
            raise ArtifactError(
                "expected the base tokenizer whose hash is in the manifest, got another one: ids would mean other "
                "text; fetch the artefact again",
                path=self.folder,
            )
        return tokenizer

    def load_model(
        self,
        tokenizer: ToolscalerTokenizer | None = None,
        *,
        base: Any = None,
        merge: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Load the model.

        Args:
            tokenizer: From :meth:`load_tokenizer`, if it is loaded already.
            base: Of an adapter: the base as a folder, a Hub id, or a loaded model, which is changed; default: the one
                that the manifest names.
            merge: Put an adapter into the weights. ``False`` gives a ``PeftModel`` for training on.
            **kwargs: More arguments of ``AutoModelForCausalLM.from_pretrained``.

        Returns:
            A causal LM in evaluation mode.

        Raises:
            ArtifactError: Weights are missing or damaged, or the base is not the one that the adapter was trained on.
        """
        tokenizer = tokenizer if tokenizer is not None else self.load_tokenizer()
        kwargs = {**kwargs, "use_safetensors": True, "trust_remote_code": False}
        if self.manifest.base is None:
            from toolscaler.hub.model_files import check_model_files

            check_model_files(self.folder)
            model = _causal_lm(str(self.folder), kwargs)
            rows = model.get_input_embeddings().weight.shape[0]
            if rows < tokenizer.required_vocab_size:
                raise ArtifactError(
                    f"expected a model with at least {tokenizer.required_vocab_size} vocabulary rows, got {rows}",
                    path=self.folder,
                )
            return model.eval()
        return self._on_base(self.manifest.base, tokenizer, base, merge, kwargs).eval()

    def _on_base(
        self, wanted: BaseModel, tokenizer: ToolscalerTokenizer, given: Any, merge: bool, kwargs: dict[str, Any]
    ) -> Any:
        import torch

        from toolscaler.embedding import initialize_code_embeddings
        from toolscaler.hub.adapter import attach_adapter, merge_adapter, open_adapter

        small = open_adapter(self.folder)
        dtype = kwargs.pop("dtype", None)
        if given is None or isinstance(given, str | Path):
            name = wanted.name if given is None else str(given)
            if name is None:
                raise ArtifactError(
                    "the base of this adapter has no name on the Hub; give it: load_model(base=FOLDER)",
                    path=self.folder,
                )
            if given is None and wanted.revision is not None:
                kwargs = {**kwargs, "revision": wanted.revision}
            given = _causal_lm(name, {**kwargs, "dtype": getattr(torch, wanted.dtype)})
        old = given.get_input_embeddings().weight.shape[0]
        if (
            not tokenizer.required_vocab_size
            <= wanted.vocab_rows
            <= max(old, tokenizer.required_vocab_size) + _MAX_PADDING
        ):
            raise ArtifactError(
                f"vocab_rows: expected at least {tokenizer.required_vocab_size} and not many more, got "
                f"{wanted.vocab_rows}",
                path=self.folder / MANIFEST_NAME,
            )
        # Everything about the new rows but their values, which the adapter brings: growth, padding, a head's bias.
        initialize_code_embeddings(given, tokenizer, init="random", pad_to_multiple_of=wanted.vocab_rows)
        if str(given.dtype) != f"torch.{wanted.dtype}" or base_checksum(given, tokenizer) != wanted.weights:
            raise ArtifactError(
                f"the base has other weights (or another dtype, {given.dtype}) than the one that the adapter was "
                f"trained on ({wanted.name or 'without a name'}, revision {wanted.revision or 'newest'}, "
                f"{wanted.dtype}); give that one with load_model(base=...)",
                path=self.folder,
            )
        model = merge_adapter(given, small) if merge else attach_adapter(given, small)
        return (
            model if dtype in (None, "auto") else model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
        )

    def has_compressor(self) -> bool:
        """Tell whether the compressor, which codes new tools, is part of it."""
        return f"{COMPRESSOR_FOLDER}/config.json" in self.manifest.files

    def load_compressor(self, **kwargs: Any) -> tuple[GistForToolCompression, Any]:
        """Load the compressor and the tokenizer that it was trained with.

        Args:
            **kwargs: More arguments of :meth:`toolscaler.GistForToolCompression.from_pretrained`.

        Raises:
            ArtifactError: There is none, or it is damaged.
        """
        from transformers import AutoTokenizer

        from toolscaler.compression import GistForToolCompression
        from toolscaler.hub.model_files import WEIGHTS_NAME, check_model_files, refuse_code

        if not self.has_compressor():
            raise ArtifactError("this artefact has no compressor; push one with compressor=", path=self.folder)
        inside = self.folder / COMPRESSOR_FOLDER
        refuse_code(inside)
        if (inside / WEIGHTS_NAME).is_file():  # the form with all weights; the small ones check themselves
            check_model_files(inside, causal_lm=False)
        with _damage(inside, "the compressor"):
            model = GistForToolCompression.from_pretrained(inside, use_safetensors=True, **kwargs)
            return model, AutoTokenizer.from_pretrained(str(inside))

    def documents(self) -> list[ToolDocument]:
        """Read the documents of the tools; empty where none were saved.

        Raises:
            ArtifactError: The file is damaged.
        """
        from toolscaler.data import ToolDocument

        if DOCUMENTS_NAME not in self.manifest.files:
            return []
        path = self.folder / DOCUMENTS_NAME
        found = []
        for number, line in enumerate(read_bytes(path, _MAX_DOCUMENT_BYTES, "documents").splitlines(), start=1):
            try:
                found.append(ToolDocument.from_dict(json.loads(line.decode("utf-8"))))
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                raise ArtifactError(
                    f"line {number}: expected a tool document, got: {str(error)[:200]}", path=path
                ) from error
        return found

    def protocol(self) -> AgentProtocol | None:
        """Read the text form of an agent's steps; ``None`` for a model that only retrieves.

        Raises:
            ArtifactError: The file is damaged.
        """
        from toolscaler.data import AgentProtocol
        from toolscaler.data.protocol import PROTOCOL_FILE

        if PROTOCOL_FILE not in self.manifest.files:
            return None
        try:
            return AgentProtocol.load(self.folder)
        except ArtifactError as error:
            raise ArtifactError(str(error)[:500]) from error  # it may quote a value of any length


def load_artifact(folder: Path, kwargs: dict[str, Any]) -> tuple[Any, ToolscalerTokenizer]:
    """Load model and tokenizer of an artefact that was found; the way in of ``GenerativeRetriever.from_pretrained``.

    Args:
        folder: From :func:`toolscaler.hub.resolve.find_artifact`.
        kwargs: ``verify``, ``base``, ``merge``, and arguments of ``AutoModelForCausalLM.from_pretrained``.

    Raises:
        ArtifactError: See :meth:`Artifact.load_model`.
    """
    # What says how to reach the Hub is for the base too; what says where the artefact lies is not.
    own = ("revision", "subfolder", "force_download", "proxies")
    options = {key: value for key, value in kwargs.items() if key not in own}
    artifact = Artifact._opened(folder, options.pop("verify", True))
    tokenizer = artifact.load_tokenizer()
    return artifact.load_model(tokenizer, **options), tokenizer


def _causal_lm(name: str, kwargs: dict[str, Any]) -> Any:
    """Load a causal LM whose weights are all there."""
    from transformers import AutoModelForCausalLM

    with _damage(name, "the model"):
        model, info = AutoModelForCausalLM.from_pretrained(name, **{**kwargs, "output_loading_info": True})
    missing = sorted(map(str, info["missing_keys"]))
    wrong = sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in info.get("mismatched_keys", ()))
    if missing or wrong:
        raise ArtifactError(
            f"weights: missing {missing[:3]} ({len(missing)}), of another shape {wrong[:3]}; save the whole model",
            path=name,
        )
    return model


@contextmanager
def _damage(path: str | Path, what: str) -> Iterator[None]:
    """Turn whatever a parser of another library makes of a file into an error of ours."""
    try:
        yield
    except (ToolscalerError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        # PanicException of the Rust libraries is no Exception.
        if isinstance(error, GeneratorExit):
            raise
        raise ArtifactError(
            f"{what} cannot be loaded: {type(error).__name__}: {str(error)[:300]}", path=path
        ) from error
