"""Calendar tools: the text of dates goes in, dates and counts come out; none of them looks at today's date."""

from __future__ import annotations

import calendar
import re
from datetime import date, datetime, timedelta, timezone
from typing import Literal

from toolscaler.starter.registry import starter_tool

Weekday = Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})", re.ASCII)
_TIMESTAMP = re.compile(r"(\d{4}-\d{2}-\d{2})[T ](\d{2}):(\d{2})(?::(\d{2}))?", re.ASCII)
_OFFSET = re.compile(r"(?:UTC|GMT)?([+-])(\d{1,2})(?::?(\d{2}))?", re.ASCII)


def _parse_date(text: str, name: str) -> date:
    """Read ``YYYY-MM-DD`` alone: ``date.fromisoformat`` takes more forms on newer Python versions."""
    match = _DATE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{name}: expected a date as YYYY-MM-DD, got {text!r}")
    try:
        return date(*(int(part) for part in match.groups()))
    except ValueError as error:
        raise ValueError(f"{name}: {text!r} is no date of the calendar ({error})") from error


def _parse_holidays(holidays: list[str] | None) -> set[date]:
    return {_parse_date(item, "holidays") for item in holidays or ()}


def _parse_offset(text: str, name: str) -> timezone:
    cleaned = text.strip().upper() if isinstance(text, str) else ""
    if cleaned in ("Z", "UTC", "GMT"):
        return timezone.utc
    match = _OFFSET.fullmatch(cleaned)
    if match is None:
        raise ValueError(f"{name}: expected an offset such as +05:30, UTC-8 or Z, got {text!r}")
    hours, minutes = int(match.group(2)), int(match.group(3) or 0)
    if hours > 14 or minutes > 59:
        raise ValueError(f"{name}: offsets go up to 14 hours and 59 minutes, got {text!r}")
    delta = timedelta(hours=hours, minutes=minutes)
    return timezone(-delta if match.group(1) == "-" else delta)


@starter_tool("Dates")
def add_days(date: str, days: int) -> str:
    """Give the calendar date that lies a number of days or weeks after or before a date.

    Use it for deadlines, due dates, expiry dates and return windows: "30 days from March 3", "two weeks earlier",
    "90 days after delivery". Weekends count like any other day.

    Args:
        date: Start date as YYYY-MM-DD.
        days: Number of days to move forward; negative moves back. A week is 7 days.

    Returns:
        The resulting date as YYYY-MM-DD.

    Raises:
        ValueError: The date is malformed, or the result leaves the years 1 to 9999.
    """
    start = _parse_date(date, "date")
    try:
        return (start + timedelta(days=days)).isoformat()
    except OverflowError as error:
        raise ValueError(f"days: {days} days from {date} lies outside the years 1 to 9999") from error


@starter_tool("Dates")
def add_months(date: str, months: int) -> str:
    """Move a date by whole months or years and keep the day of the month.

    Use it for subscriptions, leases, warranties, contracts and anniversaries that run for months, quarters or years.
    Where the target month is too short the last day of that month is given (January 31 plus one month is the end of
    February).

    Args:
        date: Start date as YYYY-MM-DD.
        months: Number of months to move forward; negative moves back. A year is 12 months, a quarter is 3.

    Returns:
        The resulting date as YYYY-MM-DD.

    Raises:
        ValueError: The date is malformed, or the result leaves the years 1 to 9999.
    """
    start = _parse_date(date, "date")
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    if not 1 <= year <= 9999:
        raise ValueError(f"months: {months} months from {date} lies outside the years 1 to 9999")
    day = min(start.day, calendar.monthrange(year, month + 1)[1])
    return start.replace(year=year, month=month + 1, day=day).isoformat()


@starter_tool("Dates")
def days_between(start_date: str, end_date: str) -> int:
    """Count the days from one date to another.

    Answers how many days, nights or sleeps lie between two dates, how long until an event, or how long ago something
    happened; all calendar days count, weekends included. The start day itself is not counted.

    Args:
        start_date: First date as YYYY-MM-DD.
        end_date: Second date as YYYY-MM-DD; if it lies before the first the count is negative.

    Returns:
        Number of days from start to end.

    Raises:
        ValueError: A date is malformed.
    """
    return (_parse_date(end_date, "end_date") - _parse_date(start_date, "start_date")).days


