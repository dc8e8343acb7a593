"""Which reader takes which file. A new format is one more line in a table."""

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from kljax.data.guard import reader
from kljax.data.readers.arrays import read_npz
from kljax.data.readers.delimited import read_csv, read_rows
from kljax.data.readers.folders import place_of, split_places, visible
from kljax.data.readers.idx import is_idx, read_idx
from kljax.data.readers.pictures import read_pictures
from kljax.data.readers.raw import Raw
from kljax.data.readers.text import read_pairs, read_texts
from kljax.data.sources import Source
from kljax.errors import DataError, unknown

__all__ = ["OWN", "READERS", "Reader", "read_own", "read_row"]

ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
SINGLE = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".npy")


class Reader(NamedTuple):
    """What a format holds, and how a row's file or folder of it is read."""

    kind: str
    read: Callable[[pathlib.Path, Source], Raw]


def read_row(path: pathlib.Path, source: Source) -> Raw:
    """Reads the file or folder of a row of the table of sources.

    Raises:
      ValueError: the row's format is none of its kind.
      DataError: as its reader.
    """
    formats = [name for name, one in READERS.items() if one.kind == source.kind]
    if source.format not in formats:
        said = unknown(f"format of {source.kind}", source.format, formats)
        raise ValueError(f"{source.name}: {said}")
    return READERS[source.format].read(path, source)


def read_own(path: pathlib.Path, kind: str) -> Raw:
    """Reads a user's file or folder of the given kind.

    Raises:
      ValueError: nothing reads that kind by its path.
      DataError: nothing is there, or nothing that a reader knows.
    """
    if kind not in OWN:
        raise ValueError(unknown("kind of one's own data", kind, OWN))
    return OWN[kind](path)


@reader
def _images(path: pathlib.Path) -> Raw:
    path = path.expanduser()
    if not path.exists():
        raise DataError(f"{path}: does not exist. Remedy: correct the path.")
    if path.is_dir():
        holds_idx = any(is_idx(file) for file in path.iterdir())
        return read_idx(path) if holds_idx else read_pictures(path)
    if path.suffix.lower() == ".npz":
        return read_npz(path)
    if path.suffix.lower() in ARCHIVES or path.name.lower().endswith(".tar.gz"):
        raise DataError(
            f"{path}: an archive. Remedy: unpack it and give the folder inside."
        )
    if path.suffix.lower() in SINGLE:
        raise DataError(
            f"{path}: one image or array file is not a data set. Remedy: give the "
            "folder of the images, or an .npz file with an array called images."
        )
    return read_idx(path)


@reader
def _by_split(path: pathlib.Path, kind: str, read: Callable[..., list]) -> Raw:
    places, documents = {"all": path.expanduser()}, []
    if places["all"].is_dir():
        files, folders, _ = visible(places["all"])
        named = [entry for entry in (*folders, *files) if place_of(entry)]
        if named:
            beside = [entry for entry in (*folders, *files) if entry not in named]
            places, documents = split_places(path, named, beside)
    splits = {split: (tuple(read(place)), None) for split, place in places.items()}
    notes = {"left_alone": documents} if documents else {}
    return Raw(str(path), splits, kind=kind, levels=0, notes=notes)


_texts = functools.partial(_by_split, kind="text", read=read_texts)
_pairs = functools.partial(_by_split, kind="pairs", read=read_pairs)
READERS: dict[str, Reader] = {
    "csv": Reader("images", lambda path, row: read_csv(path, row.shape, row.levels)),
    "idx": Reader("images", lambda path, row: read_idx(path)),
    "npz": Reader("images", lambda path, row: read_npz(path)),
    "pictures": Reader("images", lambda path, row: read_pictures(path)),
    "rows": Reader("table", lambda path, row: read_rows(path, row.num_classes > 0)),
    "text": Reader("text", lambda path, row: _texts(path)),
    "pairs": Reader("pairs", lambda path, row: _pairs(path)),
}
"""By the `format` of a row of the table of sources."""

OWN: dict[str, Callable[[pathlib.Path], Raw]] = {
    "images": _images,
    "text": _texts,
    "table": read_rows,
    "pairs": _pairs,
}
"""By the kind that a user says of a path."""
