"""How a codebook makes codes, beside its arrays: quantiser, encoding, reassignment and preprocessing by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from toolscaler.errors import CodebookError

QuantizerName = Literal[
    "residual_kmeans", "balanced_residual_kmeans", "product_kmeans", "hierarchical_kmeans", "fsq", "rqvae"
]
EncodingName = Literal["greedy", "beam"]
ReassignmentName = Literal["greedy", "joint"]
ProjectionName = Literal["pca", "none"]
MetricName = Literal["l2", "cosine"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "quantizer": get_args(QuantizerName),
    "encoding": get_args(EncodingName),
    "reassignment": get_args(ReassignmentName),
    "projection": get_args(ProjectionName),
    "metric": get_args(MetricName),
}


@dataclass(frozen=True)
class QuantizerSettings:
    """Everything about making codes that is not an array. The defaults are the paper's (section 4.1).

    Attributes:
        quantizer: The kind, see :meth:`toolscaler.codebook.Codebook.fit`.
        options: Options of that kind as they were given to the fit.
        encoding: ``greedy`` (nearest centroid level after level) or ``beam`` (levels of a gist position together).
            Tools that are added later are coded the same way.
        beam_width: Prefixes kept a level with ``encoding="beam"``.
        reassignment: How ``collisions="reassign"`` searches: ``greedy`` or ``joint``.
        projection: ``pca`` or ``none`` (vectors are centred only).
        whiten: Every reduced dimension is divided by its standard deviation.
        normalize: Embeddings are brought to one length before the projection.
        metric: ``l2``, or ``cosine``: reduced vectors are brought to one length, on which the squared Euclidean
            distance is proportional to one minus the cosine.
    """

    quantizer: QuantizerName = "residual_kmeans"
    options: Mapping[str, Any] = field(default_factory=dict)
    encoding: EncodingName = "greedy"
    beam_width: int = 8
    reassignment: ReassignmentName = "greedy"
    projection: ProjectionName = "pca"
    whiten: bool = False
    normalize: bool = False
    metric: MetricName = "l2"

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise CodebookError(f"expected {name} of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if not isinstance(self.beam_width, int) or self.beam_width < 1:
            raise CodebookError(f"expected a beam width of at least 1, got {self.beam_width!r}")
        for name in ("whiten", "normalize"):
            if not isinstance(getattr(self, name), bool):
                raise CodebookError(f"expected {name} to be true or false, got {getattr(self, name)!r}")
        if not isinstance(self.options, Mapping):
            raise CodebookError(f"expected quantizer_options as a mapping, got {self.options!r}")
        object.__setattr__(self, "options", dict(self.options))

    def to_dict(self) -> dict[str, Any]:
        """Give values that JSON can hold; ``QuantizerSettings(**values)`` takes them back."""
        return dataclasses.asdict(self)

    def preprocessing_tensors(self) -> tuple[str, ...]:
        """Names of the extra arrays that the preprocessing needs, in a fixed order."""
        wanted = (("input_norm", self.normalize), ("scale", self.whiten), ("point_norm", self.metric == "cosine"))
        return tuple(name for name, used in wanted if used)


def check_options(kind: str, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Give the options of a quantiser with its defaults filled in.

    Raises:
        CodebookError: An option that the kind does not have.
    """
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        known = ", ".join(sorted(defaults)) or "none"
        raise CodebookError(f"quantizer_options of {kind}: expected {known}, got {unknown[0]!r}")
    return {**defaults, **options}
