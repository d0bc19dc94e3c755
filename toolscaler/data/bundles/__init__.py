"""Public data sets by name: the folder of a data set in, its tool documents and labelled queries out."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolscaler.data.bundles.base import ToolBundle
from toolscaler.errors import ConfigError, DataError, ToolscalerError

# Name -> "module:function" that loads it; a module is imported when its bundle is asked for.
_LOADERS: dict[str, str] = {
    "bfcl": "toolscaler.data.bundles.bfcl:load_bfcl",
    "glaive-toolcall": "toolscaler.data.bundles.dialogue_tools:load_glaive",
    "livemcpbench": "toolscaler.data.bundles.mcp_servers:load_livemcpbench",
    "seal-tools": "toolscaler.data.bundles.seal_tools:load_seal_tools",
    "toolbench": "toolscaler.data.bundles.toolbench:load_toolbench",
    "toole": "toolscaler.data.bundles.toole:load_toole",
    "toolrl": "toolscaler.data.bundles.dialogue_tools:load_toolrl",
    "toucan-mcp": "toolscaler.data.bundles.mcp_servers:load_toucan_mcp",
    "ultratool": "toolscaler.data.bundles.ultratool:load_ultratool",
}
#: Names of the data sets that :func:`load_bundle` knows.
BUNDLES: tuple[str, ...] = tuple(sorted(_LOADERS))

__all__ = ["BUNDLES", "ToolBundle", "load_bundle"]


def load_bundle(name: str, folder: str | Path, **options: Any) -> ToolBundle:
    """Load a public data set from its folder, in the layout of its own repository.

    Args:
        name: One of :data:`BUNDLES`.
        folder: The data set's folder. Files may be gzipped.
        **options: Choices of that data set: ``toole`` (``include_multi``), ``ultratool`` (``language``), ``bfcl``
            (``categories``, ``multi_turn``), ``toolbench`` (``queries``, ``documents``, ``unresolved``,
            ``include_finish``, ``mgtoolbench``), ``livemcpbench`` (``ambiguous``, ``toucan``). See the
            ``load_...`` functions.

    Returns:
        Documents and queries. Every label of a query is the id of a document, and every id occurs once.

    Raises:
        ConfigError: An unknown data set, option or option value.
        DataError: The folder lacks a file (the error names it), or a file cannot be read.
    """
    if name not in _LOADERS:
        raise ConfigError("name", name, f"one of {', '.join(BUNDLES)}")
    module, _, attribute = _LOADERS[name].partition(":")
    loader: Callable[..., ToolBundle] = getattr(importlib.import_module(module), attribute)
    allowed = [key for key in inspect.signature(loader).parameters if key != "folder"]
    for key, value in options.items():
        if key not in allowed:
            expected = f"an option of {name!r}: {', '.join(allowed)}" if allowed else f"no options with {name!r}"
            raise ConfigError(key, value, expected)
    path = Path(folder)
    if not path.is_dir():
        raise DataError(f"expected the folder of the data set {name!r}, found none", path=path)
    try:
        return loader(path, **options)
    except ToolscalerError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise DataError(f"expected the layout of the data set {name!r}, got other data ({what})", path=path) from error
