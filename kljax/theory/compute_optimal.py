"""What a budget of compute is best spent on: weights or tokens.

Of the losses of models of N weights (no embeddings) after E tokens, at C = 6 N E
floating-point operations. Equations are those of `kljax.theory.scaling`, which fits
the power laws.

Reference: Henighan et al. 2020, "Scaling laws for autoregressive generative modeling",
arXiv 2010.14701.
"""

import math
from typing import NamedTuple

import jax
import numpy as np

from kljax.typing import ArrayLike, Float, PyTree

__all__ = [
    "PF_DAY",
    "Frontier",
    "frontier",
    "non_embedding",
    "optimal_size",
    "training_flops",
]

PF_DAY = 8.64e19
"""Floating-point operations of a day at 1e15 a second."""

Each = Float[np.ndarray, "*b"] | float
Number = Float[ArrayLike, "*#b"]


class Frontier(NamedTuple):
    """``N_opt = (C / scale)^beta`` (3), and the points that it goes through."""

    beta: float
    """NaN where fewer than three sizes are on it."""
    log_scale: float
    compute: Float[np.ndarray, " k"]
    size: Float[np.ndarray, " k"]
    grid: Float[np.ndarray, " p"]
    """Compute between both ends, equal in its logarithm."""
    least: Float[np.ndarray, " p"]
    """The least loss of all sizes there: L(C)."""


def frontier(
    compute: Float[np.ndarray, "m s"],
    loss: Float[np.ndarray, "m s"],
    size: Float[np.ndarray, " m"],
    floor: float = 0.0,
    *,
    points: int = 4000,
) -> Frontier:
    """The best size by compute, from the learning curves of several sizes (3).

    log(L - floor) is read off every curve on one grid of log C. Each size owns the
    range where it is the lowest; its geometric middle is its compute. The
    smallest and the largest, whose ranges are cut by the choice of sizes, are left out,
    and so is a size whose range ends where a curve does and not where two cross: curves
    that are too short to cross end at C in proportion to N, which is no law.

    Args:
      compute: of every size at every evaluation, ascending along `s`.
      loss: above the floor.
      size: N, ascending.
      floor: L_inf, or the entropy where it is known.
      points: of the grid.

    Raises:
      ValueError: shapes; no size between the ends is ever the best.

    Reference: sections 1.4 and 2.3.
    """
    compute, loss, size = (np.asarray(v, float) for v in (compute, loss, size))
    if compute.shape != loss.shape or compute.shape[:1] != size.shape:
        shapes = f"got {compute.shape}, {loss.shape} and {size.shape}"
        raise ValueError(f"compute and loss must be [m s] and size [m], {shapes}")
    log_c = np.log(compute)
    grid = np.linspace(log_c.min(), log_c.max(), points)
    every = np.stack([
        np.interp(grid, c, np.log(l - floor), np.inf, np.inf)
        for c, l in zip(log_c, loss)
    ])  # fmt: skip
    owner, there = every.argmin(axis=0), np.isfinite(every)
    owned = [np.flatnonzero(owner == i) for i in range(len(size))]
    inner = [i for i, places in enumerate(owned) if len(places)][1:-1]
    if not inner:
        raise ValueError("the best size is the smallest or the largest everywhere")

    def crosses(i: int) -> bool:
        """Whether both ends of its range are crossings, not ends of curves."""
        ends = (owned[i][0], -1), (owned[i][-1], 1)
        return all(there[[i, owner[at + to]], [at + to, at]].all() for at, to in ends)

    kept = [i for i in inner if crosses(i)]
    middle = np.array([(grid[owned[i][0]] + grid[owned[i][-1]]) / 2 for i in kept])
    beta, at_one = (math.nan,) * 2
    if len(kept) > 2:
        beta, at_one = np.polyfit(middle, np.log(size[kept]), 1)
    inside = slice(owned[inner[0]][0], owned[inner[-1]][-1] + 1)
    least = floor + np.exp(every.min(axis=0)[inside])
    points_on_it = np.exp(middle), size[kept], np.exp(grid[inside]), least
    return Frontier(float(beta), float(-at_one / beta), *points_on_it)


def optimal_size(
    compute: Number, size_law: tuple[Number, Number], token_law: tuple[Number, Number]
) -> Each:
    """N_opt if ``L(N, E) = L_inf + A N^-a + B E^-b`` and C = 6 N E.

    ``(a A / (b B))^(1 / (a + b)) (C / 6)^(b / (a + b))``: beta of (3) is b / (a + b),
    and the reducible loss falls as C^(-a b / (a + b)).

    Args:
      compute: C.
      size_law: (A, a).
      token_law: (B, b).

    Example:
      >>> float(optimal_size(6.0, (1.0, 0.5), (1.0, 0.5)))
      1.0
    """
    (big_a, a), (big_b, b) = size_law, token_law
    log_n = np.log(a * big_a / (b * big_b)) + b * np.log(np.asarray(compute) / 6)
    return np.exp(log_n / (a + b))


def training_flops(size: Number, tokens: Number) -> Each:
    """``C = 6 N E``: forward and backward of E tokens through N weights."""
    return 6 * np.asarray(size, float) * np.asarray(tokens, float)


def non_embedding(
    params: PyTree, embeddings: tuple[str, ...] = ("embedding", "positions", "head")
) -> int:
    """N: the weights of the maps between the layers, without vectors (biases, gains).

    Args:
      params: nested dicts of arrays, of `kljax.models.language.transformer` say.
      embeddings: keys whose arrays are tables of tokens or positions.

    Example:
      >>> maps = {"map": np.ones((2, 3)), "bias": np.ones(3)}
      >>> non_embedding({"layer": maps, "head": {"kernel": np.ones((2, 9))}})
      6
    """
    found = jax.tree_util.tree_leaves_with_path(params)
    named = [({getattr(k, "key", None) for k in path}, leaf) for path, leaf in found]
    kept = [x for keys, x in named if not keys & {*embeddings} and np.ndim(x) > 1]
    return sum(x.size for x in kept)
