"""The codebook: gist embeddings (N, V, D) go in, code sequences (N, V·L) come out, and the way back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolscaler.codebook.checks import (
    check_codes,
    check_embeddings,
    check_tool_ids,
    require_finite,
    tensors_sha256,
)
from toolscaler.codebook.collisions import COLLISION_POLICIES, CollisionPolicy, resolve_collisions
from toolscaler.codebook.fitting import fit_parts
from toolscaler.codebook.level_rows import level_rows
from toolscaler.codebook.pca import project
from toolscaler.codebook.residual_kmeans import decode_residual, encode_residual
from toolscaler.errors import CodebookError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

_TENSORS = {
    "pca_mean": "VD",
    "pca_components": "VRD",
    "pca_explained_variance": "VR",
    "pca_explained_variance_ratio": "VR",
    "centroids": "VLKR",
}


@dataclass(frozen=True, eq=False, repr=False)
class Codebook:
    """PCA and centroid tables of every gist position, and the codes of the tools they were fitted on (paper 4.1).

    Make one with :meth:`fit` or :meth:`from_pretrained`. It is immutable: its arrays are read-only copies.

    Attributes:
        pca_mean: float32 (V, D).
        pca_components: float32 (V, R, D), orthonormal rows.
        pca_explained_variance: float32 (V, R).
        pca_explained_variance_ratio: float32 (V, R), shares of the total variance of the fitted embeddings.
        centroids: float32 (V, L, K, R).
        collisions: How codes are kept apart: ``reassign``, ``suffix`` or ``share``.
        codes: int32 (N, code_length), the codes of the fitted tools; (0, code_length) without assignments.
        tool_ids: The N tool ids, in the order of ``codes``.
        suffix_size: Size of the last, counting position with policy ``suffix``; 0 with the others.
    """

    pca_mean: FloatArray
    pca_components: FloatArray
    pca_explained_variance: FloatArray
    pca_explained_variance_ratio: FloatArray
    centroids: FloatArray
    collisions: CollisionPolicy = "reassign"
    codes: IntArray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int32))
    tool_ids: tuple[str, ...] = ()
    suffix_size: int = 0

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for name, letters in _TENSORS.items():
            array = np.array(getattr(self, name), dtype=np.float32, order="C")
            if array.ndim != len(letters):
                raise CodebookError(f"expected {name} of shape ({', '.join(letters)}), got {array.shape}")
            for letter, size in zip(letters, array.shape, strict=True):
                if sizes.setdefault(letter, size) != size or size < 1:
                    raise CodebookError(f"{name}: expected {letter} = {sizes[letter]} (at least 1), got {size}")
            if not np.isfinite(array).all():
                raise CodebookError(f"expected finite values in {name}, got NaN or infinity")
            self._set(name, array)
        if self.collisions not in COLLISION_POLICIES:
            raise CodebookError(f"expected collisions of {', '.join(COLLISION_POLICIES)}, got {self.collisions!r}")
        if (self.suffix_size > 0) != (self.collisions == "suffix"):
            raise CodebookError(f"expected a suffix size with policy 'suffix' only, got {self.suffix_size}")
        empty = np.size(self.codes) == 0 and not self.tool_ids
        self._set("codes", check_codes(None if empty else self.codes, self.code_sizes))
        self._set("tool_ids", tuple(self.tool_ids))
        check_tool_ids(self.tool_ids, len(self.codes))

    def _set(self, name: str, value: Any) -> None:
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
        object.__setattr__(self, name, value)

    # ------------------------------------------------------------------ sizes

    @property
    def num_gists(self) -> int:
        """V, gist positions per tool."""
        return self.centroids.shape[0]

    @property
    def num_levels(self) -> int:
        """L, residual levels per gist position."""
        return self.centroids.shape[1]

    @property
    def num_centroids(self) -> int:
        """K, centroids per level."""
        return self.centroids.shape[2]

    @property
    def reduced_dim(self) -> int:
        """R, dimension after PCA."""
        return self.centroids.shape[3]

    @property
    def hidden_size(self) -> int:
        """D, hidden size of the base model."""
        return self.pca_mean.shape[1]

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """Vocabulary size of each code position: K for each of the V·L, then the suffix's with policy ``suffix``."""
        sizes = (self.num_centroids,) * (self.num_gists * self.num_levels)
        return (*sizes, self.suffix_size) if self.collisions == "suffix" else sizes

    @property
    def code_length(self) -> int:
        """Codes per tool: V·L, one more with policy ``suffix``."""
        return len(self.code_sizes)

    def __len__(self) -> int:
        return len(self.codes)

    def __repr__(self) -> str:
        return (
            f"Codebook(tools={len(self)}, V={self.num_gists}, L={self.num_levels}, K={self.num_centroids}, "
            f"R={self.reduced_dim}, D={self.hidden_size}, collisions={self.collisions!r})"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Codebook):
            return NotImplemented
        return self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __reduce__(self) -> tuple[Any, ...]:
        return Codebook.from_tensors, (self.to_tensors(), self.to_config())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over tensors, policy and tool ids; equal codebooks have equal fingerprints."""
        digest = hashlib.sha256(tensors_sha256(self.to_tensors()).encode())
        digest.update(f"{self.collisions}\0{self.suffix_size}\0".encode())
        digest.update("\0".join(self.tool_ids).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    # ------------------------------------------------------------------ making one

    @classmethod
    def fit(
        cls,
        embeddings: NDArray[np.floating],
        tool_ids: Sequence[str] | None = None,
        *,
        num_levels: int = 2,
        num_centroids: int = 512,
        reduced_dim: int = 32,
        collisions: CollisionPolicy = "reassign",
        balanced: bool = False,
        seed: int = 0,
        max_iterations: int = 100,
        num_restarts: int = 1,
    ) -> Codebook:
        """Fit PCA and residual k-means for each gist position, and give every tool its codes (paper section 4.1).

        Args:
            embeddings: float (N, V, D); float32 memory is read in row blocks and never copied whole, so a memory map
                serves as well.
            tool_ids: N distinct names; the row numbers as text if ``None``.
            num_levels: L (paper: 2).
            num_centroids: K (paper: 512).
            reduced_dim: R (paper: 32).
            collisions: See :func:`~toolscaler.codebook.resolve_collisions`.
            balanced: Cap the size of every cluster at 1.5 times the mean.
            seed: Seed of every random choice; the same input and seed give the same codebook.
            max_iterations: Most Lloyd iterations of one k-means run.
            num_restarts: k-means runs per level; the best is kept.

        Returns:
            The codebook. Settings that N tools cannot fill are lowered with a warning
            (:func:`~toolscaler.codebook.shrink_for_catalogue`).

        Raises:
            CodebookError: Wrong shape or dtype, NaN or infinite values, repeated tool ids, or (``reassign``) more tools
                than code sequences.
        """
        parts = fit_parts(
            embeddings,
            tool_ids,
            num_levels=num_levels,
            num_centroids=num_centroids,
            reduced_dim=reduced_dim,
            collisions=collisions,
            balanced=balanced,
            seed=seed,
            max_iterations=max_iterations,
            num_restarts=num_restarts,
        )
        return cls(**parts)

    def without_tools(self) -> Codebook:
        """Give the same codebook without assignments, for a holder that keeps the codes of its tools itself."""
        return Codebook(
            **{name: getattr(self, name) for name in _TENSORS},
            collisions=self.collisions,
            suffix_size=self.suffix_size,
        )

    # ------------------------------------------------------------------ embeddings -> codes

    def reduce(self, embeddings: NDArray[np.floating]) -> FloatArray:
        """Project embeddings with the frozen PCA.

        Args:
            embeddings: float (N, V, D).

        Returns:
            float32 (N, V, R).

        Raises:
            CodebookError: Wrong shape or dtype, NaN or infinite values.
        """
        data = check_embeddings(embeddings, self.num_gists, self.hidden_size)
        parts = [
            project(data[:, gist], self.pca_mean[gist], self.pca_components[gist]) for gist in range(self.num_gists)
        ]
        reduced = np.stack(parts, axis=1)
        require_finite(reduced)
        return reduced

    def encode_reduced(self, reduced: FloatArray) -> IntArray:
        """Nearest centroid level after level for reduced embeddings: float32 (N, V, R) -> int32 (N, V·L)."""
        parts = [encode_residual(reduced[:, gist], self.centroids[gist]) for gist in range(self.num_gists)]
        return np.concatenate(parts, axis=1)

    def quantize(
        self, embeddings: NDArray[np.floating], *, unique_against: NDArray[np.integer] | None = None
    ) -> IntArray:
        """Code embeddings by the frozen PCA and centroids (paper Algorithm 1); a row's codes depend on that row only.

        Args:
            embeddings: float (N, V, D).
            unique_against: Codes (M, V·L) in use, which may have no rows. If given, rows that collide with these or
                with each other are moved to free codes; if ``None``, collisions stay.

        Returns:
            int32 (N, V·L), position p = i·L + l, without a suffix.

        Raises:
            CodebookError: The embeddings do not fit, or no free codes are left.
        """
        reduced = self.reduce(embeddings)
        codes = self.encode_reduced(reduced)
        if unique_against is None:
            return codes
        return resolve_collisions(codes, reduced, self.centroids, "reassign", occupied=unique_against).codes

    def assign(
        self,
        embeddings: NDArray[np.floating],
        tool_ids: Sequence[str] | None = None,
        existing_codes: NDArray[np.integer] | None = None,
    ) -> IntArray:
        """Give codes to tools that come after the fit (paper Appendix A); the codebook itself does not change.

        Args:
            embeddings: float (N, V, D) of the new tools.
            tool_ids: Their names, if they are to be checked against each other and the fitted tools.
            existing_codes: Codes (M, code_length) in use; the fitted tools' if ``None``. They keep their place: under
                policy ``reassign`` a new tool that collides goes to the nearest free codes, under ``suffix`` it gets
                the next number, under ``share`` it shares.

        Returns:
            int32 (N, code_length).

        Raises:
            CodebookError: The embeddings or codes do not fit, a name is repeated or (with ``existing_codes=None``)
                already fitted, or the code space or the suffix vocabulary is full.
        """
        if tool_ids is not None:
            check_tool_ids(tuple(tool_ids), len(embeddings))
            known = set(self.tool_ids).intersection(tool_ids) if existing_codes is None else set()
            if known:
                raise CodebookError(
                    f"expected new tools, got {min(known)!r} which has codes; give existing_codes without its row"
                )
        existing = self.codes if existing_codes is None else check_codes(existing_codes, self.code_sizes)
        reduced = self.reduce(embeddings)
        codes = resolve_collisions(
            self.encode_reduced(reduced), reduced, self.centroids, self.collisions, occupied=existing
        ).codes
        if self.collisions == "suffix" and len(codes) and codes[:, -1].max() >= self.suffix_size:
            raise CodebookError(
                f"expected at most {self.suffix_size} tools of one code sequence (the suffix vocabulary), got "
                f"{int(codes[:, -1].max()) + 1}; fit the codebook again"
            )
        return codes

    # ------------------------------------------------------------------ codes -> embeddings

    def reconstruct(self, codes: NDArray[np.integer]) -> FloatArray:
        """Give the embeddings that codes stand for: inverse PCA of the sum of their centroids.

        Args:
            codes: Integers (N, V·L) or (N, code_length); a suffix carries no content and is passed over.

        Returns:
            float32 (N, V, D).

        Raises:
            CodebookError: Wrong shape, or a code out of range.
        """
        content = self._content_codes(codes)
        result = np.empty((len(content), self.num_gists, self.hidden_size), dtype=np.float32)
        for gist in range(self.num_gists):
            result[:, gist] = (
                decode_residual(self.gist_codes(content, gist), self.centroids[gist]) @ self.pca_components[gist]
            )
            result[:, gist] += self.pca_mean[gist]
        return result

    def level_embeddings(
        self, embeddings: NDArray[np.floating], codes: NDArray[np.integer] | None = None
    ) -> list[FloatArray]:
        """Give the initial row of every code token: a mean over the tools that carry the code (paper section 4.2).

        - Level 0 of gist i: mean of the original gist outputs e_{i,j}.
        - Level l > 0: inverse PCA (components only, no mean) of the residual that entered the level, averaged. The
          residual is what the tool's own codes at the levels before leave over, also where a tool was reassigned: so
          the rows of its codes explain the tool together.
        - A code that no tool carries: inverse PCA of its centroid (with the PCA mean at level 0).
        - Suffix position: inverse PCA of what the last level of the last gist leaves over, averaged; zeros for a number
          that no tool carries.

        Args:
            embeddings: float (N, V, D).
            codes: Integers (N, code_length) of the same tools; the fitted codes if ``None``.

        Returns:
            ``code_length`` arrays float32 (code_sizes[p], D), in the order of the positions.

        Raises:
            CodebookError: Shapes do not fit together.
        """
        return level_rows(self, embeddings, codes)

    def _content_codes(self, codes: NDArray[np.integer]) -> IntArray:
        content = self.num_gists * self.num_levels
        array = np.asarray(codes)
        if array.ndim == 2 and array.shape[1] == self.code_length:
            array = array[:, :content]
        return check_codes(array, self.code_sizes[:content])

    def gist_codes(self, codes: IntArray, gist: int) -> IntArray:
        """Give the columns of one gist position: (N, code_length) -> (N, L)."""
        return codes[:, gist * self.num_levels : (gist + 1) * self.num_levels]

    # ------------------------------------------------------------------ persistence

    def to_tensors(self) -> dict[str, NDArray]:
        """Give the arrays that make up the codebook, by name; :meth:`from_tensors` takes them back."""
        return {**{name: getattr(self, name) for name in _TENSORS}, "codes": self.codes}

    def to_config(self) -> dict[str, Any]:
        """Give what is not an array as values that JSON can hold, with ``format_version`` and a checksum."""
        from toolscaler.codebook.persistence import make_config

        return make_config(self)

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray], config: dict[str, Any]) -> Codebook:
        """Build a codebook from :meth:`to_tensors` and :meth:`to_config`.

        Raises:
            ArtifactError: A part is missing, damaged, or of an unknown format version.
        """
        from toolscaler.codebook.persistence import codebook_from_parts

        return codebook_from_parts(tensors, config)

    def save_pretrained(self, save_directory: str | Path) -> tuple[str, str]:
        """Write ``codebook.safetensors`` and ``codebook_config.json`` into a folder, which may hold other files.

        Args:
            save_directory: The folder; made if it does not exist.

        Returns:
            The two paths.
        """
        from toolscaler.codebook.persistence import save_codebook

        return save_codebook(self, save_directory)

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Codebook:
        """Load a codebook from a folder or a Hub repository.

        Args:
            source: Folder, or repository id such as ``user/name``.
            **options: ``revision``, ``subfolder``, ``token``, ``cache_dir``, ``local_files_only``, as in
                :func:`toolscaler.codebook.persistence.load_codebook`.

        Raises:
            ArtifactError: A file is missing, damaged, or of an unknown format version.
        """
        from toolscaler.codebook.persistence import load_codebook

        return load_codebook(source, **options)
