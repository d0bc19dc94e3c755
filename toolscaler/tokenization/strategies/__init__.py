"""Tokenization strategies (paper, appendix C): documents and a base tokenizer in, a token sequence for each tool out.

All five leave the same thing behind, a :class:`~toolscaler.tokenization.ToolscalerTokenizer` that knows its strategy,
so that one trainer, one trie decoder and one evaluator serve them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolscaler._lazy import lazy_attribute, lazy_names

# Public name -> module; imported on first use, since tokenizers bring transformers along (PEP 562).
_PUBLIC = {
    "STRATEGIES": "toolscaler.tokenization.strategies.registry",
    "AtomicStrategy": "toolscaler.tokenization.strategies.atomic",
    "FirstRows": "toolscaler.tokenization.strategies.base",
    "HierarchicalStrategy": "toolscaler.tokenization.strategies.digits",
    "NumericalStrategy": "toolscaler.tokenization.strategies.digits",
    "SemanticStrategy": "toolscaler.tokenization.strategies.names",
    "SubtokenLengths": "toolscaler.tokenization.strategies.lengths",
    "TokenizationStrategy": "toolscaler.tokenization.strategies.base",
    "TokenizedCatalogue": "toolscaler.tokenization.strategies.base",
    "ToolscalerStrategy": "toolscaler.tokenization.strategies.codes",
    "make_strategy": "toolscaler.tokenization.strategies.registry",
    "plot_subtoken_lengths": "toolscaler.tokenization.strategies.lengths",
    "subtoken_lengths": "toolscaler.tokenization.strategies.lengths",
}

if TYPE_CHECKING:
    from toolscaler.tokenization.strategies.atomic import AtomicStrategy
    from toolscaler.tokenization.strategies.base import FirstRows, TokenizationStrategy, TokenizedCatalogue
    from toolscaler.tokenization.strategies.codes import ToolscalerStrategy
    from toolscaler.tokenization.strategies.digits import HierarchicalStrategy, NumericalStrategy
    from toolscaler.tokenization.strategies.lengths import SubtokenLengths, plot_subtoken_lengths, subtoken_lengths
    from toolscaler.tokenization.strategies.names import SemanticStrategy
    from toolscaler.tokenization.strategies.registry import STRATEGIES, make_strategy

__all__ = [
    "STRATEGIES",
    "AtomicStrategy",
    "FirstRows",
    "HierarchicalStrategy",
    "NumericalStrategy",
    "SemanticStrategy",
    "SubtokenLengths",
    "TokenizationStrategy",
    "TokenizedCatalogue",
    "ToolscalerStrategy",
    "make_strategy",
    "plot_subtoken_lengths",
    "subtoken_lengths",
]


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
