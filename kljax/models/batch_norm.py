"""Batch normalization whose averages know which examples count."""

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.typing import Array, ArrayLike, Float

__all__ = ["BatchNorm"]


class BatchNorm(nnx.Module):
    """y = (x − μ) / √(σ² + ε) · scale + bias, over all axes but the last.

    In training μ and σ² are those of the examples that count, and the averages move:
    a ← momentum · a + (1 − momentum) · [μ, σ² n / (n − 1)], with the unbiased variance
    of n values, as PyTorch has it (whose own `momentum` is 1 minus this one). Where no
    example counts they stay. Sharded batches give the statistics of the whole batch.

    Args:
      features: size of the last axis.
      momentum: share of the averages that one step leaves, in [0, 1).
      epsilon: added to variances.
      rngs: not drawn from; modules are built with it.

    Raises:
      ValueError: `momentum` out of range.

    References:
      Ioffe and Szegedy, "Batch normalization" (2015), algorithms 1 and 2.
    """

    def __init__(
        self,
        features: int,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        rngs: nnx.Rngs,
    ):
        del rngs
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
        self.momentum, self.epsilon = momentum, epsilon
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))

    def __call__(
        self,
        x: Float[Array, "b *axes d"],
        *,
        train: bool,
        where: ArrayLike | None = None,
    ) -> Float[Array, "b *axes d"]:
        """Normalize, by the batch in training and else by the averages.

        Args:
          x: features, float32 inside whatever the type.
          train: whether the batch's statistics are used and the averages move.
          where: booleans over the first axes of `x`, `[b]` as a rule: what counts.
        """
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean, var = self.mean[...], self.var[...]
        if train:
            mean, var = self._moved(wide, where)
        y = (wide - mean) * jax.lax.rsqrt(var + self.epsilon)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)

    def _moved(self, x: Array, where: ArrayLike | None) -> tuple[Array, Array]:
        """Mean and variance of what counts; the averages move by them."""
        counts = jnp.ones(x.shape[:1], bool) if where is None else jnp.asarray(where)
        counts = jnp.expand_dims(counts != 0, tuple(range(counts.ndim, x.ndim)))
        counts = jnp.broadcast_to(counts, (*x.shape[:-1], 1))
        n = jnp.sum(counts).astype(x.dtype)
        axes = tuple(range(x.ndim - 1))

        def mean_of(values: Array) -> Array:
            return jnp.sum(jnp.where(counts, values, 0), axes) / jnp.maximum(n, 1)

        mean = mean_of(x)
        var = mean_of((x - mean) ** 2)
        unbiased = var * n / jnp.maximum(n - 1, 1)
        for average, value in ((self.mean, mean), (self.var, unbiased)):
            old = average[...]
            new = self.momentum * old + (1 - self.momentum) * value
            average[...] = jax.lax.stop_gradient(jnp.where(n > 0, new, old))
        return mean, var
