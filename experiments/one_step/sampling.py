"""Images of the teacher and of the students, drawn part by part."""

import dataclasses
import functools
import math
import time
from typing import Any

import jax
import numpy as np

from experiments.one_step.networks import Networks
from kljax.data import from_unit
from kljax.data.images import Pictures
from kljax.models.vision import edm
from kljax.training import Progress
from kljax.typing import PyTree

__all__ = ["Sampling"]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How many images are drawn, and how: in many steps or in one."""

    nets: Networks
    pictures: Pictures
    shape: tuple[int, ...]
    """Of the codes."""
    count: int
    steps: int
    """Of the sampler of many steps."""
    progress: Progress

    @functools.cached_property
    def samplers(self) -> dict[str, Any]:
        """Compiled functions `(params, noise, classes) -> codes`."""

        def many(params, z, ids):
            return edm.heun_sampler(
                lambda x, sigma: self.nets.denoise(params, x, sigma, ids),
                z,
                steps=self.steps,
            )

        return {"many": jax.jit(many), "one": jax.jit(self.nets.generate)}

    def images(self, sampler: str, params: PyTree, seed: int, title: str) -> Any:
        """Rounded samples, their classes, and images per second once compiled."""
        count, codec = self.count, self.nets.codec
        size = min(
            count, max(64, min(2500, 1_600_000 // math.prod(self.pictures.shape)))
        )
        ids = self.pictures.sample_ids(count)
        key = jax.random.fold_in(jax.random.key(seed), 3)
        draw = self.samplers[sampler]

        def part(start: int) -> np.ndarray:
            noise = jax.random.fold_in(key, start)
            z = jax.random.normal(noise, (size, *self.shape))
            chosen = None if ids is None else np.resize(ids[start:], size)
            return codec.decode(np.asarray(draw(params, z, chosen)))

        part(0)
        found, started = [], time.perf_counter()
        task = self.progress.task(title, count)
        for start in range(0, count, size):
            found.append(part(start))
            done = min(count, start + size)
            task.update(done, rate=done / (time.perf_counter() - started))
        task.close()
        seconds = time.perf_counter() - started
        images = from_unit(np.concatenate(found)[:count], self.pictures.levels)
        return images, ids, len(found) * size / seconds
