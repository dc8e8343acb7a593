"""Divergences from score functions: what is known is grad log p, not log p.

With ``x_t = x + t n`` both laws are smoothed by N(0, t^2), and for every f

    d/d(t^2) D_f(p_t‖q_t) = -½ E_{q_t}[ h(p_t/q_t) |s_p - s_q|^2 ],  h(u) = u^2 f''(u),

so a divergence is an integral of squared score differences over noise levels
(`score_divergence` is the integrand, `integral_divergence` the integral), and its
gradient through samples of q needs the scores and the ratio alone (`surrogate`, the
gradient theorem of f-distill). Target p first; h is the member `curvature`.
"""

import jax
import jax.numpy as jnp

from kljax.arguments import falling, floating, legal, real, shadow
from kljax.generators import FDivergence, ReverseKL, get
from kljax.typing import Array, ArrayLike, Float

__all__ = [
    "integral_divergence",
    "integral_kl",
    "pairing",
    "score_divergence",
    "score_from_denoiser",
    "surrogate",
]


def score_from_denoiser(
    denoised: Float[ArrayLike, "b *event"],
    noisy: Float[ArrayLike, "b *event"],
    sigma: Float[ArrayLike, "b"],
    *,
    alpha: Float[ArrayLike, ""] | Float[ArrayLike, "b"] = 1.0,
) -> Float[Array, "b *event"]:
    """The score of noisy data, from what they are without the noise.

    Tweedie's formula: s(x) = (alpha D(x) - x) / sigma^2.

    Args:
      denoised: D(x), an estimate of x_0.
      noisy: x = ``alpha x_0 + sigma noise``.
      sigma: noise levels > 0, one per example.
      alpha: scale of the signal, a number or one per example.

    Returns:
      The score of the noisy law, shaped like `noisy`.

    Raises:
      ValueError: shapes that differ.

    Example:
      >>> x = jnp.array([[2.0]])
      >>> score_from_denoiser(x / 2, x, jnp.ones(1)).tolist()  # N(0, 1) plus noise
      [[-1.0]]

    References:
      f-distill (arXiv:2502.15681), Eq. 2.
    """
    denoised, noisy = _alike("denoised", denoised, "noisy", noisy)
    sigma = floating("sigma", sigma)
    if sigma.shape != noisy.shape[:1]:
        raise ValueError(f"sigma: expected {noisy.shape[:1]}, got {sigma.shape}")
    alpha = _column(jnp.broadcast_to(real("alpha", alpha), sigma.shape), noisy)
    unknown = shadow(denoised) + shadow(noisy)  # or only the value would show it
    return (alpha * denoised - noisy) / _column(sigma, noisy) ** 2 + unknown


def score_divergence(
    score_p: Float[ArrayLike, "b *event"],
    score_q: Float[ArrayLike, "b *event"],
    log_ratio: Float[ArrayLike, "b"] | None = None,
    divergence: FDivergence | str = "reverse_kl",
    **parameters: ArrayLike,
) -> Float[Array, "b"]:
    """The rate at which smoothing loses divergence: ½ h(p/q) |s_p - s_q|^2.

    Its mean over x ~ q is ``-d/d(t^2) D_f(p_t‖q_t)``. For the reverse KL h = 1 and no
    ratio is needed; the same expression averaged over x ~ p is the forward KL's rate.
    Without the ½ the reverse KL's mean is the relative Fisher information.

    Args:
      score_p, score_q: scores of target and model at shared points, drawn from q.
      log_ratio: log p - log q there; None is legal for a constant h only.
      divergence: an f-divergence or its name.
      **parameters: of a divergence given by name, such as ``alpha``; may be traced.

    Returns:
      One value per point, >= 0.

    Raises:
      ValueError: shapes that differ, an unknown name, or no ratio where one is needed.

    Example:
      >>> x = jnp.array([[0.5]])
      >>> score_divergence(1.0 - x, -x).tolist()  # N(1, 1) against N(0, 1)
      [0.5]

    References:
      f-distill Eq. 3 for h; de Bruijn's identity for the KL.
    """
    score_q, score_p = _alike("score_q", score_q, "score_p", score_p)
    square = jnp.sum((score_p - score_q) ** 2, axis=tuple(range(1, score_p.ndim)))
    return 0.5 * _curvature(get(divergence, **parameters), log_ratio, square) * square


