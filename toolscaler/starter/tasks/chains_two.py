"""Task families of two calls, the second of which takes its arguments from the first one's result."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from toolscaler.starter.tasks.draw import WEEKDAYS, Draw
from toolscaler.starter.tasks.family import Family, Step, Values, chain

_Arguments = Callable[[Values, list[Any]], dict[str, Any]]


def values_of(*names: str, **fixed: Any) -> _Arguments:
    """Make arguments that are the task's values of the same names, and further ones that never change."""
    return lambda v, r: {name: v[name] for name in names} | fixed


def two_calls(
    name: str,
    values: Callable[[Draw], Values],
    first: Step,
    second: Step,
    train: tuple[str, ...],
    test: str,
    answer: str | tuple[str, str],
    **options: Any,
) -> Family:
    """Make a family of two calls with one held-out wording.

    Args:
        name: Name of the family.
        values: Draws the values.
        first: The first call.
        second: The second call.
        train: Wordings of training tasks.
        test: The held-out wording.
        answer: The final answer.
        **options: Further attributes of the family.
    """
    return chain(name, values, (first, second), train, (test,), answer, repeat=2, **options)


def _round(digits: int, pick: Callable[[list[Any]], float]) -> Step:
    return Step(
        "round_to_significant_digits", lambda v, r: {"value": pick(r), "digits": digits},
        "fewer digits", "round the number",
    )  # fmt: skip


def csv_text(d: Draw, rows: int = 3) -> str:
    """Give a small CSV text with a text column and a number column."""
    return "\n".join(["name,age", *(f"{n},{a}" for n, a in zip(d.names(rows), d.different(rows, 18, 80), strict=True))])


_DATES = (
    two_calls(
        "weekday_then_days",
        lambda d: {"weekday": d.pick(WEEKDAYS), "occurrence": d.num(1, 4), "month": d.num(1, 12),
            "year": d.num(2022, 2032), "days": d.num(3, 60)},
        Step("nth_weekday_of_month", values_of("year", "month", "weekday", "occurrence"), "the first date",
            "find that weekday in the month"),
        Step("add_days", lambda v, r: {"date": r[0], "days": v["days"]}, "the later date", "add the days"),
        (
            "Which date is {days} days after {weekday} number {occurrence} of month {month} in {year}?",
            "The race is on {weekday} number {occurrence} of month {month} in {year} and prizes come {days} days "
            "later. When?",
        ),
        "Take {weekday} number {occurrence} in month {month} of {year} and go {days} days further. What date is it?",
        "It is {ref}.",
    ),
    two_calls(
        "days_then_weekday",
        lambda d: {"date": d.date(), "days": d.num(5, 200)},
        Step("add_days", values_of("date", "days"), "the later date", "add the days"),
        Step("day_of_week", lambda v, r: {"date": r[0]}, "its weekday", "look up the day of the week"),
        ("Which weekday is it {days} days after {date}?",
            "I start on {date} and need {days} days. On what day of the week do I finish?"),
        "Count {days} days from {date} and name the weekday.",
        "It is a {ref}.",
    ),
    two_calls(
        "months_then_weekday",
        lambda d: {"date": d.date(), "months": d.num(2, 30)},
        Step("add_months", values_of("date", "months"), "the later date", "add the months"),
        Step("day_of_week", lambda v, r: {"date": r[0]}, "its weekday", "look up the day of the week"),
        ("Which weekday is it {months} months after {date}?",
            "A contract of {months} months starts on {date}. On which weekday does it end?"),
        "Go {months} months on from {date}. What day of the week is that?",
        "It is a {ref}.",
    ),
    two_calls(
        "days_then_week",
        lambda d: {"date": d.date(), "days": d.num(5, 150)},
        Step("add_days", values_of("date", "days"), "the later date", "add the days"),
        Step("calendar_week_number", lambda v, r: {"date": r[0]}, "its calendar week", "look up the week number"),
        ("In which calendar week is the date {days} days after {date}?",
            "Ordered on {date}, made in {days} days. Which week number is that?"),
        "What is the ISO week once {days} days have passed since {date}?",
        "It is week {ref}.",
        ref=lambda r: r[1]["week"],
    ),
    two_calls(
        "days_then_hours",
        lambda d: {"start_date": d.date(2021, 2023), "end_date": d.date(2024, 2026),
            "unit": d.pick(("hour", "week", "minute"))},
        Step("days_between", values_of("start_date", "end_date"), "the number of days", "count the days"),
        Step("convert_duration", lambda v, r: {"value": r[0], "from_unit": "day", "to_unit": v["unit"]}, "another unit",
            "convert the days"),
        ("How many {unit}s lie between {start_date} and {end_date}?",
            "From {start_date} to {end_date}, how long is that in {unit}s?"),
        "I count the time from {start_date} until {end_date} in {unit}s. How many are there?",
        "It is {ref} {unit}s.",
    ),
    two_calls(
        "age_then_roman",
        lambda d: {"birth_date": d.date(1940, 2005), "on_date": d.date(2020, 2030)},
        Step("age_on_date", values_of("birth_date", "on_date"), "the age", "work out the age"),
        Step("roman_numeral", lambda v, r: {"value": r[0]["years"]}, "Roman letters",
            "write the years as a Roman numeral"),
        ("Born on {birth_date}, how old on {on_date}, in Roman numerals?",
            "Write the age on {on_date} of somebody born {birth_date} as a Roman numeral."),
        "The cake for {on_date} needs the age in Roman letters, the birthday is {birth_date}.",
        "It is {ref}.",
    ),
    two_calls(
        "stamp_then_weekday",
        lambda d: {"seconds": d.num(900_000_000, 1_900_000_000)},
        Step("unix_timestamp_to_date", values_of("seconds"), "the date", "turn the seconds into a date"),
        Step("day_of_week", lambda v, r: {"date": r[0][:10]}, "its weekday", "look up the day of the week"),
        ("On which weekday was the Unix timestamp {seconds}?",
            "The log entry {seconds} was written on what day of the week?"),
        "Epoch second {seconds}: which weekday is that?",
        "It is a {ref}.",
    ),
    two_calls(
        "roman_then_leap",
        lambda d: {"value": d.pick(("MCMXCVI", "MMXXIV", "MCM", "MM", "MDCCLXXVI", "MMXXIII", "MCMLXXXIV", "MDCCC",
            "MMIV", "MCMXIV", "MDCXII", "MMXXVI"))},
        Step("roman_numeral", values_of("value"), "the year", "read the Roman numeral"),
        Step("is_leap_year", lambda v, r: {"year": r[0]}, "a leap year check", "test the year"),
        ("Was or is {value} a leap year?", "The stone says {value}. Did that year have a February 29?"),
        "Read {value} as a year. Does it have 366 days?",
        ("Yes, it is a leap year.", "No, it is not a leap year."),
    ),
)  # fmt: skip

