"""Files: real files in the sandbox folder (see :mod:`toolscaler.starter.sandbox`)."""

from __future__ import annotations

import fnmatch
import shutil
from pathlib import Path
from typing import Any, Literal

from toolscaler._files import atomic_path
from toolscaler.starter.registry import starter_tool
from toolscaler.starter.sandbox import (
    MAX_FILE_BYTES,
    resolve_in_sandbox,
    sandbox_folder,
    sandbox_name,
    walk_sandbox,
)

_MAX_MATCHES = 1000


def _existing_file(path: str, *, follow: bool = True) -> Path:
    file = resolve_in_sandbox(path, follow=follow)
    if file.is_dir():
        raise ValueError(f"path: {path!r} is a folder, expected a file")
    if not file.is_file():
        raise ValueError(f"path: there is no file {path!r}")
    return file


def _existing_folder(path: str) -> Path:
    folder = resolve_in_sandbox(path)
    if not folder.is_dir():
        raise ValueError(f"folder: there is no folder {path!r}")
    return folder


def _checked_size(file: Path, size: int | None = None) -> None:
    size = file.stat().st_size if size is None else size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{sandbox_name(file)!r}: {size} bytes, at most {MAX_FILE_BYTES} are allowed")


def _read(file: Path) -> str:
    _checked_size(file)
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{sandbox_name(file)!r}: not a UTF-8 text file") from error


def _write(file: Path, text: str) -> int:
    data = text.encode("utf-8")
    _checked_size(file, len(data))
    _checked_parents(file)
    with atomic_path(file) as temporary:
        temporary.write_bytes(data)
    return len(data)


def _checked_parents(file: Path) -> None:
    for parent in file.parents:
        if parent.exists() and not parent.is_dir():
            raise ValueError(f"path: {sandbox_name(parent)!r} is a file, it cannot hold other files")
        if parent == sandbox_folder():
            return


def _free_target(path: str, overwrite: bool) -> Path:
    target = resolve_in_sandbox(path)
    if target.is_dir():
        raise ValueError(f"path: {path!r} is a folder, expected a file name")
    if target.exists() and not overwrite:
        raise ValueError(f"path: {path!r} exists already; pass overwrite=true to replace it")
    _checked_parents(target)
    return target


@starter_tool("Files")
def read_text_file(path: str) -> str:
    """Read a text file and give its whole content.

    Opens a document such as a note, log, configuration or source file and shows what is written in it. Use it to look
    inside a file whose name is known.

    Args:
        path: File to open, relative to the working folder, for example ``notes/todo.txt``.

    Returns:
        The text of the file.

    Raises:
        ValueError: The file is missing, too large or no UTF-8 text, or the path leads out of the working folder.
    """
    return _read(_existing_file(path))


@starter_tool("Files")
def write_text_file(path: str, content: str, overwrite: bool = False) -> dict[str, Any]:
    """Save text as a file, making a new document or replacing an old one.

    Stores the given content on disk under a name; folders on the way are made. An existing file is only replaced when
    overwriting is allowed.

    Args:
        path: Name of the file to create, relative to the working folder, for example ``letters/reply.txt``.
        content: The text to put into the file.
        overwrite: Whether an existing file of that name may be replaced.

    Returns:
        The saved file's path and its size in bytes.

    Raises:
        ValueError: The file exists and overwriting is not allowed, the text is too long, or the path is not allowed.
    """
    file = _free_target(path, overwrite)
    return {"path": sandbox_name(file), "bytes": _write(file, content)}


@starter_tool("Files")
def append_to_file(path: str, content: str) -> dict[str, Any]:
    """Add text at the end of a file and keep what is already there.

    Good for logs, journals and running lists: the new entry goes onto a line of its own below the last one. A missing
    file is started.

    Args:
        path: File to extend, relative to the working folder, for example ``logs/today.log``.
        content: Text to add at the bottom.

    Returns:
        The file's path and its new size in bytes.

    Raises:
        ValueError: The path is a folder or not allowed, or the file would become too large.
    """
    file = resolve_in_sandbox(path)
    old = _read(_existing_file(path)) if file.exists() else ""
    separator = "\n" if old and not old.endswith("\n") else ""
    return {"path": sandbox_name(file), "bytes": _write(file, f"{old}{separator}{content}")}