def integral_divergence(
    rates: Float[ArrayLike, "s *b"],
    sigma: Float[ArrayLike, "s"],
    *,
    weight: Float[ArrayLike, "s"] | None = None,
) -> Float[Array, "*b"]:
    """Integrate `score_divergence` over noise: ``∫ W(t) rate(t) d(t^2)``, trapezoid.

    With `weight` None it is ``D_f(p_a‖q_a) - D_f(p_b‖q_b)`` between the first and the
    last level, and b large makes the last term vanish. The integral KL of
    Diff-Instruct, ``∫ w(t) KL(q_t‖p_t) dt``, is the same with ``W(t) = ∫_0^t w``.

    Args:
      rates: rates at the noise levels, along axis 0.
      sigma: increasing noise levels, at least two.
      weight: W at the noise levels.

    Returns:
      The integral, shaped like a rate.

    Raises:
      ValueError: shapes that differ, fewer than two levels, or levels that are known
        not to increase.

    Example:
      >>> integral_divergence(jnp.ones(3), jnp.array([0.0, 1.0, 2.0])).item()
      4.0

    References:
      Diff-Instruct (arXiv:2305.18455) for the integral KL.
    """
    rates, sigma = floating("rates", rates), floating("sigma", sigma)
    if sigma.ndim != 1 or sigma.shape[0] < 2 or rates.shape[:1] != sigma.shape:
        raise ValueError(
            "sigma: expected [s] with s >= 2, the leading axis of rates, got "
            f"{sigma.shape} for rates {rates.shape}"
        )
    sigma = legal("sigma", sigma, falling, "increasing")
    if weight is not None:
        weight = floating("weight", weight)
        if weight.shape != sigma.shape:
            raise ValueError(f"weight: expected {sigma.shape}, got {weight.shape}")
        weight = _column(weight, rates)
        rates = jnp.where(weight == 0, 0, rates * weight)
    rates = rates + shadow(rates)
    # d(t^2) = 2 t dt, with t as the variable: levels are often geometric.
    return jnp.trapezoid(_column(2 * sigma, rates) * rates, sigma, axis=0)


def integral_kl(
    score_p: Float[ArrayLike, "s b *event"],
    score_q: Float[ArrayLike, "s b *event"],
    sigma: Float[ArrayLike, "s"],
    *,
    weight: Float[ArrayLike, "s"] | None = None,
) -> Float[Array, "b"]:
    """Reverse KL from scores along the noise: ``∫ W(t) ½ |s_p - s_q|^2 d(t^2)``.

    Args:
      score_p, score_q: scores of target and model, level by level, at ``x + t n``
        with x drawn from the model (from the target it is the forward KL).
      sigma: increasing noise levels, from near 0 to where the laws have become alike.
      weight: W at the levels; None gives the KL itself, ``W(t) = ∫_0^t w`` gives
        Diff-Instruct's ``∫ w(t) KL(q_t‖p_t) dt``.

    Returns:
      One value per draw; its mean is the divergence.

    Raises:
      ValueError: as `score_divergence` and `integral_divergence`.

    Example:
      >>> sigma = jnp.geomspace(1e-2, 1e3, 2000)
      >>> gap = -jnp.ones((2000, 1, 1)) / (1 + sigma[:, None, None] ** 2)
      >>> round(float(integral_kl(gap, 0 * gap, sigma)[0]), 3)  # N(1, 1), N(0, 1)
      0.5

    References:
      Diff-Instruct (arXiv:2305.18455); de Bruijn's identity.
    """
    score_p, score_q = _alike("score_p", score_p, "score_q", score_q)
    rates = jax.vmap(score_divergence)(score_p, score_q)
    return integral_divergence(rates, sigma, weight=weight)


