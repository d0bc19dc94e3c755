"""Training of the RQ-VAE quantiser: reduced vectors go in, networks and codebooks come out; it needs torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toolscaler.codebook.quantizers.rqvae import NETWORK, RQVAEQuantizer
from toolscaler.codebook.residual_kmeans import fit_residual_kmeans
from toolscaler.codebook.settings import check_options
from toolscaler.errors import CodebookError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]

OPTIONS: dict[str, Any] = {
    "steps": 600,
    "batch_size": 1024,
    "learning_rate": 1e-3,
    "hidden_size": 128,
    "latent_dim": None,
    "commitment": 0.25,
    "evaluate_every": 50,
}
_EVALUATION_ROWS = 8192


def _checked(options: Mapping[str, Any], reduced_dim: int) -> dict[str, Any]:
    values = check_options("rqvae", options, OPTIONS)
    values["latent_dim"] = reduced_dim if values["latent_dim"] is None else values["latent_dim"]
    for name in ("steps", "batch_size", "hidden_size", "latent_dim", "evaluate_every"):
        if not isinstance(values[name], int) or values[name] < 1:
            raise CodebookError(f"expected {name} of at least 1, got {values[name]!r}")
    for name in ("learning_rate", "commitment"):
        if not isinstance(values[name], int | float) or not 0 < values[name] < float("inf"):
            raise CodebookError(f"expected {name} above 0, got {values[name]!r}")
    # A small catalogue has fewer reduced dimensions than were asked for.
    values["latent_dim"] = min(values["latent_dim"], reduced_dim)
    return values


class _Model:
    """The six network arrays and the codebooks (L, K, Z) as leaf tensors, and the forward pass."""

    def __init__(self, tables: FloatArray, reduced: int, hidden: int, generator: torch.Generator) -> None:
        import torch

        latent = tables.shape[2]
        self.network = {
            "encoder_in": torch.randn(reduced, hidden, generator=generator) * (2.0 / reduced) ** 0.5,
            "encoder_bias": torch.zeros(hidden),
            # Zero: training starts at plain residual k-means on the leading dimensions and can only gain on it.
            "encoder_out": torch.zeros(hidden, latent),
            "decoder_in": torch.randn(latent, hidden, generator=generator) * (2.0 / latent) ** 0.5,
            "decoder_bias": torch.zeros(hidden),
            "decoder_out": torch.zeros(hidden, reduced),
        }
        self.tables = torch.from_numpy(tables.copy())
        for tensor in (*self.network.values(), self.tables):
            tensor.requires_grad_(True)

    def _apply(self, name: str, values: torch.Tensor, width: int) -> torch.Tensor:
        import torch

        part = self.network
        out = (values @ part[f"{name}_in"] + part[f"{name}_bias"]).relu() @ part[f"{name}_out"]
        shared = min(width, values.shape[1])
        skip = torch.nn.functional.pad(values[:, :shared], (0, width - shared))
        return out + skip

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """Give the reconstruction, the latent vectors, the codes of each level and the quantisation loss terms' sum."""
        import torch

        latent = self._apply("encoder", values, self.tables.shape[2])
        residual, codes = latent, []
        pull = push = torch.zeros(())
        total = torch.zeros_like(latent)
        for table in self.tables:
            with torch.no_grad():
                scores = (table * table).sum(1) - 2.0 * residual @ table.T
                found = scores.argmin(dim=1)
            chosen = table[found]
            pull = pull + (residual.detach() - chosen).square().sum(1).mean()
            push = push + (residual - chosen.detach()).square().sum(1).mean()
            codes.append(found)
            total = total + chosen
            residual = residual - chosen.detach()
        straight = latent + (total - latent).detach()
        return self._apply("decoder", straight, values.shape[1]), latent, codes, torch.stack([pull, push])

    def revive(self, used: list[torch.Tensor], latent: torch.Tensor, codes: list[torch.Tensor], rng: Any) -> int:
        """Give every code that no vector used the residual of a random vector of the batch; says how many."""
        import torch

        moved = 0
        with torch.no_grad():
            residual = latent.clone()
            for level, counts in enumerate(used):
                table = self.tables[level]
                before = table[codes[level]]
                dead = torch.nonzero(counts == 0)[:, 0]
                picks = torch.randint(len(residual), (len(dead),), generator=rng)
                table[dead] = residual[picks]
                moved += len(dead)
                residual = residual - before
        return moved

    def error(self, values: torch.Tensor) -> float:
        """Relative squared error of the reconstruction."""
        import torch

        lost = 0.0
        with torch.no_grad():
            for block in values.split(_EVALUATION_ROWS):
                lost += float((self.forward(block)[0] - block).square().sum(dtype=torch.float64))
        return lost / max(float(values.square().sum(dtype=torch.float64)), 1e-30)

    def snapshot(self) -> dict[str, FloatArray]:
        """Copies of all arrays as numpy."""
        parts = {**self.network, "tables": self.tables}
        return {name: tensor.detach().numpy().copy() for name, tensor in parts.items()}


