"""One reader for each format of tool-use dialogues: any such source in, a list of trajectories out."""

from __future__ import annotations

from typing import Any

from toolscaler._lazy import lazy_attribute, lazy_names

# Public name -> the module that defines it. Nothing is imported before it is asked for (PEP 562).
_PUBLIC: dict[str, str] = {
    "DialogueReport": "toolscaler.data.dialogues.loading",
    "TRAJECTORY_FORMATS": "toolscaler.data.dialogues.loading",
    "catalogue_aliases": "toolscaler.data.dialogues.names",
    "load_trajectories": "toolscaler.data.dialogues.loading",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
