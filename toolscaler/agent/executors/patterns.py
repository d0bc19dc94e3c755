"""Regular expressions of untrusted schemas: searched under a time limit, refused where compiling is the attack.

Python's own ``re`` has no time limit and holds the interpreter's lock while it searches, so one pattern such as
``(x+x+)+y`` would stop every thread. The ``regex`` package can stop; but it writes counted repeats out when it
compiles, so ``((a{1000}){1000}){1000}`` would take all memory. Their written-out length is bounded first.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_MAX_PATTERN = 2000
_MAX_EXPANSION = 20_000
_COUNT = re.compile(r"\{(\d+)(?:,\d*)?\}")
#: Comments and the verbose flag could hide repeats from :func:`expansion`.
_HIDING = re.compile(r"\(\?(?:#|[A-Za-z0-9-]*x)")


def expansion(pattern: str) -> int:
    """Give the number of items in a pattern with its counted repeats written out (``(ab{3}){2}`` has 8)."""
    levels = [0]
    last = at = 0
    while at < len(pattern):
        char, step = pattern[at], 1
        if char == "(":
            levels.append(0)
        elif char == ")":
            last = levels[-1]
            if len(levels) > 1:  # a bracket too many counts as one round everything
                levels.pop()
                levels[-1] += last
        elif char == "{" and (count := _COUNT.match(pattern, at)):
            times = max(int(count.group(1)), 1)
            levels[-1] += last * (times - 1)
            last, step = last * times, len(count.group())
        else:
            last = 1
            levels[-1] += 1
            step = _class_length(pattern, at) if char == "[" else 2 if char == "\\" else 1
        at += step
    return sum(levels)


def _class_length(pattern: str, start: int) -> int:
    """Give the length of the character class that starts here; a bracket right at its beginning is a member."""
    at = start + 1
    at += pattern[at : at + 1] == "^"
    at += pattern[at : at + 1] == "]"
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return at + 1 - start


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any:
    import regex

    if len(pattern) > _MAX_PATTERN:
        raise ValueError(f"a pattern of {len(pattern)} characters; expected at most {_MAX_PATTERN}")
    if _HIDING.search(pattern):
        raise ValueError("a pattern with comments or the verbose flag")
    if expansion(pattern) > _MAX_EXPANSION:
        raise ValueError(f"a pattern whose repeats write out to more than {_MAX_EXPANSION} items")
    return regex.compile(pattern, regex.VERSION0)


def found(pattern: str, text: str, seconds: float) -> bool:
    """Say whether a pattern matches somewhere in a text.

    Args:
        pattern: Regular expression in Python's spelling.
        text: The text.
        seconds: Time limit of the search.

    Raises:
        TimeoutError: The search took longer.
        ValueError: The pattern is too long, or would be when its repeats are written out.
        regex.error: It is no regular expression.
    """
    return _compiled(pattern).search(text, timeout=seconds) is not None
