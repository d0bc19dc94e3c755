"""One-call task families about notations of text."""

from __future__ import annotations

import base64
import urllib.parse

from toolscaler.starter.tasks.draw import Draw
from toolscaler.starter.tasks.family import Values, call

_ROMAN = (
    "MMXXIV", "MCMXC", "XLII", "CDXLIV", "MDCLXVI", "LXXVII", "CCCIX", "MCDX", "XCIX", "DCC", "MMVI", "CLXI",
    "DXXXV", "MCMXIV", "LIX", "CXX",
)  # fmt: skip
_DOMAINS = (
    "münchen",
    "köln",
    "zürich",
    "görlitz",
    "bücher",
    "café",
    "señor",
    "forêt",
    "malmö",
    "ångström",
    "grün",
    "jalapeño",
)


def _morse_letters(d: Draw) -> Values:
    codes = {
        "S": "...",
        "O": "---",
        "T": "-",
        "E": ".",
        "A": ".-",
        "N": "-.",
        "I": "..",
        "M": "--",
        "R": ".-.",
        "D": "-..",
    }
    return {"text": " ".join(codes[letter] for letter in d.sample(sorted(codes), d.num(3, 5)))}


def _bits(d: Draw) -> Values:
    return {"text": " ".join(f"{ord(letter):08b}" for letter in d.word()[:3])}


