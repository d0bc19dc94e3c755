"""Synthetic code sequences of catalogues of any size, skewed as codes of real catalogues are."""

from __future__ import annotations

import numpy as np

CODES = 512
LENGTH = 4

#: Zipf exponents of the four positions. At 46,985 tools they give 512 / 32.8 k / 45.4 k / 46,985 nodes a level, which
#: is a branching of 512 / 64 / 1.4 / 1.04.
EXPONENTS = (0.45, 0.8, 1.1, 1.2)


def draw_codes(count: int, seed: int = 0) -> np.ndarray:
    """Draw different code sequences, in no order; which codes are frequent depends on the codes before.

    Returns:
        int64 (count, 4), codes from 0 to 511.
    """
    rng = np.random.default_rng(seed)
    found = np.empty(0, dtype=np.int64)
    while len(found) < count:
        more = _draw_keys(rng, int(1.3 * (count - len(found))) + 1000)
        keys = np.concatenate([found, more])
        _, first = np.unique(keys, return_index=True)
        found = keys[np.sort(first)]
    keys = found[:count]
    return np.stack([keys // CODES**place % CODES for place in range(LENGTH - 1, -1, -1)], axis=1)


def _draw_keys(rng: np.random.Generator, count: int) -> np.ndarray:
    keys = np.zeros(count, dtype=np.int64)
    for exponent in EXPONENTS:
        weights = np.arange(1, CODES + 1) ** -exponent
        ranks = rng.choice(CODES, count, p=weights / weights.sum())
        shift = (keys * 0x9E3779B1 >> 7) % CODES
        keys = keys * CODES + (ranks + shift) % CODES
    return keys


def token_sequences(codes: np.ndarray, first_code_id: int) -> np.ndarray:
    """Turn codes into token ids: position p has the 512 ids from ``first_code_id + 512 p`` on."""
    return codes + first_code_id + CODES * np.arange(LENGTH)


def tool_names(count: int) -> list[str]:
    return [f"tool_{row}" for row in range(count)]


def level_sizes(codes: np.ndarray) -> list[int]:
    """Count the different prefixes of each length."""
    key, sizes = np.zeros(len(codes), dtype=np.int64), []
    for column in codes.T:
        key = key * CODES + column
        sizes.append(len(np.unique(key)))
    return sizes
