"""Contract: a push is one commit, whole or not there; a reader gets back bit for bit what was pushed, or a typed error.

The scenario runs in a process of its own (``client.py``), with the real client against ``loopback.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("client.py")), str(folder)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=280,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("REPORT ")]
    assert lines, done.stderr[-3000:]
    found = json.loads(lines[0].removeprefix("REPORT "))
    for step, value in found.items():
        assert not (isinstance(value, dict) and "failed" in value), f"{step}: {value['failed']}"
    return found


def test_everything_goes_in_one_commit_and_no_path_of_this_machine_with_it(report):
    done = report["push_model"]
    assert (done["new_repos"], done["commits"]) == (1, 2)  # the empty repository's own, and ours
    assert done["paths"] == []
    assert {
        *("README.md", "toolscaler.json", "config.json", "model.safetensors", "tokenizer.json", "tool_index.json"),
        *("codebook.safetensors", "codebook_config.json", "tools.jsonl", "compressor/gist_rows.safetensors"),
    } <= set(done["files"])
    assert not [name for name in done["files"] if name.endswith((".bin", ".pt", ".pkl", ".py"))]


def test_what_was_pushed_comes_back(report):
    assert report["load_model"] == {"same": True, "tools": True, "documents": True, "compressor": "rows"}


def test_an_adapter_is_small_and_gives_the_merged_weights(report):
    done = report["push_adapter"]
    assert (done["kind"], done["apart"], done["same"]) == ("adapter", "PeftModelForCausalLM", True)
    assert done["bytes"] < done["base_bytes"] / 5


def test_a_later_push_takes_old_shards_away_and_leaves_the_files_of_others(report):
    done = report["push_again"]
    assert done["shards"] > 2
    assert done["left_over"] == []
    assert done["notes"]
    assert done["tools"] == [11, 12]  # newest, and by revision the first


def test_branches_and_subfolders(report):
    done = report["branch_and_subfolder"]
    assert done["main"] == [".gitattributes"]
    assert done["folder"]
    assert done["loads"]
    assert done["elsewhere"].startswith("ArtifactError")


@pytest.mark.parametrize("trouble", ["cut_upload", "cut_commit", "cut_answer"])
def test_a_lost_connection_leaves_the_old_artefact_or_the_new_one(report, trouble):
    done = report["troubles"][trouble]
    assert "HubError: me/full: the connection was lost" in done["error"]
    assert done["commits"] == (1 if trouble == "cut_answer" else 0)
    assert done["readable"] == "no error"


def test_a_wrong_token_is_told_and_changes_nothing(report):
    assert "the token was refused" in report["troubles"]["wrong"]["error"]
    assert "token" in report["troubles"]["none"]["error"]
    for name in ("wrong", "none"):
        assert report["troubles"][name]["error"].startswith("HubError")
        assert report["troubles"][name]["commits"] == 0


def test_two_publishers_do_not_overwrite_each_other(report):
    assert "somebody else pushed meanwhile" in report["troubles"]["race"]["error"]


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("repo", "ArtifactError", "check name, revision and token"),
        ("revision", "ArtifactError", "Revision Not Found"),
        ("no_manifest", "ArtifactError", "found none"),
        ("path", "ArtifactError", "found neither"),
        ("damaged", "ArtifactError", "the sum in the manifest"),
        ("bad_target", "ConfigError", "user/name"),
        ("no_base", "ConfigError", "base_model"),
        ("other_base", "ArtifactError", "other weights"),
    ],
)
def test_what_is_wrong_is_named(report, what, error, words):
    text = report["wrong_names"][what]
    assert text.startswith(error)
    assert words in text
    assert report["wrong_names"]["untouched"]


def test_the_snippets_of_the_cards_run_in_a_fresh_interpreter(report):
    lines = report["snippets"]["online"]
    assert isinstance(lines, list), lines
    assert len(lines) == 6  # three tools of each
    assert all("units/" in line for line in lines)


def test_what_was_downloaded_once_loads_without_the_network(report):
    assert report["snippets"]["offline"] == report["snippets"]["online"]
