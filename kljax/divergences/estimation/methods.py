"""Methods of their own: neighbors, kernels, a classifier, Cauchy–Schwarz, Sinkhorn.

Each says which divergences it is for, and what its interval leaves out.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from kljax.divergences import samples as of_samples
from kljax.divergences import transport
from kljax.divergences.estimation.inspection import Refused, Samples, smoothed
from kljax.divergences.estimation.judged import auto
from kljax.divergences.estimation.lines import centered
from kljax.divergences.estimation.ratio import (
    averages,
    quantile,
    regime_of,
    tail_index,
)
from kljax.divergences.estimation.residual import residual
from kljax.divergences.estimation.stack import logistic
from kljax.divergences.estimation.verdict import Answer, within
from kljax.generators import FDivergence
from kljax.kernels.pairs.neighbors import kth_squared_distances

__all__ = ["METHODS", "Method", "check"]

_BLOCKS = 8
"""Of each sample, whose spread is the error where no formula gives it."""
_PAIRS = 4_000
"""Points of a side that all pairs are looked at of."""
_PLANNED = 1_000
"""Points of a side that are transported."""


Method = Callable[[Samples, FDivergence, float], Answer]


def _prepared(samples: Samples, rng: np.random.Generator) -> list[np.ndarray]:
    """Spread over cells, in pooled units of scale."""
    samples = smoothed(samples, rng)
    center, scale = centered(np.concatenate([samples.p, samples.q]))
    return [(x - center) / scale for x in (samples.p, samples.q)]


def _whitened(x_p: np.ndarray, x_q: np.ndarray) -> list[np.ndarray]:
    both = np.concatenate([x_p, x_q])
    root = np.linalg.cholesky(np.atleast_2d(np.cov(both.T)))
    return [np.linalg.solve(root, (x - both.mean(axis=0)).T).T for x in (x_p, x_q)]


def neighbors(samples: Samples, divergence: FDivergence, level: float) -> Answer:
    """Distances to the k-th neighbor in either sample, extrapolated in n.

    The bias falls as n^(−1/d), slower the more dimensions: it is estimated from halves
    of the samples and taken off, and all of it stands in the interval.
    """
    rng, z = np.random.default_rng(0), quantile(level)
    x_p, x_q = _whitened(*_prepared(samples, rng))
    k = max(3, int(np.sqrt(min(len(x_p), len(x_q))) / 4))

    def ratios(x_p: np.ndarray, x_q: np.ndarray) -> np.ndarray:
        x, y = (jnp.asarray(a, jnp.float32) for a in (x_p, x_q))
        own = kth_squared_distances(x, x, k, skip_own_index=True)
        other = kth_squared_distances(x, y, k)
        logs = [np.log(np.maximum(np.asarray(a, float), 1e-14)) for a in (own, other)]
        d, n, m = x_p.shape[1], len(x_p), len(x_q)
        return d / 2 * (logs[1] - logs[0]) + np.log(m / (n - 1))

    v = ratios(x_p, x_q)
    half_p, half_q = rng.permutation(x_p), rng.permutation(x_q)
    halves = [ratios(half_p[i::2], half_q[i::2]).mean() for i in range(2)]
    rate = 1 / max(x_p.shape[1] / 2, 1.0)
    shift = (v.mean() - np.mean(halves)) / (2**rate - 1)
    shift = float(np.clip(shift, -abs(v.mean()) - 1, abs(v.mean()) + 1))
    width = z * float(v.std() / np.sqrt(len(v))) + abs(shift)
    return Answer(
        *within(divergence, float(v.mean() + shift), width, width),
        regime_of(tail_index(v)),
        {"k": k, "at n": float(v.mean()), "extrapolated by": shift},
    )


def kernels(samples: Samples, divergence: FDivergence, level: float) -> Answer:
    """Kernel density estimates of half of each sample, the likeliest bandwidth.

    The regime is that of the kernel sums: the index of their largest terms.
    """
    rng, z = np.random.default_rng(0), quantile(level)
    x_p, x_q = _whitened(*_prepared(samples, rng))
    (fit_p, held_p), (fit_q, held_q) = (
        (x[: len(x) // 2], x[len(x) // 2 :]) for x in map(rng.permutation, (x_p, x_q))
    )
    d, n = x_p.shape[1], min(len(fit_p), len(fit_q))
    grid = n ** (-1 / (d + 4)) * np.array([0.25, 0.35, 0.5, 0.7, 1.0, 1.4])

    def density(at: np.ndarray, of: np.ndarray, h: float) -> np.ndarray:
        x, y = (jnp.asarray(a, jnp.float32) for a in (at, of))
        return np.asarray(of_samples.kde_log_density(x, y, jnp.float32(h)), float)

    looked = {h: density(held_p, fit_p, h).mean() + density(held_q, fit_q, h).mean()
              for h in grid}  # fmt: skip
    h = max(grid, key=looked.__getitem__)
    v_p, v_q = (
        density(at, fit_p, h) - density(at, fit_q, h) for at in (held_p, held_q)
    )
    found = averages(divergence, v_p, v_q)
    gaps = ((held_p[:200, None] - fit_p[None, :_PAIRS]) ** 2).sum(axis=-1)
    indices = [tail_index(-row / (2 * h * h)) for row in gaps]
    index = float(np.median(indices))
    width = z * found.error + abs(found.plug_in - found.bound) / 2
    notes = () if index > 1 else (
        "kernel sums are condensed: the nearest point alone makes the density, and the "
        "interval does not hold its bias",
    )  # fmt: skip
    return Answer(
        *within(divergence, found.middle, width, width),
        regime_of(index),
        {"bandwidth": float(h), "index of the kernel sums": index},
        notes=notes,
    )


def classifier(samples: Samples, divergence: FDivergence, level: float) -> Answer:
    """A network that tells p from q, and the variational bound of its held-out logit.

    The interval's lower end holds for any law; the upper one takes the logit for right.
    """
    rng, z = np.random.default_rng(0), quantile(level)
    x_p, x_q = _whitened(*_prepared(samples, rng))
    x_p, x_q = (np.clip(x, -6, 6) for x in (x_p, x_q))
    logit = residual(x_p, x_q, np.zeros(len(x_p)), np.zeros(len(x_q)), rng)
    line = [np.stack([np.ones(len(g)), g], axis=1) for g in logit]
    beta = logistic(*line)
    v_p, v_q = (f @ beta for f in line)
    found = averages(divergence, v_p, v_q)
    below = found.middle - found.bound + z * found.error
    above = max(found.plug_in - found.middle, 0) + z * found.error
    return Answer(
        *within(divergence, found.middle, max(below, 0.0), above),
        regime_of(tail_index(v_q)),
        {"lower bound": found.bound, "plug-in": found.plug_in},
        notes=("only the lower end holds for any law",),
    )


def cauchy_schwarz(samples: Samples, divergence: FDivergence, level: float) -> Answer:
    """The Cauchy–Schwarz divergence of kernel estimates, in nats."""
    rng, z = np.random.default_rng(0), quantile(level)
    x_p, x_q = _whitened(*_prepared(samples, rng))
    d = x_p.shape[1]

    def of(x_p: np.ndarray, x_q: np.ndarray) -> float:
        h = min(len(x_p), len(x_q)) ** (-1 / (d + 4))
        x, y = (jnp.asarray(a, jnp.float32) for a in (x_p, x_q))
        return float(of_samples.cauchy_schwarz(x, y, jnp.float32(h)))

    return _blocked(of, x_p, x_q, rng, z, "cauchy_schwarz")


@jax.jit
def _sinkhorn(x: jax.Array, y: jax.Array, epsilon: jax.Array) -> jax.Array:
    return transport.sinkhorn_divergence(x, y, epsilon, iterations=100)


def sinkhorn(samples: Samples, divergence: FDivergence, level: float) -> Answer:
    """The Sinkhorn divergence of squared distances, at a tenth of their median."""
    rng, z = np.random.default_rng(0), quantile(level)
    x_p, x_q = _prepared(samples, rng)
    x_p, x_q = (rng.permutation(x)[:_PLANNED] for x in (x_p, x_q))
    gaps = ((x_p[:200, None] - x_q[None, :200]) ** 2).sum(axis=-1)
    epsilon = jnp.float32(0.1 * np.median(gaps))

    def of(x_p: np.ndarray, x_q: np.ndarray) -> float:
        x, y = (jnp.asarray(a, jnp.float32) for a in (x_p, x_q))
        return float(_sinkhorn(x, y, epsilon))

    return _blocked(of, x_p, x_q, rng, z, "sinkhorn_divergence")


def _blocked(of: Callable, x_p, x_q, rng, z: float, name: str) -> Answer:
    """The value of everything, and the spread of blocks of the samples."""
    x_p, x_q = rng.permutation(x_p), rng.permutation(x_q)
    size = min(len(x_p), len(x_q)) // _BLOCKS
    if size < 4:
        raise Refused("too few points for blocks", f"at least {4 * _BLOCKS} points")
    parts = [of(x_p[i * size :][:size], x_q[i * size :][:size]) for i in range(_BLOCKS)]
    value = of(x_p, x_q)
    width = z * float(np.std(parts, ddof=1) / np.sqrt(_BLOCKS))
    return Answer(
        value,
        (max(value - width, 0.0), value + width),
        "clt",
        {"mean of blocks": float(np.mean(parts))},
        notes=(f"this is {name}: 0 for equal laws alone, and no bound on the others",),
        measured=name,
    )


METHODS: Mapping[str, Method] = {
    "auto": auto,
    "knn": neighbors,
    "kde": kernels,
    "classifier": classifier,
    "cauchy_schwarz": cauchy_schwarz,
    "sinkhorn": sinkhorn,
}
_ONLY = {"knn": ("forward_kl", "reverse_kl")}


def check(method: str, name: str) -> None:
    """Raises a `ValueError` where a method is not for a divergence."""
    good = _ONLY.get(method, (name,))
    if name not in good:
        raise ValueError(f"method {method!r} is for {' and '.join(good)}, got {name!r}")
