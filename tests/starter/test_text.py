"""Text tools against hand counts, known words and slow twins."""

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.starter.tools import text as tools

WORDS = st.text("abc", max_size=7)


def test_count_words_by_hand():
    result = tools.count_words("Don't panic! It's a well-known towel.\nReally?")
    assert result == {
        "words": 7,
        "characters": 45,
        "characters_without_spaces": 39,
        "sentences": 3,
        "lines": 2,
    }


def test_count_words_of_nothing_and_of_a_fragment():
    assert tools.count_words("") == dict.fromkeys(
        ("words", "characters", "characters_without_spaces", "sentences", "lines"), 0
    )
    assert tools.count_words("no full stop")["sentences"] == 1
    assert tools.count_words("?!")["words"] == 0
    assert tools.count_words("Pi is 3.14 or so.")["sentences"] == 1


@given(st.lists(st.text("abcdefgh", min_size=1), max_size=20))
def test_count_words_equals_split(words):
    assert tools.count_words(" ".join(words))["words"] == len(words)


def test_most_frequent_words():
    song = "Row, row, row your boat gently down the stream"
    assert tools.most_frequent_words(song, 2) == [{"word": "row", "count": 3}, {"word": "boat", "count": 1}]
    assert tools.most_frequent_words("the cat and the hat", 3) == [
        {"word": "the", "count": 2},
        {"word": "and", "count": 1},
        {"word": "cat", "count": 1},
    ]
    assert tools.most_frequent_words("the cat and the hat", skip_common=True) == [
        {"word": "cat", "count": 1},
        {"word": "hat", "count": 1},
    ]
    assert tools.most_frequent_words("", 5) == []


@given(st.lists(st.sampled_from(["red", "green", "blue"]), max_size=30))
def test_most_frequent_words_counts_every_word(words):
    ranked = tools.most_frequent_words(" ".join(words), 3)
    assert {item["word"]: item["count"] for item in ranked} == {word: words.count(word) for word in set(words)}
    assert [item["count"] for item in ranked] == sorted((item["count"] for item in ranked), reverse=True)


def test_most_frequent_words_refuses_none():
    with pytest.raises(ValueError, match="top"):
        tools.most_frequent_words("a b", 0)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("upper", "IT'S A DOG. HERE, BOY!"),
        ("lower", "it's a dog. here, boy!"),
        ("title", "It's A Dog. Here, Boy!"),
        ("sentence", "It's a dog. Here, boy!"),
        ("swap", "IT'S a DOG. hERE, BOY!"),
    ],
)
def test_change_letter_case(case, expected):
    assert tools.change_letter_case("it's A dog. Here, boy!", case) == expected


def test_change_letter_case_refuses_another_case():
    with pytest.raises(ValueError, match="case"):
        tools.change_letter_case("x", "camel")


def test_sentence_case_skips_an_opening_quote():
    assert tools.change_letter_case('"STOP! NOW."', "sentence") == '"Stop! Now."'


def test_reverse_text():
    assert tools.reverse_text("stressed") == "desserts"
    assert tools.reverse_text("one two  three", "words") == "three two one"
    assert tools.reverse_text("") == ""
    assert tools.reverse_text("ae\u0301b") == "be\u0301a"
    with pytest.raises(ValueError, match="by"):
        tools.reverse_text("x", "lines")


@given(st.text(st.characters(max_codepoint=0x2FF)))
def test_reverse_text_undoes_itself(text):
    assert tools.reverse_text(text) == text[::-1]
    assert tools.reverse_text(tools.reverse_text(text)) == text


@pytest.mark.parametrize("text", ["Was it a car or a cat I saw?", "level", "12321", "Élu par cette crapule", "x"])
def test_palindromes(text):
    assert tools.check_palindrome(text) is True


@pytest.mark.parametrize("text", ["palindrome", "ab", "1231"])
def test_no_palindromes(text):
    assert tools.check_palindrome(text) is False


def test_check_palindrome_refuses_empty_text():
    with pytest.raises(ValueError, match="letter or digit"):
        tools.check_palindrome(" ... ")


@given(st.text("abcxyz", min_size=1))
def test_text_with_its_mirror_is_a_palindrome(text):
    assert tools.check_palindrome(text + tools.reverse_text(text))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("Listen", "Silent", True),
        ("dormitory", "Dirty room!", True),
        ("Tom Marvolo Riddle", "I am Lord Voldemort", True),
        ("apple", "papel", True),
        ("apple", "apples", False),
        ("aab", "abb", False),
        ("same", "Same", False),
    ],
)
def test_check_anagram(first, second, expected):
    assert tools.check_anagram(first, second) is expected
    assert tools.check_anagram(second, first) is expected


def test_check_anagram_refuses_empty_text():
    with pytest.raises(ValueError, match="letters in both"):
        tools.check_anagram("abc", "!")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("kitten", "sitting", 3), ("saturday", "sunday", 3), ("", "abc", 3), ("flaw", "lawn", 2), ("a", "A", 1)],
)
def test_edit_distance(first, second, expected):
    assert tools.edit_distance(first, second) == expected


