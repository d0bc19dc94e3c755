"""Unit tools: an amount in one unit goes in, the same amount in another unit comes out.

Every factor is the exact defined one, and the arithmetic is exact too: a result is the float nearest to the true value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

from toolscaler.starter.registry import starter_tool

LengthUnit = Literal["mm", "cm", "m", "km", "inch", "foot", "yard", "mile", "nautical_mile"]
WeightUnit = Literal["mg", "g", "kg", "tonne", "ounce", "pound", "stone", "us_ton"]
TemperatureUnit = Literal["celsius", "fahrenheit", "kelvin"]
SpeedUnit = Literal["m/s", "km/h", "mph", "knot", "ft/s"]
DataUnit = Literal["bit", "byte", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB", "Mbit", "Gbit"]
AreaUnit = Literal["cm2", "m2", "km2", "hectare", "acre", "sqin", "sqft", "sqyd", "sqmi"]
VolumeUnit = Literal["ml", "liter", "m3", "us_fluid_ounce", "us_pint", "us_gallon", "uk_pint", "uk_gallon", "ft3"]
PressureUnit = Literal["Pa", "hPa", "kPa", "bar", "psi", "atm", "mmHg"]
EnergyUnit = Literal["J", "kJ", "Wh", "kWh", "cal", "kcal", "BTU"]
DurationUnit = Literal["millisecond", "second", "minute", "hour", "day", "week"]
CookingMeasure = Literal["cup", "tablespoon", "teaspoon"]
Ingredient = Literal[
    "water", "milk", "flour", "sugar", "brown_sugar", "powdered_sugar", "butter", "oil", "honey", "rice", "oats",
    "salt", "cocoa",
]  # fmt: skip

_LENGTH = {
    "mm": "0.001", "cm": "0.01", "m": "1", "km": "1000", "inch": "0.0254", "foot": "0.3048", "yard": "0.9144",
    "mile": "1609.344", "nautical_mile": "1852",
}  # fmt: skip
_WEIGHT = {
    "mg": "0.001", "g": "1", "kg": "1000", "tonne": "1000000", "ounce": "28.349523125", "pound": "453.59237",
    "stone": "6350.29318", "us_ton": "907184.74",
}  # fmt: skip
_SPEED = {"m/s": "1", "km/h": "5/18", "mph": "0.44704", "knot": "463/900", "ft/s": "0.3048"}
_DATA = {
    "bit": "1", "byte": "8", "kB": "8000", "MB": "8000000", "GB": "8000000000", "TB": "8000000000000",
    "KiB": str(8 * 2**10), "MiB": str(8 * 2**20), "GiB": str(8 * 2**30), "TiB": str(8 * 2**40),
    "Mbit": "1000000", "Gbit": "1000000000",
}  # fmt: skip
_AREA = {
    "cm2": "0.0001", "m2": "1", "km2": "1000000", "hectare": "10000", "acre": "4046.8564224", "sqin": "0.00064516",
    "sqft": "0.09290304", "sqyd": "0.83612736", "sqmi": "2589988.110336",
}  # fmt: skip
_VOLUME = {
    "ml": "0.001", "liter": "1", "m3": "1000", "us_fluid_ounce": "0.0295735295625", "us_pint": "0.473176473",
    "us_gallon": "3.785411784", "uk_pint": "0.56826125", "uk_gallon": "4.54609", "ft3": "28.316846592",
}  # fmt: skip
_PRESSURE = {
    "Pa": "1", "hPa": "100", "kPa": "1000", "bar": "100000", "psi": "44482216152605/6451600000", "atm": "101325",
    "mmHg": "133.322387415",
}  # fmt: skip
_ENERGY = {
    "J": "1", "kJ": "1000", "Wh": "3600", "kWh": "3600000", "cal": "4.184", "kcal": "4184", "BTU": "1055.05585262",
}  # fmt: skip
_DURATION = {"millisecond": "0.001", "second": "1", "minute": "60", "hour": "3600", "day": "86400", "week": "604800"}
_CUPS = {"cup": Fraction(1), "tablespoon": Fraction(1, 16), "teaspoon": Fraction(1, 48)}
_GRAMS_PER_CUP = {
    "water": 237, "milk": 245, "flour": 120, "sugar": 200, "brown_sugar": 213, "powdered_sugar": 113, "butter": 227,
    "oil": 218, "honey": 340, "rice": 198, "oats": 89, "salt": 288, "cocoa": 84,
}  # fmt: skip


def _exact(value: float, name: str = "value", *, negative: bool) -> Fraction:
    """Give the number that the caller wrote: 0.1 is one tenth, not the double beside it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    if value < 0 and not negative:
        raise ValueError(f"{name}: expected 0 or more, got {value!r}")
    return Fraction(str(value))


