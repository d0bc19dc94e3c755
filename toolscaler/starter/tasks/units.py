"""One-call task families about units. Values are chosen so that the result has few digits."""

from __future__ import annotations

from collections.abc import Sequence

from toolscaler.starter.tasks.draw import Draw
from toolscaler.starter.tasks.family import Family, Values, call

#: How a unit is written after an amount, where that is not its name.
PLURALS = {
    "inch": "inches", "foot": "feet", "yard": "yards", "mile": "miles", "nautical_mile": "nautical miles",
    "tonne": "tonnes", "ounce": "ounces", "pound": "pounds", "us_ton": "US tons", "knot": "knots", "bit": "bits",
    "byte": "bytes", "hectare": "hectares", "acre": "acres", "liter": "liters", "us_gallon": "US gallons",
    "us_pint": "US pints", "us_fluid_ounce": "US fluid ounces", "uk_pint": "UK pints", "uk_gallon": "UK gallons",
    "second": "seconds", "minute": "minutes", "hour": "hours", "day": "days", "week": "weeks",
    "millisecond": "milliseconds", "cup": "cups", "tablespoon": "tablespoons", "teaspoon": "teaspoons",
    "celsius": "Celsius", "fahrenheit": "Fahrenheit", "kelvin": "Kelvin", "brown_sugar": "brown sugar",
    "powdered_sugar": "powdered sugar",
}  # fmt: skip


def unit_text(unit: str) -> str:
    """Write a unit as a person does after an amount."""
    return PLURALS.get(unit, unit)


UNITS_SHOWN = {"from_unit": unit_text, "to_unit": unit_text, "measure": unit_text, "ingredient": unit_text}


def _amount(d: Draw, units: Sequence[str], most: int) -> Values:
    source, target = d.sample(units, 2)
    value = d.pick((d.num(2, most), d.num(2, most), d.decimal(1, most)))
    return {"value": value, "from_unit": source, "to_unit": target}


def _family(
    tool: str, units: Sequence[str], train: tuple[str, ...], test: tuple[str, ...], thing: str, most: int = 90
) -> Family:
    return call(
        tool, lambda d: _amount(d, units, most), train, test, f"{thing} in another unit",
        f"convert the {thing.split(maxsplit=1)[1]}",
        "It is {ref} {to_unit}.", show=UNITS_SHOWN, longest=9,
    )  # fmt: skip


