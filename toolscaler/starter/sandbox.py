"""The folder in which the starter's file tools may work: every path is resolved inside it, nothing leads out.

The folder is, in this order: the one of the innermost :func:`sandbox` block, the environment variable
``TOOLSCALER_SANDBOX``, or a private temporary folder that is made on first use and removed when Python ends.

The checks guard against wrong or careless paths of a model's tool call. They are no barrier against another process
that swaps files for links while a call runs.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

#: Environment variable that names the sandbox folder.
SANDBOX_VARIABLE = "TOOLSCALER_SANDBOX"
#: Largest file, in bytes, that a tool reads, writes or copies.
MAX_FILE_BYTES = 1_000_000
#: Most folder entries that a tool walks over in one call.
MAX_ENTRIES = 10_000
_MAX_NAME_BYTES = 200  # leaves room for the suffix of a temporary file beside it
_MAX_PATH_CHARACTERS = 1000

_FOLDER: ContextVar[Path | None] = ContextVar("toolscaler_sandbox", default=None)


@contextmanager
def sandbox(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Let the file tools work in ``folder`` inside a ``with`` block (this thread or task only).

    Args:
        folder: An existing folder, or one to make.

    Yields:
        The folder, links resolved.

    Raises:
        ValueError: ``folder`` is a file.
    """
    token = _FOLDER.set(_prepared(Path(folder)))
    try:
        yield sandbox_folder()
    finally:
        _FOLDER.reset(token)


def sandbox_folder() -> Path:
    """Give the folder that the file tools work in now, links resolved; it exists.

    Raises:
        ValueError: ``TOOLSCALER_SANDBOX`` names a file.
    """
    chosen = _FOLDER.get()
    if chosen is not None:
        return _prepared(chosen)
    named = os.environ.get(SANDBOX_VARIABLE)
    return _prepared(Path(named)) if named else Path(_private_folder().name).resolve()


@lru_cache(maxsize=1)
def _private_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="toolscaler-sandbox-")


def _prepared(folder: Path) -> Path:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"the sandbox must be a folder, {str(folder)!r} is a file")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def resolve_in_sandbox(path: str, *, follow: bool = True) -> Path:
    """Give the real path of a name inside the sandbox.

    Args:
        path: Relative path with ``/`` between names; ``.`` is the sandbox itself.
        follow: Follow a link at the end of the path; ``False`` gives the link itself (to delete or rename it). Where
            a link leads is checked either way.

    Returns:
        Absolute path inside the sandbox; it need not exist.

    Raises:
        ValueError: The path is empty, absolute, too long, holds ``..``, a backslash or a control character, or a
            link in it leads out of the sandbox.
    """
    if not isinstance(path, str) or not path.strip():
        raise ValueError("path: expected a relative path such as 'notes/todo.txt', got nothing")
    if len(path) > _MAX_PATH_CHARACTERS or any(len(name.encode()) > _MAX_NAME_BYTES for name in path.split("/")):
        raise ValueError(f"path: too long, at most {_MAX_PATH_CHARACTERS} characters and {_MAX_NAME_BYTES} a name")
    if "\\" in path or any(ord(character) < 32 for character in path):
        raise ValueError(f"path: use '/' between names and no control characters, got {path!r}")
    if path.startswith(("/", "~")) or path[1:2] == ":":
        raise ValueError(f"path: expected a path relative to the sandbox, got {path!r}")
    if ".." in path.split("/"):
        raise ValueError(f"path: '..' is not allowed, got {path!r}")
    root = sandbox_folder()
    plain = root / path
    try:
        real = plain.resolve()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"path: a link in {path!r} cannot be followed: {error}") from error
    if not real.is_relative_to(root):
        raise ValueError(f"path: {path!r} leads out of the sandbox through a link")
    return real if follow or plain == root else plain.parent.resolve() / plain.name


def sandbox_name(path: Path) -> str:
    """Give the relative name, with ``/``, of a resolved path in the sandbox (``.`` for the sandbox itself)."""
    return path.relative_to(sandbox_folder()).as_posix()


def walk_sandbox(folder: Path, *, recursive: bool = True) -> Iterator[Path]:
    """Yield the entries of ``folder``, sorted by name within each folder.

    Links that lead out of the sandbox are left out; links to folders are not entered.

    Args:
        folder: Resolved folder inside the sandbox.
        recursive: Whether to go down into its folders.

    Raises:
        ValueError: More than :data:`MAX_ENTRIES` entries.
    """
    seen = 0
    pending = [folder]
    while pending:
        current = pending.pop()
        entries = sorted(filter(_leads_inside, current.iterdir()), key=lambda entry: entry.name)
        seen += len(entries)
        if seen > MAX_ENTRIES:
            raise ValueError(f"folder: more than {MAX_ENTRIES} entries; name a smaller folder")
        yield from entries
        if not recursive:
            return
        pending += [entry for entry in reversed(entries) if entry.is_dir() and not entry.is_symlink()]


def _leads_inside(entry: Path) -> bool:
    if not entry.is_symlink():
        return True
    try:
        return entry.resolve().is_relative_to(sandbox_folder())
    except (OSError, RuntimeError):  # a link that leads round in a circle
        return False
