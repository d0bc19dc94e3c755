"""Task families of three and four calls."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

from toolscaler.starter.tasks.chains_two import csv_text, values_of
from toolscaler.starter.tasks.draw import WEEKDAYS, Draw
from toolscaler.starter.tasks.family import Family, Step, Values, chain
from toolscaler.starter.tasks.files import text_path


def long_chain(
    name: str,
    values: Callable[[Draw], Values],
    steps: Sequence[Step],
    train: tuple[str, ...],
    test: str,
    answer: str | tuple[str, str],
    **options: Any,
) -> Family:
    """Make a family of three or four calls with one held-out wording.

    Args:
        name: Name of the family.
        values: Draws the values.
        steps: The calls.
        train: Wordings of training tasks.
        test: The held-out wording.
        answer: The final answer.
        **options: Further attributes of the family.
    """
    return chain(name, values, steps, train, (test,), answer, **{"repeat": 2, **options})


def _step_round(digits: int) -> Step:
    return Step(
        "round_to_significant_digits",
        lambda v, r: {"value": r[-1], "digits": digits},
        "fewer digits",
        "round the number",
    )


def _flight(d: Draw) -> Values:
    return {
        "start_latitude": d.num(-50, 60), "start_longitude": d.num(-120, 140), "end_latitude": d.num(-50, 60),
        "end_longitude": d.num(-120, 140),
    }  # fmt: skip


def _legs(d: Draw) -> Values:
    return {"first": d.num(2, 90), "second": d.num(2, 90)}


_DATES = (
    long_chain(
        "months_days_weekday",
        lambda d: {"date": d.date(), "months": d.num(2, 24), "days": d.num(3, 60)},
        (
            Step("add_months", values_of("date", "months"), "the date after the months", "add the months"),
            Step("add_days", lambda v, r: {"date": r[0], "days": v["days"]}, "the date after the days", "add the days"),
            Step("day_of_week", lambda v, r: {"date": r[1]}, "its weekday", "look up the day of the week"),
        ),
        ("Which weekday is {months} months and {days} days after {date}?",
            "From {date} go on {months} months, then {days} days. Name the weekday."),
        "A visa from {date} lasts {months} months plus {days} days. On what day of the week does it end?",
        "It is a {ref}.",
    ),
    long_chain(
        "weekday_days_week",
        lambda d: {"weekday": d.pick(WEEKDAYS), "occurrence": d.num(1, 4), "month": d.num(1, 12),
            "year": d.num(2022, 2032), "days": d.num(3, 60)},
        (
            Step("nth_weekday_of_month", values_of("year", "month", "weekday", "occurrence"), "the first date",
                "find that weekday in the month"),
            Step("add_days", lambda v, r: {"date": r[0], "days": v["days"]}, "the later date", "add the days"),
            Step("calendar_week_number", lambda v, r: {"date": r[1]}, "its calendar week", "look up the week number"),
        ),
        ("In which calendar week are we {days} days after {weekday} number {occurrence} of month {month} in {year}?",
            "Take {weekday} number {occurrence} of month {month} in {year}, add {days} days and give the week number."),
        "The fair is on {weekday} number {occurrence} of month {month} in {year}, the bill comes {days} days later. "
        "Which ISO week is that?",
        "It is week {ref}.", ref=lambda r: r[2]["week"],
    ),
    long_chain(
        "stamp_zone_weekday",
        lambda d: {"seconds": d.num(900_000_000, 1_900_000_000),
            "to_offset": d.pick(("UTC+9", "UTC-8", "UTC+5", "UTC-5", "UTC+2"))},
        (
            Step("unix_timestamp_to_date", values_of("seconds"), "the time in UTC", "turn the seconds into a date"),
            Step("convert_time_zone", lambda v,
                r: {"timestamp": r[0][:19], "from_offset": "UTC", "to_offset": v["to_offset"]}, "the local time",
                "convert the time"),
            Step("day_of_week", lambda v, r: {"date": r[1][:10]}, "its weekday", "look up the day of the week"),
        ),
        ("Which weekday was it at {to_offset} at Unix time {seconds}?",
            "Timestamp {seconds} on a clock at {to_offset}: what day of the week?"),
        "People at {to_offset} saw epoch {seconds} on which weekday?",
        "It was a {ref}.",
    ),
)  # fmt: skip

_MEASURES = (
    long_chain(
        "flight_miles_round",
        _flight,
        (
            Step("great_circle_distance",
                values_of("start_latitude", "start_longitude", "end_latitude", "end_longitude"), "the kilometres",
                "measure between the positions"),
            Step("convert_length", lambda v, r: {"value": r[0]["kilometres"], "from_unit": "km", "to_unit": "mile"},
                "miles", "convert the kilometres"),
            _step_round(3),
        ),
        (
            "How many miles is it from latitude {start_latitude}, longitude {start_longitude} to latitude "
            "{end_latitude}, longitude {end_longitude}, to 3 digits?",
            "Flight from {start_latitude} {start_longitude} to {end_latitude} {end_longitude} (latitude, longitude): "
            "miles, 3 significant digits.",
        ),
        "As the crow flies, how many miles lie between {start_latitude} {start_longitude} and {end_latitude} "
        "{end_longitude}? Three digits will do.",
        "It is {ref} miles.",
    ),
    long_chain(
        "circle_area_round",
        lambda d: {"radius": d.num(20, 400), "unit": d.pick(("hectare", "acre", "sqft"))},
        (
            Step("circle_measurements", values_of("radius"), "the area", "measure the circle"),
            Step("convert_area", lambda v, r: {"value": r[0]["area"], "from_unit": "m2", "to_unit": v["unit"]},
                "the other unit", "convert the area"),
            _step_round(3),
        ),
        ("A round lake has a radius of {radius} m. What is its area in {unit}, to 3 significant digits?",
            "Circle of radius {radius} m: area in {unit} with 3 digits."),
        "How many {unit} does a circle of {radius} m radius cover, with three significant figures?",
        "It is {ref} {unit}.",
    ),
    long_chain(
        "cylinder_gallons_round",
        lambda d: {"radius": d.num(1, 9), "height": d.num(2, 12), "unit": d.pick(("liter", "us_gallon", "uk_gallon"))},
        (
            Step("cylinder_measurements", values_of("radius", "height"), "the volume", "measure the cylinder"),
            Step("convert_volume", lambda v, r: {"value": r[0]["volume"], "from_unit": "m3", "to_unit": v["unit"]},
                "the other unit", "convert the volume"),
            _step_round(4),
        ),
        ("A tank has a radius of {radius} m and is {height} m high. What does it hold in {unit}, to 4 digits?",
            "Cylinder, radius {radius} m, height {height} m: volume in {unit} with 4 significant digits."),
        "What fits into a silo of {radius} m radius and {height} m height, in {unit} and four figures?",
        "It holds {ref} {unit}.",
    ),
    long_chain(
        "two_legs_total",
        _legs,
        (
            Step("convert_length", lambda v, r: {"value": v["first"], "from_unit": "mile", "to_unit": "km"},
                "the first leg in km", "convert the first leg"),
            Step("convert_length", lambda v, r: {"value": v["second"], "from_unit": "mile", "to_unit": "km"},
                "the second leg in km", "convert the second leg"),
            Step("running_totals", lambda v, r: {"values": [r[0], r[1]]}, "the sum", "add the legs up"),
        ),
        ("We drove {first} miles and then {second} miles. How many km is that together?",
            "Add {first} miles and {second} miles in km."),
        "The first leg has {first} miles, the second {second} miles. What is the total in km?",
        "It is {ref} km.", ref=lambda r: r[2][-1],
    ),
    long_chain(
        "two_means_best",
        lambda d: {"first": d.ints(4, 10, 90), "second": d.ints(4, 10, 90)},
        (
            Step("arithmetic_mean", lambda v, r: {"values": v["first"]}, "the first average",
                "compute the mean of the first list"),
            Step("arithmetic_mean", lambda v, r: {"values": v["second"]}, "the second average",
                "compute the mean of the second list"),
            Step("top_values", lambda v, r: {"values": [r[0], r[1]], "count": 1, "which": "largest"}, "the better one",
                "pick the larger average"),
        ),
        ("Which is the higher average, that of {first} or that of {second}? Give its value.",
            "Compare the means of {first} and {second} and name the larger."),
        "One team scored {first}, the other {second}. What is the better average?",
        "The higher average is {ref}.", ref=lambda r: r[2][0], longest=6,
    ),
    long_chain(
        "discount_tax_shares",
        lambda d: {"price": d.num(40, 900), "percent_off": d.num(1, 10) * 5, "tax_percent": d.pick((5, 7, 8, 10, 19)),
            "shares": d.different(2, 1, 5)},
        (
            Step("discount_price", values_of("price", "percent_off"), "the reduced price", "take the discount off"),
            Step("sales_tax", lambda v, r: {"amount": r[0]["final_price"], "tax_percent": v["tax_percent"]},
                "the price with tax", "add the tax"),
            Step("split_by_shares", lambda v, r: {"amount": r[1]["gross"], "shares": v["shares"]}, "the parts",
                "split it by the shares"),
        ),
        (
            "A sofa for {price} is {percent_off} percent off, {tax_percent} percent tax is added, and two people "
            "share it {shares}. What are the parts?",
            "{price} minus {percent_off} percent, plus {tax_percent} percent tax, divided as {shares}: what are the "
            "parts?",
        ),
        "We buy something for {price} at {percent_off} percent discount, add {tax_percent} percent tax and pay it "
        "{shares}. Who pays what?",
        "The parts are: {ref}",
    ),
    long_chain(
        "flatten_unique_median",
        lambda d: {"items": [[(n := d.different(5, 10, 99))[0], n[1]], [n[2], [n[3], n[0]]], n[4]]},
        (
            Step("flatten_list", values_of("items"), "one flat list", "open the inner lists"),
            Step("remove_duplicates", lambda v, r: {"items": r[0]}, "each number once", "drop the repeated numbers"),
            Step("median_value", lambda v, r: {"values": r[1]}, "the median", "find the middle value"),
        ),
        ("Flatten {items}, remove duplicates and give me the median.",
            "What is the median of the different numbers in {items}?"),
        "Each number of {items} counts once. Which is the middle one?",
        "The median is {ref}.", echo=True,
    ),
)  # fmt: skip

_TEXT_AND_DATA = (
    long_chain(
        "base64_reverse_upper",
        lambda d: {"text": base64.b64encode(d.phrase().encode()).decode()},
        (
            Step("base64_text", values_of("text", direction="decode"), "the plain text", "decode the Base64"),
            Step("reverse_text", lambda v, r: {"text": r[0], "by": "characters"}, "the text backwards",
                "turn it around"),
            Step("change_letter_case", lambda v, r: {"text": r[1], "case": "upper"}, "capitals",
                "change the letters to upper case"),
        ),
        ('Decode the Base64 "{text}", reverse it and write it in capitals.',
            'Base64 "{text}": the plain text backwards in upper case, please.'),
        'My riddle is "{text}" in Base64. Decode it, turn it around and use capital letters.',
        "It is {ref}",
    ),
    long_chain(
        "mail_lower_hash",
        lambda d: {"text": f"Contact: {d.name().upper()}@{d.word().upper()}.EXAMPLE, thanks"},
        (
            Step("extract_email_addresses", values_of("text"), "the email address", "search the text for it"),
            Step("change_letter_case", lambda v, r: {"text": r[0][0], "case": "lower"}, "small letters",
                "change the address to lower case"),
            Step("hash_text", lambda v, r: {"text": r[1], "algorithm": "crc32"}, "its hash", "compute the crc32"),
        ),
        ('Find the email in "{text}", make it lower case and give its crc32.',
            'What is the crc32 of the address in "{text}" in small letters?'),
        'Take the mail address from "{text}", write it small and hash it with crc32.',
        "The hash is {ref}",
    ),
    long_chain(
        "csv_sort_markdown",
        lambda d: {"text": csv_text(d, 2)},
        (
            Step("parse_csv", values_of("text"), "the rows", "read the CSV"),
            Step("sort_records", lambda v, r: {"records": r[0], "by": ["age"], "descending": True}, "the rows in order",
                "sort by age"),
            Step("records_to_markdown", lambda v, r: {"records": r[1]}, "a Markdown table", "lay the rows out"),
        ),
        ("Make a Markdown table of this CSV, oldest first.\n{text}",
            "Sort this csv by age from high to low and show it in Markdown:\n{text}"),
        "I want these people as a Markdown table with the oldest on top.\n{text}",
        "{ref}",
    ),
    long_chain(
        "find_read_count",
        lambda d: {"_folder": d.pick(("archive", "old", "inbox")), "name": f"{d.word()}.txt",
            "_text": f"{d.sentence()} of {d.name()}"},
        (
            Step("find_files_by_name", lambda v, r: {"pattern": v["name"]}, "the place of the file",
                "search by its name"),
            Step("read_text_file", lambda v, r: {"path": r[0][0]}, "its text", "read the file"),
            Step("count_words", lambda v, r: {"text": r[1]}, "its length", "count the characters"),
        ),
        ("Find the file {name} and tell me how many characters it has.",
            "How many characters are in {name}? It lies in some folder."),
        "I lost the place of {name}. Count the characters in it for me.",
        "It has {ref} characters.", ref=lambda r: r[2]["characters"],
        files=lambda v: {f"{v['_folder']}/{v['name']}": v["_text"]},
    ),
    long_chain(
        "read_upper_write",
        lambda d: {"path": text_path(d), "target": f"{d.word()}.txt", "_text": d.phrase()},
        (
            Step("read_text_file", values_of("path"), "the text", "read the file"),
            Step("change_letter_case", lambda v, r: {"text": r[0], "case": "upper"}, "capitals",
                "change the text to upper case"),
            Step("write_text_file", lambda v, r: {"path": v["target"], "content": r[1]}, "a new file",
                "save the capitals"),
        ),
        ("Write the text of {path} in capitals to {target}. How many bytes is that?",
            "Read {path}, make it upper case, save it as {target} and tell me the size."),
        "The file {target} should hold what {path} says, but in capital letters. What size does it get?",
        "It has {ref} bytes.", ref=lambda r: r[2]["bytes"], files=lambda v: {v["path"]: v["_text"]},
    ),
    long_chain(
        "search_replace_read",
        lambda d: {"old": d.word(), "new": d.pick(("marble", "feather", "saddle", "anchor")), "_path": text_path(d),
            "_name": d.name()},
        (
            Step("search_in_files", lambda v, r: {"text": v["old"]}, "the file with the word", "search the files"),
            Step("replace_in_file", lambda v, r: {"path": r[0][0]["path"], "old": v["old"], "new": v["new"]},
                "the corrected file", "replace the word in it"),
            Step("read_text_file", lambda v, r: {"path": r[0][0]["path"]}, "its text now", "read the file"),
        ),
        ("Find the file with the word {old}, change it to {new} and read me the result.",
            "Somewhere it says {old}. Make that {new} and show the file."),
        "One of my files mentions {old}, but {new} is right. Correct it and tell me what it says then.",
        "The file says: {ref}", files=lambda v: {v["_path"]: f"{v['_name']} sold the {v['old']}"},
    ),
)  # fmt: skip

FAMILIES = (*_DATES, *_MEASURES, *_TEXT_AND_DATA)
