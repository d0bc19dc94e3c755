"""A saved model and a change of its tools go in, the same model with other tools and a longer log comes out.

Tools come and go after training (paper, appendix A): no weight changes, only tool index, documents and log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolscaler._lazy import lazy_attribute, lazy_names

# Public name -> module; imported on first use (PEP 562).
_PUBLIC: dict[str, str] = {
    "CatalogueDiff": "toolscaler.catalogue.difference",
    "CatalogueLog": "toolscaler.catalogue.log",
    "DocumentChange": "toolscaler.catalogue.difference",
    "LogEntry": "toolscaler.catalogue.log",
    "ToolCatalogue": "toolscaler.catalogue.catalogue",
    "ToolChange": "toolscaler.catalogue.log",
}

if TYPE_CHECKING:
    from toolscaler.catalogue.catalogue import ToolCatalogue
    from toolscaler.catalogue.difference import CatalogueDiff, DocumentChange
    from toolscaler.catalogue.log import CatalogueLog, LogEntry, ToolChange

__all__ = ["CatalogueDiff", "CatalogueLog", "DocumentChange", "LogEntry", "ToolCatalogue", "ToolChange"]


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
