"""Hub: a trained model with all that belongs to it goes in, one checked folder (and one commit on the Hub) comes out.

The way back is :class:`Artifact`, which trusts nothing that it reads. ``docs/artefact.md`` names every file and key.
"""

from __future__ import annotations

from typing import Any

from toolscaler._lazy import lazy_attribute, lazy_names

_PUBLIC: dict[str, str] = {
    "Artifact": "toolscaler.hub.artifact",
    "ArtifactManifest": "toolscaler.hub.manifest",
    "BaseModel": "toolscaler.hub.manifest",
    "CardFacts": "toolscaler.hub.card",
    "MANIFEST_NAME": "toolscaler.hub.manifest",
    "PushResult": "toolscaler.hub.push",
    "make_card": "toolscaler.hub.card",
    "push_folder": "toolscaler.hub.push",
    "push_to_hub": "toolscaler.hub.push",
    "run_facts": "toolscaler.hub.run_folder",
    "save_artifact": "toolscaler.hub.saving",
    "seal_artifact": "toolscaler.hub.manifest",
    "tokenizer_sha256": "toolscaler.hub.checksums",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
