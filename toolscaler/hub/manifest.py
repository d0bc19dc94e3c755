"""The manifest of an artefact: which files belong to it, their sizes and SHA-256 sums, and the base it stands on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from toolscaler._files import read_json, write_json
from toolscaler._version import __version__
from toolscaler.errors import ArtifactError

#: Name of the manifest in the folder of an artefact.
MANIFEST_NAME = "toolscaler.json"
#: Version of the layout that this library writes; it reads this one and no other.
FORMAT_VERSION = 1

Kind = Literal["model", "adapter"]

_MAX_MANIFEST_BYTES = 1 << 24
_MAX_FILES = 10_000
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_SUM = re.compile(r"[0-9a-f]{64}")
#: ``user/name`` or ``name``, as the Hub spells it.
REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_KEYS = {"format_version", "toolscaler_version", "kind", "base", "base_tokenizer_sha256", "files"}
_BASE_KEYS = {"name", "revision", "dtype", "vocab_rows", "weights"}
# Files of these kinds would be read by some loader although no sum vouches for them.
_READ_BY_LOADERS = {".json", ".jsonl", ".safetensors", ".jinja", ".model", ".txt", ".py", ".bin", ".pt", ".pth", ".pkl"}
_FOLDERS = ("", "compressor", "additional_chat_templates")
# People edit these on the Hub; nothing reads them but people.
_UNSEALED = {"README.md", "requirements.txt", "LICENSE.txt", "NOTICE.txt"}


@dataclass(frozen=True)
class FileSum:
    """Size in bytes and SHA-256 sum of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class BaseModel:
    """The model that an adapter belongs on.

    Attributes:
        name: Hub id; ``None`` where the base has none and the loader must be given it.
        revision: Commit, branch or tag; ``None`` for the newest.
        dtype: Type of the weights that the adapter was trained on, for example ``float32``.
        vocab_rows: Rows of its embedding matrix after the code rows were added.
        weights: Checksum of its weights, code rows left out (:func:`toolscaler.hub.checksums.base_checksum`).
    """

    name: str | None
    revision: str | None
    dtype: str
    vocab_rows: int
    weights: str


