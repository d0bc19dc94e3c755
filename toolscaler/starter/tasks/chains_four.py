"""Task families of four calls."""

from __future__ import annotations

import base64

from toolscaler.starter.tasks.chains_long import long_chain
from toolscaler.starter.tasks.chains_two import csv_text, values_of
from toolscaler.starter.tasks.draw import WEEKDAYS
from toolscaler.starter.tasks.family import Step

FAMILIES = (
    long_chain(
        "weekday_months_days_weekday",
        lambda d: {"weekday": d.pick(WEEKDAYS), "occurrence": d.num(1, 4), "month": d.num(1, 12),
            "year": d.num(2022, 2032), "months": d.num(2, 18), "days": d.num(3, 60)},
        (
            Step("nth_weekday_of_month", values_of("year", "month", "weekday", "occurrence"), "the first date",
                "find that weekday in the month"),
            Step("add_months", lambda v, r: {"date": r[0], "months": v["months"]}, "the date after the months",
                "add the months"),
            Step("add_days", lambda v, r: {"date": r[1], "days": v["days"]}, "the date after the days", "add the days"),
            Step("day_of_week", lambda v, r: {"date": r[2]}, "its weekday", "look up the day of the week"),
        ),
        (
            "Take {weekday} number {occurrence} of month {month} in {year}, add {months} months and {days} days. "
            "Which weekday is it?",
            "We begin on {weekday} number {occurrence} of month {month} in {year} and need {months} months and {days} "
            "days. On what weekday do we end?",
        ),
        "Starting from {weekday} number {occurrence} in month {month} of {year}, what day of the week is {months} "
        "months plus {days} days later?",
        "It is a {ref}.", repeat=3,
    ),
    long_chain(
        "base64_reverse_upper_hash",
        lambda d: {"text": base64.b64encode(d.phrase().encode()).decode()},
        (
            Step("base64_text", values_of("text", direction="decode"), "the plain text", "decode the Base64"),
            Step("reverse_text", lambda v, r: {"text": r[0], "by": "characters"}, "the text backwards",
                "turn it around"),
            Step("change_letter_case", lambda v, r: {"text": r[1], "case": "upper"}, "capitals",
                "change the letters to upper case"),
            Step("hash_text", lambda v, r: {"text": r[2], "algorithm": "crc32"}, "its hash", "compute the crc32"),
        ),
        ('Decode the Base64 "{text}", reverse it, write it in capitals and give its crc32.',
            'Base64 "{text}": plain text, backwards, upper case, then the crc32 hash.'),
        'For "{text}" in Base64 I need the crc32 of the decoded text turned around in capital letters.',
        "The hash is {ref}", repeat=3,
    ),
    long_chain(
        "flatten_unique_top_mean",
        lambda d: {"items": [[(n := d.different(5, 10, 99))[0], n[1]], [n[2], [n[3], n[0]]], n[4]],
            "count": d.pick((2, 4))},
        (
            Step("flatten_list", values_of("items"), "one flat list", "open the inner lists"),
            Step("remove_duplicates", lambda v, r: {"items": r[0]}, "each number once", "drop the repeated numbers"),
            Step("top_values", lambda v, r: {"values": r[1], "count": v["count"], "which": "largest"},
                "the largest numbers", "pick them"),
            Step("arithmetic_mean", lambda v, r: {"values": r[2]}, "their average", "compute the mean"),
        ),
        ("Flatten {items}, remove duplicates and average the {count} largest.",
            "What is the mean of the {count} largest different numbers in {items}?"),
        "Each number of {items} counts once. What do the {count} largest make on average?",
        "The average is {ref}.", repeat=3,
    ),
    long_chain(
        "find_read_csv_total",
        lambda d: {"name": f"{d.word()}.csv", "_folder": d.pick(("data", "exports", "sheets")), "_text": csv_text(d),
            "operation": d.pick(("sum", "max", "min"))},
        (
            Step("find_files_by_name", lambda v, r: {"pattern": v["name"]}, "the place of the file",
                "search by its name"),
            Step("read_text_file", lambda v, r: {"path": r[0][0]}, "its text", "read the file"),
            Step("parse_csv", lambda v, r: {"text": r[1]}, "the rows", "read the CSV"),
            Step("aggregate_records", lambda v,
                r: {"records": r[2], "group_by": [], "column": "age", "operation": v["operation"]},
                "one value of the ages", "summarise the column age"),
        ),
        ("Find {name} and give me the {operation} of the column age.",
            "What is the {operation} of age in {name}? It lies in some folder."),
        "Somewhere I have {name}. Tell me the {operation} of all ages in it.",
        "It is {ref}.", ref=lambda r: next(iter(r[3][0].values())),
        files=lambda v: {f"{v['_folder']}/{v['name']}": v["_text"]}, repeat=3,
    ),
    long_chain(
        "csv_filter_sort_markdown",
        lambda d: {"text": csv_text(d), "limit": d.num(18, 45)},
        (
            Step("parse_csv", values_of("text"), "the rows", "read the CSV"),
            Step("filter_records", lambda v,
                r: {"records": r[0], "column": "age", "operator": ">=", "value": v["limit"]}, "the rows that count",
                "filter by age"),
            Step("sort_records", lambda v, r: {"records": r[1], "by": ["age"], "descending": True}, "the rows in order",
                "sort by age"),
            Step("records_to_csv", lambda v, r: {"records": r[2]}, "a CSV text", "write the rows as CSV"),
        ),
        ("From this CSV keep age >= {limit}, sort by age from high to low and give me CSV again.\n{text}",
            "CSV of all with age >= {limit}, oldest first:\n{text}"),
        "Only people with age >= {limit} shall stay, the oldest on top, as CSV please.\n{text}",
        "{ref}", ref=lambda r: r[3].strip(), repeat=3,
    ),
    long_chain(
        "folder_write_copy_list",
        lambda d: {"folder": f"{d.pick(('team', 'club', 'school'))}/{d.num(2020, 2030)}", "content": d.phrase(),
            "first": f"{d.word()}.txt", "second": f"{d.word()}.bak"},
        (
            Step("create_folder", lambda v, r: {"path": v["folder"]}, "the new folder", "make the folder"),
            Step("write_text_file", lambda v, r: {"path": f"{r[0]['path']}/{v['first']}", "content": v["content"]},
                "the file in it", "write the text"),
            Step("copy_file", lambda v, r: {"source": r[1]["path"], "destination": f"{r[0]['path']}/{v['second']}"},
                "the copy", "copy the file"),
            Step("list_folder", lambda v, r: {"folder": r[0]["path"]}, "the content of the folder", "list it"),
        ),
        (
            'Make the folder {folder}, write "{content}" into {first} there, copy it to {second} and list the folder.',
            'Create {folder} with a file {first} that says "{content}" and a copy {second}. What is in the folder '
            'then?',
        ),
        'I need {folder} with {first} holding "{content}" and the backup {second}. List the folder at the end.',
        "It contains: {ref}", ref=lambda r: [record["path"] for record in r[3]], repeat=3,
    ),
    long_chain(
        "discount_tax_tip_round",
        lambda d: {"price": d.num(40, 400), "percent_off": d.num(1, 10) * 5, "tax_percent": d.pick((5, 7, 8, 10, 19)),
            "tip_percent": d.pick((10, 15, 20)), "people": d.num(2, 6)},
        (
            Step("discount_price", values_of("price", "percent_off"), "the reduced price", "take the discount off"),
            Step("sales_tax", lambda v, r: {"amount": r[0]["final_price"], "tax_percent": v["tax_percent"]},
                "the price with tax", "add the tax"),
            Step("tip_and_split", lambda v,
                r: {"bill": r[1]["gross"], "tip_percent": v["tip_percent"], "people": v["people"]},
                "each person's share", "add the tip and split"),
            Step("round_to_significant_digits", lambda v, r: {"value": r[2]["per_person"], "digits": 3}, "fewer digits",
                "round the number"),
        ),
        (
            "The menu for {price} is {percent_off} percent off, plus {tax_percent} percent tax and {tip_percent} "
            "percent tip for {people} people. What does each pay, to 3 digits?",
            "{price} less {percent_off} percent, {tax_percent} percent tax, {tip_percent} percent tip, shared by "
            "{people}: share with 3 significant digits?",
        ),
        "A dinner of {price} with {percent_off} percent discount, {tax_percent} percent tax and {tip_percent} percent "
        "tip is paid by {people}. About how much each, in three digits?",
        "Each pays {ref}.", repeat=3,
    ),
)  # fmt: skip
