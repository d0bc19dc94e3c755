"""A step of a few rows: one search, and Python's own numbers where numpy would take longer to begin than to finish."""

from __future__ import annotations

import numpy as np

from toolscaler.decoding.trie_rows import RowTries

#: Rows above which whole arrays are faster.
MAX_ROWS = 12


class FewRows:
    """Lists what few rows, all inside sequences at one depth, may go on with.

    Args:
        rows: One trie for all rows, all of its sequences of one length.
    """

    def __init__(self, rows: RowTries) -> None:
        arrays = rows.whole.arrays
        self.arrays = arrays
        self.bits = None if rows.bits is None else rows.bits[0]
        self.levels = [int(start) for start in arrays.level_starts]
        self.labels = [
            (int(base), int(size), bits)
            for base, size, bits in zip(arrays.bases, arrays.sizes, arrays.bits, strict=True)
        ]

    @staticmethod
    def serves(rows: RowTries) -> bool:
        """Say whether it can work for these tries."""
        return rows.view_of is None and not rows.ragged and not any(rows.whole.arrays.anchors)

    def places(self, ids: np.ndarray, depth: int, columns: int) -> np.ndarray | None:
        """Give the places of the allowed tokens in the flattened scores.

        Args:
            ids: int64 (B, T) ids, of which the last ``depth`` are codes.
            depth: From 1 to the depth above the last.
            columns: Width of the scores.

        Returns:
            int64 (E,), rows in order; ``None`` where a row is somewhere else.
        """
        wanted = self._keys(ids[:, ids.shape[1] - depth :].tolist())
        if wanted is None:
            return None
        arrays, keys, first = self.arrays, self.arrays.keys[depth - 1], self.levels[depth]
        place = keys.searchsorted(np.array(wanted, dtype=keys.dtype))
        if keys[place].tolist() != wanted:
            return None
        if self.bits is not None and not all(self._allowed(first + number) for number in place.tolist()):
            return None
        place += first
        start = arrays.child_start[place]
        place += 1
        stop = arrays.child_start[place]
        below = self.levels[depth + 1]
        last = depth + 1 == arrays.length
        source = arrays.last_labels if last else arrays.keys[depth]
        ranges = list(zip(start.tolist(), stop.tolist(), strict=True))
        found = np.concatenate([source[begin - below : end - below] for begin, end in ranges])
        if not last:
            found &= found.dtype.type((1 << arrays.bits[depth]) - 1)
        moved = np.arange(self.labels[depth][0], len(ids) * columns, columns).repeat(stop - start)
        moved += found
        if self.bits is None:
            return moved
        kept = [
            np.unpackbits(self.bits[begin >> 3 : (end + 7) >> 3], bitorder="little")[begin & 7 :][: end - begin]
            for begin, end in ranges
        ]
        return moved[np.concatenate(kept).view(np.bool_)]

    def _keys(self, tails: list[list[int]]) -> list[int] | None:
        """Pack each row's codes; ``None`` where one is no code of its position."""
        keys = []
        for tail in tails:
            key = 0
            for token, (base, size, bits) in zip(tail, self.labels, strict=False):
                label = token - base
                if not 0 <= label < size:
                    return None
                key = key << bits | label
            keys.append(key)
        return keys

    def _allowed(self, node: int) -> bool:
        return self.bits is None or bool(self.bits[node >> 3] >> (node & 7) & 1)
