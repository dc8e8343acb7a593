"""EDM: preconditioning, loss weight, noise levels, Heun sampler.

References: Karras et al. 2022, "Elucidating the design space of diffusion-based
generative models" (table 1, equations 5, 7 and 8, algorithm 1). Guidance is
`kljax.objectives.diffusion.guide`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kljax.arguments import expect, whole
from kljax.typing import Array, ArrayLike, Float, Int, PyTree

__all__ = [
    "Coefficients",
    "Critic",
    "Denoiser",
    "coefficients",
    "edm_loss_weight",
    "evaluations",
    "heun_sampler",
    "karras_sigmas",
    "precondition",
]


class Coefficients(NamedTuple):
    """The four scalings of table 1, each shaped like `sigma`."""

    skip: Array
    out: Array
    scale_in: Array
    noise_label: Array


def coefficients(sigma: ArrayLike, sigma_data: ArrayLike) -> Coefficients:
    """Scalings that give the network unit-variance inputs and targets.

    `c_skip = d^2 / (s^2 + d^2)`, `c_out = s d / sqrt(s^2 + d^2)`,
    `c_in = 1 / sqrt(s^2 + d^2)`, `c_noise = ln(s) / 4`, with `d = sigma_data`.

    Args:
      sigma: noise level, any shape, at least 0 (`c_noise` is clamped at 1e-8).
      sigma_data: standard deviation of the data, positive.

    Returns:
      The four arrays, shaped like `sigma`.

    Example:
      >>> coefficients(0.5, 0.5).skip
      Array(0.5, dtype=float32)

    Reference: Karras et al. 2022, table 1 and equation 7.
    """
    sigma, sigma_data = jnp.asarray(sigma, float), jnp.asarray(sigma_data, float)
    total = sigma**2 + sigma_data**2
    return Coefficients(
        skip=sigma_data**2 / total,
        out=sigma * sigma_data * jax.lax.rsqrt(total),
        scale_in=jax.lax.rsqrt(total),
        noise_label=0.25 * jnp.log(jnp.maximum(sigma, 1e-8)),
    )


def precondition(
    network: Callable[[Array, Array], Any],
    x: Float[Array, "b *event"],
    sigma: ArrayLike,
    *,
    sigma_data: ArrayLike,
) -> Any:
    """Denoiser from a raw network: an estimate of `E[x_0 | x]` at noise level sigma.

    `D(x, s) = c_skip x + c_out F(c_in x, c_noise)`.

    Args:
      network: called with the scaled input and the noise label `[b]`. If it returns
        `(output, features)`, so does this function.
      x: noisy examples, `x_0 + sigma noise`.
      sigma: noise level, scalar or `[b]`.
      sigma_data: standard deviation of the clean data.

    Returns:
      The denoised examples, shaped like `x`; with the features if there are any.

    Raises:
      ValueError: `sigma` is neither a scalar nor `[b]`.

    Example:
      >>> x = jnp.ones((2, 3))
      >>> precondition(lambda x, c: 0 * x, x, 1.0, sigma_data=1.0)[0]
      Array([0.5, 0.5, 0.5], dtype=float32)

    Reference: Karras et al. 2022, equation 7.
    """
    shape = jnp.shape(sigma)
    if shape not in ((), (x.shape[0],)):
        raise ValueError(
            f"sigma has shape {shape}; expected () or ({x.shape[0]},) for x of "
            f"shape {x.shape}"
        )
    sigma = jnp.broadcast_to(jnp.asarray(sigma, float), (x.shape[0],))
    c = coefficients(sigma, sigma_data)
    column = (x.shape[0],) + (1,) * (x.ndim - 1)
    skip, out, scale_in = (v.reshape(column).astype(x.dtype) for v in c[:3])
    raw = network(scale_in * x, c.noise_label)
    if isinstance(raw, tuple):
        return skip * x + out * raw[0], raw[1]
    return skip * x + out * raw


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A network with its preconditioning, as a function of its parameters.

    Args:
      network: `F(params, x, noise_label, class_ids, features=...)`, from `pure`.
      sigma_data: standard deviation of the clean data.

    Example:
      >>> denoise = Denoiser(lambda params, x, c, ids, features: params * x, 1.0)
      >>> denoise(jnp.ones(()), jnp.ones((2, 3)), 1.0).shape
      (2, 3)
    """

    network: Callable[..., Any]
    sigma_data: float

    def __call__(
        self,
        params: PyTree,
        x: Float[Array, "b *event"],
        sigma: ArrayLike,
        class_ids: Int[Array, "b"] | None = None,
        *,
        features: bool = False,
    ) -> Any:
        """`D(x, sigma, class)`; with the network's features where asked."""

        def raw(scaled: Array, label: Array) -> Any:
            return self.network(params, scaled, label, class_ids, features=features)

        return precondition(raw, x, sigma, sigma_data=self.sigma_data)

    def generate(
        self,
        params: PyTree,
        z: Float[Array, "b *event"],
        class_ids: Int[Array, "b"] | None = None,
        *,
        sigma: float,
    ) -> Float[Array, "b *event"]:
        """A generator of one evaluation, `G(z, c) = D(sigma z, sigma, c)`."""
        return self(params, sigma * z, sigma, class_ids)


