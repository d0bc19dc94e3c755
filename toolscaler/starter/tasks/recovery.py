"""Task families in which a call fails because of what the user gave, and a later call is right."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from toolscaler.starter.tasks.chains_two import values_of
from toolscaler.starter.tasks.draw import PLACES, Draw
from toolscaler.starter.tasks.family import Family, Step, Values, chain
from toolscaler.starter.tasks.files import text_path
from toolscaler.starter.tasks.tables import city_sales, item_prices


def recovery(
    name: str,
    values: Callable[[Draw], Values],
    steps: Sequence[Step],
    train: tuple[str, ...],
    test: str,
    answer: str | tuple[str, str],
    **options: Any,
) -> Family:
    """Make a family in which a call fails and a later one is right, with one held-out wording.

    Args:
        name: Name of the family.
        values: Draws the values.
        steps: The calls, failing ones included.
        train: Wordings of training tasks.
        test: The held-out wording.
        answer: The final answer.
        **options: Further attributes of the family.
    """
    return chain(name, values, steps, train, (test,), answer, **{"repeat": 2, "kind": "recovery", **options})


def _moved_file(d: Draw) -> Values:
    one, two = d.sample(("notes", "letters", "archive", "old", "inbox"), 2)
    return {
        "name": (name := f"{d.word()}.txt"),
        "path": f"{one}/{name}",
        "_real": f"{two}/{name}",
        "_text": f"{d.name()} owes {d.num(2, 90)} euros",
    }


def _taken(d: Draw) -> Values:
    return {"path": text_path(d), "content": d.sentence(), "_text": d.phrase()}


def _taken_target(d: Draw) -> Values:
    one, two = d.words(2)
    return {"source": f"new/{one}.txt", "destination": f"old/{two}.txt", "_new": d.sentence(), "_old": d.phrase()}


def _wrong_key(d: Draw) -> Values:
    asked, key = d.pick(
        (("user.mail", "email"), ("user.town", "city"), ("user.phone", "telephone"), ("user.job", "profession"))
    )
    value = {
        "email": f"{d.name().lower()}@{d.word()}.example",
        "city": d.pick(PLACES),
        "telephone": str(d.num(100000, 999999)),
        "profession": d.pick(("baker", "nurse", "pilot", "tailor")),
    }[key]
    return {"path": asked, "_right": f"user.{key}", "json_text": json.dumps({"user": {key: value}})}


def _semicolons(d: Draw) -> Values:
    rows = [f"{name};{d.num(1, 99)},{d.num(1, 9)}" for name in d.names(2)]
    return {"text": "\n".join(["name;score", *rows]), "_name": rows[0].split(";")[0]}


_FILE_STEPS = (
    Step("find_files_by_name", lambda v, r: {"pattern": v["name"]},
        thought="The file is not there. I search for its name in all folders."),
)  # fmt: skip

_FILES = (
    recovery(
        "read_moved_file",
        _moved_file,
        (
            Step("read_text_file", values_of("path"), need="the text of a file", do="read it",
                fails=True),
            *_FILE_STEPS,
            Step("read_text_file", lambda v, r: {"path": r[1][0]},
                thought="Now I know the place. I read the file there."),
        ),
        ("What does the file {path} say?", "Read me {path}, I hope it is still there."),
        "Please show the content of {path}, it may have been moved.",
        "The file says: {ref}", files=lambda v: {v["_real"]: v["_text"]},
    ),
    recovery(
        "delete_moved_file",
        _moved_file,
        (
            Step("delete_file", values_of("path"), need="a file removed", do="delete it", fails=True),
            *_FILE_STEPS,
            Step("delete_file", lambda v, r: {"path": r[1][0]},
                thought="It lies in another folder. I delete it there."),
        ),
        ("Delete {path}, wherever it is now. How many bytes are freed?",
            "Remove the file {path} and find it if it was moved. What size is freed?"),
        "The file {path} must go, even if it lies elsewhere. How many bytes do I gain?",
        "It freed {ref} bytes.", ref=lambda r: r[2]["bytes_freed"], files=lambda v: {v["_real"]: v["_text"]},
    ),
    recovery(
        "write_taken_name",
        _taken,
        (
            Step("write_text_file", values_of("path", "content"),
                need="a text saved", do="write the file", fails=True),
            Step("write_text_file", values_of("path", "content", overwrite=True),
                thought="The file exists and may be replaced. I write it with overwrite."),
        ),
        ('Save "{content}" as {path}, replace it if it exists. What is the size?',
            'Write "{content}" to {path}. An old file may be overwritten. How many bytes?'),
        'Put "{content}" into {path} even if there is an older version. What size has it?',
        "It has {ref} bytes.", ref=lambda r: r[1]["bytes"], files=lambda v: {v["path"]: v["_text"]},
    ),
    recovery(
        "copy_taken_name",
        _taken_target,
        (
            Step("copy_file", values_of("source", "destination"), need="a copy", do="copy the file",
                fails=True),
            Step("copy_file", values_of("source", "destination", overwrite=True),
                thought="The target exists and may be replaced. I copy with overwrite."),
        ),
        ("Copy {source} over {destination}, the old one may go. How many bytes?",
            "Make {destination} a copy of {source}, replacing what is there. What size is it?"),
        "The backup {destination} is old, renew it from {source}. How many bytes are copied?",
        "It copied {ref} bytes.", ref=lambda r: r[1]["bytes"],
        files=lambda v: {v["source"]: v["_new"], v["destination"]: v["_old"]},
    ),
    recovery(
        "replace_wrong_case",
        lambda d: {"path": text_path(d), "old": (w := d.word()).capitalize(), "_word": w,
            "new": d.pick(("marble", "feather", "saddle", "anchor")), "_name": d.name()},
        (
            Step("replace_in_file", values_of("path", "old", "new"),
                need="a word replaced", do="edit the file", fails=True),
            Step("read_text_file", values_of("path"),
                thought="The word is not in the file like that. I read the file to see how it is written."),
            Step("replace_in_file", lambda v, r: {"path": v["path"], "old": v["_word"], "new": v["new"]},
                thought="It is written with a small letter. I replace that."),
        ),
        ("In {path} change {old} to {new}. How many places are that?",
            "Replace {old} by {new} in the file {path} and count the changes."),
        "The file {path} has {old} where {new} belongs. Correct it and tell me how often.",
        "It made {ref} changes.", ref=lambda r: r[2]["replacements"],
        files=lambda v: {v["path"]: f"{v['_name']} saw a {v['_word']} and a {v['_word']}"},
    ),
)  # fmt: skip

_TABLES = (
    recovery(
        "sort_wrong_column",
        lambda d: {"records": item_prices(d), "by": [d.pick(("prize", "cost", "prices"))]},
        (
            Step("sort_records", values_of("records", "by", descending=True),
                need="the rows in order", do="sort them", fails=True),
            Step("sort_records", lambda v, r: {"records": v["records"], "by": ["price"], "descending": True},
                thought="There is no such column. The message names price, so I sort by that."),
        ),
        ("Sort {records} by {by} from high to low. Which item is first?",
            "Which item of {records} has the highest {by}? Sort the rows."),
        "Order {records} by {by}, highest on top, and name the first item.",
        "The first item is {ref}.", ref=lambda r: r[1][0]["item"], echo=True,
    ),
    recovery(
        "filter_wrong_column",
        lambda d: {"records": (rows := item_prices(d)), "column": d.pick(("prize", "cost", "amount")),
            "value": min(row["price"] for row in rows)},
        (
            Step("filter_records", values_of("records", "column", "value", operator=">"),
                need="some of the rows", do="filter them", fails=True),
            Step("filter_records", lambda v,
                r: {"records": v["records"], "column": "price", "operator": ">", "value": v["value"]},
                thought="There is no such column. The message names price, so I filter by that."),
        ),
        ("Which items of {records} have a {column} > {value}?",
            "Keep the rows of {records} with {column} > {value} and list the items."),
        "From {records} I need the items whose {column} is > {value}.",
        "The items are: {ref}", ref=lambda r: [row["item"] for row in r[1]], echo=True,
    ),
    recovery(
        "aggregate_wrong_column",
        lambda d: {"records": city_sales(d), "group_by": [d.pick(("town", "place", "location"))],
            "operation": d.pick(("sum", "max"))},
        (
            Step("aggregate_records", values_of("records", "group_by", "operation", column="sales"),
                need="a value for each group", do="group the rows", fails=True),
            Step("aggregate_records", lambda v,
                r: {"records": v["records"], "group_by": ["city"], "column": "sales", "operation": v["operation"]},
                thought="The column is called city in this table. I group by that."),
        ),
        ("What is the {operation} of sales by {group_by} in {records}? Name the first value.",
            "Group {records} by {group_by} and take the {operation} of sales. What does the first group get?"),
        "For each {group_by} give me the {operation} of the sales: {records}. Which value comes first?",
        "The value is {ref}.", ref=lambda r: list(r[1][0].values())[-1], echo=True,
    ),
    recovery(
        "json_wrong_key",
        _wrong_key,
        (
            Step("json_path_lookup", values_of("json_text", "path"),
                need="a value of the JSON", do="look up the path", fails=True),
            Step("json_path_lookup", lambda v, r: {"json_text": v["json_text"], "path": v["_right"]},
                thought="The key has another name. I use the key that the message shows."),
        ),
        ("What is {path} in {json_text}", "Get {path} out of {json_text} or whatever it is called there."),
        "The reply was {json_text} and I look for {path}.",
        "It is {ref}", echo=True,
    ),
    recovery(
        "csv_other_delimiter",
        _semicolons,
        (
            Step("parse_csv", values_of("text"), need="the rows of a CSV text", do="read it", fails=True),
            Step("parse_csv", values_of("text", delimiter=";"),
                thought="The cells are separated by semicolons. I read it with that delimiter."),
        ),
        ("Read this CSV and tell me the first score.\n{text}", "Which score has the first row of this sheet?\n{text}"),
        "A colleague sent this export. What is the score in row one?\n{text}",
        "The score is {ref}", ref=lambda r: r[1][0]["score"], echo=True,
    ),
)  # fmt: skip

FAMILIES = (*_FILES, *_TABLES)
