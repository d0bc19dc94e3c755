"""The Numbers tools against known constants and slow twins."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolscaler.starter.tools import numbers


def _prime_by_division(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def test_is_prime_agrees_with_trial_division():
    assert [n for n in range(-3, 5000) if numbers.is_prime_number(n)] == [
        n for n in range(5000) if _prime_by_division(n)
    ]


def test_is_prime_known_values():
    assert numbers.is_prime_number(2**61 - 1)
    assert numbers.is_prime_number(1_000_000_007)
    assert not numbers.is_prime_number(561), "a Carmichael number"
    assert not numbers.is_prime_number(3_215_031_751), "a strong pseudoprime to bases 2, 3, 5, 7"
    assert not numbers.is_prime_number((2**31 - 1) * (2**31 - 1))
    for bad in (10**25, 7.0, True, "7"):
        with pytest.raises(ValueError, match="number"):
            numbers.is_prime_number(bad)


def test_prime_factors_known_values():
    assert numbers.prime_factors(360) == [
        {"prime": 2, "exponent": 3},
        {"prime": 3, "exponent": 2},
        {"prime": 5, "exponent": 1},
    ]
    assert numbers.prime_factors(1) == []
    assert numbers.prime_factors(97) == [{"prime": 97, "exponent": 1}]
    assert numbers.prime_factors(999_999_937**2) == [{"prime": 999_999_937, "exponent": 2}]
    assert [f["prime"] for f in numbers.prime_factors(999_999_929 * 999_999_937)] == [999_999_929, 999_999_937]
    for bad in (0, -6, 10**18 + 1, 2.5):
        with pytest.raises(ValueError, match="number"):
            numbers.prime_factors(bad)


@given(st.integers(1, 10**12))
def test_prime_factors_multiply_back(number):
    factors = numbers.prime_factors(number)
    assert math.prod(f["prime"] ** f["exponent"] for f in factors) == number
    assert all(numbers.is_prime_number(f["prime"]) for f in factors)
    assert [f["prime"] for f in factors] == sorted({f["prime"] for f in factors})


@given(st.lists(st.integers(-500, 500), min_size=1, max_size=4))
def test_gcd_and_lcm_by_brute_force(values):
    divisor = max(
        (d for d in range(1, 501) if all(v % d == 0 for v in values)) if any(values) else [0],
    )
    assert numbers.greatest_common_divisor(values) == divisor
    multiple = numbers.least_common_multiple(values)
    if all(values):
        assert multiple > 0
        assert all(multiple % v == 0 for v in values)
        assert all(
            any((multiple // p) % v for v in values) for p in (f["prime"] for f in numbers.prime_factors(multiple))
        )
    else:
        assert multiple == 0


def test_gcd_and_lcm_known_values():
    assert numbers.greatest_common_divisor([48, 36]) == 12
    assert numbers.greatest_common_divisor([17, 5]) == 1
    assert numbers.greatest_common_divisor([-9]) == 9
    assert numbers.least_common_multiple([4, 6]) == 12
    assert numbers.least_common_multiple(list(range(1, 11))) == 2520
    assert numbers.least_common_multiple([7, 7]) == 7
    for bad in ([], [1.5], [True], list(range(101)), [10**19], "12"):
        for tool in (numbers.greatest_common_divisor, numbers.least_common_multiple):
            with pytest.raises(ValueError, match="numbers"):
                tool(bad)


def test_fibonacci():
    assert [numbers.fibonacci_number(n) for n in range(11)] == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55]
    assert numbers.fibonacci_number(100) == 354224848179261915075
    m, n = 37, 52  # F(m+n) = F(m) F(n+1) + F(m-1) F(n)
    fibonacci = numbers.fibonacci_number
    assert fibonacci(m + n) == fibonacci(m) * fibonacci(n + 1) + fibonacci(m - 1) * fibonacci(n)
    for bad in (-1, 10_001, 1.0):
        with pytest.raises(ValueError, match="position"):
            fibonacci(bad)


def test_convert_number_base_known_values():
    assert numbers.convert_number_base("255", 10, 16) == "ff"
    assert numbers.convert_number_base("0xFF", 16, 2) == "11111111"
    assert numbers.convert_number_base("-0b1010", 2, 10) == "-10"
    assert numbers.convert_number_base("zz", 36, 10) == "1295"
    assert numbers.convert_number_base("-000", 8, 3) == "0"
    for digits, old, new in (
        ("12", 2, 10),
        ("", 10, 2),
        ("0x1f", 10, 2),
        ("1_0", 10, 2),
        ("1.5", 10, 2),
        ("5", 1, 10),
        ("5", 10, 37),
        ("٣", 10, 2),
    ):
        with pytest.raises(ValueError, match=r"digits|base"):
            numbers.convert_number_base(digits, old, new)


@given(st.integers(-(10**30), 10**30), st.integers(2, 36))
def test_convert_number_base_round_trip(number, base):
    written = numbers.convert_number_base(str(number), 10, base)
    assert int(written, base) == number
    assert numbers.convert_number_base(written, base, 10) == str(number)


def test_modular_power():
    assert numbers.modular_power(7, 222, 10) == 9
    assert numbers.modular_power(2, 10**18, 1) == 0
    assert numbers.modular_power(3, -1, 11) == 4
    assert numbers.modular_power(5, 10**9 + 6, 10**9 + 7) == 1, "Fermat's little theorem"
    assert all(numbers.modular_power(b, e, m) == b**e % m for b in range(-4, 5) for e in range(6) for m in range(1, 9))
    with pytest.raises(ValueError, match="modulus"):
        numbers.modular_power(2, 3, 0)
    with pytest.raises(ValueError, match="no inverse"):
        numbers.modular_power(4, -1, 8)
    with pytest.raises(ValueError, match="exponent"):
        numbers.modular_power(2, 0.5, 8)


def test_collatz():
    assert numbers.collatz_sequence(6)["sequence"] == [6, 3, 10, 5, 16, 8, 4, 2, 1]
    result = numbers.collatz_sequence(27)
    assert (result["steps"], result["highest"]) == (111, 9232)
    assert numbers.collatz_sequence(1) == {"steps": 0, "highest": 1, "sequence": [1]}
    for bad in (0, -5, 10**12 + 1, 3.0):
        with pytest.raises(ValueError, match="start"):
            numbers.collatz_sequence(bad)


def test_binomial_coefficient():
    assert numbers.binomial_coefficient(52, 5) == 2_598_960
    assert numbers.binomial_coefficient(49, 6) == 13_983_816
    assert numbers.binomial_coefficient(5, 0) == 1
    assert numbers.binomial_coefficient(3, 4) == 0
    for n in range(1, 20):
        row = [numbers.binomial_coefficient(n, k) for k in range(n + 1)]
        above = [numbers.binomial_coefficient(n - 1, k) for k in range(n)]
        assert row == [a + b for a, b in zip([0, *above], [*above, 0], strict=True)], "Pascal's rule"
    for n, k in ((-1, 0), (3, -1), (5001, 2), (4.0, 2)):
        with pytest.raises(ValueError):
            numbers.binomial_coefficient(n, k)


def test_round_to_significant_digits():
    tool = numbers.round_to_significant_digits
    assert tool(0.0012345) == 0.00123
    assert tool(98765) == 98800
    assert tool(2.5, 1) == 3.0
    assert tool(-2.5, 1) == -3.0
    assert tool(999.96, 4) == 1000.0
    assert tool(0) == 0.0
    assert tool(6.02214076e23, 2) == 6.0e23
    for value, digits in ((float("nan"), 3), (float("inf"), 3), (1.0, 0), (1.0, 16), (True, 3), ("1", 3), (10**400, 3)):
        with pytest.raises(ValueError, match=r"value|digits"):
            tool(value, digits)


@given(st.floats(1e-200, 1e200), st.integers(1, 15), st.sampled_from([1, -1]))
def test_rounding_is_near_and_short(size, digits, sign):
    rounded = numbers.round_to_significant_digits(sign * size, digits)
    shown = Decimal(repr(rounded)).normalize().as_tuple()
    assert len(shown.digits) <= digits
    half_unit = Fraction(10) ** (Decimal(repr(size)).adjusted() - digits + 1) / 2
    assert abs(Fraction(repr(rounded)) - Fraction(repr(sign * size))) <= half_unit


def test_decimal_to_fraction():
    tool = numbers.decimal_to_fraction
    assert tool("0.375") == {"numerator": 3, "denominator": 8, "text": "3/8", "mixed": "3/8", "exact": True}
    assert tool("-2.5")["mixed"] == "-2 1/2"
    assert tool("18/24")["text"] == "3/4"
    assert tool("3.14159", 10) == {"numerator": 22, "denominator": 7, "text": "22/7", "mixed": "3 1/7", "exact": False}
    assert tool("4.00") == {"numerator": 4, "denominator": 1, "text": "4", "mixed": "4", "exact": True}
    assert tool("0")["mixed"] == "0"
    assert tool(" .5 ")["text"] == "1/2"
    for value, limit in (
        ("abc", None),
        ("1/0", None),
        ("1e9", None),
        ("", None),
        ("1/2/3", None),
        ("0.5", 0),
        (".", 3),
    ):
        with pytest.raises(ValueError, match=r"value|max_denominator"):
            tool(value, limit)


@given(st.decimals(-1000, 1000, places=4), st.integers(1, 60))
def test_nearest_fraction_by_brute_force(value, limit):
    result = numbers.decimal_to_fraction(str(value), limit)
    exact = Fraction(value)
    best = min(abs(Fraction(round(exact * d), d) - exact) for d in range(1, limit + 1))
    assert abs(Fraction(result["numerator"], result["denominator"]) - exact) == best
    assert result["denominator"] <= limit