@starter_tool("Files")
def list_folder(folder: str = ".", recursive: bool = False) -> list[dict[str, Any]]:
    """List what a folder (directory) contains, with kind and size of each entry.

    Shows the files and subfolders that are there, like ``ls`` or ``dir``; with ``recursive`` also everything in the
    subfolders, as a tree.

    Args:
        folder: Folder to look into, relative to the working folder; ``.`` is the working folder itself.
        recursive: Whether to go down into subfolders as well.

    Returns:
        One record an entry, sorted by path: path, kind (``file`` or ``folder``) and size in bytes (null for folders).

    Raises:
        ValueError: There is no such folder, it has too many entries, or the path is not allowed.
    """
    entries = walk_sandbox(_existing_folder(folder), recursive=recursive)
    records: list[dict[str, Any]] = []
    for entry in sorted(entries):
        kind: Literal["file", "folder"] = "folder" if entry.is_dir() else "file"
        size = entry.stat().st_size if entry.is_file() else None
        records.append({"path": sandbox_name(entry), "kind": kind, "bytes": size})
    return records


@starter_tool("Files")
def create_folder(path: str) -> dict[str, Any]:
    """Make a new, empty folder (directory), including the folders above it.

    Use it to set up a place for files before they exist. A folder that is already there stays as it is.

    Args:
        path: Folder to make, relative to the working folder, for example ``projects/2024/drafts``.

    Returns:
        The folder's path and whether it was newly created.

    Raises:
        ValueError: A file has that name, or the path is not allowed.
    """
    folder = resolve_in_sandbox(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"path: {path!r} is a file already")
    _checked_parents(folder)
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    return {"path": sandbox_name(folder), "created": created}


@starter_tool("Files")
def delete_file(path: str) -> dict[str, Any]:
    """Delete a single file for good.

    Removes, erases or throws away a file that is no longer wanted. Folders are never removed.

    Args:
        path: File to remove, relative to the working folder, for example ``old/draft.txt``.

    Returns:
        The path of the removed file and how many bytes were freed.

    Raises:
        ValueError: There is no such file, it is a folder, or the path is not allowed.
    """
    file = _existing_file(path, follow=False)
    freed = file.lstat().st_size
    file.unlink()
    return {"path": sandbox_name(file), "bytes_freed": freed}


@starter_tool("Files")
def copy_file(source: str, destination: str, overwrite: bool = False) -> dict[str, Any]:
    """Copy a file, so that the same content exists twice.

    Makes a duplicate or a backup under another name or in another folder; the original stays where it is.

    Args:
        source: File to duplicate, relative to the working folder, for example ``report.txt``.
        destination: Name of the copy, relative to the working folder, for example ``backup/report.txt``.
        overwrite: Whether an existing file at the destination may be replaced.

    Returns:
        Source, destination and the number of bytes copied.

    Raises:
        ValueError: The source is missing or too large, the destination exists already, or a path is not allowed.
    """
    original = _existing_file(source)
    _checked_size(original)
    target = _free_target(destination, overwrite)
    if target == original:
        raise ValueError(f"destination: {destination!r} is the source itself")
    with atomic_path(target) as temporary:
        shutil.copyfile(original, temporary)
    return {"source": sandbox_name(original), "destination": sandbox_name(target), "bytes": target.stat().st_size}


