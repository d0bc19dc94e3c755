"""Task families in which a call fails because of a value, and a later call is right."""

from __future__ import annotations

import base64

from toolscaler.starter.tasks.chains_two import values_of
from toolscaler.starter.tasks.draw import NODES, WEEKDAYS, Draw
from toolscaler.starter.tasks.family import Step, Values
from toolscaler.starter.tasks.recovery import recovery
from toolscaler.starter.tasks.units import UNITS_SHOWN


def _unpadded(d: Draw) -> Values:
    year, month, day = d.num(2019, 2029), d.num(1, 9), d.num(1, 9)
    return {"date": f"{year}-{month}-{day}", "_right": f"{year}-{month:02d}-{day:02d}", "days": d.num(3, 150)}


def _slashes(d: Draw) -> Values:
    right = d.date()
    return {"date": right.replace("-", "/"), "_right": right}


def _fifth(d: Draw) -> Values:
    year = d.pick((2021, 2022, 2023, 2025, 2026, 2027, 2029, 2030))  # a February of 28 days has four of each weekday
    return {"weekday": d.pick(WEEKDAYS), "month": 2, "year": year}


def _descending(d: Draw) -> Values:
    return {"lists": [sorted(d.different(3, 1, 90), reverse=True), sorted(d.different(3, 1, 90), reverse=True)]}


def _url_safe(d: Draw) -> Values:
    text = f"{d.phrase()}???"
    while "_" not in (encoded := base64.urlsafe_b64encode(text.encode()).decode()):
        text = f"{d.phrase()}???"
    return {"text": encoded}


def _lower_nodes(d: Draw) -> Values:
    a, b, c = d.sample(NODES, 3)
    edges = [[a, b, d.num(1, 9)], [b, c, d.num(1, 9)], [a, c, d.num(10, 20)]]
    return {"edges": edges, "start": a.lower(), "goal": c.lower(), "_a": a, "_c": c}


def _circle(d: Draw) -> Values:
    a, b, c = d.words(3)
    return {"edges": [[a, b], [b, c], [c, a]]}


def _alternating(d: Draw) -> Values:
    outlay, gain = 100 * d.num(2, 9), 100 * d.num(5, 20)
    return {"cash_flows": [-outlay, outlay + gain, -(gain + 10 * d.num(1, 9))], "rate": d.num(3, 12)}


