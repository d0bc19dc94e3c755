"""Gist embeddings go in, code sequences come out, and the way back: PCA, residual k-means, unique codes (paper 4.1)."""

from __future__ import annotations

from toolscaler.codebook.codebook import Codebook
from toolscaler.codebook.collisions import CollisionCounts, CollisionResolution, count_collisions, resolve_collisions
from toolscaler.codebook.persistence import codebook_from_files
from toolscaler.codebook.plots import plot_codebook_usage
from toolscaler.codebook.quantizers import Quantizer
from toolscaler.codebook.report import codebook_report
from toolscaler.codebook.settings import QuantizerSettings
from toolscaler.codebook.similarity import hamming_distance, prefix_similarity
from toolscaler.codebook.sizing import CatalogueSizeWarning, shrink_for_catalogue
from toolscaler.codebook.statistics import CodebookStatistics, codebook_statistics

__all__ = [
    "CatalogueSizeWarning",
    "Codebook",
    "CodebookStatistics",
    "CollisionCounts",
    "CollisionResolution",
    "Quantizer",
    "QuantizerSettings",
    "codebook_from_files",
    "codebook_report",
    "codebook_statistics",
    "count_collisions",
    "hamming_distance",
    "plot_codebook_usage",
    "prefix_similarity",
    "resolve_collisions",
    "shrink_for_catalogue",
]
