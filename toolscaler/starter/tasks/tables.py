"""One-call task families about tables. Records stand in the query as JSON."""

from __future__ import annotations

import json
from typing import Any

from toolscaler.starter.tasks.draw import PLACES, Draw
from toolscaler.starter.tasks.family import Values, call


def item_prices(d: Draw, rows: int = 3) -> list[dict[str, Any]]:
    """Give records of an item and its price."""
    amounts = d.different(rows, 2, 60)
    return [{"item": item, "price": price} for item, price in zip(d.words(rows), amounts, strict=True)]


def city_sales(d: Draw) -> list[dict[str, Any]]:
    """Give three records of a city and its sales; two are of one city."""
    one, two = d.sample(PLACES, 2)
    return [
        {"city": city, "sales": amount} for city, amount in zip((one, two, one), d.different(3, 5, 90), strict=True)
    ]


def _csv(d: Draw) -> Values:
    lines = "\n".join(f"{name},{age}" for name, age in zip(d.names(3), d.different(3, 18, 80), strict=True))
    return {"text": f"name,age\n{lines}"}


def _filter(d: Draw) -> Values:
    records = item_prices(d)
    limit = sorted(record["price"] for record in records)[d.num(0, 1)]
    return {"records": records, "column": "price", "operator": ">", "value": limit}


def _join(d: Draw) -> Values:
    names, (first, second) = d.names(2), d.different(2, 1, 9)
    orders = [{"id": first, "total": d.num(10, 90)}, {"id": second, "total": d.num(10, 90)}]
    people = [{"id": second, "name": names[0]}, {"id": first, "name": names[1]}]
    return {"left": orders, "right": people, "on": "id"}


def _pivot(d: Draw) -> Values:
    (one, two), months = d.sample(PLACES, 2), ("May", "June")
    cells = [(one, months[0]), (one, months[1]), (two, months[0])]
    records = [{"city": city, "month": month, "sales": d.num(5, 90)} for city, month in cells]
    return {"records": records, "row": "city", "column": "month", "value": "sales"}


def _versions(d: Draw) -> Values:
    old = item_prices(d)
    new = [dict(record) for record in old]
    new[d.num(0, 2)]["price"] += d.num(1, 9)
    return {"old": old, "new": new, "key": "item"}


def _document(d: Draw) -> Values:
    order = {
        "user": {"name": d.name(), "city": d.pick(PLACES)},
        "orders": [{"id": d.num(10, 99)}, {"id": d.num(100, 999)}],
    }
    return {"json_text": json.dumps(order), "path": d.pick(("user.name", "user.city", "orders[0].id", "orders[1].id"))}


