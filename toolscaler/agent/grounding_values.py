"""Texts of a conversation in, the values that stand in them out: numbers and pieces of text, bounded in number."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

#: Characters of a conversation that are read; of longer ones the newest texts count.
MAX_CHARACTERS = 50_000
#: Numbers that are kept.
MAX_NUMBERS = 2000
#: Words of a span; longer pieces are lines, sentences, quoted parts and whole texts only.
MAX_WORDS = 12
#: Bytes of a piece of text (UTF-8): a longer one could not be ended within a call's budget.
MAX_BYTES = 1000

# A digit run with its separators as it stands: 39.62, 4,800, 1.5e-3, 17.05.2024.
_NUMERAL = re.compile(r"\d[\d.,]*(?:[eE][+-]?\d+)?")
_PLAIN = re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_LIST = re.compile(r"[\[(]\s*[-\u2212]?\d[\d.,\s\u2212-]*[\])]")
_MINUS, _CURRENCIES = "-\u2212", "$\u20ac\u00a3"
_SCALE = re.compile(r"[ \u00a0-]?(hundred|thousand|million|billion|k|m|bn)\b", re.IGNORECASE)
_SCALES = {"hundred": 100, "thousand": 1000, "k": 1000, "million": 10**6, "m": 10**6, "billion": 10**9, "bn": 10**9}
_WORD = re.compile(r"[A-Za-z]+")

# fmt: off
_SMALL = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50,
    "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "once": 1, "twice": 2, "half": 0.5, "dozen": 12,
    "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "eleventh": 11, "twelfth": 12,
}
# fmt: on

_QUOTED = re.compile(
    r'"([^"\n]{1,300})"|`([^`\n]{1,300})`|\u201c([^\u201d\n]{1,300})\u201d|\u2018([^\u2019\n]{1,300})\u2019'
    r"|\u00ab([^\u00bb\n]{1,300})\u00bb|(?<!\w)'([^\n]{1,300}?)'(?!\w)"
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
# Scripts without spaces: each of their letters is a word.
_TOKEN = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]|[^\s\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]+")
_PIECE = re.compile(r"[\w./\\:@#%&+~$-]+")
_DATES = re.compile(r"\d{4}-\d{2}-\d{2}T[\d:]+"), re.compile(r"\d{4}-\d{2}-\d{2}|\d{1,2}:\d{2}(?::\d{2})?")
_TAILS = 4  # lines below which the rest of a text is a piece of its own
_OUTER = ".,;:!?\"'`()[]{}<>\u2026\u201c\u201d\u2018\u2019\u00ab\u00bb"


@dataclass(frozen=True)
class Numeral:
    """A number in a text.

    Attributes:
        value: What it is worth; whole numbers are ``int``.
        text: How it stands there, its sign left out; empty for words and where a scale was multiplied in.
    """

    value: int | float
    text: str = ""


def numerals(text: str) -> Iterator[Numeral]:
    """Give the numbers of a text: those in digits, then those in words.

    Decimal digits of any script, with a sign, thousands and decimals as in English (``-4,800.5``) or an exponent;
    scales behind them (``2.5 million``, ``3k``) with and without; and English words up to billions (``twenty-five``,
    ``fifth``). A list in brackets is read as a list, ``[100,200]`` not as a hundred thousand.

    >>> [found.value for found in numerals("4,800 at 5.25% for two years, not -3")]
    [4800, 5.25, -3, 2]
    """
    listed = 0  # where the last list ends
    lists = iter(_LIST.finditer(text))
    coming = next(lists, None)
    for match in _NUMERAL.finditer(text):
        start, raw = match.start(), match.group().rstrip(".,")
        while coming is not None and coming.start() < start:
            listed, coming = coming.end(), next(lists, None)
        end = start + len(raw)
        inside = start < listed or text[start - 1 : start] == "," or bool(re.match(r",\S", text[end : end + 2]))
        negative = _is_sign(text, start - 1)
        parts = list(_parts(raw, inside))
        for number, (value, piece) in enumerate(parts):
            yield Numeral(-value if negative and not number else value, piece)
        scale = _SCALE.match(text, end)
        if scale and len(parts) == 1:
            whole = parts[0][0] * _SCALES[scale[1].lower()]
            yield Numeral(_tidy(-whole if negative else whole))
        if len(parts) > 1:  # 17.05.2024, 1,2,3: as it stands too, for texts
            yield Numeral(-parts[0][0] if negative else parts[0][0], raw)
    yield from _worded(text)


def _is_sign(text: str, at: int) -> bool:
    """Say whether a minus stands there that belongs to the number behind it, and is no hyphen or dash of a range."""
    if at > 0 and text[at] in _CURRENCIES:
        at -= 1
    return at >= 0 and text[at] in _MINUS and not (at and (text[at - 1].isalnum() or text[at - 1] in ")]_."))


def _parts(raw: str, in_list: bool) -> Iterator[tuple[int | float, str]]:
    if _PLAIN.fullmatch(raw) or (_THOUSANDS.fullmatch(raw) and not in_list):
        pieces = [raw]
    else:
        split = raw.split(",")
        pieces = [p for part in split for p in ([part] if _PLAIN.fullmatch(part) else re.findall(r"\d+", part))]
    for piece in pieces:
        value = _value(piece.replace(",", ""))
        if value is not None:
            yield value, piece


def _value(digits: str) -> int | float | None:
    if len(digits) > 40:
        return None
    value = int(digits) if digits.isdecimal() else float(digits)
    return None if value in (float("inf"), float("-inf")) else value


def _tidy(value: int | float) -> int | float:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _worded(text: str) -> Iterator[Numeral]:
    """Give the numbers that English words name: each word's own, and that of words which belong together."""
    total, current, end, parts = 0.0, 0.0, -2, 0
    for match in _WORD.finditer(text):
        word = match.group().lower()
        value, scale = _SMALL.get(word), _SCALES.get(word) if len(word) > 2 else None
        joined = parts and text[end : match.start()].strip(" -") in ("", "and")
        if word == "and" and parts:
            continue  # "two hundred and five"; the gap is looked at with the next word
        if (not joined or (value is None and scale is None)) and parts:
            yield Numeral(_tidy(total + current))
            total, current, parts = 0.0, 0.0, 0
        if value is not None:
            if parts and not _goes_on(current, value):
                yield Numeral(_tidy(total + current))
                total, current, parts = 0.0, 0.0, 0
            current, parts, end = current + value, parts + 1, match.end()
        elif scale is not None and parts:
            if scale == 100:
                current *= 100
            else:
                total, current = total + current * scale, 0.0
            parts, end = parts + 1, match.end()
    if parts:
        yield Numeral(_tidy(total + current))


