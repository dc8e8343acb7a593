"""A policy from pairs of sequences, of which the first is preferred.

What a policy is rewarded for saying, against a reference p that nobody trains, is the
slope of a divergence in its own mass:

    r(x) = beta · d/dq [q f(p/q)] = beta · grad_q(log p/q)

for reverse KL ``beta log q/p``. DPO is f-DPO with ``"reverse_kl"``.

Log-probabilities are those of whole sequences (sums over their tokens that count),
``[*b, 2]``, the preferred one first.

References: Rafailov et al. 2023, "Direct preference optimization"; Wang et al. 2024,
"Beyond reverse KL" (f-DPO); Ethayarajh et al. 2024, "KTO".
"""

import jax
import jax.numpy as jnp

from kljax.arguments import as_array, concrete, fitting, floating
from kljax.generators import FDivergence, get
from kljax.typing import Array, ArrayLike, Bool, Float

__all__ = ["kto_pair_loss", "preference_loss"]

Metrics = dict[str, Array]
Pairs = Float[ArrayLike, "*b 2"]


def preference_loss(
    log_q: Pairs,
    log_p: Pairs,
    divergence: FDivergence | str = "reverse_kl",
    *,
    beta: ArrayLike = 0.1,
    label_smoothing: ArrayLike = 0.0,
    **parameters: ArrayLike,
) -> tuple[Float[Array, "*b"], Metrics]:
    """``−log sigmoid(r_1 − r_2)``: DPO, and f-DPO for other divergences.

    Args:
      log_q: the policy's log-probabilities of both sequences of a pair.
      log_p: the reference's; not differentiated.
      divergence: whose penalty the policy is to be optimal under; one whose slope is
        infinite where the policy has no mass, or the identity that the loss stands on
        fails (reverse and forward KL, Jeffreys, Jensen-Shannon, alpha from 0 on, ...).
      beta: > 0, of the penalty; one number, or one for each pair.
      label_smoothing: the chance that a label is wrong, in [0, ½) (conservative DPO).
      **parameters: of a divergence given by name; may be traced.

    Returns:
      A loss per pair; "preference/margin", r_1 − r_2, and "preference/accuracy", 1
      where it is positive.

    Raises:
      ValueError: shapes; a divergence whose slope is known to be finite.

    Example:
      >>> log_q, log_p = jnp.array([[-1.0, -3.0]]), jnp.array([[-2.0, -2.0]])
      >>> loss, _ = preference_loss(log_q, log_p, beta=0.5)  # log(1 + 1/e)
      >>> round(float(loss[0]), 4)
      0.3133

    References:
      Rafailov et al. 2023, Eq. 7; Wang et al. 2024, theorem 1 (their f'(q/p) is
      `grad_q` here); Mitchell 2023, "A note on DPO with noisy preferences".
    """
    divergence = get(divergence, **parameters)
    _steep(divergence)
    log_u = -_gains(log_q, log_p)
    rewards = divergence.grad_q(log_u)
    beta = fitting("beta", beta, log_u.shape[:-1])
    margin = beta * (rewards[..., 0] - rewards[..., 1])
    right, wrong = jax.nn.softplus(-margin), jax.nn.softplus(margin)
    loss = right + label_smoothing * (wrong - right)
    right = (margin > 0).astype(margin.dtype)
    return loss, {"preference/margin": margin, "preference/accuracy": right}


def kto_pair_loss(
    log_q: Pairs,
    log_p: Pairs,
    *,
    beta: ArrayLike = 0.1,
    where: Bool[ArrayLike, "*b"] | None = None,
) -> tuple[Float[Array, "*b"], Metrics]:
    """KTO's value of both sequences, each beside what the other side gains on average.

        1 − ½ sigmoid(beta (g_1 − z_2)) − ½ sigmoid(beta (z_1 − g_2)),  g = log q/p

    z is the mean gain of a side over the batch, at least 0, and not differentiated: a
    baseline in place of the KL, which pairs say nothing unbiased of.

    Args:
      log_q: the policy's log-probabilities of both sequences of a pair.
      log_p: the reference's; not differentiated.
      beta: > 0; one number, or one for each pair.
      where: which pairs count for z; others may hold anything.

    Returns:
      A loss per pair; "preference/margin", ``beta (g_1 − g_2)``, and
      "preference/accuracy".

    Raises:
      ValueError: shapes.

    Example:
      >>> same = jnp.array([[-2.0, -2.0]])
      >>> kto_pair_loss(same, same)[0].tolist()
      [0.5]

    References:
      Ethayarajh et al. 2024, Eq. 7, in the form for pairs ("kto_pair" of TRL up to
      0.8, which does differentiate z).
    """
    gains = _gains(log_q, log_p)
    rows = gains.shape[:-1]
    counts = jnp.ones(rows, bool) if where is None else as_array("where", where)
    if counts.shape != rows:
        raise ValueError(f"where has shape {counts.shape}; expected {rows}")
    kept = jnp.where(counts.astype(bool)[..., None], gains, 0)
    axes = tuple(range(len(rows)))
    z = kept.sum(axis=axes) / jnp.maximum(counts.sum(), 1)
    z = jax.lax.stop_gradient(jnp.maximum(z, 0))
    beta = fitting("beta", beta, rows)
    first = jax.nn.sigmoid(beta * (gains[..., 0] - z[1]))
    second = jax.nn.sigmoid(beta * (z[0] - gains[..., 1]))
    margin = beta * (gains[..., 0] - gains[..., 1])
    right = (margin > 0).astype(margin.dtype)
    metrics = {"preference/margin": margin, "preference/accuracy": right}
    return 1 - (first + second) / 2, metrics


def _gains(log_q: Pairs, log_p: Pairs) -> Array:
    q, p = floating("log_q", log_q), floating("log_p", log_p)
    if q.shape != p.shape or q.shape[-1:] != (2,):
        raise ValueError(
            f"log_q {q.shape} and log_p {p.shape} must be [*b, 2], whole sequences, "
            "the preferred one first"
        )
    return q - jax.lax.stop_gradient(p)


def _steep(divergence: FDivergence) -> None:
    """Raises where the slope is known to stay finite as the policy's mass goes to 0."""
    known = concrete(divergence.grad_q(jnp.array([20.0, 40.0])))
    if known is not None and abs(known[1] - known[0]) <= 1e-3 * max(1, abs(known[0])):
        raise ValueError(
            f"{type(divergence).__name__} has a finite slope where the policy has no "
            "mass: the policy that is best under it may have none, and rewards cannot "
            "be read off it; take reverse_kl, forward_kl or jensen_shannon"
        )
