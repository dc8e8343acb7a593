"""The plain multilayer perceptron."""

import itertools
from collections.abc import Sequence

import jax
from flax import nnx

from kljax.typing import Array, ArrayLike, Float

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
    ) -> Float[Array, "b k"]:
        """What the last layer says, without a ReLU.

        `train` and `where` change nothing: they are there so that it may stand where a
        network with running statistics does, in `pure(..., stateful=True)`.
        """
        del train, where
        x = x.reshape(x.shape[0], -1)
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)
