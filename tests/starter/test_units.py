"""Unit tools against the units' definitions and reference values."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolscaler.starter.tools import units

KNOWN = [
    (units.convert_length, 1, "mile", "km", 1.609344),
    (units.convert_length, 26.21875, "mile", "km", 42.194988),
    (units.convert_length, 6, "foot", "cm", 182.88),
    (units.convert_length, 1, "yard", "inch", 36.0),
    (units.convert_length, 1, "nautical_mile", "m", 1852.0),
    (units.convert_length, -0.1, "m", "mm", -100.0),
    (units.convert_weight, 1, "pound", "g", 453.59237),
    (units.convert_weight, 1, "stone", "pound", 14.0),
    (units.convert_weight, 1, "pound", "ounce", 16.0),
    (units.convert_weight, 2000, "pound", "us_ton", 1.0),
    (units.convert_weight, 2.5, "tonne", "kg", 2500.0),
    (units.convert_temperature, 100, "celsius", "fahrenheit", 212.0),
    (units.convert_temperature, -40, "fahrenheit", "celsius", -40.0),
    (units.convert_temperature, 0, "kelvin", "celsius", -273.15),
    (units.convert_temperature, 98.6, "fahrenheit", "celsius", 37.0),
    (units.convert_temperature, 0, "kelvin", "fahrenheit", -459.67),
    (units.convert_speed, 36, "km/h", "m/s", 10.0),
    (units.convert_speed, 60, "mph", "ft/s", 88.0),
    (units.convert_speed, 1, "knot", "km/h", 1.852),
    (units.convert_speed, 100, "km/h", "mph", 62.13711922373339),
    (units.convert_data_size, 1, "GiB", "MiB", 1024.0),
    (units.convert_data_size, 1, "GB", "MB", 1000.0),
    (units.convert_data_size, 100, "Mbit", "MB", 12.5),
    (units.convert_data_size, 1, "KiB", "byte", 1024.0),
    (units.convert_data_size, 1, "TB", "GiB", 931.3225746154785),
    (units.convert_area, 1, "acre", "sqft", 43560.0),
    (units.convert_area, 1, "sqmi", "acre", 640.0),
    (units.convert_area, 1, "km2", "hectare", 100.0),
    (units.convert_area, 9, "sqft", "sqyd", 1.0),
    (units.convert_volume, 1, "us_gallon", "us_fluid_ounce", 128.0),
    (units.convert_volume, 1, "uk_gallon", "uk_pint", 8.0),
    (units.convert_volume, 1, "us_gallon", "liter", 3.785411784),
    (units.convert_volume, 1, "m3", "ft3", 35.31466672148859),
    (units.convert_pressure, 1, "atm", "hPa", 1013.25),
    (units.convert_pressure, 1, "bar", "psi", 14.503773773020923),
    (units.convert_pressure, 760, "mmHg", "atm", 1.0000001424663213),
    (units.convert_energy, 1, "kWh", "kJ", 3600.0),
    (units.convert_energy, 1, "kcal", "kJ", 4.184),
    (units.convert_energy, 1, "kWh", "BTU", 3412.1416331279417),
    (units.convert_energy, -1000, "cal", "kcal", -1.0),
    (units.convert_duration, 1, "week", "hour", 168.0),
    (units.convert_duration, 1000, "minute", "day", 1000 / 1440),
    (units.convert_duration, 0.25, "hour", "minute", 15.0),
    (units.convert_duration, 90, "second", "millisecond", 90000.0),
]
LINEAR = {
    units.convert_length: units.LengthUnit,
    units.convert_weight: units.WeightUnit,
    units.convert_speed: units.SpeedUnit,
    units.convert_data_size: units.DataUnit,
    units.convert_area: units.AreaUnit,
    units.convert_volume: units.VolumeUnit,
    units.convert_pressure: units.PressureUnit,
    units.convert_energy: units.EnergyUnit,
    units.convert_duration: units.DurationUnit,
}
ALL = {**LINEAR, units.convert_temperature: units.TemperatureUnit}
SIGNED = (units.convert_length, units.convert_speed, units.convert_energy, units.convert_temperature)


@pytest.mark.parametrize(("tool", "value", "source", "target", "expected"), KNOWN)
def test_known_values(tool, value, source, target, expected):
    assert tool(value, source, target) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tool", ALL)
def test_every_unit_of_the_schema_works_and_returns(tool):
    for source in get_args(ALL[tool]):
        for target in get_args(ALL[tool]):
            assert tool(tool(7.5, source, target), target, source) == pytest.approx(7.5, rel=1e-12)


def test_written_decimals_convert_exactly():
    assert units.convert_length(1.1, "m", "cm") == 110.0
    assert units.convert_weight(0.3, "kg", "g") == 300.0
    assert units.convert_temperature(36.6, "celsius", "kelvin") == 309.75


@given(st.sampled_from(list(LINEAR)), st.floats(0, 1e9), st.data())
def test_conversions_are_proportional_and_chain(tool, value, data):
    first, second, third = (data.draw(st.sampled_from(get_args(LINEAR[tool]))) for _ in range(3))
    assert tool(value, first, second) == pytest.approx(value * tool(1, first, second), rel=1e-12, abs=1e-300)
    assert tool(tool(value, first, second), second, third) == pytest.approx(tool(value, first, third), rel=1e-12)


@pytest.mark.parametrize("tool", ALL)
def test_bad_input(tool):
    unit = get_args(ALL[tool])[0]
    with pytest.raises(ValueError, match="from_unit"):
        tool(1, "parsec", unit)
    with pytest.raises(ValueError, match="to_unit"):
        tool(1, unit, "")
    for value in (float("nan"), float("inf"), "3", True, None):
        with pytest.raises(ValueError, match="finite number"):
            tool(value, unit, unit)


@pytest.mark.parametrize("tool", ALL)
def test_negative_amounts_only_where_they_mean_something(tool):
    unit = get_args(ALL[tool])[0]
    if tool in SIGNED:
        assert tool(-1, unit, unit) == pytest.approx(-1)
    else:
        with pytest.raises(ValueError, match="0 or more"):
            tool(-1, unit, unit)


@pytest.mark.parametrize(("value", "unit"), [(-273.16, "celsius"), (-459.7, "fahrenheit"), (-0.1, "kelvin")])
def test_nothing_is_colder_than_absolute_zero(value, unit):
    with pytest.raises(ValueError, match="absolute zero"):
        units.convert_temperature(value, unit, "celsius")


@pytest.mark.parametrize(
    ("amount", "measure", "ingredient", "expected"),
    [
        (1, "cup", "flour", 120.0),
        (2.5, "cup", "sugar", 500.0),
        (1, "tablespoon", "butter", 14.2),
        (3, "teaspoon", "salt", 18.0),
        (0, "cup", "rice", 0.0),
    ],
)
def test_cooking_measure_to_grams(amount, measure, ingredient, expected):
    assert units.cooking_measure_to_grams(amount, measure, ingredient) == expected


@pytest.mark.parametrize("ingredient", get_args(units.Ingredient))
def test_spoons_add_up_to_cups(ingredient):
    cup = units.cooking_measure_to_grams(1, "cup", ingredient)
    assert units.cooking_measure_to_grams(16, "tablespoon", ingredient) == cup
    assert units.cooking_measure_to_grams(48, "teaspoon", ingredient) == cup


@pytest.mark.parametrize(
    "arguments", [(1, "cup", "gravel"), (1, "bucket", "flour"), (-1, "cup", "flour"), (float("nan"), "cup", "flour")]
)
def test_cooking_measure_to_grams_refuses(arguments):
    with pytest.raises(ValueError):
        units.cooking_measure_to_grams(*arguments)