def _look_up(unit: str, name: str, table: Mapping[str, object]) -> None:
    if unit not in table:
        raise ValueError(f"{name}: expected one of {', '.join(table)}, got {unit!r}")


def _convert(value: float, source: str, target: str, table: Mapping[str, str], *, negative: bool = False) -> float:
    _look_up(source, "from_unit", table)
    _look_up(target, "to_unit", table)
    return float(_exact(value, negative=negative) * Fraction(table[source]) / Fraction(table[target]))


@starter_tool("Units")
def convert_length(value: float, from_unit: LengthUnit, to_unit: LengthUnit) -> float:
    """Convert a length, distance or height between metric and imperial units.

    Kilometers and miles, feet and meters, inches and centimeters, yards, nautical miles: how tall, how far, how long,
    how deep.

    Args:
        value: The length in ``from_unit``; may be negative (below sea level).
        from_unit: Unit of the given length.
        to_unit: Unit wanted.

    Returns:
        The length in ``to_unit``.

    Raises:
        ValueError: An unknown unit or a value that is no finite number.
    """
    return _convert(value, from_unit, to_unit, _LENGTH, negative=True)


@starter_tool("Units")
def convert_weight(value: float, from_unit: WeightUnit, to_unit: WeightUnit) -> float:
    """Convert a weight or mass between kilograms, pounds, ounces, stones, grams and tons.

    Body weight, luggage, parcels, dumbbells, freight: how heavy something is in another unit.

    Args:
        value: The weight in ``from_unit``, 0 or more.
        from_unit: Unit of the given weight (``ounce`` and ``pound`` are avoirdupois).
        to_unit: Unit wanted.

    Returns:
        The weight in ``to_unit``.

    Raises:
        ValueError: An unknown unit or a value that is negative or no finite number.
    """
    return _convert(value, from_unit, to_unit, _WEIGHT)


@starter_tool("Units")
def convert_temperature(value: float, from_unit: TemperatureUnit, to_unit: TemperatureUnit) -> float:
    """Convert a temperature between Celsius, Fahrenheit and Kelvin.

    Oven settings, weather forecasts, fever readings: how many degrees on another scale.

    Args:
        value: The temperature in degrees of ``from_unit``, not below absolute zero.
        from_unit: Scale of the given temperature.
        to_unit: Scale wanted.

    Returns:
        The temperature in degrees of ``to_unit``.

    Raises:
        ValueError: An unknown scale, no finite number, or a value below absolute zero.
    """
    # scale -> (kelvins a degree, the scale's reading at absolute zero)
    scales = {
        "celsius": (Fraction(1), Fraction("-273.15")),
        "fahrenheit": (Fraction(5, 9), Fraction("-459.67")),
        "kelvin": (Fraction(1), Fraction(0)),
    }
    _look_up(from_unit, "from_unit", scales)
    _look_up(to_unit, "to_unit", scales)
    degree, zero = scales[from_unit]
    kelvin = (_exact(value, negative=True) - zero) * degree
    if kelvin < 0:
        raise ValueError(f"value: {value} {from_unit} lies below absolute zero")
    degree, zero = scales[to_unit]
    return float(kelvin / degree + zero)


@starter_tool("Units")
def convert_speed(value: float, from_unit: SpeedUnit, to_unit: SpeedUnit) -> float:
    """Convert a speed or velocity between km/h, mph, meters a second, feet a second and knots.

    Speed limits, wind speeds, ships, planes, sprinters: how fast something is in another unit.

    Args:
        value: The speed in ``from_unit``; negative for the opposite direction.
        from_unit: Unit of the given speed.
        to_unit: Unit wanted.

    Returns:
        The speed in ``to_unit``.

    Raises:
        ValueError: An unknown unit or a value that is no finite number.
    """
    return _convert(value, from_unit, to_unit, _SPEED, negative=True)


@starter_tool("Units")
def convert_data_size(value: float, from_unit: DataUnit, to_unit: DataUnit) -> float:
    """Convert an amount of computer data between bits, bytes, megabytes, gigabytes, gibibytes and the like.

    File sizes, disks, memory, downloads and data plans. Decimal units (kB, MB, GB, TB) count in thousands, binary
    units (KiB, MiB, GiB, TiB) in steps of 1024.

    Args:
        value: The amount in ``from_unit``, 0 or more.
        from_unit: Unit of the given amount.
        to_unit: Unit wanted.

    Returns:
        The amount in ``to_unit``.

    Raises:
        ValueError: An unknown unit or a value that is negative or no finite number.
    """
    return _convert(value, from_unit, to_unit, _DATA)


