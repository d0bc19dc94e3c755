"""What one call of a logits processor asks of a device: operations, and moments when the host would have to wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

#: Tensor methods and functions that wait for the device, or copy between it and pageable memory.
_WAITING = {"tolist", "item", "numpy", "cpu", "tensor", "as_tensor", "repeat_interleave"}
_WAITING |= {"__bool__", "__int__", "__float__", "__index__", "__array__", "__contains__"}
#: Operations whose result has a size that only the device knows.
_UNSIZED = {"aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim"}


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.unsized = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func._schema.name in ("aten::index", "aten::index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        self.unsized += by_mask or func._schema.name in _UNSIZED
        if not func.is_view and not func._schema.name.startswith(("prim::", "aten::_local_scalar_dense", "aten::lift")):
            self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


class _Waits(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        # With its size said beforehand, repeat_interleave need not look into the tensor.
        if name in _WAITING and not (name == "repeat_interleave" and (kwargs or {}).get("output_size") is not None):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def count_operations(method: Callable[[Any, torch.Tensor], Any], step: Any, scores: torch.Tensor) -> dict[str, int]:
    """Count the operations that are no views, and the waits, of one call; the call before it fills caches."""
    method(step, scores)
    with _Waits() as waits, _Operations() as operations:
        method(step, scores)
    return {"operations": len(operations.names), "waits": len(waits.names) + operations.unsized}
