"""Numbers: number theory and exact arithmetic."""

from __future__ import annotations

import math
import re
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

from toolscaler.starter.registry import starter_tool

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_PREFIXES = {2: "0b", 8: "0o", 16: "0x"}
_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)
# Below this bound Miller-Rabin with the first 13 primes as bases is a proof (Sorenson and Webster, 2015).
_PRIME_LIMIT = 3_317_044_064_679_887_385_961_981
_FACTOR_LIMIT = 10**18
_FRACTION = re.compile(r"^[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40}|\d{1,40}/\d{1,40})$")


def _integer(name: str, value: int, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name}: expected a whole number, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name}: expected a whole number from {low} to {high}, got {value}")
    return value


def _integers(name: str, values: list[int]) -> list[int]:
    if not isinstance(values, list | tuple) or not 1 <= len(values) <= 100:
        raise ValueError(f"{name}: expected a list of 1 to 100 whole numbers")
    return [_integer(f"{name}[{i}]", value, -_FACTOR_LIMIT, _FACTOR_LIMIT) for i, value in enumerate(values)]


def _is_prime(number: int) -> bool:
    if number < 2:
        return False
    for prime in _WITNESSES:
        if number % prime == 0:
            return number == prime
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in _WITNESSES:
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def _proper_factor(number: int) -> int:
    """Give a factor of an odd composite number (Pollard's rho with fixed seeds, so it is deterministic)."""
    root = math.isqrt(number)
    if root * root == number:
        return root
    for offset in range(1, number):
        slow = fast = 2
        factor = 1
        while factor == 1:
            slow = (slow * slow + offset) % number
            fast = (fast * fast + offset) % number
            fast = (fast * fast + offset) % number
            factor = math.gcd(slow - fast, number)
        if factor != number:
            return factor
    raise ValueError(f"number: cannot factor {number}")


@starter_tool("Numbers")
def is_prime_number(number: int) -> bool:
    """Tell whether a whole number is prime.

    Answers yes or no: a prime has no divisors but 1 and itself. Works with certainty for numbers of up to 24 digits.

    Args:
        number: Whole number to test, for example 97.

    Returns:
        True if the number is prime, false if it is composite, 0, 1 or negative.

    Raises:
        ValueError: The number is not whole or larger than 24 digits.
    """
    return _is_prime(_integer("number", number, -_PRIME_LIMIT, _PRIME_LIMIT - 1))


