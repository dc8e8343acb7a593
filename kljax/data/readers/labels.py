"""Class indices: what counts as labels, and whether those of all splits fit."""

from collections.abc import Mapping

import numpy as np

from kljax.errors import DataError
from kljax.typing import Int

__all__ = ["Labels", "check_classes", "integer_labels"]

Labels = Int[np.ndarray, "n"]

MOST_BY_CHANCE = 100
"""Classes that a few images may be a sample of, without anybody saying so."""


def integer_labels(origin: str, labels: np.ndarray) -> Labels:
    """Any array `[n]` or `[n, 1]` of integers or booleans as int32 `[n]`.

    Raises:
      DataError: other numbers, text, more than one column, or no class indices.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "biu":
        raise DataError(
            f"{origin}: labels are {labels.dtype} {list(labels.shape)}, expected "
            f"labels [n], one integer per image. Remedy: {_remedy(labels)}."
        )
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0 or high >= 2**31:
        raise DataError(
            f"{origin}: found the label {low if low < 0 else high}, expected class "
            "indices 0 .. classes - 1. Remedy: number the classes from 0, or leave the "
            "labels out."
        )
    return labels.astype(np.int32)


def _remedy(labels: np.ndarray) -> str:
    kind = labels.dtype.kind
    if kind in "US":
        return "save np.unique(labels, return_inverse=True)[1]"
    if kind not in "biuf" or not labels.ndim or not labels.size:
        return "save class indices, or leave the labels out"
    if not np.isfinite(labels).all():
        return f"{int((~np.isfinite(labels)).sum())} are not finite, number them"
    if labels.ndim == 2 and _one_hot(labels):
        return "they look one-hot, save labels.argmax(axis=1)"
    if labels.ndim > 1:
        return "save the one column that holds the class"
    whole = (labels == np.rint(labels)).all()
    return "save labels.astype('int32')" if whole else "leave them out, or bin them"


def _one_hot(labels: np.ndarray) -> bool:
    zero_or_one = np.isin(labels, (0, 1)).all()
    return bool(zero_or_one and (labels.sum(axis=1, dtype=np.int64) == 1).all())


def check_classes(
    origin: str, labels: Mapping[str, Labels | None], num_classes: int
) -> None:
    """Whether the splits number the same classes, from 0 and without large gaps.

    A class may be missing by chance where there are few images: that is so where some
    class is shown by a single one (after Good and Turing, the share of single images
    estimates how much of the law was never seen). Elsewhere a gap has another reason.

    Args:
      origin: the file or folder, for the messages.
      labels: by split, each checked by `integer_labels`.
      num_classes: as the data declare it, 0 where they do not.

    Raises:
      DataError: a label beyond the declared classes, one that training never shows,
        numbers of which most belong to no class, or classes numbered from 1.
    """
    seen = {split: np.unique(y) for split, y in labels.items() if y is not None}
    if not seen:
        return
    occurring = np.unique(np.concatenate(list(seen.values())))
    count = int(occurring[-1]) + 1
    if not num_classes:
        by_chance = _has_single(labels.get("train", labels.get("all")))
        _check_shown(origin, seen, by_chance)
        _check_gaps(origin, occurring, by_chance)
    elif count > num_classes:
        raise DataError(
            f"{origin}: found the label {count - 1} among {num_classes} classes. "
            "Remedy: correct num_classes, or number the classes from 0."
        )


def _check_shown(origin: str, seen: Mapping[str, np.ndarray], by_chance: bool) -> None:
    for split, found in seen.items():
        new = np.setdiff1d(found, seen.get("train", found))
        if new.size and (new.size == found.size or not by_chance):
            raise DataError(
                f"{origin}: the label {new[0]} occurs in {split} and never in train. "
                "Remedy: number the classes of both alike, or save an integer "
                "num_classes beside the labels in an .npz file."
            )


def _check_gaps(origin: str, occurring: np.ndarray, by_chance: bool) -> None:
    count, used = int(occurring[-1]) + 1, len(occurring)
    if count > 2 * used and (count > MOST_BY_CHANCE or not by_chance):
        raise DataError(
            f"{origin}: labels up to {count - 1} would be {count:,} classes, and "
            f"{used} of them occur. Remedy: save np.unique(labels, "
            "return_inverse=True)[1], or an integer num_classes beside the labels in "
            "an .npz file."
        )
    if occurring[0] == 1 and used == count - 1 > 1 and not by_chance:
        raise DataError(
            f"{origin}: the labels are 1 .. {used} and none is 0, so {used} classes "
            f"numbered from 1, or {count} of which the first never occurs. Remedy: "
            f"save labels - 1, or an integer num_classes={count} beside the labels in "
            "an .npz file."
        )


def _has_single(labels: Labels | None) -> bool:
    return labels is not None and bool((np.unique_counts(labels).counts == 1).any())
