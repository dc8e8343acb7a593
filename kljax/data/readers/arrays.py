"""Images in one .npz file: the prepared form, and what users bring."""

import json
import pathlib
import re
import zipfile
import zlib
from typing import Any

import numpy as np

from kljax.data.guard import brief, reader
from kljax.data.readers.labels import integer_labels
from kljax.data.readers.raw import SPLIT_WORDS, Raw, split_of
from kljax.data.readers.values import as_levels
from kljax.errors import DataError

__all__ = ["read_npz"]

WORDS = "|".join(word for words in SPLIT_WORDS.values() for word in words)
ROLE = re.compile(
    rf"(?:(?P<before>{WORDS})[_ .-]?)?"
    r"(?:(?P<images>images?|imgs?|x|data|pixels)|(?P<labels>labels?|y|targets?|class))"
    rf"(?:[_ .-]?(?P<after>{WORDS}))?",
    re.IGNORECASE,
)
"""What an array is called: images or labels, and of which split."""

COUNTS = {"levels": (2, 256), "num_classes": (1, 2**31)}
"""Integers that may stand beside the arrays, and their ranges."""


@reader
def read_npz(path: pathlib.Path) -> Raw:
    """Reads `images` and, optionally, `labels`; or both per split.

    Values follow one rule for the whole file, which goes into the manifest as
    `value_rule`. Integers in 0 .. 255 are grey levels, 0 and 1 alone (or booleans) are
    two levels. Floats in [0, 1] and, where some of any split lie below -0.5, in [-1, 1]
    are scaled; either range may be missed by 1e-3. Anything else is refused, and so are
    images that use so few of 256 levels that their number must be said.

    Args:
      path: an .npz file with `images` `[n, h, w]` or `[n, h, w, c]` and `labels` `[n]`
        or `[n, 1]`; or the same per split, as `train_images`, `x_test`, `val_labels`,
        ... (`x`, `data`, `image` for images; `y`, `target`, `label` for labels).
        Integers `levels` and `num_classes` say how many there are.

    Raises:
      DataError: the file is damaged, pickled, does not hold what is expected, or holds
        an array that would not be used.
    """
    entries = _load(path)
    counts = {key: _count(path, entries, key) for key in COUNTS}
    notes: dict[str, Any] = {}
    if "manifest" in entries:
        notes["prepared_from"] = _manifest(path, entries.pop("manifest"))
    images, labels = _roles(path, entries)
    arrays = {key: entries[key] for key in images.values()}
    for key, array in arrays.items():
        if array.ndim not in (3, 4) and array.dtype.kind in "biuf":
            raise DataError(
                f"{path}: {key} is {array.dtype} {list(array.shape)}, expected images "
                "[n, h, w] or [n, h, w, c]. Remedy: reshape it."
            )
    pixels, levels, notes["value_rule"] = as_levels(str(path), arrays, counts["levels"])
    splits = {}
    for split, key in images.items():
        x, found = pixels[key], None
        if split in labels:
            found = integer_labels(f"{path}: {labels[split]}", entries[labels[split]])
        splits[split] = x[..., None] if x.ndim == 3 else x, found
    declared = counts["num_classes"] or 0
    return Raw(str(path), splits, levels, declared_classes=declared, notes=notes)


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        # Opened here: np.load leaves its own handle open when it fails.
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError("a single array, not an .npz archive")
            names = [name for name in file.files if not _hidden(name)]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"holds {', '.join(twice)} twice")
            entries = {name: file[name] for name in names}
            for name, array in entries.items():
                if not isinstance(array, np.ndarray):
                    raise ValueError(f"its member {name} is no array")
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read as .npz without unpickling ({brief(error)}). "
            "Remedy: write plain arrays with np.savez(file, images=..., labels=...)."
        ) from error
    return entries


def _hidden(member: str) -> bool:
    parts = pathlib.PurePosixPath(member).parts
    return "__MACOSX" in parts or any(part.startswith("._") for part in parts)


def _roles(
    path: pathlib.Path, entries: dict[str, np.ndarray]
) -> tuple[dict[str, str], dict[str, str]]:
    """The names of the images and of the labels by split; every array has a role."""
    roles: dict[str, dict[str, str]] = {"images": {}, "labels": {}}
    unused = []
    for key in entries:
        match = ROLE.fullmatch(key)
        if match is None or (match["before"] and match["after"]):
            unused.append(key)
            continue
        split = split_of(match["before"] or match["after"] or "") or "all"
        role = "images" if match["images"] else "labels"
        named = roles[role]
        if split in named:
            raise DataError(
                f"{path}: {named[split]} and {key} both look like the {role} of "
                f"{split}. Remedy: leave one of them out, or rename it."
            )
        named[split] = key
    images, labels = roles.values()
    unused += [key for split, key in labels.items() if split not in images]
    if unused or not images or ("all" in images and len(images) > 1):
        used = sorted(set(entries) - set(unused))
        raise DataError(
            f"{path}: holds {brief(sorted(entries))}, expected images (and labels), or "
            f"train_images, train_labels and the same for val and test. "
            f"{_unused(entries, unused or used)} Remedy: np.savez(file, images=..., "
            "labels=...), without any other array."
        )
    if len(images) == 1:
        return _whole(images), _whole(labels)
    return images, labels


def _whole(named: dict[str, str]) -> dict[str, str]:
    return dict(zip(("all",), named.values()))


def _unused(entries: dict[str, np.ndarray], names: list[str]) -> str:
    said = (f"{x} ({entries[x].dtype} {list(entries[x].shape)})" for x in names)
    return f"Without use: {', '.join(said) or 'nothing'}."


def _count(path: pathlib.Path, entries: dict[str, np.ndarray], key: str) -> int | None:
    value = entries.pop(key, None)
    if value is None:
        return None
    low, high = COUNTS[key]
    if value.ndim or value.dtype.kind not in "iu" or not low <= int(value) <= high:
        shown = (
            f"{value.dtype} {list(value.shape)}" if value.ndim else repr(value.item())
        )
        raise DataError(
            f"{path}: {key} is {brief(shown)}, expected one integer in {low} .. "
            f"{high}. Remedy: correct it or leave it out."
        )
    return int(value)


def _manifest(path: pathlib.Path, text: np.ndarray) -> dict[str, Any]:
    try:
        found = json.loads(str(text))
    except ValueError as error:
        raise DataError(
            f"{path}: its manifest is not JSON ({brief(error)}). Remedy: "
            "prepare it again."
        ) from error
    if not isinstance(found, dict):
        raise DataError(
            f"{path}: its manifest is no table of JSON. Remedy: prepare it again."
        )
    return found
