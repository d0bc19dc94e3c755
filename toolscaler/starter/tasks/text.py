"""One-call task families about texts."""

from __future__ import annotations

from toolscaler.starter.tasks.draw import Draw
from toolscaler.starter.tasks.family import Values, call

_PALINDROMES = (
    "level",
    "radar",
    "noon",
    "racecar",
    "rotor",
    "civic",
    "madam",
    "refer",
    "kayak",
    "Was it a cat I saw",
    "never odd or even",
)
_HOSTS = ("mail.example", "shop.example", "club.example", "web.example")


def _repeated(d: Draw) -> Values:
    one, two, three = d.words(3)
    return {"text": " ".join(d.shuffled([one, one, one, two, two, three])), "top": 1}


def _letters(d: Draw) -> Values:
    word = d.word()
    return {"first": word, "second": "".join(d.shuffled(word)) if d.num(0, 1) else "".join(d.shuffled(d.word()))}


def _typo(d: Draw) -> Values:
    word = d.word()
    place = d.num(1, len(word) - 2)
    return {
        "first": word,
        "second": d.pick((word[:place] + word[place + 1 :], word[:place] + "x" + word[place:], d.word())),
    }


def _mail(d: Draw) -> Values:
    address = f"{d.name().lower()}@{d.pick(_HOSTS)}"
    return {
        "text": d.pick(
            (f"Please write to {address} soon", f"{d.name()}, reach me at {address}", f"contact {address} or call")
        )
    }


FAMILIES = (
    call(
        "count_words",
        lambda d: {"text": f"{d.sentence()}{d.pick(('', ' ' + d.word(), ' of ' + d.name()))}"},
        ('How many words has "{text}"?', 'Count the words of "{text}".', 'word count: "{text}"'),
        ('Is "{text}" too long? Tell me its number of words.',),
        "the length of a text", "count its words", "It has {ref} words.",
        ref="words",
    ),
    call(
        "most_frequent_words",
        _repeated,
        (
            'Which word occurs most often in "{text}"?',
            'What is the {top} most frequent word of "{text}"?',
            'top {top} word by frequency: "{text}"',
        ),
        ('Which word do I overuse in "{text}"?',),
        "the most frequent word", "rank the words", "It is {ref}.",
        ref=lambda result: result[0]["word"], echo=True,
    ),
    call(
        "change_letter_case",
        lambda d: {"text": d.sentence(), "case": d.pick(("upper", "title"))},
        (
            'Write "{text}" in {case} case.',
            'Change the letters of "{text}" to {case} case.',
            '{case} case: "{text}"',
        ),
        ('I need "{text}" all in {case} case.',),
        "other letter case", "change the capitals", "{ref}",
    ),
    call(
        "reverse_text",
        lambda d: {"text": d.phrase(), "by": d.pick(("characters", "words"))},
        (
            'Reverse the {by} of "{text}".',
            'Write "{text}" backwards by {by}.',
            'reverse by {by}: "{text}"',
        ),
        ('Turn "{text}" around, {by} from last to first.',),
        "a reversed text", "turn the text around", "Reversed: {ref}",
    ),
    call(
        "check_palindrome",
        lambda d: {"text": d.pick((d.pick(_PALINDROMES), d.word()))},
        ('Is "{text}" a palindrome?', 'Does "{text}" read the same backwards?', 'palindrome or not: "{text}"'),
        ('If I read "{text}" from the end, is it the same?',),
        "a palindrome check", "test the text", ("Yes, it is a palindrome.", "No, it is not a palindrome."),
    ),
    call(
        "check_anagram",
        _letters,
        (
            'Are "{first}" and "{second}" anagrams?',
            'Can the letters of "{first}" be rearranged to "{second}"?',
            'anagram check: "{first}" and "{second}"',
        ),
        ('Does "{second}" use exactly the letters of "{first}"?',),
        "an anagram check", "compare the letters", ("Yes, they are anagrams.", "No, they are not anagrams."),
    ),
    call(
        "edit_distance",
        _typo,
        (
            'How many letters must change to turn "{first}" into "{second}"?',
            'What is the edit distance between "{first}" and "{second}"?',
            'Levenshtein distance: "{first}" to "{second}"',
        ),
        ('I typed "{second}" and not "{first}". How many typos are that?',),
        "the number of typing changes", "compare the spellings", "The distance is {ref}.",
    ),
    call(
        "extract_email_addresses",
        _mail,
        (
            'Which email address is in "{text}"?',
            'Pull the email out of "{text}".',
            'email address from: "{text}"',
        ),
        ('Find the mail contact in this note: "{text}"',),
        "the email address in a text", "search the text for it", "The address is {ref}",
        ref=lambda result: result[0], echo=True,
    ),
    call(
        "wrap_paragraph",
        lambda d: {"text": d.sentence(), "width": d.num(16, 24)},
        (
            'Wrap "{text}" at {width} characters.',
            'Break "{text}" into lines of at most {width} characters.',
            'line width {width}: "{text}"',
        ),
        ('No line may be longer than {width} characters: "{text}"',),
        "short lines", "wrap the text", "{ref}",
    ),
    call(
        "find_and_replace",
        lambda d: {"_old": (old := d.word()), "text": f"the {old} and the {d.pick(('red', 'big', 'wet', 'new'))} {old}",
            "find": old, "replacement": d.word()},
        (
            'Replace "{find}" by "{replacement}" in "{text}".',
            'In "{text}" swap every "{find}" for "{replacement}".',
            'find "{find}", replace with "{replacement}": "{text}"',
        ),
        ('The text "{text}" should say "{replacement}" where it says "{find}".',),
        "a text with other words", "replace the word", "{ref}",
        ref="text",
    ),
    call(
        "slugify_title",
        lambda d: {"title": f"{d.phrase().title()} and {d.name()}{d.pick(('!', '?', '.', ''))}"},
        (
            'Make a slug of the title "{title}".',
            'What is the permalink for the headline "{title}"?',
            'slug: "{title}"',
        ),
        ('My blog post is called "{title}". Which web address name fits?',),
        "a slug for a title", "turn the title into a slug", "The slug is {ref}",
    ),
)  # fmt: skip
