"""Discriminator heads on the features of a frozen denoiser.

A large logit means "real": at the optimum it is `log p_data,t / q_t`, the log-ratio
that f-distill turns into its weight (arXiv 2502.15681; heads as in DMD2 and FastGen).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.models.embedding import ConditionEmbedding
from kljax.models.layers import GroupNorm, linear, standardized
from kljax.typing import Array, Float, Int

__all__ = ["Discriminator"]


class VectorHead(nnx.Module):
    """LayerNorm of each feature, one dense layer, condition, SiLU, LayerNorm, one."""

    def __init__(self, sizes: tuple[int, ...], width: int, *, rngs: nnx.Rngs):
        self.dense = linear(sum(sizes), width, rngs=rngs)
        self.norm = GroupNorm(width, 1, rngs=rngs)
        self.out = linear(width, 1, rngs=rngs)

    def __call__(self, features: tuple[Array, ...], condition: Array) -> Array:
        parts = jnp.concatenate([standardized(f) for f in features], axis=-1)
        hidden = self.dense(parts) + condition
        return self.out(self.norm(jax.nn.silu(hidden)))[:, 0]


class MapHead(nnx.Module):
    """Strided 4x4 convolutions down to 4 pixels or less, one dense layer, one."""

    def __init__(self, shape: tuple[int, ...], width: int, *, rngs: nnx.Rngs):
        side, _, channels = shape
        self.norm_in = GroupNorm(channels, rngs=rngs)
        convs, norms = [], []
        while side > 4:
            convs.append(nnx.Conv(channels, channels, (4, 4), strides=2, rngs=rngs))
            norms.append(GroupNorm(channels, rngs=rngs))
            side = -(-side // 2)
        self.convs, self.norms = nnx.List(convs), nnx.List(norms)
        self.dense = linear(side * side * channels, width, rngs=rngs)
        self.norm = GroupNorm(width, 1, rngs=rngs)
        self.out = linear(width, 1, rngs=rngs)

    def __call__(self, features: tuple[Array, ...], condition: Array) -> Array:
        (feature,) = features
        hidden = self.norm_in(feature)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            hidden = jax.nn.silu(norm(conv(hidden)))
        hidden = self.dense(hidden.reshape(hidden.shape[0], -1)) + condition
        return self.out(self.norm(jax.nn.silu(hidden)))[:, 0]


class Discriminator(nnx.Module):
    """Logits for "real" from a denoiser's features, noise level and class.

    Vector features (of an MLP) share one head; every map (a level of a U-Net, a block
    of a DiT) has a head of its own. Whoever needs one logit takes the mean over heads.

    Args:
      feature_shapes: the denoiser's `feature_shapes`, all vectors or all maps.
      num_classes: classes; 0 for unconditional. One more id means "no class".
      width: units of the heads.
      rngs: random streams for the initial values.

    Raises:
      ValueError: no features, or vectors and maps mixed.

    Example:
      >>> head = Discriminator(((8,), (8,)), 10, rngs=nnx.Rngs(0))
      >>> feature = jnp.ones((5, 8))
      >>> head((feature, feature), jnp.zeros(5), jnp.arange(5)).shape
      (5, 1)
    """

    def __init__(
        self,
        feature_shapes: tuple[tuple[int, ...], ...],
        num_classes: int = 0,
        *,
        width: int = 128,
        rngs: nnx.Rngs,
    ):
        ranks = {len(shape) for shape in feature_shapes}
        if ranks not in ({1}, {3}):
            raise ValueError(
                f"feature_shapes is {feature_shapes}; expected vectors [(d,), ...] or "
                "maps [(r, r, c), ...], not empty and not mixed"
            )
        self.feature_shapes = tuple(tuple(shape) for shape in feature_shapes)
        self.vectors = ranks == {1}
        self.condition = ConditionEmbedding(width, num_classes, rngs=rngs)
        if self.vectors:
            sizes = tuple(shape[0] for shape in feature_shapes)
            self.heads = nnx.List([VectorHead(sizes, width, rngs=rngs)])
        else:
            self.heads = nnx.List(
                [MapHead(shape, width, rngs=rngs) for shape in feature_shapes]
            )

    def __call__(
        self,
        features: tuple[Float[Array, "b ..."], ...],
        noise_label: Float[Array, " b"],
        class_ids: Int[Array, " b"] | None = None,
    ) -> Float[Array, "b h"]:
        """Logits of every head.

        Args:
          features: what the denoiser returned with `features=True`.
          noise_label: `ln(sigma) / 4`.
          class_ids: integers in [0, num_classes], or None for "no class".
        """
        shapes = tuple(f.shape[1:] for f in features)
        if shapes != self.feature_shapes:
            raise ValueError(
                f"features have shapes {shapes} after the batch axis; expected "
                f"{self.feature_shapes}"
            )
        condition = self.condition(noise_label, class_ids)
        groups = [features] if self.vectors else [(f,) for f in features]
        logits = [
            head(group, condition)
            for head, group in zip(self.heads, groups, strict=True)
        ]
        return jnp.stack(logits, axis=-1)
