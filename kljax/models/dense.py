"""The plain multilayer perceptron, and one whose parameters have a prior."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.typing import Array, ArrayLike, Float, Key, PyTree

__all__ = ["MLP", "normal_mlp"]


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
        pairs = itertools.pairwise(_checked(sizes))
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


def normal_mlp(
    sizes: Sequence[int], *, spread: ArrayLike = 1.0, bias: ArrayLike = 0.3
) -> tuple[Callable[..., Float[Array, "b k"]], Callable[[Key[Array, ""]], PyTree]]:
    """The same with parameters that are standard normal under the prior.

    A weight is ``spread θ / sqrt(inputs of its layer)``, so that functions of networks
    of any width are alike, a prior of variance 1 is right in all layers, and so is one
    step size of Langevin dynamics.

    Args:
      sizes: as of `MLP`.
      spread, bias: deviations of a weight times the root of its layer's inputs, and of
        a bias; they may be traced.

    Returns:
      `apply(params, x)` and `initial(key)`, which draws from the prior.

    Raises:
      ValueError: as `MLP`.

    Example:
      >>> apply, initial = normal_mlp((64, 32, 10))
      >>> apply(initial(jax.random.key(0)), jax.numpy.ones((5, 8, 8, 1))).shape
      (5, 10)
    """
    pairs = [*itertools.pairwise(_checked(sizes))]

    def initial(key: Key[Array, ""]) -> PyTree:
        keys = jax.random.split(key, (len(pairs), 2))
        return [
            {
                "w": jax.random.normal(one[0], pair),
                "b": jax.random.normal(one[1], pair[1:]),
            }
            for one, pair in zip(keys, pairs)
        ]

    def apply(params: PyTree, x: Float[Array, "b *event"]) -> Float[Array, "b k"]:
        x = x.reshape(x.shape[0], -1)
        for i, theta in enumerate(params):
            x = jax.nn.relu(x) if i else x
            x = x @ (spread / math.sqrt(x.shape[1]) * theta["w"]) + bias * theta["b"]
        return x

    return apply, initial


def _checked(sizes: Sequence[int]) -> Sequence[int]:
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be two positive ones at least, got {sizes}")
    return sizes