FAMILIES = (
    call(
        "base64_text",
        lambda d: {"text": d.phrase()},
        ('Encode "{text}" as Base64.', 'I need the Base64 form of "{text}".'),
        ('Write "{text}" in Base64 for my header, please.',),
        "the Base64 of a text", "encode the text", "The Base64 is {ref}",
        fixed={"direction": "encode"}, name="base64_encode",
    ),
    call(
        "base64_text",
        lambda d: {"text": base64.b64encode(d.phrase().encode()).decode()},
        ('Decode the Base64 string "{text}".', 'What does the Base64 "{text}" say?'),
        ('A token reads "{text}" in Base64. Which plain text is behind it?',),
        "the text behind a Base64 string", "decode it", "It says: {ref}",
        fixed={"direction": "decode"}, name="base64_decode",
    ),
    call(
        "hex_text",
        lambda d: {"text": d.word()},
        ('Write "{text}" as hexadecimal bytes.', 'Give me the hex bytes of "{text}".'),
        ('How does "{text}" look as a hex string?',),
        "the hex bytes of a text", "encode the text as hex", "The hex string is {ref}",
        fixed={"direction": "encode"}, name="hex_encode",
    ),
    call(
        "hex_text",
        lambda d: {"text": d.phrase().encode().hex()},
        ('Read the hex dump "{text}" as text.', 'Which text is "{text}" in hex?'),
        ('The packet holds the hex bytes "{text}". What do they spell?',),
        "the text behind hex bytes", "decode the hex", "It says: {ref}",
        fixed={"direction": "decode"}, name="hex_decode",
    ),
    call(
        "url_percent_encoding",
        lambda d: {"text": f"{d.word()} & {d.word()}"},
        ('Percent-encode "{text}" for a URL.', 'Make "{text}" safe for a query string.'),
        ('I want "{text}" inside a link. How must it be escaped?',),
        "a text that is safe in a URL", "percent-encode it", "Escaped it is {ref}",
        fixed={"direction": "encode"}, name="url_encode",
    ),
    call(
        "url_percent_encoding",
        lambda d: {"text": urllib.parse.quote(f"{d.phrase()}, {d.name()}", safe="")},
        ('Decode the URL text "{text}".', 'What does "{text}" mean without the percent signs?'),
        ('My link contains "{text}". Make it readable.',),
        "the readable form of a URL text", "decode the percent signs", "It reads: {ref}",
        fixed={"direction": "decode"}, name="url_decode",
    ),
    call(
        "html_entities",
        lambda d: {"text": f"{d.word()} {d.pick('<>&')} {d.word()}"},
        ('Escape "{text}" for HTML.', 'Write "{text}" with HTML entities.'),
        ('How do I put "{text}" into a web page so that it shows as is?',),
        "a text that is safe in HTML", "escape it as entities", "Escaped it is {ref}",
        fixed={"direction": "encode"}, name="html_encode",
    ),
    call(
        "html_entities",
        lambda d: {"text": f"{d.word()} {d.pick(('&lt;', '&gt;', '&amp;', '&copy;', '&euro;'))} {d.word()}"},
        ('Turn the HTML entities in "{text}" back into characters.', 'Unescape the HTML text "{text}".'),
        ('The page source says "{text}". What does the reader see?',),
        "the characters behind HTML entities", "unescape the text", "It reads: {ref}",
        fixed={"direction": "decode"}, name="html_decode",
    ),
    call(
        "morse_code",
        lambda d: {"text": d.word()},
        ('Write "{text}" in Morse code.', 'What is "{text}" in dots and dashes?'),
        ('I want to flash "{text}" with my torch. Which Morse signs are that?',),
        "the Morse code of a word", "translate the word to Morse", "In Morse it is {ref}",
        fixed={"direction": "encode"}, name="morse_encode",
    ),
    call(
        "morse_code",
        _morse_letters,
        ('What does the Morse code "{text}" mean?', 'Read the Morse signs "{text}".'),
        ('Somebody knocked "{text}" on the wall. Which letters are these?',),
        "the letters of a Morse code", "read the Morse code", "It means {ref}",
        fixed={"direction": "decode"}, name="morse_decode",
    ),
    call(
        "caesar_cipher",
        lambda d: {"text": d.phrase(), "shift": d.num(1, 12)},
        (
            'Shift the letters of "{text}" by {shift} places.',
            'Encrypt "{text}" with a Caesar cipher of shift {shift}.',
            'Caesar code, {shift} steps: "{text}"',
        ),
        ('For my puzzle "{text}" should be moved {shift} letters along the alphabet.',),
        "the text in a Caesar cipher", "shift its letters", "The secret text is: {ref}",
    ),
    call(
        "roman_numeral",
        lambda d: {"value": d.num(11, 3000)},
        ("Write {value} as a Roman numeral.", "How do the Romans write {value}?"),
        ("Which Roman letters stand for {value}?",),
        "a Roman numeral", "write the number in Roman letters", "It is {ref}.",
        name="roman_write",
    ),
    call(
        "roman_numeral",
        lambda d: {"value": d.pick(_ROMAN)},
        ("Which number is the Roman numeral {value}?", "Read {value} as a number."),
        ("The clock tower says {value}. What number is that?",),
        "the number of a Roman numeral", "read the Roman letters", "It is {ref}.",
        name="roman_read",
    ),
    call(
        "hash_text",
        lambda d: {"text": d.phrase(), "algorithm": d.pick(("crc32", "crc32", "md5"))},
        (
            'Compute the {algorithm} hash of "{text}".',
            'What is the {algorithm} checksum of "{text}"?',
            '{algorithm} of "{text}"',
        ),
        ('To compare two copies I need the {algorithm} fingerprint of "{text}".',),
        "the fingerprint of a text", "compute the hash", "The hash is {ref}",
    ),
    call(
        "json_string_escape",
        lambda d: {"text": f'{d.name()} said "{d.word()}"'},
        ("Escape this text as a JSON string: {text}", "Make a JSON string literal of: {text}"),
        ("This must go into a JSON payload as a value: {text}",),
        "a JSON string", "escape the text", "The JSON string is {ref}",
        fixed={"direction": "encode"}, name="json_escape",
    ),
    call(
        "json_string_escape",
        lambda d: {"text": f'{d.name()} said \\"{d.word()}\\"'},
        ("Unescape the JSON string: {text}", "What is the raw text of this JSON string: {text}"),
        ("A JSON file holds the escaped value: {text} Show it without the escapes.",),
        "the raw text of a JSON string", "unescape the text", "It reads: {ref}",
        fixed={"direction": "decode"}, name="json_unescape",
    ),
    call(
        "punycode_domain",
        lambda d: {"domain": f"{d.pick(_DOMAINS)}{d.pick(('', d.word()))}.{d.pick(('de', 'fr', 'eu', 'com', 'org'))}"},
        (
            "What is the ASCII form of the domain {domain}?",
            "Convert the domain name {domain} to Punycode.",
            "xn-- name of {domain}",
        ),
        ("DNS does not take {domain}. Under which ASCII name is it registered?",),
        "the ASCII form of a domain", "encode the domain", "The ASCII domain is {ref}",
        fixed={"direction": "encode"},
    ),
    call(
        "binary_text",
        lambda d: {"text": d.word()[:3]},
        ('Write "{text}" as zeros and ones.', 'What is "{text}" in binary, 8 bits a letter?'),
        ('How does a computer store "{text}" bit by bit?',),
        "the bits of a text", "write the text in binary", "The bits are {ref}",
        fixed={"direction": "encode"}, name="binary_encode",
    ),
    call(
        "binary_text",
        _bits,
        ('Read the bits "{text}" as text.', 'Which letters are "{text}"?'),
        ('A sticker shows "{text}". What word is hidden there?',),
        "the text behind bits", "read the bits", "It says: {ref}",
        fixed={"direction": "decode"}, name="binary_decode",
    ),
)  # fmt: skip
