"""Gaussian mixtures under Gaussian smoothing: diffusion in closed form.

A mixture of isotropic Gaussians stays one when noise is added, so density, score and
ideal denoiser are exact at every noise level. They serve as teachers without
approximation error and as references for learned scores and ratios.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from kljax.arguments import shadow, whole
from kljax.typing import Array, ArrayLike, Float, Int, Key

__all__ = ["GaussianMixture", "noised_log_ratio"]

Points = Float[Array, "*b d"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GaussianMixture:
    """``Σ_k w_k N(mean_k, std_k^2 I)`` on R^d, a pytree.

    Args:
      log_weights: logits of the weights, [k] (normalized inside).
      means: component means, [k, d].
      std: component standard deviations, [k], > 0.

    In the methods `sigma` is the noise level, a number or one per point: the law meant
    is that of ``x + sigma * noise``.

    >>> law = GaussianMixture(jnp.zeros(2), jnp.array([[-1.0], [1.0]]), jnp.ones(2))
    >>> law.score(jnp.zeros((1, 1))).tolist()
    [[0.0]]
    """

    log_weights: Float[Array, "k"]
    means: Float[Array, "k d"]
    std: Float[Array, "k"]

    @property
    def present(self) -> "GaussianMixture":
        """The same law; components without weight lie at 0, whatever they held."""
        some = self.log_weights != -jnp.inf
        means = jnp.where(some[:, None], self.means, 0)
        return GaussianMixture(self.log_weights, means, jnp.where(some, self.std, 1))

    @classmethod
    def ring(
        cls, modes: int = 8, *, radius: float = 1.0, std: float = 0.08
    ) -> "GaussianMixture":
        """Equal modes evenly spaced on a circle in the plane."""
        angle = 2 * math.pi * jnp.arange(whole("modes", modes)) / modes
        means = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
        return cls(jnp.zeros(modes), means, jnp.full(modes, std))

    def joint(self, x: Points, sigma: ArrayLike = 0.0) -> Float[Array, "*b k"]:
        """log of weight times density of each component at x."""
        law = self.present
        variance = law.std**2 + jnp.asarray(sigma)[..., None] ** 2
        # Differences, not expanded squares: exact far from the origin too.
        square = jnp.sum((x[..., None, :] - law.means) ** 2, axis=-1)
        size = law.means.shape[-1]
        log_weights = jax.nn.log_softmax(self.log_weights)
        norm = 0.5 * size * jnp.log(2 * math.pi * variance)
        return log_weights - 0.5 * square / variance - norm

    def log_density(self, x: Points, sigma: ArrayLike = 0.0) -> Float[Array, "*b"]:
        """log p_sigma(x)."""
        return jax.nn.logsumexp(self.joint(x, sigma), axis=-1)

    def denoise(self, x: Points, sigma: ArrayLike) -> Points:
        """E[x_0 | x_0 + sigma noise = x], the ideal denoiser."""
        law = self.present
        posterior = jax.nn.softmax(law.joint(x, sigma), axis=-1)[..., None]
        noise = jnp.asarray(sigma)[..., None, None] ** 2
        variance = law.std[:, None] ** 2
        mean = (noise * law.means + variance * x[..., None, :]) / (noise + variance)
        return jnp.sum(posterior * mean, axis=-2)

    def score(self, x: Points, sigma: ArrayLike = 0.0) -> Points:
        """grad log p_sigma(x)."""
        law = self.present
        posterior = jax.nn.softmax(law.joint(x, sigma), axis=-1)[..., None]
        variance = law.std**2 + jnp.asarray(sigma)[..., None] ** 2
        pull = (law.means - x[..., None, :]) / variance[..., None]
        return jnp.sum(posterior * pull, axis=-2)

    def sample(self, key: Key[Array, ""], n: int) -> Float[Array, "n d"]:
        """n independent draws."""
        pick, noise = jax.random.split(key)
        k = jax.random.categorical(pick, self.log_weights, shape=(n,))
        z = jax.random.normal(noise, (n, self.means.shape[1]), self.means.dtype)
        # A draw by NaN weights is any component.
        unknown = jnp.sum(shadow(self.log_weights))
        return self.means[k] + self.std[k, None] * z + unknown

    def balanced(self, key: Key[Array, ""], n: int) -> Float[Array, "n d"]:
        """n draws with equally many of every component: a reference of less noise.

        >>> GaussianMixture.ring(4).balanced(jax.random.key(0), 8).shape
        (8, 2)
        """
        k = jnp.arange(n) % len(self.std)
        z = jax.random.normal(key, (n, self.means.shape[1]), self.means.dtype)
        return self.means[k] + self.std[k, None] * z

    def nearest(self, x: Points) -> tuple[Int[Array, "*b"], Array]:
        """The component with the nearest mean, and the distance in its std.

        Components without weight are not looked at.
        """
        distance = jnp.linalg.norm(x[..., None, :] - self.means, axis=-1) / self.std
        distance = jnp.where(self.log_weights == -jnp.inf, jnp.inf, distance)
        return jnp.argmin(distance, axis=-1), jnp.min(distance, axis=-1)


def noised_log_ratio(
    key: Key[Array, ""],
    p: GaussianMixture,
    q: GaussianMixture,
    sigma: Float[Array, "n"],
) -> tuple[Float[Array, "n d"], Float[Array, "n"]]:
    """Noised points of q and log p/q of the noised laws there, exactly.

    What a learned ratio is held against.

    Args:
      key: of the points and their noise.
      p, q: two laws of the same d.
      sigma: a noise level per point.

    Returns:
      Points, and the log-ratio in nats.

    Example:
      >>> p, q = GaussianMixture.ring(4), GaussianMixture.ring(4, radius=2.0)
      >>> x, found = noised_log_ratio(jax.random.key(0), p, q, jnp.ones(8))
      >>> x.shape, found.shape
      ((8, 2), (8,))
    """
    keys = jax.random.split(key)
    x = q.sample(keys[0], len(sigma))
    x = x + sigma[:, None] * jax.random.normal(keys[1], x.shape)
    return x, p.log_density(x, sigma) - q.log_density(x, sigma)
