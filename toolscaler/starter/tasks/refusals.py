"""Task families that end without a result: a call fails and nothing helps, or no tool fits at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolscaler.starter.tasks.chains_two import values_of
from toolscaler.starter.tasks.draw import PLACES, Draw
from toolscaler.starter.tasks.family import Family, Step, Values
from toolscaler.starter.tasks.files import text_path
from toolscaler.starter.tasks.units import UNITS_SHOWN


def _refused(
    name: str,
    values: Callable[[Draw], Values],
    steps: tuple[Step, ...],
    train: tuple[str, ...],
    test: str,
    answer: str,
    reference: str,
    last_thought: str,
    **options: Any,
) -> Family:
    return Family(
        name, steps, values, train, (test,), answer, lambda r: reference, kind="give_up", gives_up=True, repeat=2,
        last_thought=last_thought, **options,
    )  # fmt: skip


def _impossible_triangle(d: Draw) -> Values:
    one, two = d.num(2, 12), d.num(2, 12)
    return {"side_a": one, "side_b": two, "side_c": one + two + d.num(1, 20)}


def _born_later(d: Draw) -> Values:
    return {"birth_date": d.date(2015, 2024), "on_date": d.date(1990, 2012)}


_GIVE_UP = (
    _refused(
        "missing_file",
        lambda d: {"path": (path := text_path(d)), "_name": path.split("/")[1],
            "_other": f"{d.pick(('misc', 'tmp'))}/{d.word()}.md"},
        (
            Step("read_text_file", values_of("path"), need="the text of a file", do="read it",
                fails=True),
            Step("find_files_by_name", lambda v, r: {"pattern": v["_name"]},
                thought="The file is not there. I search for its name in all folders."),
        ),
        ("Tell me what {path} says.", "Open {path} for me."),
        "I would like to know the text of {path}.",
        "There is no file {path} anywhere.", "no file", "It is nowhere to be found",
        files=lambda v: {v["_other"]: "something else"},
    ),
    _refused(
        "impossible_triangle",
        _impossible_triangle,
        (Step("triangle_from_sides", values_of("side_a", "side_b", "side_c"),
            need="the area of a triangle", do="solve it", fails=True),),
        ("What is the area of a triangle with sides {side_a}, {side_b}, {side_c}?",
            "Compute the triangle {side_a}, {side_b}, {side_c}. How large is it?"),
        "My triangle measures {side_a}, {side_b} and {side_c}. Which area is that?",
        "The sides {side_a}, {side_b} and {side_c} make no triangle.", "no triangle",
        "Such a triangle cannot exist",
    ),
    _refused(
        "impossible_date",
        lambda d: {"date": f"{d.num(2019, 2030)}-{d.pick(('02-30', '04-31', '06-31', '09-31', '11-31', '02-31'))}"},
        (Step("day_of_week", values_of("date"), need="a weekday", do="look it up", fails=True),),
        ("What day of the week was {date}?", "Weekday for {date}?"),
        "On which weekday is {date}?",
        "{date} is no date of the calendar.", "no date", "This date does not exist",
    ),
    _refused(
        "age_before_birth",
        _born_later,
        (Step("age_on_date", values_of("birth_date", "on_date"), need="an age", do="work it out",
            fails=True),),
        ("How old was somebody on {on_date} who was born on {birth_date}?",
            "Age on {on_date} with the birthday {birth_date}?"),
        "She was born on {birth_date}. What was her age on {on_date}?",
        "{on_date} lies before the birth.", "before the birth", "Nobody is born yet on that date",
    ),
    _refused(
        "wrong_roman",
        lambda d: {"value": d.pick(("X", "C", "M")) * d.num(0,
            2) + d.pick(("IIII", "VV", "IIX", "LL", "XXXXX", "IC", "VX", "DD"))},
        (Step("roman_numeral", values_of("value"), need="a Roman numeral read", do="read it",
            fails=True),),
        ("What number is {value} in Roman numerals?", "Read the Roman number {value}."),
        "A stone carries the letters {value}. Which number is it?",
        "{value} is no proper Roman numeral.", "no proper Roman numeral", "The letters form no numeral",
    ),
    _refused(
        "too_cold",
        lambda d: {"value": -d.num(280, 900), "from_unit": "celsius", "to_unit": "fahrenheit"},
        (Step("convert_temperature", values_of("value", "from_unit", "to_unit"),
            need="another scale", do="convert the temperature", fails=True),),
        ("What is {value} {from_unit} in {to_unit}?", "Convert {value} degrees {from_unit} to {to_unit}."),
        "In a story it is {value} {from_unit}. How much is that in {to_unit}?",
        "{value} {from_unit} lies below absolute zero.", "below absolute zero", "It cannot be that cold",
        show=UNITS_SHOWN,
    ),
    _refused(
        "unequal_pairs",
        lambda d: {"x_values": d.ints(4, 1, 30), "y_values": d.ints(3, 1, 30)},
        (Step("correlation_coefficient", values_of("x_values", "y_values"),
            need="a correlation", do="compare the lists", fails=True),),
        ("Do {x_values} and {y_values} correlate?", "Correlate {x_values} with {y_values}."),
        "How much do {x_values} go along with {y_values}?",
        "The lists have not the same length.", "same length", "The numbers do not pair up",
    ),
    _refused(
        "no_inverse",
        lambda d: {"base": (f := d.num(2, 9)) * d.num(2, 9), "modulus": f * d.num(10, 60)},
        (Step("modular_power", values_of("base", "modulus", exponent=-1),
            need="a modular inverse", do="compute it", fails=True),),
        ("What is the inverse of {base} modulo {modulus}?", "Find the modular inverse of {base} mod {modulus}."),
        "Which number times {base} leaves 1 modulo {modulus}?",
        "{base} has no inverse modulo {modulus}.", "no inverse", "There is no such number",
    ),
)  # fmt: skip


def _no_tool(
    name: str,
    values: Callable[[Draw], Values],
    train: tuple[str, ...],
    test: tuple[str, ...],
    answer: str,
    reference: str,
    last_thought: str,
    *,
    gives_up: bool = True,
) -> Family:
    return Family(
        name, (), values, train, test, answer, lambda r: reference, kind="no_tool", gives_up=gives_up,
        last_thought=last_thought,
    )  # fmt: skip


_NO_TOOL = (
    _no_tool(
        "live_facts",
        lambda d: {"place": d.pick(PLACES), "name": d.name()},
        (
            "What is the weather in {place} today?",
            "Is there a traffic jam on the road to {place} now?",
            "Which films are shown in {place} tonight?",
            "What do hotels in {place} cost this weekend?",
            "Did {name} win the match in {place} yesterday?",
            "Who is the mayor of {place}?",
            "Is the museum in {place} open now?",
        ),
        ("Will it rain in {place} tomorrow?", "Which restaurant in {place} is the best right now?",
            "Is the train from {place} late?"),
        "No tool can look that up.", "no tool", "No tool knows current facts",
    ),
    _no_tool(
        "acts_outside",
        lambda d: {"place": d.pick(PLACES), "name": d.name(), "word": d.word()},
        (
            "Call {name} on the phone.",
            "Book me a flight to {place}.",
            "Order a {word} for {name} online.",
            "Send {name} a text message about the {word}.",
            "Turn off the lights in the kitchen for {name}.",
            "Reserve a table in {place} for {name}.",
            "Pay the bill that {name} sent me from {place}.",
        ),
        ("Buy two train tickets to {place}.", "Ring up {name} and ask about the {word}.",
            "Start the washing machine of {name}."),
        "No tool can do that.", "no tool", "No tool can act there",
    ),
    _no_tool(
        "creates_things",
        lambda d: {"word": d.word(), "other": d.word(), "name": d.name()},
        (
            "Paint a picture of a {word} and a {other}.",
            'Translate "{word}" into Japanese.',
            "Write a poem about the {word} of {name}.",
            "Compose a song for {name} about a {word}.",
            "Recognise the {word} in this photo.",
            "Tell me a joke about a {word} and a {other}.",
            "Read the word {word} aloud to {name}.",
        ),
        ("Draw a {word} next to a {other} for me.", "What does {word} mean in Finnish?",
            "Make up a fairy tale about {name} and a {word}."),
        "No tool can make that.", "no tool", "No tool makes such things",
    ),
    _no_tool(
        "thanks",
        lambda d: {"name": d.name()},
        (
            "Thank you, {name} here.",
            "Thanks a lot, that helped {name} very much!",
            "Great, {name} says thank you.",
            "That was all, many thanks from {name}.",
        ),
        ("Perfect, thank you from {name} as well!", "{name} is happy, thanks."),
        "You are welcome.", "You are welcome", "This needs no tool, so I only answer.", gives_up=False,
    ),
)  # fmt: skip

FAMILIES = (*_GIVE_UP, *_NO_TOOL)