_VALUES = (
    recovery(
        "date_without_zeros",
        _unpadded,
        (
            Step("add_days", values_of("date", "days"), need="a later date", do="add the days",
                fails=True),
            Step("add_days", lambda v, r: {"date": v["_right"], "days": v["days"]},
                thought="The date needs two digits for month and day. I write it like that."),
        ),
        ("What date is {days} days after {date}?", "{date} plus {days} days"),
        "Counting {days} days from {date}, where do I end?",
        "It is {ref}.",
    ),
    recovery(
        "date_with_slashes",
        _slashes,
        (
            Step("day_of_week", values_of("date"), need="a weekday", do="look it up", fails=True),
            Step("day_of_week", lambda v, r: {"date": v["_right"]},
                thought="The date must have hyphens. I write it like that."),
        ),
        ("Which weekday is {date}?", "Tell me the day of the week of {date}."),
        "On what weekday does {date} fall?",
        "It is a {ref}.",
    ),
    recovery(
        "no_fifth_weekday",
        _fifth,
        (
            Step("nth_weekday_of_month", values_of("year", "month", "weekday", occurrence=5),
                need="the fifth weekday of a month", do="look for it", fails=True),
            Step("nth_weekday_of_month", values_of("year", "month", "weekday", occurrence=-1),
                thought="There is no fifth one. I take the last one."),
        ),
        ("On which date is the fifth {weekday} of month {month} in {year}, or else the last?",
            "Give me the fifth {weekday} in month {month} of {year}; if there is none, the last."),
        "We meet on the fifth {weekday} of month {month} in {year}, otherwise on the last one. When is that?",
        "It is {ref}.",
    ),
    recovery(
        "merge_descending",
        _descending,
        (
            Step("merge_sorted_lists", values_of("lists"), need="one sorted list", do="merge the lists",
                fails=True),
            Step("merge_sorted_lists", values_of("lists", descending=True),
                thought="The lists run from high to low. I merge them in that direction."),
        ),
        ("Merge these sorted lists in their own order: {lists}",
            "Both of {lists} are sorted, join them in the same way."),
        "Combine {lists} and keep the direction in which they are sorted.",
        "The merged list is: {ref}",
    ),
    recovery(
        "base64_of_urls",
        _url_safe,
        (
            Step("base64_text", values_of("text", direction="decode"),
                need="a Base64 text decoded", do="decode it", fails=True),
            Step("base64_text", values_of("text", direction="decode", url_safe=True),
                thought="The underscore belongs to the form for URLs. I decode it as that."),
        ),
        ('Decode the Base64 "{text}" from a link.', 'What does "{text}" from my URL say in plain text? It is Base64.'),
        'A link carries the Base64 text "{text}". Make it readable.',
        "It says: {ref}",
    ),
    recovery(
        "nodes_in_small_letters",
        _lower_nodes,
        (
            Step("shortest_path", values_of("edges", "start", "goal"),
                need="the shortest way", do="search the network", fails=True),
            Step("shortest_path", lambda v, r: {"edges": v["edges"], "start": v["_a"], "goal": v["_c"]},
                thought="The nodes have capital letters. I use those."),
        ),
        ("How long is the shortest way from {start} to {goal} on {edges}?",
            "Roads {edges}: what is the least distance from {start} to {goal}?"),
        "I go from {start} to {goal} along {edges}. Which length has the best route?",
        "The length is {ref}.", ref=lambda r: r[1]["length"],
    ),
    recovery(
        "order_with_circle",
        _circle,
        (
            Step("topological_order", values_of("edges"), need="an order of tasks", do="sort them",
                fails=True),
            Step("find_cycle", values_of("edges"),
                thought="The tasks go round in a circle. I find the circle to show it."),
        ),
        ("Put the tasks in order: {edges}. If that cannot be done, show the circle.",
            "Which order do the dependencies {edges} allow? Name the loop if there is one."),
        "Sort the steps {edges} or tell me which ones wait for each other.",
        "There is no order, the circle is: {ref}", echo=True,
    ),
    recovery(
        "irr_or_npv",
        _alternating,
        (
            Step("internal_rate_of_return", values_of("cash_flows"),
                need="the rate of return", do="compute it", fails=True),
            Step("net_present_value", lambda v, r: {"discount_rate": v["rate"], "cash_flows": v["cash_flows"]},
                thought="The rate is not unique. I compute the present value, as asked."),
        ),
        ("What is the rate of return of {cash_flows}, or else the present value at {rate} percent?",
            "Give me the irr of {cash_flows}; if there is none, the npv at {rate} percent."),
        "Which yield do {cash_flows} have? Should that fail, discount them at {rate} percent.",
        "The rate is not unique; the present value is {ref}.",
    ),
)  # fmt: skip


def _pounds(d: Draw) -> Values:
    return {"value": d.num(2, 90) * 5, "from_unit": d.pick(("lbs", "lb")), "to_unit": d.pick(("g", "ounce"))}


_UNITS = (
    recovery(
        "unknown_weight_unit",
        _pounds,
        (
            Step("convert_weight", values_of("value", "from_unit", "to_unit"),
                need="another weight unit", do="convert the weight", fails=True),
            Step("convert_weight", values_of("value", "to_unit", from_unit="pound"),
                thought="The unit is not known by that name. I take pound from the list."),
        ),
        ("How much are {value} {from_unit} in {to_unit}?", "Convert {value} {from_unit} to {to_unit}."),
        "The bag weighs {value} {from_unit}. What is that in {to_unit}?",
        "It is {ref} {to_unit}.", longest=9, breaks_schema=True, show=UNITS_SHOWN, repeat=1,
    ),
    recovery(
        "unknown_length_unit",
        lambda d: {"value": d.num(2, 90), "from_unit": d.pick(("metres", "meters")),
            "to_unit": d.pick(("cm", "km", "mm"))},
        (
            Step("convert_length", values_of("value", "from_unit", "to_unit"),
                need="another length unit", do="convert the length", fails=True),
            Step("convert_length", values_of("value", "to_unit", from_unit="m"),
                thought="The unit is not known by that name. I take m from the list."),
        ),
        ("What is {value} {from_unit} in {to_unit}?", "Give me {value} {from_unit} as {to_unit}."),
        "The wall is {value} {from_unit} long. How much is that in {to_unit}?",
        "It is {ref} {to_unit}.", breaks_schema=True, show=UNITS_SHOWN, repeat=1,
    ),
)  # fmt: skip

FAMILIES = (*_VALUES, *_UNITS)
