"""Codebooks on disk: ``codebook.safetensors`` for the arrays, ``codebook_config.json`` for everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolscaler._files import atomic_path, read_json, write_json
from toolscaler._tensors import open_tensors
from toolscaler._version import __version__
from toolscaler.codebook.checks import tensors_sha256
from toolscaler.codebook.codebook import Codebook
from toolscaler.codebook.settings import QuantizerSettings
from toolscaler.errors import ArtifactError, CodebookError

TENSORS_NAME = "codebook.safetensors"
CONFIG_NAME = "codebook_config.json"
FORMAT_VERSION = 2
# What a codebook with the paper's settings needs; written for these, so that earlier releases read them too.
_PLAIN_VERSION = 1

_DTYPES = {
    "pca_mean": np.dtype(np.float32),
    "pca_components": np.dtype(np.float32),
    "pca_explained_variance": np.dtype(np.float32),
    "pca_explained_variance_ratio": np.dtype(np.float32),
    "centroids": np.dtype(np.float32),
    "codes": np.dtype(np.int32),
}
_SIZES = ("num_gists", "num_levels", "num_centroids", "reduced_dim", "hidden_size")
_TYPE_NAMES = {np.dtype(np.float32): "F32", np.dtype(np.int32): "I32"}
_PLAIN_KEYS = {
    *("format_version", "toolscaler_version", "collisions", "suffix_size", "code_sizes", "tensors_sha256", "tool_ids"),
    *_SIZES,
}
_KEYS = {_PLAIN_VERSION: _PLAIN_KEYS, FORMAT_VERSION: _PLAIN_KEYS | {"quantization", "level_sizes"}}


def make_config(codebook: Codebook) -> dict[str, Any]:
    """Give the JSON part of a codebook: format version, sizes, policy, tool ids and the checksum of the arrays."""
    plain = codebook.settings == QuantizerSettings()
    extra = {"quantization": codebook.settings.to_dict(), "level_sizes": list(codebook.level_sizes)}
    return {
        "format_version": _PLAIN_VERSION if plain else FORMAT_VERSION,
        **({} if plain else extra),
        "toolscaler_version": __version__,
        **{name: getattr(codebook, name) for name in _SIZES},
        "collisions": codebook.collisions,
        "suffix_size": codebook.suffix_size,
        "code_sizes": list(codebook.code_sizes),
        "tensors_sha256": tensors_sha256(codebook.to_tensors()),
        "tool_ids": list(codebook.tool_ids),
    }


def codebook_from_parts(tensors: dict[str, NDArray], config: dict[str, Any]) -> Codebook:
    """Build a codebook from its arrays and its JSON part.

    Args:
        tensors: Arrays by name, as :meth:`Codebook.to_tensors` gives them.
        config: As :meth:`Codebook.to_config` gives it.

    Returns:
        The codebook, equal bit for bit to the one that gave the parts.

    Raises:
        ArtifactError: Unknown format version, missing or unexpected arrays, wrong dtypes or shapes, a checksum that
            does not match, or values that no codebook can have.
    """
    version = _check_config(config)
    missing, unexpected = sorted(_DTYPES.keys() - tensors.keys()), sorted(tensors.keys() - _DTYPES.keys())
    if version != _PLAIN_VERSION:  # the quantiser says which more arrays it has
        unexpected = []
    if missing or unexpected:
        raise ArtifactError(f"codebook arrays: missing {missing}, unexpected {unexpected}; save the codebook again")
    for name, dtype in _DTYPES.items():
        if tensors[name].dtype != dtype:
            raise ArtifactError(f"codebook array {name}: expected {dtype}, got {tensors[name].dtype}")
    if tensors_sha256(tensors) != config.get("tensors_sha256"):
        raise ArtifactError(
            "the codebook's arrays do not match the checksum in its configuration: one of the two files is damaged or "
            "of another codebook; restore both from one save"
        )
    try:
        arrays: dict[str, Any] = {name: tensors[name] for name in _DTYPES}
        more: dict[str, Any] = {}
        if version != _PLAIN_VERSION:
            more["settings"] = QuantizerSettings(**config["quantization"])
            more["level_sizes"] = tuple(config["level_sizes"])
            more["extra_tensors"] = {name: tensors[name] for name in tensors.keys() - _DTYPES.keys()}
        codebook = Codebook(
            **arrays,
            **more,
            collisions=config["collisions"],
            tool_ids=tuple(config["tool_ids"]),
            suffix_size=config["suffix_size"],
        )
        expected = {name: config[name] for name in (*_SIZES, "code_sizes")}
    except (CodebookError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ArtifactError(f"codebook configuration does not fit the arrays: {str(error)[:500]}") from error
    found = {**{name: getattr(codebook, name) for name in _SIZES}, "code_sizes": list(codebook.code_sizes)}
    if expected != found:
        raise ArtifactError(f"codebook sizes: the configuration says {expected!r:.500}, the arrays have {found}")
    return codebook


def _check_config(config: Any) -> int:
    """Give the format version of a codebook's JSON part after a check of its keys."""
    version = config.get("format_version") if isinstance(config, dict) else None
    if type(version) is not int or version not in _KEYS:
        raise ArtifactError(
            f"expected a codebook of format_version {_PLAIN_VERSION} or {FORMAT_VERSION}, got {version!r:.80}; "
            "load it with the toolscaler release that wrote it, or fit it again"
        )
    # The version of the library is for the reader's eyes alone, and files of early releases lack it.
    missing = sorted(_KEYS[version] - config.keys() - {"toolscaler_version"})
    unexpected = sorted(config.keys() - _KEYS[version])
    if missing or unexpected:
        raise ArtifactError(
            f"codebook configuration: missing {missing}, unexpected {unexpected!r:.200}; save the codebook again"
        )
    return version


