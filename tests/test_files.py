"""Writing is all or nothing; what was there before a failure is there after it."""

from __future__ import annotations

import json

import pytest

from toolscaler._files import atomic_folder, atomic_path, read_json, write_json, write_text
from toolscaler.errors import ArtifactError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_atomic_path_makes_the_folder_and_replaces(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "one")
    write_text(path, "two – ü")
    assert path.read_text(encoding="utf-8") == "two – ü"
    assert names(path.parent) == ["file.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_json_round_trip_and_refusal_of_nan(tmp_path):
    path = tmp_path / "a.json"
    value = {"b": [1, 2.5, None, "ü"], "a": {"c": True}}
    write_json(path, value)
    assert read_json(path) == value
    assert "ü" in path.read_text(encoding="utf-8")
    assert path.read_text(encoding="utf-8").endswith("}\n")
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == value


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe"])
def test_reading_bad_json_is_an_artifact_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"a\.json: expected"):
        read_json(path)


def test_atomic_folder_replaces_whole_folders_only_on_success(tmp_path):
    path = tmp_path / "model"
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("1")
    with atomic_folder(path) as temporary:
        (temporary / "b").write_text(json.dumps(2))
    assert names(path) == ["b"]
    assert path.stat().st_mode & 0o777 == 0o755

    def half() -> None:
        with atomic_folder(path) as temporary:
            (temporary / "c").write_text("3")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert names(path) == ["b"]
    assert names(tmp_path) == ["model"]
