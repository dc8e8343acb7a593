"""The constant of a target by samples: estimates, intervals, bounds, a running mean.

For a target of log-score log P (`kljax.objectives.targets`) and samples of any q that
covers it,

    Z = Σ_x P(x) = E_q P/q

Nothing here is enumerated; `kljax.theory.posterior` is what it is held against.

References: Go et al. 2023, "Aligning language models with preferences through
f-divergence minimization", arXiv 2302.08215; Korbak et al. 2022, arXiv 2205.11275.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kljax.arguments import expect, floating
from kljax.typing import Array, ArrayLike, Float

__all__ = ["Partition", "RunningPartition", "bracket", "estimated"]


class Partition(NamedTuple):
    """An estimate of log Z and how far it is to be trusted."""

    log_partition: Float[Array, "*b"]
    """Of an unbiased Ẑ, so that this is too low on average."""
    low: Float[Array, "*b"]
    high: Float[Array, "*b"]
    """An interval; it starts at −inf where the samples say nothing of the least Z."""
    effective: Float[Array, "*b"]
    """Effective sample size, (Σ w)² / Σ w²: of n, few where one weight carries all."""


def estimated(
    log_weights: Float[ArrayLike, "*b n"], *, deviations: float = 1.96
) -> Partition:
    """log Z by importance sampling, with an interval and the effective sample size.

    The interval is normal in Z and knows what the samples know: where the effective
    size is a handful, it misses the weights that were not drawn, and is too short.

    Args:
      log_weights: log P − log q at n >= 2 samples of q, those of each prompt on the
        last axis; −inf where P is 0.
      deviations: half of the interval in standard errors.

    Returns:
      `Partition`, an entry per prompt.

    Raises:
      ValueError: fewer than two samples.

    Example:
      >>> found = estimated(jnp.log(jnp.array([1.0, 3.0])))
      >>> [round(float(x), 4) for x in (found.log_partition, found.effective)]
      [0.6931, 1.6]
    """
    log_w = floating("log_weights", log_weights)
    if not log_w.ndim or log_w.shape[-1] < 2:
        raise ValueError(
            f"log_weights has shape {log_w.shape}; expected [*b, n], n > 1"
        )
    expect("deviations", deviations, deviations >= 0, "expected 0 or more")
    n = log_w.shape[-1]
    log_z = jax.nn.logsumexp(log_w, axis=-1) - math.log(n)
    scale = jnp.where(log_z == -jnp.inf, 0, log_z)
    w = jnp.exp(log_w - scale[..., None])  # of mean 1
    spread = deviations * jnp.std(w, axis=-1, ddof=1) / math.sqrt(n)
    low = log_z + jnp.log(jnp.maximum(1 - spread, 0))
    squares = jnp.sum(w**2, axis=-1)
    effective = jnp.where(squares == 0, 0, n**2 / jnp.where(squares == 0, 1, squares))
    return Partition(log_z, low, log_z + jnp.log1p(spread), effective)


def bracket(
    log_weights: Float[ArrayLike, "*b n"], log_weights_target: Float[ArrayLike, "*b m"]
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """A bound of log Z from either side: it lies between them, on average.

        E log mean_q(P/q) <= log Z <= E[−log mean_p(q/P)]

    The second one asks for exact samples of the target, of rejection sampling say. Both
    tighten with the samples, and meet.

    Args:
      log_weights: log P − log q at samples of q. One sample alone gives the ELBO.
      log_weights_target: the same difference at samples of p = P/Z.

    Returns:
      Low and high, a number per prompt.

    Raises:
      ValueError: no samples.

    Example:
      >>> low, high = bracket(jnp.array([0.0, 1.0]), jnp.array([1.0, 1.0]))
      >>> bool(low < high)
      True

    Reference: Grosse, Ancha, Roy 2016, "Measuring the reliability of MCMC inference
    with bidirectional Monte Carlo".
    """
    found = []
    pairs = {"log_weights": log_weights, "log_weights_target": log_weights_target}
    for sign, (name, value) in zip((1, -1), pairs.items()):
        x = floating(name, value)
        if not x.ndim or not x.shape[-1]:
            raise ValueError(f"{name} has shape {x.shape}; expected [*b, n]")
        mean = jax.nn.logsumexp(sign * x, axis=-1) - math.log(x.shape[-1])
        found.append(sign * mean)
    return found[0], found[1]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RunningPartition:
    """Ẑ over all samples so far, of any proposals: each P/q is unbiased by itself.

    A state to keep in a training run. `value` before `update` is the delayed estimate:
    it does not share its samples with the gradient, so it adds no bias of 1/n to
    Jensen-Shannon or total variation, which bend where Ẑ is wrong.

    Args:
      log_sum: log Σ P/q so far, per context.
      count: samples so far.

    Example:
      >>> state = RunningPartition.init().update(jnp.log(jnp.array([1.0, 3.0])))
      >>> round(float(jnp.exp(state.value)), 4)
      2.0

    Reference: Go et al. 2023, algorithm 1.
    """

    log_sum: Float[Array, "*c"]
    count: Float[Array, "*c"]

    @classmethod
    def init(cls, shape: tuple[int, ...] = ()) -> "RunningPartition":
        """No samples yet; contexts of this shape."""
        return cls(jnp.full(shape, -jnp.inf), jnp.zeros(shape))

    @property
    def value(self) -> Float[Array, "*c"]:
        """log Ẑ; NaN before the first sample."""
        none = self.count == 0
        log_count = jnp.log(jnp.where(none, 1, self.count))
        return jnp.where(none, jnp.nan, self.log_sum - log_count)

    def delayed(self, log_weights: Float[Array, "*c n"]) -> Float[Array, "*c"]:
        """`value`; that after the update while no sample has had any weight."""
        empty = self.log_sum == -jnp.inf
        return jnp.where(empty, self.update(log_weights).value, self.value)

    def update(self, log_weights: Float[Array, "*c n"]) -> "RunningPartition":
        """With the weights log P − log q of n more samples of each context."""
        log_w = floating("log_weights", log_weights)
        if log_w.shape[:-1] != self.count.shape or not log_w.ndim:
            expected = (*self.count.shape, "n")
            raise ValueError(
                f"log_weights has shape {log_w.shape}; expected {expected}"
            )
        log_w = jax.lax.stop_gradient(log_w)
        more = jax.nn.logsumexp(log_w, axis=-1)
        return RunningPartition(
            jnp.logaddexp(self.log_sum, more), self.count + log_w.shape[-1]
        )