@dataclass(frozen=True)
class ArtifactManifest:
    """What ``toolscaler.json`` says.

    Attributes:
        kind: ``model`` (all weights) or ``adapter`` (LoRA and code rows).
        files: Name, with ``/`` between folder and file -> size and sum.
        base_tokenizer_sha256: Hash of the tokenizer without its codes
            (:func:`toolscaler.hub.checksums.tokenizer_sha256`).
        base: Of an adapter: what it belongs on.
        toolscaler_version: The release that wrote it.
    """

    kind: Kind
    files: Mapping[str, FileSum]
    base_tokenizer_sha256: str
    base: BaseModel | None = None
    toolscaler_version: str = __version__

    def to_dict(self) -> dict[str, Any]:
        """Give the content of the file."""
        base = None if self.base is None else {key: getattr(self.base, key) for key in sorted(_BASE_KEYS)}
        return {
            "format_version": FORMAT_VERSION,
            "toolscaler_version": self.toolscaler_version,
            "kind": self.kind,
            "base": base,
            "base_tokenizer_sha256": self.base_tokenizer_sha256,
            "files": {name: {"size": self.files[name].size, "sha256": self.files[name].sha256} for name in self.files},
        }

    @classmethod
    def from_dict(cls, data: Any, path: str | Path | None = None) -> ArtifactManifest:
        """Read the content of the file.

        Raises:
            ArtifactError: It is of a newer version, keys are missing or unexpected, or a value is out of bounds.
        """
        if not isinstance(data, dict) or "format_version" not in data:
            raise ArtifactError(f"expected a manifest with format_version, got {_short(data)}", path=path)
        version = data["format_version"]
        if type(version) is not int or version != FORMAT_VERSION:
            written = data.get("toolscaler_version")
            by = f" (written by toolscaler {written:.20})" if isinstance(written, str) else ""
            raise ArtifactError(
                f"expected format_version {FORMAT_VERSION}, got {_short(version)}{by}; install that release or a newer "
                "one (pip install -U toolscaler), or load an older revision of the artefact",
                path=path,
            )
        _refuse_keys(data, _KEYS, "the manifest", path)
        if data["kind"] not in ("model", "adapter") or not isinstance(data["toolscaler_version"], str):
            raise ArtifactError(f"kind: expected 'model' or 'adapter', got {_short(data['kind'])}", path=path)
        if not _is_sum(data["base_tokenizer_sha256"]):
            raise ArtifactError("base_tokenizer_sha256: expected 64 hexadecimal digits", path=path)
        base = None if data["base"] is None else _base_of(data["base"], path)
        if (base is None) != (data["kind"] == "model"):
            raise ArtifactError("base: expected for an adapter, and for nothing else", path=path)
        sums = _files_of(data["files"], path)
        return cls(data["kind"], sums, data["base_tokenizer_sha256"], base, data["toolscaler_version"])

    @classmethod
    def load(cls, folder: str | Path) -> ArtifactManifest:
        """Read the manifest of a folder.

        Raises:
            ArtifactError: There is none, or it cannot be read.
        """
        path = Path(folder) / MANIFEST_NAME
        return cls.from_dict(read_json(path, what="the manifest of an artefact", max_bytes=_MAX_MANIFEST_BYTES), path)

    def verify(self, folder: str | Path, *, sums: bool = True) -> None:
        """Compare a folder with the manifest.

        Args:
            folder: The artefact.
            sums: Read every file and compare its SHA-256 sum; ``False`` compares names and sizes only.

        Raises:
            ArtifactError: Files are missing, cut, changed or unexpected; they are named.
        """
        root = Path(folder)
        missing = sorted(name for name in self.files if not (root / name).is_file())
        unexpected = sorted(set(_readable_files(root)) - self.files.keys())
        if missing or unexpected:
            raise ArtifactError(
                f"files: missing {_short(missing)}, unexpected {_short(unexpected)}; fetch the artefact again, or, if "
                "you changed it yourself, call toolscaler.hub.seal_artifact(folder)",
                path=folder,
            )
        for name, expected in self.files.items():
            size = (root / name).stat().st_size
            if size != expected.size or (sums and _file_sum(root / name).sha256 != expected.sha256):
                what = f"{expected.size} bytes, got {size}" if size != expected.size else "the sum in the manifest"
                raise ArtifactError(
                    f"expected {what}: the file is damaged or was changed; fetch the artefact again, or, if you "
                    "changed it yourself, call toolscaler.hub.seal_artifact(folder)",
                    path=root / name,
                )


def seal_artifact(
    folder: str | Path,
    *,
    kind: Kind | None = None,
    base: BaseModel | None = None,
    base_tokenizer_sha256: str | None = None,
) -> ArtifactManifest:
    """Write the manifest of a folder: sums of all files that loaders read, as they lie there now.

    Args:
        folder: The artefact.
        kind: As in the manifest; default: what the present manifest says. So for the next two.
        base: What an adapter belongs on.
        base_tokenizer_sha256: Hash of the tokenizer without its codes.

    Returns:
        The manifest.

    Raises:
        ArtifactError: The folder has no manifest yet and something is not given, or a file has a name that no manifest
            may hold.
    """
    if kind is None or base_tokenizer_sha256 is None:
        old = ArtifactManifest.load(folder)
        kind, base = kind or old.kind, base or old.base
        base_tokenizer_sha256 = base_tokenizer_sha256 or old.base_tokenizer_sha256
    root = Path(folder)
    names = _readable_files(root)
    for name in names:
        if not is_safe_name(name):
            raise ArtifactError(f"expected a file name of letters, digits and ._-, got {name!r:.200}", path=folder)
    made = ArtifactManifest(kind, {name: _file_sum(root / name) for name in names}, base_tokenizer_sha256, base)
    write_json(root / MANIFEST_NAME, made.to_dict())
    return made


