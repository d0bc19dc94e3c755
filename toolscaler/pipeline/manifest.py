"""The run's memory: which stages are done, from which settings, and what came out."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolscaler import __version__
from toolscaler._files import read_json, write_json
from toolscaler.errors import ArtifactError, ConfigError

FORMAT_VERSION = 1


class Manifest:
    """``manifest.json`` of a run folder; written whole after every stage, so that a kill loses no finished one.

    Args:
        folder: The run folder.

    Raises:
        ArtifactError: The file there is damaged or of another format version.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "manifest.json"
        self.data: dict[str, Any] = {"format_version": FORMAT_VERSION, "stages": {}}
        if self.path.exists():
            self.data = read_json(self.path)
            if not isinstance(self.data, dict) or not isinstance(self.data.get("stages"), dict):
                raise ArtifactError(
                    "expected a run manifest; move the file away to start the run afresh", path=self.path
                )
            if self.data.get("format_version") != FORMAT_VERSION:
                got = self.data.get("format_version")
                raise ArtifactError(f"expected format_version {FORMAT_VERSION}, got {got!r}", path=self.path)

    def is_done(self, stage: str, fingerprint: str) -> bool:
        """Say whether a stage is done with these settings.

        Raises:
            ConfigError: It is done with other settings: its results would not be those the config describes.
        """
        entry = self.data["stages"].get(stage)
        if entry is None:
            return False
        if entry["fingerprint"] != fingerprint:
            raise ConfigError(
                "output_dir",
                str(self.path.parent),
                f"a new folder, since stage {stage!r} was done here with other settings (or redo it from there: "
                f"--redo {stage})",
            )
        return True

    def summary(self, stage: str) -> dict[str, Any]:
        """Give what a finished stage reported."""
        return dict(self.data["stages"][stage]["summary"])

    def finish(self, stage: str, fingerprint: str, seconds: float, summary: Mapping[str, Any]) -> None:
        """Record a stage as done."""
        self.data["stages"][stage] = {
            "fingerprint": fingerprint,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(seconds, 3),
            "summary": dict(summary),
        }
        self.data["environment"] = environment()
        write_json(self.path, self.data)

    def forget(self, stages: list[str]) -> None:
        """Drop the records of these stages, so that they run again."""
        for stage in stages:
            self.data["stages"].pop(stage, None)
        write_json(self.path, self.data)


def fingerprint(*parts: Any) -> str:
    """Give a SHA-256 (hex) over plain data; equal settings give equal fingerprints."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def environment() -> dict[str, str]:
    """Give the versions and the machine that produced a result."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"toolscaler": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["command"] = " ".join(sys.argv)
    return found
