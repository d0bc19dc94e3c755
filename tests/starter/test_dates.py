"""Date tools against dates known from history and against the standard library."""

from datetime import date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolscaler.starter.tools import dates

DATES = st.dates(date(1900, 1, 1), date(2100, 12, 31))


@pytest.mark.parametrize(
    ("start", "days", "expected"),
    [
        ("2024-02-28", 1, "2024-02-29"),
        ("2023-02-28", 1, "2023-03-01"),
        ("2024-03-01", -1, "2024-02-29"),
        ("1999-12-31", 1, "2000-01-01"),
        ("2024-01-01", 366, "2025-01-01"),
    ],
)
def test_add_days(start, days, expected):
    assert dates.add_days(start, days) == expected


@given(DATES, st.integers(-40000, 40000))
def test_add_days_and_days_between_are_inverse(start, days):
    end = dates.add_days(start.isoformat(), days)
    assert dates.days_between(start.isoformat(), end) == days
    assert dates.days_between(end, start.isoformat()) == -days


def test_add_days_refuses_the_end_of_the_calendar():
    with pytest.raises(ValueError, match="outside the years"):
        dates.add_days("9999-12-31", 1)
    with pytest.raises(ValueError, match="outside the years"):
        dates.add_days("2024-01-01", 10**12)


@pytest.mark.parametrize(
    ("start", "months", "expected"),
    [
        ("2024-01-31", 1, "2024-02-29"),
        ("2023-01-31", 1, "2023-02-28"),
        ("2024-03-31", -1, "2024-02-29"),
        ("2023-11-15", 3, "2024-02-15"),
        ("2020-02-29", 12, "2021-02-28"),
        ("2024-01-10", -1, "2023-12-10"),
        ("2024-06-05", 0, "2024-06-05"),
    ],
)
def test_add_months(start, months, expected):
    assert dates.add_months(start, months) == expected


@given(DATES, st.integers(-600, 600))
def test_add_months_hits_the_month_and_never_passes_the_day(start, months):
    moved = date.fromisoformat(dates.add_months(start.isoformat(), months))
    assert moved.year * 12 + moved.month == start.year * 12 + start.month + months
    assert moved.day == start.day or (moved.day < start.day and (moved + timedelta(days=1)).day == 1)


def test_add_months_refuses_the_end_of_the_calendar():
    with pytest.raises(ValueError, match="outside the years"):
        dates.add_months("9999-12-01", 1)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("1969-07-16", "1969-07-24", 8),  # Apollo 11
        ("1914-07-28", "1918-11-11", 1567),  # First World War
        ("2024-01-01", "2024-12-31", 365),
        ("2024-05-05", "2024-05-05", 0),
        ("2000-01-01", "1999-12-31", -1),
    ],
)
def test_days_between(start, end, expected):
    assert dates.days_between(start, end) == expected


@pytest.mark.parametrize(
    ("start", "end", "holidays", "expected"),
    [
        ("2024-01-01", "2024-01-07", None, 5),
        ("2024-01-06", "2024-01-07", None, 0),
        ("2024-01-01", "2024-12-31", None, 262),
        ("2024-12-23", "2024-12-27", ["2024-12-25", "2024-12-26"], 3),
        ("2024-01-01", "2024-01-07", ["2024-01-06", "2023-12-25", "2024-01-01", "2024-01-01"], 4),
    ],
)
def test_count_working_days(start, end, holidays, expected):
    assert dates.count_working_days(start, end, holidays) == expected


@given(DATES, st.integers(0, 800), st.lists(st.integers(0, 800), max_size=10))
def test_count_working_days_equals_day_by_day_counting(start, length, offsets):
    holidays = {start + timedelta(days=offset) for offset in offsets}
    days = (start + timedelta(days=step) for step in range(length + 1))
    expected = sum(day.isoweekday() <= 5 and day not in holidays for day in days)
    end = start + timedelta(days=length)
    given_days = [day.isoformat() for day in holidays]
    assert dates.count_working_days(start.isoformat(), end.isoformat(), given_days) == expected


