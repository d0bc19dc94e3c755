"""Encoding tools against published examples, the standard library and their own inverse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolscaler.starter.tools import encodings as tools

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


@given(TEXT)
@pytest.mark.parametrize(
    "tool",
    [tools.base64_text, tools.hex_text, tools.url_percent_encoding, tools.html_entities, tools.json_string_escape],
)
def test_decoding_undoes_encoding(tool, text):
    assert tool(tool(text), "decode") == text


@given(TEXT.filter(bool))
def test_binary_round_trip(text):
    assert tools.binary_text(tools.binary_text(text), "decode") == text


@pytest.mark.parametrize(
    "tool",
    [
        tools.base64_text,
        tools.hex_text,
        tools.url_percent_encoding,
        tools.html_entities,
        tools.morse_code,
        tools.json_string_escape,
        tools.punycode_domain,
        tools.binary_text,
    ],
)
def test_an_unknown_direction_is_refused(tool):
    with pytest.raises(ValueError, match="direction"):
        tool("abc", "sideways")


@pytest.mark.parametrize(
    ("plain", "coded"), [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
)
def test_base64_test_vectors_of_rfc_4648(plain, coded):
    assert tools.base64_text(plain) == coded
    assert tools.base64_text(coded, "decode") == plain
    assert tools.base64_text(coded.rstrip("="), "decode") == plain


def test_base64_alphabets():
    assert tools.base64_text("??>>") == "Pz8+Pg=="
    assert tools.base64_text("??>>", url_safe=True) == "Pz8-Pg=="
    assert tools.base64_text("Pz8-Pg", "decode", url_safe=True) == "??>>"
    assert tools.base64_text("aGVs\nbG8=", "decode") == "hello"


@pytest.mark.parametrize("text", ["a", "ab$d", "/w==", "Pz8-Pg=="])
def test_base64_refuses(text):
    with pytest.raises(ValueError, match="text"):
        tools.base64_text(text, "decode")


def test_hex_text():
    assert tools.hex_text("Hi") == "4869"
    assert tools.hex_text("Hi", separator=" ") == "48 69"
    assert tools.hex_text("é") == "c3a9"
    assert tools.hex_text("0x48 0x69", "decode") == "Hi"
    assert tools.hex_text("48:69", "decode") == "Hi"
    assert tools.hex_text(r"\x68\x65", "decode") == "he"


@pytest.mark.parametrize("text", ["4", "zz", "ff"])
def test_hex_text_refuses(text):
    with pytest.raises(ValueError, match="text"):
        tools.hex_text(text, "decode")


def test_url_percent_encoding():
    assert tools.url_percent_encoding("a b&c=d/é") == "a%20b%26c%3Dd%2F%C3%A9"
    assert tools.url_percent_encoding("salt & pepper", plus_for_space=True) == "salt+%26+pepper"
    assert tools.url_percent_encoding("salt+%26+pepper", "decode", plus_for_space=True) == "salt & pepper"
    assert tools.url_percent_encoding("1+1", "decode") == "1+1"
    assert tools.url_percent_encoding("safe-._~") == "safe-._~"


@pytest.mark.parametrize("text", ["100%", "%zz", "%ff"])
def test_url_percent_encoding_refuses(text):
    with pytest.raises(ValueError, match="text"):
        tools.url_percent_encoding(text, "decode")


def test_html_entities():
    assert tools.html_entities('<a href="x">R&D</a>') == "&lt;a href=&quot;x&quot;&gt;R&amp;D&lt;/a&gt;"
    assert tools.html_entities("caf&eacute; &copy; &#8364; &#x41;", "decode") == "café © € A"
    assert tools.html_entities("plain") == "plain"


def test_morse_code():
    assert tools.morse_code("SOS") == "... --- ..."
    assert tools.morse_code("Hi you") == ".... .. / -.-- --- ..-"
    assert tools.morse_code("café") == "-.-. .- ..-. ."
    assert tools.morse_code("... --- ... / .---- ----.", "decode") == "SOS 19"
    assert tools.morse_code("–· · | −", "decode") == "NE T"
    assert tools.morse_code("") == ""


@given(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,?!/@'():=+-\" ", max_size=40))
def test_morse_round_trip(text):
    assert tools.morse_code(tools.morse_code(text), "decode") == " ".join(text.split())


@pytest.mark.parametrize(("text", "direction"), [("50 €", "encode"), ("........", "decode"), ("hello", "decode")])
def test_morse_code_refuses(text, direction):
    with pytest.raises(ValueError, match="text"):
        tools.morse_code(text, direction)


def test_caesar_cipher():
    assert tools.caesar_cipher("Hello, World!") == "Uryyb, Jbeyq!"
    assert tools.caesar_cipher("XYZ abc", 3) == "ABC def"
    assert tools.caesar_cipher("IBM", -1) == "HAL"
    assert tools.caesar_cipher("same", 26) == "same"


@given(TEXT, st.integers(-100, 100))
def test_caesar_cipher_is_undone_by_the_negative_shift(text, shift):
    assert tools.caesar_cipher(tools.caesar_cipher(text, shift), -shift) == text


@pytest.mark.parametrize(
    ("number", "numeral"), [(1, "I"), (14, "XIV"), (1066, "MLXVI"), (1994, "MCMXCIV"), (2024, "MMXXIV"), (49, "XLIX")]
)
def test_roman_numeral(number, numeral):
    assert tools.roman_numeral(number) == numeral
    assert tools.roman_numeral(str(number)) == numeral
    assert tools.roman_numeral(numeral.lower()) == number


def test_roman_numeral_round_trip_over_the_whole_range():
    numerals = [tools.roman_numeral(number) for number in range(1, 4000)]
    assert len(set(numerals)) == 3999
    assert [tools.roman_numeral(numeral) for numeral in numerals] == list(range(1, 4000))


@pytest.mark.parametrize("value", [0, -5, 4000, "0", "IIII", "IC", "VX", "MMMM", "ABC", "", True, 1.5, None])
def test_roman_numeral_refuses(value):
    with pytest.raises(ValueError):
        tools.roman_numeral(value)


@pytest.mark.parametrize(
    ("text", "algorithm", "digest"),
    [
        ("", "md5", "d41d8cd98f00b204e9800998ecf8427e"),
        ("The quick brown fox jumps over the lazy dog", "md5", "9e107d9d372bb6826bd81d3542a419d6"),
        ("abc", "sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
        ("abc", "sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("123456789", "crc32", "cbf43926"),
    ],
)
def test_hash_text_published_digests(text, algorithm, digest):
    assert tools.hash_text(text, algorithm) == digest


def test_hash_text_of_sha512_and_unknown_algorithms():
    assert tools.hash_text("abc", "sha512").startswith("ddaf35a193617abacc417349ae204131")
    assert len(tools.hash_text("é", "sha512")) == 128
    with pytest.raises(ValueError, match="algorithm"):
        tools.hash_text("abc", "rot13")


def test_json_string_escape():
    assert tools.json_string_escape('say "hi"\n\tnow\\') == r'"say \"hi\"\n\tnow\\"'
    assert tools.json_string_escape("é") == '"é"'
    assert tools.json_string_escape("é", ascii_only=True) == r'"\u00e9"'
    assert tools.json_string_escape(r"line\nbreak", "decode") == "line\nbreak"
    assert tools.json_string_escape(r'"\u00e9"', "decode") == "é"


@pytest.mark.parametrize("text", ['a"b', r"\q", '"open', "line\nbreak"])
def test_json_string_escape_refuses(text):
    with pytest.raises(ValueError, match="text"):
        tools.json_string_escape(text, "decode")


@pytest.mark.parametrize(
    ("name", "ascii_form"),
    [
        ("münchen.de", "xn--mnchen-3ya.de"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("例え.jp", "xn--r8jz45g.jp"),
        ("plain.org", "plain.org"),
    ],
)
def test_punycode_domain(name, ascii_form):
    assert tools.punycode_domain(name) == ascii_form
    assert tools.punycode_domain(ascii_form, "decode") == name


@pytest.mark.parametrize(
    ("name", "direction"),
    [("", "encode"), ("a..b", "encode"), ("two words.de", "encode"), ("ü" * 70 + ".de", "encode"), ("é.de", "decode")],
)
def test_punycode_domain_refuses(name, direction):
    with pytest.raises(ValueError, match="domain"):
        tools.punycode_domain(name, direction)


def test_binary_text():
    assert tools.binary_text("A") == "01000001"
    assert tools.binary_text("Hi") == "01001000 01101001"
    assert tools.binary_text("0100100001101001", "decode") == "Hi"
    assert tools.binary_text("") == ""


@pytest.mark.parametrize("text", ["", "0101", "01020304", "11111111"])
def test_binary_text_refuses(text):
    with pytest.raises(ValueError, match="text"):
        tools.binary_text(text, "decode")
