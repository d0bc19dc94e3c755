"""Text tools: a piece of writing goes in; counts, findings and changed text come out."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections import Counter
from typing import Any, Literal

from toolscaler.starter.registry import starter_tool

LetterCase = Literal["upper", "lower", "title", "sentence", "swap"]

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?…]+(?=\s|$|[\"'”’)])")
_EMAIL = re.compile(r"(?<![\w.+%-])[A-Za-z0-9_%+-]+(?:\.[A-Za-z0-9_%+-]+)*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}(?![\w-])")
_COMMON_WORDS = (
    "a an and are as at be been but by can could did do does for from had has have he her his i if in into is it its "
    "me my no not of on or our she so than that the their them then there they this to was we were what when which "
    "who will with would you your"
)
_COMMON = frozenset(_COMMON_WORDS.split())


def _letters(text: str) -> str:
    """Keep letters and digits, without case and accents."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in plain if char.isalnum())


@starter_tool("Text")
def count_words(text: str) -> dict[str, int]:
    """Count the words, characters, sentences and lines of a text.

    Gives the length of an essay, abstract, tweet or caption, to check it against a word limit or a character limit.

    Args:
        text: The text to measure.

    Returns:
        ``words``, ``characters`` (with spaces), ``characters_without_spaces``, ``sentences`` and ``lines``.
    """
    words = len(_WORD.findall(text))
    sentences = len(_SENTENCE_END.findall(text.strip()))
    return {
        "words": words,
        "characters": len(text),
        "characters_without_spaces": sum(not char.isspace() for char in text),
        "sentences": max(sentences, 1) if words else 0,
        "lines": len(text.splitlines()),
    }


@starter_tool("Text")
def most_frequent_words(text: str, top: int = 10, skip_common: bool = False) -> list[dict[str, Any]]:
    """Rank the words of a text by how often they occur.

    Shows which words a speech, review or article repeats or overuses; makes the counts behind a word cloud. Upper and
    lower case count as the same word.

    Args:
        text: The text to look at.
        top: How many words to give, at least 1.
        skip_common: Leave out very common English words such as "the" and "and".

    Returns:
        The words with their counts, most frequent first, equal counts in alphabetical order.

    Raises:
        ValueError: ``top`` is below 1.
    """
    if top < 1:
        raise ValueError(f"top: expected at least 1, got {top}")
    counts = Counter(word.casefold() for word in _WORD.findall(text))
    kept = [(word, count) for word, count in counts.items() if not (skip_common and word in _COMMON)]
    kept.sort(key=lambda item: (-item[1], item[0]))
    return [{"word": word, "count": count} for word, count in kept[:top]]


@starter_tool("Text")
def change_letter_case(text: str, case: LetterCase) -> str:
    """Write a text in capitals, small letters, title case or sentence case.

    Makes everything uppercase or lowercase, capitalizes each word of a headline, or tames text that was typed with
    caps lock on.

    Args:
        text: The text to change.
        case: ``upper`` for ALL CAPITALS, ``lower`` for small letters, ``title`` for a capital on each word,
            ``sentence`` for a capital at the start of each sentence only, ``swap`` to exchange capitals and small
            letters.

    Returns:
        The text in the wanted case.

    Raises:
        ValueError: An unknown case.
    """
    if case == "upper":
        return text.upper()
    if case == "lower":
        return text.lower()
    if case == "swap":
        return text.swapcase()
    if case == "title":
        return _WORD.sub(lambda match: match.group()[:1].upper() + match.group()[1:].lower(), text)
    if case == "sentence":
        return re.sub(r"(^\W*|[.!?]\s+)(\w)", lambda match: match.group(1) + match.group(2).upper(), text.lower())
    raise ValueError(f"case: expected upper, lower, title, sentence or swap, got {case!r}")


@starter_tool("Text")
def reverse_text(text: str, by: Literal["characters", "words"] = "characters") -> str:
    """Write a text backwards.

    Turns the letters around so that the last comes first (mirror writing, "hello" becomes "olleh"), or puts the words
    in reverse order.

    Args:
        text: The text to turn around.
        by: ``characters`` to reverse every letter, ``words`` to keep the words readable and reverse their order.

    Returns:
        The reversed text.

    Raises:
        ValueError: An unknown unit in ``by``.
    """
    if by == "words":
        return " ".join(reversed(text.split()))
    if by != "characters":
        raise ValueError(f"by: expected characters or words, got {by!r}")
    # Combining marks stay behind their letter, else an accent would move to the neighbour.
    clusters: list[str] = []
    for char in text:
        if clusters and unicodedata.combining(char):
            clusters[-1] += char
        else:
            clusters.append(char)
    return "".join(reversed(clusters))


@starter_tool("Text")
def check_palindrome(text: str) -> bool:
    """Tell whether a word or phrase is a palindrome: it reads the same forwards and backwards.

    Spaces, punctuation, capitals and accents do not matter, so "A man, a plan, a canal: Panama" is one.

    Args:
        text: Word, name or sentence with at least one letter or digit.

    Returns:
        True if it is a palindrome.

    Raises:
        ValueError: The text has no letter or digit.
    """
    letters = _letters(text)
    if not letters:
        raise ValueError(f"text: expected at least one letter or digit, got {text!r}")
    return letters == letters[::-1]


