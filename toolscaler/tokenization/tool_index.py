"""The tool index: tool id -> code sequence, and back. Immutable; every change makes a new one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from toolscaler._files import read_json, write_text
from toolscaler.errors import ArtifactError, TokenizationError, UnknownToolError
from toolscaler.tokenization.code_tokens import check_code_sizes

#: Versions of the layout of ``tool_index.json``: every tool has the same number of codes, or tools differ in it.
FORMAT_VERSION = 1
RAGGED_FORMAT_VERSION = 2

# A vocabulary has fewer tokens than this, and a tool fewer codes.
_MAX_CODES = 1 << 24
_MAX_LENGTH = 1 << 12

#: What stands behind the last code of a tool that has fewer codes than others.
NO_CODE = -1

#: What to do with tools whose codes collide (method of the codebook): only ``share`` lets two tools have one sequence.
COLLISION_POLICIES: tuple[str, ...] = ("reassign", "suffix", "share")


class ToolIndex(Mapping[str, tuple[int, ...]]):
    """Which tool has which code sequence.

    A read-only mapping from tool id to codes, in the order in which tools were added. It is immutable: a holder of an
    index knows that nothing has changed while :attr:`ToolscalerTokenizer.tool_index` is the same object.

    Args:
        code_sizes: Number of codes at each position, (code_length,).
        tool_ids: N unique, non-empty tool ids.
        codes: Integers (N, code_length); row j belongs to ``tool_ids[j]``.
        document_hashes: N content hashes of the tools' documents (``None`` where unknown), or ``None`` for all unknown.
        collisions: ``reassign``, ``suffix`` (unique codes) or ``share`` (several tools may have the same codes).
        ragged: Sequences may differ in length, and one may begin another: ``codes`` is then N lists of 1 to code_length
            codes, or an array with -1 behind the last code of a shorter sequence.

    Raises:
        TokenizationError: Shapes, ids or codes do not fit; or codes collide although the policy is not ``share``.
    """

    __slots__ = ("_by_codes", "_codes", "_collisions", "_hashes", "_ragged", "_rows", "_sizes", "_tool_ids")

    def __init__(
        self,
        code_sizes: Iterable[int],
        tool_ids: Iterable[str] = (),
        codes: Any = None,
        *,
        document_hashes: Iterable[str | None] | None = None,
        collisions: str = "reassign",
        ragged: bool = False,
    ) -> None:
        if collisions not in COLLISION_POLICIES:
            raise TokenizationError(f"collisions: expected one of {', '.join(COLLISION_POLICIES)}, got {collisions!r}")
        self._sizes = check_code_sizes(code_sizes)
        self._collisions = collisions
        self._tool_ids = _checked_ids(tool_ids)
        self._ragged = ragged
        self._codes = _checked_codes(codes, self._tool_ids, self._sizes, ragged)
        self._hashes = _checked_hashes(document_hashes, len(self._tool_ids))
        self._rows: dict[str, int] | None = None
        self._by_codes: dict[tuple[int, ...], tuple[str, ...]] | None = None
        if collisions != "share":
            self._refuse_shared_codes()

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """Number of codes at each position."""
        return self._sizes

    @property
    def code_length(self) -> int:
        """Number of codes of every tool; of the longest one where they differ."""
        return len(self._sizes)

    @property
    def lengths(self) -> np.ndarray:
        """Number of codes of each tool, int64 (N,)."""
        return np.count_nonzero(self._codes != NO_CODE, axis=1)

    @property
    def ragged(self) -> bool:
        """Whether tools may have fewer codes than there are positions."""
        return self._ragged

    @property
    def collisions(self) -> str:
        """The policy for equal code sequences."""
        return self._collisions

    @property
    def tool_ids(self) -> tuple[str, ...]:
        """The N tool ids, in order."""
        return self._tool_ids

    @property
    def codes(self) -> np.ndarray:
        """The codes, int32 (N, code_length), -1 behind shorter ones, read-only; row j belongs to ``tool_ids[j]``."""
        return self._codes

    @property
    def document_hashes(self) -> tuple[str | None, ...]:
        """The N content hashes, ``None`` where unknown."""
        return self._hashes if self._hashes is not None else (None,) * len(self._tool_ids)

    def __getitem__(self, tool_id: str) -> tuple[int, ...]:
        return _present(self._codes[self.row(tool_id)].tolist())

    def __iter__(self) -> Iterator[str]:
        return iter(self._tool_ids)

    def __len__(self) -> int:
        return len(self._tool_ids)

    def __contains__(self, tool_id: object) -> bool:
        return tool_id in self._row_of

    def __eq__(self, other: object) -> bool:
        """Equal when settings, tools, their order, codes and hashes are equal."""
        if not isinstance(other, ToolIndex):
            return NotImplemented
        mine = (self._sizes, self._ragged, self._collisions, self._tool_ids, self.document_hashes)
        theirs = (other._sizes, other._ragged, other._collisions, other._tool_ids, other.document_hashes)
        return mine == theirs and np.array_equal(self._codes, other._codes)

    def __hash__(self) -> int:
        return hash((self._sizes, self._collisions, self._tool_ids, self._codes.tobytes()))

    def __repr__(self) -> str:
        return f"ToolIndex({len(self)} tools, code_sizes={self._sizes}, collisions={self._collisions!r})"

    def __copy__(self) -> ToolIndex:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ToolIndex:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        # Look-up tables are left out: the pickle, and with it the fingerprint that `datasets` takes of a tokenizer,
        # must not depend on what was looked up before, and stays small.
        state = (self._sizes, self._collisions, self._tool_ids, self._codes, self._hashes, self._ragged)
        return (_restore, state)

    def row(self, tool_id: str) -> int:
        """Give the row of a tool in :attr:`codes`.

        Raises:
            UnknownToolError: There is no such tool; the error suggests near names.
        """
        try:
            return self._row_of[tool_id]
        except KeyError:
            raise UnknownToolError(tool_id, self._tool_ids) from None

    def tools_with(self, codes: Iterable[int]) -> tuple[str, ...]:
        """Give the tools that have exactly these codes.

        Args:
            codes: A whole code sequence.

        Returns:
            Tool ids in index order: none where the sequence is free, several only under the policy ``share``.
        """
        if self._by_codes is None:
            table: dict[tuple[int, ...], tuple[str, ...]] = {}
            for tool_id, row in zip(self._tool_ids, self._codes.tolist(), strict=True):
                key = _present(row)
                table[key] = (*table.get(key, ()), tool_id)
            self._by_codes = table
        return self._by_codes.get(tuple(int(code) for code in codes), ())

    def document_hash(self, tool_id: str) -> str | None:
        """Give the content hash of the document from which the tool's codes were made, or ``None``.

        Raises:
            UnknownToolError: There is no such tool.
        """
        row = self.row(tool_id)
        return None if self._hashes is None else self._hashes[row]

    def with_tools(
        self, tool_ids: Iterable[str], codes: Any, document_hashes: Iterable[str | None] | None = None
    ) -> ToolIndex:
        """Make an index that has more tools, after the present ones.

        Args:
            tool_ids: M new ids.
            codes: Integers (M, code_length).
            document_hashes: M content hashes, or ``None``.

        Returns:
            A new index.

        Raises:
            TokenizationError: An id exists, a code is out of range, or codes collide under a policy that forbids it.
        """
        new_ids = _checked_ids(tool_ids)
        known = [tool_id for tool_id in new_ids if tool_id in self]
        if known:
            raise TokenizationError(f"tools exist already: {_few(known)}; remove them first or choose other ids")
        new_codes = _checked_codes(codes, new_ids, self._sizes, self._ragged)
        new_hashes = _checked_hashes(document_hashes, len(new_ids))
        hashes = None
        if self._hashes is not None or new_hashes is not None:
            hashes = (*self.document_hashes, *(new_hashes or (None,) * len(new_ids)))
        return self._replaced((*self._tool_ids, *new_ids), np.concatenate([self._codes, new_codes]), hashes)

    def without_tools(self, tool_ids: Iterable[str]) -> ToolIndex:
        """Make an index that lacks some tools; the others keep their order and codes.

        Raises:
            UnknownToolError: An id is not in the index; nothing is removed then.
        """
        gone = {self.row(tool_id) for tool_id in _name_list(tool_ids)}
        keep = [row for row in range(len(self)) if row not in gone]
        hashes = None if self._hashes is None else tuple(self._hashes[row] for row in keep)
        return self._replaced(tuple(self._tool_ids[row] for row in keep), self._codes[keep], hashes)

    def renamed(self, names: Mapping[str, str]) -> ToolIndex:
        """Make an index in which tools have new ids and keep their place, codes and hashes.

        Args:
            names: Old id -> new id. Swaps are allowed.

        Raises:
            UnknownToolError: An old id is not in the index.
            TokenizationError: Two tools would have the same id.
        """
        for old in names:
            self.row(old)
        tool_ids = _checked_ids(names.get(tool_id, tool_id) for tool_id in self._tool_ids)
        return self._replaced(tool_ids, self._codes, self._hashes)

    def save(self, path: str | Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write the index as JSON, one tool a line, atomically.

        Args:
            path: File to write.
            extra: Further top-level keys, for what belongs to the tokenizer rather than to the index.

        Raises:
            TokenizationError: An extra key has the name of a key of the index.
        """
        head: dict[str, Any] = {
            "format_version": RAGGED_FORMAT_VERSION if self._ragged else FORMAT_VERSION,
            "code_sizes": list(self._sizes),
            "collisions": self._collisions,
        }
        taken = sorted({*head, "tools", "document_hashes"} & set(extra or {}))
        if taken:
            raise TokenizationError(f"extra: expected keys other than the index's own, got {', '.join(taken)}")
        head.update(extra or {})
        lines = [f"{_json(key)}: {_json(value)}," for key, value in head.items()]
        rows = zip(self._tool_ids, map(_present, self._codes.tolist()), strict=True)
        tools = ",\n".join(f"{_json(tool_id)}:{_json(codes)}" for tool_id, codes in rows)
        hashes = "null" if self._hashes is None else "[\n" + ",\n".join(map(_json, self._hashes)) + "\n]"
        write_text(
            path, "\n".join(["{", *lines, f'"tools": {{\n{tools}\n}},', f'"document_hashes": {hashes}', "}", ""])
        )

    @classmethod
    def load(cls, path: str | Path) -> tuple[ToolIndex, dict[str, Any]]:
        """Read an index that :meth:`save` wrote.

        Returns:
            The index, and the extra top-level keys of the file.

        Raises:
            ArtifactError: The file is missing, damaged, or of a format version that this library does not know.
        """
        data = read_json(path, what="a tool index")
        if not isinstance(data, dict):
            raise ArtifactError(f"expected a JSON object with tools, got {type(data).__name__}", path=path)
        version = data.pop("format_version", None)
        if type(version) is not int or version not in (FORMAT_VERSION, RAGGED_FORMAT_VERSION):
            advice = "load it with the toolscaler release that wrote it, if it is a tool index at all"
            known = f"{FORMAT_VERSION} or {RAGGED_FORMAT_VERSION}"
            raise ArtifactError(f"format_version: expected {known}, got {version!r:.80}; {advice}", path=path)
        try:
            tools = data.pop("tools")
            _check_rows(list(tools.values()), data["code_sizes"], ragged=version == RAGGED_FORMAT_VERSION)
            index = cls(
                data.pop("code_sizes"),
                tools.keys(),
                list(tools.values()),
                document_hashes=data.pop("document_hashes"),
                collisions=data.pop("collisions"),
                ragged=version == RAGGED_FORMAT_VERSION,
            )
        except KeyError as error:
            raise ArtifactError(f"damaged tool index: the key {error} is missing", path=path) from error
        except (AttributeError, TypeError, ValueError, OverflowError) as error:  # TokenizationError is a ValueError
            raise ArtifactError(f"damaged tool index: {error}", path=path) from error
        return index, data

    @property
    def _row_of(self) -> dict[str, int]:
        if self._rows is None:
            self._rows = {tool_id: row for row, tool_id in enumerate(self._tool_ids)}
        return self._rows

    def _replaced(self, tool_ids: tuple[str, ...], codes: np.ndarray, hashes: Any) -> ToolIndex:
        return ToolIndex(
            self._sizes, tool_ids, codes, document_hashes=hashes, collisions=self._collisions, ragged=self._ragged
        )

    def _refuse_shared_codes(self) -> None:
        """Raise where two tools have one code sequence."""
        if len(self) < 2:
            return
        order = np.lexsort(self._codes.T)
        ordered = self._codes[order]
        same = np.flatnonzero((ordered[1:] == ordered[:-1]).all(axis=1))
        if same.size:
            one, other = (self._tool_ids[order[same[0] + step]] for step in (0, 1))
            raise TokenizationError(
                f"{same.size} code sequences are given twice, for example {list(self[one])} to {one!r} and "
                f"{other!r}; policy {self._collisions!r} needs unique codes: let Codebook.assign make them, or choose "
                "collisions='share'"
            )


