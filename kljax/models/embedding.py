"""What a denoiser is told besides the picture: the noise level and the class."""

import abc
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.arguments import expect, whole
from kljax.models.layers import Table, linear
from kljax.typing import Array, Float, Int

__all__ = ["ConditionEmbedding", "sinusoidal"]

CLASSES = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)


def sinusoidal(
    label: Float[Array, " b"], size: int, *, low: float = 1.0, high: float = 100.0
) -> Float[Array, "b size"]:
    """Sines and cosines of a scalar at geometrically spaced frequencies.

    `[sin(f_1 c) .. sin(f_n c), cos(f_1 c) .. cos(f_n c)]`, `f` from `low` to `high`.

    Args:
      label: the scalar, one per example; noise levels come as `ln(sigma) / 4`.
      size: how many numbers, even.
      low: the lowest frequency, in radians per unit of `label`.
      high: the highest one.

    Returns:
      The features, shape `[b, size]`, each within [-1, 1].

    Raises:
      ValueError: `size` is odd or not positive, or `label` is not a vector.

    Example:
      >>> sinusoidal(jnp.zeros(3), 4)[0]
      Array([0., 0., 1., 1.], dtype=float32)
    """
    expect("size", size, size > 1 and not size % 2, "it must be even and at least 2")
    if jnp.ndim(label) != 1:
        raise ValueError(f"label has shape {jnp.shape(label)}; expected [b]")
    frequencies = jnp.geomspace(low, high, size // 2, dtype=jnp.float32)
    angles = label[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class ConditionEmbedding(nnx.Module):
    """Noise label and class as one vector: sinusoids, class vector, two dense layers.

    `e = W_2 silu(W_1 sinusoidal(c) + v_class)`.

    The table has one row more than there are classes. That last row stands for "no
    class given": it is used when `class_ids` is None, trained by replacing ids at
    random, and read by classifier-free guidance.

    Args:
      size: length of the vector.
      num_classes: number of classes; 0 for unconditional models.
      sinusoids: how many sines and cosines the noise label becomes.
      rngs: random streams for the initial values.
    """

    def __init__(
        self, size: int, num_classes: int, *, sinusoids: int = 64, rngs: nnx.Rngs
    ):
        self.num_classes = whole("num_classes", num_classes, least=0)
        self.sinusoids = sinusoids
        self.noise_in = linear(sinusoids, size, rngs=rngs)
        self.classes = Table(num_classes + 1, size, init=CLASSES, rngs=rngs)
        self.out = linear(size, size, rngs=rngs)

    def __call__(
        self, noise_label: Float[Array, " b"], class_ids: Int[Array, " b"] | None
    ) -> Float[Array, "b d"]:
        """Embed a batch; ids run from 0 to `num_classes`, the last is "none"."""
        hidden = self.noise_in(sinusoidal(noise_label, self.sinusoids))
        ids = class_ids
        if ids is None:
            ids = jnp.full(noise_label.shape, self.num_classes, jnp.int32)
        elif ids.shape != noise_label.shape or not jnp.issubdtype(
            ids.dtype, jnp.integer
        ):
            raise ValueError(
                f"class_ids has shape {ids.shape} and dtype {ids.dtype}; expected "
                f"integers of shape {noise_label.shape}, or None"
            )
        return self.out(jax.nn.silu(hidden + self.classes(ids)))


class Conditioned(nnx.Module):
    """The network `F` of EDM preconditioning: what all kinds of it are called with.

    A kind has `condition`, a `ConditionEmbedding`, and its own `through`.
    """

    condition: ConditionEmbedding

    @abc.abstractmethod
    def through(self, x: Array, embedding: Array) -> tuple[Array, Sequence[Array]]:
        """The output and the features, of a noisy example and what it is told."""

    def __call__(
        self,
        x: Float[Array, "b *event"],
        noise_label: Float[Array, " b"],
        class_ids: Int[Array, " b"] | None = None,
        *,
        features: bool = False,
    ) -> Array | tuple[Array, tuple[Array, ...]]:
        """Network output, shaped like `x`; with `features` also those inside.

        Args:
          x: the scaled noisy example.
          noise_label: `ln(sigma) / 4`.
          class_ids: integers in [0, num_classes], or None for "no class".
          features: return `(output, features)`, of the shapes `feature_shapes`.

        Raises:
          ValueError: `x` or `class_ids` of another shape than the model was built for.
        """
        out, inside = self.through(x, self.condition(noise_label, class_ids))
        return (out, tuple(inside)) if features else out
