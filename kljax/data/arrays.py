"""Images in one .npz file: the prepared form, and what users bring."""

import json
import pathlib
import zipfile
import zlib
from typing import Any

import numpy as np

from kljax.data.raw import Images, Raw, integer_labels
from kljax.errors import DataError

__all__ = ["read_npz"]

KEYS = {
    "all": (("images", "labels"), ("x", "y")),
    "train": (("train_images", "train_labels"), ("x_train", "y_train")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}
"""Names under which the images and labels of a split may stand in the file."""


def read_npz(path: pathlib.Path) -> Raw:
    """Reads `images` and, optionally, `labels`; or both per split.

    Values follow one rule. Integers must lie in 0 .. 255 and are grey levels. Floats
    with a negative value are taken as [-1, 1], floats without one as [0, 1]; anything
    outside is refused. The decision is made once for the whole file and goes into the
    manifest as `value_rule`.

    Args:
      path: an .npz file with `images` `[n, h, w]` or `[n, h, w, c]` and `labels` `[n]`;
        or `train_images`, `train_labels`, `test_images`, `test_labels` (also
        `x_train`, ...). An integer `levels` says how many grey levels there are.

    Raises:
      DataError: the file is damaged, pickled or does not hold what is expected.
    """
    entries = _load(path)
    found = {}
    for split, pairs in KEYS.items():
        for image_key, label_key in pairs:
            if image_key in entries:
                found.setdefault(split, (entries[image_key], entries.get(label_key)))
    if not found or ("all" in found and len(found) > 1):
        raise DataError(
            f"{path}: holds {sorted(entries)}, expected images (and labels), or "
            "train_images and test_images. Remedy: np.savez(file, images=..., "
            "labels=...)."
        )
    if len(found) == 1:
        found = {"all": next(iter(found.values()))}

    rule, scale, offset = _value_rule(path, [images for images, _ in found.values()])
    splits = {}
    for split, (images, labels) in found.items():
        pixels = _as_bytes(images, scale, offset)
        splits[split] = (
            pixels[..., None] if pixels.ndim == 3 else pixels,
            None if labels is None else integer_labels(str(path), labels),
        )
    levels = _integer(path, entries, "levels", 256)
    notes: dict[str, Any] = {"value_rule": rule}
    if "manifest" in entries:
        notes["prepared_from"] = _manifest(path, entries["manifest"])
    return Raw(str(path), splits, levels=levels, notes=notes)


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        # Opened here: np.load leaves its own handle open when it fails.
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError("a single array, not an .npz archive")
            return {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read as .npz without unpickling ({error}). Remedy: "
            "write plain arrays with np.savez(file, images=..., labels=...)."
        ) from error


def _value_rule(
    path: pathlib.Path, arrays: list[np.ndarray]
) -> tuple[str, float, float]:
    """What the numbers mean: a sentence, a scale and an offset to 0 .. 255."""
    kinds = {images.dtype.kind for images in arrays}
    if any(not images.size for images in arrays):
        raise DataError(f"{path}: no images. Remedy: name another file.")
    low = min(float(images.min()) for images in arrays) if kinds <= set("iuf") else 0
    high = max(float(images.max()) for images in arrays) if kinds <= set("iuf") else 0
    if kinds <= set("iu") and 0 <= low and high <= 255:
        return "integers 0 .. 255, kept", 1.0, 0.0
    if kinds == {"f"} and 0 <= low and high <= 1:
        return "floats in [0, 1], times 255, rounded", 255.0, 0.0
    if kinds == {"f"} and -1 <= low < 0 and high <= 1:
        return "floats in [-1, 1], to 0 .. 255, rounded", 127.5, 127.5
    raise DataError(
        f"{path}: image values of kind {'/'.join(sorted(kinds))} between {low:g} and "
        f"{high:g}, expected integers in 0 .. 255 or finite floats in [0, 1] or "
        "[-1, 1]. Remedy: rescale, or save images.astype('uint8')."
    )


def _as_bytes(images: np.ndarray, scale: float, offset: float) -> Images:
    if images.dtype.kind in "iu":
        return images.astype(np.uint8)
    return np.rint(images.astype(np.float32) * scale + offset).astype(np.uint8)


def _integer(
    path: pathlib.Path, entries: dict[str, np.ndarray], key: str, default: int
) -> int:
    if key not in entries:
        return default
    value = entries[key]
    if value.ndim or value.dtype.kind not in "iu" or not 2 <= int(value) <= 256:
        raise DataError(
            f"{path}: {key} is {value!r}, expected one integer in 2 .. 256. Remedy: "
            f"correct it or leave it out ({default} is assumed)."
        )
    return int(value)


def _manifest(path: pathlib.Path, text: np.ndarray) -> dict[str, Any]:
    try:
        return dict(json.loads(str(text)))
    except ValueError as error:
        raise DataError(
            f"{path}: its manifest is not JSON ({error}). Remedy: prepare it again."
        ) from error
