"""The log of a catalogue: changes go in, lines that name the line before them by its hash come out; and back."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

from toolscaler._files import parse_json, read_bytes
from toolscaler.errors import ArtifactError, CatalogueError

#: File of the log, one JSON object a line, beside the tool index.
LOG_NAME = "catalogue_log.jsonl"
#: Version of the layout of a line that this library writes; it reads this one and no other.
FORMAT_VERSION = 1

Verb = Literal["start", "add", "remove", "rename", "update", "sync", "rollback", "adapt"]
VERBS: tuple[str, ...] = get_args(Verb)

Codes = tuple[int, ...]

_MAX_LOG_BYTES = 1 << 32
_SUM = re.compile(r"[0-9a-f]{64}")
_KEYS = {
    *("format_version", "sequence", "time", "verb", "tools", "target", "note", "num_tools", "index_sha256"),
    *("previous", "hash"),
}
_TOOL_KEYS = {"id", "old_id", "row", "old_codes", "new_codes", "old_document", "new_document"}


@dataclass(frozen=True)
class ToolChange:
    """What one change did to one tool.

    Attributes:
        id: The tool's id after the change; of a removed tool: before it.
        old_id: Its id before, where it was renamed; else ``None``.
        row: Its row in the index before the change; ``None`` for an added tool, which goes to the end.
        old_codes: Its codes before; ``None`` for an added tool.
        new_codes: Its codes after; ``None`` for a removed tool.
        old_document: Content hash of its document before; ``None`` where there is none or it is unknown.
        new_document: The same after.
    """

    id: str
    old_id: str | None = None
    row: int | None = None
    old_codes: Codes | None = None
    new_codes: Codes | None = None
    old_document: str | None = None
    new_document: str | None = None

    @property
    def kind(self) -> Literal["added", "removed", "renamed", "updated"]:
        """What happened to the tool."""
        if self.old_codes is None:
            return "added"
        if self.new_codes is None:
            return "removed"
        return "updated" if self.old_id is None else "renamed"

    @property
    def distance(self) -> int | None:
        """Hamming distance of the codes before and after (paper section 1); ``None`` where one of them is missing."""
        if self.old_codes is None or self.new_codes is None:
            return None
        return sum(one != other for one, other in zip(self.old_codes, self.new_codes, strict=True))

    @property
    def prefix_kept(self) -> int | None:
        """Number of leading codes that are the same before and after; ``None`` where one of them is missing."""
        if self.old_codes is None or self.new_codes is None:
            return None
        pairs = enumerate(zip(self.old_codes, self.new_codes, strict=True))
        return next((place for place, (one, other) in pairs if one != other), len(self.old_codes))

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON data."""
        return {
            "id": self.id,
            "old_id": self.old_id,
            "row": self.row,
            "old_codes": None if self.old_codes is None else list(self.old_codes),
            "new_codes": None if self.new_codes is None else list(self.new_codes),
            "old_document": self.old_document,
            "new_document": self.new_document,
        }

    @classmethod
    def from_dict(cls, data: Any) -> ToolChange:
        """Read :meth:`to_dict`'s data.

        Raises:
            CatalogueError: A key is missing or unknown, or a value is none that a change can have.
        """
        if not isinstance(data, dict) or data.keys() != _TOOL_KEYS:
            raise CatalogueError(f"expected a change with the keys {sorted(_TOOL_KEYS)}, got {str(data)[:200]}")
        names = (data["id"], data["id"] if data["old_id"] is None else data["old_id"])
        if not all(isinstance(name, str) and name for name in names):
            raise CatalogueError(f"expected tool ids, got {str(names)[:200]}")
        row, old, new = data["row"], _codes_of(data["old_codes"]), _codes_of(data["new_codes"])
        if (row is None) != (old is None) or (row is not None and (type(row) is not int or row < 0)):
            raise CatalogueError(f"expected a row for a tool that was there before, got {row!r:.80}")
        if old is None and new is None:
            raise CatalogueError("expected codes before or after, got neither")
        for key in ("old_document", "new_document"):
            if data[key] is not None and not isinstance(data[key], str):
                raise CatalogueError(f"expected a content hash under {key}, got {data[key]!r:.80}")
        return cls(data["id"], data["old_id"], row, old, new, data["old_document"], data["new_document"])


