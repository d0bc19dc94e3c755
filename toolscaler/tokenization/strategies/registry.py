"""Strategies by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from toolscaler.errors import ConfigError
from toolscaler.tokenization.strategies.atomic import AtomicStrategy
from toolscaler.tokenization.strategies.base import TokenizationStrategy
from toolscaler.tokenization.strategies.codes import ToolscalerStrategy
from toolscaler.tokenization.strategies.digits import HierarchicalStrategy, NumericalStrategy
from toolscaler.tokenization.strategies.names import SemanticStrategy

#: Name -> strategy, in the order of the paper's tables (Table 3).
STRATEGIES: Mapping[str, type[TokenizationStrategy]] = {
    kind.name: kind
    for kind in (NumericalStrategy, HierarchicalStrategy, SemanticStrategy, AtomicStrategy, ToolscalerStrategy)
}


def make_strategy(name: str, options: Mapping[str, Any] | None = None) -> TokenizationStrategy:
    """Make a strategy from plain data.

    Args:
        name: ``numerical``, ``hierarchical``, ``semantic``, ``atomic`` or ``toolscaler``.
        options: Fields of the strategy's class.

    Raises:
        ConfigError: The name or an option is unknown, or a value is not allowed.
    """
    if name not in STRATEGIES:
        raise ConfigError("strategy", name, f"one of {', '.join(map(repr, STRATEGIES))}")
    kind, given = STRATEGIES[name], dict(options or {})
    known = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ConfigError(f"{name}.{key}", given[key], f"no such option{hint}; allowed: {', '.join(known)}")
    try:
        return kind(**given)
    except TypeError as error:  # a value that cannot even be compared
        raise ConfigError(name, given, f"options of the types that {kind.__name__} takes: {error}") from error
