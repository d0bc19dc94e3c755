"""Mutations of files that know their structure: JSON by nodes, safetensors by header and data, anything by bytes."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        3,
        255,
        2**31 - 1,
        2**31,
        2**53,
        2**63,
        10**12,
        10**30,
        -(2**63),
        1.5,
        1e308,
        0.1,
    ),
    *("", "x", "../../etc/passwd", "\u0000", "\ud800", "a" * 5000, "1", "F32", "{query}", "<a_1>", "\n\r\u2028"),
    *([], {}, [[]], [None], {"": None}, [0] * 300, ["x"] * 50, [[1, 2], [3]]),
)
_NAMES = ("format_version", "more", "", "__class__", "__metadata__", "files", "auto_map", "tools", "\u202e", "shape")


def mutate(data: bytes, kind: str, draw: random.Random) -> bytes:
    """Change a file in one to three places; ``kind`` is ``json``, ``lines`` or ``tensors``."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        try:
            structured = {"json": _mutate_json, "lines": _mutate_lines, "tensors": _mutate_tensors}[kind]
            data = _mutate_bytes(data, draw) if draw.random() < 0.25 else structured(data, draw)
        except (ValueError, LookupError, struct.error, TypeError, AttributeError, ArithmeticError, RecursionError):
            data = _mutate_bytes(data, draw)  # not parsable any more
    return data


def _mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(data) + 1)
    match draw.randrange(8):
        case 0:
            return data[:place]
        case 1:
            return data[:place] + bytes([draw.randrange(256)]) + data[place + 1 :]
        case 2:
            return data[:place] + draw.randbytes(draw.choice((1, 2, 8, 100))) + data[place:]
        case 3:
            return data[:place] + data[place + draw.choice((1, 2, 8, 100)) :]
        case 4:
            return data + draw.choice((b"\0", b" ", b"}", b"\n{}", data[:64]))
        case 5:
            return draw.choice((b"", b"[" * 100_000, b'{"a":' * 30_000, b"null", b"1" * 5000, b"\xef\xbb\xbf" + data))
        case 6:
            stop = min(len(data), place + draw.choice((4, 16, 64)))
            return data[:place] + data[place:stop][::-1] + data[stop:]
        case _:
            return data[:place] + struct.pack("<Q", draw.choice((0, 1, 2**31, 2**63, 2**64 - 1))) + data[place + 8 :]


def _nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from _nodes(child, (*path, key))


def _mutate_json(data: bytes, draw: random.Random) -> bytes:
    value = json.loads(data)
    value = change(value, draw)
    text = json.dumps(value, ensure_ascii=draw.random() < 0.5)
    if draw.random() < 0.1 and text.startswith("{") and len(text) > 2:  # a key twice
        key = draw.choice(list(value)) if value else "a"
        text = "{" + json.dumps(key) + ": " + json.dumps(draw.choice(_VALUES)) + ", " + text[1:]
    if draw.random() < 0.05:
        text = text.replace(draw.choice("0123456789"), draw.choice(("NaN", "Infinity", "1e999", "-0", "1" * 5000)), 1)
    return text.encode("utf-8", "surrogatepass")


def change(value: Any, draw: random.Random) -> Any:
    """Change one node of a JSON value: at the top as likely as in the thicket below."""
    paths = list(_nodes(value))
    shallow = [path for path in paths if len(path) <= 2]
    path = draw.choice(shallow if draw.random() < 0.5 else paths)
    if not path:
        return _other(value, draw)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    key = path[-1]
    match draw.randrange(6):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[draw.choice(_NAMES)] = copy.deepcopy(draw.choice(_VALUES))
        case 1:
            parent.insert(draw.randrange(len(parent) + 1), copy.deepcopy(draw.choice(_VALUES)))
        case 2 if isinstance(parent, dict):
            parent[draw.choice((*_NAMES, str(key) + "x", str(key).upper()))] = parent.pop(key)
        case 2:
            draw.shuffle(parent)
        case 3:
            other = value
            for step in draw.choice(paths):
                other = other[step]
            parent[key] = copy.deepcopy(other)
        case _:
            parent[key] = _other(parent[key], draw)
    return value


def _other(value: Any, draw: random.Random) -> Any:
    """Give a value of the same kind a little off, or one of another kind."""
    if isinstance(value, bool) or draw.random() < 0.4:
        return copy.deepcopy(draw.choice(_VALUES))
    if isinstance(value, int | float):
        return draw.choice((value + 1, value - 1, -value, value * 2, value * 10**9, float(value)))
    if isinstance(value, str):
        return draw.choice((value[:-1], value + "x", value[::-1], value.upper(), value * 50, "../" + value))
    if isinstance(value, list):
        return draw.choice((value[:-1], value[::-1], value * 2, [*value, *value[:1]], value[1:], [value]))
    return copy.deepcopy(draw.choice(_VALUES))


def _mutate_lines(data: bytes, draw: random.Random) -> bytes:
    lines = data.split(b"\n")
    place = draw.randrange(len(lines))
    lines[place] = _mutate_json(lines[place], draw)
    return b"\n".join(lines)


def _mutate_tensors(data: bytes, draw: random.Random) -> bytes:
    length = struct.unpack("<Q", data[:8])[0]
    header, body = data[8 : 8 + length], data[8 + length :]
    match draw.randrange(8):
        case 0:
            return struct.pack("<Q", draw.choice((0, 1, length - 1, length + 1, 2**40, 2**63))) + header + body
        case 1:
            return data[: 8 + length] + _mutate_bytes(body, draw)
        case 2 | 3 | 4:
            return data[: 8 + length] + _change_numbers(json.loads(header), body, draw)
        case 5:
            table = _reshape(json.loads(header), draw)
        case _:
            table = change(json.loads(header), draw)
    text = json.dumps(table).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def _change_numbers(table: dict[str, Any], body: bytes, draw: random.Random) -> bytes:
    """Put a hostile number into a tensor."""
    name = draw.choice([name for name in table if name != "__metadata__"])
    first, stop = table[name]["data_offsets"]
    size = {"I64": 8, "F64": 8, "I32": 4, "U32": 4, "F32": 4, "U16": 2, "F16": 2, "BF16": 2}.get(
        table[name]["dtype"], 1
    )
    place = first + size * draw.randrange(max(1, (stop - first) // size))
    number = draw.choice((0, 1, 2, 3, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1))
    nan = b"\x00\x00\xc0\x7f" if draw.random() < 0.3 else struct.pack("<Q", number)
    return body[:place] + nan[:size].ljust(size, b"\0") + body[place + size :]


def _reshape(table: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Change shapes or types so that the bytes still fit, swap tensors, or cut the last one."""
    names = [name for name in table if name != "__metadata__"]
    one, other = table[draw.choice(names)], table[draw.choice(names)]
    choices: list[Callable[[], Any]] = [
        lambda: one.update(shape=one["shape"][::-1]),
        lambda: one.update(shape=[1, *one["shape"]]),
        lambda: one.update(dtype={"F32": "I32", "I32": "F32", "I64": "F64", "U8": "I8", "U16": "F16"}[one["dtype"]]),
        lambda: one.update(other),
        lambda: (one["data_offsets"].__setitem__(1, one["data_offsets"][0]), one.update(shape=[0])),
        lambda: one.update(shape=[0, 2**40]),
    ]
    draw.choice(choices)()
    return table
