"""Sequence tools: lists go in, rearranged, combined or compared lists come out."""

from __future__ import annotations

import heapq
import itertools
import json
import math
from typing import Any, Literal

from toolscaler.starter.registry import starter_tool


def _as_list(items: Any, name: str) -> list[Any]:
    """Give ``items`` as a list, or refuse it by name (a text is no list of letters here)."""
    if not isinstance(items, (list, tuple)):
        raise ValueError(f"{name}: expected a list, got {items!r}")
    return list(items)


def _lists(lists: Any) -> list[list[Any]]:
    """Give two or more lists."""
    rows = [_as_list(row, f"lists[{index}]") for index, row in enumerate(_as_list(lists, "lists"))]
    if len(rows) < 2:
        raise ValueError(f"lists: expected at least two lists, got {len(rows)}")
    return rows


def _whole(value: Any, name: str, at_least: int) -> int:
    """Give a whole number that is large enough."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ValueError(f"{name}: expected a whole number of at least {at_least}, got {value!r}")
    return value


def _numbers(values: Any, name: str) -> list[float]:
    """Give a list of finite numbers."""
    numbers = _as_list(values, name)
    for index, value in enumerate(numbers):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{name}[{index}]: expected a finite number, got {value!r}")
    return numbers


def _identity(value: Any) -> tuple[str, Any]:
    """Give a hashable stand-in under which JSON values are equal: 1 is 1.0, but neither true nor "1"."""
    if isinstance(value, bool) or value is None:
        return ("constant", value)
    if isinstance(value, (int, float)):
        return ("number", value)
    if isinstance(value, str):
        return ("text", value)
    try:
        return ("json", json.dumps(value, sort_keys=True))
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected plain JSON data, got {value!r}") from error


@starter_tool("Sequences")
def chunk_list(items: list[Any], size: int) -> list[list[Any]]:
    """Cut a list into consecutive chunks (batches, groups, pages) of a fixed size.

    The order is kept and no item appears twice. The last chunk is shorter if the items do not divide evenly.

    Args:
        items: The list to divide.
        size: Number of items in each chunk, at least 1.

    Returns:
        The chunks, in order.

    Raises:
        ValueError: ``items`` is no list or ``size`` is less than 1.
    """
    rows, width = _as_list(items, "items"), _whole(size, "size", 1)
    return [rows[start : start + width] for start in range(0, len(rows), width)]


@starter_tool("Sequences")
def remove_duplicates(items: list[Any]) -> list[Any]:
    """Drop repeated items from a list so that every distinct item stays once.

    The first appearance is kept and the order does not change. Use it to clean a list of names, addresses or numbers
    that has doubles.

    Args:
        items: The list, with texts, numbers or any other JSON values; letter case matters.

    Returns:
        The unique items, in order of first appearance.

    Raises:
        ValueError: ``items`` is no list or holds something that is not JSON data.
    """
    unique: dict[tuple[str, Any], Any] = {}
    for item in _as_list(items, "items"):
        unique.setdefault(_identity(item), item)
    return list(unique.values())


@starter_tool("Sequences")
def rotate_list(items: list[Any], steps: int, direction: Literal["right", "left"] = "right") -> list[Any]:
    """Shift a list around in a circle: what falls off one end comes back in at the other.

    Useful for rosters, turn orders and schedules in which everybody moves on by some places.

    Args:
        items: The list to shift.
        steps: How many places to move, 0 or more; more than the length goes round several times.
        direction: ``right`` moves the last items to the front, ``left`` moves the first items to the end.

    Returns:
        The rotated list.

    Raises:
        ValueError: ``items`` is no list, ``steps`` is negative, or the direction is unknown.
    """
    rows, count = _as_list(items, "items"), _whole(steps, "steps", 0)
    if direction not in ("right", "left"):
        raise ValueError(f"direction: expected 'right' or 'left', got {direction!r}")
    if not rows:
        return []
    cut = count % len(rows) if direction == "left" else -count % len(rows)
    return rows[cut:] + rows[:cut]


@starter_tool("Sequences")
def interleave_lists(lists: list[list[Any]]) -> list[Any]:
    """Weave two or more lists into one by taking an item from each in turn (round robin, zipper).

    Alternates between the lists: first of each, then second of each. When a list runs out, the others go on.

    Args:
        lists: The lists to alternate between, at least two; they may differ in length.

    Returns:
        One list with all the items in alternating order.

    Raises:
        ValueError: Fewer than two lists, or an element that is no list.
    """
    gap = object()
    columns = itertools.zip_longest(*_lists(lists), fillvalue=gap)
    return [item for column in columns for item in column if item is not gap]


@starter_tool("Sequences")
def sliding_windows(items: list[Any], width: int, step: int = 1) -> list[list[Any]]:
    """List every overlapping window of neighbouring items as a frame slides along a list.

    With width 2 this gives all adjacent pairs, with width 3 all consecutive triples. Only full windows are given.

    Args:
        items: The list to slide over, such as daily readings.
        width: Number of items in each window, at least 1.
        step: How many places the window moves each time, at least 1.

    Returns:
        The windows, in order; empty if the list is shorter than ``width``.

    Raises:
        ValueError: ``items`` is no list, or ``width`` or ``step`` is less than 1.
    """
    rows = _as_list(items, "items")
    span, stride = _whole(width, "width", 1), _whole(step, "step", 1)
    return [rows[start : start + span] for start in range(0, len(rows) - span + 1, stride)]


@starter_tool("Sequences")
def merge_sorted_lists(lists: list[list[float]], descending: bool = False) -> list[float]:
    """Combine two or more lists of numbers that are already sorted into one sorted list.

    Every number is kept, repeats too. Use it to join ordered logs, rankings or time stamps without losing the order.

    Args:
        lists: The sorted lists of numbers, at least two.
        descending: True if the lists run from high to low.

    Returns:
        All the numbers in one list, in the same direction.

    Raises:
        ValueError: Fewer than two lists, something that is not a finite number, or a list that is not sorted.
    """
    rows = [_numbers(row, f"lists[{index}]") for index, row in enumerate(_lists(lists))]
    for index, row in enumerate(rows):
        if any((a < b) if descending else (a > b) for a, b in itertools.pairwise(row)):
            order = "high to low" if descending else "low to high"
            raise ValueError(f"lists[{index}]: expected numbers sorted from {order}, got {row!r}")
    return list(heapq.merge(*rows, reverse=descending))


@starter_tool("Sequences")
def flatten_list(items: list[Any], depth: int | None = None) -> list[Any]:
    """Turn a nested list (lists within lists) into one flat list.

    Opens the inner brackets and keeps the order. By default every level is opened; ``depth`` limits how many.

    Args:
        items: The nested list.
        depth: How many levels of nesting to open, 0 or more; null opens all of them.

    Returns:
        The flat list.

    Raises:
        ValueError: ``items`` is no list or ``depth`` is negative.
    """
    rows = _as_list(items, "items")
    levels = None if depth is None else _whole(depth, "depth", 0)
    opened = 0
    while (levels is None or opened < levels) and any(isinstance(item, (list, tuple)) for item in rows):
        rows = [leaf for item in rows for leaf in (item if isinstance(item, (list, tuple)) else [item])]
        opened += 1
    return rows


@starter_tool("Sequences")
def longest_run(items: list[Any]) -> dict[str, Any]:
    """Find the longest streak of the same value in a row.

    Looks for equal neighbours, such as the most wins in a row, or the longest stretch of rainy days. The earliest
    streak is given if several are equally long.

    Args:
        items: The list to search, at least one item.

    Returns:
        ``value``, the repeated item, ``length``, how many times in a row, and ``start``, the 0-based position at which
        the streak begins.

    Raises:
        ValueError: ``items`` is no list, is empty, or holds something that is not JSON data.
    """
    rows = _as_list(items, "items")
    if not rows:
        raise ValueError("items: expected at least one item, got an empty list")
    best = {"value": rows[0], "length": 0, "start": 0}
    start = 0
    for _, streak in itertools.groupby(rows, key=_identity):
        length = sum(1 for _ in streak)
        if length > best["length"]:
            best = {"value": rows[start], "length": length, "start": start}
        start += length
    return best


@starter_tool("Sequences")
def top_values(values: list[float], count: int, which: Literal["largest", "smallest"] = "largest") -> list[float]:
    """Pick the few largest (or smallest) numbers of a list, best first.

    Gives the top three scores, the five highest sales, the two lowest bids and so on; equal numbers all count.

    Args:
        values: The numbers to choose from.
        count: How many to pick, at least 1; a shorter list is given whole.
        which: ``largest`` for the highest numbers first, ``smallest`` for the lowest first.

    Returns:
        The picked numbers, sorted from the most extreme on.

    Raises:
        ValueError: Something that is not a finite number, a count below 1, or an unknown choice.
    """
    numbers, picked = _numbers(values, "values"), _whole(count, "count", 1)
    if which not in ("largest", "smallest"):
        raise ValueError(f"which: expected 'largest' or 'smallest', got {which!r}")
    return heapq.nlargest(picked, numbers) if which == "largest" else heapq.nsmallest(picked, numbers)


@starter_tool("Sequences")
def list_difference(
    first: list[Any], second: list[Any], mode: Literal["only_in_first", "not_in_both"] = "only_in_first"
) -> list[Any]:
    """Compare two lists and give the items that are in one but missing from the other.

    Finds who was invited but did not reply, what is on the shopping list but not in the pantry, or, with
    ``not_in_both``, everything that the lists do not share.

    Args:
        first: The list whose items are looked up.
        second: The list to compare with.
        mode: ``only_in_first`` for items of the first list that the second lacks, ``not_in_both`` for items that occur
            in exactly one of the two.

    Returns:
        The missing items, each once, in order of appearance.

    Raises:
        ValueError: An argument is no list, holds something that is not JSON data, or the mode is unknown.
    """
    if mode not in ("only_in_first", "not_in_both"):
        raise ValueError(f"mode: expected 'only_in_first' or 'not_in_both', got {mode!r}")
    left, right = remove_duplicates(_as_list(first, "first")), remove_duplicates(_as_list(second, "second"))
    in_left, in_right = {_identity(item) for item in left}, {_identity(item) for item in right}
    missing = [item for item in left if _identity(item) not in in_right]
    if mode == "not_in_both":
        missing += [item for item in right if _identity(item) not in in_left]
    return missing


@starter_tool("Sequences")
def running_totals(values: list[float], start: float = 0) -> list[float]:
    """Add numbers up step by step and give the cumulative sum after each one.

    Shows how a balance, a distance or a score grows with every entry, not only the final total.

    Args:
        values: The numbers to add in order; negative ones subtract.
        start: Amount from which the count begins.

    Returns:
        The running total after each number, as many as there are numbers.

    Raises:
        ValueError: Something that is not a finite number.
    """
    (total,) = _numbers([start], "start")
    return list(itertools.accumulate(_numbers(values, "values"), initial=total))[1:]
