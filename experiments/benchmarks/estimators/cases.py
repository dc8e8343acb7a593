"""A case of the benchmark: a pair of laws, two samples, the exact divergence."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from experiments.benchmarks.estimators.families import FAMILIES
from experiments.benchmarks.estimators.laws import Pair
from experiments.benchmarks.estimators.sequences import Built

__all__ = ["DRAWS", "Case", "Truth", "truth"]

DRAWS = 1_000_000
"""Of each truth that has no closed form."""
_CHUNK = 50_000


@dataclasses.dataclass(frozen=True)
class Case:
    """Two samples to be: a family, its sizes, about how far apart, and a seed."""

    family: str
    d: int
    n: int
    target: float
    """Nats of KL(p‖q), about; 0 for equal laws."""
    seed: int

    @functools.cached_property
    def pair(self) -> Pair:
        """Its laws, parted until the divergence is about the target."""
        rng = np.random.default_rng([self.seed, self.d, *map(ord, self.family)])
        family = FAMILIES[self.family]
        built = family.build(rng, self.d)
        if family.refused and not np.isfinite(built(1.0).kl or 0):
            return built(1.0)
        found = built(_strength(built, self.target or 0.3))
        return found if self.target else found._replace(q=found.p, kl=0.0)

    def samples(self) -> tuple[np.ndarray, np.ndarray]:
        """Of p and q, n each."""
        words = [1, self.seed, self.d, self.n, *map(ord, self.family)]
        rng = np.random.default_rng([*words, int(1000 * self.target)])
        pair = self.pair
        p, q = (pair.push(law.sample(rng, self.n)) for law in (pair.p, pair.q))
        return p, q


def _strength(built: Built, target: float) -> float:
    """By bisection, on 5,000 draws where no closed form is known."""
    low, high = np.log(1e-3), np.log(30.0)
    for _ in range(18):
        middle = (low + high) / 2
        with np.errstate(all="ignore"):
            pair = built(np.exp(middle))
            found = pair.kl if pair.kl is not None else _mean(pair, 5_000, 0)[0]
        low, high = (low, middle) if not found < target else (middle, high)
    return float(np.exp(low))


class Truth(NamedTuple):
    """KL(p‖q) and the standard error of this number."""

    value: float
    error: float


def _mean(pair: Pair, draws: int, seed: int) -> Truth:
    rng = np.random.default_rng(seed)
    total = squares = 0.0
    for start in range(0, draws, _CHUNK):
        x = pair.p.sample(rng, min(_CHUNK, draws - start))
        ratio = pair.p.log_density(x) - pair.q.log_density(x)
        total, squares = total + ratio.sum(), squares + (ratio**2).sum()
    mean = total / draws
    return Truth(float(mean), float(np.sqrt(max(0, squares / draws - mean**2) / draws)))


def truth(case: Case, draws: int = DRAWS) -> Truth:
    """In closed form, or the mean of the exact log-ratio over draws of p."""
    known = case.pair.kl
    return Truth(known, 0.0) if known is not None else _mean(case.pair, draws, 1)
