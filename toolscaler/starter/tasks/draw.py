"""Seeded random values for the task families."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import date, timedelta
from typing import TypeVar

_Item = TypeVar("_Item")

NAMES = (
    "Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Iris", "Jack", "Kim", "Leo", "Mia", "Nils", "Olga",
    "Paul", "Rosa", "Sam", "Tina", "Uwe", "Vera", "Will", "Yara", "Zoe",
)  # fmt: skip
WORDS = (
    "apple", "river", "stone", "candle", "garden", "window", "silver", "bridge", "forest", "pencil", "market", "button",
    "winter", "copper", "violin", "pepper", "island", "rocket", "basket", "mirror", "planet", "carpet", "harbor",
    "lemon", "tiger", "cloud", "bread", "train", "paper", "music", "coffee", "orange", "kitten", "summer", "ladder",
)  # fmt: skip
ADJECTIVES = (
    "old", "blue", "quiet", "small", "bright", "cold", "green", "happy", "lost", "round", "sharp", "slow", "warm",
    "wild", "young", "golden",
)  # fmt: skip
PLACES = ("Oslo", "Rome", "Bern", "Lyon", "Cork", "Graz", "Turin", "Malmo", "Porto", "Gdansk", "Bergen", "Leeds")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NODES = tuple("ABCDEFGH")


class Draw:
    """Draws values from one seeded stream.

    Args:
        seed: Text that names the stream; the same text always gives the same values.
    """

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def num(self, low: int, high: int) -> int:
        """Give a whole number from ``low`` to ``high``, both included."""
        return self._random.randint(low, high)

    def decimal(self, low: int, high: int, places: int = 1) -> float:
        """Give a number between two whole ones with at most ``places`` decimal places, not a whole one."""
        scale = 10**places
        return (self._random.randint(low, high - 1) * scale + self._random.randint(1, scale - 1)) / scale

    def pick(self, items: Sequence[_Item]) -> _Item:
        """Give one of the items."""
        return self._random.choice(items)

    def sample(self, items: Sequence[_Item], count: int) -> list[_Item]:
        """Give ``count`` different items in random order."""
        return self._random.sample(items, count)

    def shuffled(self, items: Sequence[_Item]) -> list[_Item]:
        """Give all items in random order."""
        return self._random.sample(items, len(items))

    def ints(self, count: int, low: int, high: int) -> list[int]:
        """Give ``count`` whole numbers; they may repeat."""
        return [self._random.randint(low, high) for _ in range(count)]

    def different(self, count: int, low: int, high: int) -> list[int]:
        """Give ``count`` different whole numbers in random order."""
        return self._random.sample(range(low, high + 1), count)

    def date(self, first_year: int = 2019, last_year: int = 2029) -> str:
        """Give a date as YYYY-MM-DD."""
        start = date(first_year, 1, 1)
        days = (date(last_year, 12, 31) - start).days
        return (start + timedelta(days=self._random.randint(0, days))).isoformat()

    def name(self) -> str:
        """Give a first name."""
        return self.pick(NAMES)

    def names(self, count: int) -> list[str]:
        """Give ``count`` different first names."""
        return self.sample(NAMES, count)

    def word(self) -> str:
        """Give a common noun."""
        return self.pick(WORDS)

    def words(self, count: int) -> list[str]:
        """Give ``count`` different nouns."""
        return self.sample(WORDS, count)

    def phrase(self) -> str:
        """Give an adjective and a noun."""
        return f"{self.pick(ADJECTIVES)} {self.word()}"

    def sentence(self) -> str:
        """Give a short sentence in small letters without an end mark."""
        one, two = self.words(2)
        return f"the {self.pick(ADJECTIVES)} {one} and the {self.pick(ADJECTIVES)} {two}"