FAMILIES = (
    call(
        "parse_csv",
        _csv,
        (
            "Read this CSV. How old is the person in the last row?\n{text}",
            "What age stands in the last line of this CSV?\n{text}",
            "age in the final record of this csv:\n{text}",
        ),
        ("This came from a spreadsheet, which age does the last person have?\n{text}",),
        "the rows of a CSV text", "read the CSV", "The age is {ref}.",
        ref=lambda result: result[-1]["age"], echo=True,
    ),
    call(
        "records_to_csv",
        lambda d: {"records": item_prices(d, 2)},
        ("Write these records as CSV: {records}", "Make a CSV text of {records}", "csv of {records}"),
        ("My spreadsheet cannot open JSON. Export {records} in comma form.",),
        "a CSV text", "write the records as CSV", "{ref}",
        ref=lambda result: result.strip(),
    ),
    call(
        "records_to_markdown",
        lambda d: {"records": item_prices(d, 2)},
        (
            "Lay out {records} as a Markdown table.",
            "I need a pipe table for the README of {records}",
            "markdown table: {records}",
        ),
        ("Show {records} as a table in my wiki, please.",),
        "a Markdown table", "lay the records out", "{ref}",
    ),
    call(
        "filter_records",
        _filter,
        (
            "Which items of {records} have a {column} {operator} {value}?",
            "Keep only the rows with {column} {operator} {value}: {records}",
            "filter {column} {operator} {value} in {records}",
        ),
        ("From {records} I only want what has a {column} {operator} {value}. Name the items.",),
        "the matching rows", "filter the records", "The items are: {ref}",
        ref=lambda result: [record["item"] for record in result], echo=True,
    ),
    call(
        "sort_records",
        lambda d: {"records": item_prices(d), "by": ["price"], "descending": d.pick((True, False))},
        (
            "Sort {records} by {by} {descending}. Which item is first?",
            "Order the rows {records} by {by}, {descending}. Name the first item.",
            "sort by {by} {descending}, first item: {records}",
        ),
        ("Rank {records} by {by} {descending}. What is the item on top?",),
        "the rows in order", "sort the records", "The first item is {ref}.",
        ref=lambda result: result[0]["item"], echo=True,
        show={"descending": lambda down: "from high to low" if down else "from low to high"},
    ),
    call(
        "aggregate_records",
        lambda d: {"records": city_sales(d), "group_by": ["city"], "column": "sales",
            "operation": d.pick(("sum", "max", "min"))},
        (
            "What is the {operation} of {column} by {group_by} in {records}? Name the first group's value.",
            "Group {records} by {group_by} and take the {operation} of {column}. What does the first group get?",
            "{operation} of {column} per {group_by}, first group: {records}",
        ),
        ("For every {group_by} I want the {operation} of {column} from {records}. Which value has the first one?",),
        "a value for each group", "group the records", "The value is {ref}.",
        ref=lambda result: list(result[0].values())[-1], echo=True,
    ),
    call(
        "join_records",
        _join,
        (
            "Join {left} with {right} on {on}. Whose is the first row?",
            "Match the tables {left} and {right} by {on}. Which name has the first row?",
            "join on {on}: {left} and {right}, name of the first row",
        ),
        ("The orders are {left} and the customers {right}. Put them together by {on}. Who made the first order?",),
        "the combined rows", "join the tables", "It is {ref}.",
        ref=lambda result: result[0]["name"], echo=True,
    ),
    call(
        "pivot_records",
        _pivot,
        (
            "Make a pivot table of {records}: {row} down, {column} across, {value} in the cells. What has the first "
            "row in May?",
            "Cross {row} with {column} for {value}: {records}. Which value stands in the first row under May?",
            "pivot {row} by {column} with {value}, first row, May: {records}",
        ),
        ("I want a grid with {row} at the side, {column} on top and {value} inside: {records}. What is the first May "
            "cell?",),
        "a cross table", "pivot the records", "The value is {ref}.",
        ref=lambda result: result[0]["May"], echo=True,
    ),
    call(
        "select_columns",
        lambda d: {"records": [{**record, "stock": d.num(1, 99)} for record in item_prices(d, 2)],
            "columns": [d.pick(("item", "price", "stock"))]},
        (
            "Keep only the column {columns} of {records}. Which values remain?",
            "Drop everything but {columns} from {records} and list the values.",
            "select {columns}: {records}",
        ),
        ("I need no other field than {columns} of {records}. What is left?",),
        "some of the columns", "select the column", "The values are: {ref}",
        ref=lambda result: [value for record in result for value in record.values()],
    ),
    call(
        "diff_records",
        _versions,
        (
            "Compare the old list {old} with the new list {new} by {key}. Which item changed?",
            "Last week: {old}. Today: {new}. Which {key} has a new price?",
            "changed rows by {key}, old {old}, new {new}",
        ),
        ("One price is not the same any more. Before: {old}. After: {new}. Tell me the {key}.",),
        "the changed rows", "compare the two versions", "It is {ref}.",
        ref=lambda result: result["changed"][0]["key"], echo=True,
    ),
    call(
        "json_path_lookup",
        _document,
        (
            "What is at {path} in this JSON: {json_text}",
            "Look up {path} in {json_text}",
            "value of {path}: {json_text}",
        ),
        ("The server answered {json_text} and I only need {path}.",),
        "a value in a JSON text", "look up the path", "It is {ref}.",
        echo=True,
    ),
)  # fmt: skip
