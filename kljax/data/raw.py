"""What a reader hands over before a split is chosen, checked in one place."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8

from kljax.errors import DataError
from kljax.typing import Int

__all__ = ["Images", "Labels", "Raw", "integer_labels"]

Images = UInt8[np.ndarray, "n h w c"]
Labels = Int[np.ndarray, "n"]

SMALLEST, LARGEST = 8, 64
"""Legal side lengths in pixels of images that come from a path."""


@dataclass(frozen=True)
class Raw:
    """All splits of one data set as read, keyed by "train" and "test", or by "all".

    Args:
      origin: the file or folder, for error messages.
      splits: `{split: (images, labels)}`; labels are None in every split or in none.
      levels: number of grey levels.
      class_names: one per class when the source names its classes.
      notes: what the reader decided, for the manifest.

    Raises:
      DataError: shapes, sizes, channels, labels or splits do not fit together.
    """

    origin: str
    splits: Mapping[str, tuple[Images, Labels | None]]
    levels: int = 256
    class_names: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if set(self.splits) not in ({"all"}, {"train", "test"}):
            raise DataError(
                f"{self.origin}: found the splits {sorted(self.splits)}, expected "
                "train and test, or a single one. Remedy: add the missing split or "
                "name the file of one split."
            )
        shapes = set()
        for split, (images, labels) in self.splits.items():
            _check_images(self.origin, split, images, self.levels)
            _check_labels(self.origin, split, images, labels)
            shapes.add(images.shape[1:])
        if len(shapes) > 1:
            raise DataError(
                f"{self.origin}: train and test images differ in shape, "
                f"{sorted(shapes)}. Remedy: bring them to one size and mode."
            )
        if len({labels is None for _, labels in self.splits.values()}) > 1:
            raise DataError(
                f"{self.origin}: only one of the splits has labels. Remedy: add the "
                "missing labels or remove the others."
            )

    @property
    def num_classes(self) -> int:
        """Largest label + 1, or the number of class names; 0 without labels."""
        labels = [y for _, y in self.splits.values() if y is not None]
        largest = max((int(y.max()) + 1 for y in labels), default=0)
        return max(largest, len(self.class_names)) if labels else 0

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
    these = "images" if split == "all" else f"{split} images"
    if images.ndim != 4 or images.dtype != np.uint8:
        raise DataError(
            f"{origin}: {these} are {images.dtype} {list(shape)}, expected "
            "uint8 [n, h, w] or [n, h, w, c]. Remedy: convert and save again."
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
            f"0 .. {levels - 1}. Remedy: fetch or write the file again."
        )


def _check_labels(
    origin: str, split: str, images: Images, labels: Labels | None
) -> None:
    if labels is None:
        return
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"{origin}: {len(images)} {split} images but labels of shape "
            f"{list(labels.shape)}. Remedy: give one integer per image."
        )
    if int(labels.min()) < 0:
        raise DataError(
            f"{origin}: found the label {int(labels.min())} in {split}, expected "
            "0 .. classes - 1. Remedy: number the classes from 0, or leave the labels "
            "out."
        )


def integer_labels(origin: str, labels: np.ndarray) -> Labels:
    """Any integer array as int32; everything else is refused."""
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{origin}: labels are {labels.dtype}, expected integers. Remedy: save "
            "labels.astype('int32'), class indices instead of names or one-hot rows."
        )
    if labels.size and int(labels.max()) >= 2**31:
        raise DataError(
            f"{origin}: found the label {int(labels.max())}, expected class indices. "
            "Remedy: number the classes from 0."
        )
    return labels.astype(np.int32)