def fit_rqvae(
    vectors: FloatArray,
    num_levels: int,
    num_centroids: int,
    *,
    seed: Sequence[int],
    options: Mapping[str, Any],
    **run: Any,
) -> tuple[RQVAEQuantizer, None]:
    """Train an RQ-VAE on reduced vectors on one CPU thread; on one machine, equal seeds give equal bits.

    Codebooks start as those of residual k-means and the networks as the identity, so training starts at the error of
    residual k-means; the state of least error on the vectors is kept. Gradients pass the quantisation straight through.
    A code that no vector used since the last evaluation is moved to the residual of a random vector.

    Args:
        vectors: float32 (N, R).
        num_levels: L.
        num_centroids: K.
        seed: Numbers that seed every random choice.
        options: ``steps`` 600, ``batch_size`` 1024, ``learning_rate`` 1e-3, ``hidden_size`` 128, ``latent_dim`` (R),
            ``commitment`` 0.25, ``evaluate_every`` 50 steps.
        **run: Settings of the k-means that codebooks start from.

    Raises:
        CodebookError: An unknown option or one out of range.
    """
    import torch

    reduced = vectors.shape[1]
    values = _checked(options, reduced)
    scale = np.float32(max(float(np.sqrt(np.mean(np.square(vectors, dtype=np.float64)))), 1e-12))
    data = torch.from_numpy(np.ascontiguousarray(vectors / scale, dtype=np.float32))
    tables, _ = fit_residual_kmeans(
        data.numpy()[:, : values["latent_dim"]], num_levels, num_centroids, seed=seed, **run
    )
    generator = torch.Generator().manual_seed(int(np.random.default_rng([*seed, 77]).integers(2**31)))
    model = _Model(tables, reduced, values["hidden_size"], generator)
    threads = torch.get_num_threads()
    # One thread: sums have one order then, and batches are too small for more to help.
    torch.set_num_threads(1)
    try:
        best, history = _train(model, data, values, generator)
    finally:
        torch.set_num_threads(threads)
    quantizer = RQVAEQuantizer(
        [table * scale for table in best["tables"]],
        {name: best[name] for name in NETWORK},
        np.array([scale], dtype=np.float32),
        np.array(history, dtype=np.float32),
    )
    return quantizer, None


def _train(
    model: _Model, data: torch.Tensor, values: Mapping[str, Any], generator: torch.Generator
) -> tuple[dict[str, FloatArray], list[float]]:
    import torch

    optimizer = torch.optim.Adam([*model.network.values(), model.tables], lr=values["learning_rate"])
    history = [model.error(data)]
    best = model.snapshot()
    batch_size = min(values["batch_size"], len(data))
    used = [torch.zeros(table.shape[0], dtype=torch.int64) for table in model.tables]
    for step in range(1, values["steps"] + 1):
        rows = torch.randint(len(data), (batch_size,), generator=generator)
        batch = data[rows]
        rebuilt, latent, codes, terms = model.forward(batch)
        loss = (rebuilt - batch).square().sum(1).mean() + terms[0] + values["commitment"] * terms[1]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        for counts, found in zip(used, codes, strict=True):
            counts += torch.bincount(found, minlength=len(counts))
        if step % values["evaluate_every"] == 0 or step == values["steps"]:
            history.append(model.error(data))
            if history[-1] == min(history):
                best = model.snapshot()
            moved = model.revive(used, latent.detach(), codes, generator)
            used = [torch.zeros_like(counts) for counts in used]
            logger.debug("RQ-VAE: step %d, relative error %.6g, %d codes moved", step, history[-1], moved)
    return best, history