def is_safe_name(name: Any) -> bool:
    """Tell whether a name from a file stays inside its folder on every system."""
    if not isinstance(name, str) or len(name) > 200:
        return False
    parts = name.split("/")
    return len(parts) <= 2 and all(_NAME.fullmatch(part) and ".." not in part for part in parts)


def _readable_files(root: Path) -> list[str]:
    """List what loaders would read in a folder: files of their kinds, at the top and beside the compressor."""
    found = []
    for part in _FOLDERS:
        inside = root / part
        for path in sorted(inside.iterdir()) if inside.is_dir() else []:
            if path.suffix in _READ_BY_LOADERS and path.name not in _UNSEALED and path.is_file():
                name = str(PurePosixPath(part) / path.name)
                if name != MANIFEST_NAME and not path.name.startswith("."):
                    found.append(name)
    return found


def _file_sum(path: Path) -> FileSum:
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise ArtifactError(f"expected a file that can be read, got: {error}", path=path) from error
    return FileSum(size, digest.hexdigest())


def _files_of(value: Any, path: str | Path | None) -> dict[str, FileSum]:
    if not isinstance(value, dict) or not value or len(value) > _MAX_FILES:
        raise ArtifactError("files: expected a table of files", path=path)
    files = {}
    for name, entry in value.items():
        if not is_safe_name(name) or name == MANIFEST_NAME:
            raise ArtifactError(f"files: expected names inside the folder, got {_short(name)}", path=path)
        if not isinstance(entry, dict) or entry.keys() != {"size", "sha256"}:
            raise ArtifactError(f"files: expected size and sha256 of {name}", path=path)
        size = entry["size"]
        if type(size) is not int or not 0 <= size < 1 << 48 or not _is_sum(entry["sha256"]):
            raise ArtifactError(f"files: expected a size and 64 hexadecimal digits for {name}", path=path)
        files[name] = FileSum(size, entry["sha256"])
    if len({name.casefold() for name in files}) != len(files):
        raise ArtifactError("files: expected names that differ by more than their case", path=path)
    return files


def _base_of(value: Any, path: str | Path | None) -> BaseModel:
    if not isinstance(value, dict):
        raise ArtifactError(f"base: expected a table, got {_short(value)}", path=path)
    _refuse_keys(value, _BASE_KEYS, "base", path)
    name, revision, rows = value["name"], value["revision"], value["vocab_rows"]
    wrong = next(
        (
            key
            for key, fits in (
                ("name", name is None or _matches(REPO_ID, name)),
                ("revision", revision is None or (_matches(_REVISION, revision) and ".." not in revision)),
                ("dtype", value["dtype"] in ("float32", "float16", "bfloat16")),
                ("vocab_rows", type(rows) is int and 0 < rows < 1 << 24),
                ("weights", _matches(re.compile("[0-9a-f]{32}"), value["weights"])),
            )
            if not fits
        ),
        None,
    )
    if wrong is not None:
        raise ArtifactError(f"base.{wrong}: got {_short(value[wrong])}; the manifest is damaged", path=path)
    return BaseModel(name, revision, value["dtype"], rows, value["weights"])


def _refuse_keys(found: Mapping[str, Any], wanted: set[str], what: str, path: str | Path | None) -> None:
    missing, unexpected = sorted(wanted - found.keys()), sorted(found.keys() - wanted)
    if missing or unexpected:
        raise ArtifactError(f"{what}: missing keys {missing}, unexpected keys {_short(unexpected)}", path=path)


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_sum(value: Any) -> bool:
    return _matches(_SUM, value)


def _short(value: Any) -> str:
    """Show a value from a file: JSON of at most 200 characters, so that it cannot forge lines of a log."""
    return json.dumps(value, default=str)[:200]