_SHAPES = (
    two_calls(
        "circle_then_round",
        lambda d: {"radius": d.decimal(2, 60)},
        Step("circle_measurements", values_of("radius"), "the area", "measure the circle"),
        _round(4, lambda r: r[0]["area"]),
        ("What is the area of a circle with radius {radius}, to 4 significant digits?",
            "A pond has the radius {radius}. Give me its area with 4 significant digits."),
        "Circle of radius {radius}: area with four significant figures, please.",
        "The area is {ref}.",
    ),
    two_calls(
        "sphere_then_round",
        lambda d: {"radius": d.num(2, 60)},
        Step("sphere_measurements", values_of("radius"), "the volume", "measure the sphere"),
        _round(3, lambda r: r[0]["volume"]),
        ("What is the volume of a ball of radius {radius}, rounded to 3 significant digits?",
            "Sphere, radius {radius}: volume with 3 significant digits."),
        "How much air is in a balloon of radius {radius}? Three significant figures are enough.",
        "The volume is {ref}.",
    ),
    two_calls(
        "cylinder_then_round",
        lambda d: {"radius": d.num(2, 20), "height": d.num(3, 50)},
        Step("cylinder_measurements", values_of("radius", "height"), "the volume", "measure the cylinder"),
        _round(3, lambda r: r[0]["volume"]),
        ("What is the volume of a can with radius {radius} and height {height}, to 3 significant digits?",
            "Cylinder of radius {radius} and height {height}: volume, 3 significant digits."),
        "A drum is {height} high with radius {radius}. Roughly what fits in, to three significant figures?",
        "The volume is {ref}.",
    ),
    two_calls(
        "box_then_liters",
        lambda d: {"length": d.decimal(1, 9), "width": d.decimal(1, 6), "height": d.num(1, 4)},
        Step("box_measurements", values_of("length", "width", "height"), "the volume in cubic meters",
            "measure the box"),
        Step("convert_volume", lambda v, r: {"value": r[0]["volume"], "from_unit": "m3", "to_unit": "liter"}, "liters",
            "convert the volume"),
        ("How many liters fit into a box of {length} by {width} by {height} meters?",
            "A pool is {length} m long, {width} m wide and {height} m deep. How many liters is that?"),
        "A crate measures {length} x {width} x {height} meters. What does it hold in liters?",
        "It holds {ref} liters.", longest=9,
    ),
    two_calls(
        "plot_then_hectares",
        lambda d: {"vertices": [[0, 0], [(w := d.num(20, 400)), 0], [w, (h := d.num(20, 400))], [0, h]],
            "unit": d.pick(("hectare", "km2", "cm2"))},
        Step("polygon_area", values_of("vertices"), "the area in square meters", "use the corners"),
        Step("convert_area", lambda v, r: {"value": r[0]["area"], "from_unit": "m2", "to_unit": v["unit"]},
            "the other unit", "convert the area"),
        ("A plot has the corners {vertices} in meters. How large is it in {unit}?",
            "Give me the area of {vertices} (meters) in {unit}."),
        "The corner stones in meters are {vertices}. What size in {unit} is the field?",
        "It is {ref} {unit}.", longest=10,
    ),
)  # fmt: skip

