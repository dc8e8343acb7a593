"""The folder of prepared data: one .npz and one manifest.json per name."""

import contextlib
import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np

from kljax.data.readers.arrays import read_npz
from kljax.data.readers.raw import Raw, shape_of
from kljax.data.sources import Missing, Source
from kljax.errors import DataError

__all__ = ["cache_folder", "prepared_file", "read_prepared", "write_prepared"]


def cache_folder(root: str | os.PathLike | None = None) -> pathlib.Path:
    """`root`, or $KLJAX_CACHE, or kljax below $XDG_CACHE_HOME, or ~/.cache/kljax."""
    if root:
        return pathlib.Path(root).expanduser()
    if named := os.environ.get("KLJAX_CACHE"):
        return pathlib.Path(named).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    base = pathlib.Path(shared) if shared else pathlib.Path.home() / ".cache"
    return base / "kljax"


def prepared_file(source: Source, root: pathlib.Path) -> pathlib.Path:
    """Where the prepared form of `source` lies below the cache folder."""
    return root / source.name / f"{source.name}.npz"


def write_prepared(
    source: Source, raw: Raw, origin: Mapping[str, Any], root: pathlib.Path
) -> pathlib.Path:
    """Writes the arrays and the manifest, each beside and then renamed."""
    target = prepared_file(source, root)
    sizes = {split: list(shape_of(x)) for split, (x, _) in raw.splits.items()}
    manifest = {
        **origin,
        "name": source.name,
        "n": {split: shape[0] for split, shape in sizes.items()},
        "shapes": sizes,
        "levels": raw.levels,
        "sha256": raw.sha256,
    }
    arrays: dict[str, Any] = {
        "levels": np.int32(raw.levels),
        "manifest": np.array(json.dumps(manifest, sort_keys=True)),
    }
    if raw.declared_classes:
        arrays["num_classes"] = np.int32(raw.declared_classes)
    for split, (images, labels) in raw.splits.items():
        prefix = "" if split == "all" else f"{split}_"
        arrays[f"{prefix}images"] = images
        if labels is not None:
            arrays[f"{prefix}labels"] = labels
    with _beside(target) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    with _beside(target.with_name("manifest.json")) as part:
        part.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", "utf-8")
    return target


def read_prepared(source: Source, root: pathlib.Path) -> tuple[Raw, dict[str, Any]]:
    """The arrays of the prepared form and the record of where they came from.

    Raises:
      Missing: nothing was prepared.
      DataError: the file is damaged or not what was prepared.
    """
    file = prepared_file(source, root)
    if not file.is_file():
        raise Missing("nothing prepared in the cache")
    raw = read_npz(file)
    origin = dict(raw.notes.get("prepared_from", {}))
    raw = dataclasses.replace(raw, notes={})
    if origin.get("sha256") != raw.sha256:
        raise DataError(
            f"{file}: its arrays are not those of its manifest. Remedy: delete the "
            "file and prepare it again."
        )
    kept = ("source", "package", "version", "archive_sha256")
    return raw, {key: origin[key] for key in kept if key in origin}


@contextlib.contextmanager
def _beside(target: pathlib.Path) -> Generator[pathlib.Path]:
    """A path in a private folder next to `target`, renamed to it on success."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=target.parent) as folder:
        part = pathlib.Path(folder) / target.name
        yield part
        part.replace(target)