def save_codebook(codebook: Codebook, folder: str | Path) -> tuple[str, str]:
    """Write both files of a codebook, each atomically; the checksum tells a half-replaced pair.

    Args:
        codebook: What to write.
        folder: Made if it does not exist; other files in it stay.

    Returns:
        Paths of the arrays and of the configuration.
    """
    from safetensors.numpy import save

    target = Path(folder)
    with atomic_path(target / TENSORS_NAME) as temporary:
        temporary.write_bytes(save(codebook.to_tensors(), metadata={"format": "np"}))
    write_json(target / CONFIG_NAME, make_config(codebook))
    return str(target / TENSORS_NAME), str(target / CONFIG_NAME)


def codebook_from_files(tensors_path: str | Path, config_path: str | Path) -> Codebook:
    """Load a codebook from its two files, wherever they lie.

    Args:
        tensors_path: The ``codebook.safetensors``.
        config_path: The ``codebook_config.json``.

    Returns:
        The codebook.

    Raises:
        ArtifactError: A file is missing, damaged, or of an unknown format version; its path is named.
    """
    config = read_json(config_path, what="the codebook's configuration")
    file = open_tensors(tensors_path, "the codebook's arrays")
    try:
        _check_config(config)
        for name, dtype in _DTYPES.items():  # before anything is read; what else a quantiser has is checked after it
            if name in file.tensors and file.tensors[name].dtype != _TYPE_NAMES[dtype]:
                raise ArtifactError(f"codebook array {name}: expected {dtype}, got {file.tensors[name].dtype}")
        tensors = file.arrays()
        return codebook_from_parts(tensors, config)
    except ArtifactError as error:
        raise ArtifactError(str(error), path=Path(config_path).parent) from error


def load_codebook(
    source: str | Path,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Codebook:
    """Load a codebook from a folder or a Hub repository.

    Args:
        source: Folder, or repository id such as ``user/name``.
        revision: Branch, tag or commit of the repository.
        subfolder: Folder inside ``source``.
        token: Hub token, if the repository is private.
        cache_dir: Where downloads are kept.
        local_files_only: Use only what has been downloaded before.

    Returns:
        The codebook.

    Raises:
        ArtifactError: Neither a folder nor a repository with a codebook, or a damaged one.
    """
    folder = Path(source)
    if folder.is_file():
        raise ArtifactError(f"expected the folder that holds {CONFIG_NAME}, got a file", path=folder)
    if folder.exists():
        inner = folder / subfolder if subfolder else folder
        return codebook_from_files(inner / TENSORS_NAME, inner / CONFIG_NAME)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    paths = []
    for name in (TENSORS_NAME, CONFIG_NAME):
        try:
            paths.append(
                hf_hub_download(
                    str(source),
                    name,
                    revision=revision,
                    subfolder=subfolder,
                    token=token,
                    cache_dir=cache_dir,
                    local_files_only=local_files_only,
                )
            )
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ArtifactError(
                f"expected a folder or a Hub repository with {name}, got neither ({reason})", path=str(source)
            ) from error
    return codebook_from_files(paths[0], paths[1])
