"""Encoding tools: text goes in, the same text in another notation comes out, and back."""

from __future__ import annotations

import base64
import binascii
import hashlib
import html
import json
import re
import string
import unicodedata
import urllib.parse
import zlib
from typing import Literal

from toolscaler.starter.registry import starter_tool

Direction = Literal["encode", "decode"]
HashAlgorithm = Literal["md5", "sha1", "sha256", "sha512", "crc32"]

_MORSE = {
    "A": ".-", "B": "-...", "C": "-.-.", "D": "-..", "E": ".", "F": "..-.", "G": "--.", "H": "....", "I": "..",
    "J": ".---", "K": "-.-", "L": ".-..", "M": "--", "N": "-.", "O": "---", "P": ".--.", "Q": "--.-", "R": ".-.",
    "S": "...", "T": "-", "U": "..-", "V": "...-", "W": ".--", "X": "-..-", "Y": "-.--", "Z": "--..",
    "0": "-----", "1": ".----", "2": "..---", "3": "...--", "4": "....-", "5": ".....", "6": "-....", "7": "--...",
    "8": "---..", "9": "----.", ".": ".-.-.-", ",": "--..--", "?": "..--..", "!": "-.-.--", "/": "-..-.", "@": ".--.-.",
    "'": ".----.", "(": "-.--.", ")": "-.--.-", ":": "---...", "=": "-...-", "+": ".-.-.", "-": "-....-", '"': ".-..-.",
}  # fmt: skip
_FROM_MORSE = {code: sign for sign, code in _MORSE.items()}
_ROMAN = (
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"),
    (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip


def _is_encode(direction: str) -> bool:
    if direction not in ("encode", "decode"):
        raise ValueError(f"direction: expected encode or decode, got {direction!r}")
    return direction == "encode"


def _utf8(data: bytes, notation: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"text: this {notation} holds bytes that are no UTF-8 text ({error})") from error


@starter_tool("Encodings")
def base64_text(text: str, direction: Direction = "encode", url_safe: bool = False) -> str:
    """Encode text as Base64, or decode a Base64 string back to readable text.

    Base64 appears in basic-auth headers, email attachments, data URIs, secrets and tokens: letters, digits, + and /,
    often with == at the end.

    Args:
        text: The plain text (encoded as UTF-8), or the Base64 string to decode.
        direction: ``encode`` to make Base64, ``decode`` to read it.
        url_safe: Use - and _ instead of + and /.

    Returns:
        The Base64 string, or the decoded text.

    Raises:
        ValueError: The string to decode is no Base64, or its bytes are no UTF-8 text.
    """
    if _is_encode(direction):
        data = text.encode("utf-8")
        return (base64.urlsafe_b64encode(data) if url_safe else base64.b64encode(data)).decode("ascii")
    compact = "".join(text.split())
    compact += "=" * (-len(compact) % 4)
    try:
        data = base64.b64decode(compact, altchars=b"-_" if url_safe else None, validate=True)
    except ValueError as error:
        raise ValueError(f"text: expected Base64, got {text!r} ({error})") from error
    return _utf8(data, "Base64")


@starter_tool("Encodings")
def hex_text(text: str, direction: Direction = "encode", separator: str = "") -> str:
    """Write text as hexadecimal bytes, or read a hex dump back as text.

    Two hex digits (0-9, a-f) stand for one byte: "Hi" is 48 69. Use it for hex strings such as 68656c6c6f from memory
    dumps and network packets.

    Args:
        text: The plain text, or the hex string to decode; spaces, colons and 0x prefixes are skipped there.
        direction: ``encode`` to make hex, ``decode`` to read it.
        separator: What to put between the bytes when encoding, for example a space or a colon.

    Returns:
        The hex string in small letters, or the decoded text.

    Raises:
        ValueError: The string to decode is no hex, or its bytes are no UTF-8 text.
    """
    if _is_encode(direction):
        return separator.join(f"{byte:02x}" for byte in text.encode("utf-8"))
    digits = re.sub(r"0[xX]|\\x|[\s:,-]", "", text)
    try:
        return _utf8(binascii.unhexlify(digits), "hex string")
    except binascii.Error as error:
        raise ValueError(f"text: expected pairs of hex digits, got {text!r} ({error})") from error


@starter_tool("Encodings")
def url_percent_encoding(text: str, direction: Direction = "encode", plus_for_space: bool = False) -> str:
    """Percent-encode text for a URL or query string, or decode such a string (%20 becomes a space).

    Makes spaces, ampersands, accents and other special characters safe inside links, query parameters and form data,
    and makes links full of %-signs readable.

    Args:
        text: The raw value, or the percent-encoded string to decode.
        direction: ``encode`` to escape, ``decode`` to unescape.
        plus_for_space: Write (and read) a space as + as web forms do.

    Returns:
        The escaped or unescaped text. Letters, digits and ``-._~`` are never escaped.

    Raises:
        ValueError: The string to decode has a stray %, or its bytes are no UTF-8 text.
    """
    if _is_encode(direction):
        return urllib.parse.quote_plus(text) if plus_for_space else urllib.parse.quote(text, safe="")
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError(f"text: expected two hex digits after each %, got {text!r}")
    data = urllib.parse.unquote_to_bytes(text.replace("+", " ") if plus_for_space else text)
    return _utf8(data, "percent-encoded string")


@starter_tool("Encodings")
def html_entities(text: str, direction: Direction = "encode") -> str:
    """Escape text for HTML as entities, or turn HTML entities back into characters.

    Writes <, >, & and quotes as &lt;, &gt;, &amp; and &quot; so that a web page shows them instead of reading them as
    tags; decodes names and numbers such as &eacute;, &copy; and &#8364;.

    Args:
        text: The plain text, or the text with entities to decode.
        direction: ``encode`` to escape, ``decode`` to unescape.

    Returns:
        The escaped or unescaped text.

    Raises:
        ValueError: An unknown direction.
    """
    return html.escape(text, quote=True) if _is_encode(direction) else html.unescape(text)


@starter_tool("Encodings")
def morse_code(text: str, direction: Direction = "encode") -> str:
    """Translate text to Morse code (dots and dashes), or Morse code to letters.

    For radio, telegraph, flashlight or tapped messages such as ... --- ... for SOS.

    Args:
        text: Letters, digits and simple punctuation; or Morse code with a space between letters and a slash between
            words.
        direction: ``encode`` to make Morse code, ``decode`` to read it.

    Returns:
        Morse code with a space between letters and " / " between words, or the message in capitals.

    Raises:
        ValueError: A character has no Morse code, or a group of signs is no letter.
    """
    if _is_encode(direction):
        plain = unicodedata.normalize("NFKD", text).upper()
        words = ["".join(char for char in word if not unicodedata.combining(char)) for word in plain.split()]
        unknown = sorted({char for word in words for char in word if char not in _MORSE})
        if unknown:
            raise ValueError(f"text: no Morse code for {' '.join(unknown)!r}")
        return " / ".join(" ".join(_MORSE[char] for char in word) for word in words)
    signs = text.translate(str.maketrans("·•−–—_|", "..----/"))
    groups = [word.split() for word in signs.split("/") if word.strip()]
    unknown = sorted({group for word in groups for group in word if group not in _FROM_MORSE})
    if unknown:
        raise ValueError(f"text: no letter for {unknown[0]!r}; expected dots and dashes with spaces between letters")
    return " ".join("".join(_FROM_MORSE[group] for group in word) for word in groups)


@starter_tool("Encodings")
def caesar_cipher(text: str, shift: int = 13) -> str:
    """Shift each letter along the alphabet by a fixed number of places: Caesar cipher, ROT13.

    A simple secret writing for puzzles, spoilers and geocaching hints. Shift 3 turns A into D; the negative shift turns
    it back; shift 13 (ROT13) undoes itself. Digits, spaces and punctuation stay.

    Args:
        text: The message to encrypt or decrypt.
        shift: Places to move forward in the alphabet; negative to decrypt. Default 13.

    Returns:
        The shifted message, capitals kept.
    """
    places = shift % 26
    lower, upper = string.ascii_lowercase, string.ascii_uppercase
    table = str.maketrans(lower + upper, lower[places:] + lower[:places] + upper[places:] + upper[:places])
    return text.translate(table)


@starter_tool("Encodings")
def roman_numeral(value: int | str) -> int | str:
    """Write a number as a Roman numeral, or read a Roman numeral as a number.

    For clock faces, chapters, monarchs, film credits and monuments: 2024 is MMXXIV, XIV is 14. The direction follows
    from the value.

    Args:
        value: A whole number from 1 to 3999, or a Roman numeral of the letters I, V, X, L, C, D and M.

    Returns:
        The Roman numeral of a number, or the number of a Roman numeral.

    Raises:
        ValueError: A number out of range, or letters that form no proper Roman numeral.
    """
    if isinstance(value, str) and not re.fullmatch(r"\s*[+-]?[0-9]+\s*", value):
        letters = value.strip().upper()
        total, rest = 0, letters
        for size, sign in _ROMAN:
            while rest.startswith(sign):
                total, rest = total + size, rest[len(sign) :]
        if rest or not letters or _to_roman(total) != letters:
            raise ValueError(f"value: {value!r} is no proper Roman numeral")
        return total
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"value: expected a whole number or a Roman numeral, got {value!r}")
    return _to_roman(int(value))


def _to_roman(number: int) -> str:
    if not 1 <= number <= 3999:
        raise ValueError(f"value: Roman numerals go from 1 to 3999, got {number}")
    letters = ""
    for size, sign in _ROMAN:
        count, number = divmod(number, size)
        letters += sign * count
    return letters


@starter_tool("Encodings")
def hash_text(text: str, algorithm: HashAlgorithm = "sha256") -> str:
    """Compute the hash (checksum, digest, fingerprint) of a text with MD5, SHA-1, SHA-256, SHA-512 or CRC-32.

    The same text always has the same fingerprint, so two copies can be compared or a download verified; it cannot be
    turned back.

    Args:
        text: The text, hashed as UTF-8.
        algorithm: Which hash function. MD5, SHA-1 and CRC-32 are unfit for security.

    Returns:
        The digest in small hex digits.

    Raises:
        ValueError: An unknown algorithm.
    """
    data = text.encode("utf-8")
    if algorithm == "crc32":
        return f"{zlib.crc32(data):08x}"
    if algorithm not in ("md5", "sha1", "sha256", "sha512"):
        raise ValueError(f"algorithm: expected md5, sha1, sha256, sha512 or crc32, got {algorithm!r}")
    return hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()


@starter_tool("Encodings")
def json_string_escape(text: str, direction: Direction = "encode", ascii_only: bool = False) -> str:
    r"""Escape text as a JSON string literal, or unescape a JSON string.

    Puts backslashes before quotes and writes line breaks as \n and tabs as \t, so that the text can be pasted as a
    value into a JSON document or payload.

    Args:
        text: The raw text; or the JSON string to unescape, with or without its outer double quotes.
        direction: ``encode`` to escape, ``decode`` to unescape.
        ascii_only: Write characters beyond ASCII as \uXXXX when escaping.

    Returns:
        The JSON string with its double quotes, or the raw text.

    Raises:
        ValueError: The string to unescape is no valid JSON string.
    """
    if _is_encode(direction):
        return json.dumps(text, ensure_ascii=ascii_only)
    literal = text.strip()
    if not (len(literal) >= 2 and literal.startswith('"') and literal.endswith('"')):
        literal = f'"{text}"'
    try:
        value = json.loads(literal)
    except json.JSONDecodeError as error:
        raise ValueError(f"text: no valid JSON string ({error})") from error
    if not isinstance(value, str):
        raise ValueError(f"text: expected a JSON string, got {text!r}")
    return value


@starter_tool("Encodings")
def punycode_domain(domain: str, direction: Direction = "encode") -> str:
    """Convert an internationalized domain name to its ASCII form (Punycode, xn--), or back to Unicode.

    Domain names with umlauts, accents or other scripts, such as münchen.de, travel through DNS as xn--mnchen-3ya.de.

    Args:
        domain: Domain name with non-English characters, or one with xn-- labels to decode.
        direction: ``encode`` for the ASCII form, ``decode`` for the readable form.

    Returns:
        The domain name in the other form.

    Raises:
        ValueError: The name is empty, has an empty or overlong label, or holds invalid Punycode.
    """
    name = domain.strip()
    encode = _is_encode(direction)
    if not name or " " in name:
        raise ValueError(f"domain: expected a domain name, got {domain!r}")
    try:
        return name.encode("idna").decode("ascii") if encode else name.encode("ascii").decode("idna")
    except UnicodeError as error:
        raise ValueError(f"domain: cannot {direction} {domain!r} ({error})") from error


@starter_tool("Encodings")
def binary_text(text: str, direction: Direction = "encode") -> str:
    """Write text as binary (zeros and ones, 8 bits for each byte), or read such bits back as text.

    Spells a word the way a computer stores it: "A" is 01000001. For messages hidden in rows of 0 and 1.

    Args:
        text: The plain text (encoded as UTF-8), or groups of zeros and ones to decode; spaces there do not matter.
        direction: ``encode`` to make bits, ``decode`` to read them.

    Returns:
        Groups of eight bits with spaces between them, or the decoded text.

    Raises:
        ValueError: The bits to decode hold other signs, are no whole bytes, or are no UTF-8 text.
    """
    if _is_encode(direction):
        return " ".join(f"{byte:08b}" for byte in text.encode("utf-8"))
    bits = "".join(text.split())
    if not bits or set(bits) - {"0", "1"} or len(bits) % 8:
        raise ValueError(f"text: expected zeros and ones in groups of eight, got {text!r}")
    return _utf8(bytes(int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)), "binary string")
