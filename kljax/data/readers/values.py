"""What the numbers of images mean: grey levels, or floats in one of two ranges."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from kljax.data.readers.raw import Images
from kljax.errors import DataError

__all__ = ["as_levels", "byte_levels"]

NOISE = 1e-3
"""By how much a float may miss its range: less than half a grey level of 256."""
HALF = -0.5 - NOISE
"""[-0.5, 0.5] is a range in use as well: only what goes below is part of [-1, 1]."""
BYTE_DIM, WIDE_DIM = 32, 128
"""Below this largest value images do not look like 256 levels: bytes say by their type
that they are, wider numbers do not."""


class Rule(NamedTuple):
    """Grey level = round(value * scale + offset), with `levels - 1` for scale 1."""

    text: str
    scale: float = 0.0
    offset: float = 0.0


BINARY = Rule("zeros and ones, kept: two levels")
BYTES = Rule("integers 0 .. 255, kept")
UNIT = Rule("floats in [0, 1], times 255, rounded", 1.0, 0.0)
SIGNED = Rule("floats in [-1, 1], to 0 .. 255, rounded", 0.5, 0.5)


def byte_levels(origin: str, *images: Images) -> int:
    """Levels of stored bytes: 2 where they are zeros and ones, else 256.

    Raises:
      DataError: so few levels are used that there must be another number of them.
    """
    high = max((int(x.max()) for x in images if x.size), default=0)
    if high > 1 and not _constant(images):
        _check_dim(origin, high, BYTE_DIM, f"levels={high + 1}")
    return 2 if high == 1 else 256


def as_levels(
    origin: str, arrays: Mapping[str, np.ndarray], levels: int | None
) -> tuple[dict[str, Images], int, str]:
    """Images of all splits as grey levels, by one rule for all of them.

    Args:
      origin: the file, for the messages.
      arrays: by the name under which they stand in the file.
      levels: how many there are, None where the file does not say.

    Returns:
      uint8 arrays under the same names, the number of levels, and the rule in words.

    Raises:
      DataError: values outside, not finite, of no clear meaning, or of two meanings.
    """
    signed = any(x.dtype.kind == "f" and _reach(x)[0] < HALF for x in arrays.values())
    rules = {key: _rule(origin, key, x, levels, signed) for key, x in arrays.items()}
    first, *others = rules
    for other in others:
        if rules[other] != rules[first]:
            raise DataError(
                f"{origin}: {first} are read as {rules[first].text}; {other} as "
                f"{rules[other].text}. Remedy: save both alike, or say levels."
            )
    rule = rules[first]
    if levels is None:
        levels = 2 if rule is BINARY else 256
        if rule is not BINARY and not _constant(arrays.values()):
            _check_all_dim(origin, arrays, rule)
    scale = rule.scale * (levels - 1)
    found = {
        key: _convert(x, scale, rule.offset * (levels - 1), levels)
        for key, x in arrays.items()
    }
    return found, levels, rule.text


def _rule(
    origin: str, key: str, images: np.ndarray, levels: int | None, signed: bool
) -> Rule:
    """`signed`: whether some images of the file reach below half of [-1, 1]."""
    kind = images.dtype.kind
    if not images.size:
        raise DataError(f"{origin}: no images in {key}. Remedy: name another file.")
    low = high = 0.0
    if kind in "biuf":
        low, high = _reach(images)
        byte = 0 <= low and high <= 255
        if kind == "f":
            byte = byte and high > 1 + NOISE and bool((images % 1 == 0).all())
        if byte:
            return BINARY if high <= 1 and levels is None else BYTES
        if kind == "f" and -NOISE <= low and high <= 1 + NOISE:
            return UNIT
        inside = kind == "f" and -1 - NOISE <= low < -NOISE and high <= 1 + NOISE
        if inside and signed:
            return SIGNED
    raise DataError(
        f"{origin}: {key} holds image values of kind {kind} ({images.dtype}) between "
        f"{low:g} and {high:g}, expected integers in 0 .. 255 or finite floats in "
        "[0, 1], or in [-1, 1] and some below -0.5. Remedy: "
        f"{_remedy(images, low, high)}."
    )


def _reach(images: np.ndarray) -> tuple[float, float]:
    return (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)


def _remedy(images: np.ndarray, low: float, high: float) -> str:
    kind = images.dtype.kind
    if kind not in "biuf":
        return "save one number per pixel and channel, of an integer or a float type"
    if not np.isfinite((low, high)).all():
        count = int((~np.isfinite(images)).sum())
        return f"{count} are not finite, look at how they were written"
    if kind in "iu":
        if high <= 255:
            return "shift or clip them to 0 .. 255"
        return "rescale them, save images / n with n the largest value of their type"
    return "undo their normalization, so that all of them lie in [0, 1]"


def _constant(arrays: Iterable[np.ndarray]) -> bool:
    """Whether every pixel is the same, which is another fault than being dark."""
    ends = [(x.min(), x.max()) for x in arrays if x.size]
    low, high = zip(*ends) if ends else ((0,), (0,))
    return bool(min(low) == max(high))


def _check_all_dim(origin: str, arrays: Mapping[str, np.ndarray], rule: Rule) -> None:
    high = max(float(x.max()) for x in arrays.values())
    if rule is UNIT:
        _check_dim(origin, high * 255, BYTE_DIM, "images scaled to [0, 1]")
    elif rule is BYTES and high:
        byte = all(x.dtype == np.uint8 for x in arrays.values())
        limit = BYTE_DIM if byte else WIDE_DIM
        _check_dim(origin, high, limit, f"levels={int(high) + 1}")


def _check_dim(origin: str, high: float, limit: int, remedy: str) -> None:
    if 0 < high < limit:
        raise DataError(
            f"{origin}: the largest of all pixels is {high:g} of 255, so these do not "
            f"look like 256 grey levels. Remedy: save an .npz file with {remedy}, or "
            "with levels=256 if they are that dark."
        )


def _convert(images: np.ndarray, scale: float, offset: float, levels: int) -> Images:
    if not scale:
        return images.astype(np.uint8)
    scaled = images.astype(np.float32) * np.float32(scale) + np.float32(offset)
    return np.rint(np.clip(scaled, 0, levels - 1)).astype(np.uint8)