def _restore(
    sizes: Any, collisions: str, tool_ids: Any, codes: np.ndarray, hashes: Any, ragged: bool = False
) -> ToolIndex:
    """Rebuild an index from its pickle."""
    return ToolIndex(sizes, tool_ids, codes, document_hashes=hashes, collisions=collisions, ragged=ragged)


def _present(codes: Sequence[int]) -> tuple[int, ...]:
    """Leave out what stands behind the last code."""
    return tuple(codes[: codes.index(NO_CODE)] if codes and codes[-1] == NO_CODE else codes)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _few(values: Sequence[Any], count: int = 3) -> str:
    """List the first values in words."""
    more = f" and {len(values) - count} more" if len(values) > count else ""
    return ", ".join(repr(value) for value in values[:count]) + more


def _name_list(tool_ids: Iterable[str]) -> list[str]:
    """Refuse a bare string where a list of ids belongs: its letters would be taken for ids."""
    if isinstance(tool_ids, str):
        raise TokenizationError(f"tool ids: expected a list of ids, got the string {tool_ids!r}; write [{tool_ids!r}]")
    return list(tool_ids)


def _checked_ids(tool_ids: Iterable[str]) -> tuple[str, ...]:
    names = _name_list(tool_ids)
    for name in names:
        if not isinstance(name, str) or not name:
            raise TokenizationError(f"tool ids: expected non-empty strings, got {name!r}")
    if len(set(names)) != len(names):
        seen: set[str] = set()
        twice = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        raise TokenizationError(f"tool ids: expected each id once, got several times: {_few(twice)}")
    try:
        "".join(names).encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizationError(f"tool ids: expected text that UTF-8 can hold, got {error}") from error
    return tuple(names)


