"""`load`: by name over the routes in order, or from a path."""

import functools
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from kljax.data.dataset import Dataset
from kljax.data.readers.formats import READERS, read_path
from kljax.data.readers.raw import Raw
from kljax.data.routes.cache import (
    cache_folder,
    prepared_file,
    read_prepared,
    write_prepared,
)
from kljax.data.routes.debian import archive_file, download, extract, installed_member
from kljax.data.routes.hub import read_hub
from kljax.data.routes.packaged import package_file, verify
from kljax.data.routes.synthetic import stand_in
from kljax.data.sources import Missing, Source, find, table
from kljax.data.splits import choose
from kljax.errors import DataError

__all__ = ["ROUTES", "load", "prepare"]

Found = tuple[Raw, dict[str, Any]]


def load(
    name: str = "",
    split: str = "train",
    *,
    root: str | os.PathLike | None = None,
    path: str | os.PathLike | None = None,
    source: str = "auto",
    fetch: bool = False,
    allow_synthetic: bool = False,
) -> Dataset:
    """One split of a data set, by name or from the user's own files.

    A path wins. A name is looked for in the cache, in an installed package, in a
    Debian archive (installed, downloaded before, or downloaded now with `fetch`), and,
    with `fetch`, at the hub whose client is installed. Nothing touches the network
    without `fetch=True` or a hub named as `source`.

    Args:
      name: one of `kljax.data.names()`; with a path only a label for the manifest.
      split: "train", "val", "test" or "all". Data that come in one piece get a
        stratified 80/20 split that is the same everywhere, and where the held-out part
        is called val, it is the test split too; the manifest's `split_rule` says so.
      root: cache folder; by default $KLJAX_CACHE, else kljax below $XDG_CACHE_HOME or
        ~/.cache.
      path: your own data ("" for none): an idx file or folder, an .npz file, or a
        folder of PNG/JPEG images (class sub-folders are the labels; `train`, `val` and
        `test` are honored); square images of 8 to 64 pixels, gray or color. Every
        array and file is used, or an error names it.
      source: "auto", or one of "cache", "pip", "debian", "hf", "tfds" to use no other.
      fetch: allow a download.
      allow_synthetic: fall back on a seeded stand-in, marked in the manifest.

    Returns:
      A `Dataset` with read-only arrays: uint8 images `[n, h, w, c]`, int32 labels `[n]`
      or None.

    Raises:
      ValueError: unknown name, split or source.
      DataError: not on this machine (the message lists every route), damaged, or of an
        unexpected layout.

    Example:
      >>> train = load("digits")
      >>> train.images.shape, train.levels, train.manifest["source"]
      ((1437, 8, 8, 1), 17, 'pip')
    """
    if source not in ("auto", *ROUTES):
        raise ValueError(
            f"source must be auto or one of {tuple(ROUTES)}, got {source!r}"
        )
    if path is not None and not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"path must be a string or a path, got {type(path).__name__}; save arrays "
            "with np.savez(file, images=..., labels=...) first"
        )
    if path:
        file = pathlib.Path(path)
        raw = read_path(file)
        same = (entry for entry in table().values() if entry.content == raw.sha256)
        known = next(same, None)
        label = name or (known.name if known else file.name)
        origin = {"source": "path", "file": file.name}
        return _finish(label, split, raw, known, origin)
    entry = find(name, "images")
    raw, origin = _locate(entry, cache_folder(root), source, fetch, allow_synthetic)
    return _finish(entry.name, split, raw, entry, origin)


def _from_cache(entry: Source, root: pathlib.Path, fetch: bool) -> Found:
    raw, origin = read_prepared(entry, root)
    return raw, {"source": "cache"} | origin


def _from_package(entry: Source, root: pathlib.Path, fetch: bool) -> Found:
    if entry.route != "P":
        raise Missing("not part of a Python package")
    file = package_file(entry)
    verify(file, entry)
    return READERS[entry.format](file, entry), _origin(entry, "pip")


def _from_debian(entry: Source, root: pathlib.Path, fetch: bool) -> Found:
    if entry.route != "D":
        raise Missing("not part of a Debian package")
    if folder := installed_member(entry):
        return READERS[entry.format](folder, entry), _origin(entry, "debian")
    archive = archive_file(entry, root)
    if not archive.is_file() and not fetch:
        raise Missing(
            f"{entry.bytes / 1e6:.1f} MB to download: fetch=True, or "
            f"`python -m kljax.data fetch {entry.name}`"
        )
    archive = download(entry, root, _tell)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=archive.parent) as folder:
        member = extract(archive, entry.member, pathlib.Path(folder))
        raw = READERS[entry.format](member, entry)
    origin = _origin(entry, "debian")
    _check_content(entry, raw)
    write_prepared(entry, raw, origin, root)
    return raw, origin


