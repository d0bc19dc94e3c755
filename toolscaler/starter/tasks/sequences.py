"""One-call task families about lists."""

from __future__ import annotations

from toolscaler.starter.tasks.draw import Draw
from toolscaler.starter.tasks.family import Values, call


def _doubles(d: Draw) -> list[str]:
    names = d.names(4)
    return [*names, *d.sample(names, 2)]


def _runs(d: Draw) -> Values:
    one, two = d.sample(("win", "loss", "draw", "rain", "sun", "snow"), 2)
    long, short = d.num(3, 5), d.num(1, 2)
    return {
        "items": d.pick(([two] * short + [one] * long + [two], [one, two] + [one] * long, [one] * long + [two] * short))
    }


def _two_groups(d: Draw) -> Values:
    names = d.names(7)
    return {"first": names[:5], "second": d.shuffled([*names[5:], *d.sample(names[:5], 3)])}


FAMILIES = (
    call(
        "chunk_list",
        lambda d: {"items": d.names(d.num(5, 7)), "size": d.num(2, 3)},
        (
            "Divide this list into groups of {size}: {items}",
            "Make batches of {size} from {items}.",
            "chunks of size {size}: {items}",
        ),
        ("Put {items} into teams of {size} in this order.",),
        "groups of a fixed size", "cut the list into chunks", "The groups are: {ref}",
    ),
    call(
        "remove_duplicates",
        lambda d: {"items": _doubles(d)},
        (
            "Remove the duplicates from {items}.",
            "My list has doubles: {items}. Give each name once.",
            "unique items of {items}",
        ),
        ("Clean up this guest list so that nobody is on it twice: {items}",),
        "a list without doubles", "drop the repeated items", "The list is: {ref}",
        echo=True,
    ),
    call(
        "rotate_list",
        lambda d: {"items": d.names(5), "steps": d.num(1, 3), "direction": d.pick(("left", "right"))},
        (
            "Rotate the list {items} by {steps} to the {direction}.",
            "Shift {items} around by {steps} places to the {direction}.",
            "rotate {direction} by {steps}: {items}",
        ),
        ("The roster {items} moves on {steps} places to the {direction}. What is the new order?",),
        "a rotated list", "shift the list around", "The new order is: {ref}",
    ),
    call(
        "interleave_lists",
        lambda d: {"_first": (names := d.names(6))[:3], "_second": names[3:], "lists": [names[:3], names[3:]]},
        (
            "Alternate between the lists {lists}.",
            "Weave these lists into one: {lists}",
            "interleave {lists}",
        ),
        ("Take one from each list in turn: {lists}",),
        "one list in turns", "weave the lists together", "The list is: {ref}",
    ),
    call(
        "sliding_windows",
        lambda d: {"items": d.different(d.num(4, 5), 1, 60), "width": d.num(2, 3)},
        (
            "List all windows of width {width} over {items}.",
            "Slide a frame of {width} along {items}. What windows are there?",
            "sliding windows, width {width}: {items}",
        ),
        ("Which groups of {width} neighbours does the row {items} have?",),
        "the windows of a list", "slide over the list", "The windows are: {ref}",
    ),
    call(
        "merge_sorted_lists",
        lambda d: {"lists": [sorted(d.different(3, 1, 90)), sorted(d.different(3, 1, 90))]},
        (
            "Merge the sorted lists {lists} into one.",
            "Combine these sorted lists and keep the order: {lists}",
            "merge sorted {lists}",
        ),
        ("Both lists are sorted already, join them into a single sorted one: {lists}",),
        "one sorted list", "merge the lists", "The merged list is: {ref}",
    ),
    call(
        "flatten_list",
        lambda d: {"items": [(n := d.different(5, 1, 99))[0], [n[1], [n[2]]], [n[3], n[4]]]},
        (
            "Flatten the nested list {items}.",
            "Open all inner brackets of {items}.",
            "flat list of {items}",
        ),
        ("There are lists inside my list: {items}. Make one flat list of it.",),
        "a flat list", "open the inner lists", "The flat list is: {ref}",
    ),
    call(
        "longest_run",
        _runs,
        (
            "How long is the longest streak in {items}?",
            "What is the largest number of equal items in a row in {items}?",
            "longest run of the same value: {items}",
        ),
        ("Find the longest stretch without a change in {items}. How many are that?",),
        "the longest streak", "search the list for it", "The longest streak is {ref}.",
        ref="length",
    ),
    call(
        "top_values",
        lambda d: {"values": d.different(6, 10, 99), "count": d.num(2, 3), "which": d.pick(("largest", "smallest"))},
        (
            "What are the {count} {which} numbers of {values}?",
            "Pick the {count} {which} values from {values}.",
            "{which} {count} of {values}",
        ),
        ("Out of {values} I want the {count} {which} ones.",),
        "the most extreme numbers", "pick them from the list", "They are: {ref}",
        echo=True,
    ),
    call(
        "list_difference",
        _two_groups,
        (
            "Who is in {first} but not in {second}?",
            "Invited: {first}. Replied: {second}. Who is missing?",
            "items of {first} that are not in {second}",
        ),
        ("I expected {first} and these came: {second}. Who did not come?",),
        "the missing items", "compare the lists", "Missing: {ref}",
        echo=True,
    ),
    call(
        "running_totals",
        lambda d: {"values": d.ints(4, 2, 40)},
        (
            "Give the running totals of {values}.",
            "Add up {values} step by step and show each sum.",
            "cumulative sums of {values}",
        ),
        ("I save {values} in four weeks. What do I have after each week?",),
        "the sum after each step", "add the numbers up one by one", "The totals are: {ref}",
    ),
)  # fmt: skip