@starter_tool("Text")
def check_anagram(first: str, second: str) -> bool:
    """Tell whether two words or phrases are anagrams: made of exactly the same letters in another order.

    Answers whether the letters of one can be rearranged or scrambled into the other. Spaces, punctuation, capitals and
    accents do not matter.

    Args:
        first: A word or phrase with at least one letter.
        second: The word or phrase to compare it with.

    Returns:
        True if both use the same letters equally often; a word is no anagram of itself.

    Raises:
        ValueError: One of them has no letter or digit.
    """
    one, two = _letters(first), _letters(second)
    if not one or not two:
        raise ValueError(f"first, second: expected letters in both, got {first!r} and {second!r}")
    return one != two and sorted(one) == sorted(two)


@starter_tool("Text")
def edit_distance(first: str, second: str) -> int:
    """Count the typing changes that turn one word into another (Levenshtein distance).

    Each inserted, deleted or replaced letter is one change. Says how close two spellings are, how many typos a word
    has, or whether two names are nearly the same.

    Args:
        first: The one spelling.
        second: The other spelling; capitals count as different letters.

    Returns:
        The smallest number of single-letter changes; 0 if both are equal.
    """
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


@starter_tool("Text")
def extract_email_addresses(text: str) -> list[str]:
    """Find every email address in a text.

    Pulls the contacts out of signatures, mailing lists, web pages or long threads and leaves everything else away.

    Args:
        text: The text to search.

    Returns:
        The addresses in order of appearance, each once; capitals do not make another address.
    """
    found: dict[str, str] = {}
    for address in _EMAIL.findall(text):
        found.setdefault(address.lower(), address)
    return list(found.values())


@starter_tool("Text")
def wrap_paragraph(text: str, width: int = 72, indent: int = 0) -> str:
    """Break a long text into lines of a maximum width, at word boundaries.

    Wraps paragraphs for plain-text emails, commit messages, terminals and code comments. Words stay whole where they
    fit; empty lines between paragraphs stay.

    Args:
        text: The text to wrap.
        width: Most characters a line may have, at least 1 more than the indent.
        indent: Spaces at the start of each line, 0 or more.

    Returns:
        The text with line breaks.

    Raises:
        ValueError: A negative indent, or a width that leaves no room.
    """
    if indent < 0 or width <= indent:
        raise ValueError(f"width, indent: expected 0 <= indent < width, got width {width} and indent {indent}")
    paragraphs = re.split(r"\n\s*\n", text.strip())
    margin = " " * indent
    wrapped = [textwrap.fill(" ".join(part.split()), width, initial_indent=margin, subsequent_indent=margin)
               for part in paragraphs]  # fmt: skip
    return "\n\n".join(wrapped)


@starter_tool("Text")
def find_and_replace(text: str, find: str, replacement: str, ignore_case: bool = False) -> dict[str, Any]:
    """Replace every occurrence of a word or phrase in a text by another.

    Search and replace as in an editor: swap a name, fix a spelling that was used throughout, change a placeholder, or
    delete a phrase by an empty replacement.

    Args:
        text: The text to change.
        find: The exact word or phrase to look for, not empty.
        replacement: What to put in its place; may be empty.
        ignore_case: Find the phrase in capitals and small letters alike.

    Returns:
        The changed ``text`` and the number of ``replacements``.

    Raises:
        ValueError: ``find`` is empty.
    """
    if not find:
        raise ValueError("find: expected a word or phrase, got nothing")
    pattern = re.compile(re.escape(find), re.IGNORECASE if ignore_case else 0)
    changed, count = pattern.subn(lambda _: replacement, text)
    return {"text": changed, "replacements": count}


@starter_tool("Text")
def slugify_title(title: str, separator: Literal["-", "_"] = "-", max_length: int = 0) -> str:
    """Turn a title into a slug: lowercase letters and digits with hyphens, safe for web addresses.

    Makes the permalink of a blog post, product page or file from its headline. Accents are dropped (é becomes e),
    spaces and punctuation become one separator.

    Args:
        title: Title or heading with at least one letter or digit.
        separator: Sign between words: a hyphen or an underscore.
        max_length: Most characters of the slug, cut at a word where possible; 0 for no limit.

    Returns:
        The slug.

    Raises:
        ValueError: A negative length, another separator, or no Latin letter or digit in the title.
    """
    if separator not in ("-", "_") or max_length < 0:
        raise ValueError(f"separator, max_length: expected - or _ and 0 or more, got {separator!r} and {max_length}")
    plain = unicodedata.normalize("NFKD", title.replace("ß", "ss")).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain.replace("'", ""))
    if not words:
        raise ValueError(f"title: expected at least one Latin letter or digit, got {title!r}")
    while max_length and len(words) > 1 and len(separator.join(words)) > max_length:
        words.pop()
    slug = separator.join(words)
    return slug[:max_length] if max_length else slug
