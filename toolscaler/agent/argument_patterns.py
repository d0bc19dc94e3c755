r"""Patterns of schemas, respelt for a grammar engine whose ``\w``, ``\d`` and ``\s`` know ASCII only.

The check after generation knows Unicode. So that all that is generated passes it, the negated classes are written out:
``\D`` must not take an Arabic digit, which the check calls a digit.
"""

from __future__ import annotations

_LETTERS, _DIGITS = r"\w\p{L}\p{N}\p{M}\p{Pc}", r"\d\p{Nd}"
_SPACES = r"\s\x0b\x1c-\x1f\x85\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_WHOLE = {"w": _LETTERS, "d": _DIGITS, "s": _SPACES}


def grammar_pattern(pattern: object) -> str | None:
    r"""Respell a pattern so that all it matches in the engine, the check's own engine matches too.

    Args:
        pattern: Regular expression of a schema.

    Returns:
        The pattern, or ``None`` where it cannot be respelt: it is no text, or too long, or holds a negated class name
        (``\W``) inside brackets.

    >>> grammar_pattern(r"^\d+\.\w$")
    '^\\d+\\.\\w$'
    >>> grammar_pattern(r"\D")
    '[^\\d\\p{Nd}]'
    """
    if not isinstance(pattern, str) or len(pattern) > 2000 or "(?" in pattern.replace("(?:", ""):
        return None
    out: list[str] = []
    at, inside, negated = 0, False, False
    while at < len(pattern):
        char, pair = pattern[at], pattern[at : at + 2]
        if char == "\\":
            name = pair[1:]
            if name in ("b", "B", "A", "Z", "z") or not name:
                return None
            if name in ("W", "D", "S"):
                if inside:
                    return None
                out.append(f"[^{_WHOLE[name.lower()]}]")
            else:
                out.append(_WHOLE[name] if negated and name in _WHOLE else pair)
            at += 2
            continue
        if inside:
            if char == "]":
                inside = negated = False
        elif char == "[":
            inside, negated = True, pattern[at + 1 : at + 2] == "^"
            opening = "[^" if negated else "["
            if pattern[at + len(opening) :][:1] == "]":
                return None  # a bracket that is its class's first member: engines differ
            out.append(opening)
            at += len(opening)
            continue
        out.append(char)
        at += 1
    return None if inside else "".join(out)
