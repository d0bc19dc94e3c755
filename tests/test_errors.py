"""Every error is a ToolscalerError, stays the builtin it is, and says where and what."""

from __future__ import annotations

import inspect

import pytest

import toolscaler.errors as errors
from toolscaler._optional import require


def test_every_error_is_a_toolscaler_error():
    classes = [item for _, item in inspect.getmembers(errors, inspect.isclass) if item.__module__ == errors.__name__]
    assert len(classes) > 10
    assert all(issubclass(item, errors.ToolscalerError) for item in classes)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.ConfigError("codebook.levels", 0, "at least 1"), ValueError),
        (errors.DataError("bad"), ValueError),
        (errors.UnknownToolError("x"), KeyError),
        (errors.TrainingError("bad"), RuntimeError),
        (errors.ArtifactError("bad"), OSError),
        (errors.MissingDependencyError("nosuch", "train", "training"), ImportError),
        (errors.EmptyCatalogueError("bad"), ValueError),
    ],
)
def test_errors_are_also_builtins(error, builtin):
    assert isinstance(error, builtin)


def test_config_error_names_key_value_and_what_is_allowed():
    text = str(errors.ConfigError("codebook.levels", 0, "at least 1"))
    assert text == "codebook.levels: got 0, expected at least 1"


@pytest.mark.parametrize(
    ("path", "line", "text"),
    [(None, None, "bad"), ("a.json", None, "a.json: bad"), ("a.json", 3, "a.json:3: bad"), (None, 3, "bad")],
)
def test_data_error_names_file_and_line(path, line, text):
    error = errors.DataError("bad", path=path, line=line)
    assert (str(error), error.message, error.path, error.line) == (text, "bad", path, line)


def test_artifact_error_leaves_out_the_middle_of_what_a_file_made_too_long():
    assert str(errors.ArtifactError("x" * 2_000)) == "x" * 2_000
    text = str(errors.ArtifactError("expected a list, got '" + "y" * 100_000 + "'; delete it", path="a.json"))
    assert text.startswith("a.json: expected a list, got 'yyy")
    assert text.endswith("yyy'; delete it")
    assert "[98,534 characters left out]" in text
    assert len(text) < 2_000


def test_ambiguous_source_names_the_candidates_sorted():
    error = errors.AmbiguousSourceError(["openai", "mcp"], path="t.json")
    assert error.candidates == ("mcp", "openai")
    assert str(error).startswith("t.json: several readers fit: mcp, openai;")


def test_unknown_tool_suggests_the_nearest_and_prints_plainly():
    error = errors.UnknownToolError("get_wether", ["get_weather", "send_mail"])
    assert error.suggestions == ("get_weather",)
    assert str(error) == "no tool named 'get_wether' in the catalogue; nearest: 'get_weather'"
    assert "nearest" not in str(errors.UnknownToolError("zzz", ["get_weather"]))


def test_require_names_the_extra_and_hides_no_other_error():
    assert require("json", extra="train", purpose="a test").__name__ == "json"
    with pytest.raises(errors.MissingDependencyError, match=r"toolscaler\[train\]"):
        require("no_such_package_here.part", extra="train", purpose="a test")


def test_suggestions_from_very_many_names():
    """The close comparison takes long: only names of like length and like begin or end come to it."""
    names = [f"provider_{k % 997}/endpoint_{k}" for k in range(200_000)] + ["Weather/getForecast"]
    assert "Weather/getForecast" in errors.UnknownToolError("Weather/getForcast", names).suggestions
    assert "provider_3/endpoint_1000" in errors.UnknownToolError("provider_3/endpont_1000", names).suggestions
    assert not errors.UnknownToolError("zzz", names).suggestions