@starter_tool("Dates")
def count_working_days(start_date: str, end_date: str, holidays: list[str] | None = None) -> int:
    """Count the working days (business days, Monday to Friday) in a period.

    Leaves out Saturdays, Sundays and the public holidays given. Use it for leave requests, vacation days, project
    schedules, billing and delivery promises in business days. Both ends of the period count.

    Args:
        start_date: First day of the period as YYYY-MM-DD, counted.
        end_date: Last day of the period as YYYY-MM-DD, counted; not before the first.
        holidays: Dates as YYYY-MM-DD on which nobody works; default: none.

    Returns:
        Number of working days.

    Raises:
        ValueError: A date is malformed, or the end lies before the start.
    """
    start, end = _parse_date(start_date, "start_date"), _parse_date(end_date, "end_date")
    if end < start:
        raise ValueError(f"end_date: {end_date} lies before start_date {start_date}")
    weeks, rest = divmod((end - start).days + 1, 7)
    count = 5 * weeks + sum((start.weekday() + step) % 7 < 5 for step in range(rest))
    return count - sum(start <= day <= end and day.weekday() < 5 for day in _parse_holidays(holidays))


@starter_tool("Dates")
def day_of_week(date: str) -> str:
    """Tell which day of the week a date falls on.

    Gives the weekday, Monday to Sunday, of any past or future date: birthdays, holidays, moon landings, whether a
    date is a weekend.

    Args:
        date: Date as YYYY-MM-DD (Gregorian calendar).

    Returns:
        English name of the weekday.

    Raises:
        ValueError: The date is malformed.
    """
    return _WEEKDAYS[_parse_date(date, "date").weekday()]


@starter_tool("Dates")
def age_on_date(birth_date: str, on_date: str) -> dict[str, int]:
    """Work out how old a person is on a date, in completed years, months and days.

    Use it for birthdays and age limits: whether somebody is old enough to vote, drive or retire on a given day, or
    how old somebody was when something happened. A person born on February 29 turns a year older on March 1 of
    ordinary years.

    Args:
        birth_date: Date of birth as YYYY-MM-DD.
        on_date: Date on which the age is wanted, as YYYY-MM-DD; not before the birth.

    Returns:
        Completed ``years``, then ``months``, then remaining ``days``.

    Raises:
        ValueError: A date is malformed, or lies before the birth.
    """
    born, on = _parse_date(birth_date, "birth_date"), _parse_date(on_date, "on_date")
    if on < born:
        raise ValueError(f"on_date: {on_date} lies before birth_date {birth_date}")
    total = (on.year - born.year) * 12 + on.month - born.month - (on.day < born.day)
    year, month = divmod(born.year * 12 + born.month - 1 + total, 12)
    # The month's own day may be missing (the 31st): then the count starts at the month's end.
    anchor = born.replace(year=year, month=month + 1, day=min(born.day, calendar.monthrange(year, month + 1)[1]))
    return {"years": total // 12, "months": total % 12, "days": (on - anchor).days}


@starter_tool("Dates")
def is_leap_year(year: int) -> bool:
    """Tell whether a year is a leap year.

    A leap year has 366 days and a February 29. Years that divide by 4 are leap years, full centuries only where they
    divide by 400.

    Args:
        year: Year of the Gregorian calendar, 1 to 9999.

    Returns:
        True if February has 29 days in that year.

    Raises:
        ValueError: The year lies outside 1 to 9999.
    """
    if not 1 <= year <= 9999:
        raise ValueError(f"year: expected 1 to 9999, got {year}")
    return calendar.isleap(year)


@starter_tool("Dates")
def calendar_week_number(date: str) -> dict[str, int]:
    """Give the calendar week (ISO week number, 1 to 53) that a date belongs to.

    Planners, sprints and production schedules name weeks as week 7, W07 or KW 7. Weeks begin on Monday; week 1 holds
    the year's first Thursday, so the first days of January may belong to week 52 or 53 of the year before.

    Args:
        date: Date as YYYY-MM-DD.

    Returns:
        ``week`` number and the ``year`` that week belongs to.

    Raises:
        ValueError: The date is malformed.
    """
    year, week, _ = _parse_date(date, "date").isocalendar()
    return {"year": year, "week": week}


@starter_tool("Dates")
def convert_time_zone(timestamp: str, from_offset: str, to_offset: str) -> str:
    """Convert a clock time from one time zone to another, by their UTC offsets.

    Answers what time a call, meeting, flight or broadcast is somewhere else: 15:00 at UTC-5 is 20:00 UTC. The date
    changes where the conversion crosses midnight.

    Args:
        timestamp: Local date and time as YYYY-MM-DDTHH:MM, seconds optional.
        from_offset: Offset of the given time: +HH:MM, UTC-5, GMT+2 or Z.
        to_offset: Offset of the wanted time, in the same forms.

    Returns:
        Date and time at the wanted offset as YYYY-MM-DDTHH:MM:SS.

    Raises:
        ValueError: The time or an offset is malformed, or the result leaves the years 1 to 9999.
    """
    match = _TIMESTAMP.fullmatch(timestamp.strip()) if isinstance(timestamp, str) else None
    if match is None:
        raise ValueError(f"timestamp: expected YYYY-MM-DDTHH:MM, got {timestamp!r}")
    day = _parse_date(match.group(1), "timestamp")
    hour, minute, second = (int(part or 0) for part in match.groups()[1:])
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError(f"timestamp: {timestamp!r} is no time of the day")
    zone = _parse_offset(from_offset, "from_offset")
    local = datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=zone)
    try:
        moved = local.astimezone(_parse_offset(to_offset, "to_offset"))
    except OverflowError as error:
        raise ValueError(f"timestamp: {timestamp} leaves the years 1 to 9999 when converted") from error
    return moved.replace(tzinfo=None).isoformat(timespec="seconds")


