"""The list of readers: which format is read by which module, and which one fits a source."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from toolscaler.data.sources.base import SourceReader
from toolscaler.data.sources.opening import Source
from toolscaler.errors import AmbiguousSourceError, ConfigError, DataError

# Format -> "module:class" of its reader; a module is imported when its reader is first asked.
_READERS: dict[str, str | Callable[[], SourceReader]] = {
    "documents": "toolscaler.data.sources.plain:DocumentsReader",
    "openai": "toolscaler.data.sources.openai:OpenAIReader",
    "mcp": "toolscaler.data.sources.mcp:MCPReader",
    "openapi": "toolscaler.data.sources.openapi:OpenAPIReader",
    "toolbench": "toolscaler.data.sources.toolbench:ToolBenchReader",
    "descriptions": "toolscaler.data.sources.plain:DescriptionsReader",
    "table": "toolscaler.data.sources.plain:TableReader",
}
_INSTANCES: dict[str, SourceReader] = {}


def register_reader(name: str, factory: str | Callable[[], SourceReader]) -> None:
    """Add a format of your own; :func:`~toolscaler.data.load_tool_documents` then finds it like the built-in ones.

    Args:
        name: Name of the format.
        factory: A :class:`SourceReader` class (or function that gives a reader), or ``"module:class"``.

    Raises:
        ConfigError: The name is taken.
    """
    if name in _READERS:
        raise ConfigError("name", name, f"a format that is not registered yet; taken: {available_formats()}")
    _READERS[name] = factory


def unregister_reader(name: str) -> None:
    """Take a format out again.

    Raises:
        ConfigError: No such format.
    """
    if name not in _READERS:
        raise ConfigError("name", name, f"one of {available_formats()}")
    del _READERS[name]
    _INSTANCES.pop(name, None)


def available_formats() -> tuple[str, ...]:
    """Give the names of every format that can be read, sorted."""
    return tuple(sorted(_READERS))


def get_reader(name: str) -> SourceReader:
    """Give the reader of a format.

    Raises:
        ConfigError: No such format.
    """
    if name not in _READERS:
        raise ConfigError("format", name, f"one of {', '.join(available_formats())}")
    if name not in _INSTANCES:
        factory = _READERS[name]
        if isinstance(factory, str):
            module, _, attribute = factory.partition(":")
            factory = getattr(importlib.import_module(module), attribute)
        _INSTANCES[name] = factory()
    return _INSTANCES[name]


def find_reader(source: Source) -> SourceReader:
    """Find the one reader that fits a source, from its content.

    Raises:
        AmbiguousSourceError: Several readers fit; the error names them.
        DataError: None fits; the error lists the formats.
    """
    fitting = [name for name in available_formats() if get_reader(name).sniff(source)]
    if len(fitting) == 1:
        return get_reader(fitting[0])
    if fitting:
        raise AmbiguousSourceError(fitting, path=source.path)
    known = "; ".join(f"{name} ({get_reader(name).summary})" for name in available_formats())
    raise DataError(f"no reader fits this source; choose one with format=...: {known}", path=source.path)
