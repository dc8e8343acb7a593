"""Seeded stand-ins for tests without any data: shaped like a source, and marked."""

import zlib

import numpy as np

from kljax.data.readers.raw import Raw
from kljax.data.sources import Source

__all__ = ["stand_in"]

LARGEST_TRAIN, LARGEST_TEST = 2_000, 500


def stand_in(source: Source) -> Raw:
    """Noisy sums of a few waves, one pattern per class, with `source`'s shapes.

    The numbers of images are those of the source, at most 2,000 and 500. The name of
    the source is the seed.
    """
    rng = np.random.default_rng(zlib.crc32(source.name.encode()))
    h, w, c = source.shape
    axes = np.meshgrid(np.linspace(0, 1, h), np.linspace(0, 1, w), indexing="ij")
    waves = rng.uniform(0.5, 2.0, (source.num_classes, 3, c, 2))
    phases = rng.uniform(0, 2 * np.pi, (source.num_classes, 3, c))
    angles = 2 * np.pi * np.einsum("kfca,ahw->kfchw", waves, np.stack(axes))
    patterns = np.cos(angles + phases[..., None, None]).sum(1).transpose(0, 2, 3, 1)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = (np.arange(n) % source.num_classes).astype(np.int32)
        noise = rng.normal(0, 0.5, (n, h, w, c))
        unit = 1 / (1 + np.exp(-(patterns[labels] + noise)))
        return np.rint(unit * (source.levels - 1)).astype(np.uint8), labels

    train = draw(min(LARGEST_TRAIN, source.count * 4 // 5))
    test = draw(min(LARGEST_TEST, source.count // 5))
    splits = {"train": train, "test": test}
    return Raw(f"stand-in for {source.name}", splits, levels=source.levels)
