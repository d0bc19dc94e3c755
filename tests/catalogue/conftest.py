"""Fixtures of the catalogue room: one tiny artefact a session, and a copy of it for each test."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import catalogue_parts as _parts


@pytest.fixture(scope="session")
def parts():
    return _parts


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "artefact"
    _parts.make_artefact(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "artefact"))


@pytest.fixture
def catalogue(folder):
    from toolscaler.catalogue import ToolCatalogue

    return ToolCatalogue.open(folder)
