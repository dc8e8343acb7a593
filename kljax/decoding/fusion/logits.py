"""Logits of several models that belong together, and their fusion at known weights."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from kljax.arguments import floating, floats
from kljax.decoding.fusion.curve import IMPOSSIBLE
from kljax.typing import Array, ArrayLike, Float

__all__ = ["differ", "fuse", "padded", "triple", "wide"]


def fuse(
    large_logits: Float[ArrayLike, "*b v"],
    base_logits: Float[ArrayLike, "*b v"],
    expert_logits: Float[ArrayLike, "*b t v"],
    alpha: Float[ArrayLike, "*b t"],
    *,
    pad_vocab: bool = False,
) -> Float[Array, "*b v"]:
    """The fused logits z + Σ_t α_t (s_t − s), Eq. 2.

    Args:
      large_logits: z, [*b, v].
      base_logits: s, likewise.
      expert_logits: s_t, the experts stacked on the last axis but one.
      alpha: weights, [*b, t] or anything that broadcasts to it.
      pad_vocab: append impossible outcomes to the shorter vocabularies.

    Returns:
      Logits [*b, v], float32 or float64, not normalised. -inf where the large model has
      it, and where the base allows an outcome and an expert of positive weight does
      not. Where the base does not allow it, experts have no say.

    Raises:
      ValueError: shapes or vocabularies that do not fit.

    Example:
      >>> z, s = jnp.array([0.0, 1.0]), jnp.zeros(2)
      >>> fuse(z, s, jnp.array([[2.0, 0.0]]), jnp.array([0.5])).tolist()
      [1.0, 1.0]

    References:
      Liu et al., "Tuning language models by proxy" (2024); Liu et al., "DExperts"
      (2021); Li et al., "Contrastive decoding" (2023).
    """
    z, s, experts = triple(large_logits, base_logits, expert_logits, pad_vocab)
    z, s, experts = (x.astype(wide(z, s, experts)) for x in (z, s, experts))
    alpha = floating("alpha", alpha).astype(z.dtype)
    try:
        alpha = jnp.broadcast_to(alpha, experts.shape[:-1])
    except ValueError as error:
        raise ValueError(
            f"alpha: shape {alpha.shape} does not broadcast to {experts.shape[:-1]}, "
            "one weight per expert"
        ) from error
    base_has = ~(s <= IMPOSSIBLE)
    for t in range(experts.shape[-2]):
        s_t, weight = experts[..., t, :], alpha[..., t, None]
        expert_has = ~(s_t <= IMPOSSIBLE)
        used = base_has & expert_has & (weight != 0)
        change = jnp.where(used, s_t - s, 0)
        barred = base_has & ~expert_has & (weight > 0)
        z = jnp.where(barred, -jnp.inf, z + weight * change)
    return z


def differ(arrays: Sequence[Array]) -> str:
    """The message for logits whose vocabularies differ."""
    sizes = ", ".join(str(x.shape[-1]) for x in arrays)
    return (
        f"the models' vocabularies differ ({sizes} entries): fusion adds logits of the "
        "same tokens. Use models with one tokenizer; if the larger ones only have "
        "unused entries at the end, pass pad_vocab=True"
    )


def padded(x: Array, size: int) -> Array:
    """`x` with impossible entries up to `size`."""
    missing = size - x.shape[-1]
    if not missing:
        return x
    pads = [(0, 0)] * (x.ndim - 1) + [(0, missing)]
    return jnp.pad(x, pads, constant_values=-jnp.inf)


def triple(
    large: ArrayLike, base: ArrayLike, experts: ArrayLike, pad_vocab: bool
) -> tuple[Array, Array, Array]:
    """The logits of all models, of shapes that belong together."""
    z, s = floats("large_logits", large), floats("base_logits", base)
    e = floats("expert_logits", experts)
    if z.ndim == 0 or e.ndim != z.ndim + 1 or e.shape[:-2] != z.shape[:-1]:
        raise ValueError(
            f"expert_logits: expected [*b, t, v] for large_logits {z.shape}, got "
            f"{e.shape}; one expert is expert_logits[..., None, :]"
        )
    if e.shape[-2] == 0 or z.shape[-1] == 0:
        raise ValueError(
            "expected at least one expert and one outcome, got expert_logits "
            f"{e.shape} and large_logits {z.shape}"
        )
    if s.ndim != z.ndim or s.shape[:-1] != z.shape[:-1]:
        raise ValueError(
            f"base_logits: expected {z.shape}, as large_logits, got {s.shape}"
        )
    size = max(z.shape[-1], s.shape[-1], e.shape[-1])
    if not pad_vocab and not z.shape[-1] == s.shape[-1] == e.shape[-1]:
        raise ValueError(differ((z, s, e)))
    return padded(z, size), padded(s, size), padded(e, size)


def wide(*arrays: Array) -> Any:
    """What is computed in: float32, or float64 where that is given."""
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)
