"""Score tensors full of -inf, new or used again, and numpy arrays on the same memory."""

from __future__ import annotations

import sys
from collections import deque
from typing import Any

import numpy as np
import torch

from toolscaler.errors import ConfigError

#: dtype of scores -> the integers it is viewed as where numpy has no such dtype, and -inf in the array's own terms.
ARRAY_FORMS: dict[torch.dtype, tuple[torch.dtype | None, float | int]] = {
    torch.float32: (None, -np.inf),
    torch.float64: (None, -np.inf),
    torch.float16: (None, -np.inf),
    torch.bfloat16: (torch.int16, -128),
}

#: Buffers that a pool keeps. ``generate`` holds the result of a step while it asks for the next, so two take turns.
_POOL_SIZE = 4


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """View a CPU tensor of one of :data:`ARRAY_FORMS` as an array; bfloat16 as its bits, int16."""
    integers = ARRAY_FORMS[tensor.dtype][0]
    return tensor.numpy() if integers is None else tensor.view(integers).numpy()


class Buffer:
    """A contiguous (B, vocabulary) tensor of -inf, its memory as an array, and what was written since.

    Args:
        scores: float (B, vocabulary) tensor whose shape and dtype it takes.
    """

    __slots__ = ("_alone", "_storage", "_version", "array", "dtype", "empty", "shape", "tensor", "written")

    def __init__(self, scores: torch.Tensor) -> None:
        # No other name may hold the tensor here: the references counted below are those of a buffer nobody uses.
        self.shape, self.dtype = scores.shape, scores.dtype
        self.tensor = torch.full(scores.shape, -torch.inf, dtype=scores.dtype, device="cpu")
        self._storage = self.tensor.untyped_storage()
        self.array = as_array(self.tensor)
        self.empty = ARRAY_FORMS[scores.dtype][1]
        self.written: np.ndarray | tuple[int, int] | None = None
        self._version = self.tensor._version
        self._alone = self._uses()

    def _uses(self) -> tuple[int, int, int, int]:
        """Count who holds the tensor and its memory: in Python, in C++, as a storage object, as any view."""
        return (
            sys.getrefcount(self.tensor),
            self.tensor._use_count(),
            sys.getrefcount(self._storage),
            torch._C._storage_Use_Count(self._storage._cdata),
        )

    @property
    def changed(self) -> bool:
        """Whether somebody wrote into the tensor, gave it another shape, or hung something on it."""
        tensor = self.tensor
        return tensor._version != self._version or tensor.requires_grad or bool(tensor.__dict__)

    def reset(self) -> bool:
        """Fill with -inf again, if it is certain that nobody can see it; say whether it was done."""
        if self._uses() != self._alone or self.changed:
            return False
        if isinstance(self.written, tuple):
            self.array[:, self.written[0] : self.written[1]] = self.empty
        elif self.written is not None:
            self.array.reshape(-1)[self.written] = self.empty
        self.written = None
        return True


class BufferPool:
    """Buffers to use again; safe for several threads, as a buffer leaves the pool while it is looked at.

    Raises:
        ConfigError: This Python or torch cannot say who uses a tensor.
    """

    def __init__(self) -> None:
        if not getattr(sys, "_is_gil_enabled", lambda: True)():
            raise ConfigError("reuse_buffer", True, "False without the global interpreter lock: references say nothing")
        if not hasattr(torch.Tensor, "_use_count") or not hasattr(torch._C, "_storage_Use_Count"):
            raise ConfigError("reuse_buffer", True, "False with this version of torch, which does not count references")
        self._free: deque[Buffer] = deque(maxlen=_POOL_SIZE)  # past that the oldest is let go

    def take(self, scores: torch.Tensor) -> Buffer:
        """Give a buffer of the scores' shape and dtype that holds -inf alone and that nobody else can see."""
        for _ in range(len(self._free)):
            try:
                buffer = self._free.popleft()
            except IndexError:  # another thread has it
                break
            if buffer.shape == scores.shape and buffer.dtype == scores.dtype and buffer.reset():
                return buffer
            if not buffer.changed:
                self._free.append(buffer)  # of another shape, or in use still
        return Buffer(scores)

    def give(self, buffer: Buffer) -> None:
        """Offer a buffer for use after whoever has its tensor lets go of it."""
        self._free.append(buffer)

    def __reduce__(self) -> tuple[Any, ...]:
        return BufferPool, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> BufferPool:
        return BufferPool()
