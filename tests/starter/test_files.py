"""The Files tools on real files in a temporary sandbox."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolscaler.starter import sandbox as sandbox_module
from toolscaler.starter.sandbox import MAX_FILE_BYTES, sandbox
from toolscaler.starter.tools import files


@pytest.fixture
def box(tmp_path):
    """A sandbox with a few files; what lies beside it must stay untouched."""
    (tmp_path / "outside.txt").write_text("outside")
    with sandbox(tmp_path / "box") as root:
        (root / "notes").mkdir()
        (root / "notes" / "todo.txt").write_text("buy milk\ncall Ann\n")
        (root / "notes" / "old").mkdir()
        (root / "notes" / "old" / "plan.MD").write_text("# Plan\nMilk first\n")
        (root / "data.bin").write_bytes(b"\xff\xfe\x00milk")
        (root / "a.csv").write_text("x,y\n1,2\n")
        yield root
    assert (tmp_path / "outside.txt").read_text() == "outside"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["box", "outside.txt"]


def test_read_gives_the_exact_text(box):
    assert files.read_text_file("notes/todo.txt") == "buy milk\ncall Ann\n"
    (box / "crlf.txt").write_bytes("é\r\n".encode())
    assert files.read_text_file("crlf.txt") == "é\r\n"
    (box / "empty").touch()
    assert files.read_text_file("empty") == ""


def test_read_refuses(box):
    (box / "big").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    for path, words in (
        ("missing.txt", "no file"),
        ("notes", "is a folder"),
        ("data.bin", "UTF-8"),
        ("../outside.txt", "not allowed"),
        ("big", "at most"),
    ):
        with pytest.raises(ValueError, match=words):
            files.read_text_file(path)


def test_write_makes_folders_and_guards_old_files(box):
    assert files.write_text_file("deep/er/new.txt", "héllo\n") == {"path": "deep/er/new.txt", "bytes": 7}
    assert (box / "deep" / "er" / "new.txt").read_bytes() == "héllo\n".encode()
    with pytest.raises(ValueError, match="exists already"):
        files.write_text_file("a.csv", "gone")
    assert (box / "a.csv").read_text() == "x,y\n1,2\n"
    files.write_text_file("a.csv", "new", overwrite=True)
    assert (box / "a.csv").read_text() == "new"


def test_write_refuses(box):
    with pytest.raises(ValueError, match="is a folder"):
        files.write_text_file("notes", "x", overwrite=True)
    with pytest.raises(ValueError, match="cannot hold"):
        files.write_text_file("a.csv/inner.txt", "x")
    with pytest.raises(ValueError, match="at most"):
        files.write_text_file("big.txt", "x" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ValueError, match="sandbox"):
        files.write_text_file("/elsewhere/evil.txt", "x")
    assert not (box / "big.txt").exists()


def test_a_failed_write_leaves_the_old_file(box, monkeypatch):
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write_text_file("a.csv", "half", overwrite=True)
    assert (box / "a.csv").read_text() == "x,y\n1,2\n"
    assert sorted(entry.name for entry in box.iterdir()) == ["a.csv", "data.bin", "notes"]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_what_is_written_is_read(box, text):
    files.write_text_file("round.txt", text, overwrite=True)
    assert files.read_text_file("round.txt") == text


def test_append_keeps_lines_apart(box):
    files.append_to_file("log.txt", "one")
    files.append_to_file("log.txt", "two\n")
    assert files.append_to_file("log.txt", "three") == {"path": "log.txt", "bytes": len("one\ntwo\nthree")}
    assert files.read_text_file("log.txt") == "one\ntwo\nthree"


def test_append_refuses(box):
    with pytest.raises(ValueError, match="folder"):
        files.append_to_file("notes", "x")
    with pytest.raises(ValueError, match="UTF-8"):
        files.append_to_file("data.bin", "x")
    with pytest.raises(ValueError, match="at most"):
        files.append_to_file("a.csv", "x" * MAX_FILE_BYTES)


def test_list_folder_flat_and_deep(box):
    assert files.list_folder() == [
        {"path": "a.csv", "kind": "file", "bytes": 8},
        {"path": "data.bin", "kind": "file", "bytes": 7},
        {"path": "notes", "kind": "folder", "bytes": None},
    ]
    deep = [record["path"] for record in files.list_folder("notes", recursive=True)]
    assert deep == ["notes/old", "notes/old/plan.MD", "notes/todo.txt"]
    (box / "notes" / "none").mkdir()
    assert files.list_folder("notes/none") == []


def test_list_folder_refuses_and_hides_links_out(box):
    (box / "out").symlink_to(box.parent)
    assert "out" not in [record["path"] for record in files.list_folder()]
    for folder in ("nowhere", "a.csv", "..", "out"):
        with pytest.raises(ValueError):
            files.list_folder(folder)


def test_create_folder(box):
    assert files.create_folder("x/y/z") == {"path": "x/y/z", "created": True}
    assert (box / "x" / "y" / "z").is_dir()
    assert files.create_folder("x/y") == {"path": "x/y", "created": False}
    assert files.create_folder(".") == {"path": ".", "created": False}
    for path in ("a.csv", "a.csv/sub", "../new"):
        with pytest.raises(ValueError):
            files.create_folder(path)


def test_delete_file(box):
    assert files.delete_file("a.csv") == {"path": "a.csv", "bytes_freed": 8}
    assert not (box / "a.csv").exists()
    for path, words in (("a.csv", "no file"), ("notes", "is a folder"), ("../outside.txt", "not allowed")):
        with pytest.raises(ValueError, match=words):
            files.delete_file(path)


def test_delete_removes_a_link_not_its_target(box):
    (box / "link").symlink_to("notes/todo.txt")
    files.delete_file("link")
    assert not (box / "link").is_symlink()
    assert (box / "notes" / "todo.txt").exists()


def test_copy_file(box):
    result = files.copy_file("data.bin", "backup/data.bin")
    assert result == {"source": "data.bin", "destination": "backup/data.bin", "bytes": 7}
    assert (box / "backup" / "data.bin").read_bytes() == (box / "data.bin").read_bytes()
    with pytest.raises(ValueError, match="exists already"):
        files.copy_file("a.csv", "backup/data.bin")
    files.copy_file("a.csv", "backup/data.bin", overwrite=True)
    assert (box / "backup" / "data.bin").read_text() == "x,y\n1,2\n"


def test_copy_refuses(box):
    for source, destination in (("missing", "b"), ("notes", "b"), ("a.csv", "notes"), ("a.csv", "../b"), ("..", "b")):
        with pytest.raises(ValueError):
            files.copy_file(source, destination)
    with pytest.raises(ValueError, match="source itself"):
        files.copy_file("a.csv", "a.csv", overwrite=True)


def test_move_file(box):
    assert files.move_file("a.csv", "sheets/b.csv") == {"source": "a.csv", "destination": "sheets/b.csv"}
    assert not (box / "a.csv").exists()
    assert (box / "sheets" / "b.csv").read_text() == "x,y\n1,2\n"
    with pytest.raises(ValueError, match="exists already"):
        files.move_file("sheets/b.csv", "data.bin")
    files.move_file("sheets/b.csv", "data.bin", overwrite=True)
    assert files.read_text_file("data.bin") == "x,y\n1,2\n"


def test_move_refuses(box):
    for source, destination in (("missing", "b"), ("notes", "b"), ("a.csv", "notes"), ("a.csv", "../b")):
        with pytest.raises(ValueError):
            files.move_file(source, destination)
    with pytest.raises(ValueError, match="source itself"):
        files.move_file("a.csv", "./a.csv", overwrite=True)
    assert (box / "a.csv").exists()


def test_find_files_by_name(box):
    assert files.find_files_by_name("*.md") == ["notes/old/plan.MD"]
    assert files.find_files_by_name("?.CSV") == ["a.csv"]
    assert files.find_files_by_name("*", "notes") == ["notes/old/plan.MD", "notes/todo.txt"]
    assert files.find_files_by_name("*.pdf") == []
    for pattern, folder in (("", "."), ("a/b", "."), ("*", "nowhere"), ("*", "../")):
        with pytest.raises(ValueError):
            files.find_files_by_name(pattern, folder)


def test_search_in_files(box):
    assert files.search_in_files("MILK") == [
        {"path": "notes/old/plan.MD", "line": 2, "text": "Milk first"},
        {"path": "notes/todo.txt", "line": 1, "text": "buy milk"},
    ]
    assert files.search_in_files("MILK", ignore_case=False) == []
    assert [match["line"] for match in files.search_in_files("ann", "notes")] == [2]
    assert files.search_in_files("a.l") == [], "the text is literal, no pattern"
    for text, folder in ((" ", "."), ("x", "a.csv"), ("x", "..")):
        with pytest.raises(ValueError):
            files.search_in_files(text, folder)


def test_search_never_opens_links_out(box):
    (box / "leak").symlink_to(box.parent / "outside.txt")
    assert files.search_in_files("outside") == []


def test_replace_in_file(box):
    assert files.replace_in_file("notes/todo.txt", "l", "L") == {"path": "notes/todo.txt", "replacements": 3}
    assert files.read_text_file("notes/todo.txt") == "buy miLk\ncaLL Ann\n"
    assert files.replace_in_file("notes/todo.txt", "\n", "")["replacements"] == 2
    assert files.read_text_file("notes/todo.txt") == "buy miLkcaLL Ann"
    for path, old in (("notes/todo.txt", ""), ("notes/todo.txt", "absent"), ("missing", "x"), ("data.bin", "milk")):
        with pytest.raises(ValueError):
            files.replace_in_file(path, old, "y")


def test_walks_are_bounded(box, monkeypatch):
    monkeypatch.setattr(sandbox_module, "MAX_ENTRIES", 2)
    for call in (lambda: files.find_files_by_name("*"), lambda: files.search_in_files("x"), files.list_folder):
        with pytest.raises(ValueError, match="more than 2"):
            call()
