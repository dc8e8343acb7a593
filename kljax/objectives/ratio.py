"""From a critic's logits to weights: density ratio, normalization, adaptive alpha.

The ratio r = p_t/q_t of target over model is read off a discriminator, made honest by
the identity E_q[p_t/q_t] = 1 at every noise level, and turned into the weight
h(r) = r^2 f''(r) of a score difference. Everything stays in the log domain and
nothing here carries a gradient. Equation numbers as in `kljax.objectives.diffusion`.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kljax import generators
from kljax.arguments import as_array, floating, traced, whole
from kljax.kernels.weights import settled
from kljax.typing import Array, Float, Int

__all__ = [
    "AlphaController",
    "RatioBins",
    "RatioWeights",
    "adapt_alpha",
    "constant_weight",
    "effective_fraction",
    "mean_logit",
    "ratio_weights",
]

_EPSILON = 1e-6  # the guard of Eqs. 9 and 10
AxisName = str | tuple[str, ...] | None


def mean_logit(logits: Float[Array, "b *h"], name: str = "logits") -> Float[Array, "b"]:
    """Logits [b] or [b, heads], averaged over heads, at least float32.

    >>> mean_logit(jnp.array([[1.0, 3.0]])).tolist()
    [2.0]
    """
    logits = floating(name, logits)
    if logits.ndim not in (1, 2):
        raise ValueError(f"{name}: expected [b] or [b, heads], got {logits.shape}")
    return logits if logits.ndim == 1 else jnp.mean(logits, axis=1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RatioBins:
    """Running means of the ratio by noise level, the state of Eq. 9.

    `mean` [k] starts at 1, `hits` [k] counts the updates of each bin. Bins are equal
    in log sigma between sigma_min and sigma_max; levels outside go to the end bins.
    For exact densities E_q[p_t/q_t] = 1 at every level: |log mean| is a monitor.

    >>> bins = RatioBins.init(4, sigma_min=0.1, sigma_max=10.0)
    >>> bins.index(jnp.array([0.2, 9.0])).tolist()
    [0, 3]
    """

    mean: Float[Array, "k"]
    hits: Int[Array, "k"]
    sigma_min: float = field(metadata={"static": True})
    sigma_max: float = field(metadata={"static": True})

    @classmethod
    def init(cls, bins: int = 10, *, sigma_min: float, sigma_max: float) -> "RatioBins":
        """The state before the first step."""
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(
                "sigma_min, sigma_max: expected 0 < sigma_min < sigma_max, "
                f"got {sigma_min}, {sigma_max}"
            )
        bins = whole("bins", bins)
        return cls(jnp.ones(bins), jnp.zeros(bins, jnp.int32), sigma_min, sigma_max)

    def index(self, sigma: Float[Array, "*b"]) -> Int[Array, "*b"]:
        """The bin of each noise level."""
        bins = self.mean.shape[-1]
        width = math.log(self.sigma_max / self.sigma_min) / bins
        index = jnp.floor(jnp.log(sigma / self.sigma_min) / width)
        return jnp.clip(index, 0, bins - 1).astype(jnp.int32)

    def update(
        self,
        ratio: Float[Array, "b"],
        sigma: Float[Array, "b"],
        *,
        decay: float | Array = 0.9,
        example_weights: Float[Array, "b"] | None = None,
        axis_name: AxisName = None,
    ) -> "RatioBins":
        """m_k <- e m_k + (1-e) * batch mean in bin k, for the bins hit, Eq. 9."""
        weights = _weights(ratio, example_weights)
        # A masked example may hold anything; a level that is a NaN is in every bin.
        ratio, sigma = (jnp.where(weights == 0, 1, x) for x in (ratio, sigma))
        chosen = jax.nn.one_hot(self.index(sigma), self.mean.shape[-1])
        chosen = jnp.where(jnp.isnan(sigma)[:, None], jnp.nan, chosen)
        chosen = chosen.astype(ratio.dtype) * weights[:, None]
        count = _total(jnp.sum(chosen, axis=0), axis_name)
        # A ratio that is a NaN is one in its own bin alone.
        there = jnp.where(chosen == 0, 0, chosen * ratio[:, None])
        total = _total(jnp.sum(there, axis=0), axis_name)
        hit = count != 0
        fresh = total / jnp.where(hit, count, 1)
        mean = jnp.where(hit, decay * self.mean + (1 - decay) * fresh, self.mean)
        mean = mean.astype(self.mean.dtype)
        return replace(self, mean=mean, hits=self.hits + hit)


class RatioWeights(NamedTuple):
    """`weight` is the normalized h, `log_ratio` what it was computed from."""

    weight: Float[Array, "b"]
    log_ratio: Float[Array, "b"]
    bins: RatioBins | None
    metrics: dict[str, Array]


def ratio_weights(
    logits: Float[Array, "b *h"],
    sigma: Float[Array, "b"],
    divergence: Any,
    bins: RatioBins | None = None,
    *,
    clip: tuple[float, float] = (0.1, 20.0),
    logit_clip: float = 10.0,
    decay: float | Array = 0.9,
    normalize: bool = True,
    example_weights: Float[Array, "b"] | None = None,
    axis_name: AxisName = None,
) -> RatioWeights:
    """The weight h(r) of every generated example, from the critic's logits.

    Eq. 8 (clip, in the log domain), Eq. 9 (division by the running mean of the noise
    level's bin, if `bins` is given), h = `divergence.curvature`, Eq. 10 (division by
    the batch mean, if `normalize`; the divergence's scale drops out).

    Args:
      logits: log p_t - log q_t as the critic sees it, at noised samples.
      sigma: noise levels, > 0.
      divergence: an f-divergence or its name; its parameters may be traced.
      bins: the state of Eq. 9; None leaves that step out.
      clip: bounds of the ratio; `logit_clip` bounds |logit| before.
      decay: e of Eq. 9, in [0, 1): 0 takes the batch's own mean.
      normalize: whether Eq. 10 is applied.
      example_weights: non-negative; an example of weight 0 enters no mean and may hold
        anything. A NaN that counts is one in every mean.
      axis_name: mapped axes over which the means are taken too.

    Returns:
      Weights, log-ratios, the new bins and metrics; nothing carries a gradient.

    Raises:
      ValueError: a shape, or a divergence without curvature (total variation).

    Example:
      >>> out = ratio_weights(jnp.array([0.0, 1.0]), jnp.ones(2), "forward_kl")
      >>> [round(float(w), 3) for w in out.weight]
      [0.538, 1.462]
    """
    divergence = generators.get(divergence)
    _refuse_flat(divergence)
    if not 0 < clip[0] < clip[1] < math.inf:
        raise ValueError(f"clip: expected 0 < low < high, got {clip}")
    l = jax.lax.stop_gradient(mean_logit(logits))
    sigma = jax.lax.stop_gradient(floating("sigma", sigma))
    if sigma.shape != l.shape:
        raise ValueError(f"sigma: expected shape {l.shape}, got {sigma.shape}")
    weights = _weights(l, example_weights)
    l = settled(weights, l)
    shared: Any = {"example_weights": weights, "axis_name": axis_name}
    low, high = math.log(clip[0]), math.log(clip[1])
    out = (l < low) | (l > high)
    l = jnp.clip(jnp.clip(l, -logit_clip, logit_clip), low, high)  # Eq. 8
    metrics = {
        "ratio/mean": _mean(jnp.exp(l), **shared),
        "ratio/clipped": _mean(out.astype(l.dtype), **shared),
    }
    if bins is not None:
        bins = bins.update(jnp.exp(l), sigma, decay=decay, **shared)
        l = l - jnp.log(bins.mean + _EPSILON)[bins.index(sigma)]  # Eq. 9
        metrics["ratio/bin_error"] = jnp.max(jnp.abs(jnp.log(bins.mean)))
    h = jax.lax.stop_gradient(divergence.curvature(l))
    metrics["ratio/ess"] = effective_fraction(l, **shared)
    metrics["weight/ess"] = effective_fraction(jnp.log(h), **shared)
    if normalize:
        h = h / (_mean(h, **shared) + _EPSILON)  # Eq. 10
    metrics["weight/max"] = jnp.max(jnp.where(weights == 0, 0, h))
    return RatioWeights(h, l, bins, metrics)


def effective_fraction(
    log_weights: Float[Array, "b"],
    *,
    example_weights: Float[Array, "b"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """Kish's effective sample size over n: (E w)^2 / E w^2, in (0, 1].

    Equals 1 / (1 + Var w / (E w)^2). Give log r for the ratio's own effective
    fraction, alpha * log r for that of the alpha family's weight. `example_weights`
    make E a weighted mean (quadrature weights, or a mask).

    >>> round(float(effective_fraction(jnp.log(jnp.array([1.0, 3.0])))), 6)
    0.8
    """
    weights = _weights(log_weights, example_weights)
    kept = jnp.where(weights == 0, -jnp.inf, log_weights)
    top = jax.lax.stop_gradient(jnp.max(kept))
    if axis_name is not None:
        top = jax.lax.pmax(top, axis_name)
    w = jnp.exp(kept - top)
    shared: Any = {"example_weights": weights, "axis_name": axis_name}
    return _mean(w, **shared) ** 2 / _mean(w**2, **shared)


def constant_weight(divergence: Any) -> bool:
    """Whether h does not depend on the ratio (reverse KL), so no critic is needed.

    False if a parameter is traced, when nobody can tell.

    >>> constant_weight(generators.ReverseKL()), constant_weight(generators.LeCam())
    (True, False)
    """
    probe = _probe(divergence)
    return probe is not None and bool(probe.any()) and np.allclose(probe, probe[0])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AlphaController:
    """State of the adaptive divergence: current alpha and smoothed measurement."""

    alpha: Float[Array, ""]
    ess: Float[Array, ""]

    @classmethod
    def init(cls, alpha: float = 0.0) -> "AlphaController":
        """Start at `alpha` (0 is the reverse KL, whose weights have no variance)."""
        return cls(jnp.asarray(float(alpha)), jnp.ones(()))


def adapt_alpha(
    state: AlphaController,
    ess: Float[Array, ""],
    *,
    target: float | Array = 0.5,
    gain: float | Array = 0.01,
    decay: float | Array = 0.9,
    low: float | Array = 0.0,
    high: float | Array = 1.0,
) -> AlphaController:
    """Move alpha so that the weights' effective fraction settles at `target`.

    ``e <- decay e + (1-decay) ess;  alpha <- clip(alpha + gain (e - target))``. The
    fraction falls as alpha moves from 0 (reverse KL) to 1 (forward KL): alpha goes up,
    toward covering, as long as the weights are even enough to be trusted.

    Args:
      state: the controller; part of the train state, so it is checkpointed.
      ess: effective fraction in (0, 1] at the current alpha (metric ``weight/ess``).
      target: fraction to settle at, in (0, 1); 0 always ends at `high`.
      gain: step of alpha per call and unit of excess.
      decay: smoothing of the measurement, in [0, 1).
      low, high: bounds of alpha.

    Returns:
      The next state.

    Example:
      >>> state = adapt_alpha(AlphaController.init(), jnp.float32(0.9), gain=0.1)
      >>> round(float(state.alpha), 3)
      0.049
    """
    smooth = decay * state.ess + (1 - decay) * jax.lax.stop_gradient(ess)
    alpha = jnp.clip(state.alpha + gain * (smooth - target), low, high)
    return AlphaController(
        alpha.astype(state.alpha.dtype), smooth.astype(state.ess.dtype)
    )


def _total(value: Array, axis_name: AxisName) -> Array:
    return value if axis_name is None else jax.lax.psum(value, axis_name)


def _mean(value: Array, *, example_weights: Array, axis_name: AxisName) -> Array:
    kept = jnp.where(example_weights == 0, 0, example_weights * value)
    weight = _total(jnp.sum(example_weights), axis_name)
    return _total(jnp.sum(kept), axis_name) / jnp.where(weight == 0, 1, weight)


def _weights(like: Array, weights: Array | None) -> Array:
    if weights is None:
        return jnp.ones_like(like)
    weights = as_array("example_weights", weights)
    if weights.shape != like.shape:
        raise ValueError(
            f"example_weights: expected shape {like.shape}, got {weights.shape}"
        )
    return jax.lax.stop_gradient(weights).astype(like.dtype)


def _probe(divergence: Any) -> np.ndarray | None:
    """The curvature at three points, or None if a parameter is traced."""
    if traced(divergence):
        return None
    with jax.ensure_compile_time_eval():
        return np.asarray(divergence.curvature(jnp.array([-1.0, 0.0, 1.0])))


def _refuse_flat(divergence: Any) -> None:
    for option in getattr(divergence, "options", (divergence,)):
        probe = _probe(option)
        if probe is not None and not probe.any():
            raise ValueError(
                f"divergence: {option} has f'' = 0 almost everywhere, so the score "
                "pairing carries no gradient; use a strictly convex generator"
            )
