"""A catalogue goes in, a retriever that follows its changes comes out; added tools are served by a draft if wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolscaler.catalogue.catalogue import ToolCatalogue
    from toolscaler.data.documents import ToolDocument
    from toolscaler.decoding import GenerativeRetriever
    from toolscaler.decoding.hybrid import HybridRetriever
    from toolscaler.decoding.result import Retriever

DraftFactory = Callable[[list["ToolDocument"]], "Retriever"]


def load_retriever(
    catalogue: ToolCatalogue,
    hybrid: Retriever | DraftFactory | None,
    hybrid_options: Mapping[str, Any],
    kwargs: Mapping[str, Any],
) -> GenerativeRetriever | HybridRetriever:
    """See :meth:`toolscaler.catalogue.ToolCatalogue.retriever`."""
    from toolscaler.decoding import GenerativeRetriever

    model = GenerativeRetriever.from_pretrained(catalogue.folder, **kwargs)
    catalogue.attach(model.tokenizer)
    return model if hybrid is None else with_draft(catalogue, model, hybrid, hybrid_options)


def with_draft(
    catalogue: ToolCatalogue,
    model: GenerativeRetriever,
    hybrid: Retriever | DraftFactory,
    hybrid_options: Mapping[str, Any],
) -> HybridRetriever:
    """Put a draft before a generative retriever, which ranks the tools that the model was not trained on."""
    from toolscaler.decoding.hybrid import HybridRetriever

    # A class has the method too; only an instance can be asked.
    makes = isinstance(hybrid, type) or not hasattr(hybrid, "retrieve")
    draft: Any = hybrid(catalogue.documents()) if makes else hybrid  # type: ignore[operator]
    found = HybridRetriever(draft, model, unseen=catalogue.untrained, **hybrid_options)

    def follow() -> None:
        if makes:
            found.draft = hybrid(catalogue.documents())  # type: ignore[operator]
        found.unseen = frozenset(catalogue.untrained)

    catalogue.on_change(follow)
    return found
