"""Tensors in files, read and written block by block: safetensors, whole or in shards.

Nothing is mapped into memory (mapped pages count as resident until the file is closed)
and no tensor is held twice, so the peak of loading is what stays plus one block. Only
the safetensors format and GGUF (`kljax.models.gguf_file`) are read; a pickle never is.
"""

import json
import math
import os
import pathlib
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from kljax.errors import CheckpointError

__all__ = ["Stored", "open_folder", "open_safetensors", "read", "write_safetensors"]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
BLOCK_BYTES = 1 << 23
HEADER_LIMIT = 100_000_000
DTYPES: Mapping[str, Any] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies and how its bytes become numbers."""

    file: pathlib.Path
    name: str
    shape: tuple[int, ...]
    start: int
    row_bytes: int
    """Of one row: the last axis of `shape`."""
    decode: Callable[[np.ndarray], np.ndarray]
    """Bytes `[rows, row_bytes]` to numbers `[rows, shape[-1]]`."""
    dtype: np.dtype
    """What `decode` gives."""

    @property
    def rows(self) -> int:
        """How many rows of `row_bytes` there are."""
        return math.prod(self.shape[:-1])

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.rows * self.row_bytes

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Some rows at a time, as numbers.

        Raises:
          CheckpointError: the file ends before the tensor does.
        """
        step = max(1, BLOCK_BYTES // max(self.row_bytes, 1))
        with self.file.open("rb") as file:
            file.seek(self.start)
            for first in range(0, self.rows, step):
                count = min(step, self.rows - first)
                raw = np.fromfile(file, np.uint8, count * self.row_bytes)
                if raw.size != count * self.row_bytes:
                    raise truncated(self.file, self)
                yield (
                    slice(first, first + count),
                    self.decode(raw.reshape(count, self.row_bytes)),
                )


def truncated(file: pathlib.Path, stored: Stored) -> CheckpointError:
    """The error of a file that ends within a tensor."""
    return CheckpointError(
        f"{file}: truncated, {stored.name} ends at byte {stored.end} and the file at "
        f"{file.stat().st_size}. Remedy: download or save it again."
    )


def read(stored: Stored, dtype: Any, *, transposed: bool = False) -> np.ndarray:
    """One tensor in the given dtype, its two axes swapped if asked for.

    Args:
      stored: where it lies.
      dtype: of the result.
      transposed: swap the axes of a matrix, while reading.

    Raises:
      CheckpointError: the file ends before the tensor does.
    """
    width = stored.shape[-1] if stored.shape else 1
    if transposed:
        swapped = np.empty((width, stored.rows), dtype)
        for rows, block in stored.blocks():
            swapped[:, rows] = block.astype(dtype, copy=False).T
        return swapped
    out = np.empty((stored.rows, width), dtype)
    for rows, block in stored.blocks():
        out[rows] = block
    return out.reshape(stored.shape)


def open_folder(folder: pathlib.Path) -> dict[str, Stored]:
    """The tensors of a folder in the Hugging Face layout, by name; none is read yet.

    Raises:
      CheckpointError: no safetensors there (a pickle is refused), a shard missing,
        damaged or without a tensor that the index promises.
    """
    if (folder / INDEX).is_file():
        return _open_shards(folder)
    if (folder / WEIGHTS).is_file():
        return open_safetensors(folder / WEIGHTS)
    pickles = sorted(x.name for pattern in PICKLES for x in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder}: holds {pickles[0]} and no {WEIGHTS}. A pickle can run any code "
            "when it is read, so it is refused. Remedy: get the safetensors form, or "
            "convert the file where you trust it (save_pretrained of transformers)."
        )
    raise CheckpointError(
        f"{folder}: no {WEIGHTS} and no {INDEX}. Remedy: give the folder that "
        "save_pretrained wrote, or a .gguf file."
    )