@starter_tool("Files")
def move_file(source: str, destination: str, overwrite: bool = False) -> dict[str, Any]:
    """Move a file to another folder or give it a new name.

    Renames or relocates a file; afterwards nothing is left at the old place.

    Args:
        source: File to rename or relocate, relative to the working folder, for example ``inbox/scan1.txt``.
        destination: New path of the file, relative to the working folder, for example ``bills/march.txt``.
        overwrite: Whether an existing file at the destination may be replaced.

    Returns:
        The old and the new path.

    Raises:
        ValueError: The source is missing, the destination exists already, or a path is not allowed.
    """
    original = _existing_file(source, follow=False)
    target = _free_target(destination, overwrite)
    if target == original:
        raise ValueError(f"destination: {destination!r} is the source itself")
    target.parent.mkdir(parents=True, exist_ok=True)
    original.replace(target)
    return {"source": sandbox_name(original), "destination": sandbox_name(target)}


@starter_tool("Files")
def find_files_by_name(pattern: str, folder: str = ".") -> list[str]:
    """Find files whose name matches a pattern, in a folder and all folders below it.

    Locates files by extension or by part of the file name when it is unknown where they lie. The content of the files
    is not looked at.

    Args:
        pattern: File name with the wildcards ``*`` (anything), ``?`` (one character) and ``[abc]``, for example
            ``*.csv`` or ``report_20??.txt``. Upper and lower case are the same.
        folder: Folder to start in, relative to the working folder; ``.`` is the working folder itself.

    Returns:
        Paths of the matching files, sorted.

    Raises:
        ValueError: The pattern is empty or holds ``/``, there is no such folder, or the path is not allowed.
    """
    if not pattern.strip() or "/" in pattern:
        raise ValueError(f"pattern: expected a file name pattern without '/', got {pattern!r}")
    lowered = pattern.lower()
    found = (entry for entry in walk_sandbox(_existing_folder(folder)) if entry.is_file())
    return sorted(sandbox_name(entry) for entry in found if fnmatch.fnmatchcase(entry.name.lower(), lowered))


@starter_tool("Files")
def search_in_files(text: str, folder: str = ".", ignore_case: bool = True) -> list[dict[str, Any]]:
    """Search the content of all files in a folder for a word or phrase, like ``grep``.

    Tells which files mention something and on which line. Subfolders are searched too; files that are no text or too
    large are left out.

    Args:
        text: Word or phrase to look for; taken literally.
        folder: Folder to start in, relative to the working folder; ``.`` is the working folder itself.
        ignore_case: Whether upper and lower case count as the same.

    Returns:
        One record a matching line, sorted: path, line number (from 1) and the line's text. At most 1000 records.

    Raises:
        ValueError: The text is empty, there is no such folder, or the path is not allowed.
    """
    if not text.strip():
        raise ValueError("text: expected a word or phrase to look for, got nothing")
    wanted = text.casefold() if ignore_case else text
    matches: list[dict[str, Any]] = []
    for entry in sorted(walk_sandbox(_existing_folder(folder))):
        if not entry.is_file():
            continue
        try:
            lines = _read(entry).splitlines()
        except ValueError:
            continue
        for number, line in enumerate(lines, start=1):
            if wanted in (line.casefold() if ignore_case else line):
                matches.append({"path": sandbox_name(entry), "line": number, "text": line})
    return matches[:_MAX_MATCHES]


@starter_tool("Files")
def replace_in_file(path: str, old: str, new: str) -> dict[str, Any]:
    """Replace every occurrence of a piece of text inside a file and save it.

    Edits a stored document in place: swaps one word, value or phrase for another everywhere in it, like find and
    replace in an editor.

    Args:
        path: File to edit, relative to the working folder, for example ``config/settings.ini``.
        old: Text to look for; taken literally, upper and lower case differ.
        new: Text to put in its place; may be empty to remove the old text.

    Returns:
        The file's path and the number of replacements.

    Raises:
        ValueError: The old text is empty or not in the file, the file is missing, or the path is not allowed.
    """
    if not old:
        raise ValueError("old: expected the text to replace, got nothing")
    file = _existing_file(path)
    content = _read(file)
    count = content.count(old)
    if not count:
        raise ValueError(f"old: {old!r} does not occur in {path!r}")
    _write(file, content.replace(old, new))
    return {"path": sandbox_name(file), "replacements": count}
