"""Rows of a gzipped .csv file: the pixels of one image each, then its label."""

import gzip
import math
import pathlib
import zlib

import numpy as np

from kljax.data.guard import reader
from kljax.data.readers.raw import Raw
from kljax.errors import DataError

__all__ = ["read_csv"]


@reader
def read_csv(path: pathlib.Path, shape: tuple[int, int, int], levels: int) -> Raw:
    """Reads integers in `0 .. levels - 1`, row-major, the label in the last column.

    Raises:
      DataError: the file is damaged or its rows do not fit the shape.
    """
    try:
        with gzip.open(path, "rt") as file:
            rows = np.loadtxt(file, delimiter=",", dtype=np.uint8, ndmin=2)
        images = rows[:, :-1].reshape(-1, *shape)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: not rows of {math.prod(shape)} bytes and a label ({error}). "
            "Remedy: install the package again."
        ) from error
    labels = rows[:, -1].astype(np.int32)
    return Raw(str(path), {"all": (images, labels)}, levels=levels)
