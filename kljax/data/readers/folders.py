"""What else lies in a folder of data: nothing that may matter is passed over."""

import pathlib
import re
from collections.abc import Iterable

from kljax.data.readers.raw import split_of
from kljax.errors import DataError

__all__ = ["left_alone", "place_of", "split_places", "visible"]

SYSTEM = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "icon\r"}
"""What operating systems leave behind, beside names that start with a dot."""

DOCUMENT = re.compile(
    r"(readme|licen[cs]e|copying|citation|changelog|notice|authors)(\..*)?"
    r"|.*\.(txt|md|rst|html?|pdf)"
)
TELLING = re.compile(r"label|class|target|annot|split|train|test|valid")
"""In the name of a document that may be part of the data."""


def visible(folder: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path], int]:
    """The sorted files and folders of a folder, and how many entries are hidden files.

    Hidden are names with a leading dot and those of operating systems.
    """
    files, folders, hidden = [], [], 0
    for entry in sorted(folder.iterdir()):
        directory = entry.is_dir()
        if entry.name[0] == "." or entry.name.lower() in SYSTEM:
            hidden += not directory
        else:
            (folders if directory else files).append(entry)
    return files, folders, hidden


def left_alone(files: Iterable[pathlib.Path], expected: str) -> list[str]:
    """The names of files that nobody reads, all of which must be documents.

    Args:
      files: what no reader takes.
      expected: what should have been there, for the message.

    Raises:
      DataError: one of them may hold data; the message names it.
    """
    names = []
    for file in files:
        name = file.name.lower()
        if not DOCUMENT.fullmatch(name) or TELLING.search(name):
            raise DataError(
                f"{file}: is not used, expected {expected}. Remedy: rename it, bring "
                "it into that form, or move it elsewhere."
            )
        names.append(file.name)
    return names


def split_places(
    path: pathlib.Path, places: Iterable[pathlib.Path], beside: Iterable[pathlib.Path]
) -> tuple[dict[str, pathlib.Path], list[str]]:
    """The place of each split in a folder, and the documents beside them.

    A single split is all there is.

    Args:
      path: the folder.
      places: files or folders in it whose names are those of splits, at least one.
      beside: what else lies there.

    Raises:
      DataError: two places for one split, or something beside them that is no document.
    """
    found: dict[str, pathlib.Path] = {}
    for place in places:
        split = str(place_of(place))
        if split in found:
            raise DataError(
                f"{path}: {found[split].name} and {place.name} both name the {split} "
                "split. Remedy: merge them, or rename one."
            )
        found[split] = place
    documents = left_alone(beside, "only splits there")
    if len(found) == 1:
        found = {"all": next(iter(found.values()))}
    return found, documents


def place_of(path: pathlib.Path) -> str | None:
    """The split that a file or folder is called after, or None."""
    return split_of(path.name if path.is_dir() else path.name.split(".")[0])
