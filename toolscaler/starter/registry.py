"""Collect the starter's tool functions: a decorator that registers, and a lookup by tool id."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from toolscaler.data.documents import ToolDocument
from toolscaler.data.sources.functions import document_from_function
from toolscaler.errors import UnknownToolError

_Function = TypeVar("_Function", bound=Callable[..., Any])
_FUNCTIONS: dict[str, tuple[Callable[..., Any], str]] = {}

#: Provider of every starter tool; a tool's id is ``starter/<function name>``.
PROVIDER = "starter"


def starter_tool(category: str) -> Callable[[_Function], _Function]:
    """Register a function as a tool of ``category``.

    The function keeps working as a plain function. It needs type hints and a Google-style docstring that describes
    every argument; both become the tool's document.

    Args:
        category: Category of the tool, for example ``Dates``.

    Raises:
        ValueError: Another tool has the same function name.
    """

    def register(function: _Function) -> _Function:
        name = function.__name__
        if name in _FUNCTIONS and _FUNCTIONS[name][0].__module__ != function.__module__:
            raise ValueError(f"two starter tools are named {name!r}")
        _FUNCTIONS[name] = (function, category)
        return function

    return register


@lru_cache(maxsize=1)
def _load_all() -> None:
    from toolscaler.starter import tools

    for module in sorted(info.name for info in pkgutil.iter_modules(tools.__path__)):
        importlib.import_module(f"{tools.__name__}.{module}")


@lru_cache(maxsize=1)
def _documents() -> tuple[ToolDocument, ...]:
    _load_all()
    entries = sorted(_FUNCTIONS.items(), key=lambda item: (item[1][1], item[0]))
    return tuple(document_from_function(fn, provider=PROVIDER, category=category) for _, (fn, category) in entries)


def load_starter_documents() -> list[ToolDocument]:
    """Give the documents of every starter tool, sorted by category, then name."""
    return list(_documents())


def starter_function(tool: str) -> Callable[..., Any]:
    """Give the Python function behind a starter tool.

    Args:
        tool: Tool id (``starter/add_days``) or function name (``add_days``).

    Raises:
        UnknownToolError: No such tool.
    """
    _load_all()
    name = tool.removeprefix(f"{PROVIDER}/")
    if name not in _FUNCTIONS:
        raise UnknownToolError(tool, (f"{PROVIDER}/{known}" for known in _FUNCTIONS))
    return _FUNCTIONS[name][0]


def call_starter_tool(tool: str, /, **arguments: Any) -> Any:
    """Call a starter tool and give its result, which is plain JSON data.

    Args:
        tool: Tool id or function name.
        **arguments: Arguments by name.

    Raises:
        UnknownToolError: No such tool.
        TypeError: An argument is missing or unknown.
        ValueError: The tool refuses an argument's value.
    """
    return starter_function(tool)(**arguments)