def test_count_working_days_refuses_a_period_turned_around():
    with pytest.raises(ValueError, match="lies before"):
        dates.count_working_days("2024-02-01", "2024-01-01")
    with pytest.raises(ValueError, match="holidays"):
        dates.count_working_days("2024-01-01", "2024-02-01", ["Christmas"])


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        ("1969-07-20", "Sunday"),  # first moon landing
        ("1989-11-09", "Thursday"),  # fall of the Berlin Wall
        ("1944-06-06", "Tuesday"),  # D-Day
        ("2000-01-01", "Saturday"),
    ],
)
def test_day_of_week(day, expected):
    assert dates.day_of_week(day) == expected


@given(DATES)
def test_day_of_week_repeats_after_seven_days(day):
    name = dates.day_of_week(day.isoformat())
    assert name == day.strftime("%A") == dates.day_of_week((day + timedelta(days=7)).isoformat())


@pytest.mark.parametrize(
    ("born", "on", "expected"),
    [
        ("1879-03-14", "1955-04-18", (76, 1, 4)),  # Albert Einstein
        ("1990-05-17", "2020-05-16", (29, 11, 29)),
        ("1990-05-17", "2020-05-17", (30, 0, 0)),
        ("2000-02-29", "2018-02-28", (17, 11, 30)),
        ("2001-01-31", "2001-02-28", (0, 0, 28)),
        ("2001-01-31", "2001-03-01", (0, 1, 1)),
    ],
)
def test_age_on_date(born, on, expected):
    assert tuple(dates.age_on_date(born, on).values()) == expected


def test_leap_day_children_age_on_the_first_of_march():
    assert dates.age_on_date("2000-02-29", "2018-02-28")["years"] == 17
    assert dates.age_on_date("2000-02-29", "2018-03-01")["years"] == 18


@given(DATES, st.integers(0, 40000))
def test_age_on_date_counts_completed_years(born, days):
    on = min(born + timedelta(days=days), date(9999, 12, 31))
    age = dates.age_on_date(born.isoformat(), on.isoformat())
    assert age["years"] == on.year - born.year - ((on.month, on.day) < (born.month, born.day))
    assert 0 <= age["months"] < 12
    assert 0 <= age["days"] <= 31


def test_age_on_date_refuses_the_unborn():
    with pytest.raises(ValueError, match="before birth_date"):
        dates.age_on_date("2000-01-02", "2000-01-01")


@pytest.mark.parametrize(
    ("year", "expected"), [(2000, True), (1900, False), (2024, True), (2023, False), (2100, False), (4, True)]
)
def test_is_leap_year(year, expected):
    assert dates.is_leap_year(year) is expected


@pytest.mark.parametrize("year", [0, -4, 10000])
def test_is_leap_year_refuses_years_outside_the_calendar(year):
    with pytest.raises(ValueError, match="year"):
        dates.is_leap_year(year)


@pytest.mark.parametrize(
    ("day", "year", "week"),
    [
        ("2021-01-03", 2020, 53),
        ("2021-01-04", 2021, 1),
        ("2024-12-30", 2025, 1),
        ("2023-01-01", 2022, 52),
        ("2024-07-01", 2024, 27),
    ],
)
def test_calendar_week_number(day, year, week):
    assert dates.calendar_week_number(day) == {"year": year, "week": week}


