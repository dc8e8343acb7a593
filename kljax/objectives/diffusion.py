"""One-step distillation of diffusion models by f-divergence distribution matching.

Three players: the *student* (a generator, law q), the *fake score* (a denoiser that
follows the student) and the *critic* (a discriminator of noised data and noised
samples, whose logit is the log-ratio log p - log q). The teacher (law p) is frozen.
Everything here is a pure function of what those networks return. With
``x_t = x + sigma * noise`` and ``r = p_t(x_t) / q_t(x_t)``,

    grad D_f(p_t || q_t) = E[ h(r) (s_q - s_p)(x_t) . grad x ],   h(r) = r^2 f''(r),

so a divergence enters by its member `curvature` alone: Diff-Instruct, DMD2 and
f-distill are `SETTINGS` of one loss. Equation numbers: f-distill (arXiv:2502.15681)
in the order gradient theorem (3), pairing (5), scale weight (6), discriminator (7),
ratio (8), normalization by noise level (9) and by batch (10), total (11), fake score
(12), guidance (13), noise law (15).
"""

import math
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kljax import generators
from kljax.arguments import as_array, floating, whole
from kljax.divergences import scores
from kljax.kernels.weights import settled, shown
from kljax.objectives.ratio import (
    AlphaController,
    RatioBins,
    RatioWeights,
    adapt_alpha,
    constant_weight,
    effective_fraction,
    mean_logit,
    ratio_weights,
)
from kljax.typing import Array, Float, Key

__all__ = [
    "DENOISING_WEIGHTS",
    "SETTINGS",
    "AlphaController",
    "GeneratorLoss",
    "RatioBins",
    "RatioWeights",
    "adapt_alpha",
    "adversarial_loss",
    "denoising_loss",
    "discriminator_loss",
    "effective_fraction",
    "generator_loss",
    "guide",
    "karras_sigma",
    "log_normal_sigma",
    "log_uniform_sigma",
    "ratio_weights",
    "scale_weight",
]

Metrics = dict[str, Array]
_EPSILON = 1e-6  # the guard of Eq. 6

DENOISING_WEIGHTS: Mapping[str, Callable] = types.MappingProxyType(
    {
        "edm": lambda sigma, data: (sigma**2 + data**2) / (sigma * data) ** 2,
        "dmd2": lambda sigma, data: sigma**-2.0 + data**-2.0,  # the same number
        "plain": lambda sigma, data: jnp.ones_like(sigma),
    }
)
"""Weights of the fake score's regression, Eq. 12, by name."""

SETTINGS: Mapping[str, Mapping[str, Any]] = types.MappingProxyType(
    {
        name: types.MappingProxyType(
            {"divergence": divergence, "gan_weight": gan_weight, "scale": scale}
        )
        for name, divergence, gan_weight, scale in (
            ("diff_instruct", "reverse_kl", 0.0, False),
            ("dmd2", "reverse_kl", 3e-3, True),
            ("f_distill", "jensen_shannon", 3e-3, True),
        )
    }
)
"""Published methods as keyword arguments of `generator_loss`."""


# ---------------------------------------------------------------- noise levels


def log_uniform_sigma(
    key: Key[Array, ""], shape: tuple[int, ...], *, low: float, high: float
) -> Float[Array, "..."]:
    """Noise levels with log sigma uniform on [log low, log high], 0 < low < high.

    >>> log_uniform_sigma(jax.random.key(0), (3,), low=0.1, high=5.0).shape
    (3,)
    """
    _check_range("low, high", low, high)
    u = jax.random.uniform(key, shape, minval=math.log(low), maxval=math.log(high))
    return jnp.exp(u)


def log_normal_sigma(
    key: Key[Array, ""], shape: tuple[int, ...], *, mean: float = -1.2, std: float = 1.2
) -> Float[Array, "..."]:
    """Noise levels with log sigma ~ N(mean, std^2) (EDM, Diff-Instruct).

    >>> log_normal_sigma(jax.random.key(0), (3,)).shape
    (3,)
    """
    return jnp.exp(mean + std * jax.random.normal(key, shape))


