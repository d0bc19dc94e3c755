"""What a catalogue's folder says now: its files go in, index, documents and log come out; and the files after a change.

Nothing here writes: :func:`toolscaler.catalogue.store.replace_files` does, all files at once.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from toolscaler._files import parse_json
from toolscaler.catalogue.log import LOG_NAME, CatalogueLog
from toolscaler.catalogue.store import read_checked
from toolscaler.data.documents import ToolDocument
from toolscaler.errors import ArtifactError, CatalogueError, DataError
from toolscaler.hub.artifact import DOCUMENTS_NAME
from toolscaler.hub.manifest import MANIFEST_NAME, ArtifactManifest
from toolscaler.tokenization.tool_index import ToolIndex

#: Documents that no tool has any more, and those of tools in a folder without ``tools.jsonl``; a rollback needs them.
ARCHIVE_NAME = "catalogue_documents.jsonl"
INDEX_NAME = "tool_index.json"

_ATTEMPTS = 20

_Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, eq=False)
class CatalogueState:
    """One state of a catalogue's folder.

    Attributes:
        folder: The folder.
        index: Tools and codes.
        extra: What the tokenizer keeps beside the index in its file.
        log: The changes so far.
        manifest: Of an artefact; ``None`` in a plain model folder.
        lines: Tool id -> its line of ``tools.jsonl``; ``None`` where there is no such file.
        archive_bytes: The file of the archive.
        stamp: Tells whether the files have changed since.
    """

    folder: Path
    index: ToolIndex
    extra: Mapping[str, Any]
    log: CatalogueLog
    manifest: ArtifactManifest | None
    lines: Mapping[str, bytes] | None
    archive_bytes: bytes
    stamp: _Stamp

    @classmethod
    def load(cls, folder: Path) -> CatalogueState:
        """Read a folder; sums are compared for the files that are read, sizes for the others.

        Where a writer replaces the folder at that very moment, it is read again.

        Raises:
            ArtifactError: A file is missing or damaged, or the log is not of this index.
        """
        for _ in range(_ATTEMPTS):
            stamp = stamp_of(folder)
            try:
                state = cls._read(folder, stamp)
            except ArtifactError:
                if stamp_of(folder) == stamp:
                    raise
            else:
                if stamp_of(folder) == stamp:
                    return state
        raise ArtifactError("the folder changes faster than it can be read; try again", path=folder)

    @classmethod
    def _read(cls, folder: Path, stamp: _Stamp) -> CatalogueState:
        manifest = None
        if (folder / MANIFEST_NAME).is_file():
            manifest = ArtifactManifest.load(folder)
            manifest.verify(folder, sums=False)
        data = read_checked(folder, manifest, INDEX_NAME)
        index, extra = ToolIndex.load(folder / INDEX_NAME)
        read_checked(folder, manifest, LOG_NAME)
        log = CatalogueLog.load(folder / LOG_NAME)
        head = log.head
        found = hashlib.sha256(data).hexdigest()
        if head is not None and head.index_sha256 not in (found, sha256_of_index(index, extra)):
            raise ArtifactError(
                f"{INDEX_NAME} is not the one that the last entry of {LOG_NAME} speaks of: something else has changed "
                "the tools; restore both files from a copy, or move the log away to begin a new one here",
                path=folder,
            )
        lines = None
        if (folder / DOCUMENTS_NAME).is_file():
            lines = _lines_of(read_checked(folder, manifest, DOCUMENTS_NAME), index, folder / DOCUMENTS_NAME)
        return cls(folder, index, extra, log, manifest, lines, read_checked(folder, manifest, ARCHIVE_NAME), stamp)

    @cached_property
    def archive(self) -> Mapping[str, ToolDocument]:
        """Content hash -> document that is kept for rollbacks."""
        found = {}
        path = self.folder / ARCHIVE_NAME
        for line in self.archive_bytes.splitlines():
            data = parse_json(line, path, what="a kept document")
            if not isinstance(data, dict) or data.keys() != {"hash", "document"}:
                raise ArtifactError("expected lines with a hash and a document", path=path)
            document = _document(data["document"], path)
            if data["hash"] != document.content_hash:
                raise ArtifactError(f"the document of {document.id!r} is not the one with its hash", path=path)
            found[document.content_hash] = document
        return found

    def document(self, tool_id: str) -> ToolDocument | None:
        """Give the document of a tool; ``None`` where it is not known.

        Raises:
            UnknownToolError: There is no such tool.
            ArtifactError: Its line is damaged.
        """
        row = self.index.row(tool_id)
        if self.lines is not None:
            path = self.folder / DOCUMENTS_NAME
            return _document(parse_json(self.lines[tool_id], path, what="a tool document"), path)
        content = self.index.document_hashes[row]
        return None if content is None else self.archive.get(content)

    def provider(self, tool_id: str) -> str:
        """Give a tool's provider; without its document, what stands before the last ``/`` of its id."""
        if self.lines is not None:  # of all tools this is asked: no document is built for it
            found = json.loads(self.lines[tool_id]).get("provider")
            return found if isinstance(found, str) else ""
        document = self.document(tool_id)
        return tool_id.rpartition("/")[0] if document is None else document.provider

    def hash_of(self, tool_id: str) -> str | None:
        """Give the content hash of a tool's document; ``None`` where neither index nor documents know it."""
        known = self.index.document_hash(tool_id)
        if known is not None:
            return known
        document = self.document(tool_id)
        return None if document is None else document.content_hash

    def contents_after(
        self, index: ToolIndex, log: CatalogueLog, documents: Mapping[str, ToolDocument]
    ) -> dict[str, bytes]:
        """Give the files after a change.

        Args:
            index: The new index.
            log: The new log.
            documents: Id -> document of the tools that are new or have another document.

        Returns:
            File name -> content.

        Raises:
            CatalogueError: The document of a tool that comes back was not kept.
        """
        contents = {
            INDEX_NAME: bytes_of_index(index, self.extra),
            LOG_NAME: _file(self.folder / LOG_NAME) + log.lines(len(self.log)),
        }
        kept: list[ToolDocument]
        if self.lines is None:
            kept = list(documents.values())
        else:
            lines = {name: self._line_after(index, name, documents) for name in index}
            gone = [name for name in self.lines if lines.get(name) != self.lines[name]]
            kept = [document for document in map(self.document, gone) if document is not None]
            contents[DOCUMENTS_NAME] = b"".join(line + b"\n" for line in lines.values())
        added = {item.content_hash: item for item in kept if item.content_hash not in self.archive}
        if added:
            rows = ({"hash": key, "document": item.to_dict()} for key, item in added.items())
            new = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            contents[ARCHIVE_NAME] = self.archive_bytes + new.encode("utf-8")
        return contents

    def _line_after(self, index: ToolIndex, name: str, documents: Mapping[str, ToolDocument]) -> bytes:
        new = documents.get(name)
        content = index.document_hash(name)
        present = new is None and self.lines is not None and name in self.lines
        if self.lines is not None and present and content in (None, self.index.document_hash(name)):
            return self.lines[name]
        if new is None:
            new = self.archive.get(content) if content is not None else None
        if new is None and content is None:  # no hash in the index: the newest one of this id
            new = next((item for item in reversed(list(self.archive.values())) if item.id == name), None)
        if new is None:
            raise CatalogueError(f"the document of {name!r} is not in {ARCHIVE_NAME}; restore it from a copy")
        return json.dumps(new.to_dict(), ensure_ascii=False).encode("utf-8")


