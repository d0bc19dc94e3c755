r"""The shortest end of an open text: JSON that was begun and its schema in, the characters that close the text out.

A pattern may ask for letters that nothing points to (``é`` or ``ü`` anywhere), so no rule about likely letters finds an
end. The engine is asked instead: it can tell whether any text at all fits several patterns. With "begins so, and has at
most n more characters" beside the schema's pattern, halving finds the least n, and then each character.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from toolscaler.agent.argument_vocabulary import ArgumentVocabulary, engine, in_text

#: Longest end that is looked for, in characters.
MAX_CHARACTERS = 4096

_LAST = 0x10FFFF
ANY_CHARACTER = "(?s:.)"
# Where a character is sought first, so that ends are plain: letters, digits, printable ASCII, then everything.
_RANGES = ((0x61, 0x7A), (0x41, 0x5A), (0x30, 0x39), (0x20, 0x7E), (0xC0, 0x24F), (0, 0xD7FF), (0xE000, _LAST))
_STRING_KEYS = ("pattern", "format", "minLength", "maxLength")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}


class TextClosing:
    """Finds ends of texts for one schema. It never changes; several threads may use it.

    Args:
        schema: A schema as :class:`~toolscaler.agent.argument_schema.SchemaBuilder` makes them.
        vocabulary: What the model can write; ends hold no other characters.
        wider: The schema that this one was narrowed from, whose rules are searched instead: what is found for a rule is
            kept, and a narrower schema serves one call. Default: the schema itself.
        words: Texts with which an open text may have to go on before it can end.
    """

    def __init__(
        self,
        schema: Mapping[str, Any],
        vocabulary: ArgumentVocabulary,
        wider: Mapping[str, Any] | None = None,
        words: Sequence[str] = (),
    ) -> None:
        self._fixed = sorted(set(_fixed_texts(schema)), key=len)
        self._rules = list(dict.fromkeys(_rules(schema if wider is None else wider)))
        self._words = sorted({word.encode() for word in words}, key=len)
        self._any = vocabulary.any_character

    def end(self, written: bytes, fits: Callable[[bytes], bool]) -> bytes | None:
        """Find the shortest end of the text that is open.

        Exact but for what the engine cannot decide (very long repetitions, such as ``.{300}q``; behind long texts it
        is then the end that fits any text, where there is one), for ends of more than :data:`MAX_CHARACTERS`
        characters, and inside of an escape by number: there is none then.

        Args:
            written: The arguments so far, with an open text.
            fits: Says whether the grammar takes some more bytes.

        Returns:
            UTF-8 of what closes the text, its quote included; ``None`` where none was found.
        """
        if fits(b'"') and not in_text(written + b'"'):
            return b'"'
        for word in self._words:
            for begun in range(len(word) - 1, 0, -1):
                if written.endswith(word[:begun]) and fits(word[begun:] + b'"'):
                    return word[begun:] + b'"'
        opened = _opened(written)
        if opened is None:
            return None
        found = [end for text in self._fixed if (end := opened.rest(text)) is not None and fits(end)]
        for rule in self._rules:
            # The engine gives up on long beginnings; then what would be a whole text by itself may still fit behind.
            for begin in (opened, _Opened("", opened.begun)):
                text = _shortest(rule, begin, self._any)
                end = None if text is None else begin.rest(text)
                if end is not None and fits(end):
                    found.append(end)
                    break
        return min(found, key=len, default=None)


class _Opened:
    """A text that was begun.

    Args:
        text: What it holds so far, whole characters.
        begun: JSON of the character that was begun, as bytes: the first bytes of its UTF-8, or a backslash.
    """

    def __init__(self, text: str, begun: bytes) -> None:
        self.text, self.begun = text, begun

    def rest(self, whole: str) -> bytes | None:
        """Give what is missing of a text, its quote included; ``None`` where it does not begin like this one."""
        if not whole.startswith(self.text):
            return None
        missing = whole[len(self.text) :]
        if not self.begun:
            return _json(missing) + b'"'
        char, more = missing[:1], missing[1:]
        spelled = _json(char)
        if self.begun == b"\\":
            spelled = b"\\" + _ESCAPES[char].encode() if char in _ESCAPES else b""
        if not spelled.startswith(self.begun):
            return None
        return spelled[len(self.begun) :] + _json(more) + b'"'

    def next_characters(self) -> str:
        """Give the characters that may follow, as a class of a regular expression; empty: any."""
        if not self.begun:
            return ""
        if self.begun == b"\\":
            return "[" + "".join(map(_literal, _ESCAPES)) + "]"
        length = 2 if self.begun[0] < 0xE0 else 3 if self.begun[0] < 0xF0 else 4
        bits = self.begun[0] & (0xFF >> (length + 1))
        for byte in self.begun[1:]:
            bits = bits << 6 | byte & 0x3F
        missing = 6 * (length - len(self.begun))
        low, high = bits << missing, min((bits + 1 << missing) - 1, _LAST)
        return _class(max(low, 0x80), high)


def _opened(written: bytes) -> _Opened | None:
    """Read the open text at the end of JSON; ``None`` inside of an escape by number."""
    start = 0
    for quote in re.finditer(rb'"(?:[^"\\]|\\.)*("|$|\\$)', written, re.DOTALL):
        if not quote.group(1).startswith(b'"'):
            start = quote.start()
    inside = written[start + 1 :]
    begun = b""
    if re.search(rb"(?<!\\)(?:\\\\)*\\$", inside):
        begun = b"\\"
    elif (tail := re.search(rb"[\xc0-\xff][\x80-\xbf]*\Z", inside)) and _is_partial(tail.group()):
        begun = tail.group()
    try:
        text = json.loads(b'"' + inside[: len(inside) - len(begun)] + b'"')
    except ValueError:
        return None
    return _Opened(text, begun)


def _is_partial(data: bytes) -> bool:
    return len(data) < (2 if data[0] < 0xE0 else 3 if data[0] < 0xF0 else 4)


def _json(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "replace")


def _nodes(schema: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(schema, Mapping):
        yield schema
        for value in schema.values():
            yield from _nodes(value)
    elif isinstance(schema, list | tuple):
        for value in schema:
            yield from _nodes(value)


def _fixed_texts(schema: Mapping[str, Any]) -> Iterator[str]:
    """Give all texts that stand in the schema: names of properties and allowed values, whole objects' too."""
    for node in _nodes(schema):
        for key, value in node.items():
            yield key
            yield from (item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str))


