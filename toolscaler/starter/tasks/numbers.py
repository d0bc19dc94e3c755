"""One-call task families about whole numbers."""

from __future__ import annotations

from toolscaler.starter.tasks.draw import Draw
from toolscaler.starter.tasks.family import Values, call

# at most 21 steps, so that the result stays short
_SHORT_COLLATZ = (
    5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22, 23, 24, 26, 28, 29, 30, 34, 35, 36, 40, 42, 44, 45,
    46, 48, 52, 53, 56, 58, 60, 61, 64, 68, 69, 70, 72, 76, 80, 84, 85, 88, 90, 92, 93, 96,
)  # fmt: skip


def _multiples(d: Draw) -> Values:
    factor = d.num(3, 18)
    return {"numbers": [factor * number for number in d.different(d.num(2, 3), 2, 15)]}


def _digits(d: Draw) -> Values:
    number = d.num(20, 4000)
    source, target = d.sample((2, 8, 10, 16), 2)
    written = {2: f"{number:b}", 8: f"{number:o}", 10: str(number), 16: f"{number:x}"}[source]
    return {"digits": written, "from_base": source, "to_base": target}


FAMILIES = (
    call(
        "is_prime_number",
        lambda d: {"number": d.pick((d.num(10, 3000),
            d.pick((101, 211, 307, 401, 503, 601, 701, 809, 907, 1009, 2003))))},
        ("Is {number} a prime number?", "Does {number} have divisors other than 1 and itself? I mean, is it prime?",
            "prime or not: {number}"),
        ("Tell me whether {number} is a prime.",),
        "a prime test", "test the number", ("Yes, {number} is prime.", "No, {number} is not prime."),
    ),
    call(
        "prime_factors",
        lambda d: {"number": d.num(2, 60) * d.pick((7, 11, 13, 17, 19, 23))},
        (
            "What is the largest prime factor of {number}?",
            "Break {number} into primes. Which prime is the biggest?",
            "prime factorisation of {number}, give the greatest prime",
        ),
        ("Which is the highest prime that divides {number}?",),
        "the prime factors", "break the number into primes", "The largest prime factor is {ref}.",
        ref=lambda result: result[-1]["prime"],
    ),
    call(
        "greatest_common_divisor",
        _multiples,
        (
            "What is the greatest common divisor of {numbers}?",
            "Find the highest common factor of {numbers}.",
            "gcd of {numbers}",
        ),
        ("Which largest number divides all of {numbers} without a rest?",),
        "the greatest common divisor", "compute it from the numbers", "The greatest common divisor is {ref}.",
    ),
    call(
        "least_common_multiple",
        lambda d: {"numbers": d.different(d.num(2, 3), 3, 30)},
        (
            "What is the least common multiple of {numbers}?",
            "Lights blink every {numbers} seconds. After how many seconds do they blink together?",
            "lcm of {numbers}",
        ),
        ("Find the smallest number that {numbers} all divide.",),
        "the least common multiple", "compute it from the numbers", "The least common multiple is {ref}.",
    ),
    call(
        "fibonacci_number",
        lambda d: {"position": d.num(8, 60)},
        (
            "What is the Fibonacci number at position {position}?",
            "Give me term {position} of the sequence 0, 1, 1, 2, 3, 5.",
            "fibonacci({position})",
        ),
        ("Which Fibonacci number has index {position}?",),
        "a Fibonacci number", "look up that position", "It is {ref}.",
    ),
    call(
        "convert_number_base",
        _digits,
        (
            "Write the base {from_base} number {digits} in base {to_base}.",
            "What is {digits} from base {from_base} to base {to_base}?",
            "convert {digits} of base {from_base} into base {to_base}",
        ),
        ("In base {from_base} it reads {digits}. How does it read in base {to_base}?",),
        "a number in another base", "convert its digits", "It is {ref}.",
    ),
    call(
        "modular_power",
        lambda d: {"base": d.num(2, 30), "exponent": d.num(11, 400), "modulus": d.num(101, 999)},
        (
            "What is {base} to the power of {exponent} modulo {modulus}?",
            "Divide {base} to the power {exponent} by {modulus}. What remains?",
            "{base}^{exponent} mod {modulus}",
        ),
        ("I raise {base} to {exponent} and reduce it modulo {modulus}. Which remainder is left?",),
        "the remainder of a power", "compute the power with the modulus", "The remainder is {ref}.",
    ),
    call(
        "collatz_sequence",
        lambda d: {"start": d.pick(_SHORT_COLLATZ)},
        (
            "How many Collatz steps lead from {start} to 1?",
            "Follow the 3n + 1 rule from {start}. After how many steps is it 1?",
            "collatz steps for {start}",
        ),
        ("How many steps does the hailstone sequence of {start} take?",),
        "the Collatz steps", "follow the sequence", "It takes {ref} steps.",
        ref="steps",
    ),
    call(
        "binomial_coefficient",
        lambda d: {"n": d.num(8, 40), "k": d.num(2, 6)},
        (
            "In how many ways can I choose {k} out of {n}?",
            "How many different teams of {k} can be made from {n} people?",
            "{n} choose {k}",
        ),
        ("A lottery draws {k} balls from {n}. How many draws are possible?",),
        "a number of combinations", "compute the binomial coefficient", "There are {ref} ways.",
    ),
    call(
        "round_to_significant_digits",
        lambda d: {"value": d.decimal(10, 900, 4), "digits": d.num(2, 4)},
        (
            "Round {value} to {digits} significant digits.",
            "Give me {value} with {digits} significant figures.",
            "{value} rounded, {digits} sig figs",
        ),
        ("How is {value} written with only {digits} significant digits?",),
        "a rounded number", "round to the significant digits", "It is {ref}.",
    ),
    call(
        "decimal_to_fraction",
        lambda d: {"value": str(d.pick((d.num(1, 99) / 100, d.num(1, 399) / 8, d.num(1, 99) / 40)))},
        (
            "Write {value} as a fraction.",
            "Which fraction in lowest terms is {value}?",
            "{value} as a fraction please",
        ),
        ("How do I express {value} with numerator and denominator?",),
        "a fraction", "turn the decimal into a fraction", "It is {ref}.",
        ref="text",
    ),
)  # fmt: skip