@starter_tool("Units")
def convert_area(value: float, from_unit: AreaUnit, to_unit: AreaUnit) -> float:
    """Convert an area between square meters, square feet, acres, hectares and square miles.

    Apartments, rooms, plots of land, fields, forests and countries: how large a surface is in another unit.

    Args:
        value: The area in ``from_unit``, 0 or more.
        from_unit: Unit of the given area.
        to_unit: Unit wanted.

    Returns:
        The area in ``to_unit``.

    Raises:
        ValueError: An unknown unit or a value that is negative or no finite number.
    """
    return _convert(value, from_unit, to_unit, _AREA)


@starter_tool("Units")
def convert_volume(value: float, from_unit: VolumeUnit, to_unit: VolumeUnit) -> float:
    """Convert a volume of liquid or space between liters, milliliters, gallons, pints, fluid ounces and cubic units.

    Fuel tanks, bottles, pools, aquariums, boxes and engines: how much fits, in another unit. US and UK (imperial)
    gallons and pints differ.

    Args:
        value: The volume in ``from_unit``, 0 or more.
        from_unit: Unit of the given volume.
        to_unit: Unit wanted.

    Returns:
        The volume in ``to_unit``.

    Raises:
        ValueError: An unknown unit or a value that is negative or no finite number.
    """
    return _convert(value, from_unit, to_unit, _VOLUME)


@starter_tool("Units")
def convert_pressure(value: float, from_unit: PressureUnit, to_unit: PressureUnit) -> float:
    """Convert a pressure between bar, psi, pascals, hectopascals (millibars), atmospheres and mmHg.

    Tires, barometers, blood pressure, diving, boilers and vacuum gauges.

    Args:
        value: The absolute pressure in ``from_unit``, 0 or more.
        from_unit: Unit of the given pressure.
        to_unit: Unit wanted.

    Returns:
        The pressure in ``to_unit``.

    Raises:
        ValueError: An unknown unit or a value that is negative or no finite number.
    """
    return _convert(value, from_unit, to_unit, _PRESSURE)


@starter_tool("Units")
def convert_energy(value: float, from_unit: EnergyUnit, to_unit: EnergyUnit) -> float:
    """Convert an amount of energy between joules, calories, kilocalories, kilowatt-hours and BTU.

    Food labels, electricity bills, batteries, heating and physics homework. The calorie of food labels is ``kcal``.

    Args:
        value: The energy in ``from_unit``; negative for energy given off.
        from_unit: Unit of the given energy (``cal`` is the thermochemical calorie, ``BTU`` the international one).
        to_unit: Unit wanted.

    Returns:
        The energy in ``to_unit``.

    Raises:
        ValueError: An unknown unit or a value that is no finite number.
    """
    return _convert(value, from_unit, to_unit, _ENERGY, negative=True)


@starter_tool("Units")
def convert_duration(value: float, from_unit: DurationUnit, to_unit: DurationUnit) -> float:
    """Convert a length of time between seconds, minutes, hours, days and weeks.

    Running times, timers, timeouts and countdowns: how many hours are 1000 minutes, how many seconds has a week.

    Args:
        value: The duration in ``from_unit``, 0 or more.
        from_unit: Unit of the given duration.
        to_unit: Unit wanted.

    Returns:
        The duration in ``to_unit``.

    Raises:
        ValueError: An unknown unit or a value that is negative or no finite number.
    """
    return _convert(value, from_unit, to_unit, _DURATION)


@starter_tool("Units")
def cooking_measure_to_grams(amount: float, measure: CookingMeasure, ingredient: Ingredient) -> float:
    """Convert cups, tablespoons or teaspoons of a kitchen ingredient to grams.

    For recipes and baking: how much a cup of flour, a tablespoon of butter or a teaspoon of salt weighs on the kitchen
    scale. The measures are the US ones; ingredients are dry, level and unsifted.

    Args:
        amount: How many cups or spoons, 0 or more.
        measure: ``cup`` (237 ml), ``tablespoon`` (a sixteenth of it) or ``teaspoon`` (a third of a tablespoon).
        ingredient: What is measured.

    Returns:
        Weight in grams, rounded to a tenth.

    Raises:
        ValueError: An unknown measure or ingredient, or an amount that is negative or no finite number.
    """
    _look_up(measure, "measure", _CUPS)
    _look_up(ingredient, "ingredient", _GRAMS_PER_CUP)
    return round(float(_exact(amount, "amount", negative=False) * _CUPS[measure] * _GRAMS_PER_CUP[ingredient]), 1)