def _checked_codes(codes: Any, tool_ids: Sequence[str], sizes: tuple[int, ...], ragged: bool) -> np.ndarray:
    """Copy codes into a read-only int32 (N, code_length) array, every code in range, -1 behind shorter sequences."""
    shape = (len(tool_ids), len(sizes))
    try:
        array = np.asarray([] if codes is None else _padded(codes, len(sizes)) if ragged else codes)
    except ValueError as error:
        raise TokenizationError(f"codes: expected {shape[1]} whole numbers for each tool, got {error}") from error
    if array.size == 0 and not tool_ids:
        array = np.empty(shape, dtype=np.int32)
    if array.shape != shape or not np.issubdtype(array.dtype, np.integer):
        got = f"shape {array.shape} and dtype {array.dtype}"
        raise TokenizationError(f"codes: expected whole numbers of shape (tools, positions) = {shape}, got {got}")
    wrong = (array < 0) | (array >= np.array(sizes))
    if ragged:
        behind = np.logical_and.accumulate(array[:, ::-1] == NO_CODE, axis=1)[:, ::-1]
        behind[:, 0] = False  # a tool has one code at least
        wrong &= ~behind
    outside = np.argwhere(wrong)
    if outside.size:
        row, position = outside[0].tolist()
        raise TokenizationError(
            f"codes: tool {tool_ids[row]!r} has code {array[row, position]} at position {position}, expected 0 to "
            f"{sizes[position] - 1} ({len(outside)} codes are out of range)"
        )
    result = array.astype(np.int32)
    result.setflags(write=False)
    return result


