"""The plain multilayer perceptron."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.typing import Array, ArrayLike, Float, Key

__all__ = ["MLP"]


class MLP(nnx.Module):
    """Dense layers with ReLU between them, over flattened events.

    Args:
      sizes: numbers per example, units of the hidden layers, outputs; two at least.
      rngs: random streams for the initial values.

    Raises:
      ValueError: fewer than two sizes, or one that is not positive.

    Example:
      >>> model = MLP((64, 32, 10), rngs=nnx.Rngs(0))
      >>> model(jax.numpy.ones((5, 8, 8, 1))).shape
      (5, 10)
    """

    def __init__(self, sizes: Sequence[int], *, rngs: nnx.Rngs):
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes must be two positive ones at least, got {sizes}")
        pairs = itertools.pairwise(sizes)
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairs])

    def __call__(
        self,
        x: Float[Array, "b *event"],
        *,
        train: bool = False,
        where: ArrayLike | None = None,
        features: bool = False,
        dropout: ArrayLike = 0.0,
        key: Key[Array, ""] | None = None,
    ) -> Any:
        """What the last layer says, without a ReLU.

        `train` and `where` change nothing: they are there so that it may stand where a
        network with running statistics does, in `pure(..., stateful=True)`.

        Args:
          x: a batch of events.
          features: return `(output, features)`, those of every hidden layer after its
            ReLU (and its dropout), each `[b, width]`.
          dropout: share of the hidden features that are zeroed, in [0, 1); the others
            grow by 1 / (1 − dropout). May be traced.
          key: of what is zeroed; None: nothing is.

        Returns:
          `[b, k]`; with the features where asked.
        """
        del train, where
        x, inside = x.reshape(x.shape[0], -1), []
        for i, layer in enumerate(self.layers[:-1]):
            x = jax.nn.relu(layer(x))
            if key is not None:
                kept = jax.random.bernoulli(
                    jax.random.fold_in(key, i), 1 - dropout, x.shape
                )
                x = jnp.where(kept, x / (1 - dropout), 0)
            inside.append(x)
        out = self.layers[-1](x)
        return (out, tuple(inside)) if features else out
