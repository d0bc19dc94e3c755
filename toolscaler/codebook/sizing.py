"""Sizes for small catalogues: what a catalogue of N tools can fill goes out, whatever was asked for."""

from __future__ import annotations

import logging
import math
import warnings

from toolscaler.errors import CodebookError

logger = logging.getLogger(__name__)

# A centroid that stands for fewer tools than this on average is an index, not a meaning that tools share.
_TOOLS_PER_CENTROID = 4
# One gist position alone should be able to name this many times the tools, so that reassigning stays cheap.
_SPACE_MARGIN = 2


class CatalogueSizeWarning(UserWarning):
    """A codebook setting was lowered because the catalogue is small."""


def shrink_for_catalogue(
    num_tools: int, num_centroids: int, reduced_dim: int, hidden_size: int, num_levels: int
) -> tuple[int, int, int]:
    """Lower K, R and L to what N tools can fill; large catalogues keep what was asked for.

    - R is at most D and at most N - 1 (N centred points span no more), at least 1.
    - K is at most N / 4, rounded down to a power of two, so that codes are shared and mean something; but not below the
      smallest K with ``K**L >= 2 * N``, so that each gist position alone has room for every tool; and never above N.
    - L becomes 1 where K reaches N: every tool then is its own centroid and leaves no residual.

    No value is ever raised. For the paper's K 512, R 32, L 2: N = 1 gives (1, 1, 1), N = 2 (2, 1, 1), N = 10 (5, 9, 2),
    N = 132 (32, 32, 2), N = 199 (32, 32, 2), N = 1,000 (128, 32, 2) and every N from 2,048 on (512, 32, 2).

    Args:
        num_tools: N, at least 1.
        num_centroids: K asked for.
        reduced_dim: R asked for.
        hidden_size: D.
        num_levels: L asked for.

    Returns:
        (K, R, L) to use. If any differs from what was asked for, a :class:`CatalogueSizeWarning` names the values.

    Raises:
        CodebookError: A value below 1.
    """
    asked = {
        "num_tools": num_tools,
        "num_centroids": num_centroids,
        "reduced_dim": reduced_dim,
        "hidden_size": hidden_size,
        "num_levels": num_levels,
    }
    for name, value in asked.items():
        if value < 1:
            raise CodebookError(f"expected {name} of at least 1, got {value}")
    shared = num_tools // _TOOLS_PER_CENTROID
    meaningful = 1 << (shared.bit_length() - 1) if shared else 1
    limit = min(max(meaningful, _root_up(_SPACE_MARGIN * num_tools, num_levels)), num_tools)
    # The power of two is a rounding of a limit that was passed, not a wish: what lies under N / 4 stays as asked for.
    centroids = num_centroids if num_centroids <= max(shared, limit) else limit
    reduced = min(reduced_dim, hidden_size, max(num_tools - 1, 1))
    levels = 1 if centroids >= num_tools else num_levels
    wanted, given = (num_centroids, reduced_dim, num_levels), (centroids, reduced, levels)
    if wanted != given:
        names = ("num_centroids", "reduced_dim", "num_levels")
        changes = ", ".join(f"{n} {a} -> {b}" for n, a, b in zip(names, wanted, given, strict=True) if a != b)
        message = f"a catalogue of {num_tools} tools of hidden size {hidden_size} cannot fill the codebook: {changes}"
        logger.info(message)  # the warning below is what reaches the screen
        warnings.warn(message, CatalogueSizeWarning, stacklevel=2)
    return given


def _root_up(value: int, degree: int) -> int:
    """Smallest integer whose ``degree``-th power is at least ``value``."""
    root = max(math.floor(value ** (1.0 / degree)) - 1, 1)
    while root**degree < value:
        root += 1
    return root
