"""The parts of a data set: what they are called, and a test split where none came.

A made split is stratified, and the same everywhere.
"""

import hashlib

import numpy as np

from kljax.data.readers.labels import Labels
from kljax.data.readers.raw import SPLITS, Examples, Raw, content_of, joined, taken
from kljax.errors import DataError
from kljax.typing import Int

__all__ = ["HELD_OUT", "SPLIT_NAMES", "choose", "held_out"]

HELD_OUT = 0.2
"""Share of the examples that a made split holds out."""

SPLIT_NAMES = (*SPLITS, "all")


def _made(raw: Raw) -> str:
    return (
        f"made here: {HELD_OUT:.0%} held out, stratified by class, {raw.kind} ordered "
        f"by the SHA-256 of their {'pixels' if raw.kind == 'images' else 'content'}"
    )


def held_out(examples: Examples, labels: Labels | None) -> Int[np.ndarray, "m"]:
    """Indices of the test examples of data that come as one piece.

    In each class the examples are ordered by the SHA-256 of their content and the first
    ones are held out, `ceil(n / 5)` in all, shared out over the classes by largest
    remainder. No random number takes part, and the order of the files has no
    influence.

    Args:
      examples: an array `[n, ...]`, or n texts or pairs of texts.
      labels: `[n]`, or None for a single stratum.

    Returns:
      int64 `[m]`, increasing. Every class keeps at least one for training.
    """
    n = len(examples)
    strata = np.zeros(n, np.int32) if labels is None else labels
    classes, counts = np.unique(strata, return_counts=True)
    shares = counts * HELD_OUT
    take = np.floor(shares).astype(int)
    missing = int(np.ceil(n * HELD_OUT)) - int(take.sum())
    take[np.argsort(take - shares, kind="stable")[:missing]] += 1
    take = np.minimum(take, counts - 1)

    keys = np.array([hashlib.sha256(content_of(x)).digest() for x in examples])
    chosen = []
    for label, size in zip(classes, take):
        members = np.flatnonzero(strata == label)
        chosen.append(members[np.argsort(keys[members], kind="stable")[:size]])
    return np.sort(np.concatenate(chosen))


def choose(raw: Raw, split: str) -> tuple[Examples, Labels | None, str]:
    """The examples and labels of one split, and the rule that separated them."""
    if split not in SPLIT_NAMES:
        raise ValueError(f"split must be one of {SPLIT_NAMES}, got {split!r}")
    if "all" not in raw.splits:
        return _published(raw, split)
    examples, labels = raw.splits["all"]
    if split == "all":
        return examples, labels, "none: one piece"
    if split == "val":
        raise DataError(
            f"{raw.origin}: comes in one piece, of which a test split is made. Remedy: "
            'ask for split="train", "test" or "all".'
        )
    test = held_out(examples, labels)
    if not len(test):
        raise DataError(
            f"{raw.origin}: {len(examples)} {raw.kind} are too few for a train and a "
            'test split. Remedy: bring more, or ask for split="all".'
        )
    index = test if split == "test" else np.setdiff1d(np.arange(len(examples)), test)
    chosen = None if labels is None else labels[index]
    return taken(examples, index), chosen, _made(raw)


def _published(raw: Raw, split: str) -> tuple[Examples, Labels | None, str]:
    if split in raw.splits:
        return *raw.splits[split], "as published"
    if split == "all":
        whole = [raw.splits[part] for part in SPLITS if part in raw.splits]
        labels = [y for _, y in whole if y is not None]
        found = np.concatenate(labels) if labels else None
        return joined([x for x, _ in whole]), found, "as published"
    if split == "test":
        return *raw.splits["val"], "as published: what is held out is called val there"
    raise DataError(
        f"{raw.origin}: has the splits {sorted(raw.splits)} and no val. Remedy: "
        'ask for split="test", or add one.'
    )