@dataclass(frozen=True)
class LogEntry:
    """One change of a catalogue.

    Attributes:
        sequence: Its number; 0 is the state that the log began with.
        time: When, UTC, for example ``2026-01-31T12:00:00Z``.
        verb: ``start``, ``add``, ``remove``, ``rename``, ``update``, ``sync``, ``rollback`` or ``adapt`` (the model was
            trained on the tools that were there).
        tools: What happened to each tool; empty for ``start``, ``rollback`` and ``adapt``.
        target: Of a rollback: the entry whose state came back; else ``None``.
        note: The caller's words; may be empty.
        num_tools: Tools after the change.
        index_sha256: SHA-256 of ``tool_index.json`` after the change.
        previous: :attr:`hash` of the entry before; empty for the first.
        hash: SHA-256 over everything above; it names the entry and, through ``previous``, all before it.
    """

    sequence: int
    time: str
    verb: Verb
    tools: tuple[ToolChange, ...]
    target: int | None
    note: str
    num_tools: int
    index_sha256: str
    previous: str
    hash: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON data, with ``format_version``."""
        return {
            "format_version": FORMAT_VERSION,
            "sequence": self.sequence,
            "time": self.time,
            "verb": self.verb,
            "tools": [tool.to_dict() for tool in self.tools],
            "target": self.target,
            "note": self.note,
            "num_tools": self.num_tools,
            "index_sha256": self.index_sha256,
            "previous": self.previous,
            "hash": self.hash,
        }

    def computed_hash(self) -> str:
        """SHA-256 (hex) over the canonical JSON of everything but :attr:`hash`."""
        data = {key: value for key, value in self.to_dict().items() if key != "hash"}
        text = json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def of_kind(self, kind: str) -> tuple[ToolChange, ...]:
        """Give the tools that were ``added``, ``removed``, ``renamed`` or ``updated``."""
        return tuple(tool for tool in self.tools if tool.kind == kind)

    @classmethod
    def from_dict(cls, data: Any) -> LogEntry:
        """Read :meth:`to_dict`'s data; :attr:`hash` is compared by the log.

        Raises:
            CatalogueError: It is of another format version, keys are missing or unknown, or a value is out of bounds.
        """
        version = data.get("format_version") if isinstance(data, dict) else None
        if type(version) is not int or version != FORMAT_VERSION:
            raise CatalogueError(
                f"expected format_version {FORMAT_VERSION}, got {version!r:.80}; install the toolscaler release that "
                "wrote it, or a newer one"
            )
        if data.keys() != _KEYS:
            raise CatalogueError(f"expected the keys {sorted(_KEYS)}, got {sorted(data)!s:.300}")
        if data["verb"] not in VERBS or not isinstance(data["tools"], list):
            raise CatalogueError(f"expected a verb of {', '.join(VERBS)} and tools, got {data['verb']!r:.80}")
        numbers = (data["sequence"], data["num_tools"], 0 if data["target"] is None else data["target"])
        if any(type(number) is not int or number < 0 for number in numbers):
            raise CatalogueError(f"expected whole numbers from 0 on, got {str(numbers)[:200]}")
        if (data["target"] is None) == (data["verb"] == "rollback"):
            raise CatalogueError("expected a target for a rollback, and for nothing else")
        texts = (data["time"], data["note"], data["index_sha256"], data["previous"], data["hash"])
        sums = (data["index_sha256"], data["hash"], data["previous"] or data["hash"])
        if not all(isinstance(text, str) for text in texts) or not all(map(_SUM.fullmatch, sums)):
            raise CatalogueError("expected texts, and sums of 64 hexadecimal digits")
        tools = tuple(map(ToolChange.from_dict, data["tools"]))
        fields = {key: data[key] for key in _KEYS - {"format_version", "tools"}}
        return cls(tools=tools, **fields)


class CatalogueLog(Sequence[LogEntry]):
    """The changes of a catalogue, oldest first. Immutable; :meth:`appended` makes a longer one.

    Each entry holds the hash of the one before, so that an entry cannot be changed, left out or moved without the
    chain breaking. Whoever can write the file can still write another chain: keep the last hash elsewhere where that
    matters.

    Args:
        entries: The entries.

    Raises:
        CatalogueError: The chain is broken; the entry is named.
    """

    def __init__(self, entries: Iterable[LogEntry] = ()) -> None:
        self._entries = tuple(entries)
        previous = ""
        for number, entry in enumerate(self._entries):
            whole = entry.sequence == number and entry.previous == previous and entry.hash == entry.computed_hash()
            first = (entry.verb == "start") == (number == 0)
            if not whole or not first or (entry.target is not None and entry.target >= number):
                raise CatalogueError(
                    f"entry {number} of the log was changed, moved or left out: its hash chain is broken; restore "
                    f"{LOG_NAME} and the artefact together from a copy"
                )
            previous = entry.hash

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, key: Any) -> Any:
        return self._entries[key]

    def __iter__(self) -> Iterator[LogEntry]:
        return iter(self._entries)

    @property
    def head(self) -> LogEntry | None:
        """The last entry; ``None`` where nothing was ever changed."""
        return self._entries[-1] if self._entries else None

    def appended(
        self,
        verb: Verb,
        *,
        num_tools: int,
        index_sha256: str,
        tools: Iterable[ToolChange] = (),
        target: int | None = None,
        note: str = "",
        time: str | None = None,
    ) -> CatalogueLog:
        """Make a log with one more entry; the arguments are fields of :class:`LogEntry`.

        Args:
            verb: What happened.
            num_tools: Tools afterwards.
            index_sha256: Hash of the index afterwards.
            tools: What happened to each tool.
            target: Of a rollback.
            note: The caller's words.
            time: Default: now.
        """
        moment = time or datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        previous = self._entries[-1].hash if self._entries else ""
        entry = LogEntry(len(self), moment, verb, tuple(tools), target, note, num_tools, index_sha256, previous)
        longer = CatalogueLog.__new__(CatalogueLog)
        longer._entries = (*self._entries, replace(entry, hash=entry.computed_hash()))
        return longer

    def lines(self, start: int = 0) -> bytes:
        """Give the entries from ``start`` on as they stand in the file."""
        texts = (json.dumps(entry.to_dict(), ensure_ascii=False, separators=(",", ":")) for entry in self[start:])
        return "".join(f"{text}\n" for text in texts).encode("utf-8")

    @classmethod
    def load(cls, path: str | Path) -> CatalogueLog:
        """Read a log; an empty one where there is no file.

        Raises:
            ArtifactError: The file is damaged, or its chain is broken.
        """
        if not Path(path).exists():
            return cls()
        entries = []
        data = read_bytes(path, _MAX_LOG_BYTES, "the log of a catalogue")
        for number, line in enumerate(data.splitlines()):
            try:
                entries.append(LogEntry.from_dict(parse_json(line, path, what="an entry")))
            except CatalogueError as error:
                raise ArtifactError(f"line {number + 1}: {error}", path=path) from error
        try:
            return cls(entries)
        except CatalogueError as error:
            raise ArtifactError(str(error), path=path) from error


def _codes_of(value: Any) -> Codes | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or any(type(code) is not int or code < 0 for code in value):
        raise CatalogueError(f"expected a list of codes, got {value!r:.80}")
    return tuple(value)


def check_note(note: Any) -> str:
    """Check the caller's words.

    Raises:
        CatalogueError: They are no text, or cannot be written as UTF-8.
    """
    if not isinstance(note, str):
        raise CatalogueError(f"note: expected text, got {type(note).__name__}")
    try:
        note.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CatalogueError(f"note: expected text that UTF-8 can hold, got {error}") from error
    return note


def codes_of_log(log: Sequence[LogEntry]) -> Mapping[Codes, str]:
    """Give every code sequence that any entry speaks of, with the id of the tool that it was of last."""
    found: dict[Codes, str] = {}
    for entry in log:
        for tool in entry.tools:
            for codes, name in ((tool.old_codes, tool.old_id or tool.id), (tool.new_codes, tool.id)):
                if codes is not None:
                    found[codes] = name
    return found
