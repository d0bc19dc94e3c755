"""One-call task families about files; each task has a sandbox of its own."""

from __future__ import annotations

from toolscaler.starter.tasks.draw import Draw
from toolscaler.starter.tasks.family import Values, call

_FOLDERS = ("notes", "letters", "reports", "drafts", "inbox", "archive", "bills", "trips")


def text_path(d: Draw) -> str:
    """Give the path of a text file in a folder."""
    return f"{d.pick(_FOLDERS)}/{d.word()}.txt"


def _one_file(d: Draw) -> Values:
    return {"path": text_path(d), "_text": f"{d.name()} bought {d.num(2, 90)} {d.word()}s"}


def _two_paths(d: Draw) -> Values:
    one, two = d.sample(_FOLDERS, 2)
    word, other = d.words(2)
    return {"source": f"{one}/{word}.txt", "destination": f"{two}/{other}.txt", "_text": d.sentence()}


def _word_in_file(d: Draw) -> Values:
    word, other = d.words(2)
    return {
        "text": word,
        "_path": text_path(d),
        "_other": text_path(d),
        "_line": f"{d.name()} likes the {word}",
        "_word": other,
    }


def _named_files(d: Draw) -> Values:
    (word, other), (one, two) = d.words(2), d.sample(_FOLDERS, 2)
    end = d.pick(("csv", "md", "log", "json"))
    paths = [f"{one}/{word}_old.{end}", f"{two}/{word}{d.num(1, 9)}.{end}", f"{two}/{other}.{end}", f"{one}/{word}.bin"]
    return {"pattern": f"{word}*.{end}", "_paths": paths}


FAMILIES = (
    call(
        "read_text_file",
        _one_file,
        ("What is written in {path}?", "Open the file {path} and show me its text.", "read {path}"),
        ("I forgot what {path} says. Tell me.",),
        "the text of a file", "read the file", "The file says: {ref}",
        files=lambda v: {v["path"]: v["_text"]},
    ),
    call(
        "write_text_file",
        lambda d: {"path": text_path(d), "content": d.sentence()},
        (
            'Save "{content}" as {path}. How many bytes is that?',
            'Make a file {path} with the text "{content}" and tell me its size.',
            'write "{content}" to {path}, size please',
        ),
        ('Put "{content}" into a new file {path}. What size in bytes does it get?',),
        "a new file", "write the text into it", "It has {ref} bytes.",
        ref="bytes",
    ),
    call(
        "append_to_file",
        lambda d: {"path": text_path(d), "content": d.sentence(), "_text": d.sentence()},
        (
            'Add "{content}" at the end of {path}. How large is the file then?',
            'Append the line "{content}" to {path} and give me the new size.',
            'append "{content}" to {path}, new size',
        ),
        ('The file {path} needs one more entry: "{content}". How many bytes has it afterwards?',),
        "a longer file", "append the text", "It has {ref} bytes now.",
        ref="bytes", files=lambda v: {v["path"]: v["_text"]},
    ),
    call(
        "list_folder",
        lambda d: {"folder": f"{d.pick(_FOLDERS)}/{d.num(2015, 2030)}", "_names": d.words(3)},
        ("Which files are in the folder {folder}?", "List what {folder} contains.", "ls {folder}"),
        ("Show me everything that lies in {folder}.",),
        "the content of a folder", "list it", "It contains: {ref}",
        ref=lambda result: [record["path"] for record in result],
        files=lambda v: {f"{v['folder']}/{name}.txt": name for name in v["_names"]},
    ),
    call(
        "create_folder",
        lambda d: {"path": f"{d.pick(_FOLDERS)}/{d.pick(('2023', '2024', '2025'))}/{d.word()}"},
        ("Make a folder {path}.", "I need a new directory {path}.", "mkdir {path}"),
        ("Set up an empty place called {path} for my files.",),
        "a new folder", "make the folder", "The folder {ref} is there.",
        ref="path", echo=True,
    ),
    call(
        "delete_file",
        _one_file,
        (
            "Delete the file {path}. How many bytes does that free?",
            "Throw {path} away and tell me how much space it frees.",
            "rm {path}, bytes freed",
        ),
        ("I do not need {path} any more. Remove it, how many bytes are gained?",),
        "a file removed", "delete the file", "It freed {ref} bytes.",
        ref="bytes_freed", files=lambda v: {v["path"]: v["_text"]},
    ),
    call(
        "copy_file",
        _two_paths,
        (
            "Copy {source} to {destination}. How many bytes are copied?",
            "Make a duplicate of {source} named {destination} and tell me its size.",
            "cp {source} {destination}, size",
        ),
        ("Keep {source} and make a backup {destination}. How large is the backup?",),
        "a copy of a file", "copy the file", "It copied {ref} bytes.",
        ref="bytes", files=lambda v: {v["source"]: v["_text"]},
    ),
    call(
        "move_file",
        _two_paths,
        ("Move {source} to {destination}.", "Rename the file {source} to {destination}.", "mv {source} {destination}"),
        ("The file {source} belongs at {destination} from now on.",),
        "a file at another place", "move the file", "It is now at {ref}",
        ref="destination", echo=True, files=lambda v: {v["source"]: v["_text"]},
    ),
    call(
        "find_files_by_name",
        _named_files,
        ("Which files match {pattern}?", "Find all files named {pattern}.", "find {pattern}"),
        ("Where do I have {pattern} files?",),
        "files with a certain name", "search by the pattern", "Found: {ref}",
        files=lambda v: dict.fromkeys(v["_paths"], "text"),
    ),
    call(
        "search_in_files",
        _word_in_file,
        (
            "Which file mentions the word {text}?",
            "Search my files for {text}. Where does it occur?",
            "grep {text}",
        ),
        ("Somewhere I wrote about {text}. In which file?",),
        "the file with a word", "search the files", "It is in {ref}",
        ref=lambda result: result[0]["path"],
        files=lambda v: {v["_other"]: v["_word"], v["_path"]: v["_line"]},
    ),
    call(
        "replace_in_file",
        lambda d: {"path": text_path(d), "old": (old := d.word()),
            "new": d.pick(("marble", "feather", "saddle", "anchor")), "_text": f"{old} and {old} or {old}"},
        (
            'Replace "{old}" by "{new}" in the file {path}. How often does it occur?',
            'In {path} every "{old}" must become "{new}". How many are changed?',
            'edit {path}: "{old}" to "{new}", number of changes',
        ),
        ('The file {path} says "{old}" where it should say "{new}". Fix it and count.',),
        "a corrected file", "replace the text in it", "It made {ref} changes.",
        ref="replacements", files=lambda v: {v["path"]: v["_text"]},
    ),
)  # fmt: skip
