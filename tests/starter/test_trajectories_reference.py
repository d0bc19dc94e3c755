"""Reference values: recomputed without the tools, independent of the answer text, strict about wrong answers."""

from __future__ import annotations

import base64
import json
import math
import statistics
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from toolscaler.starter import StarterTask, load_starter_tasks
from toolscaler.starter.tasks import build
from toolscaler.starter.tasks.check import holds_value, same_arguments, value_text
from toolscaler.starter.tasks.family import Family

TASKS = load_starter_tasks()
FAMILIES = {family.name: family for family in build.starter_families()}
Arguments = Mapping[str, Any]


# --- recomputed without the tools ------------------------------------------------------------------------------------


def _day(text: str) -> date:
    return date.fromisoformat(text)


def _collatz(number: int) -> int:
    steps = 0
    while number != 1:
        number, steps = (3 * number + 1 if number % 2 else number // 2), steps + 1
    return steps


def _largest_prime(number: int) -> int:
    return max(p for p in range(2, number + 1) if number % p == 0 and all(p % q for q in range(2, math.isqrt(p) + 1)))


def _fibonacci(position: int) -> int:
    golden = [0, 1]
    while len(golden) <= position:
        golden.append(golden[-1] + golden[-2])
    return golden[position]


def _cents(value: float) -> float:
    return math.floor(value * 100 + 0.5 + 1e-7) / 100


TWINS: dict[str, Callable[[Arguments], Any]] = {
    "add_days": lambda a: (_day(a["date"]) + timedelta(a["days"])).isoformat(),
    "days_between": lambda a: (_day(a["end_date"]) - _day(a["start_date"])).days,
    "day_of_week": lambda a: _day(a["date"]).strftime("%A"),
    "calendar_week_number": lambda a: int(_day(a["date"]).strftime("%V")),
    "unix_timestamp_to_date": lambda a: datetime.fromtimestamp(a["seconds"], timezone.utc).strftime(
        "%Y-%m-%dT%H:%M:%SZ"
    ),
    "is_prime_number": lambda a: all(a["number"] % q for q in range(2, math.isqrt(a["number"]) + 1)),
    "prime_factors": lambda a: _largest_prime(a["number"]),
    "greatest_common_divisor": lambda a: max(k for k in range(1, 400) if all(n % k == 0 for n in a["numbers"])),
    "least_common_multiple": lambda a: next(k for k in range(1, 30000) if all(k % n == 0 for n in a["numbers"])),
    "fibonacci_number": lambda a: _fibonacci(a["position"]),
    "collatz_sequence": lambda a: _collatz(a["start"]),
    "modular_power": lambda a: a["base"] ** a["exponent"] % a["modulus"],
    "binomial_coefficient": lambda a: (
        math.factorial(a["n"]) // math.factorial(a["k"]) // math.factorial(a["n"] - a["k"])
    ),
    "convert_number_base": lambda a: format(
        int(a["digits"], a["from_base"]), {2: "b", 8: "o", 10: "d", 16: "x"}[a["to_base"]]
    ),
    "arithmetic_mean": lambda a: sum(a["values"]) / len(a["values"]),
    "median_value": lambda a: statistics.median(a["values"]),
    "running_totals": lambda a: [sum(a["values"][: k + 1]) for k in range(len(a["values"]))],
    "list_difference": lambda a: [item for item in a["first"] if item not in a["second"]],
    "flatten_list": lambda a: [
        int(part) for part in json.dumps(a["items"]).replace("[", "").replace("]", "").split(",")
    ],
    "merge_sorted_lists": lambda a: sorted(a["lists"][0] + a["lists"][1]),
    "count_words": lambda a: len(a["text"].split()),
    "check_palindrome": lambda a: (t := a["text"].lower().replace(" ", "")) == t[::-1],
    "check_anagram": lambda a: sorted(a["first"]) == sorted(a["second"]) and a["first"] != a["second"],
    "base64_encode": lambda a: base64.b64encode(a["text"].encode()).decode(),
    "hex_decode": lambda a: bytes.fromhex(a["text"]).decode(),
    "hash_text": lambda a: f"{zlib.crc32(a['text'].encode()):08x}" if a["algorithm"] == "crc32" else None,
    "box_measurements": lambda a: a["length"] * a["width"] * a["height"],
    "sphere_measurements": lambda a: math.pi * a["radius"] ** 3 * 4 / 3,
    "circle_measurements": lambda a: math.pi * a["radius"] ** 2,
    "right_triangle_side": lambda a: math.sqrt(a["leg"] ** 2 + a["other_leg"] ** 2),
    "sales_tax": lambda a: _cents(a["amount"] * (1 + a["tax_percent"] / 100)),
    "discount_price": lambda a: _cents(a["price"] * (1 - a["percent_off"] / 100)),
    "profit_margin": lambda a: round(100 * (a["selling_price"] - a["cost"]) / a["selling_price"], 4),
    "filter_records": lambda a: [row["item"] for row in a["records"] if row["price"] > a["value"]],
    "select_columns": lambda a: [row[a["columns"][0]] for row in a["records"]],
    "write_text_file": lambda a: len(a["content"].encode()),
}


@pytest.mark.parametrize("family", sorted(TWINS))
def test_references_of_single_calls_equal_an_independent_computation(family: str) -> None:
    found = [task for task in TASKS if task.family == family]
    assert len({task.split for task in found}) == 2
    for task in found:
        expected = TWINS[family](task.expected_arguments[0])
        if expected is None:  # this twin does not know the case
            continue
        if isinstance(expected, float):
            assert task.reference == pytest.approx(expected, rel=1e-9, abs=1e-6)
        else:
            assert task.reference == expected


def _task(family: str) -> list[StarterTask]:
    return [task for task in TASKS if task.family == family]


def test_references_of_chains_equal_an_independent_computation() -> None:
    for task in _task("days_then_weekday"):
        first = task.expected_arguments[0]
        assert task.reference == (_day(first["date"]) + timedelta(first["days"])).strftime("%A")
    for task in _task("top_then_mean"):
        first = task.expected_arguments[0]
        ordered = sorted(first["values"], reverse=first["which"] == "largest")[: first["count"]]
        assert task.reference == sum(ordered) / first["count"]
    for task in _task("flatten_unique_top_mean"):
        numbers = set(TWINS["flatten_list"](task.expected_arguments[0]))
        count = task.expected_arguments[2]["count"]
        assert task.reference == sum(sorted(numbers)[-count:]) / count
    for task in _task("base64_reverse_upper_hash"):
        plain = base64.b64decode(task.expected_arguments[0]["text"]).decode()
        assert task.reference == f"{zlib.crc32(plain[::-1].upper().encode()):08x}"
    for task in _task("find_read_count"):
        assert task.reference == len(next(iter(task.files.values())))
    for task in _task("two_means_best"):
        lists = [arguments["values"] for arguments in task.expected_arguments[:2]]
        assert task.reference == max(sum(values) / 4 for values in lists)


def test_references_of_recoveries_equal_an_independent_computation() -> None:
    for task in _task("date_without_zeros"):
        year, month, day = map(int, task.calls[0].arguments["date"].split("-"))
        assert task.reference == (date(year, month, day) + timedelta(task.calls[0].arguments["days"])).isoformat()
    for task in _task("read_moved_file"):
        assert task.calls[0].arguments["path"] not in task.files
        assert [task.reference] == list(task.files.values())
    for task in _task("sort_wrong_column"):
        rows = task.calls[0].arguments["records"]
        assert task.reference == max(rows, key=lambda row: row["price"])["item"]


def test_references_come_from_results_not_from_the_answer_text() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("add_days", "sphere_then_round", "read_moved_file", "csv_then_mean", "is_prime_number"):
            other: Family = replace(FAMILIES[name], answer="Something else.")
            spoiled = build._family_tasks(other, "test", 1, Path(folder) / name)
            assert [task.reference for task in spoiled] == [t.reference for t in _task(name) if t.split == "test"]
            assert not any(task.check(task.answer) for task in spoiled)
    for task in TASKS:
        results = [call.feedback if call.is_error else json.loads(call.feedback) for call in task.calls]
        assert FAMILIES[task.family].reference(results) == task.reference


# --- comparing calls -------------------------------------------------------------------------------------------------


def test_the_reference_calls_solve_their_task_and_others_do_not() -> None:
    for task in TASKS:
        calls = [(call.tool, call.arguments) for call in task.calls]
        assert task.solved_by(calls)
        assert task.solved_by([*calls, *calls])
        if task.expected_tools:
            assert not task.solved_by(calls[:-1]) or task.calls[-1].is_error
            assert not task.solved_by([("starter/fibonacci_number", {"position": 7777})])


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({"values": [1, 2], "count": 1}, {"values": [1.0, 2], "count": 1, "which": "largest"}, True),
        ({"values": [1, 2], "count": 1}, {"count": 1, "values": [1, 2], "which": "smallest"}, False),
        ({"values": [1, 2], "count": 1}, {"values": [2, 1], "count": 1}, False),
        ({"values": [1, 2], "count": 1}, {"values": [1, 2], "count": True}, False),
        ({"values": [1, 2], "count": 1}, {"values": [1, 2]}, False),
        ({"values": [1, 2], "count": 1}, {"values": [1, 2], "count": 1, "more": 0}, False),
        ({"values": [1], "count": 1}, {"values": "1", "count": 1}, False),
    ],
)
def test_arguments_are_the_same_with_defaults_filled_in(first: Arguments, second: Arguments, same: bool) -> None:
    assert same_arguments("starter/top_values", first, second) is same
    assert same_arguments("starter/top_values", second, first) is same


