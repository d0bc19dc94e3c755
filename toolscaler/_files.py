"""Write files so that a reader sees the old content or the new one, never half of it; read them without trust."""

from __future__ import annotations

import ctypes
import errno
import glob
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from toolscaler.errors import ArtifactError

#: Largest JSON file that is read when the caller names no limit, in bytes.
MAX_JSON_BYTES = 1 << 30

_OLD, _NEW = ".old", ".tmp"
# What a killed writer left is deleted by the next one; a folder this young may be one that is just being locked.
_SWEEP_AFTER_SECONDS = 60.0


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it is flushed to disk and renamed to ``path``.

    Args:
        path: Final file path; its folder is made if it does not exist.

    Yields:
        Path to write to. If the block raises, the temporary file is removed and ``path`` stays as it was.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{final.name}.", suffix=_NEW, dir=final.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(final)
        _flush_folder(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically (see :func:`atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, *, indent: int | None = 2) -> None:
    """Write JSON atomically, non-ASCII characters kept, NaN refused, a line break at the end."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False) + "\n")


def read_bytes(path: str | Path, max_bytes: int, what: str = "a file") -> bytes:
    """Read a file that is not larger than ``max_bytes``.

    Args:
        path: The file.
        max_bytes: Its size is looked at before anything is read.
        what: What is expected there, for the error's sentence.

    Raises:
        ArtifactError: The file is missing, no ordinary file, or too large.
    """
    source = Path(path)
    try:
        if not source.is_file():
            found = "something else" if source.exists() else "nothing"
            raise ArtifactError(f"expected {what} here, found {found}", path=path)
        with source.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(size + 1) if size <= max_bytes else None
    except (OSError, ValueError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"expected {what} here, it cannot be read: {error}", path=path) from error
    if data is None or len(data) > max_bytes:
        raise ArtifactError(f"expected {what} of at most {max_bytes} bytes, got a larger file", path=path)
    return data


def read_json(path: str | Path, *, what: str = "a JSON file", max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file.

    A key that comes twice in one object, NaN and infinity are damage, not a choice of the last one.

    Args:
        path: The file.
        what: What is expected there, for the error's sentence.
        max_bytes: Largest size.

    Raises:
        ArtifactError: The file is missing, too large, not UTF-8 or not JSON.
    """
    return parse_json(read_bytes(path, max_bytes, what), path, what=what)


def parse_json(data: bytes, path: str | Path, *, what: str = "a JSON file") -> Any:
    """Read JSON from bytes, as strictly as :func:`read_json`.

    Raises:
        ArtifactError: The bytes are not UTF-8 or not JSON; ``path`` is named.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError too
        raise ArtifactError(f"expected {what} (JSON in UTF-8), got: {error}", path=path) from error
    except RecursionError as error:
        raise ArtifactError(f"expected {what}, got JSON that is nested too deeply", path=path) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return table


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside ``path``; on success it takes the place of ``path``.

    Everything in it is flushed to disk first. Where the system can exchange two folders in one step (Linux, macOS), a
    kill at any moment leaves the old folder or the new one under ``path``. Elsewhere there is an instant between two
    renames; :func:`recover_folder` then brings the old one back.

    Args:
        path: Final folder. An existing one is replaced only after the block has succeeded.

    Yields:
        Empty folder to fill.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(final)
    _sweep(final)
    temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=_NEW, dir=final.parent))
    lock = _hold(temporary)
    try:
        yield temporary
        temporary.chmod(0o755)
        _flush_tree(temporary)
        if not final.exists():
            temporary.replace(final)
        elif not _exchange(temporary, final):
            _swap_by_renames(temporary, final)
        _flush_folder(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # after an exchange: the old content
        if lock is not None:
            os.close(lock)


def recover_folder(path: str | Path) -> None:
    """Bring back a folder whose replacement was killed between the two renames of :func:`atomic_folder`."""
    final = Path(path)
    if final.exists() or not final.parent.is_dir():
        return
    for kept in sorted(final.parent.glob(f".{glob.escape(final.name)}.*{_OLD}")):
        if (kept / "old").is_dir():
            with suppress(OSError):
                (kept / "old").replace(final)
                kept.rmdir()
            return


def _swap_by_renames(temporary: Path, final: Path) -> None:
    old = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=_OLD, dir=final.parent))
    final.replace(old / "old")
    try:
        temporary.replace(final)
    except OSError:
        (old / "old").replace(final)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; ``False`` where the system or the file system cannot."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        first, second = os.fsencode(one), os.fsencode(other)
        if sys.platform == "linux":
            done = libc.renameat2(-100, first, -100, second, 2)  # AT_FDCWD, RENAME_EXCHANGE
        elif sys.platform == "darwin":
            done = libc.renamex_np(first, second, 2)  # RENAME_SWAP
        else:
            return False
    except (OSError, AttributeError, TypeError):
        return False
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _flush_tree(folder: Path) -> None:
    """Flush every file and folder below ``folder`` to disk."""
    for root, _, files in os.walk(folder):
        for name in files:
            path = Path(root) / name
            if not path.is_symlink():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        _flush_folder(Path(root))


def _flush_folder(folder: Path) -> None:
    """Flush the names in a folder; a system that cannot open folders keeps them safe in its own way."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _hold(folder: Path) -> int | None:
    """Lock a temporary folder for as long as this process lives; ``None`` where folders cannot be locked."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _sweep(final: Path) -> None:
    """Delete temporary folders that killed writers of ``final`` have left; those that still live hold a lock."""
    for leftover in final.parent.glob(f".{glob.escape(final.name)}.*{_NEW}"):
        with suppress(OSError):
            if leftover.is_dir() and time.time() - leftover.stat().st_mtime > _SWEEP_AFTER_SECONDS:
                lock = _hold(leftover)
                if lock is not None:
                    shutil.rmtree(leftover, ignore_errors=True)
                    os.close(lock)
    if final.exists():  # then what was moved aside has been replaced
        for leftover in final.parent.glob(f".{glob.escape(final.name)}.*{_OLD}"):
            with suppress(OSError):
                if time.time() - leftover.stat().st_mtime > _SWEEP_AFTER_SECONDS:
                    shutil.rmtree(leftover, ignore_errors=True)
