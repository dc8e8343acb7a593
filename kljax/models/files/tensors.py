"""Tensors in files, read and written block by block: safetensors, whole or in shards.

Nothing is mapped into memory (mapped pages count as resident until the file is closed)
and no tensor is held twice, so the peak of loading is what stays plus one block. Only
the safetensors format and GGUF (`kljax.models.files.gguf`) are read; a pickle never is.
"""

import json
import math
import os
import pathlib
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from kljax.errors import CheckpointError

__all__ = [
    "INDEX",
    "WEIGHTS",
    "Stored",
    "joined",
    "json_object",
    "open_folder",
    "open_safetensors",
    "read",
    "write_safetensors",
]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
BLOCK_BYTES = 1 << 23
HEADER_LIMIT = 100_000_000
DTYPES: Mapping[str, Any] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}
OTHERS: Mapping[str, Any] = {
    "BOOL": np.dtype(np.uint8),
    **{f"I{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"F8_E{x}": np.dtype(np.uint8) for x in ("4M3", "5M2", "8M0")},
    "C64": np.dtype(np.complex64),
}
"""What may lie in a file of which it is not read: masks, counters, packed numbers."""
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
    kind: str = ""
    """What the file calls its type, where that is no type of a parameter."""

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
        with opened(self.file) as file:
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


def opened(file: pathlib.Path) -> BinaryIO:
    """The file, to be read.

    Raises:
      CheckpointError: it cannot be opened.
    """
    try:
        return file.open("rb")
    except OSError as error:
        raise CheckpointError(
            f"{file}: cannot be read ({error.strerror}). Remedy: download or save it "
            "again, where it may be read."
        ) from error


def json_object(file: pathlib.Path, what: str = "not readable JSON") -> dict[str, Any]:
    """The object in a JSON file.

    Args:
      file: where it lies.
      what: else the file is, for the error.

    Raises:
      CheckpointError: it cannot be read, or holds something else.
    """
    with opened(file) as source:
        text = source.read()
    try:
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}, not an object")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: {what} ({error}). Remedy: download it again."
        ) from error
    return found


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

    As in transformers, model.safetensors goes before an index beside it: it is read,
    and a warning says so if the index leads elsewhere.

    Raises:
      CheckpointError: no safetensors there (a pickle is refused), a shard missing,
        damaged or without a tensor that the index promises, a tensor in two shards.
    """
    if (folder / WEIGHTS).is_file():
        tensors = open_safetensors(folder / WEIGHTS)
        if (folder / INDEX).is_file() and set(_placed(folder).values()) != {WEIGHTS}:
            warnings.warn(
                f"{folder}: holds {WEIGHTS} and {INDEX}, which leads to other files; "
                f"{WEIGHTS} is read, as transformers does. Remedy: remove the one that "
                "is out of date.",
                stacklevel=2,
            )
        return tensors
    if (folder / INDEX).is_file():
        return _open_shards(folder)
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


def _placed(folder: pathlib.Path) -> dict[str, str]:
    """The file of every tensor, as the index says."""
    index = folder / INDEX
    placed = json_object(index, "not an index of shards").get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(
            f"{index}: not an index of shards (no weight_map). Remedy: download it "
            "again."
        )
    for shard in placed.values():
        # The index comes from elsewhere: it must not lead out of the folder.
        if not isinstance(shard, str) or pathlib.PurePath(shard).name != shard:
            raise CheckpointError(
                f"{index}: {shard!r} is not the name of a shard. Remedy: download it "
                "again."
            )
    return placed


def _open_shards(folder: pathlib.Path) -> dict[str, Stored]:
    placed = _placed(folder)
    tensors: dict[str, Stored] = {}
    for shard in sorted(set(placed.values())):
        promised = [name for name, where in placed.items() if where == shard]
        if not (folder / shard).is_file():
            raise CheckpointError(
                f"{folder / shard}: missing, {promised[0]} should be in it. Remedy: "
                "download that shard again."
            )
        found = open_safetensors(folder / shard)
        for name in promised:
            if name not in found:
                raise CheckpointError(
                    f"{folder / shard}: holds no {name}, which {INDEX} says is in it. "
                    "Remedy: download that shard again."
                )
        # A tensor that the index does not name stays: the caller says it is foreign.
        tensors = joined(tensors, found)
    return tensors


def joined(
    tensors: Mapping[str, Stored], more: Mapping[str, Stored]
) -> dict[str, Stored]:
    """The tensors of several files together.

    Raises:
      CheckpointError: a tensor is in two of them.
    """
    for name in tensors.keys() & more.keys():
        raise CheckpointError(
            f"{tensors[name].file}: holds {name}, and so does {more[name].file}. "
            "Remedy: download the files again, all of one model."
        )
    return {**tensors, **more}


def open_safetensors(file: pathlib.Path) -> dict[str, Stored]:
    """The tensors of one safetensors file, by name; none is read yet.

    Raises:
      CheckpointError: not such a file, truncated, or of a dtype that nobody knows.
    """
    try:
        with opened(file) as source:
            (length,) = struct.unpack("<Q", source.read(8))
            if length > HEADER_LIMIT:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(source.read(length), object_pairs_hook=_once)
        header.pop("__metadata__", None)
        tensors = {
            name: _described(file, name, entry, 8 + length)
            for name, entry in header.items()
        }
    except (
        struct.error,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise CheckpointError(
            f"{file}: not a safetensors file, or damaged ({error!r}). Remedy: download "
            "or save it again."
        ) from error
    _check_places(file, tensors, 8 + length)
    return tensors


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which no name stands twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} stands twice")
    return found


def _check_places(
    file: pathlib.Path, tensors: Mapping[str, Stored], first: int
) -> None:
    """That the tensors lie one behind the other, up to the end of the file."""
    ordered = sorted(tensors.values(), key=lambda stored: (stored.start, stored.end))
    for stored in ordered:
        if stored.end > file.stat().st_size:
            raise truncated(file, stored)
    ends = [first, *(stored.end for stored in ordered)]
    starts = [*(stored.start for stored in ordered), file.stat().st_size]
    for end, start in zip(ends, starts, strict=True):
        if end != start:
            raise CheckpointError(
                f"{file}: damaged, what lies before byte {start} ends at {end}. "
                "Remedy: download or save it again."
            )


def _described(
    file: pathlib.Path, name: str, entry: dict[str, Any], base: int
) -> Stored:
    code, shape, places = entry["dtype"], entry["shape"], entry["data_offsets"]
    kinds = {**DTYPES, **OTHERS}
    if code not in kinds:
        raise CheckpointError(
            f"{file}: {name} has dtype {code}; expected one of {', '.join(DTYPES)}."
        )
    start, end = places
    if any(type(size) is not int or size < 0 for size in (*shape, *places)):
        raise ValueError(f"{name} has shape {shape} and lies at {places}")
    kind, shape = kinds[code], tuple(shape)
    if end - start != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{name} takes {end - start} bytes for {shape}")
    row = (shape[-1] if shape else 1) * kind.itemsize
    unread = "" if code in DTYPES else code
    decode = lambda raw: raw.view(kind)  # noqa: E731
    return Stored(file, name, shape, base + start, row, decode, kind, unread)


Blocks = Callable[[], Iterator[np.ndarray]]


def write_safetensors(
    file: pathlib.Path,
    tensors: Mapping[str, tuple[tuple[int, ...], Blocks]],
    dtype: Any,
) -> None:
    """Writes tensors of one dtype, block by block.

    Args:
      file: what is written.
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
    with file.open("wb") as target:
        target.write(struct.pack("<Q", len(text)) + text)
        for _, blocks in tensors.values():
            for block in blocks():
                np.ascontiguousarray(block, kind).tofile(target)
        target.flush()
        os.fsync(target.fileno())
