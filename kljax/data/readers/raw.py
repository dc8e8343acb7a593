"""What a reader hands over before a split is chosen, checked in one place."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8

from kljax.data.readers.labels import Labels, check_classes
from kljax.errors import DataError
from kljax.typing import Int

__all__ = [
    "SPLITS",
    "SPLIT_WORDS",
    "Examples",
    "Images",
    "Raw",
    "content_of",
    "joined",
    "shape_of",
    "split_of",
    "taken",
]

Images = UInt8[np.ndarray, "n h w c"]
Examples = np.ndarray | tuple[Any, ...]
"""An array with one example per row, or a tuple of texts or of pairs of texts."""

SPLITS = ("train", "val", "test")
"""What the parts of published data are called here."""

SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "t10k"),
}
"""What files, folders and arrays call the parts."""

SMALLEST, LARGEST = 8, 64
"""Legal side lengths in pixels of images that come from a path."""


def split_of(word: str) -> str | None:
    """The part that a word names, in any case, or None."""
    named = (s for s, words in SPLIT_WORDS.items() if word.lower() in words)
    return next(named, None)


def shape_of(examples: Examples) -> tuple[int, ...]:
    """The shape of an array, and `(n,)` of a tuple."""
    return examples.shape if isinstance(examples, np.ndarray) else (len(examples),)


def taken(examples: Examples, index: Int[np.ndarray, "m"]) -> Examples:
    """The examples at some places, in their order."""
    if isinstance(examples, np.ndarray):
        return examples[index]
    return tuple(examples[i] for i in index)


def joined(parts: Sequence[Examples]) -> Examples:
    """The examples of several parts, one part after the other."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return tuple(example for part in parts for example in part)


def content_of(example: Any) -> bytes:
    """What tells one example from another: its numbers, or its texts."""
    if isinstance(example, np.ndarray):
        return example.tobytes()
    return "\0".join([example] if isinstance(example, str) else example).encode()


@dataclass(frozen=True)
class Raw:
    """All splits of one data set as read: "train" with "test", "val" or both, or "all".

    Args:
      origin: the file or folder, for error messages.
      splits: `{split: (examples, labels)}`; labels are None in every split or in none.
      levels: number of grey levels of images, 0 of another kind.
      kind: what the examples are, see `kljax.data.sources.KINDS`.
      declared_classes: how many there are where the source says so, else 0.
      class_names: one per class when the source names its classes.
      notes: what the reader decided, for the manifest.

    Raises:
      DataError: shapes, sizes, channels, labels or splits do not fit together.
    """

    origin: str
    splits: Mapping[str, tuple[Examples, Labels | None]]
    levels: int = 256
    kind: str = "images"
    declared_classes: int = 0
    class_names: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        found = set(self.splits)
        parts = "train" in found and len(found) > 1 and found <= set(SPLITS)
        if not parts and found != {"all"}:
            raise DataError(
                f"{self.origin}: found the splits {sorted(self.splits)}, expected "
                "train with test or val, or a single one. Remedy: add the missing "
                "split or name the file of one split."
            )
        shapes = set()
        for split, (examples, labels) in self.splits.items():
            these = self.kind if split == "all" else f"{split} {self.kind}"
            if not len(examples):
                raise DataError(
                    f"{self.origin}: no {these}. Remedy: name another file."
                )
            if self.kind == "images":
                _check_images(self.origin, these, np.asarray(examples), self.levels)
            if labels is not None and labels.shape != (len(examples),):
                raise DataError(
                    f"{self.origin}: {len(examples)} {these} but labels of shape "
                    f"{list(labels.shape)}. Remedy: give one integer per image."
                )
            shapes.add(shape_of(examples)[1:])
        if len(shapes) > 1:
            raise DataError(
                f"{self.origin}: {_and(self.splits)} {self.kind} differ in shape, "
                f"{sorted(shapes)}. Remedy: bring them to one size and mode."
            )
        if len({labels is None for _, labels in self.splits.values()}) > 1:
            raise DataError(
                f"{self.origin}: only one of the splits has labels. Remedy: add the "
                "missing labels or remove the others."
            )
        if self.kind == "images":
            pixels = [np.asarray(examples) for examples, _ in self.splits.values()]
            _check_contrast(self.origin, pixels)
        labels = {split: y for split, (_, y) in self.splits.items()}
        declared = self.declared_classes or len(self.class_names)
        check_classes(self.origin, labels, declared)

    @property
    def num_classes(self) -> int:
        """As declared or named, else the largest label + 1; 0 without labels."""
        labels = [y for _, y in self.splits.values() if y is not None]
        largest = max((int(y.max()) + 1 for y in labels), default=0)
        named = max(self.declared_classes, len(self.class_names))
        return max(largest, named) if labels else 0

    @functools.cached_property
    def sha256(self) -> str:
        """Of the examples and labels of all splits, whatever file they came from."""
        total = hashlib.sha256()
        for split in sorted(self.splits):
            examples, labels = self.splits[split]
            total.update(f"{split} {shape_of(examples)} {self.levels} ".encode())
            if isinstance(examples, np.ndarray):
                total.update(np.ascontiguousarray(examples).data)
            else:
                for content in map(content_of, examples):
                    total.update(f"{len(content)} ".encode() + content)
            if labels is not None:
                total.update(np.ascontiguousarray(labels, dtype="<i4").data)
        return total.hexdigest()


def _check_images(origin: str, these: str, images: Images, levels: int) -> None:
    shape = images.shape
    if images.ndim != 4 or images.dtype != np.uint8:
        raise DataError(
            f"{origin}: {these} are {images.dtype} {list(shape)}, expected "
            "uint8 [n, h, w] or [n, h, w, c]. Remedy: reshape or convert them."
        )
    _, h, w, c = shape
    if c not in (1, 3):
        advice = (
            "they look channels-first: save images.transpose(0, 2, 3, 1)"
            if shape[1] in (1, 3) and w == c
            else "save grey (c = 1) or RGB (c = 3) images, channels last"
        )
        raise DataError(
            f"{origin}: {these} have {c} channels (shape {list(shape)}). "
            f"Remedy: {advice}."
        )
    if h != w or not SMALLEST <= h <= LARGEST:
        raise DataError(
            f"{origin}: {these} are {h} x {w}, expected squares of {SMALLEST} "
            f"to {LARGEST} pixels. Remedy: crop and resize them first."
        )
    if int(images.max()) >= levels:
        raise DataError(
            f"{origin}: {these} have the value {int(images.max())}, expected "
            f"0 .. {levels - 1}. Remedy: correct levels, or get the file again."
        )


def _check_contrast(origin: str, images: list[Images]) -> None:
    low = min(int(x.min()) for x in images)
    if low == max(int(x.max()) for x in images):
        raise DataError(
            f"{origin}: every pixel of every image is {low}. Remedy: look at how the "
            "images were written; nothing can be learned from these."
        )


def _and(splits: Mapping[str, Any]) -> str:
    return " and ".join(split for split in SPLITS if split in splits)