def _padded(codes: Any, length: int) -> Any:
    """Put -1 behind the shorter ones of several lists; an array is given back as it is."""
    if not isinstance(codes, list | tuple) or not all(isinstance(row, list | tuple) for row in codes):
        return codes
    return [[*row, *[NO_CODE] * (length - len(row))] for row in codes]


def _checked_hashes(hashes: Iterable[str | None] | None, count: int) -> tuple[str | None, ...] | None:
    if hashes is None:
        return None
    values = _name_list(hashes)  # type: ignore[arg-type]
    if len(values) != count or not all(value is None or isinstance(value, str) for value in values):
        raise TokenizationError(
            f"document_hashes: expected a string or None for each of {count} tools, got {len(values)}"
        )
    return tuple(values) if any(value is not None for value in values) else None


def _check_rows(rows: list[Any], code_sizes: Any, *, ragged: bool) -> None:
    """Check codes from a file before numpy sees them: one long text among them would make an array of gigabytes."""
    sizes = check_code_sizes(code_sizes)
    if len(sizes) > _MAX_LENGTH or max(sizes) > _MAX_CODES:
        got = f"{len(sizes)} positions of up to {max(sizes)!r:.40}"
        raise TokenizationError(
            f"code_sizes: expected at most {_MAX_LENGTH} positions of {_MAX_CODES} codes, got {got}"
        )
    lengths = set(map(len, rows)) if set(map(type, rows)) <= {list} else {0}
    if not lengths <= set(range(1 if ragged else len(sizes), len(sizes) + 1)):
        least = "1 to " if ragged else ""
        raise TokenizationError(f"tools: expected a list of {least}{len(sizes)} codes for each tool")
    if not set(map(type, chain.from_iterable(rows))) <= {int}:
        raise TokenizationError("tools: expected whole numbers as codes")