def karras_sigma(
    key: Key[Array, ""],
    shape: tuple[int, ...],
    *,
    low: float = 0.002,
    high: float = 80.0,
    rho: float = 7.0,
    levels: int = 1000,
    skip: tuple[int, int] = (2, 998),
) -> Float[Array, "..."]:
    """Noise levels drawn from a polynomial ladder, Eq. 15.

    ``s_i = (low^(1/rho) + i/(levels-1) (high^(1/rho) - low^(1/rho)))^rho`` with i
    uniform on the integers from skip[0] to skip[1], both included.

    >>> karras_sigma(jax.random.key(0), (3,)).shape
    (3,)
    """
    _check_range("low, high", low, high)
    if not 0 <= skip[0] <= skip[1] < whole("levels", levels, least=2):
        raise ValueError(f"skip: expected 0 <= first <= last < {levels}, got {skip}")
    i = jax.random.randint(key, shape, skip[0], skip[1] + 1)
    ends = low ** (1 / rho), high ** (1 / rho)
    return (ends[0] + i / (levels - 1) * (ends[1] - ends[0])) ** rho  # Eq. 15


# ------------------------------------------------------------- the fake score


def denoising_loss(
    denoised: Float[Array, "b *event"],
    clean: Float[Array, "b *event"],
    sigma: Float[Array, "b"],
    *,
    weight: str | Callable = "edm",
    sigma_data: float = 0.5,
) -> tuple[Float[Array, "b"], Metrics]:
    """Denoising score matching: weighted squared error, mean over the event, Eq. 12.

    ``lambda(sigma) mean |D(x + sigma n, sigma) - x|^2``; its minimizer is the
    posterior mean, hence the score (D - x_t) / sigma^2. `weight` is a name from
    `DENOISING_WEIGHTS` or a function of (sigma, sigma_data). `clean` is data: no
    gradient flows into it. Returns the loss per example and metrics.

    >>> denoising_loss(jnp.ones((2, 3)), jnp.zeros((2, 3)), jnp.ones(2))[0].tolist()
    [5.0, 5.0]
    """
    _check_same("denoised", denoised, "clean", clean)
    _check_batch("sigma", sigma, clean.shape[0])
    if isinstance(weight, str):
        if weight not in DENOISING_WEIGHTS:
            names = ", ".join(sorted(DENOISING_WEIGHTS))
            raise ValueError(f"weight: unknown name {weight!r}; known: {names}")
        weight = DENOISING_WEIGHTS[weight]
    denoised, sigma = floating("denoised", denoised), floating("sigma", sigma)
    clean = jax.lax.stop_gradient(floating("clean", clean))
    error = _event_mean((denoised - clean) ** 2)
    metrics = {"denoising/mse": jnp.mean(jax.lax.stop_gradient(error))}
    return weight(sigma, sigma_data) * error, metrics


def guide(
    conditional: Float[Array, "*b"],
    negative: Float[Array, "*b"],
    guidance: float | Float[Array, ""] | None,
) -> Float[Array, "*b"]:
    """Classifier-free guidance of the teacher: c + (g - 1)(c - n), Eq. 13.

    g = 1 or None is off. (Some code bases call g - 1 the guidance scale.)

    >>> float(guide(jnp.float32(3.0), jnp.float32(1.0), 1.5))
    4.0
    """
    if guidance is None:
        return conditional
    return conditional + (guidance - 1) * (conditional - negative)


# ------------------------------------------------------------------ the critic


