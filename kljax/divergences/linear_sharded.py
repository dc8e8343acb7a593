"""`linear_divergence` over a mesh: tokens on one axis, the vocabulary on another."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from kljax.divergences import _linear_arguments as arguments
from kljax.divergences.sharded import check_axes
from kljax.fdivergence import FDivergence
from kljax.generators import get
from kljax.kernels.linear import fused as kernel
from kljax.kernels.linear import rows, sharded
from kljax.typing import Array, ArrayLike, Bool, Float


def linear_divergence_sharded(
    divergence: str | FDivergence,
    *,
    mesh: Mesh,
    token_axis: str | None,
    vocab_axis: str | None,
    p_hidden: Float[ArrayLike, "*b t d_p"],
    p_head: Float[ArrayLike, "d_p v"],
    q_hidden: Float[ArrayLike, "*b t d_q"],
    q_head: Float[ArrayLike, "d_q v"],
    p_bias: Float[ArrayLike, "v"] | None = None,
    q_bias: Float[ArrayLike, "v"] | None = None,
    temperature: ArrayLike = 1.0,
    soft_cap: arguments.Pair = None,
    weights: Float[ArrayLike, "*b t"] | Bool[ArrayLike, "*b t"] | None = None,
    normalizer: ArrayLike | None = None,
    chunk_size: int | None = None,
    pad_vocab: bool = False,
    **parameters: Any,
) -> Array:
    """`linear_divergence` with hidden states split by tokens and heads by outcomes.

    The same number as on one device, to rounding. Per token the devices exchange ten
    numbers, and no array with a vocabulary axis; the heads' gradients stay split.

    Args:
      mesh: devices; arrays are global and may already lie on them.
      token_axis: axis of the mesh over which all tokens (leading axes included) are
        split; None if none.
      vocab_axis: axis over which the heads' columns are split; None if none.
      temperature: one for both sides.
      chunk_size: tokens of one device whose logits exist at a time.
      divergence and all others: as in `linear_divergence`; the gradient is always
        formed in the forward pass.

    Returns:
      A scalar, equal on all devices. Differentiable once, in either mode, in hidden
      states, heads, biases, weights and the normalizer; other derivatives raise.

    Raises:
      ValueError, TypeError: as in `linear_divergence`, or an axis the mesh has not.
      NotImplementedError: a derivative that is not offered.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> auto = (jax.sharding.AxisType.Auto,) * 2
      >>> mesh = jax.make_mesh((1, 1), ("data", "model"), axis_types=auto)
      >>> loss = linear_divergence_sharded(
      ...     "forward_kl", mesh=mesh, token_axis="data", vocab_axis="model",
      ...     p_hidden=jnp.eye(3, 4), p_head=jnp.eye(4, 5),
      ...     q_hidden=jnp.ones((3, 2)), q_head=jnp.zeros((2, 5)))
      >>> round(float(loss), 4)
      0.1092
    """
    check_axes(mesh, token_axis, vocab_axis)
    objective = get(divergence, **parameters)
    operands = {
        **arguments.side("p", p_hidden, p_head, p_bias),
        **arguments.side("q", q_hidden, q_head, q_bias),
        **arguments.number("sharpness", "temperature", temperature, 1.0),
        **arguments.pair("cap", "soft_cap", soft_cap, None),
    }
    arguments.check_vocab(operands, pad_vocab)
    if "sharpness" in operands:
        operands["sharpness"] = 1 / operands["sharpness"]
    flat, divisor = arguments.flatten(objective, operands, weights, normalizer)
    if flat["weights"].shape[0] == 0:
        return jnp.zeros((), divisor.dtype)
    layout = sharded.Layout(mesh, token_axis, vocab_axis)
    flat = sharded.padded(layout, flat)
    tokens = flat["weights"].shape[0] // layout.size(token_axis)
    vocab = flat["q_head"].shape[1] // layout.size(vocab_axis)
    chunk = arguments.chunk_size(chunk_size, tokens, vocab)
    plan = kernel.make_plan(
        rows.divergence_rows,
        jax.tree.structure(objective),
        chunk,
        vocab,
        weights is not None,
    )
    return arguments.quotient(_sum(plan, layout, flat), divisor)


_sum = jax.jit(sharded.sharded_sum, static_argnums=(0, 1))
