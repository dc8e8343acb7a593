"""What every loader returns, and the way between grey levels and [-1, 1]."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from kljax.arguments import whole
from kljax.data.readers.raw import Examples, Images
from kljax.typing import Float, Int

__all__ = ["Dataset", "from_unit", "to_unit"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set, in memory, as stored: nothing is rescaled.

    Args:
      examples: of images uint8 `[n, h, w, c]` with values in `0 .. levels - 1`, c = 1
        or 3; of a table float64 `[n, d]`; a tuple of n texts, or of n pairs of texts.
      labels: int32 `[n]` in `0 .. num_classes - 1`, or None when there are none.
      num_classes: number of classes of the whole data set, 0 without labels.
      levels: number of grey levels of images: 17 of scikit-learn's digits, 2 of
        images of zeros and ones, else 256 or as the file says; 0 of other kinds.
      manifest: JSON-able record of the origin: `name`, `kind`, `source`, `version`,
        `license`, `sha256` (of the examples and labels of all splits), `n`, `shapes`,
        `split_rule`, `synthetic` and more. `manifest["synthetic"]` is True for a
        stand-in and for nothing else.
    """

    examples: Examples
    labels: Int[np.ndarray, "n"] | None
    num_classes: int
    levels: int
    manifest: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def kind(self) -> str:
        """What the examples are: images, table, text, ..."""
        return self.manifest["kind"]

    @property
    def images(self) -> Images:
        """The examples of a data set of images.

        Raises:
          TypeError: they are of another kind.
        """
        if self.kind != "images" or not isinstance(self.examples, np.ndarray):
            raise TypeError(
                f"{self.manifest['name']} is of the kind {self.kind!r}, not images; "
                "take its examples"
            )
        return self.examples

    def scaled(self) -> Float[np.ndarray, "n h w c"]:
        """The images as float32 in [-1, 1]; see `to_unit`."""
        return to_unit(self.images, self.levels)


def to_unit(
    images: UInt8[np.ndarray, "*b"], levels: int = 256
) -> Float[np.ndarray, "*b"]:
    """Maps raw grey levels to [-1, 1].

    `x = 2 i / (levels - 1) - 1`

    Args:
      images: integers in `0 .. levels - 1`, any shape.
      levels: number of grey levels, at least 2.

    Returns:
      float32 of the same shape.

    Raises:
      ValueError: fewer than 2 levels.

    Example:
      >>> to_unit(np.array([0, 8, 16], np.uint8), levels=17).tolist()
      [-1.0, 0.0, 1.0]
    """
    step = np.float32(2 / (whole("levels", levels, least=2) - 1))
    return np.asarray(images).astype(np.float32) * step - np.float32(1)


def from_unit(
    values: Float[np.ndarray, "*b"], levels: int = 256
) -> UInt8[np.ndarray, "*b"]:
    """Clips to [-1, 1] and rounds to the grey levels of the raw data.

    `i = round((clip(x, -1, 1) + 1) (levels - 1) / 2)`, the inverse of `to_unit`.

    Args:
      values: finite floats of any shape, for example generated images.
      levels: number of grey levels, 2 to 256.

    Returns:
      uint8 of the same shape, in `0 .. levels - 1`.

    Raises:
      ValueError: a value is not finite, or `levels` is out of range.

    Example:
      >>> from_unit(np.array([-3.0, 0.01, 1.0]), levels=17).tolist()
      [0, 8, 16]
    """
    whole("levels", levels, 2, 256)
    values = np.asarray(values)
    if not np.isfinite(values).all():
        raise ValueError("values must be finite, found NaN or infinity")
    unit = np.clip(values.astype(np.float32), -1, 1)
    return np.rint((unit + 1) * ((levels - 1) / 2)).astype(np.uint8)
