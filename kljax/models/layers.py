"""Parts of a layer, of text and of images: dense maps, tables, norms, MLPs.

Matrices are `[in, out]`. A part computes in the dtype of its input, whatever the dtype
of its parameters; means, softmax and norms are taken in float32 at least.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.typing import Array, Float, Int

__all__ = [
    "MLP",
    "Dense",
    "GroupNorm",
    "LayerNorm",
    "RMSNorm",
    "Table",
    "linear",
    "looked_up",
    "modulated",
    "standardized",
    "wide",
]

Draw = Callable[..., Array]
"""Initial values, from a key and a shape."""
ZEROS: Draw = nnx.initializers.zeros_init()
LECUN: Draw = nnx.initializers.lecun_normal()
SMALL: Draw = nnx.initializers.normal(0.02)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


def wide(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of sums over inputs of that dtype: float32, or float64."""
    return jnp.promote_types(dtype, jnp.float32)


def normal(deviation: float) -> Draw:
    """Normal initial values."""
    return nnx.initializers.normal(deviation)


class Dense(nnx.Module):
    """`x W (+ b)`, with `W` of shape `[in, out]` or `[experts, in, out]`.

    Args:
      size_in: numbers in.
      size_out: numbers out.
      bias: whether there is a bias.
      experts: leading axes of the parameters, `()` or `(experts,)`.
      init: initial values of `W`; None is normal ones of deviation `1 / sqrt(in)`.
      rngs: random streams for the initial values.
    """

    def __init__(
        self,
        size_in: int,
        size_out: int,
        *,
        bias: bool = False,
        experts: tuple[int, ...] = (),
        init: Draw | None = None,
        rngs: nnx.Rngs,
    ):
        init = normal(size_in**-0.5) if init is None else init
        self.kernel = nnx.Param(init(rngs.params(), (*experts, size_in, size_out)))
        if bias:
            self.bias = nnx.Param(ZEROS(rngs.params(), (*experts, size_out)))

    def __call__(self, x: Array, of: Any = ...) -> Array:
        """`x` `[..., in]`; with experts `[experts, rows, in]`, or of those in `of`."""
        out = x @ self.kernel[of].astype(x.dtype)
        if hasattr(self, "bias"):
            bias = self.bias[of].astype(x.dtype)
            out = out + (bias if bias.ndim == 1 else bias[:, None])
        return out


def linear(size_in: int, size_out: int, *, init: Draw = LECUN, rngs: nnx.Rngs) -> Dense:
    """A dense map with a bias, whose first values are truncated at two deviations."""
    return Dense(size_in, size_out, bias=True, init=init, rngs=rngs)


class Table(nnx.Module):
    """One learned row per token, position or class.

    Args:
      rows: how many there are.
      width: numbers per row.
      init: initial values.
      rngs: random streams for the initial values.
    """

    def __init__(self, rows: int, width: int, *, init: Draw = SMALL, rngs: nnx.Rngs):
        self.table = nnx.Param(init(rngs.params(), (rows, width)))

    def __call__(self, ids: Int[Array, "*b"]) -> Float[Array, "*b d"]:
        return looked_up(self.table[...], ids, 0)


def looked_up(table: Array, ids: Int[Array, "*b"], axis: int) -> Array:
    """Rows (axis 0) or columns (axis 1); NaN for an id that the table does not have.

    An index below 0 would count from the end, and one above the end would be clamped.
    """
    known = jnp.where(ids < 0, table.shape[axis], ids)
    return jnp.take(table, known, axis=axis, mode="fill", fill_value=jnp.nan)


def standardized(x: Array, eps: float = 1e-6) -> Array:
    """`(x - mean) / sqrt(variance + eps)`, over the last axis."""
    y = x.astype(wide(x.dtype))
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
    return y.astype(x.dtype)


def modulated(x: Array, scale: Array, shift: Array) -> Array:
    """`standardized(x) (1 + scale) + shift`, as a condition says."""
    return standardized(x) * (1.0 + scale) + shift


class RMSNorm(nnx.Module):
    """`x / sqrt(mean(x^2) + eps) * scale`, over the last axis."""

    def __init__(self, width: int, eps: float):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(width))

    def __call__(self, x: Array) -> Array:
        y = x.astype(wide(x.dtype))
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        return (y * self.scale[...]).astype(x.dtype)


class LayerNorm(nnx.Module):
    """`(x - mean) / sqrt(variance + eps) * scale + bias`, over the last axis."""

    def __init__(self, width: int, eps: float):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: Array) -> Array:
        y = standardized(x.astype(wide(x.dtype)), self.eps)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class GroupNorm(nnx.GroupNorm):
    """Over the pixels and a group of channels: at most 32 groups of at least 4.

    Args:
      channels: the last axis.
      groups: how many; None is as above, 1 on vectors is a `LayerNorm`.
      rngs: random streams for the initial values.
    """

    def __init__(self, channels: int, groups: int | None = None, *, rngs: nnx.Rngs):
        most = math.gcd(channels, min(32, max(1, channels // 4)))
        super().__init__(channels, num_groups=groups or most, rngs=rngs)


NORMS: dict[str, Callable[[int, float], RMSNorm | LayerNorm]] = {
    "rms": RMSNorm,
    "layer": LayerNorm,
}


class MLP(nnx.Module):
    """`down(activation(gate(x)) * up(x))`, or `down(activation(up(x)))`.

    Args:
      width: numbers in and out.
      hidden: numbers in between.
      kind: "gated" or "plain", the two forms above.
      activation: "silu", "gelu", "gelu_tanh" or "relu".
      bias: whether the maps have biases.
      experts: leading axes of the parameters, see `Dense`.
      shrink: factor of the initial values of `down`.
      init: initial values of every map; None is those of `Dense`, `down` shrunk.
      rngs: random streams for the initial values.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        kind: str,
        activation: str,
        *,
        bias: bool = False,
        experts: tuple[int, ...] = (),
        shrink: float = 1.0,
        init: Draw | None = None,
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        dense = partial(Dense, bias=bias, experts=experts, rngs=rngs)
        if kind == "gated":
            self.gate = dense(width, hidden, init=init)
        self.up = dense(width, hidden, init=init)
        down = normal(shrink * hidden**-0.5) if init is None else init
        self.down = dense(hidden, width, init=down)

    def __call__(self, x: Array, *of: Array) -> Array:
        """`x` `[..., width]`, and which experts, see `Dense`."""
        activation = ACTIVATIONS[self.activation]
        inner = self.up(x, *of)
        if hasattr(self, "gate"):
            inner = activation(self.gate(x, *of)) * inner
        else:
            inner = activation(inner)
        return self.down(inner, *of)
