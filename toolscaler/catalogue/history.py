"""States of a catalogue: an index and entries of its log go in, the index before or after them comes out.

A rollback brings back an earlier state, so the states form a tree: an entry's parent is the state that it was made on.
From one state to another the way goes up to the common ancestor, each change undone, and down again, each change made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolscaler.catalogue.log import Codes, LogEntry, ToolChange, codes_of_log
from toolscaler.errors import CatalogueError
from toolscaler.tokenization.tool_index import ToolIndex

_Row = tuple[str, Codes, str | None]


def change_index(index: ToolIndex, changes: Sequence[ToolChange]) -> ToolIndex:
    """Make the changes of an entry: remove, then rename and update in place, then add at the end.

    Args:
        index: The state before.
        changes: What happened to each tool.

    Returns:
        The state after, with the same sizes and policy.

    Raises:
        CatalogueError: A change does not fit the state.
        TokenizationError: The result is no index: an id or a code sequence comes twice.
    """
    return _index(index, _changed(_rows(index), changes))


def undo_changes(index: ToolIndex, changes: Sequence[ToolChange]) -> ToolIndex:
    """Take the changes of an entry back; the inverse of :func:`change_index`, order of the tools included.

    Raises:
        CatalogueError: A change does not fit the state.
    """
    return _index(index, _undone(_rows(index), changes))


def index_at(index: ToolIndex, log: Sequence[LogEntry], sequence: int) -> ToolIndex:
    """Give the index as it was after an entry.

    Args:
        index: The index after the last entry.
        log: All entries.
        sequence: Number of the entry.

    Raises:
        CatalogueError: There is no such entry, or log and index do not belong together.
    """
    up, down = path_between(log, len(log) - 1, sequence)
    rows = _rows(index)
    for number in up:
        rows = _undone(rows, log[number].tools)
    for number in down:
        rows = _changed(rows, log[number].tools)
    return _index(index, rows)


def path_between(log: Sequence[LogEntry], start: int, end: int) -> tuple[list[int], list[int]]:
    """Find the way from the state after one entry to the state after another.

    Returns:
        Numbers of the entries to undo, in this order, and of those to make again, in this order.

    Raises:
        CatalogueError: There is no such entry.
    """
    if not 0 <= end < len(log):
        raise CatalogueError(f"expected an entry from 0 to {len(log) - 1}, got {end}; `tools log` lists them")
    here, there = _ancestors(log, start), _ancestors(log, end)
    common = set(here) & set(there)
    return [n for n in here if n not in common], [n for n in there if n not in common][::-1]


def untrained_tools(index: ToolIndex, log: Sequence[LogEntry]) -> tuple[str, ...]:
    """Give the tools that the model was not trained on with their present codes, in index order.

    These are the tools that were added, and those whose codes have moved, since the log began or the model was last
    adapted. A tool that was renamed, or came back with the codes that it was trained with, is not among them.

    Args:
        index: The index after the last entry.
        log: All entries.
    """
    if not log:
        return ()
    last = max((entry.sequence for entry in log if entry.verb == "adapt"), default=0)
    trained = index_at(index, log, last)
    up, down = path_between(log, len(log) - 1, last)
    names = {name: name for name in index}  # id at training -> id now
    for number in up:
        for change in log[number].tools:
            if change.old_id is not None and change.id in names:
                names[change.old_id] = names.pop(change.id)
    for number in down:
        for change in log[number].tools:
            if change.old_id is not None and change.old_id in names:
                names[change.id] = names.pop(change.old_id)
    known = {now for then, now in names.items() if then in trained and trained[then] == index[now]}
    return tuple(name for name in index if name not in known)


def retired_codes(log: Sequence[LogEntry], index: ToolIndex) -> Mapping[Codes, str]:
    """Give the code sequences that some tool had once and none has now.

    Returns:
        Code sequence -> id of the tool that had it last.
    """
    present = {codes for _, codes, _ in _rows(index)}
    return {codes: name for codes, name in codes_of_log(log).items() if codes not in present}


def _effective(log: Sequence[LogEntry], number: int) -> int:
    """Give the entry whose state an entry has: its own, or that of what a rollback went back to."""
    while log[number].target is not None:
        number = int(log[number].target or 0)
    return number


def _ancestors(log: Sequence[LogEntry], number: int) -> list[int]:
    """Give the entries that made a state, newest first."""
    found = [_effective(log, number)]
    while found[-1] > 0:
        found.append(_effective(log, found[-1] - 1))
    return found


def _rows(index: ToolIndex) -> list[_Row]:
    # Behind the last code of a shorter sequence stands -1.
    codes = (tuple(code for code in row if code >= 0) for row in index.codes.tolist())
    return list(zip(index.tool_ids, codes, index.document_hashes, strict=True))


def _index(like: ToolIndex, rows: Sequence[_Row]) -> ToolIndex:
    return ToolIndex(
        like.code_sizes,
        [name for name, _, _ in rows],
        [codes for _, codes, _ in rows] or None,
        document_hashes=[content for _, _, content in rows],
        collisions=like.collisions,
        ragged=like.ragged,
    )


def _changed(rows: list[_Row], changes: Sequence[ToolChange]) -> list[_Row]:
    """See :func:`change_index`; ``rows`` is used up."""
    gone = set()
    for change in changes:
        if change.row is None or change.old_codes is None:
            continue
        _check(rows, change.row, change.old_id or change.id, change.old_codes)
        if change.new_codes is None:
            gone.add(change.row)
        else:
            rows[change.row] = (change.id, change.new_codes, change.new_document)
    kept = [row for number, row in enumerate(rows) if number not in gone] if gone else rows
    kept += [(c.id, c.new_codes, c.new_document) for c in changes if c.row is None and c.new_codes is not None]
    return kept


def _undone(rows: list[_Row], changes: Sequence[ToolChange]) -> list[_Row]:
    """See :func:`undo_changes`; ``rows`` is used up."""
    added = [change for change in changes if change.row is None]
    start = len(rows) - len(added)
    for number, change in enumerate(added, start=start):
        _check(rows, number, change.id, change.new_codes)
    del rows[max(start, 0) :]
    old = sorted((change for change in changes if change.row is not None), key=lambda change: change.row or 0)
    for change in old:  # ascending, so that each row number holds when its turn comes
        number, codes = change.row or 0, change.old_codes
        if codes is None or number > len(rows):
            raise CatalogueError(f"the log does not fit the index: there is no row {number} for {change.id!r}")
        before = (change.old_id or change.id, codes, change.old_document)
        if change.new_codes is None:
            rows.insert(number, before)
        else:
            _check(rows, number, change.id, change.new_codes)
            rows[number] = before
    return rows


def _check(rows: Sequence[_Row], number: int, name: str, codes: Codes | None) -> None:
    if not 0 <= number < len(rows) or rows[number][:2] != (name, codes):
        raise CatalogueError(
            f"the log does not fit the index: expected {name!r} with codes {codes} in row {number}; restore the "
            "artefact from a copy"
        )