def _rules(schema: Mapping[str, Any]) -> Iterator[str]:
    """Give the schemas that a text may have to fit, as JSON: each node's, and those of ``allOf`` together."""
    defs = schema.get("$defs", {})
    for node in _nodes(schema):
        for pattern in node.get("patternProperties") or ():
            yield json.dumps([{"type": "string", "pattern": pattern}])
        parts = _parts(node, defs, 0)
        if parts:
            yield json.dumps(parts)


def _parts(node: Any, defs: Mapping[str, Any], depth: int) -> list[dict[str, Any]]:
    """Give what a node asks of a text, one part a schema."""
    if not isinstance(node, Mapping) or depth > 8:
        return []
    if isinstance(node.get("$ref"), str):
        return _parts(defs.get(node["$ref"].rpartition("/")[2]), defs, depth + 1)
    if isinstance(node.get("allOf"), list):
        return [part for item in node["allOf"] for part in _parts(item, defs, depth + 1)]
    if node.get("type") != "string":
        return []
    return [{"type": "string", **{key: node[key] for key in _STRING_KEYS if key in node}}]


def _shortest(rule: str, opened: _Opened, anything: str) -> str | None:
    """Find a shortest text that a rule takes and that begins like the open one."""
    parts = json.loads(rule)
    begin, first = "".join(map(_literal, opened.text)), opened.next_characters()
    room = 1 if first else 0

    def some(tail: str) -> bool:
        return _fits_some(rule, f"^{begin}{tail}$")

    if all(set(part) <= {"type", "minLength", "maxLength"} for part in parts) and not first:  # plain counting
        missing = max((part.get("minLength", 0) for part in parts), default=0) - len(opened.text)
        return opened.text + "a" * missing if missing <= MAX_CHARACTERS else None
    most = 1
    while not some(f"{first}{anything}{{0,{most}}}"):
        most *= 2
        if most > MAX_CHARACTERS:
            return None
    least = _lowest(0, most, lambda count: some(f"{first}{anything}{{0,{count}}}"))
    text = ""
    for left in range(least + room - 1, -1, -1):
        behind = f"{anything}{{{left}}}"
        inside = first if left == least + room - 1 and first else anything
        char = _character(lambda low, high: some(_both(inside, low, high) + behind))  # noqa: B023  (used at once)
        if char is None:
            return None
        text += char
        begin += _literal(char)
    return opened.text + text


def _both(inside: str, low: int, high: int) -> str:
    """Give a class of the characters of a range that are in another class too."""
    wanted = _class(low, high)
    return wanted if inside == ANY_CHARACTER else f"[{inside}&&{wanted}]"


def _character(some: Callable[[int, int], bool]) -> str | None:
    """Find a character by halving ranges."""
    for low, high in _RANGES:
        if some(low, high):
            return chr(_lowest(low, high, lambda middle, low=low: some(low, middle)))  # type: ignore[misc]
    return None


def _lowest(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """Give the lowest number from which on something holds; it holds for ``high``."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


@lru_cache(maxsize=1024)
def _fits_some(rule: str, pattern: str) -> bool:
    """Say whether some text fits a rule and a pattern; no where the engine cannot tell."""
    matchers = engine().LLMatcher
    schema = {"allOf": [*json.loads(rule), {"type": "string", "pattern": pattern}]}
    return not matchers.validate_grammar(matchers.grammar_from_json_schema(json.dumps(schema)))


def _literal(char: str) -> str:
    return char if char.isascii() and char.isalnum() else f"\\u{{{ord(char):x}}}"


def _class(low: int, high: int) -> str:
    return f"[\\u{{{low:x}}}-\\u{{{high:x}}}]"
