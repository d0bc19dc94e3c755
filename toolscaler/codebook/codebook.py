"""The codebook: gist embeddings (N, V, D) go in, code sequences (N, V·L) come out, and the way back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
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
from toolscaler.codebook.preprocessing import Preprocessing, preprocessing_from_tensors
from toolscaler.codebook.quantizers import Quantizer, quantizer_from_tensors
from toolscaler.codebook.settings import (
    EncodingName,
    MetricName,
    ProjectionName,
    QuantizerName,
    QuantizerSettings,
    ReassignmentName,
)
from toolscaler.errors import CodebookError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

_TENSORS = {
    "pca_mean": "VD",
    "pca_components": "VRD",
    "pca_explained_variance": "VR",
    "pca_explained_variance_ratio": "VR",
    "centroids": "VLKZ",
}


@dataclass(frozen=True, eq=False, repr=False)
class Codebook:
    """Projection and quantiser of every gist position, and the codes of the tools they were fitted on (paper 4.1).

    Make one with :meth:`fit` or :meth:`from_pretrained`. It is immutable: its arrays are read-only copies.

    Attributes:
        pca_mean: float32 (V, D).
        pca_components: float32 (V, R, D), orthonormal rows; (V, 0, D) with ``projection="none"``.
        pca_explained_variance: float32 (V, R).
        pca_explained_variance_ratio: float32 (V, R), shares of the total variance of the fitted embeddings.
        centroids: float32 (V, L, K, R); levels of fewer codes end in zeros. For ``rqvae`` they lie in its latent space
            of Z dimensions, for ``hierarchical_kmeans`` they are averages over the tree.
        collisions: How codes are kept apart: ``reassign``, ``suffix`` or ``share``.
        codes: int32 (N, code_length), the codes of the fitted tools; (0, code_length) without assignments.
        tool_ids: The N tool ids, in the order of ``codes``.
        suffix_size: Size of the last, counting position with policy ``suffix``; 0 with the others.
        settings: Quantiser, encoding, reassignment and preprocessing by name.
        level_sizes: Codes of each of the L levels; K each if not given.
        extra_tensors: Arrays that only some quantisers and preprocessing steps have, by name.
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
    settings: QuantizerSettings = field(default_factory=QuantizerSettings)
    level_sizes: tuple[int, ...] = ()
    extra_tensors: Mapping[str, NDArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for name, letters in _TENSORS.items():
            array = np.array(getattr(self, name), dtype=np.float32, order="C")
            if array.ndim != len(letters):
                raise CodebookError(f"expected {name} of shape ({', '.join(letters)}), got {array.shape}")
            for letter, size in zip(letters, array.shape, strict=True):
                least = 0 if letter == "R" and self.settings.projection == "none" else 1
                if sizes.setdefault(letter, size) != size or size < least:
                    raise CodebookError(f"{name}: expected {letter} = {sizes[letter]} (at least 1), got {size}")
            if not np.isfinite(array).all():
                raise CodebookError(f"expected finite values in {name}, got NaN or infinity")
            self._set(name, array)
        if self.collisions not in COLLISION_POLICIES:
            raise CodebookError(f"expected collisions of {', '.join(COLLISION_POLICIES)}, got {self.collisions!r}")
        if (self.suffix_size > 0) != (self.collisions == "suffix"):
            raise CodebookError(f"expected a suffix size with policy 'suffix' only, got {self.suffix_size}")
        self._set_parts(sizes)
        empty = np.size(self.codes) == 0 and not self.tool_ids
        self._set("codes", check_codes(None if empty else self.codes, self.code_sizes))
        self._set("tool_ids", tuple(self.tool_ids))
        check_tool_ids(self.tool_ids, len(self.codes))

    def _set_parts(self, sizes: dict[str, int]) -> None:
        """Check what belongs to the quantiser and build the working objects."""
        levels = tuple(self.level_sizes) or (sizes["K"],) * sizes["L"]
        if len(levels) != sizes["L"] or max(levels) != sizes["K"] or min(levels) < 1:
            raise CodebookError(f"expected {sizes['L']} level sizes of 1 to {sizes['K']}, got {levels}")
        self._set("level_sizes", levels)
        extra = {name: np.array(self.extra_tensors[name], order="C") for name in sorted(self.extra_tensors)}
        for name, array in extra.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise CodebookError(f"expected finite values in {name}, got NaN or infinity")
            array.setflags(write=False)
        self._set("extra_tensors", extra)
        width = sizes["R"] if self.settings.projection == "pca" else sizes["D"]
        shapes = {"input_norm": (sizes["V"],), "scale": (sizes["V"], width), "point_norm": (sizes["V"],)}
        for name in self.settings.preprocessing_tensors():
            if name not in extra or extra[name].shape != shapes[name]:
                raise CodebookError(
                    f"expected {name} of shape {shapes[name]}, got {getattr(extra.get(name), 'shape', None)}"
                )
        own: list[dict[str, NDArray]] = [{} for _ in range(sizes["V"])]
        for name in set(extra) - set(self.settings.preprocessing_tensors()):
            gist, _, part = name.partition(".")
            number = gist.removeprefix("gist_")
            if not part or not number.isdecimal() or int(number) >= len(own):
                raise CodebookError(f"expected no array {name!r} with quantizer {self.settings.quantizer}")
            own[int(number)][part] = extra[name]
        quantizers = tuple(
            quantizer_from_tensors(self.settings.quantizer, table, levels, part)
            for table, part in zip(self.centroids, own, strict=True)
        )
        if quantizers[0].reconstruct(np.zeros((1, len(levels)), dtype=np.int32)).shape[1] != width:
            raise CodebookError(f"expected a quantizer of {width} dimensions, got centroids {self.centroids.shape}")
        self._set("_quantizers", quantizers)
        steps = (
            preprocessing_from_tensors(self.pca_mean, self.pca_components, extra, gist) for gist in range(sizes["V"])
        )
        self._set("_steps", tuple(steps))

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
        """K, centroids per level; of the largest level where they differ."""
        return self.centroids.shape[2]

    @property
    def reduced_dim(self) -> int:
        """R, dimension after PCA; D without a projection."""
        return self.pca_components.shape[1] or self.hidden_size

    @property
    def quantizers(self) -> tuple[Quantizer, ...]:
        """The quantiser of each gist position, on vectors that :meth:`reduce` gives."""
        return self._quantizers  # type: ignore[attr-defined]

    @property
    def preprocessing(self) -> tuple[Preprocessing, ...]:
        """The steps before the quantiser of each gist position."""
        return self._steps  # type: ignore[attr-defined]

    @property
    def hidden_size(self) -> int:
        """D, hidden size of the base model."""
        return self.pca_mean.shape[1]

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """Vocabulary size of each code position: the level's for each of the V·L, then the suffix's if there is one."""
        sizes = self.level_sizes * self.num_gists
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
            f"R={self.reduced_dim}, D={self.hidden_size}, collisions={self.collisions!r}, "
            f"quantizer={self.settings.quantizer!r})"
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
        if self.settings != QuantizerSettings():
            digest.update(json.dumps(self.settings.to_dict(), sort_keys=True).encode())
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
        quantizer: QuantizerName = "residual_kmeans",
        quantizer_options: Mapping[str, Any] | None = None,
        encoding: EncodingName = "greedy",
        beam_width: int = 8,
        reassignment: ReassignmentName = "greedy",
        projection: ProjectionName = "pca",
        whiten: bool = False,
        normalize: bool = False,
        metric: MetricName = "l2",
    ) -> Codebook:
        """Fit a projection and a quantiser for each gist position, and give every tool its codes (paper section 4.1).

        The defaults, PCA and residual k-means, are the paper's.

        Args:
            embeddings: float (N, V, D); float32 memory is read in row blocks and never copied whole, so a memory map
                serves as well.
            tool_ids: N distinct names; the row numbers as text if ``None``.
            num_levels: L (paper: 2).
            num_centroids: K (paper: 512).
            reduced_dim: R (paper: 32).
            collisions: See :func:`~toolscaler.codebook.resolve_collisions`.
            balanced: Cap the size of every cluster at 1.5 times the mean; the same as
                ``quantizer="balanced_residual_kmeans"``.
            seed: Seed of every random choice; the same input and seed give the same codebook.
            max_iterations: Most Lloyd iterations of one k-means run.
            num_restarts: k-means runs per level; the best is kept.
            quantizer: ``residual_kmeans``; ``balanced_residual_kmeans``; ``product_kmeans`` (groups of dimensions, no
                residual); ``hierarchical_kmeans`` (clusters inside clusters); ``fsq`` (residual k-means whose last
                level is a grid); ``rqvae`` (trained on the CPU with torch; the paper's contrast).
            quantizer_options: ``product_kmeans``: ``split`` (``balanced``, ``contiguous``). ``hierarchical_kmeans``:
                ``tools_per_leaf`` (4). ``fsq``: ``levels``, values of each axis of the grid. ``rqvae``: ``steps``,
                ``batch_size``, ``learning_rate``, ``hidden_size``, ``latent_dim``, ``commitment``, ``evaluate_every``.
                The others have none.
            encoding: ``greedy`` (the paper's Algorithm 1), or ``beam``: the levels of a gist position are searched
                together, which lowers the error. Tools added later are coded the same way.
            beam_width: Prefixes kept a level with ``encoding="beam"``.
            reassignment: With ``collisions="reassign"``: ``greedy``, or ``joint`` for the least total added error.
                Tools added later are reassigned the same way.
            projection: ``pca``, or ``none``: R is D then, and ``reduced_dim`` is not looked at.
            whiten: Divide every reduced dimension by its standard deviation.
            normalize: Bring embeddings to one length before the projection.
            metric: ``l2`` or ``cosine`` (of the reduced vectors).

        Returns:
            The codebook. Settings that N tools cannot fill are lowered with a warning
            (:func:`~toolscaler.codebook.shrink_for_catalogue`).

        Raises:
            CodebookError: Wrong shape or dtype, NaN or infinite values, repeated tool ids, an unknown name or option,
                or (``reassign``) more tools than code sequences.
        """
        if balanced:
            if quantizer not in ("residual_kmeans", "balanced_residual_kmeans"):
                raise CodebookError(f"expected balanced=True with residual_kmeans only, got quantizer {quantizer!r}")
            quantizer = "balanced_residual_kmeans"
        settings = QuantizerSettings(
            quantizer=quantizer,
            options=quantizer_options or {},
            encoding=encoding,
            beam_width=beam_width,
            reassignment=reassignment,
            projection=projection,
            whiten=whiten,
            normalize=normalize,
            metric=metric,
        )
        parts = fit_parts(
            embeddings,
            tool_ids,
            num_levels=num_levels,
            num_centroids=num_centroids,
            reduced_dim=reduced_dim,
            collisions=collisions,
            settings=settings,
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
            settings=self.settings,
            level_sizes=self.level_sizes,
            extra_tensors=self.extra_tensors,
        )

    # ------------------------------------------------------------------ embeddings -> codes

    def reduce(self, embeddings: NDArray[np.floating]) -> FloatArray:
        """Project embeddings with the frozen PCA (and the other preprocessing steps, if there are any).

        Args:
            embeddings: float (N, V, D).

        Returns:
            float32 (N, V, R).

        Raises:
            CodebookError: Wrong shape or dtype, NaN or infinite values.
        """
        data = check_embeddings(embeddings, self.num_gists, self.hidden_size)
        reduced = np.stack([step.reduce(data[:, gist]) for gist, step in enumerate(self.preprocessing)], axis=1)
        require_finite(reduced)
        return reduced

    def encode_reduced(self, reduced: FloatArray) -> IntArray:
        """Code reduced embeddings, before any collision policy: float32 (N, V, R) -> int32 (N, V·L).

        Nearest centroid level after level, or by beam search with ``encoding="beam"``.
        """
        beam = self.settings.beam_width if self.settings.encoding == "beam" else None
        parts = [part.quantize(reduced[:, gist], beam_width=beam) for gist, part in enumerate(self.quantizers)]
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
        return self._resolve(codes, reduced, "reassign", unique_against)

    def _resolve(
        self, codes: IntArray, reduced: FloatArray, policy: CollisionPolicy, occupied: NDArray[np.integer]
    ) -> IntArray:
        how = self.settings.reassignment
        return resolve_collisions(codes, reduced, self.quantizers, policy, occupied=occupied, reassignment=how).codes

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
        codes = self._resolve(self.encode_reduced(reduced), reduced, self.collisions, existing)
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
        for gist, quantizer in enumerate(self.quantizers):
            result[:, gist] = self.expand(quantizer.reconstruct(self.gist_codes(content, gist)), gist)
            result[:, gist] += self.pca_mean[gist]
        return result

    def expand(self, points: NDArray[np.floating], gist: int) -> NDArray[np.floating]:
        """Take reduced vectors (N, R) of a gist position, or differences of such, back to (N, D), without the mean."""
        return self.preprocessing[gist].expand(points)

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
        return {**{name: getattr(self, name) for name in _TENSORS}, "codes": self.codes, **self.extra_tensors}

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
