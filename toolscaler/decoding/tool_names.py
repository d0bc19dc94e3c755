"""The ids of a trie's tools; looked up, and even made, only when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from toolscaler.errors import DecodingError, UnknownToolError


class ToolNames:
    """N different tool ids and their rows.

    Args:
        names: The ids, known to be different texts; or a function that gives them.
    """

    def __init__(self, names: tuple[str, ...] | Callable[[], tuple[str, ...]]) -> None:
        self._source = names
        self._rows: dict[str, int] | None = None

    @classmethod
    def checked(cls, names: Iterable[str] | None, count: int) -> ToolNames:
        """Take ids from a caller; ``None``: the row numbers as text.

        Raises:
            DecodingError: They are not ``count`` different texts.
        """
        if names is None:
            return cls(tuple(map(str, range(count))))
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise DecodingError(f"tool_ids: expected {count} ids, got {names!r:.80}")
        given = tuple(names)
        if len(given) != count:
            raise DecodingError(f"tool_ids: expected {count} ids, one for each sequence, got {len(given)}")
        wrong = next((name for name in given if not isinstance(name, str)), None)
        if wrong is not None:
            raise DecodingError(f"tool_ids: expected text, got {wrong!r:.80}")
        checked = cls(given)
        if len(checked.rows) != count:
            twice = next(name for row, name in enumerate(given) if checked.rows[name] != row)
            raise DecodingError(f"tool_ids: expected each id once, got {twice!r} more than once")
        return checked

    @property
    def names(self) -> tuple[str, ...]:
        """The ids, in order."""
        if not isinstance(self._source, tuple):
            self._source = self._source()
        return self._source

    @property
    def rows(self) -> dict[str, int]:
        """Row of each id."""
        if self._rows is None:
            self._rows = {name: row for row, name in enumerate(self.names)}
        return self._rows

    def followed_by(self, more: ToolNames) -> ToolNames:
        """Give these ids and others behind them, which are known to be different."""
        count = len(self.names)
        both = ToolNames((*self.names, *more.names))
        both._rows = self.rows | {name: row + count for name, row in more.rows.items()}
        return both

    def row(self, name: str, near: Sequence[str] | None = None) -> int:
        """Give the row of an id.

        Args:
            name: The id.
            near: Ids to suggest from; default: all.

        Raises:
            UnknownToolError: There is none; the nearest ids are suggested.
        """
        row = self.rows.get(name)
        if row is None:
            raise self.unknown(name, near)
        return row

    def unknown(self, name: str, near: Sequence[str] | None = None) -> UnknownToolError:
        """Make the error for an id that is not there."""
        return UnknownToolError(name, self.names if near is None else near)

    def __reduce__(self) -> tuple[object, ...]:
        return ToolNames, (self.names,)
