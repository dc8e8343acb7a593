"""Parts of a layer: dense maps, norms, MLPs.

Matrices are `[in, out]`. A part computes in the dtype of its input, whatever the dtype
of its parameters; means, softmax and norms are taken in float32 at least.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.typing import Array

__all__ = ["MLP", "Dense", "LayerNorm", "RMSNorm"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


def wide(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of sums over inputs of that dtype: float32, or float64."""
    return jnp.promote_types(dtype, jnp.float32)


def draw(rngs: nnx.Rngs, shape: tuple[int, ...], deviation: float) -> nnx.Param:
    """A parameter of normal initial values."""
    return nnx.Param(deviation * jax.random.normal(rngs.params(), shape))


class Dense(nnx.Module):
    """`x W (+ b)`, with `W` of shape `[in, out]` or `[experts, in, out]`.

    Args:
      size_in: numbers in.
      size_out: numbers out.
      bias: whether there is a bias.
      experts: leading axes of the parameters, `()` or `(experts,)`.
      deviation: of the initial values; None is `1 / sqrt(size_in)`.
      rngs: random streams for the initial values.
    """

    def __init__(
        self,
        size_in: int,
        size_out: int,
        *,
        bias: bool = False,
        experts: tuple[int, ...] = (),
        deviation: float | None = None,
        rngs: nnx.Rngs,
    ):
        deviation = size_in**-0.5 if deviation is None else deviation
        self.kernel = draw(rngs, (*experts, size_in, size_out), deviation)
        if bias:
            self.bias = nnx.Param(jnp.zeros((*experts, size_out)))

    def __call__(self, x: Array, of: Any = ...) -> Array:
        """`x` `[..., in]`; with experts `[experts, rows, in]`, or of those in `of`."""
        out = x @ self.kernel[of].astype(x.dtype)
        if hasattr(self, "bias"):
            bias = self.bias[of].astype(x.dtype)
            out = out + (bias if bias.ndim == 1 else bias[:, None])
        return out


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
        y = x.astype(wide(x.dtype))
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


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
        rngs: nnx.Rngs,
    ):
        self.activation = activation

        def dense(size_in: int, size_out: int, deviation: float | None = None) -> Dense:
            return Dense(
                size_in,
                size_out,
                bias=bias,
                experts=experts,
                deviation=deviation,
                rngs=rngs,
            )

        if kind == "gated":
            self.gate = dense(width, hidden)
        self.up = dense(width, hidden)
        self.down = dense(hidden, width, shrink * hidden**-0.5)

    def __call__(self, x: Array, *of: Array) -> Array:
        """`x` `[..., width]`, and which experts, see `Dense`."""
        activation = ACTIVATIONS[self.activation]
        inner = self.up(x, *of)
        if hasattr(self, "gate"):
            inner = activation(self.gate(x, *of)) * inner
        else:
            inner = activation(inner)
        return self.down(inner, *of)
