"""What a reader hands over before a split is chosen, checked in one place."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8

from kljax.data.readers.labels import Labels, check_classes
from kljax.errors import DataError

__all__ = ["SPLITS", "SPLIT_WORDS", "Images", "Raw", "split_of"]

Images = UInt8[np.ndarray, "n h w c"]

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


@dataclass(frozen=True)
class Raw:
    """All splits of one data set as read: "train" with "test", "val" or both, or "all".

    Args:
      origin: the file or folder, for error messages.
      splits: `{split: (images, labels)}`; labels are None in every split or in none.
      levels: number of grey levels.
      declared_classes: how many there are where the source says so, else 0.
      class_names: one per class when the source names its classes.
      notes: what the reader decided, for the manifest.

    Raises:
      DataError: shapes, sizes, channels, labels or splits do not fit together.
    """

    origin: str
    splits: Mapping[str, tuple[Images, Labels | None]]
    levels: int = 256
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
        for split, (images, labels) in self.splits.items():
            _check_images(self.origin, split, images, self.levels)
            if labels is not None and labels.shape != images.shape[:1]:
                raise DataError(
                    f"{self.origin}: {len(images)} {_these(split)} but labels of shape "
                    f"{list(labels.shape)}. Remedy: give one integer per image."
                )
            shapes.add(images.shape[1:])
        if len(shapes) > 1:
            raise DataError(
                f"{self.origin}: {_and(self.splits)} images differ in shape, "
                f"{sorted(shapes)}. Remedy: bring them to one size and mode."
            )
        if len({labels is None for _, labels in self.splits.values()}) > 1:
            raise DataError(
                f"{self.origin}: only one of the splits has labels. Remedy: add the "
                "missing labels or remove the others."
            )
        low = min(int(images.min()) for images, _ in self.splits.values())
        if low == max(int(images.max()) for images, _ in self.splits.values()):
            raise DataError(
                f"{self.origin}: every pixel of every image is {low}. Remedy: look at "
                "how the images were written; nothing can be learned from these."
            )
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
        """Of the pixels and labels of all splits, whatever file they came from."""
        total = hashlib.sha256()
        for split in sorted(self.splits):
            images, labels = self.splits[split]
            total.update(f"{split} {images.shape} {self.levels} ".encode())
            total.update(np.ascontiguousarray(images).data)
            if labels is not None:
                total.update(np.ascontiguousarray(labels, dtype="<i4").data)
        return total.hexdigest()


def _check_images(origin: str, split: str, images: Images, levels: int) -> None:
    shape = images.shape
    these = _these(split)
    if images.ndim != 4 or images.dtype != np.uint8:
        raise DataError(
            f"{origin}: {these} are {images.dtype} {list(shape)}, expected "
            "uint8 [n, h, w] or [n, h, w, c]. Remedy: reshape or convert them."
        )
    if not shape[0]:
        raise DataError(f"{origin}: no {these}. Remedy: name another file.")
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


def _these(split: str) -> str:
    return "images" if split == "all" else f"{split} images"


def _and(splits: Mapping[str, Any]) -> str:
    return " and ".join(split for split in SPLITS if split in splits)