FAMILIES = (
    _family(
        "convert_length",
        ("cm", "m", "km", "inch", "foot", "yard", "mile"),
        (
            "How many {to_unit} are {value} {from_unit}?",
            "The rope is {value} {from_unit} long. What length is that in {to_unit}?",
            "distance of {value} {from_unit} in {to_unit}",
        ),
        ("We walked {value} {from_unit}. How far is that in {to_unit}?",),
        "a length",
    ),
    _family(
        "convert_weight",
        ("g", "kg", "tonne", "ounce", "pound"),
        (
            "How much do {value} {from_unit} weigh in {to_unit}?",
            "My parcel weighs {value} {from_unit}. How heavy is it in {to_unit}?",
            "weight {value} {from_unit} in {to_unit}",
        ),
        ("The dog has {value} {from_unit} on the scale. Give me his weight in {to_unit}.",),
        "a weight",
    ),
    _family(
        "convert_temperature",
        ("celsius", "fahrenheit", "kelvin"),
        (
            "What is a temperature of {value} {from_unit} in {to_unit}?",
            "The oven shows {value} {from_unit}. Which temperature is that in {to_unit}?",
            "temperature {value} {from_unit} to {to_unit}",
        ),
        ("The sensor reads {value} {from_unit}. How warm is that in {to_unit}?",),
        "a temperature", 300,
    ),
    _family(
        "convert_speed",
        ("m/s", "km/h", "mph", "knot", "ft/s"),
        (
            "How fast is {value} {from_unit} in {to_unit}?",
            "The wind blows at {value} {from_unit}. What speed is that in {to_unit}?",
            "speed of {value} {from_unit} in {to_unit}",
        ),
        ("A boat makes {value} {from_unit}. Tell me its velocity in {to_unit}.",),
        "a speed",
    ),
    _family(
        "convert_data_size",
        ("bit", "byte", "kB", "MB", "GB", "MiB", "Mbit", "Gbit"),
        (
            "How many {to_unit} are {value} {from_unit} of data?",
            "The download has {value} {from_unit}. What file size is that in {to_unit}?",
            "data size {value} {from_unit} in {to_unit}",
        ),
        ("My memory card holds {value} {from_unit}. How much storage is it in {to_unit}?",),
        "a data size",
    ),
    _family(
        "convert_area",
        ("cm2", "m2", "km2", "hectare", "acre", "sqft", "sqyd"),
        (
            "How large is an area of {value} {from_unit} in {to_unit}?",
            "The field covers {value} {from_unit}. What surface is that in {to_unit}?",
            "area {value} {from_unit} in {to_unit}",
        ),
        ("Our plot of land measures {value} {from_unit}. How big is it in {to_unit}?",),
        "an area",
    ),
    _family(
        "convert_volume",
        ("ml", "liter", "m3", "us_gallon", "us_pint", "uk_pint", "uk_gallon"),
        (
            "What volume is {value} {from_unit} in {to_unit}?",
            "The tank holds {value} {from_unit}. How much liquid is that in {to_unit}?",
            "volume {value} {from_unit} in {to_unit}",
        ),
        ("I need {value} {from_unit} of water. How many {to_unit} do I fill in?",),
        "a volume",
    ),
    _family(
        "convert_pressure",
        ("Pa", "hPa", "kPa", "bar", "atm"),
        (
            "What pressure is {value} {from_unit} in {to_unit}?",
            "The tire gauge shows {value} {from_unit}. What is this pressure in {to_unit}?",
            "pressure {value} {from_unit} in {to_unit}",
        ),
        ("The boiler runs at {value} {from_unit}. How much pressure is it in {to_unit}?",),
        "a pressure",
    ),
    _family(
        "convert_energy",
        ("J", "kJ", "Wh", "kWh", "cal", "kcal"),
        (
            "How much energy are {value} {from_unit} in {to_unit}?",
            "The snack has {value} {from_unit}. What energy is that in {to_unit}?",
            "energy {value} {from_unit} in {to_unit}",
        ),
        ("The heater used {value} {from_unit}. Give me the energy in {to_unit}.",),
        "an energy",
    ),
    _family(
        "convert_duration",
        ("second", "minute", "hour", "day", "week"),
        (
            "How long are {value} {from_unit} in {to_unit}?",
            "The film runs {value} {from_unit}. What time is that in {to_unit}?",
            "duration {value} {from_unit} in {to_unit}",
        ),
        ("I waited {value} {from_unit}. How many {to_unit} of waiting were that?",),
        "a duration",
    ),
    call(
        "cooking_measure_to_grams",
        lambda d: {
            "amount": d.pick((d.num(2, 12), d.decimal(1, 6))),
            "measure": d.pick(("cup", "tablespoon", "teaspoon")),
            "ingredient": d.pick(("flour", "sugar", "brown_sugar", "butter", "honey", "rice", "oats", "milk", "cocoa",
            "salt")),
        },
        (
            "How many grams are {amount} {measure} of {ingredient}?",
            "The recipe says {amount} {measure} {ingredient}. What does that weigh?",
            "{amount} {measure} of {ingredient} in grams",
        ),
        ("I have a scale and need {amount} {measure} of {ingredient}. How many grams do I weigh?",),
        "a kitchen measure in grams", "convert it to grams", "It weighs {ref} grams.", show=UNITS_SHOWN,
    ),
)  # fmt: skip
