"""The sandbox: which folder is used, and that no path leads out of it."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolscaler.starter import sandbox as module
from toolscaler.starter.sandbox import (
    SANDBOX_VARIABLE,
    resolve_in_sandbox,
    sandbox,
    sandbox_folder,
    sandbox_name,
    walk_sandbox,
)


def test_block_sets_and_resets_folder(tmp_path):
    outside = sandbox_folder()
    with sandbox(tmp_path / "new") as folder:
        assert folder == (tmp_path / "new").resolve()
        assert folder.is_dir()
        with sandbox(tmp_path / "inner"):
            assert sandbox_folder().name == "inner"
        assert sandbox_folder() == folder
    assert sandbox_folder() == outside


def test_block_resets_after_an_error(tmp_path):
    before = sandbox_folder()
    with pytest.raises(RuntimeError), sandbox(tmp_path):
        raise RuntimeError
    assert sandbox_folder() == before


def test_block_beats_variable_beats_private_folder(tmp_path, monkeypatch):
    monkeypatch.delenv(SANDBOX_VARIABLE, raising=False)
    private = sandbox_folder()
    assert private == sandbox_folder()
    assert private.is_dir()
    assert private.stat().st_mode & 0o077 == 0, "the temporary folder is for its owner only"
    monkeypatch.setenv(SANDBOX_VARIABLE, str(tmp_path / "named"))
    assert sandbox_folder() == (tmp_path / "named").resolve()
    with sandbox(tmp_path / "block"):
        assert sandbox_folder().name == "block"


def test_block_holds_for_this_thread_only(tmp_path):
    seen = []
    with sandbox(tmp_path):
        thread = threading.Thread(target=lambda: seen.append(sandbox_folder()))
        thread.start()
        thread.join()
    assert seen
    assert seen[0] != tmp_path.resolve()


def test_a_file_is_no_sandbox(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="must be a folder"), sandbox(tmp_path / "file"):
        pass


@pytest.mark.parametrize(
    "path",
    ["", "  ", "..", "../x", "a/../../x", "a/../b", "/etc/passwd", "//x", "~/x", "C:/x", "a\\b", "a\0b", "a\nb"],
)
def test_refused_paths(tmp_path, path):
    with sandbox(tmp_path), pytest.raises(ValueError, match="path:"):
        resolve_in_sandbox(path)


def test_too_long_paths(tmp_path):
    with sandbox(tmp_path):
        for path in ("x" * 201, "é" * 101, "a/" * 501):
            with pytest.raises(ValueError, match="too long"):
                resolve_in_sandbox(path)
        assert resolve_in_sandbox("x" * 200).parent == tmp_path.resolve()


def test_plain_paths(tmp_path):
    with sandbox(tmp_path) as root:
        assert resolve_in_sandbox(".") == root
        assert resolve_in_sandbox("a/./b.txt") == root / "a" / "b.txt"
        assert resolve_in_sandbox("..a/b..") == root / "..a" / "b.."
        assert sandbox_name(root / "a" / "b") == "a/b"
        assert sandbox_name(root) == "."


def test_links_that_lead_out_are_refused(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    with sandbox(tmp_path / "box") as root:
        (root / "out").symlink_to(outside)
        (root / "file").symlink_to(outside / "secret.txt")
        (root / "dangling").symlink_to(tmp_path / "nothing")
        (root / "loop").symlink_to(root / "loop")
        for path in ("out", "out/secret.txt", "out/new.txt", "file", "dangling", "loop"):
            for follow in (True, False):
                if path == "loop":
                    continue
                with pytest.raises(ValueError, match="leads out"):
                    resolve_in_sandbox(path, follow=follow)
        assert [entry.name for entry in walk_sandbox(root) if entry.exists()] == []


def test_links_inside_are_followed_or_named(tmp_path):
    with sandbox(tmp_path) as root:
        (root / "real").mkdir()
        (root / "real" / "a.txt").write_text("a")
        (root / "link").symlink_to(root / "real")
        (root / "short").symlink_to("real/a.txt")
        assert resolve_in_sandbox("link/a.txt") == root / "real" / "a.txt"
        assert resolve_in_sandbox("short") == root / "real" / "a.txt"
        assert resolve_in_sandbox("short", follow=False) == root / "short"
        assert [sandbox_name(entry) for entry in walk_sandbox(root)] == ["link", "real", "short", "real/a.txt"]


def test_a_linked_sandbox_works(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with sandbox(tmp_path / "link") as root:
        assert root == (tmp_path / "real").resolve()
        assert resolve_in_sandbox("a") == root / "a"


def test_walk_stops_at_too_many_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_ENTRIES", 3)
    with sandbox(tmp_path) as root:
        for index in range(4):
            (root / str(index)).touch()
        with pytest.raises(ValueError, match="more than 3 entries"):
            list(walk_sandbox(root))


@given(st.text(alphabet="ab./\\~:\0 \n", max_size=20))
def test_whatever_is_accepted_lies_inside(tmp_path_factory, path):
    root = tmp_path_factory.getbasetemp()
    with sandbox(root):
        try:
            real = resolve_in_sandbox(path)
        except ValueError:
            return
        assert os.path.commonpath([root.resolve(), os.path.realpath(root / path)]) == str(root.resolve())
        assert real == (root / path).resolve()
