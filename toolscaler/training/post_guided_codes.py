"""Current gist outputs go in, the rows that embedding init would write for the codes come out, differentiable.

The slow twin is :func:`toolscaler.embedding.reframe_vectors`: for the same gist outputs both give the same vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from toolscaler._files import atomic_path
from toolscaler.codebook import Codebook
from toolscaler.errors import ArtifactError, TrainingError

CACHE_FILE = "gist_cache.safetensors"
CODEBOOK_FOLDER = "codebook"

_TINY = 1e-12


@dataclass(frozen=True)
class LiveRows:
    """The rows of this step.

    Attributes:
        table: float32 (codes, D): the vector of every code, position by position, not scaled. Its gradient goes to the
            live tools that carry a code, as that of the mean which it is.
        own: float32 (M, code_length, D): for each live tool, what it alone gives to each of its codes.
        norms: float32 (code_length,): mean norm of the carried rows of each position, without gradient.
        positions: int64 (codes,): position of each row.
    """

    table: Tensor
    own: Tensor
    norms: Tensor
    positions: Tensor


class _Step:
    """The preprocessing of one gist position in torch; :class:`toolscaler.codebook.preprocessing.Preprocessing`."""

    def __init__(self, codebook: Codebook, gist: int, device: torch.device) -> None:
        step = codebook.preprocessing[gist]

        def tensor(value: Any) -> Tensor | None:
            return None if value is None else torch.tensor(value, dtype=torch.float32, device=device)

        self.mean = torch.tensor(step.mean, dtype=torch.float32, device=device)
        self.components = tensor(step.components) if len(step.components) else None
        self.input_norm, self.scale, self.point_norm = map(tensor, (step.input_norm, step.scale, step.point_norm))

    def reduce(self, vectors: Tensor) -> Tensor:
        """(M, D) to (M, R)."""
        if self.input_norm is not None:
            vectors = _to_length(vectors, self.input_norm)
        reduced = vectors - self.mean
        if self.components is not None:
            reduced = reduced @ self.components.T
        if self.scale is not None:
            reduced = reduced / self.scale
        return reduced if self.point_norm is None else _to_length(reduced, self.point_norm)

    def expand(self, points: Tensor) -> Tensor:
        """(M, R) to (M, D), without the mean."""
        scaled = points if self.scale is None else points * self.scale
        return scaled if self.components is None else scaled @ self.components


def _to_length(vectors: Tensor, length: Tensor | float) -> Tensor:
    return vectors * (length / vectors.norm(dim=-1, keepdim=True).clamp(min=_TINY))


class CodeRowBank:
    """One codebook, the gist outputs of all tools as they were last seen, and the code rows that follow from both.

    The gist outputs are the cache. Its bound: one float32 (N, V, D) array in main memory, which fitting the codebook
    needs anyway; on the device there are a sum for each code and R numbers a tool and level. Its staleness rule: a tool
    of the present batch (of any process) counts as it is now; any other tool as it was in its last batch, and if it had
    none since the codebook was fitted, as it was then. So nothing is older than one epoch.

    Args:
        codebook: The codebook, with the codes of all N tools.
        embeddings: Gist outputs, float32 (N, V, D), in the order of ``codebook.tool_ids``.
        device: Where rows are computed.
        epoch: Epochs trained when the codebook was fitted.

    Raises:
        TrainingError: Codebook and embeddings are of different tools or widths.
    """

    def __init__(
        self,
        codebook: Codebook,
        embeddings: np.ndarray | Tensor,
        device: torch.device | str = "cpu",
        *,
        epoch: int = 0,
    ) -> None:
        expected = (len(codebook), codebook.num_gists, codebook.hidden_size)
        if tuple(embeddings.shape) != expected:
            raise TrainingError(f"embeddings: expected shape (N, V, D) = {expected}, got {tuple(embeddings.shape)}")
        self.codebook, self.device, self.epoch = codebook, torch.device(device), epoch
        self.cache = torch.as_tensor(np.asarray(embeddings), dtype=torch.float32).clone()
        self.sizes = tuple(codebook.code_sizes)
        starts = np.cumsum([0, *self.sizes[:-1]])
        #: int64 (N, code_length): the row of each code of each tool in :attr:`LiveRows.table`.
        self.places = torch.tensor(codebook.codes.astype(np.int64) + starts, device=self.device)
        self._starts = [int(start) for start in starts]
        self._steps = [_Step(codebook, gist, self.device) for gist in range(codebook.num_gists)]
        self._partials = [
            [torch.tensor(part, dtype=torch.float32, device=self.device) for part in quantizer.partials(gist_codes)]
            for gist, quantizer in enumerate(codebook.quantizers)
            for gist_codes in [codebook.gist_codes(codebook.codes, gist)]
        ]
        self._counts = [
            torch.bincount(self.places[:, position] - start, minlength=size).to(torch.float32)
            for position, (start, size) in enumerate(zip(self._starts, self.sizes, strict=True))
        ]
        self._fallback = self._uncarried()
        self.rebuild()

    def __len__(self) -> int:
        return len(self.cache)

    @torch.no_grad()
    def rebuild(self) -> None:
        """Sum the cached gist outputs of each code afresh; running sums gather rounding errors."""
        self._sums: list[Tensor] = []
        block = 4096
        for position, size in enumerate(self.sizes):
            total: Tensor | None = None
            for start in range(0, len(self), block):
                tools = torch.arange(start, min(start + block, len(self)))
                values = self._entering(self.cache[tools].to(self.device), tools.to(self.device), position)
                if total is None:
                    total = torch.zeros(size, values.shape[1], device=self.device)
                total.index_add_(0, self.places[tools.to(self.device), position] - self._starts[position], values)
            self._sums.append(torch.zeros(size, 1) if total is None else total)

    def rows(self, gists: Tensor, tools: Tensor, others: tuple[Tensor, Tensor] | None = None) -> LiveRows:
        """Give the code rows of this step (paper section 4.2, reframe embedding).

        Args:
            gists: Current gist outputs of the live tools, (M, V, D), with gradient.
            tools: Their numbers in the catalogue, int64 (M,), each once.
            others: Gist outputs and numbers of tools that are live in other processes (own ones are passed over).

        Returns:
            The rows. Codes that no tool carries have the inverse PCA of their centroid.
        """
        gists = gists.to(self.device, torch.float32)
        everyone, numbers = gists, tools
        if others is not None and len(others[1]):
            new = ~torch.isin(others[1], tools)
            everyone = torch.cat([gists, others[0][new].to(gists)])
            numbers = torch.cat([tools, others[1][new]])
        before = self.cache[numbers.cpu()].to(self.device)
        tables, own = [], []
        for position, (start, size) in enumerate(zip(self._starts, self.sizes, strict=True)):
            entering = self._entering(everyone, numbers, position)
            with torch.no_grad():
                stale = self._entering(before, numbers, position)
            change = torch.zeros(size, entering.shape[1], device=self.device)
            change = change.index_add(0, self.places[numbers, position] - start, entering - stale)
            counts = self._counts[position][:, None]
            means = self._expand((self._sums[position] + change) / counts.clamp(min=1), position)
            tables.append(torch.where(counts > 0, means, self._fallback[position]))
            own.append(self._expand(entering[: len(tools)], position))
        norms = [
            part.detach().norm(dim=1)[counts > 0].mean() for part, counts in zip(tables, self._counts, strict=True)
        ]
        sizes = torch.tensor(self.sizes, device=self.device)
        positions = torch.arange(len(sizes), device=self.device).repeat_interleave(sizes)
        return LiveRows(torch.cat(tables), torch.stack(own, dim=1), torch.stack(norms), positions)

    @torch.no_grad()
    def update(self, gists: Tensor, tools: Tensor) -> None:
        """Take over the gist outputs of a step, (M, V, D), of the tools with these numbers, int64 (M,), each once."""
        gists = gists.detach().to(self.device, torch.float32)
        before = self.cache[tools.cpu()].to(self.device)
        for position, start in enumerate(self._starts):
            change = self._entering(gists, tools, position) - self._entering(before, tools, position)
            self._sums[position].index_add_(0, self.places[tools, position] - start, change)
        self.cache[tools.cpu()] = gists.cpu()

    def _gist_and_level(self, position: int) -> tuple[int, int]:
        """Give gist and level of a code position; the suffix is one level more of the last gist."""
        content = self.codebook.num_gists * self.codebook.num_levels
        if position == content:
            return self.codebook.num_gists - 1, self.codebook.num_levels
        return divmod(position, self.codebook.num_levels)

    def _entering(self, gists: Tensor, tools: Tensor, position: int) -> Tensor:
        """Give what a tool puts into the mean of its code: the gist output, or the residual that entered the level."""
        gist, level = self._gist_and_level(position)
        if level == 0:
            return gists[:, gist]
        return self._steps[gist].reduce(gists[:, gist]) - self._partials[gist][level][tools]

    def _expand(self, values: Tensor, position: int) -> Tensor:
        gist, level = self._gist_and_level(position)
        return values if level == 0 else self._steps[gist].expand(values)

    def _uncarried(self) -> list[Tensor]:
        rows: list[Tensor] = []
        for gist, quantizer in enumerate(self.codebook.quantizers):
            for level, table in enumerate(quantizer.level_vectors()):
                vectors = self._steps[gist].expand(torch.tensor(table, dtype=torch.float32, device=self.device))
                rows.append(vectors + self._steps[gist].mean if level == 0 else vectors)
        if len(rows) < len(self.sizes):
            rows.append(torch.zeros(self.sizes[-1], self.codebook.hidden_size, device=self.device))
        return rows

    # ---- persistence ----

    def save(self, folder: str | Path) -> None:
        """Write codebook and cache into a checkpoint's folder."""
        self.codebook.save_pretrained(Path(folder) / CODEBOOK_FOLDER)
        with atomic_path(Path(folder) / CACHE_FILE) as temporary:
            save_file({"gists": self.cache, "epoch": torch.tensor([self.epoch])}, temporary, metadata={"format": "pt"})

    @classmethod
    def load(cls, folder: str | Path, tool_ids: Sequence[str], device: torch.device | str = "cpu") -> CodeRowBank:
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: Files are missing, damaged or of another catalogue.
        """
        path = Path(folder) / CACHE_FILE
        codebook = Codebook.from_pretrained(Path(folder) / CODEBOOK_FOLDER)
        if list(codebook.tool_ids) != list(tool_ids):
            raise ArtifactError("the checkpoint's codebook is of another catalogue; start in a new folder", path=folder)
        if not path.is_file():
            raise ArtifactError("expected the gist outputs beside the codebook, found none", path=path)
        found = load_file(str(path))
        return cls(codebook, found["gists"], device, epoch=int(found["epoch"]))