def bytes_of_index(index: ToolIndex, extra: Mapping[str, Any]) -> bytes:
    """Give the content of ``tool_index.json``."""
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / INDEX_NAME, extra)
        return (Path(folder) / INDEX_NAME).read_bytes()


def sha256_of_index(index: ToolIndex, extra: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the content of ``tool_index.json``."""
    return hashlib.sha256(bytes_of_index(index, extra)).hexdigest()


def stamp_of(folder: Path) -> _Stamp:
    """Give what tells one state of a folder from another without reading it."""
    found: list[tuple[int, int, int] | None] = []
    for name in (INDEX_NAME, LOG_NAME, DOCUMENTS_NAME, MANIFEST_NAME):
        try:
            state = (folder / name).stat()
            found.append((state.st_ino, state.st_mtime_ns, state.st_size))
        except OSError:
            found.append(None)
    return tuple(found)


def _lines_of(data: bytes, index: ToolIndex, path: Path) -> dict[str, bytes]:
    """Split ``tools.jsonl`` by tool, in index order."""
    found: dict[str, bytes] = {}
    for line in data.split(b"\n"):
        if line.strip():
            row = parse_json(line, path, what="a tool document")
            name = row.get("id") if isinstance(row, dict) else None
            if not isinstance(name, str) or name not in index or name in found:
                raise ArtifactError(
                    f"expected one document for each tool of {INDEX_NAME}, got one more for {name!r:.100}", path=path
                )
            found[name] = line
    missing = [name for name in index if name not in found]
    if missing:
        raise ArtifactError(f"{len(missing)} tools have no document, the first is {missing[0]!r:.100}", path=path)
    return {name: found[name] for name in index}


def _document(data: Any, path: Path) -> ToolDocument:
    try:
        return ToolDocument.from_dict(data)
    except (DataError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"expected a tool document, got: {str(error)[:200]}", path=path) from error


def _file(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""