@starter_tool("Numbers")
def prime_factors(number: int) -> list[dict[str, int]]:
    """Break a whole number down into its prime factors.

    Prime factorisation: which primes, and how often each, multiply together to give the number, for example
    360 = 2^3 * 3^2 * 5.

    Args:
        number: Whole number to decompose, from 1 to 10^18.

    Returns:
        One record a prime, ascending: prime and exponent. Empty for 1.

    Raises:
        ValueError: The number is not whole, below 1 or above 10^18.
    """
    rest = _integer("number", number, 1, _FACTOR_LIMIT)
    powers: dict[int, int] = {}
    for divisor in range(2, 1000):
        while rest % divisor == 0:
            powers[divisor] = powers.get(divisor, 0) + 1
            rest //= divisor
    pending = [rest] if rest > 1 else []
    while pending:
        part = pending.pop()
        if _is_prime(part):
            powers[part] = powers.get(part, 0) + 1
        else:
            factor = _proper_factor(part)
            pending += [factor, part // factor]
    return [{"prime": prime, "exponent": powers[prime]} for prime in sorted(powers)]


@starter_tool("Numbers")
def greatest_common_divisor(numbers: list[int]) -> int:
    """Compute the greatest common divisor (GCD, highest common factor) of whole numbers.

    The largest number that divides all of them without remainder: the biggest equal groups, tiles or portions into
    which several amounts can be split with nothing left over.

    Args:
        numbers: Whole numbers, at least one, for example [48, 36].

    Returns:
        The greatest common divisor; 0 if all numbers are 0.

    Raises:
        ValueError: The list is empty or too long, or an entry is not a whole number.
    """
    return math.gcd(*_integers("numbers", numbers))


@starter_tool("Numbers")
def least_common_multiple(numbers: list[int]) -> int:
    """Compute the least common multiple (LCM) of whole numbers.

    The smallest number that all of them divide: when repeating cycles, lights or schedules coincide again, or a common
    denominator.

    Args:
        numbers: Whole numbers, at least one, for example [4, 6].

    Returns:
        The least common multiple; 0 if a number is 0.

    Raises:
        ValueError: The list is empty or too long, or an entry is not a whole number.
    """
    return math.lcm(*_integers("numbers", numbers))


@starter_tool("Numbers")
def fibonacci_number(position: int) -> int:
    """Give the Fibonacci number at a position of the sequence 0, 1, 1, 2, 3, 5, 8, ...

    Each term is the sum of the two before it; position 0 is 0, position 1 is 1, position 10 is 55.

    Args:
        position: Index of the term, from 0 to 10000.

    Returns:
        The Fibonacci number, exact.

    Raises:
        ValueError: The position is negative, too large or not whole.
    """
    current, following = 0, 1
    for _ in range(_integer("position", position, 0, 10_000)):
        current, following = following, current + following
    return current


@starter_tool("Numbers")
def convert_number_base(digits: str, from_base: int, to_base: int) -> str:
    """Write a whole number in another base, for example decimal to binary or hexadecimal to octal.

    Converts between positional numeral systems with bases 2 to 36: binary (2), octal (8), decimal (10), hexadecimal
    (16) and any radix between.

    Args:
        digits: The number's digits in the old base as text, for example ``ff`` or ``-1010``; ``0x``, ``0o`` and ``0b``
            are allowed in front where they fit the base.
        from_base: Base that the digits are written in, from 2 to 36.
        to_base: Base to convert to, from 2 to 36.

    Returns:
        The digits in the new base, letters in lower case, without prefix.

    Raises:
        ValueError: A base is out of range, or a digit does not belong to the old base.
    """
    _integer("from_base", from_base, 2, 36)
    _integer("to_base", to_base, 2, 36)
    text = digits.strip().lower()
    sign = "-" if text.startswith("-") else ""
    text = text.removeprefix("-").removeprefix(_PREFIXES.get(from_base, "-"))
    if not 1 <= len(text) <= 1000 or any(digit not in _DIGITS[:from_base] for digit in text):
        raise ValueError(f"digits: expected 1 to 1000 digits of base {from_base}, got {digits!r}")
    value, written = int(text, from_base), []
    while value:
        value, digit = divmod(value, to_base)
        written.append(_DIGITS[digit])
    return sign + "".join(reversed(written)) if written else "0"


@starter_tool("Numbers")
def modular_power(base: int, exponent: int, modulus: int) -> int:
    """Compute base to the power of exponent modulo a number: the remainder of a huge power.

    Modular exponentiation as in RSA or Diffie-Hellman and in last-digit puzzles. A negative exponent gives the modular
    inverse.

    Args:
        base: Number to raise, for example 7.
        exponent: Power to raise it to, for example 222; -1 gives the inverse.
        modulus: Number to divide by, at least 1, for example 10.

    Returns:
        The remainder, from 0 to modulus - 1.

    Raises:
        ValueError: The modulus is below 1, a number has more than 1000 digits, or there is no inverse.
    """
    limit = 10**1000
    _integer("base", base, -limit, limit)
    _integer("exponent", exponent, -limit, limit)
    _integer("modulus", modulus, 1, limit)
    try:
        return pow(base, exponent, modulus)
    except ValueError as error:
        raise ValueError(f"base: {base} has no inverse modulo {modulus}") from error


@starter_tool("Numbers")
def collatz_sequence(start: int) -> dict[str, Any]:
    """Follow the Collatz (3n + 1, hailstone) rule from a starting number down to 1.

    Halve an even number, triple an odd one and add one, until 1 is reached; tells how many steps that takes, how high
    it climbs, and all numbers on the way.

    Args:
        start: Positive whole number to begin with, at most 10^12, for example 27.

    Returns:
        Steps (count), highest value and the sequence from the start to 1.

    Raises:
        ValueError: The start is not whole, below 1 or above 10^12.
    """
    number = _integer("start", start, 1, 10**12)
    sequence = [number]
    while number != 1:
        number = 3 * number + 1 if number % 2 else number // 2
        sequence.append(number)
    return {"steps": len(sequence) - 1, "highest": max(sequence), "sequence": sequence}


@starter_tool("Numbers")
def binomial_coefficient(n: int, k: int) -> int:
    """Count the ways to choose k things out of n when order does not matter ("n choose k").

    Binomial coefficient or number of combinations: hands of cards, teams, committees, lottery tickets, handshakes, an
    entry of Pascal's triangle.

    Args:
        n: Number of things to choose from, from 0 to 5000.
        k: Number of things chosen, from 0 to 5000; more than n gives 0.

    Returns:
        The number of combinations, exact.

    Raises:
        ValueError: A number is negative, too large or not whole.
    """
    return math.comb(_integer("n", n, 0, 5000), _integer("k", k, 0, 5000))


@starter_tool("Numbers")
def round_to_significant_digits(value: float, digits: int = 3) -> float:
    """Round a number to a given count of significant figures.

    Keeps the leading digits that matter wherever the decimal point stands: 0.0012345 to three significant figures is
    0.00123, and 98765 is 98800. A five rounds away from zero.

    Args:
        value: Number to round, for example 0.0012345.
        digits: How many significant figures to keep, from 1 to 15.

    Returns:
        The rounded number.

    Raises:
        ValueError: The value is beyond 1e300 or not a number, or the count of digits is out of range.
    """
    _integer("digits", digits, 1, 15)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e300:
        raise ValueError(f"value: expected a number of at most 1e300 in size, got {value!r}")
    exact = Decimal(repr(float(value)))
    if not exact:
        return 0.0
    step = Decimal(1).scaleb(exact.adjusted() - digits + 1)
    return float((exact / step).quantize(Decimal(1), rounding=ROUND_HALF_UP) * step)


@starter_tool("Numbers")
def decimal_to_fraction(value: str, max_denominator: int | None = None) -> dict[str, Any]:
    """Turn a decimal number into a fraction in lowest terms.

    Writes for example 0.375 as 3/8, simplifies an unreduced fraction such as 18/24, and finds the nearest simple
    fraction when the denominator must stay small (3.14159 is about 22/7).

    Args:
        value: Decimal number or fraction as text, for example ``0.375``, ``-2.5`` or ``18/24``.
        max_denominator: Largest denominator allowed, for example 16 for a ruler; null means exact.

    Returns:
        Numerator, denominator, the fraction as text, the mixed number as text, and whether it is exact.

    Raises:
        ValueError: The text is no decimal number or fraction, the denominator is 0, or the limit is below 1.
    """
    text = value.strip()
    if not _FRACTION.match(text):
        raise ValueError(f"value: expected a decimal number or fraction such as '0.375', got {value!r}")
    try:
        exact = Fraction(text)
    except ZeroDivisionError as error:
        raise ValueError(f"value: the denominator of {value!r} is 0") from error
    if max_denominator is None:
        fraction = exact
    else:
        fraction = exact.limit_denominator(_integer("max_denominator", max_denominator, 1, _FACTOR_LIMIT))
    whole, rest = divmod(abs(fraction.numerator), fraction.denominator)
    parts = ([str(whole)] if whole or not rest else []) + ([f"{rest}/{fraction.denominator}"] if rest else [])
    return {
        "numerator": fraction.numerator,
        "denominator": fraction.denominator,
        "text": str(fraction),
        "mixed": ("-" if fraction < 0 else "") + " ".join(parts),
        "exact": fraction == exact,
    }