@dataclasses.dataclass(frozen=True)
class Critic:
    """Logits at noised examples: a discriminator's head, on features or on a body.

    Args:
      head: `Discriminator` from `pure`.
      sigma_data: standard deviation of the clean data.
      body: a network like that of `Denoiser`, which then sees the scaled examples and
        is trained, too; None: the head is given the features of another network.
    """

    head: Callable[..., Array]
    sigma_data: float
    body: Callable[..., Any] | None = None

    def __call__(
        self,
        params: PyTree,
        seen: Any,
        sigma: Float[Array, "b"],
        class_ids: Int[Array, "b"] | None = None,
    ) -> Float[Array, "b h"]:
        """Large means real.

        Args:
          params: the head's; with a body, those of both by "head" and "body".
          seen: features; with a body the noised examples `[b, *event]`.
          sigma: noise levels.
          class_ids: see `Discriminator`.
        """
        c = coefficients(sigma, self.sigma_data)
        if self.body is None:
            return self.head(params, seen, c.noise_label, class_ids)
        scaled = c.scale_in.reshape(-1, *[1] * (seen.ndim - 1)) * seen
        inside = self.body(
            params["body"], scaled, c.noise_label, class_ids, features=True
        )
        return self.head(params["head"], inside[1], c.noise_label, class_ids)


def edm_loss_weight(sigma: ArrayLike, sigma_data: ArrayLike) -> Array:
    """Weight of the squared denoising error that is 1 / c_out^2.

    `(s^2 + d^2) / (s d)^2 = 1 / s^2 + 1 / d^2`.

    Args:
      sigma: noise level, positive, any shape.
      sigma_data: standard deviation of the data.

    Returns:
      The weight, shaped like `sigma`.

    Example:
      >>> edm_loss_weight(0.5, 0.5)
      Array(8., dtype=float32, weak_type=True)

    Reference: Karras et al. 2022, table 1.
    """
    return 1.0 / jnp.square(sigma) + 1.0 / jnp.square(sigma_data)


def karras_sigmas(
    n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Float[Array, " n"]:
    """Decreasing noise levels, dense near zero.

    `s_i = (smax^(1/rho) + i/(n-1) (smin^(1/rho) - smax^(1/rho)))^rho`, `i = 0 .. n-1`.

    Args:
      n: how many levels, at least 2. The final 0 is not among them.
      sigma_min: the last level, positive.
      sigma_max: the first level, above `sigma_min`.
      rho: how strongly levels crowd at the low end, at least 1.

    Returns:
      Levels from `sigma_max` down to `sigma_min`.

    Raises:
      ValueError: an argument is out of its range.

    Example:
      >>> karras_sigmas(3, 1.0, 4.0, 1.0)
      Array([4. , 2.5, 1. ], dtype=float32)

    Reference: Karras et al. 2022, equation 5.
    """
    n = whole("n", n, least=2)
    if not 0.0 < sigma_min < sigma_max:
        raise ValueError(
            f"sigma_min is {sigma_min} and sigma_max {sigma_max}; expected "
            "0 < sigma_min < sigma_max"
        )
    expect("rho", rho, rho >= 1, "it must be at least 1")
    high, low = sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho)
    return (high + jnp.linspace(0.0, 1.0, n) * (low - high)) ** rho


def evaluations(steps: int) -> int:
    """Network evaluations per sample of `heun_sampler`: `2 steps - 1`.

    Example:
      >>> evaluations(18)
      35
    """
    return 2 * steps - 1


def heun_sampler(
    denoise: Callable[[Array, Array], Array],
    z: Float[Array, "b *event"],
    *,
    steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Float[Array, "b *event"]:
    """Deterministic samples: the probability-flow ODE by Heun's method.

    `dx/ds = (x - D(x, s)) / s`, from `x = sigma_max z` down the Karras levels; the
    last step, to `s = 0`, is an Euler step and gives `D(x, sigma_min)`.

    Only forward passes stand in the loop, so a convolutional denoiser is as fast in
    it as outside.

    Args:
      denoise: `denoise(x, sigma)` with a scalar sigma.
      z: standard normal draws.
      steps: noise levels; the cost is `2 steps - 1` evaluations.
      sigma_min: lowest level.
      sigma_max: highest level.
      rho: see `karras_sigmas`.

    Returns:
      Samples, shaped like `z`.

    Example:
      >>> z = jnp.ones((1, 2))
      >>> heun_sampler(lambda x, s: 0 * x, z, steps=4)
      Array([[0., 0.]], dtype=float32)

    Reference: Karras et al. 2022, algorithm 1.
    """
    sigmas = karras_sigmas(steps, sigma_min, sigma_max, rho).astype(z.dtype)

    def step(x: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        here, there = pair
        slope = (x - denoise(x, here)) / here
        euler = x + (there - here) * slope
        corrected = (euler - denoise(euler, there)) / there
        return x + 0.5 * (there - here) * (slope + corrected), None

    x, _ = jax.lax.scan(step, sigmas[0] * z, (sigmas[:-1], sigmas[1:]))
    return denoise(x, sigmas[-1])
