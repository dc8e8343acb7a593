"""`divergence` over a mesh: tokens on one axis, the vocabulary on another."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kljax.arguments import as_array
from kljax.divergences import categorical
from kljax.generators import FDivergence, get
from kljax.kernels.logits import row_divergence
from kljax.kernels.logits.referenced import sharpness_of
from kljax.typing import Array, ArrayLike, Bool, Float


def divergence_sharded(
    p_logits: Float[ArrayLike, "*b v"],
    q_logits: Float[ArrayLike, "*b v"],
    divergence: str | FDivergence,
    *,
    mesh: Mesh,
    token_axis: str | None,
    vocab_axis: str | None,
    temperature: ArrayLike = 1.0,
    where: Bool[ArrayLike, "*b v"] | None = None,
    pad_vocab: bool = False,
    **parameters: Any,
) -> Float[Array, "*b"]:
    """`divergence` of logits ``[*b, v]`` split by tokens and by outcomes.

    The same numbers as on one device, to rounding. Per token the devices exchange
    three maxima and a handful of sums, forward and backward, and no array with a
    vocabulary axis; gradients lie where the logits lie. With ``vocab_axis=None`` they
    exchange nothing: this is the form for data parallelism on a CPU, where `divergence`
    under `jit` goes through blocks of rows and would gather the logits.

    Args:
      p_logits, q_logits: as in `divergence`, the outcomes last; global arrays, which
        may already lie on the mesh.
      divergence: a name of `names()` or an object with scalar parameters.
      mesh: devices.
      token_axis: axis of the mesh over which the tokens (all leading axes, the first
        one slowest) are split; None if none.
      vocab_axis: axis over which the outcomes are split; None if none.
      temperature: one positive number, may be traced.
      where, pad_vocab, **parameters: as in `divergence`.

    What an axis does not divide is filled up with ``-inf``: that copies the logits, so
    better give them a vocabulary and a batch that it does divide. On a CPU, rows whose
    outcomes are split are not taken in blocks.

    Returns:
      One value per leading index, split as the tokens are. Differentiable to any
      order, in every mode, in logits, temperature and parameters.

    Raises:
      ValueError, TypeError: as in `divergence`; an axis that the mesh has not, or the
        same one twice; a temperature or a parameter that is an array of several.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> auto = (jax.sharding.AxisType.Auto,) * 2
      >>> mesh = jax.make_mesh((1, 1), ("data", "model"), axis_types=auto)
      >>> p, q = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.9, 0.1]]))
      >>> value = divergence_sharded(
      ...     p, q, "forward_kl", mesh=mesh, token_axis="data", vocab_axis="model")
      >>> round(float(value[0]), 4)
      0.5108

    References:
      As `divergence`.
    """
    check_axes(mesh, token_axis, vocab_axis)
    objective = get(divergence, **parameters)
    shapes = [np.shape(x) for x in jax.tree.leaves(objective)]
    if any(shapes):
        raise ValueError(
            f"the parameters of {objective} must be numbers, got arrays of shapes "
            f"{shapes}; use jax.vmap for several"
        )
    if as_array("temperature", temperature).ndim:
        raise ValueError(
            f"temperature must be one number, got shape {jnp.shape(temperature)}"
        )
    p, q, mask = categorical.checked(
        p_logits, q_logits, temperature, where, pad_vocab=pad_vocab
    )
    sharpness = None
    if not (isinstance(temperature, int | float) and temperature == 1):
        sharpness = sharpness_of(temperature, p, q)
    return _rows(mesh, token_axis, vocab_axis, objective, p, q, mask, sharpness)


def check_axes(mesh: Mesh, token_axis: str | None, vocab_axis: str | None) -> None:
    """Both must be axes of the mesh, and not the same one."""
    for argument, axis in (("token_axis", token_axis), ("vocab_axis", vocab_axis)):
        if axis is not None and axis not in mesh.axis_names:
            raise ValueError(
                f"{argument} {axis!r} is not an axis of the mesh {mesh.axis_names}"
            )
    if token_axis is not None and token_axis == vocab_axis:
        raise ValueError(f"token_axis and vocab_axis are both {token_axis!r}")


@partial(jax.jit, static_argnums=(0, 1, 2))
def _rows(mesh, token_axis, vocab_axis, divergence, p, q, where, sharpness):
    shape = p.shape[:-1]
    axes = {a for a in (token_axis, vocab_axis) if a is not None}
    if not axes:
        return row_divergence(divergence, p, q, where, sharpness)
    split = P(token_axis, vocab_axis)
    sides = [_filled(mesh, token_axis, vocab_axis, x) for x in (p, q, where)]
    if AxisType.Explicit in mesh.axis_types:
        given = NamedSharding(mesh, split)
        sides = [None if x is None else jax.reshard(x, given) for x in sides]

    # The rule of differentiation stands inside, and is a `custom_jvp`: a `custom_vjp`
    # there would have its gradient divided by the size of the vocabulary's axis.
    def on_device(divergence: Any, *rows: Any) -> Array:
        return row_divergence(divergence, *rows, axis=vocab_axis)

    values = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(P(), split, split, split, P()),
        out_specs=P(token_axis),
        # Over an axis that splits nothing a gradient would be summed.
        axis_names=axes,
        check_vma=False,
    )(divergence, *sides, sharpness)
    return values[: int(np.prod(shape))].reshape(shape)


def _filled(mesh: Mesh, token_axis, vocab_axis, x: Array | None) -> Array | None:
    """Tokens on one axis; impossible outcomes until the mesh divides both."""
    if x is None:
        return None
    x = x.reshape(-1, x.shape[-1])
    tokens, vocab = (
        1 if a is None else mesh.shape[a] for a in (token_axis, vocab_axis)
    )
    short = -x.shape[0] % tokens, -x.shape[1] % vocab
    if not any(short):
        return x
    for axis, length in enumerate(short):
        if length:
            shape = [n if k != axis else length for k, n in enumerate(x.shape)]
            nothing = jnp.full(shape, False if x.dtype == jnp.bool_ else -jnp.inf)
            # No `pad`: partitioned, one by -inf stands in for its tangent's by 0.
            x = jnp.concatenate([x, nothing.astype(x.dtype)], axis=axis)
    return x
