"""Samples of a generator of images, as they are judged: rounded, and timed."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from kljax.data import from_unit
from kljax.data.images import Codec, Pictures
from kljax.typing import Array, Int

__all__ = ["Samples", "drawn"]

MOST_PIXELS = 1_600_000
"""Of the images of one part."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """Rounded samples, their classes, and how many came per second once compiled."""

    images: UInt8[np.ndarray, "n h w c"]
    ids: Int[np.ndarray, "n"] | None
    per_second: float


def drawn(
    draw: Callable[[Array, Any], Array],
    pictures: Pictures,
    codec: Codec,
    count: int,
    *,
    seed: int,
    note: Callable[[int], None] = lambda done: None,
) -> Samples:
    """Samples of a generator, part by part; models of one seed see the same noise.

    Args:
      draw: `draw(noise, ids)` gives codes, of standard normal noise.
      pictures: the real ones, whose classes are taken with their frequencies.
      codec: from codes to images.
      count: of images.
      seed: of the noise.
      note: is told how many there are.
    """
    shape = codec.encode(pictures.train[:1]).shape[1:]
    most = MOST_PIXELS // math.prod(pictures.shape)
    size = min(count, max(64, min(2500, most)))
    ids = pictures.sample_ids(count)
    key = jax.random.fold_in(jax.random.key(seed), 3)

    def part(start: int) -> np.ndarray:
        z = jax.random.normal(jax.random.fold_in(key, start), (size, *shape))
        chosen = None if ids is None else np.resize(ids[start:], size)
        return codec.decode(np.asarray(draw(z, chosen)))

    part(0)
    found, started = [], time.perf_counter()
    for start in range(0, count, size):
        found.append(part(start))
        note(min(count, start + size))
    speed = len(found) * size / (time.perf_counter() - started)
    images = from_unit(np.concatenate(found)[:count], pictures.levels)
    return Samples(images, ids, speed)