def discriminator_loss(
    real_logits: Float[Array, "b *h"],
    fake_logits: Float[Array, "b *h"],
    *,
    perturbed_logits: Float[Array, "b *h"] | None = None,
    r1_weight: float = 0.0,
) -> tuple[Float[Array, "b"], Metrics]:
    """Non-saturating logistic discriminator, Eq. 7; a large logit means real.

    ``softplus(-l(y_t)) + softplus(l(x_t))``, heads averaged first; at the optimum
    l = log p_t - log q_t. Pair i holds one real and one generated example, drawn
    independently. `perturbed_logits` are the logits at slightly perturbed real
    inputs; ``r1_weight * (l(y_t) - l(y_t'))^2`` is then added, a penalty of the
    slope without a second derivative. Returns the loss per pair and metrics.

    >>> round(float(discriminator_loss(jnp.zeros(1), jnp.zeros(1))[0][0]), 4)
    1.3863
    """
    real = mean_logit(real_logits, "real_logits")
    fake = mean_logit(fake_logits, "fake_logits")
    _check_same("fake_logits", fake, "real_logits", real)
    loss = jax.nn.softplus(-real) + jax.nn.softplus(fake)  # Eq. 7
    metrics = {
        "critic/accuracy": 0.5 * (jnp.mean(real > 0) + jnp.mean(fake < 0)),
        "critic/margin": jnp.mean(jax.lax.stop_gradient(real - fake)),
    }
    if perturbed_logits is not None:
        near = mean_logit(perturbed_logits, "perturbed_logits")
        _check_same("perturbed_logits", near, "real_logits", real)
        penalty = (real - near) ** 2
        metrics["critic/r1"] = jnp.mean(jax.lax.stop_gradient(penalty))
        loss = loss + r1_weight * penalty
    elif isinstance(r1_weight, float | int) and r1_weight != 0:
        raise ValueError(f"r1_weight: {r1_weight} needs perturbed_logits")
    return loss, metrics


def adversarial_loss(logits: Float[Array, "b *h"]) -> Float[Array, "b"]:
    """The generator's part of the game: softplus(-l(x_t)), heads averaged, Eq. 7.

    >>> round(float(adversarial_loss(jnp.zeros(1))[0]), 4)
    0.6931
    """
    return jax.nn.softplus(-mean_logit(logits))


# ----------------------------------------------------------------- the student


def scale_weight(
    sample: Float[Array, "b *event"], real_denoised: Float[Array, "b *event"]
) -> Float[Array, "b"]:
    """w = 1 / (mean |x - D_teacher(x_t)| + 1e-6), one number per example, Eq. 6.

    >>> scale_weight(jnp.zeros((1, 4)), jnp.full((1, 4), 0.5)).round(3).tolist()
    [2.0]
    """
    gap = jax.lax.stop_gradient(sample - real_denoised)
    return 1 / (_event_mean(jnp.abs(gap)) + _EPSILON)


class GeneratorLoss(NamedTuple):
    """Loss per example, metrics, new bins, and the weights that were used."""

    per_example: Float[Array, "b"]
    metrics: Metrics
    bins: RatioBins | None
    weights: RatioWeights | None


