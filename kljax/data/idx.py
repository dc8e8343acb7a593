"""The idx format of MNIST and its relatives, plain or gzipped."""

import gzip
import math
import pathlib
import re
import zlib

import numpy as np

from kljax.data.raw import Raw, integer_labels
from kljax.errors import DataError

__all__ = ["is_idx", "read_idx"]

TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
"""Third byte of an idx file: the type of its numbers (big-endian)."""

IMAGES = re.compile(r"images.*(idx\d|ubyte)(\.gz)?$")
TEST = re.compile(r"^(t10k|test)")


def is_idx(path: pathlib.Path) -> bool:
    """Whether the name is one of an idx file of images: `...images...idx3-ubyte.gz`."""
    return path.is_file() and IMAGES.search(path.name) is not None


def read_idx(path: pathlib.Path) -> Raw:
    """Reads a folder with MNIST's file names, or one file of images.

    Args:
      path: a folder with `train-images-idx3-ubyte` and, optionally,
        `t10k-images-idx3-ubyte` (or `test-...`), `.gz` or not; or a single file of
        images. Labels are looked for beside the images, under the same name with
        `labels` for `images` and `idx1` for `idx3`.

    Raises:
      DataError: a file is truncated, foreign or ambiguous.
    """
    if path.is_file():
        images, labels = _read_pair(path)
        return Raw(str(path), {"all": (images, labels)})
    files: dict[str, pathlib.Path] = {}
    for file in sorted(path.iterdir()):
        if not is_idx(file):
            continue
        split = "test" if TEST.match(file.name) else "train"
        if split in files and files[split].name != file.name.removesuffix(".gz"):
            raise DataError(
                f"{path}: {files[split].name} and {file.name} both look like the "
                f"{split} images. Remedy: name one of the files as the path."
            )
        files.setdefault(split, file)
    if len(files) == 1:
        files = {"all": next(iter(files.values()))}
    return Raw(str(path), {split: _read_pair(file) for split, file in files.items()})


def _read_pair(file: pathlib.Path) -> tuple[np.ndarray, np.ndarray | None]:
    images = _read_array(file)
    if images.ndim not in (3, 4) or images.dtype != np.uint8:
        raise DataError(
            f"{file}: holds {images.dtype} {list(images.shape)}, expected bytes "
            "[n, h, w]. Remedy: name the file of the images, not of the labels."
        )
    if images.ndim == 3:
        images = images[..., None]
    beside = _labels_beside(file)
    if beside is None:
        return images, None
    labels = _read_array(beside)
    if labels.ndim != 1:
        raise DataError(
            f"{beside}: holds an array {list(labels.shape)}, expected labels [n]. "
            "Remedy: fetch the file again, or remove it to go without labels."
        )
    return images, integer_labels(str(beside), labels)


def _labels_beside(file: pathlib.Path) -> pathlib.Path | None:
    name = re.sub(r"idx[34]", "idx1", file.name.replace("images", "labels"))
    plain = name.removesuffix(".gz")
    for candidate in (name, plain, plain + ".gz"):
        beside = file.with_name(candidate)
        if candidate != file.name and beside.is_file():
            return beside
    return None


def _read_array(file: pathlib.Path) -> np.ndarray:
    content = file.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(
                f"{file}: the gzip stream is damaged or truncated ({error}). Remedy: "
                "fetch or copy the file again."
            ) from error
    zeros, kind, rank = content[:2], *content[2:4].ljust(2, b"\0")
    head = 4 + 4 * rank
    if zeros != b"\0\0" or kind not in TYPES or not rank or len(content) < head:
        raise DataError(
            f"{file}: not an idx file (it starts with {content[:4].hex() or 'nothing'})"
            ". Remedy: give an idx, idx.gz or .npz file, or a folder of images."
        )
    dtype = np.dtype(TYPES[kind])
    shape = tuple(np.frombuffer(content, ">u4", rank, offset=4).tolist())
    expected = head + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise DataError(
            f"{file}: {len(content)} bytes where the header {list(shape)} promises "
            f"{expected}. Remedy: the file is truncated or damaged, fetch it again."
        )
    return np.frombuffer(content, dtype, offset=head).reshape(shape)
