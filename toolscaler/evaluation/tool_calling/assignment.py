"""A table of weights in, the pairing of its rows and columns with the largest sum out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def best_assignment(weights: Sequence[Sequence[float]]) -> list[int]:
    """Pair each row with a column of its own so that the sum of weights is largest (the Hungarian method).

    Rows are added one by one; each takes the cheapest path of exchanges through the pairs there are, measured in costs
    that are reduced by a price for each row and column (O(rows² · columns)).

    Args:
        weights: (rows, columns) weights, rows ≤ columns.

    Returns:
        For each row its column.

    Raises:
        ValueError: There are more rows than columns.

    >>> best_assignment([[1.0, 1.0], [1.0, 0.0]])
    [1, 0]
    """
    rows = len(weights)
    columns = len(weights[0]) if rows else 0
    if rows > columns:
        raise ValueError(f"expected no more rows than columns, got {rows} and {columns}")
    costs = -np.asarray(weights, dtype=np.float64).reshape(rows, columns)
    row_price, column_price = np.zeros(rows), np.zeros(columns + 1)
    # Column `columns` is a stand-in that holds the row which is being added.
    owner = np.full(columns + 1, -1)
    for row in range(rows):
        owner[columns], at = row, columns
        reach, before = np.full(columns, np.inf), np.full(columns, columns)
        done = np.zeros(columns + 1, dtype=bool)
        while owner[at] >= 0:
            done[at] = True
            open_columns = ~done[:columns]
            reduced = costs[owner[at]] - row_price[owner[at]] - column_price[:columns]
            shorter = open_columns & (reduced < reach)
            reach[shorter], before[shorter] = reduced[shorter], at
            following = int(np.argmin(np.where(open_columns, reach, np.inf)))
            step = reach[following]
            row_price[owner[done]] += step
            column_price[done] -= step
            reach[open_columns] -= step
            at = following
        while at != columns:
            owner[at] = owner[before[at]]
            at = int(before[at])
    found = [0] * rows
    for column, taken in enumerate(owner[:columns]):
        if taken >= 0:
            found[int(taken)] = column
    return found