# --- checking answers ------------------------------------------------------------------------------------------------


def test_reference_answers_are_right_and_others_wrong() -> None:
    families: dict[str, list[StarterTask]] = {}
    for task in TASKS:
        families.setdefault(task.family, []).append(task)
        assert task.check(task.answer), task.id
        assert not task.check("")
        assert not task.check("I do not know.")
    for tasks in families.values():
        for task in tasks:
            for other in tasks:
                assert task.check(other.answer) == (task.reference == other.reference), (task.id, other.id)


def test_repeating_the_query_is_no_answer_unless_the_family_says_so() -> None:
    for task in TASKS:
        if task.calls and not FAMILIES[task.family].echo and not isinstance(task.reference, bool):
            assert not task.check(task.query), task.id


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("It is 12.", 12, True),
        ("It is 12.0 km.", 12, True),
        ("It is 12.5.", 12, False),
        ("In 2012 it was so.", 12, False),
        ("That makes 1,234,567 in all", 1234567, True),
        ("-3 degrees", -3, True),
        ("between 2-3 days", 3, False),
        ("8.05km", 8.05, True),
        ("39.46", 39.47, False),
        ("about 78.5398", 78.53981633974483, True),
        ("about 78.6", 78.53981633974483, False),
        ("It is 2025-04-17.", "2025-04-17", True),
        ("It is 2025-04-171.", "2025-04-17", False),
        ("It is Wednesday", "Wed", False),
        ("the  file says:\nblue   stone", "blue stone", True),
        ("a,b\n1,2", "a,b\n1,2", True),
        ("a,b 1,2", "a,b\n1,2", False),
        ("Yes, it is.", True, True),
        ("No, not true.", True, False),
        ("It is false.", False, True),
        ("perhaps", False, False),
        ("Ann, Ben and Cleo", ["Ann", "Ben", "Cleo"], True),
        ('["Ann", "Ben"]', ["Ann", "Ben"], True),
        ("Ben, Ann", ["Ann", "Ben"], False),
        ("Ann, Ben, Cleo", ["Ann", "Ben"], False),
        ("1, 2.0, 3", [1.0, 2.0, 3.0], True),
        ("1, 2, 3, 4", [1, 2, 3], False),
        ("[[1, 2], [3]]", [[1, 2], [3]], True),
        ("1, 2, 3", [[1, 2], [3]], False),
        ("", "x", False),
        ("anything", "", False),
    ],
)
def test_what_counts_as_holding_a_value(answer: str, reference: Any, right: bool) -> None:
    assert holds_value(answer, reference) is right


@pytest.mark.parametrize("value", [True, False, 3, -2.5, 1 / 3, 1e6 / 7, "a b", ["x", "y"], [1, 2.5], [[1, 2], [3]]])
def test_a_value_as_it_is_written_is_held(value: Any) -> None:
    assert holds_value(f"The result is: {value_text(value)}", value)
    assert holds_value(value_text(value), value)
