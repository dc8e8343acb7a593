"""How much better a sample was than what was to be expected: what a policy is moved by.

Rewards of a group are those of samples of one prompt, on the last axis. A group whose
rewards are all alike has advantages of exactly 0.
"""

import jax
import jax.numpy as jnp

from kljax.arguments import as_array, expect, floating, whole
from kljax.typing import Array, ArrayLike, Bool, Float

__all__ = [
    "generalized_advantages",
    "group_advantages",
    "leave_one_out_advantages",
]


def _centered(rewards: ArrayLike, least: int) -> Array:
    r = floating("rewards", rewards)
    if not r.ndim or r.shape[-1] < least:
        raise ValueError(
            f"rewards has shape {r.shape}; expected [*b, n], n >= {least} samples of "
            "each prompt"
        )
    from_first = r - r[..., :1]  # exactly 0 where all are alike, as the mean is then
    return from_first - from_first.mean(axis=-1, keepdims=True)


def leave_one_out_advantages(rewards: Float[ArrayLike, "*b n"]) -> Float[Array, "*b n"]:
    """``r_i − mean_{j≠i} r_j``: the others are the baseline, and no bias comes of it.

    Args:
      rewards: of n >= 2 samples of each prompt, any scale.

    Returns:
      An advantage per sample; ``(n − 1)/n`` times it is Dr. GRPO's, r minus the mean.

    Raises:
      ValueError: shapes.

    Example:
      >>> leave_one_out_advantages(jnp.array([1.0, 0.0])).tolist()
      [1.0, -1.0]

    References:
      Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free"; Ahmadian et
      al. 2024, "Back to basics" (RLOO).
    """
    centered = _centered(rewards, 2)
    n = centered.shape[-1]
    return centered * (n / (n - 1))


def group_advantages(
    rewards: Float[ArrayLike, "*b n"], *, eps: ArrayLike = 1e-6, ddof: int = 1
) -> Float[Array, "*b n"]:
    """``(r_i − mean r) / (std r + eps)``: GRPO's.

    Args:
      rewards: of n samples of each prompt, any scale.
      eps: >= 0, in the rewards' unit (1e-6 in verl and tunix, 1e-4 in TRL).
      ddof: n − ddof is what squares are divided by: 1 for the sample's standard
        deviation, 0 for the population's.

    Returns:
      An advantage per sample, 0 in groups without variance, whatever `eps` is.

    Raises:
      ValueError: shapes, or not more than `ddof` samples.

    Example:
      >>> group_advantages(jnp.array([[1.0, 0.0], [1.0, 1.0]]), eps=0, ddof=0).tolist()
      [[1.0, -1.0], [0.0, 0.0]]

    References:
      Shao et al. 2024, "DeepSeekMath" (GRPO), section 4.1.2.
    """
    centered = _centered(rewards, whole("ddof", ddof, 0) + 1)
    squares = jnp.sum(centered**2, axis=-1, keepdims=True)
    alike = squares == 0
    variance = jnp.where(alike, 1, squares) / (centered.shape[-1] - ddof)
    return centered / (jnp.where(alike, 1, jnp.sqrt(variance)) + eps)


def generalized_advantages(
    rewards: Float[ArrayLike, "*b t"],
    values: Float[ArrayLike, "*b t"],
    *,
    where: Bool[ArrayLike, "*b t"] | None = None,
    last_value: Float[ArrayLike, "*b"] | None = None,
    discount: ArrayLike = 1.0,
    decay: ArrayLike = 0.95,
) -> tuple[Float[Array, "*b t"], Float[Array, "*b t"]]:
    """Generalized advantage estimates (GAE), and the returns for a value function.

        δ_t = r_t + γ V_{t+1} − V_t,  A_t = Σ_l (γλ)^l δ_{t+l},  R_t = A_t + V_t

    Args:
      rewards: of each token, such as ``−beta (log q − log p)``, with the sequence's own
        at the last one that counts.
      values: V before each token.
      where: which tokens count; others are passed over as if they were not there, and
        may hold anything.
      last_value: V after the last token; None: 0, the sequence has ended.
      discount: γ, in [0, 1].
      decay: λ, in [0, 1]: at 1 the return minus V, at 0 one step ahead.

    Returns:
      Advantages and returns, 0 where a token does not count. Neither is to be
      differentiated: `policy_loss` and `value_loss` do not.

    Raises:
      ValueError: shapes.

    Example:
      >>> rewards, values = jnp.array([0.0, 1.0]), jnp.array([0.5, 0.5])
      >>> [x.tolist() for x in generalized_advantages(rewards, values, decay=1.0)]
      [[0.5, 0.5], [1.0, 1.0]]

    References:
      Schulman et al. 2016, "High-dimensional continuous control using generalized
      advantage estimation", Eq. 16.
    """
    r, v = floating("rewards", rewards), floating("values", values)
    counts = jnp.ones(r.shape, bool) if where is None else as_array("where", where)
    after = jnp.zeros(r.shape[:-1]) if last_value is None else last_value
    after = floating("last_value", after)
    shapes = {"values": v.shape, "where": counts.shape}
    shapes["last_value"] = (*after.shape, *r.shape[-1:])
    for name, shape in shapes.items():
        expect("rewards", r.shape, r.ndim and shape == r.shape, f"{name} does not fit")
    dtype = jnp.result_type(r, v, after)

    def back(carried, token):
        advantage, following = carried
        reward, value, counts = token
        delta = reward + discount * following - value
        new = delta + discount * decay * advantage, value
        kept = [jnp.where(counts, x, y).astype(dtype) for x, y in zip(new, carried)]
        return tuple(kept), jnp.where(counts, kept[0], 0)

    counts = counts.astype(bool)
    r, v = (jnp.where(counts, x, 0).astype(dtype) for x in (r, v))
    first = jnp.zeros(after.shape, dtype), after.astype(dtype)
    tokens = [jnp.moveaxis(x, -1, 0) for x in (r, v, counts)]
    _, found = jax.lax.scan(back, first, tokens, reverse=True)
    advantages = jnp.moveaxis(found, 0, -1)
    return advantages, advantages + v
