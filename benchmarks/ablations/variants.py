"""What is compared: for each ablation its variants, the first of which is the default that the others are held to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One way to make codes and to start from them.

    Attributes:
        name: Shown in tables.
        codebook: Keywords of ``Codebook.fit`` that differ from its defaults.
        embedding: Keywords of ``initialize_code_embeddings`` that differ from its defaults, and of
            :func:`benchmarks.ablations.bench.spread_vectors`.
        source: Where embeddings come from: ``gists``, ``lsa`` or a sentence-transformers model.
        num_gists: Gist tokens V of the compressor.
        readout_layers: Layers that gists are read off.
        shuffle: Share of tools whose embeddings are exchanged before the fit: a control whose codes mean less.
        start_from: ``compressor`` or ``base``: the weights that are tuned; empty for what the base's recipe does.
        several: A query of several relevant tools gives ``one row each``, one row with ``one drawn``, or one with ``all
            in order``.
        untie: Give the model an output head of its own first.
        control: The variant is not meant to be used; figures are shown with and without such.
    """

    name: str
    codebook: Mapping[str, Any] = field(default_factory=dict)
    embedding: Mapping[str, Any] = field(default_factory=dict)
    source: str = "gists"
    num_gists: int = 2
    readout_layers: int = 1
    shuffle: float = 0.0
    start_from: str = ""
    several: str = "one row each"
    untie: bool = False
    control: bool = False

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result: all but the name and what it is for."""
        values = dataclasses.asdict(self)
        del values["name"], values["control"]
        return values

    def key(self, more: Mapping[str, Any]) -> str:
        """Name of the cell's file: equal settings are run once, whatever ablation they belong to."""
        text = json.dumps({**self.settings(), **more}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


SENTENCES = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT = Variant("default")

_CODEBOOKS = {
    "balanced": {"quantizer": "balanced_residual_kmeans"},
    "product": {"quantizer": "product_kmeans"},
    "hierarchical": {"quantizer": "hierarchical_kmeans"},
    "fsq last level": {"quantizer": "fsq"},
    "rqvae": {"quantizer": "rqvae"},
    "joint reassignment": {"reassignment": "joint"},
    "beam + joint": {"encoding": "beam", "reassignment": "joint"},
    "whitened": {"whiten": True},
    "normalised": {"normalize": True},
    "cosine": {"metric": "cosine"},
    "no projection": {"projection": "none"},
    "R 8": {"reduced_dim": 8},
    "R 2": {"reduced_dim": 2},
    "K 16": {"num_centroids": 16},
    "K 8": {"num_centroids": 8},
    "L 1": {"num_levels": 1},
    "L 3, K 16": {"num_levels": 3, "num_centroids": 16},
    "balanced, K 8, L 3": {"quantizer": "balanced_residual_kmeans", "num_centroids": 8, "num_levels": 3},
    "suffix": {"collisions": "suffix"},
}

EXPERIMENTS: dict[str, tuple[str, tuple[Variant, ...]]] = {
    "codebooks": (
        "Codebooks over one set of gist embeddings: kinds, options, sizes, and controls with shuffled embeddings",
        (
            DEFAULT,
            *(Variant(name, codebook) for name, codebook in _CODEBOOKS.items()),
            *(Variant(f"{share:.0%} shuffled", shuffle=share, control=True) for share in (0.25, 0.5, 1.0)),
        ),
    ),
    "embedding": (
        "First rows of the code tokens",
        (
            DEFAULT,
            Variant("PCA mean on every level", embedding={"level_mean": True}),
            Variant("scale none (the paper)", embedding={"scale": "none"}),
            Variant("scale none, PCA mean", embedding={"scale": "none", "level_mean": True}),
            Variant("random", embedding={"init": "random"}),
            Variant("centred", embedding={"centre": True}),
            Variant("half random", embedding={"noise": 0.5}),
            Variant("centred, half random", embedding={"centre": True, "noise": 0.5}),
            Variant("untied head, written", untie=True),
            Variant("untied head, not written", embedding={"write_head": False}, untie=True),
            Variant("untied head, random", embedding={"init": "random"}, untie=True),
        ),
    ),
    "sizes": (
        "Levels L, centroids K, reduced dimensions R, gist tokens V",
        (
            DEFAULT,
            Variant("L 1", {"num_levels": 1}),
            Variant("L 3", {"num_levels": 3}),
            Variant("K 8", {"num_centroids": 8}),
            Variant("K 16", {"num_centroids": 16}),
            Variant("R 4", {"reduced_dim": 4}),
            Variant("R 8", {"reduced_dim": 8}),
            Variant("R 16", {"reduced_dim": 16}),
            Variant("R 64", {"reduced_dim": 64}),
            Variant("V 1", num_gists=1),
            Variant("V 1, L 4", {"num_levels": 4}, num_gists=1),
            Variant("V 4, L 1", {"num_levels": 1}, num_gists=4),
        ),
    ),
    "collisions": (
        "Collision policy",
        (
            DEFAULT,
            Variant("reassign, joint", {"reassignment": "joint"}),
            Variant("suffix", {"collisions": "suffix"}),
            Variant("share", {"collisions": "share"}),
            # Fewer codes, so that there is something to keep apart.
            Variant("K 4, reassign", {"num_centroids": 4}),
            Variant("K 4, reassign, joint", {"num_centroids": 4, "reassignment": "joint"}),
            Variant("K 4, suffix", {"num_centroids": 4, "collisions": "suffix"}),
            Variant("K 4, share", {"num_centroids": 4, "collisions": "share"}),
        ),
    ),
    "readout": (
        "Layers that gists are read off (the base made from scratch has three)",
        (
            DEFAULT,
            Variant("mean of the last two", readout_layers=2),
            Variant("mean of the last three", readout_layers=3),
        ),
    ),
    "source": (
        "Where embeddings come from: trained gists, or an encoder off the shelf",
        (
            DEFAULT,
            Variant("gists, random rows", embedding={"init": "random"}),
            Variant("gists, V 1, L 4", {"num_levels": 4}, num_gists=1),
            Variant("LSA", {"num_levels": 4}, source="lsa"),
            Variant("LSA, random rows", {"num_levels": 4}, {"init": "random"}, source="lsa"),
            Variant("MiniLM", {"num_levels": 4}, source=SENTENCES),
            Variant("MiniLM, random rows", {"num_levels": 4}, {"init": "random"}, source=SENTENCES),
            Variant("gists, untrained base", start_from="base"),
            Variant("LSA, untrained base", {"num_levels": 4}, source="lsa", start_from="base"),
            Variant("MiniLM, untrained base", {"num_levels": 4}, source=SENTENCES, start_from="base"),
        ),
    ),
    "backbone": (
        "Weights that are tuned: the base's own, or merged with what compression trained",
        (
            Variant("original", start_from="base"),
            Variant("merged with the compressor", start_from="compressor"),
            Variant("original, random rows", embedding={"init": "random"}, start_from="base"),
            Variant("merged, random rows", embedding={"init": "random"}, start_from="compressor"),
        ),
    ),
    "several": (
        "Queries with several relevant tools",
        (DEFAULT, Variant("one drawn", several="one drawn"), Variant("all in order", several="all in order")),
    ),
}
