"""The idx format of MNIST and its relatives, plain or gzipped."""

import gzip
import math
import pathlib
import re
import zlib
from typing import Any

import numpy as np

from kljax.data.guard import reader
from kljax.data.readers.folders import left_alone, visible
from kljax.data.readers.labels import integer_labels
from kljax.data.readers.raw import Raw, split_of
from kljax.data.readers.values import byte_levels
from kljax.errors import DataError

__all__ = ["is_idx", "read_idx"]

TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
"""Third byte of an idx file: the type of its numbers (big-endian)."""

NAME = re.compile(
    r"(?P<front>.*?)(?P<kind>image|label)s?.*(idx\d(-\w+)?|ubyte)(\.gz)?", re.IGNORECASE
)
"""Of a file: `train-images-idx3-ubyte.gz`, `qmnist-test-labels-idx2-int`, ..."""

MOST_AXES = 8
"""Of an array; more are damage."""

QMNIST_COLUMNS = 8
"""Of QMNIST's labels: the class, then writer, form and the like."""

Named = dict[str, dict[str, list[pathlib.Path]]]


def is_idx(path: pathlib.Path) -> bool:
    """Whether the name is that of an idx file: `train-images-idx3-ubyte.gz`, ..."""
    return path.is_file() and NAME.fullmatch(path.name) is not None


@reader
def read_idx(path: pathlib.Path) -> Raw:
    """Reads a folder with MNIST's file names, or one file of images.

    EMNIST's and QMNIST's names are known too: what stands before the split does not
    matter. EMNIST's images are kept as stored, which is transposed (the manifest says
    so); of QMNIST's eight columns of labels the class is taken.

    Args:
      path: a folder with `train-images-idx3-ubyte` and, optionally,
        `t10k-images-idx3-ubyte` (or `test-...`, `val-...`), `.gz` or not; or a single
        file of images. Labels are looked for beside the images, under the same name
        with `labels` for `images`.

    Raises:
      DataError: a file is truncated, foreign, ambiguous, or would not be used.
    """
    pairs, notes = _pairs(path) if path.is_dir() else ({"all": path}, {})
    if len(pairs) == 1:
        pairs = {"all": next(iter(pairs.values()))}
    splits = {split: _read_pair(file) for split, file in pairs.items()}
    if any("emnist" in file.name.lower() for file in pairs.values()):
        notes["orientation"] = "transposed, as EMNIST stores them"
    levels = byte_levels(str(path), *(images for images, _ in splits.values()))
    return Raw(str(path), splits, levels, notes=notes)


def _pairs(path: pathlib.Path) -> tuple[dict[str, pathlib.Path], dict[str, Any]]:
    """The file of images of each split; every file of the folder has a use."""
    files, folders, _ = visible(path)
    named, rest = _named(files)
    notes = {"left_alone": left_alone([*rest, *folders], "idx files of one data set")}
    found: dict[str, pathlib.Path] = {}
    for front, kinds in named.items():
        if "image" not in kinds:
            raise DataError(
                f"{kinds['label'][0]}: is not used, there are no images {front}images. "
                "Remedy: add them, or move the labels elsewhere."
            )
        split = _split(front)
        if split in found:
            raise DataError(
                f"{path}: {found[split].name} and {kinds['image'][0].name} both look "
                f"like the {split} images. Remedy: keep the files of one data set in a "
                "folder, or name one of the files as the path."
            )
        found[split] = _one(kinds["image"])
    return found, notes if notes["left_alone"] else {}


def _named(files: list[pathlib.Path]) -> tuple[Named, list[pathlib.Path]]:
    named: Named = {}
    rest = []
    for file in files:
        if (match := NAME.fullmatch(file.name)) is None:
            rest.append(file)
            continue
        kinds = named.setdefault(match["front"].lower(), {})
        kinds.setdefault(match["kind"].lower(), []).append(file)
    return named, rest


def _split(front: str) -> str:
    parts = [split_of(word) for word in re.split(r"[^a-zA-Z0-9]+", front)]
    return next((part for part in parts if part), "train")


def _one(files: list[pathlib.Path]) -> pathlib.Path:
    """The only file, or the plain one of a file that is there compressed as well."""
    first, *others = files
    for other in others:
        if _content(first) != _content(other):
            raise DataError(
                f"{other}: differs from {first.name} and would not be used. Remedy: "
                "move one of them elsewhere."
            )
    return first


def _read_pair(file: pathlib.Path) -> tuple[np.ndarray, np.ndarray | None]:
    images = _read_array(file)
    if images.ndim not in (3, 4) or images.dtype != np.uint8:
        raise DataError(
            f"{file}: holds {images.dtype} {list(images.shape)}, expected bytes "
            "[n, h, w]. Remedy: name the file of the images, not of the labels, or "
            "save grey levels as bytes."
        )
    if images.ndim == 3:
        images = images[..., None]
    beside = _labels_beside(file)
    if beside is None:
        return images, None
    labels = _read_array(beside)
    if "qmnist" in beside.name.lower() and labels.shape[1:] == (QMNIST_COLUMNS,):
        labels = labels[:, 0]
    return images, integer_labels(str(beside), labels)


def _labels_beside(file: pathlib.Path) -> pathlib.Path | None:
    match = NAME.fullmatch(file.name)
    if match and match["kind"].lower() == "image":
        named, _ = _named(visible(file.parent)[0])
        found = named.get(match["front"].lower(), {}).get("label")
        return _one(found) if found else None
    plain = file.name.replace("images", "labels").removesuffix(".gz")
    candidates = (file.with_name(name) for name in (plain, plain + ".gz"))
    return next((x for x in candidates if "images" in file.name and x.is_file()), None)


def _content(file: pathlib.Path) -> bytes:
    content = file.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{file}: the gzip stream is damaged or truncated ({error}). Remedy: "
            "fetch or copy the file again."
        ) from error


def _read_array(file: pathlib.Path) -> np.ndarray:
    content = _content(file)
    zeros, kind, rank = content[:2], *content[2:4].ljust(2, b"\0")
    head = 4 + 4 * rank
    if (
        zeros != b"\0\0"
        or kind not in TYPES
        or not 0 < rank <= MOST_AXES
        or len(content) < head
    ):
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
