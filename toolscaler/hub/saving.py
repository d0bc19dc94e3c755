"""Save an artefact: model or small adapter, tokenizer, documents, compressor and card become one sealed folder."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolscaler._files import atomic_folder, read_bytes, read_json, write_json, write_text
from toolscaler.errors import ArtifactError, ConfigError
from toolscaler.hub.artifact import COMPRESSOR_FOLDER, DOCUMENTS_NAME
from toolscaler.hub.checksums import base_checksum, tokenizer_sha256
from toolscaler.hub.manifest import REPO_ID, ArtifactManifest, BaseModel, seal_artifact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolscaler.compression import GistForToolCompression
    from toolscaler.data import AgentProtocol, ToolDocument
    from toolscaler.tokenization import ToolscalerTokenizer

logger = logging.getLogger(__name__)

#: The card, which people read and the Hub shows.
CARD_NAME = "README.md"
_MODEL_FILES = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json")
_COMPRESSOR_FILES = (*_MODEL_FILES, "gist_rows.safetensors", "adapter_*", "tokenizer*.json", "chat_template.jinja")
# Keys in which libraries note where something was loaded from on this machine.
_PATH_KEYS = ("_name_or_path", "name_or_path", "base_model_name_or_path")


def save_artifact(
    folder: str | Path,
    model: Any,
    tokenizer: ToolscalerTokenizer,
    *,
    documents: Sequence[ToolDocument] | None = None,
    compressor: GistForToolCompression | str | Path | None = None,
    compressor_tokenizer: Any = None,
    protocol: AgentProtocol | None = None,
    extras: Sequence[str | Path] = (),
    card: str | None = None,
    base_model: str | None = None,
    base_revision: str | None = None,
    max_shard_size: str = "5GB",
) -> ArtifactManifest:
    """Save everything that belongs to a trained model as one folder with a manifest.

    The folder appears whole or not at all; one that is there already is replaced in one step. Nothing in it is a
    pickle or code.

    Args:
        folder: Where to.
        model: Causal LM with code rows; or a ``PeftModel`` from :func:`toolscaler.training.adapters.with_adapter`, of
            which LoRA matrices and code rows are saved, and no embedding matrix; or the folder of a saved causal LM,
            whose files are copied.
        tokenizer: Its tokenizer with the tools.
        documents: Documents of the tools, any order; they let an agent read what it calls.
        compressor: The gist compressor, or its folder; it codes new tools. A compressor whose base has a name on the
            Hub is saved as its small form.
        compressor_tokenizer: Tokenizer of a compressor that is given as an object.
        protocol: Text form of an agent's steps, for a model of the trajectory stage.
        extras: JSON files that go along under their own names, such as ``abstention.json`` of an agent.
        card: Text of ``README.md``.
        base_model: Hub id of the base that an adapter belongs on. Without one the adapter can be loaded only by who
            has the base and gives it.
        base_revision: Its commit, branch or tag.
        max_shard_size: Largest file of weights.

    Returns:
        The manifest.

    Raises:
        ConfigError: Something does not fit together: the vocabulary, documents and tools, the adapter's rows.
        ArtifactError: A folder that was given is damaged.
    """
    _check_base(base_model, base_revision)
    _check_documents(documents, tokenizer)
    adapted = hasattr(model, "peft_config")
    if not adapted and not isinstance(model, str | Path):
        rows = model.get_input_embeddings().weight.shape[0]
        if rows < tokenizer.required_vocab_size:
            raise ConfigError("model", f"{rows} vocabulary rows", f"at least {tokenizer.required_vocab_size}")
    with atomic_folder(folder) as target:
        base = None
        if adapted:
            base = _save_adapter(target, model, tokenizer, base_model, base_revision)
        elif isinstance(model, str | Path):
            _copy(Path(model), target, _MODEL_FILES)
        else:
            with _nameless(model):
                model.save_pretrained(str(target), max_shard_size=max_shard_size)
        tokenizer.save_pretrained(str(target))
        if compressor is not None:
            _save_compressor(target / COMPRESSOR_FOLDER, compressor, compressor_tokenizer)
        if documents is not None:
            ordered = sorted(documents, key=lambda document: tokenizer.tool_index.row(document.id))
            lines = [json.dumps(document.to_dict(), ensure_ascii=False) + "\n" for document in ordered]
            write_text(target / DOCUMENTS_NAME, "".join(lines))
        if protocol is not None:
            protocol.save(target)
        for extra in map(Path, extras):
            if (target / extra.name).exists() or extra.suffix != ".json":
                raise ConfigError("extras", extra.name, "JSON files with names that the artefact does not have itself")
            write_json(target / extra.name, read_json(extra))
        _forget_paths(target)
        if card is not None:
            write_text(target / CARD_NAME, card)
        _check_contents(target, base is not None)
        return seal_artifact(
            target,
            kind="model" if base is None else "adapter",
            base=base,
            base_tokenizer_sha256=tokenizer_sha256(tokenizer),
        )


def _save_adapter(
    target: Path, model: Any, tokenizer: ToolscalerTokenizer, name: str | None, revision: str | None
) -> BaseModel:
    from toolscaler.hub.adapter import write_adapter

    write_adapter(model, tokenizer, target, name)
    inner = model.get_base_model()
    return BaseModel(
        name=name,
        revision=revision,
        dtype=str(inner.dtype).removeprefix("torch."),
        vocab_rows=int(inner.get_input_embeddings().weight.shape[0]),
        weights=base_checksum(model, tokenizer),
    )


def _save_compressor(target: Path, compressor: Any, tokenizer: Any) -> None:
    if isinstance(compressor, str | Path):
        _copy(Path(compressor), target, _COMPRESSOR_FILES)
        return
    if tokenizer is None:
        raise ConfigError("compressor_tokenizer", None, "the tokenizer that the compressor was trained with")
    target.mkdir()
    named = _is_repo_id(compressor.config.base_model_name_or_path)
    # A base that only this machine has cannot be left out.
    with nullcontext() if named else _nameless(compressor):
        compressor.save_pretrained(target, save_base=None if named else True)
    tokenizer.save_pretrained(str(target))


def _copy(source: Path, target: Path, patterns: Sequence[str]) -> None:
    """Copy the files of a saved model."""
    found = sorted({path for pattern in patterns for path in source.glob(pattern) if path.is_file()})
    if not any(path.name == "config.json" for path in found):
        raise ArtifactError("expected the folder of a saved model, found no config.json in it", path=source)
    target.mkdir(exist_ok=True)
    for path in found:
        shutil.copyfile(path, target / path.name)


def _check_base(name: str | None, revision: str | None) -> None:
    if name is not None and not _is_repo_id(name):
        raise ConfigError("base_model", name, "a Hub id such as user/name, which others can load")
    if revision is not None and name is None:
        raise ConfigError("base_revision", revision, "base_model beside it")


def _is_repo_id(name: Any) -> bool:
    return isinstance(name, str) and REPO_ID.fullmatch(name) is not None and not Path(name).exists()


def _check_documents(documents: Sequence[ToolDocument] | None, tokenizer: ToolscalerTokenizer) -> None:
    """Refuse documents that are not those of the tools."""
    if documents is None:
        return
    index = tokenizer.tool_index
    ids = [document.id for document in documents]
    missing, unknown = sorted(set(index) - set(ids)), sorted(set(ids) - set(index))
    if missing or unknown or len(set(ids)) != len(ids):
        raise ConfigError(
            "documents",
            f"{len(ids)} documents, {len(missing)} tools without one {missing[:2]}, {len(unknown)} of no tool "
            f"{unknown[:2]}",
            "exactly one document for each tool of the tokenizer",
        )
    for document in documents:
        known = index.document_hash(document.id)
        if known is not None and known != document.content_hash:
            raise ConfigError("documents", document.id, "the text that its code was made from; encode the tool again")


def _check_contents(folder: Path, adapter: bool) -> None:
    """Read back what was written, headers only: a save that cannot be opened fails now and not at the reader's."""
    from toolscaler.hub.adapter import open_adapter
    from toolscaler.hub.model_files import check_model_files, refuse_code

    if adapter:
        open_adapter(folder)
        refuse_code(folder)
    else:
        check_model_files(folder)


@contextmanager
def _nameless(model: Any) -> Iterator[None]:
    """Leave out of a model's configuration where on this machine it was loaded from."""
    config = model.config
    kept = {key: getattr(config, key) for key in _PATH_KEYS if isinstance(getattr(config, key, None), str)}
    try:
        for key, value in kept.items():
            if not _is_repo_id(value):
                setattr(config, key, "")
        yield
    finally:
        for key, value in kept.items():
            setattr(config, key, value)


def _forget_paths(folder: Path) -> None:
    """Take out of JSON files where on this machine something was loaded from."""
    for path in [*folder.glob("*config.json"), *folder.glob(f"{COMPRESSOR_FOLDER}/*config.json")]:
        data = json.loads(read_bytes(path, 1 << 26))
        if _blank_paths(data):
            write_text(path, json.dumps(data, ensure_ascii=False, indent=2, sort_keys=True) + "\n")


def _blank_paths(data: Any) -> bool:
    """Blank what names no repository; say whether there was anything."""
    changed = False
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        if key in _PATH_KEYS and isinstance(value, str) and value and not _is_repo_id(value):
            data[key] = ""
            changed = True
        else:
            changed |= _blank_paths(value)
    return changed