def _goes_on(current: float, value: float) -> bool:
    """Say whether a small number's word can follow others in one number: five behind twenty, not behind seven."""
    whole = int(current)
    return (not whole % 100 and value < 100) or (not whole % 10 and whole % 100 >= 20 and 0 < value < 10)


def json_values(text: str) -> Iterator[Any]:
    """Give the leaves and keys of the JSON in a text: the whole text, or one object or array in it."""
    starts = [at for at in (text.find("["), text.find("{")) if at >= 0]
    inner = text[min(starts) : max(text.rfind("]"), text.rfind("}")) + 1] if starts else text
    for part in dict.fromkeys((text, inner)):
        try:
            queue = deque([json.loads(part)])
        except (ValueError, RecursionError):
            continue
        while queue:
            value = queue.popleft()
            if isinstance(value, dict):
                queue.extend(value)
                queue.extend(value.values())
            elif isinstance(value, list):
                queue.extend(value)
            else:
                yield value
        return


def pieces(text: str) -> Iterator[str]:
    """Give the parts of a text that someone set apart: quoted ones, JSON strings, lines, sentences, the whole."""
    for match in _QUOTED.finditer(text):
        yield next(group for group in match.groups() if group is not None)
    for value in json_values(text):
        if isinstance(value, str):
            yield value
    yield text
    yield text.strip()
    lines = text.splitlines()
    for count, line in enumerate(lines):
        yield line.strip()
        if 1 <= count <= _TAILS:  # a table or a letter below the question
            yield "\n".join(lines[count:])
        _, colon, tail = line.partition(": ")
        if colon:
            yield tail.strip()
            yield tail.strip().strip(_OUTER)
        sentences = _SENTENCE.split(line.strip())
        for sentence in sentences:
            yield sentence
            yield sentence.strip(_OUTER)


def words_of(text: str) -> list[list[tuple[int, int]]]:
    """Give the places of the words of each line: from, to."""
    found, at = [], 0
    for line in text.splitlines(keepends=True):
        found.append([(at + match.start(), at + match.end()) for match in _TOKEN.finditer(line)])
        at += len(line)
    return found


def spans(texts: Sequence[str], most: int) -> Iterator[str]:
    """Give word-aligned parts of texts, shorter ones first, each as it stands and without outer punctuation.

    Args:
        texts: The texts, the most important first.
        most: Most words that a part has. Of single words also the parts that look like names: paths, ids, dates.
    """
    lines = [(text, words) for text in texts for words in words_of(text)]
    for text, words in lines:
        for start, end in words:
            word = text[start:end]
            yield word.strip(_OUTER)
            yield word
            yield from _PIECE.findall(word)
            for form in _DATES:
                yield from form.findall(word)
            yield from re.findall(r"[\w.~-]+", word)
            yield from re.findall(r"\w+", word)
    for count in range(2, most + 1):
        for text, words in lines:
            for (start, _), (_, end) in zip(words, words[count - 1 :], strict=False):
                span = text[start:end]
                yield span.strip(_OUTER)
                yield span


def taken(values: Iterable[str], most: int, known: dict[str, None]) -> None:
    """Put new, usable texts into ``known`` until it has ``most``."""
    for value in values:
        if len(known) >= most:
            return
        if value and value not in known and len(value) <= MAX_BYTES and _fits(value):
            known[value] = None


def _fits(value: str) -> bool:
    try:
        return len(value.encode()) <= MAX_BYTES
    except UnicodeEncodeError:  # a lone surrogate: no JSON that is worth the name
        return False


def newest(texts: Sequence[str], most: int = MAX_CHARACTERS) -> list[str]:
    """Give texts from the last one on, as many characters as are read of them."""
    found, left = [], most
    for text in reversed(texts):
        if left <= 0:
            break
        found.append(text[:left])
        left -= len(text)
    return found