@given(DATES)
def test_calendar_week_number_counts_thursdays(day):
    thursday = day + timedelta(days=3 - day.weekday())
    expected = {"year": thursday.year, "week": (thursday.timetuple().tm_yday - 1) // 7 + 1}
    assert dates.calendar_week_number(day.isoformat()) == expected


@pytest.mark.parametrize(
    ("moment", "source", "target", "expected"),
    [
        ("2024-03-05T15:00", "UTC-5", "UTC", "2024-03-05T20:00:00"),
        ("2024-12-31 23:30", "+00:00", "+09:00", "2025-01-01T08:30:00"),
        ("2024-03-01T02:15:09", "GMT+5:30", "-08:00", "2024-02-29T12:45:09"),
        ("2024-06-01T12:00", "Z", "+0545", "2024-06-01T17:45:00"),
        ("2024-06-01T12:00", "utc+2", "gmt", "2024-06-01T10:00:00"),
    ],
)
def test_convert_time_zone(moment, source, target, expected):
    assert dates.convert_time_zone(moment, source, target) == expected


@pytest.mark.parametrize(
    ("moment", "source", "target"),
    [
        ("2024-03-05", "Z", "Z"),
        ("2024-03-05T25:00", "Z", "Z"),
        ("2024-02-30T10:00", "Z", "Z"),
        ("2024-03-05T10:00", "Paris", "Z"),
        ("2024-03-05T10:00", "Z", "+15:00"),
        ("2024-03-05T10:00", "Z", "+01:75"),
        ("0001-01-01T00:30", "+01:00", "Z"),
    ],
)
def test_convert_time_zone_refuses(moment, source, target):
    with pytest.raises(ValueError):
        dates.convert_time_zone(moment, source, target)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_000_000_000, "2001-09-09T01:46:40Z"),
        (2**31 - 1, "2038-01-19T03:14:07Z"),
        (-1, "1969-12-31T23:59:59Z"),
    ],
)
def test_unix_timestamp_to_date(seconds, expected):
    assert dates.unix_timestamp_to_date(seconds) == expected


@given(st.integers(0, 4_000_000_000))
def test_unix_timestamp_round_trip(seconds):
    text = dates.unix_timestamp_to_date(seconds)
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    assert moment.timestamp() == seconds


def test_unix_timestamp_refuses_milliseconds():
    with pytest.raises(ValueError, match="milliseconds"):
        dates.unix_timestamp_to_date(1_700_000_000_000)


@pytest.mark.parametrize(
    ("year", "month", "weekday", "occurrence", "expected"),
    [
        (2024, 11, "Thursday", 4, "2024-11-28"),  # Thanksgiving
        (2023, 9, "Monday", 1, "2023-09-04"),  # Labor Day
        (2024, 5, "Monday", -1, "2024-05-27"),  # Memorial Day
        (2024, 3, "Sunday", 5, "2024-03-31"),
    ],
)
def test_nth_weekday_of_month(year, month, weekday, occurrence, expected):
    assert dates.nth_weekday_of_month(year, month, weekday, occurrence) == expected


@given(DATES)
def test_nth_weekday_of_month_finds_every_date(day):
    occurrence = (day.day - 1) // 7 + 1
    found = dates.nth_weekday_of_month(day.year, day.month, day.strftime("%A"), occurrence)
    assert found == day.isoformat()


@pytest.mark.parametrize(
    "arguments",
    [
        (2024, 2, "Friday", 5),
        (2024, 13, "Friday", 1),
        (0, 1, "Friday", 1),
        (2024, 1, "friday", 1),
        (2024, 1, "Friday", 0),
        (2024, 1, "Friday", 6),
    ],
)
def test_nth_weekday_of_month_refuses(arguments):
    with pytest.raises(ValueError):
        dates.nth_weekday_of_month(*arguments)


@pytest.mark.parametrize("text", ["2024-13-01", "2023-02-29", "1/2/2024", "20240101", "", "tomorrow", "2024-1-1", None])
def test_malformed_dates_are_refused_by_every_tool(text):
    calls = [
        lambda: dates.add_days(text, 1),
        lambda: dates.add_months(text, 1),
        lambda: dates.days_between(text, "2024-01-01"),
        lambda: dates.days_between("2024-01-01", text),
        lambda: dates.count_working_days(text, "2024-01-01"),
        lambda: dates.day_of_week(text),
        lambda: dates.age_on_date(text, "2024-01-01"),
        lambda: dates.calendar_week_number(text),
        lambda: dates.convert_time_zone(text, "Z", "Z"),
    ]
    for call in calls:
        with pytest.raises(ValueError):
            call()