def _open_shards(folder: pathlib.Path) -> dict[str, Stored]:
    index = folder / INDEX
    try:
        placed = json.loads(index.read_text("utf-8"))["weight_map"]
        shards = sorted(set(placed.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index}: not an index of shards ({error!r}). Remedy: download it again."
        ) from error
    tensors: dict[str, Stored] = {}
    for shard in shards:
        # The index comes from elsewhere: it must not lead out of the folder.
        if pathlib.PurePath(shard).name != shard:
            raise CheckpointError(
                f"{index}: {shard!r} is not the name of a shard. Remedy: download it "
                "again."
            )
        if not (folder / shard).is_file():
            first = min(name for name, where in placed.items() if where == shard)
            raise CheckpointError(
                f"{folder / shard}: missing, {first} should be in it. Remedy: download "
                "that shard again."
            )
        found = open_safetensors(folder / shard)
        promised = [name for name, where in placed.items() if where == shard]
        for name in promised:
            if name not in found:
                raise CheckpointError(
                    f"{folder / shard}: holds no {name}, which {INDEX} says is in it. "
                    "Remedy: download that shard again."
                )
        # A tensor that the index does not name stays: the caller says it is foreign.
        tensors = found | tensors | {name: found[name] for name in promised}
    return tensors


def open_safetensors(file: pathlib.Path) -> dict[str, Stored]:
    """The tensors of one safetensors file, by name; none is read yet.

    Raises:
      CheckpointError: not such a file, truncated, or of a dtype that is no float's.
    """
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > HEADER_LIMIT:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        tensors = {
            name: _described(file, name, entry, 8 + length)
            for name, entry in header.items()
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file}: not a safetensors file, or damaged ({error!r}). Remedy: download "
            "or save it again."
        ) from error
    size = file.stat().st_size
    for stored in tensors.values():
        if stored.end > size:
            raise truncated(file, stored)
    return tensors


def _described(
    file: pathlib.Path, name: str, entry: dict[str, Any], base: int
) -> Stored:
    dtype, shape = entry["dtype"], tuple(int(size) for size in entry["shape"])
    if dtype not in DTYPES:
        raise CheckpointError(
            f"{file}: {name} has dtype {dtype}; expected one of {', '.join(DTYPES)}."
        )
    kind = DTYPES[dtype]
    start, end = entry["data_offsets"]
    if start < 0 or end - start != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{name} takes {end - start} bytes for {shape}")
    row = (shape[-1] if shape else 1) * kind.itemsize
    return Stored(
        file, name, shape, base + start, row, lambda raw: raw.view(kind), kind
    )


Blocks = Callable[[], Iterator[np.ndarray]]


def write_safetensors(
    file: pathlib.Path,
    tensors: Mapping[str, tuple[tuple[int, ...], Blocks]],
    dtype: Any,
) -> None:
    """Writes tensors of one dtype, block by block, beside the file and then renamed.

    Args:
      file: what it becomes.
      tensors: by name the shape and a function that yields the numbers in order.
      dtype: of all of them.
    """
    kind = np.dtype(dtype)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (shape, _) in tensors.items():
        end = start + math.prod(shape) * kind.itemsize
        header[name] = {
            "dtype": NAMES[kind],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = file.with_name(f".part-{file.name}")
    try:
        with part.open("wb") as opened:
            opened.write(struct.pack("<Q", len(text)) + text)
            for _, blocks in tensors.values():
                for block in blocks():
                    np.ascontiguousarray(block, kind).tofile(opened)
            opened.flush()
            os.fsync(opened.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def shards(sizes: Mapping[str, int], limit: int) -> Sequence[tuple[str, Sequence[str]]]:
    """Names of the files and of the tensors in each, in order, up to `limit` bytes.

    Example:
      >>> shards({"a": 3, "b": 3, "c": 1}, 10)
      [('model.safetensors', ['a', 'b', 'c'])]
      >>> [name for name, _ in shards({"a": 3, "b": 3, "c": 1}, 4)]
      ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
    """
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return [(WEIGHTS, groups[0])]
    stem, suffix = WEIGHTS.split(".")
    return [
        (f"{stem}-{i:05d}-of-{len(groups):05d}.{suffix}", group)
        for i, group in enumerate(groups, 1)
    ]
