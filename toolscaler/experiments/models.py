"""Where a model lies and what it is: a name of an experiment file in, its place and a hash of its content out."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from toolscaler.errors import ConfigError

_MODULE = "module:"
# Of a large file, its size and both ends tell it from another one; hashing 16 GB of weights for a plan would not do.
_END = 1 << 20
_SUFFIXES = frozenset({".json", ".safetensors", ".bin", ".txt", ".model", ".jinja"})


@dataclass(frozen=True)
class ModelPlace:
    """A model that a job loads.

    Attributes:
        location: What ``from_pretrained`` takes: a folder or a Hub id; or a plain name such as ``scratch`` or ``lsa``.
        identity: What it is, wherever it lies: goes into the fingerprints of jobs.
    """

    location: str
    identity: str


@lru_cache(maxsize=256)
def find_model(name: str) -> ModelPlace:
    """Find a model.

    Args:
        name: A folder, a Hub id, a plain name, or ``module:PACKAGE/PATH``: a folder inside an installed package.

    Raises:
        ConfigError: The package is not installed, or holds no such folder.
    """
    if name.startswith(_MODULE):
        package, _, inside = name.removeprefix(_MODULE).partition("/")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError("model", name, f"an installed package: {package!r} is none")
        folder = Path(next(iter(spec.submodule_search_locations))) / inside
        if not folder.is_dir():
            raise ConfigError("model", name, f"a folder inside the package: {inside!r} is none")
        return ModelPlace(str(folder), _folder_identity(folder))
    path = Path(name)
    if path.is_dir():
        return ModelPlace(str(path.resolve()), _folder_identity(path))
    return ModelPlace(name, name)


def _folder_identity(folder: Path) -> str:
    found = hashlib.sha256()
    for file in sorted(item for item in folder.iterdir() if item.is_file() and item.suffix in _SUFFIXES):
        size = file.stat().st_size
        with file.open("rb") as opened:
            found.update(f"{file.name}\0{size}\0".encode())
            found.update(opened.read(_END))
            if size > 2 * _END:
                opened.seek(-_END, 2)
            found.update(opened.read())
    return f"sha256:{found.hexdigest()}"