@starter_tool("Dates")
def unix_timestamp_to_date(seconds: int) -> str:
    """Turn a Unix timestamp (epoch time) into a readable date and time in UTC.

    Log files, databases and programs store moments as seconds since January 1, 1970; this makes such a number
    human-readable.

    Args:
        seconds: Seconds since 1970-01-01 00:00:00 UTC; negative for earlier moments. Divide milliseconds by 1000.

    Returns:
        Date and time as YYYY-MM-DDTHH:MM:SSZ.

    Raises:
        ValueError: The moment lies outside the years 1 to 9999.
    """
    try:
        moment = datetime(1970, 1, 1) + timedelta(seconds=seconds)
    except OverflowError as error:
        raise ValueError(f"seconds: {seconds} lies outside the years 1 to 9999; are these milliseconds?") from error
    return f"{moment.isoformat(timespec='seconds')}Z"


@starter_tool("Dates")
def nth_weekday_of_month(year: int, month: int, weekday: Weekday, occurrence: int) -> str:
    """Find the date of the first, second, third, fourth or last given weekday in a month.

    Many holidays and meetings are set this way: Thanksgiving is the fourth Thursday of November, Labor Day the first
    Monday of September, a club meets every second Tuesday.

    Args:
        year: Year, 1 to 9999.
        month: Month, 1 to 12.
        weekday: English name of the weekday.
        occurrence: Which one: 1 for the first up to 5 for the fifth, -1 for the last.

    Returns:
        The date as YYYY-MM-DD.

    Raises:
        ValueError: A value is out of range, or the month has no such day (no fifth Friday).
    """
    if not 1 <= year <= 9999 or not 1 <= month <= 12:
        raise ValueError(f"year, month: expected 1 to 9999 and 1 to 12, got {year} and {month}")
    if weekday not in _WEEKDAYS:
        raise ValueError(f"weekday: expected one of {', '.join(_WEEKDAYS)}, got {weekday!r}")
    if occurrence not in (1, 2, 3, 4, 5, -1):
        raise ValueError(f"occurrence: expected 1 to 5, or -1 for the last, got {occurrence}")
    first, length = calendar.monthrange(year, month)
    days = list(range(1 + (_WEEKDAYS.index(weekday) - first) % 7, length + 1, 7))
    if occurrence > len(days):
        raise ValueError(f"occurrence: {year:04d}-{month:02d} has only {len(days)} {weekday}s")
    return f"{year:04d}-{month:02d}-{days[-1 if occurrence == -1 else occurrence - 1]:02d}"
