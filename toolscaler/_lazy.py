"""Lazy public names of a package (PEP 562): a name's module is imported when the name is first asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any


def lazy_attribute(package: str, public: Mapping[str, str], name: str) -> Any:
    """Resolve a package's attribute, for its module-level ``__getattr__``.

    Args:
        package: The package's ``__name__``.
        public: Public name → dotted name of the module that defines it.
        name: The attribute.

    Raises:
        AttributeError: The package has no such name.
    """
    if name not in public:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(public[name]), name)
    setattr(sys.modules[package], name, value)
    return value


def lazy_names(package: str, public: Mapping[str, str]) -> list[str]:
    """List a package's names, for its module-level ``__dir__``."""
    return sorted(set(vars(sys.modules[package])) | set(public))
