"""Parts of a transformer layer: dense maps, norms, MLPs, mixtures of experts.

Matrices are `[in, out]`. A part computes in the dtype of its input, whatever the dtype
of its parameters; means, softmax and norms are taken in float32 at least.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.typing import Array, Float

__all__ = ["MLP", "Dense", "LayerNorm", "Mixture", "RMSNorm"]

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

    def __call__(self, x: Array) -> Array:
        out = x @ self.kernel[...].astype(x.dtype)
        if hasattr(self, "bias"):
            bias = self.bias[...].astype(x.dtype)
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

    def __call__(self, x: Array) -> Array:
        activation = ACTIVATIONS[self.activation]
        if hasattr(self, "gate"):
            return self.down(activation(self.gate(x)) * self.up(x))
        return self.down(activation(self.up(x)))


class Mixture(MLP):
    """`sum_e w_e MLP_e(x)`: the likeliest experts of a token, weights summing to 1.

    `w` is the softmax of the router over the `chosen` largest of its outputs, and 0
    elsewhere; without `normalized` the softmax over all of its outputs. Every expert
    computes every token and no token is dropped.

    Args:
      width: numbers in and out.
      hidden: numbers inside an expert.
      kind: "gated" or "plain".
      activation: "silu", "gelu", "gelu_tanh" or "relu".
      count: how many experts there are.
      chosen: how many of them a token goes to.
      normalized: the weights of the chosen ones sum to 1.
      bias: whether the experts' maps have biases.
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
        count: int,
        chosen: int,
        normalized: bool = True,
        bias: bool = False,
        shrink: float = 1.0,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            width,
            hidden,
            kind,
            activation,
            bias=bias,
            experts=(count,),
            shrink=shrink,
            rngs=rngs,
        )
        self.chosen, self.normalized = chosen, normalized
        self.router = Dense(width, count, rngs=rngs)

    def weights(self, x: Float[Array, "n d"]) -> Float[Array, "n e"]:
        """Every token's weights of all experts; 0 for those that were not chosen."""
        logits = self.router(x.astype(wide(x.dtype)))
        top, chosen = jax.lax.top_k(logits, self.chosen)
        one_hot = jax.nn.one_hot(chosen, logits.shape[-1], dtype=top.dtype)
        among = top if self.normalized else logits
        weights = jnp.exp(top - jax.nn.logsumexp(among, axis=-1, keepdims=True))
        return jnp.einsum("nk,nke->ne", weights, one_hot)

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        rows = x.reshape(-1, x.shape[-1])
        weights = self.weights(rows).astype(x.dtype)
        out = jnp.einsum("ne,end->nd", weights, super().__call__(rows[None]))
        return out.reshape(x.shape)
