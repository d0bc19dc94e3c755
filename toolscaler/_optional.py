"""Import optional packages late, and fail with the name of the extra that brings them."""

from __future__ import annotations

import importlib
from types import ModuleType

from toolscaler.errors import MissingDependencyError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import ``module`` or say which extra brings it.

    Args:
        module: Dotted module name, for example ``sklearn.decomposition``.
        extra: Name of the extra of this package that installs it.
        purpose: What needs it, as the start of the error's sentence.

    Returns:
        The imported module.

    Raises:
        MissingDependencyError: The package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != top:
            raise
        raise MissingDependencyError(top, extra, purpose) from error