def _from_hub(entry: Source, root: pathlib.Path, fetch: bool, client: str) -> Found:
    return read_hub(entry, client)


ROUTES: dict[str, Callable[[Source, pathlib.Path, bool], Found]] = {
    "cache": _from_cache,
    "pip": _from_package,
    "debian": _from_debian,
    "hf": functools.partial(_from_hub, client="hf"),
    "tfds": functools.partial(_from_hub, client="tfds"),
}
"""The ways to a named data set, in the order in which they are tried."""

HUBS = ("hf", "tfds")


def _locate(
    entry: Source,
    root: pathlib.Path,
    source: str,
    fetch: bool,
    allow_synthetic: bool,
) -> Found:
    reasons = []
    for route, reach in ROUTES.items():
        if source not in ("auto", route):
            continue
        if source == "auto" and route in HUBS and not fetch:
            reasons.append(f'{route}: asked only with fetch=True or source="{route}"')
            continue
        try:
            raw, origin = reach(entry, root, fetch)
        except Missing as missing:
            reasons.append(f"{route}: {missing}")
            continue
        if route not in HUBS:  # nobody promises their order of the images
            _check_content(entry, raw)
        return raw, origin
    if allow_synthetic:
        return stand_in(entry), {"source": "synthetic", "version": "1"}
    listed = "\n  ".join(reasons)
    raise DataError(
        f"{entry.name} is not on this machine. Remedies by route:\n  {listed}"
    )


def prepare(
    name: str,
    *,
    root: str | os.PathLike | None = None,
    report: Callable[[str], None] = print,
) -> pathlib.Path:
    """Writes the prepared form of `name` into the cache and returns its path.

    One compressed .npz file that `load(path=...)` also takes, on a machine that has
    neither the package nor a network.

    Raises:
      ValueError: unknown name.
      DataError: the data are not on this machine; fetch them first.
    """
    entry, folder = find(name, "images"), cache_folder(root)
    raw, origin = _locate(entry, folder, "auto", False, False)
    file = prepared_file(entry, folder)
    if not file.is_file():
        report(f"{name}: writing {sum(len(x) for x, _ in raw.splits.values())} images")
        write_prepared(entry, raw, origin, folder)
    report(f"{name}: {file} ({file.stat().st_size / 1e6:.1f} MB)")
    return file


def _origin(entry: Source, route: str) -> dict[str, Any]:
    return {
        "source": route,
        "package": entry.package,
        "version": entry.version,
        "archive_sha256": entry.sha256,
    }


def _check_content(entry: Source, raw: Raw) -> None:
    found = raw.sha256
    if entry.content and found != entry.content:
        raise DataError(
            f"{raw.origin}: pixels or labels are not those of {entry.name} (SHA-256 "
            f"{found[:12]}... instead of {entry.content[:12]}...). Remedy: delete the "
            "file and get it again, or pass path= for data of your own."
        )


def _finish(
    name: str, split: str, raw: Raw, known: Source | None, origin: dict[str, Any]
) -> Dataset:
    """Chooses the split and writes down everything that tells this data apart."""
    images, labels, rule = choose(raw, split)
    classes = raw.num_classes
    counts = [] if labels is None else np.bincount(labels, minlength=classes).tolist()
    content = raw.sha256
    earlier = raw.notes.get("prepared_from", {})
    synthetic = origin["source"] == "synthetic" or bool(earlier.get("synthetic"))
    manifest = {
        "name": f"synthetic stand-in for {name}" if synthetic else name,
        "version": known.version if known and known.content == content else "",
        **origin,
        "synthetic": synthetic,
        "known_content": bool(known and known.content == content),
        "sha256": content,
        "split": split,
        "split_rule": rule,
        "n": len(images),
        "shapes": {s: list(x.shape) for s, (x, _) in raw.splits.items()},
        "levels": raw.levels,
        "num_classes": classes,
        "class_counts": counts,
        "class_names": list(raw.class_names),
        "license": known.license if known and known.content == content else "",
        **raw.notes,
    }
    return Dataset(
        images=_read_only(images),
        labels=None if labels is None else _read_only(labels),
        num_classes=classes,
        levels=raw.levels,
        manifest=manifest,
    )


def _read_only(array: np.ndarray) -> np.ndarray:
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