_TEXTS = (
    two_calls(
        "reverse_then_upper",
        lambda d: {"text": d.phrase()},
        Step("reverse_text", values_of("text", by="characters"), "the text backwards", "turn it around"),
        Step("change_letter_case", lambda v, r: {"text": r[0], "case": "upper"}, "capitals",
            "change the letters to upper case"),
        ('Write "{text}" backwards in capitals.', 'Reverse "{text}" and put it in upper case.'),
        'I want "{text}" from back to front and in capital letters.',
        "It is {ref}",
    ),
    two_calls(
        "base64_then_words",
        lambda d: {"text": base64.b64encode(d.sentence().encode()).decode()},
        Step("base64_text", values_of("text", direction="decode"), "the plain text", "decode the Base64"),
        Step("count_words", lambda v, r: {"text": r[0]}, "its length", "count the characters"),
        ('How many characters has the text behind the Base64 "{text}"?',
            'Decode "{text}" from Base64 and count the characters.'),
        'What is the number of characters hidden in the Base64 string "{text}"?',
        "It has {ref} characters.", ref=lambda r: r[1]["characters"],
    ),
    two_calls(
        "hex_then_reverse",
        lambda d: {"text": d.phrase().encode().hex()},
        Step("hex_text", values_of("text", direction="decode"), "the plain text", "decode the hex"),
        Step("reverse_text", lambda v, r: {"text": r[0], "by": "characters"}, "the text backwards", "turn it around"),
        ('Decode the hex "{text}" and write it backwards.',
            'What is the hex string "{text}" as text, letters reversed?'),
        'Read "{text}" as hex bytes, then spell the result from the end.',
        "It is {ref}",
    ),
    two_calls(
        "html_then_slug",
        lambda d: {"text": f"{d.word()} &amp; {d.phrase()}"},
        Step("html_entities", values_of("text", direction="decode"), "the plain title", "unescape the entities"),
        Step("slugify_title", lambda v, r: {"title": r[0]}, "a slug", "turn the title into a slug"),
        ('Unescape the HTML title "{text}" and make a slug of it.',
            'The headline is "{text}" with entities. Which slug fits?'),
        'Clean the entities from "{text}" and give me the permalink.',
        "The slug is {ref}",
    ),
    two_calls(
        "mail_then_hash",
        lambda d: {"text": f"write to {d.name().lower()}@{d.word()}.example today"},
        Step("extract_email_addresses", values_of("text"), "the email address", "search the text for it"),
        Step("hash_text", lambda v, r: {"text": r[0][0], "algorithm": "crc32"}, "its hash", "compute the crc32"),
        ('Find the email in "{text}" and give me its crc32 hash.',
            'Take the address out of "{text}" and hash it with crc32.'),
        'Which crc32 checksum has the mail address in "{text}"?',
        "The hash is {ref}",
    ),
    two_calls(
        "replace_then_title",
        lambda d: {"text": f"the {(w := d.word())} of {d.name().lower()}", "find": w, "replacement": d.word()},
        Step("find_and_replace", values_of("text", "find", "replacement"), "the new text", "replace the word"),
        Step("change_letter_case", lambda v, r: {"text": r[0]["text"], "case": "title"}, "title case",
            "change the capitals"),
        ('Replace "{find}" by "{replacement}" in "{text}" and write it in title case.',
            'In "{text}" put "{replacement}" for "{find}", then use title case.'),
        'My headline "{text}" should say "{replacement}" and not "{find}", in title case.',
        "It is {ref}",
    ),
)  # fmt: skip

FAMILIES = (*_DATES, *_SHAPES, *_TEXTS)
