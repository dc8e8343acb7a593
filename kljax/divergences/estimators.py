"""Divergences from the log-probabilities of samples.

What an estimator is worth depends on the law the samples came from, and its value and
its gradient are two different questions: the gradient of an unbiased value with the
samples held fixed need not be, and often is not, the gradient of the divergence. Each
docstring answers both. `log_p` is the target's log-probability of each sample, `log_q`
the model's; both by keyword, of any one shape: two shapes raise a ValueError. The value
is one number per sample, in nats; +inf where a forward one sees what the model cannot
produce. "The gradient" is the one through `log_q` at fixed samples, `log_p` constant.

| function | samples of | value estimates | its gradient estimates |
| --- | --- | --- | --- |
| `k1` | q | KL(q‖p), unbiased | 0: useless as a loss |
| `k2` | q | KL(q‖p), biased, small near p = q | ∇KL(q‖p), unbiased |
| `k3` | q | KL(q‖p), unbiased, ≥ 0 | ∇KL(p‖q), the *other* direction |
| `forward_k1` | p | KL(p‖q), unbiased | ∇KL(p‖q), unbiased |
| `forward_k3` | p | KL(p‖q), unbiased, ≥ 0 | ∇KL(p‖q), unbiased, 0 at p = q |
| `f_divergence` | q | D_f, unbiased, ≥ 0 | see there |
| `f_divergence(log_behavior=)` | any | D_f, unbiased, ≥ 0 | ∇D_f, unbiased |

Impossible samples: both log-probabilities −inf give 0; a value of +inf has gradient 0.
A sample of which a log-probability is NaN is NaN in value and gradient.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kljax.arguments import floating
from kljax.divergences._points import log_normalized
from kljax.generators import FDivergence, get
from kljax.generators.accurate import phi
from kljax.typing import Array, ArrayLike, Float

__all__ = [
    "effective_sample_size",
    "f_divergence",
    "forward_k1",
    "forward_k3",
    "k1",
    "k2",
    "k3",
]

Each, Samples = Float[ArrayLike, "*b"], Float[ArrayLike, "*b n"]


def k1(*, log_p: Each, log_q: Each) -> Float[Array, "*b"]:
    """The plain reverse-KL estimate log q − log p, at samples of q.

    Value: E_q[k1] = KL(q‖p) exactly, of either sign sample by sample, high variance.
    Gradient: E_q[∇k1] = E_q[∇log q] = 0. It is noise; as a reward (a constant times
    ∇log q) k1 is right, as a loss use `k2`.

    Example:
      >>> float(k1(log_p=jnp.float32(-2.0), log_q=jnp.float32(-1.5)))
      0.5

    References:
      Schulman, "Approximating KL divergence" (2020), k1.
    """
    return _estimate(jnp.negative, log_p, log_q, signed=True)


def k2(*, log_p: Each, log_q: Each) -> Float[Array, "*b"]:
    """Half the squared log-ratio, at samples of q: the loss for reverse KL.

    ½ (log p − log q)² ≥ 0. Value: E_q[k2] = KL(q‖p) up to third order in log p − log q;
    biased. Gradient: E_q[∇k2] = E_q[(log q − log p)∇log q] = ∇KL(q‖p) exactly, as long
    as the samples come from the current q.

    Example:
      >>> float(k2(log_p=jnp.float32(-2.0), log_q=jnp.float32(-1.5)))
      0.125

    References:
      Schulman, "Approximating KL divergence" (2020), k2.
    """
    return _estimate(lambda log_u: 0.5 * log_u**2, log_p, log_q)


def k3(*, log_p: Each, log_q: Each) -> Float[Array, "*b"]:
    """The non-negative reverse-KL estimate u − 1 − log u, u = p/q, at samples of q.

    `k1` with the control variate u − 1; the value of the generator `ReverseKL`. Value:
    E_q[k3] = KL(q‖p) exactly (p must vanish where q does), ≥ 0, little variance near
    p = q. Gradient: ∇k3 = (1 − u)∇log q, so that E_q[∇k3] = −E_p[∇log q] = ∇KL(p‖q):
    the gradient of the **forward** KL, though the value is the reverse one.

    Example:
      >>> round(float(k3(log_p=jnp.float32(-2.0), log_q=jnp.float32(-1.5))), 4)
      0.1065

    References:
      Schulman, "Approximating KL divergence" (2020), k3.
    """
    return _estimate(_phi, log_p, log_q)


def forward_k1(*, log_p: Each, log_q: Each) -> Float[Array, "*b"]:
    """The plain forward-KL estimate log p − log q, at samples of p.

    Value: E_p = KL(p‖q) exactly, of either sign. Gradient: −∇log q, whose mean under p
    is ∇KL(p‖q) exactly (maximum likelihood).

    Example:
      >>> float(forward_k1(log_p=jnp.float32(-1.5), log_q=jnp.float32(-2.0)))
      0.5

    References:
      As `k1`, with p and q swapped.
    """
    log_p, log_q = _same("log_p", log_p, "log_q", log_q)
    return k1(log_p=log_q, log_q=log_p)


def forward_k3(*, log_p: Each, log_q: Each) -> Float[Array, "*b"]:
    """The non-negative forward-KL estimate 1/u − 1 + log u, u = p/q, at samples of p.

    Value: E_p = KL(p‖q) exactly (q must vanish where p does), ≥ 0. Gradient:
    (1/u − 1)∇log q, whose mean under p is ∇KL(p‖q) exactly, without noise at p = q.

    Example:
      >>> round(float(forward_k3(log_p=jnp.float32(-1.5), log_q=jnp.float32(-2.0))), 4)
      0.1065

    References:
      As `k3`, with p and q swapped.
    """
    log_p, log_q = _same("log_p", log_p, "log_q", log_q)
    return k3(log_p=log_q, log_q=log_p)


def f_divergence(
    divergence: FDivergence | str,
    *,
    log_p: Samples,
    log_q: Samples,
    log_behavior: Samples | None = None,
    self_normalized: bool = False,
    **parameters: ArrayLike,
) -> Float[Array, "*b"]:
    """Monte Carlo estimate of any D_f(p‖q), the mean over n samples.

    Without `log_behavior` the samples are of q: mean of f(p/q). With it they come from
    a law with that log-probability: mean of (q/b) f(p/q), so `log_behavior=log_p` means
    samples of p. In both, f is normalised (f(1) = f'(1) = 0): every term is ≥ 0.

    Value: unbiased where b > 0 wherever p or q is. With `self_normalized` the weights
    p/b and q/b are each made to sum to 1 over the samples: log-densities may be
    unnormalised, the value is the divergence of two weighted samples, biased by O(1/n).

    Gradient: with `log_behavior` constant in the parameters, an unbiased estimate of
    ∇D_f(p‖q) (also in `log_p`); on-policy, pass ``lax.stop_gradient(log_q)``. Without
    `log_behavior` it is the mean of −u f'(u)∇log q, which lacks the change of the
    sampling law: for `ReverseKL`, see `k3`.

    Args:
      divergence: an object of `kljax.generators`, or its name.
      log_p, log_q, log_behavior: log-probabilities of the same n samples.
      self_normalized: whether to normalise the weights over the last axis.
      **parameters: of a divergence given by name, such as ``alpha``; may be traced.

    Returns:
      One value ≥ 0 per leading index, nats.

    Raises:
      ValueError: where the shapes differ or there is no sample axis.

    Example:
      >>> p, q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.75, 0.25]))
      >>> uniform = jnp.log(jnp.array([0.5, 0.5]))
      >>> d = f_divergence("total_variation", log_p=p, log_q=q, log_behavior=uniform)
      >>> round(float(d), 4)
      0.25

    References:
      Go et al., "Aligning language models with preferences through f-divergence
      minimization" (2023), for the gradient; Owen, "Monte Carlo theory, methods and
      examples" (2013), ch. 9, for the weights.
    """
    divergence = get(divergence, **parameters)
    log_p, log_q = _same("log_p", log_p, "log_q", log_q)
    if log_behavior is None:
        log_b = log_q
    else:
        log_b, _ = _same("log_behavior", log_behavior, "log_q", log_q)
    if log_q.ndim == 0:
        raise ValueError("log_p and log_q need a sample axis [..., n], got shape ()")
    log_p, log_q = _over(log_p, log_b), _over(log_q, log_b)
    count = log_q.shape[-1]
    if self_normalized:
        log_p, log_q, count = log_normalized(log_p), log_normalized(log_q), 1
    return jnp.sum(divergence.term(log_p, log_q), axis=-1) / count


def effective_sample_size(log_weights: Samples) -> Float[Array, "*b"]:
    """Kish's number of equal weights that would be worth as much, (Σw)² / Σw².

    Args:
      log_weights: logarithms of weights ≥ 0, unnormalised, e.g. log_q − log_behavior;
        −inf is weight 0.

    Returns:
      Between 1 and n per leading index; 0 where all weights are 0.

    Raises:
      ValueError: without a sample axis.

    Example:
      >>> float(effective_sample_size(jnp.array([0.0, 0.0, -jnp.inf])))
      2.0

    References:
      Kish, Survey Sampling (1965).
    """
    log_w = floating("log_weights", log_weights)
    if log_w.ndim == 0:
        raise ValueError("log_weights needs a sample axis [..., n], got shape ()")
    w = jnp.exp(log_normalized(log_w))
    # Normalised weights sum to 1, or are all 0.
    squares = jnp.sum(w**2, axis=-1)
    none = squares == 0
    return jnp.where(none, 0, 1 / jnp.where(none, 1, squares))


def _same(name: str, x: ArrayLike, other: str, y: ArrayLike) -> tuple[Array, Array]:
    x, y = floating(name, x), floating(other, y)
    if x.shape != y.shape:
        raise ValueError(
            f"{name} {x.shape} and {other} {y.shape} must hold one number for each of "
            "the same samples"
        )
    dtype = jnp.promote_types(x.dtype, y.dtype)
    return x.astype(dtype), y.astype(dtype)


def _estimate(
    of: Callable[[Array], Array], log_p: ArrayLike, log_q: ArrayLike, signed=False
) -> Array:
    """`of` the log-ratio at each sample; of impossible ones 0 if they are so on both
    sides, else the infinite log-ratio (`signed`) or +inf, without gradient."""
    log_p, log_q = _same("log_p", log_p, "log_q", log_q)
    nan = jnp.isnan(log_p) | jnp.isnan(log_q)
    finite = nan | ((log_p != -jnp.inf) & (log_q != -jnp.inf))
    log_u = jnp.where(finite, log_p, 0) - jnp.where(finite, log_q, 0)
    # A product, so that the gradient is NaN as well.
    value = of(log_u * jnp.where(nan, jnp.nan, 1))
    otherwise = jax.lax.stop_gradient(log_q - log_p) if signed else jnp.inf
    both = (log_p == log_q) & ~finite
    return jnp.where(finite, value, jnp.where(both, 0, otherwise))


def _phi(x: Array) -> Array:
    """φ with gradient 0 where it overflows."""
    over = x >= jnp.log(jnp.finfo(x.dtype).max)
    return jnp.where(over, jnp.inf, phi(jnp.where(over, 0, x)))


def _over(log_x: Array, log_b: Array) -> Array:
    """log x − log b; a sample that the behaviour law cannot produce counts nothing."""
    possible = log_b != -jnp.inf
    return jnp.where(possible, log_x - jnp.where(possible, log_b, 0), -jnp.inf)