@settings(max_examples=50)
@given(WORDS, WORDS)
def test_edit_distance_equals_the_recursive_definition(first, second):
    @cache
    def slow(i, j):
        if not i or not j:
            return i + j
        cost = first[i - 1] != second[j - 1]
        return min(slow(i - 1, j) + 1, slow(i, j - 1) + 1, slow(i - 1, j - 1) + cost)

    assert tools.edit_distance(first, second) == slow(len(first), len(second)) == tools.edit_distance(second, first)


def test_extract_email_addresses():
    text = (
        "Write to Ann <ann.lee@mail.example.org>, bob+news@example.com or BOB+news@example.com; "
        "not to @handle, a@b, or ..@x. (info@my-shop.co.uk)."
    )
    assert tools.extract_email_addresses(text) == [
        "ann.lee@mail.example.org",
        "bob+news@example.com",
        "info@my-shop.co.uk",
    ]
    assert tools.extract_email_addresses("nobody here") == []
    assert tools.extract_email_addresses("a@b.org, c@d.org, A@b.org") == ["a@b.org", "c@d.org"]
    assert tools.extract_email_addresses("one@example.com.") == ["one@example.com"]


@given(st.lists(st.from_regex(r"[a-z]{1,8}@[a-z]{1,8}\.(com|org)", fullmatch=True), max_size=5))
def test_extract_email_addresses_finds_every_address_once(addresses):
    found = tools.extract_email_addresses(" and ".join(addresses))
    assert found == list(dict.fromkeys(addresses))


def test_wrap_paragraph():
    assert tools.wrap_paragraph("the quick brown fox jumps", 10) == "the quick\nbrown fox\njumps"
    assert tools.wrap_paragraph("one two\n\nthree four", 8, 2) == "  one\n  two\n\n  three\n  four"
    assert tools.wrap_paragraph("short") == "short"


@given(st.lists(st.text("abcdef", min_size=1, max_size=9), min_size=1, max_size=30), st.integers(9, 40))
def test_wrap_paragraph_keeps_words_and_fills_lines(words, width):
    lines = tools.wrap_paragraph(" ".join(words), width).split("\n")
    assert " ".join(lines).split() == words
    assert all(len(line) <= width for line in lines)
    for line, following in pairwise(lines):
        assert len(line) + 1 + len(following.split()[0]) > width


@pytest.mark.parametrize(("width", "indent"), [(0, 0), (5, 5), (10, -1)])
def test_wrap_paragraph_refuses_a_width_without_room(width, indent):
    with pytest.raises(ValueError, match="width"):
        tools.wrap_paragraph("text", width, indent)


def test_find_and_replace():
    assert tools.find_and_replace("cat, Cat, concat", "cat", "dog") == {"text": "dog, Cat, condog", "replacements": 2}
    assert tools.find_and_replace("cat, Cat", "CAT", r"\1", True) == {"text": r"\1, \1", "replacements": 2}
    assert tools.find_and_replace("a.b", ".", "") == {"text": "ab", "replacements": 1}
    assert tools.find_and_replace("nothing", "x", "y") == {"text": "nothing", "replacements": 0}
    with pytest.raises(ValueError, match="find"):
        tools.find_and_replace("abc", "", "x")


@given(st.text("ab.*", max_size=12), st.text("ab.*", min_size=1, max_size=2), st.text("xy\\", max_size=2))
def test_find_and_replace_equals_str_replace(text, find, replacement):
    assert tools.find_and_replace(text, find, replacement) == {
        "text": text.replace(find, replacement),
        "replacements": text.count(find),
    }


@pytest.mark.parametrize(
    ("title", "arguments", "expected"),
    [
        ("10 Tips for Better Sleep!", {}, "10-tips-for-better-sleep"),
        ("Crème Brûlée & Friends", {}, "creme-brulee-friends"),
        ("What's new?", {"separator": "_"}, "whats_new"),
        ("Straße", {}, "strasse"),
        ("one two three", {"max_length": 8}, "one-two"),
        ("incomprehensible", {"max_length": 5}, "incom"),
    ],
)
def test_slugify_title(title, arguments, expected):
    assert tools.slugify_title(title, **arguments) == expected


@given(st.text(max_size=30))
def test_slugify_title_gives_safe_slugs_that_stay(title):
    try:
        slug = tools.slugify_title(title)
    except ValueError:
        return
    assert all(char in "abcdefghijklmnopqrstuvwxyz0123456789-" for char in slug)
    assert not slug.startswith("-")
    assert not slug.endswith("-")
    assert tools.slugify_title(slug) == slug


@pytest.mark.parametrize(("title", "arguments"), [("???", {}), ("a", {"separator": "."}), ("a", {"max_length": -1})])
def test_slugify_title_refuses(title, arguments):
    with pytest.raises(ValueError):
        tools.slugify_title(title, **arguments)