def generator_loss(
    sample: Float[Array, "b *event"],
    fake_denoised: Float[Array, "b *event"],
    real_denoised: Float[Array, "b *event"],
    sigma: Float[Array, "b"],
    *,
    divergence: Any = "jensen_shannon",
    logits: Float[Array, "b *h"] | None = None,
    bins: RatioBins | None = None,
    gan_weight: float | Array = 0.0,
    scale: bool | Float[Array, "b"] = True,
    clip: tuple[float, float] = (0.1, 20.0),
    logit_clip: float = 10.0,
    decay: float | Array = 0.9,
    normalize: bool = True,
    example_weights: Float[Array, "b"] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> GeneratorLoss:
    """The student's loss: weighted score pairing plus the game's term, Eqs. 5-11.

    ``g = stop( w h(r) (D_fake - D_teacher) )``. The gradient in `sample` is g over
    the size of the event, plus ``gan_weight * grad softplus(-logits)``; the value of
    the pairing is half the mean square of g. Only `sample` and the game's term carry
    a gradient, whatever the networks behind the other arguments.

    Args:
      sample: the student's clean samples x.
      fake_denoised, real_denoised: the fake score's and the (guided) teacher's
        estimates of x from ``x + sigma * noise``.
      sigma: noise levels, > 0.
      divergence: an f-divergence or its name; parameters may be traced, `Choice` too.
      logits: the critic at the noised samples. None (no critic) is legal where h is
        constant (reverse KL) and gan_weight is 0.
      bins: the state of Eq. 9; None leaves that step out.
      gan_weight: weight of the game's term, 0 switches it off.
      scale: True for w of Eq. 6, False for w = 1, or an array of weights.
      clip, logit_clip, decay, normalize, example_weights, axis_name: `ratio_weights`.

    >>> x = jnp.ones((2, 3))
    >>> out = generator_loss(x, x, 0 * x, jnp.ones(2), **SETTINGS["diff_instruct"])
    >>> out.per_example.tolist()
    [0.5, 0.5]
    """
    _check_same("fake_denoised", fake_denoised, "sample", sample)
    _check_same("real_denoised", real_denoised, "sample", sample)
    _check_batch("sigma", sigma, sample.shape[0])
    if example_weights is not None:
        _check_batch("example_weights", example_weights, sample.shape[0])
    divergence = generators.get(divergence)
    sample, fake, real = (
        settled(example_weights, x)
        for x in (
            floating("sample", sample),
            floating("fake_denoised", fake_denoised),
            floating("real_denoised", real_denoised),
        )
    )
    stop = jax.lax.stop_gradient
    if not isinstance(scale, bool):
        _check_batch("scale", scale, sample.shape[0])
        w = stop(settled(example_weights, scale))
    elif scale:
        w = scale_weight(sample, real)
    else:
        w = jnp.ones(sample.shape[0], sample.dtype)
    if logits is None:
        _check_critic_free(divergence, gan_weight)
        weights, h, metrics = None, jnp.ones_like(w), {}
    else:
        weights = ratio_weights(
            logits,
            sigma,
            divergence,
            bins,
            clip=clip,
            logit_clip=logit_clip,
            decay=decay,
            normalize=normalize,
            example_weights=example_weights,
            axis_name=axis_name,
        )
        h, bins, metrics = weights.weight, weights.bins, dict(weights.metrics)
    size = math.prod(sample.shape[1:])
    loss = scores.pairing(sample, fake - real, h * w) / size  # Eq. 5
    gap = _event_mean(stop(fake - real) ** 2)
    metrics["score/gap_rms"] = jnp.sqrt(jnp.mean(gap))
    metrics["score/loss"] = jnp.mean(stop(loss))
    if logits is not None:
        game = adversarial_loss(settled(example_weights, logits))
        metrics["gan/generator"] = jnp.mean(stop(game))
        loss = loss + gan_weight * game  # Eq. 11
    return GeneratorLoss(shown(loss), metrics, bins, weights)


def _event_mean(x: Array) -> Array:
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def _check_critic_free(divergence: Any, gan_weight: Any) -> None:
    if not constant_weight(divergence):
        raise ValueError(
            f"logits: {divergence} weighs by the density ratio, which needs a critic's "
            "logits; only the reverse KL has a constant weight"
        )
    if not isinstance(gan_weight, float | int) or gan_weight != 0:
        raise ValueError(f"logits: gan_weight = {gan_weight} needs a critic's logits")


def _check_range(name: str, low: float, high: float) -> None:
    if not 0 < low < high < math.inf:
        raise ValueError(f"{name}: expected 0 < low < high, got {low}, {high}")


def _check_same(name: str, x: Array, other: str, y: Array) -> None:
    x, y = as_array(name, x), as_array(other, y)
    if x.shape != y.shape:
        raise ValueError(f"{name}: shape {x.shape} differs from {other}'s {y.shape}")


def _check_batch(name: str, x: Array, size: int) -> None:
    shape = as_array(name, x).shape
    if shape != (size,):
        raise ValueError(f"{name}: expected shape ({size},), got {shape}")
