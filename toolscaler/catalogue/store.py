"""The folder of a catalogue: new contents of a few files go in, the folder has all of them at once or none.

The other files, the weights above all, are not read, hashed or copied: the new folder has links to them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from toolscaler._files import atomic_folder, read_bytes, recover_folder
from toolscaler.errors import ArtifactError, CatalogueError
from toolscaler.hub.manifest import MANIFEST_NAME, ArtifactManifest, FileSum

_MAX_BYTES = 1 << 34
_POLL_SECONDS = 0.02


def check_folder(folder: str | Path) -> Path:
    """Give the folder as an absolute path after a check that it may be changed.

    Raises:
        ArtifactError: It is no folder, or a copy of the Hub's that other programs rely on.
    """
    path = Path(folder)
    recover_folder(path)
    path = path.resolve()
    if not path.is_dir():
        raise ArtifactError("expected the folder of a saved model, found none", path=folder)
    if "snapshots" in path.parts and any(part.startswith("models--") for part in path.parts):
        raise ArtifactError(
            "this folder belongs to the download cache of the Hub; make a copy of your own first: "
            "`toolscaler tools pull REPO FOLDER`, or toolscaler.catalogue.ToolCatalogue.pull",
            path=folder,
        )
    return path


@contextmanager
def exclusive(folder: Path, timeout: float = 60.0) -> Iterator[None]:
    """Keep other writers out; readers are not held up. Where the system has no ``flock`` nobody is kept out.

    Args:
        folder: The folder.
        timeout: Seconds to wait for another writer.

    Raises:
        CatalogueError: Another process goes on writing.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    deadline = time.monotonic() + timeout
    while True:
        handle = os.open(folder, os.O_RDONLY)
        try:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise CatalogueError(
                            f"another process has been changing {folder} for {timeout:g} s; try again later"
                        ) from None
                    time.sleep(_POLL_SECONDS)
            # A writer replaces the folder: the lock may be on one that is gone.
            if os.path.samestat(os.fstat(handle), folder.stat()):
                yield
                return
        finally:
            os.close(handle)


def replace_files(folder: Path, contents: Mapping[str, bytes | Path], gone: Sequence[str] = ()) -> None:
    """Give some files at the top of a folder new contents, all in one step, and the manifest their new sums.

    Args:
        folder: The folder; with a manifest (``toolscaler.json``) or without.
        contents: Name -> what the file holds, or a file to move there.
        gone: Patterns of files at the top that are not there any more, but for those in ``contents``.

    Raises:
        ArtifactError: The manifest is damaged.
    """
    old = {path.name for pattern in gone for path in folder.glob(pattern)} - contents.keys()
    changed: dict[str, bytes | Path] = dict(contents)
    if (folder / MANIFEST_NAME).is_file():
        manifest = ArtifactManifest.load(folder)
        files = {name: entry for name, entry in manifest.files.items() if name not in old}
        files |= {name: _sum_of(data) for name, data in contents.items()}
        sealed = replace(manifest, files=dict(sorted(files.items()))).to_dict()
        changed[MANIFEST_NAME] = (json.dumps(sealed, ensure_ascii=False, indent=2) + "\n").encode()
    with atomic_folder(folder) as target:
        _link_tree(folder, target, old | changed.keys())
        for name, data in changed.items():
            if isinstance(data, Path):
                shutil.move(data, target / name)
            else:
                (target / name).write_bytes(data)
            (target / name).chmod(0o644)


def _sum_of(data: bytes | Path) -> FileSum:
    if isinstance(data, bytes):
        return FileSum(len(data), hashlib.sha256(data).hexdigest())
    digest = hashlib.sha256()
    with data.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return FileSum(data.stat().st_size, digest.hexdigest())


def read_checked(folder: Path, manifest: ArtifactManifest | None, name: str) -> bytes:
    """Read a file of an artefact and compare it with its sum; empty where it does not exist.

    Raises:
        ArtifactError: It is not what the manifest says.
    """
    path = folder / name
    listed = None if manifest is None else manifest.files.get(name)
    if manifest is not None and (listed is not None) != path.is_file():
        raise ArtifactError(f"{name} and the manifest do not agree; fetch the artefact again", path=folder)
    if not path.is_file():
        return b""
    data = read_bytes(path, _MAX_BYTES)
    if listed is not None and listed != FileSum(len(data), hashlib.sha256(data).hexdigest()):
        raise ArtifactError(
            "expected the sum in the manifest: the file is damaged or was changed; fetch the artefact again, or, if "
            "you changed it yourself, call toolscaler.hub.seal_artifact(folder)",
            path=path,
        )
    return data


def copy_tree(source: Path, target: Path) -> None:
    """Copy the files of an artefact as files of one's own, links followed.

    Raises:
        ArtifactError: The target exists already.
    """
    if target.exists():
        raise ArtifactError("expected a folder that does not exist yet", path=target)
    with atomic_folder(target) as inside:
        for path in sorted(source.rglob("*")):
            copy = inside / path.relative_to(source)
            if path.is_dir():
                copy.mkdir(parents=True, exist_ok=True)
            elif path.is_file():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)


def _link_tree(source: Path, target: Path, leave_out: set[str]) -> None:
    """Link every file; files at the top whose names are in ``leave_out`` are not."""
    for root, folders, files in os.walk(source):
        inside = target / Path(root).relative_to(source)
        for name in folders:
            path = Path(root) / name
            if path.is_symlink():
                (inside / name).symlink_to(path.readlink())
            else:
                (inside / name).mkdir()
        for name in files:
            temporary = name.startswith(".") and name.endswith(".tmp")
            if not temporary and not (inside == target and name in leave_out):
                _link(Path(root) / name, inside / name)


def _link(source: Path, target: Path) -> None:
    if source.is_symlink():
        target.symlink_to(source.readlink())
        return
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
