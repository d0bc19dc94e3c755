"""Safetensors files from strangers: the header is checked against the file before a single tensor is read."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolscaler._files import parse_json, read_bytes
from toolscaler.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np

#: Longest header that is read, in bytes; one of 100,000 tensors takes about a tenth of it.
MAX_HEADER_BYTES = 1 << 27
#: Largest file that is read into memory at once.
MAX_READ_BYTES = 1 << 36

# Name in the header -> bytes an element, and numpy's name where numpy has such a type.
_DTYPES: dict[str, tuple[int, str]] = {
    "BOOL": (1, "?"),
    "U8": (1, "u1"),
    "I8": (1, "i1"),
    "U16": (2, "<u2"),
    "I16": (2, "<i2"),
    "U32": (4, "<u4"),
    "I32": (4, "<i4"),
    "U64": (8, "<u8"),
    "I64": (8, "<i8"),
    "F16": (2, "<f2"),
    "BF16": (2, ""),
    "F32": (4, "<f4"),
    "F64": (8, "<f8"),
    "F8_E4M3": (1, ""),
    "F8_E5M2": (1, ""),
}
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor, checked.

    Attributes:
        dtype: Name of the type, for example ``F32``.
        shape: Its shape.
        start: First byte in the file.
        stop: Byte behind the last one.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file whose header fits its size.

    Attributes:
        path: The file.
        tensors: Tensor name -> what the header says.
        metadata: Free text by name.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    def refuse_others(self, wanted: Collection[str], optional: Collection[str] = ()) -> None:
        """Check which tensors there are.

        Raises:
            ArtifactError: Some are missing, or there are others; both are named.
        """
        missing = sorted(set(wanted) - self.tensors.keys())
        unexpected = sorted(self.tensors.keys() - set(wanted) - set(optional))
        if missing or unexpected:
            raise ArtifactError(
                f"tensors: missing {_few(missing)}, unexpected {_few(unexpected)}; save the file again", path=self.path
            )

    def expect(self, name: str, shape: tuple[int | None, ...], dtypes: Collection[str]) -> None:
        """Check one tensor before it is read.

        Args:
            name: A tensor that is there.
            shape: Its shape; ``None`` fits any size.
            dtypes: Allowed names of types.

        Raises:
            ArtifactError: It has another shape or type.
        """
        found = self.tensors[name]
        fits = len(found.shape) == len(shape) and all(
            want is None or want == size for want, size in zip(shape, found.shape, strict=True)
        )
        if not fits or found.dtype not in dtypes:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise ArtifactError(
                f"tensor {name}: expected {' or '.join(sorted(dtypes))} of shape ({wanted}), got {found.dtype} of "
                f"shape {found.shape}",
                path=self.path,
            )

    def arrays(self, *, mapped: bool = False) -> dict[str, np.ndarray]:
        """Give all tensors as numpy arrays.

        Args:
            mapped: Give read-only views of the file instead of copies.

        Returns:
            Arrays by name, in the header's order.

        Raises:
            ArtifactError: The file cannot be read, or has a type that numpy lacks.
        """
        import numpy as np

        for name, info in self.tensors.items():
            if not _DTYPES[info.dtype][1]:
                raise ArtifactError(f"tensor {name}: expected a type that numpy has, got {info.dtype}", path=self.path)
        try:
            # numpy maps no empty file; here there is at least the header.
            data = np.memmap(self.path, dtype=np.uint8, mode="r") if mapped else np.fromfile(self.path, dtype=np.uint8)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"cannot be read: {error}", path=self.path) from error
        if max((info.stop for info in self.tensors.values()), default=0) > len(data):
            raise ArtifactError("the file became shorter while it was read", path=self.path)
        whole = data.view(np.ndarray)
        found = {}
        for name, info in self.tensors.items():
            array = whole[info.start : info.stop].view(_DTYPES[info.dtype][1]).reshape(info.shape)
            found[name] = array if mapped else array.copy()
        return found


def open_tensors(path: str | Path, what: str = "a safetensors file", *, max_bytes: int = MAX_READ_BYTES) -> TensorFile:
    """Read and check the header of a safetensors file; no tensor is read.

    The format: 8 bytes with the header's length, the header (JSON), the data. Each tensor's bytes must be what its type
    and shape need, and the tensors must cover the data without gap or overlap.

    Args:
        path: The file.
        what: What is expected there, for the error's sentence.
        max_bytes: Largest file.

    Raises:
        ArtifactError: The file is missing, too large, or its header does not fit.
    """
    source = Path(path)
    if not source.is_file():
        read_bytes(source, 0, what)  # says what is there instead
    try:
        size = source.stat().st_size
        with source.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > size - 8 or length < 2:
                raise ArtifactError(f"expected {what}, its header is longer than the file", path=path)
            if length > MAX_HEADER_BYTES or size > max_bytes:
                raise ArtifactError(
                    f"expected {what} of at most {max_bytes} bytes, its header at most {MAX_HEADER_BYTES}; got {size} "
                    f"and {length}",
                    path=path,
                )
            text = file.read(length)
    except OSError as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"expected {what}, it cannot be read: {error}", path=path) from error
    header = parse_json(text, path, what=f"the header of {what}")
    if not isinstance(header, dict):
        raise ArtifactError(f"expected {what}, its header is no JSON object", path=path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ArtifactError(f"expected {what}, its metadata is no table of texts", path=path)
    tensors = {name: _checked(name, entry, 8 + length, path) for name, entry in header.items()}
    place = 8 + length
    for info in sorted(tensors.values(), key=lambda info: (info.start, info.stop)):
        if info.start != place:
            raise ArtifactError(f"expected {what}, its tensors overlap or leave gaps at byte {place}", path=path)
        place = info.stop
    if place != size:
        raise ArtifactError(f"expected {what} of {place} bytes as its header says, got {size}: it is cut", path=path)
    return TensorFile(source, tensors, metadata)


def _checked(name: str, entry: Any, offset: int, path: str | Path) -> TensorInfo:
    """Check one entry of a header."""
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise ArtifactError(f"tensor {name!r:.80}: expected dtype, shape and data_offsets", path=path)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ArtifactError(f"tensor {name!r:.80}: expected one of {', '.join(_DTYPES)}, got {dtype!r:.80}", path=path)
    if not _whole_numbers(shape) or len(shape) > 8 or not _whole_numbers(offsets) or len(offsets) != 2:
        raise ArtifactError(f"tensor {name!r:.80}: expected a shape and two offsets as whole numbers", path=path)
    needed = math.prod(shape) * _DTYPES[dtype][0]
    if offsets[1] - offsets[0] != needed:
        raise ArtifactError(
            f"tensor {name!r:.80}: {dtype} of shape {shape!r:.80} needs {needed!r:.40} bytes, its offsets are "
            f"{offsets!r:.80}",
            path=path,
        )
    return TensorInfo(dtype, tuple(shape), offset + offsets[0], offset + offsets[1])


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48 for value in values
    )


def _few(names: list[str]) -> str:
    """List the first names, as JSON, so that line breaks in them cannot forge a message."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return json.dumps([name[:80] for name in names[:4]]) + more
