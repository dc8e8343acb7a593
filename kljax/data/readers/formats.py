"""Which reader takes which file. A new format is one more line in each table."""

import pathlib
from collections.abc import Callable

from kljax.data.guard import reader
from kljax.data.readers.arrays import read_npz
from kljax.data.readers.delimited import read_csv
from kljax.data.readers.idx import is_idx, read_idx
from kljax.data.readers.pictures import read_pictures
from kljax.data.readers.raw import Raw
from kljax.data.sources import Source
from kljax.errors import DataError

__all__ = ["READERS", "read_path"]

READERS: dict[str, Callable[[pathlib.Path, Source], Raw]] = {
    "csv": lambda path, source: read_csv(path, source.shape, source.levels),
    "idx": lambda path, source: read_idx(path),
    "npz": lambda path, source: read_npz(path),
    "images": lambda path, source: read_pictures(path),
}
"""By the `format` of an entry of the table of sources."""


ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
SINGLE = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".npy")


@reader
def read_path(path: pathlib.Path) -> Raw:
    """Reads a user's file or folder, recognised by what is there.

    Raises:
      DataError: nothing is there, or nothing that a reader knows.
    """
    path = path.expanduser()
    if not path.exists():
        raise DataError(f"{path}: does not exist. Remedy: correct path=.")
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
