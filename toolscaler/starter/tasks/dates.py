"""One-call task families about dates."""

from __future__ import annotations

from toolscaler.starter.tasks.draw import WEEKDAYS, Draw
from toolscaler.starter.tasks.family import Values, call

_OFFSETS = ("UTC-8", "UTC-5", "UTC-3", "UTC+1", "UTC+2", "UTC+3", "UTC+5:30", "UTC+8", "UTC+9")


def _period(d: Draw, first: str, second: str) -> Values:
    start, end = sorted((d.date(2024, 2026), d.date(2024, 2026)))
    return {first: start, second: end}


def _zones(d: Draw) -> Values:
    stamp = f"{d.date()}T{d.num(0, 23):02d}:{d.num(0, 11) * 5:02d}"
    one, two = d.sample(_OFFSETS, 2)
    return {"timestamp": stamp, "from_offset": one, "to_offset": two}


FAMILIES = (
    call(
        "add_days",
        lambda d: {"date": d.date(), "days": d.num(3, 150)},
        (
            "What date is {days} days after {date}?",
            "I ordered it on {date} and delivery takes {days} days. When does it come?",
            "{date} plus {days} days",
        ),
        ("Counting {days} days from {date}, which date do I reach?",),
        "a date some days later", "add the days to the date", "It is {ref}.",
    ),
    call(
        "add_months",
        lambda d: {"date": d.date(), "months": d.num(2, 36)},
        (
            "Which date is {months} months after {date}?",
            "The lease starts on {date} and runs {months} months. When is it over?",
            "move {date} forward by {months} months",
        ),
        ("My warranty of {months} months began on {date}. When does it expire?",),
        "a date some months later", "add the months to the date", "It is {ref}.",
    ),
    call(
        "days_between",
        lambda d: _period(d, "start_date", "end_date"),
        (
            "How many days are there from {start_date} to {end_date}?",
            "We arrive on {start_date} and leave on {end_date}. How many nights is that?",
            "days between {start_date} and {end_date}",
        ),
        ("It is {start_date} now. How long in days until {end_date}?",),
        "the number of days between two dates", "count the days", "There are {ref} days.",
    ),
    call(
        "count_working_days",
        lambda d: _period(d, "start_date", "end_date"),
        (
            "How many working days are there from {start_date} to {end_date}?",
            "Count the business days from {start_date} until {end_date}.",
            "weekdays Monday to Friday between {start_date} and {end_date}, both included",
        ),
        ("I take leave from {start_date} to {end_date}. How many workdays does that cost me?",),
        "the number of working days", "count the days from Monday to Friday", "There are {ref} working days.",
    ),
    call(
        "day_of_week",
        lambda d: {"date": d.date(1950, 2040)},
        (
            "Which day of the week is {date}?",
            "I was born on {date}. What weekday was that?",
            "weekday of {date}",
        ),
        ("Does {date} fall on a Monday, a Tuesday or what?",),
        "the weekday of a date", "look up the day of the week", "It is a {ref}.",
        echo=True,
    ),
    call(
        "age_on_date",
        lambda d: {"birth_date": d.date(1940, 2005), "on_date": d.date(2015, 2030)},
        (
            "How old is somebody born on {birth_date} on {on_date}, in years?",
            "My birthday is {birth_date}. What is my age in years on {on_date}?",
            "age in full years on {on_date}, born {birth_date}",
        ),
        ("Grandpa was born on {birth_date}. How many years old is he on {on_date}?",),
        "an age on a date", "work out the age", "The age is {ref} years.",
        ref="years",
    ),
    call(
        "is_leap_year",
        lambda d: {"year": d.pick((d.num(400, 600) * 4, d.num(1600, 2400), d.num(16, 24) * 100))},
        (
            "Is {year} a leap year?",
            "Was there or will there be a February 29 in {year}?",
            "leap year or not: {year}",
        ),
        ("Does the year {year} have 366 days?",),
        "a leap year check", "test the year",
        ("Yes, {year} is a leap year.", "No, {year} is not a leap year."),
    ),
    call(
        "calendar_week_number",
        lambda d: {"date": d.date()},
        (
            "Which calendar week does {date} belong to?",
            "What is the ISO week number of {date}?",
            "week number for {date} please",
        ),
        ("Our planner counts weeks. In which week does {date} lie?",),
        "the calendar week of a date", "look up the week number", "It is week {ref}.",
        ref="week",
    ),
    call(
        "convert_time_zone",
        _zones,
        (
            "What time is {timestamp} at {from_offset} on a clock at {to_offset}?",
            "The call starts at {timestamp} in {from_offset}. When is that in {to_offset}?",
            "convert {timestamp} from {from_offset} to {to_offset}",
        ),
        ("The show is on at {timestamp}, {from_offset}. I live at {to_offset}, so when do I watch?",),
        "a time in another time zone", "convert the time", "It is {ref}.",
    ),
    call(
        "unix_timestamp_to_date",
        lambda d: {"seconds": d.num(900_000_000, 1_900_000_000)},
        (
            "Which date and time is the Unix timestamp {seconds}?",
            "The log says {seconds}. What moment is that in UTC?",
            "epoch {seconds} as a readable date",
        ),
        ("The database stored {seconds} seconds since 1970. When was that?",),
        "a readable date of a timestamp", "turn the seconds into a date", "It is {ref}.",
    ),
    call(
        "nth_weekday_of_month",
        lambda d: {"occurrence": d.num(1, 4), "weekday": d.pick(WEEKDAYS), "month": d.num(1, 12),
            "year": d.num(2020, 2035)},
        (
            "On which date is {weekday} number {occurrence} of month {month} in {year}?",
            "The club meets on {weekday} number {occurrence} of the month. Which date is that in month {month} of "
            "{year}?",
            "date of {weekday} number {occurrence} in month {month}, year {year}",
        ),
        ("In {year} the fair opens in month {month} on {weekday} number {occurrence}. Which date is it?",),
        "the date of a weekday in a month", "find that weekday in the month", "It is {ref}.",
    ),
)  # fmt: skip
