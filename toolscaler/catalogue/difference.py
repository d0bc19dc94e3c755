"""Two states of documents go in, what was added, removed and changed comes out, with hashes and the fields."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from toolscaler.data.documents import ToolDocument
from toolscaler.data.sources.mcp import ANNOTATIONS_KEY, HINTS
from toolscaler.errors import CatalogueError

_FIELDS = ("name", "description", "provider", "category", "parameters", "returns", "code")


@runtime_checkable
class DocumentSource(Protocol):
    """Whatever lists tools when it is asked, such as an executor of the agent room."""

    def documents(self) -> list[ToolDocument]:
        """Give the documents of the tools that there are now."""
        ...


@dataclass(frozen=True)
class DocumentChange:
    """A tool whose document is another one than before.

    Attributes:
        id: Tool id.
        old_hash: Content hash in the catalogue; ``None`` where it is unknown.
        new_hash: Content hash in the source.
        fields: Names of the fields that differ; empty where the old document is unknown.
        hints: MCP hint -> what it said before and says now (``None``: nothing). They are the server's claims.
        hidden: Invisible characters that the new document has and the old one has not, by name.
    """

    id: str
    old_hash: str | None
    new_hash: str
    fields: tuple[str, ...] = ()
    hints: Mapping[str, tuple[bool | None, bool | None]] | None = None
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class CatalogueDiff:
    """How a source differs from the catalogue.

    Attributes:
        added: Documents of tools that the catalogue does not have.
        removed: Ids of tools that the source does not have any more.
        changed: Tools whose documents differ: a server that was trusted with one may not be with the other.
        documents: New documents of the changed tools, in the order of :attr:`changed`.
        unchanged: Number of tools whose documents are equal.
        hidden: Id of an added tool -> invisible characters in its document, by name.
    """

    added: tuple[ToolDocument, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[DocumentChange, ...] = ()
    documents: tuple[ToolDocument, ...] = ()
    unchanged: int = 0
    hidden: Mapping[str, tuple[str, ...]] | None = None

    def __bool__(self) -> bool:
        """Tell whether there is any difference."""
        return bool(self.added or self.removed or self.changed)

    def to_text(self) -> str:
        """Give one line a tool: ``+`` added, ``-`` removed, ``~`` changed with hashes, fields and hints."""
        lines = []
        for document in self.added:
            hidden = _hidden_text((self.hidden or {}).get(document.id, ()))
            lines.append(f"+ {document.id}  {document.content_hash[:12]}{_hints_text(document)}{hidden}")
        lines += [f"- {name}" for name in self.removed]
        for change in self.changed:
            what = ", ".join(change.fields) or "document"
            hints = "".join(f"  {name}: {old} -> {new}" for name, (old, new) in (change.hints or {}).items())
            old = (change.old_hash or "unknown")[:12]
            lines.append(f"~ {change.id}  {old} -> {change.new_hash[:12]}  {what}{hints}{_hidden_text(change.hidden)}")
        counts = f"{len(self.added)} added, {len(self.removed)} removed, {len(self.changed)} changed"
        return "\n".join([*lines, f"{counts}, {self.unchanged} unchanged"])

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON data."""
        return {
            "added": [
                {"id": item.id, "hash": item.content_hash, "hints": hints_of(item), "hidden": hidden_characters(item)}
                for item in self.added
            ],
            "removed": list(self.removed),
            "changed": [
                {
                    "id": change.id,
                    "old_hash": change.old_hash,
                    "new_hash": change.new_hash,
                    "fields": list(change.fields),
                    "hints": {name: list(values) for name, values in (change.hints or {}).items()},
                    "hidden": list(change.hidden),
                }
                for change in self.changed
            ],
            "unchanged": self.unchanged,
        }


def read_documents(source: Iterable[ToolDocument] | DocumentSource) -> list[ToolDocument]:
    """List the documents of a source.

    Raises:
        CatalogueError: It holds something else than documents, or an id twice.
        ExecutorError: A server does not list its tools.
    """
    found = list(source.documents() if isinstance(source, DocumentSource) else source)
    for document in found:
        if not isinstance(document, ToolDocument):
            raise CatalogueError(
                f"documents: expected ToolDocument objects, got {type(document).__name__}; "
                "toolscaler.load_tool_documents reads files"
            )
    ids = [document.id for document in found]
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise CatalogueError(f"documents: expected each id once, got {twice!r} several times")
    return found


def compare_document(new: ToolDocument, old: ToolDocument | None, old_hash: str | None) -> DocumentChange:
    """Say in what a document differs from the catalogue's."""
    if old is None:
        return DocumentChange(new.id, old_hash, new.content_hash, hidden=hidden_characters(new))
    before, after = old.to_dict(), new.to_dict()
    fields = tuple(name for name in _FIELDS if before[name] != after[name])
    was, now = hints_of(old), hints_of(new)
    hints = {name: (was.get(name), now.get(name)) for name in HINTS if was.get(name) != now.get(name)}
    hidden = tuple(sorted(set(hidden_characters(new)) - set(hidden_characters(old))))
    return DocumentChange(new.id, old_hash or old.content_hash, new.content_hash, fields, hints, hidden)


def hints_of(document: ToolDocument) -> dict[str, bool]:
    """Give the MCP hints in a document: what its server claims."""
    found = document.parameters.get(ANNOTATIONS_KEY)
    given = found if isinstance(found, Mapping) else {}
    return {name: given[name] for name in HINTS if isinstance(given.get(name), bool)}


def hidden_characters(document: ToolDocument) -> tuple[str, ...]:
    """Name the invisible characters in a document, each once: text that a person would not see but a model reads.

    Format characters and private use are meant (Unicode categories Cf and Co): zero-width characters, changes of
    direction, tags.
    """
    texts = _texts(document.to_dict())
    found = {char for text in texts if not text.isascii() for char in text}
    found = {char for char in found if unicodedata.category(char) in ("Cf", "Co")}
    return tuple(sorted({f"U+{ord(char):04X} {unicodedata.name(char, 'private use')}" for char in found}))


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _hints_text(document: ToolDocument) -> str:
    return "".join(f"  {name}: {value}" for name, value in hints_of(document).items())


def _hidden_text(names: Iterable[str]) -> str:
    listed = ", ".join(names)
    return f"  ! hidden characters: {listed}" if listed else ""
