"""The published search for the fusion weight, as it is printed: the reference.

For every expert, every weight of a grid: one softmax and two KLs. `solve_weights` finds
a lower objective at a fraction of the time; `python -m experiments bench fusion`.
"""

import jax
import jax.numpy as jnp

from kljax.arguments import whole
from kljax.decoding.fusion.rules import Weights
from kljax.typing import Array, Float

__all__ = ["grid_weights"]


def grid_weights(
    large_logits: Float[Array, "*b v"],
    base_logits: Float[Array, "*b v"],
    expert_logits: Float[Array, "*b t v"],
    *,
    max_weight: float = 2.0,
    points: int = 21,
) -> Weights:
    """Algorithm 1: the grid weight of least Σ_t (F − a_t)² + (R − b_t)².

    One expert's weight is searched at a time, the others' being 0; the best pair wins.
    The best loss is reset at every token (as printed it would carry over, which would
    freeze the weight after the first easy token).

    Args:
      large_logits, base_logits, expert_logits: as in `solve_weights`, all finite.
      max_weight: the end of the grid, which starts at 0.
      points: of the grid; the paper's step 0.1 is 21.

    Returns:
      Weights [*b, t], of which at most one is not 0, and the objective [*b].

    Example:
      >>> s, expert = jnp.array([0.0, 1.0, 2.0]), jnp.array([[1.0, 0.0, 0.0]])
      >>> grid_weights(s, s, expert).alpha.round(3).tolist()
      [1.0]

    References:
      Fan et al., "On giant's shoulders" (2024), Algorithm 1.
    """
    points = whole("points", points, least=2)
    log_p, log_q = jax.nn.log_softmax(large_logits), jax.nn.log_softmax(base_logits)
    log_experts = jax.nn.log_softmax(expert_logits)
    a = _kl(log_experts, log_q[..., None, :])
    b = _kl(log_q[..., None, :], log_experts)
    count = expert_logits.shape[-2]
    best = jnp.full(log_p.shape[:-1], jnp.inf, log_p.dtype)
    alpha = jnp.zeros((*best.shape, count), log_p.dtype)
    for t in range(count):
        change = expert_logits[..., t, :] - base_logits

        def at(i, state, change=change, t=t):
            best, alpha = state
            value = i * max_weight / (points - 1)
            log_fused = jax.nn.log_softmax(large_logits + value * change)
            forward, reverse = _kl(log_fused, log_p), _kl(log_p, log_fused)
            loss = jnp.sum(
                (forward[..., None] - a) ** 2 + (reverse[..., None] - b) ** 2, axis=-1
            )
            new = jnp.zeros_like(alpha).at[..., t].set(value)
            better = loss < best
            return (
                jnp.where(better, loss, best),
                jnp.where(better[..., None], new, alpha),
            )

        best, alpha = jax.lax.fori_loop(0, points, at, (best, alpha))
    return Weights(alpha, best)


def _kl(log_p: Array, log_q: Array) -> Array:
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