def pairing(
    samples: Float[ArrayLike, "b *event"],
    direction: Float[ArrayLike, "b *event"],
    weight: Float[ArrayLike, "b"] | None = None,
) -> Float[Array, "b"]:
    """A loss whose gradient in `samples` is exactly ``g = weight * direction``.

    Its value is ½|g|^2, a progress measure; neither `direction` nor `weight` is
    differentiated.

    Args:
      samples: what is moved.
      direction: of the gradient, shaped like the samples.
      weight: a factor per sample, 1 when left out; one of 0 takes away whatever sample
        and direction hold.

    Returns:
      The loss per sample.

    Raises:
      ValueError: shapes that differ.

    Example:
      >>> x, g = jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]])
      >>> jax.grad(lambda x: pairing(x, g).sum())(x).tolist()
      [[3.0, 4.0]]

    References:
      f-distill Eq. 5 (there <g, x>, the same gradient).
    """
    direction, samples = _alike("direction", direction, "samples", samples)
    weight = jnp.ones(samples.shape[:1]) if weight is None else weight
    weight = _column(floating("weight", weight), direction)
    # A weight of 0 takes away whatever the sample holds.
    samples = jnp.where(weight == 0, 0, samples)
    g = jnp.where(weight == 0, 0, weight * direction) + shadow(samples)
    g = jax.lax.stop_gradient(g)
    events = tuple(range(1, samples.ndim))
    moved = samples - jax.lax.stop_gradient(samples)  # zero, with gradient one
    return jnp.sum(g * moved + 0.5 * g * g, axis=events)


def surrogate(
    samples: Float[ArrayLike, "b *event"],
    score_p: Float[ArrayLike, "b *event"],
    score_q: Float[ArrayLike, "b *event"],
    log_ratio: Float[ArrayLike, "b"] | None = None,
    divergence: FDivergence | str = "reverse_kl",
    *,
    weight: Float[ArrayLike, "b"] | None = None,
    **parameters: ArrayLike,
) -> Float[Array, "b"]:
    """A loss whose mean has the gradient of D_f(p‖q) in the sampler's parameters.

    ``grad D_f(p‖q) = E[ h(p/q) (s_q - s_p)(x) . grad x ]`` for samples x of q that
    depend on parameters; scores and ratio are taken at x and are not differentiated.
    For p_t against q_t pass the noised samples; with h = 1 it is Diff-Instruct's.

    Args:
      samples: samples of q, differentiable in the parameters.
      score_p, score_q: scores of target and model at the samples.
      log_ratio: log p - log q there; None is legal for a constant h only.
      divergence: an f-divergence or its name.
      weight: extra factor per sample, such as w(t).
      **parameters: of a divergence given by name, such as ``alpha``; may be traced.

    Returns:
      The loss per sample. Only its gradient means something.

    Raises:
      ValueError: shapes that differ, an unknown name, or no ratio where one is needed.

    Example:
      >>> loss = lambda m: surrogate(m + jnp.zeros((1, 1)), -m + jnp.ones((1, 1)),
      ...                            jnp.zeros((1, 1))).mean()
      >>> jax.grad(loss)(0.0).item()  # model N(0, 1) at its mean, target N(1, 1)
      -1.0

    References:
      f-distill Eq. 3 (gradient theorem).
    """
    score_p, samples = _alike("score_p", score_p, "samples", samples)
    score_q, _ = _alike("score_q", score_q, "samples", samples)
    first = samples.reshape(samples.shape[0], -1)[:, 0]
    h = _curvature(get(divergence, **parameters), log_ratio, first)
    if weight is not None:
        weight = floating("weight", weight)
        h = jnp.where(weight == 0, 0, weight * h)
    return pairing(samples, score_q - score_p, h)


def _curvature(
    divergence: FDivergence, log_ratio: ArrayLike | None, like: Array
) -> Array:
    if log_ratio is None:
        if not isinstance(divergence, ReverseKL):
            raise ValueError(
                f"log_ratio: {divergence} weighs by the density ratio; only the "
                "reverse KL goes without"
            )
        return jnp.ones_like(like)
    log_ratio = floating("log_ratio", log_ratio)
    if log_ratio.shape != like.shape:
        raise ValueError(f"log_ratio: expected {like.shape}, got {log_ratio.shape}")
    return divergence.curvature(log_ratio)


def _column(x: ArrayLike, like: Array) -> Array:
    x = jnp.asarray(x)
    return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))


def _alike(name: str, x: ArrayLike, other: str, y: ArrayLike) -> tuple[Array, Array]:
    """Two arrays of one shape, or an error that names them."""
    x, y = floating(name, x), floating(other, y)
    if x.shape != y.shape:
        raise ValueError(f"{name}: shape {x.shape} differs from {other}'s {y.shape}")
    return x, y
