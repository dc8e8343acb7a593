"""Rows of a .csv file, plain or gzipped, with a label in the last column."""

import csv
import gzip
import math
import pathlib
import zlib
from typing import Any

import numpy as np

from kljax.data.guard import reader
from kljax.data.readers.raw import Raw
from kljax.errors import DataError

__all__ = ["read_csv", "read_rows"]

LABELS = ("label", "class", "target", "y")
"""What a header calls a last column of class indices."""


@reader
def read_csv(path: pathlib.Path, shape: tuple[int, ...], levels: int) -> Raw:
    """Reads the pixels of one image per row, row-major, the label behind them.

    Args:
      path: a gzipped file of integers in `0 .. levels - 1`.
      shape: of an image, `(h, w, c)`.
      levels: how many there are.

    Raises:
      DataError: the file is damaged or its rows do not fit the shape.
    """
    try:
        rows = _numbers(gzip.decompress(path.read_bytes()).splitlines(), np.uint8)
        images = rows[:, :-1].reshape(-1, *shape)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: not rows of {math.prod(shape)} bytes and a label ({error}). "
            "Remedy: install the package again."
        ) from error
    labels = rows[:, -1].astype(np.int32)
    return Raw(str(path), {"all": (images, labels)}, levels=levels)


@reader
def read_rows(path: pathlib.Path, labelled: bool | None = None) -> Raw:
    """Reads a table: float64 `[n, d]`, and the labels of its last column.

    A column with words is numbered in the order of their first use, an empty cell of
    the others is NaN. The names of columns and the words go into the manifest, as
    `columns` and `words`.

    Args:
      path: a .csv file, plain or gzipped, of commas or else of spaces; a first line
        that is no row is its header. Words need a header and commas.
      labelled: whether the last column holds class indices; None: where the header
        calls it `label`, `class`, `target` or `y`.

    Raises:
      DataError: the file is damaged, or its labels are no class indices.
    """
    content = path.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    lines = content.splitlines()
    names = [name.strip() for name in (_cells(lines[:1]) or [[]])[0]]
    headed, notes = not all(map(_is_number, names)), {}
    try:
        rows = _numbers(lines[headed:], np.float64)
    except ValueError:
        if not headed:
            raise
        rows, words = _coded(_cells(lines)[1:], names)
        notes["words"] = words
    if headed and len(names) == rows.shape[1]:
        notes["columns"] = names
    if labelled is None:
        labelled = headed and names[-1].lower() in LABELS
    labels = None
    if labelled:
        rows, last = rows[:, :-1], rows[:, -1]
        if not ((last >= 0) & (last == np.rint(last)) & (last < 2**31)).all():
            raise DataError(
                f"{path}: the last column is no class index. Remedy: number the "
                "classes from 0."
            )
        labels = last.astype(np.int32)
    splits = {"all": (rows, labels)}
    return Raw(str(path), splits, kind="table", levels=0, notes=notes)


def _cells(lines: list[bytes]) -> list[list[str]]:
    text = [line.decode() for line in lines]
    split = map(str.split, text) if _delimiter(lines) is None else csv.reader(text)
    return [row for row in split if row]


def _coded(
    rows: list[list[str]], names: list[str]
) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Rows of numbers, and the words of each column that has some."""
    if bad := [(i, row) for i, row in enumerate(rows) if len(row) != len(names)]:
        i, row = bad[0]
        raise ValueError(f"row {i + 1} has {len(row)} cells, not {len(names)}")
    found, words = [], {}
    for name, column in zip(names, zip(*rows)):
        if all(cell == "" or _is_number(cell) for cell in column):
            found.append([float(cell or "nan") for cell in column])
        else:
            words[name] = list(dict.fromkeys(column))
            found.append([words[name].index(cell) for cell in column])
    return np.array(found, np.float64).T.copy(), words


def _numbers(lines: list[bytes], dtype: Any) -> np.ndarray:
    text = [line.decode() for line in lines]
    return np.loadtxt(text, delimiter=_delimiter(lines), dtype=dtype, ndmin=2)


def _delimiter(lines: list[bytes]) -> str | None:
    """Commas, or None for any space: some tables have no commas."""
    spaced = lines and b"," not in lines[0] and len(lines[0].split()) > 1
    return None if spaced else ","


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
