"""SuperHF: keep the best of n samples, learn them by heart, stay near the prior.

    loss_i = (1/N_i) Σ_t −log q(a_t) + λ KL(prior_t‖q_t)

over the N_i tokens of each kept sample, and then anew from what the policy has become.
At every prefix this is 1 + λ times the cross-entropy to ``(a_t + λ prior_t)/(1 + λ)``,
so that in expectation the policy becomes that mixture of the law of the best of n and
the prior (`kljax.theory.best_of_n.best_of_n_round`): what the prior does, the policy
does with λ/(1 + λ) of its probability at least, and no sample gets more than
1/(1 + λ) beyond that.

Reference: Mukobi et al. 2023, "SuperHF: supervised iterative learning from human
feedback", arXiv 2310.16763, and its code, openfeedback/superhf.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kljax.arguments import concrete, floating, whole
from kljax.generators import FDivergence
from kljax.objectives.distillation import (
    Metrics,
    Reduction,
    Student,
    Teacher,
    Weights,
    distillation_loss,
)
from kljax.typing import Array, ArrayLike, Float, Int, PyTree

__all__ = ["best", "superhf_loss"]


def best(
    rewards: Float[ArrayLike, "*b n"], samples: PyTree, *, keep: int = 1
) -> tuple[PyTree, Float[Array, "*b k"]]:
    """The `keep` samples of each prompt with the largest rewards, the best first.

    Args:
      rewards: of n samples of each prompt; among equals the first is kept.
      samples: a tree of arrays ``[*b, n, ...]``, tokens and masks say.
      keep: how many, 1 to n.

    Returns:
      The tree with ``[*b, keep, ...]``, and their rewards.

    Raises:
      ValueError: shapes that do not fit, or more to keep than there are.

    Example:
      >>> kept, rewards = best(jnp.array([[0.1, 0.9]]), jnp.array([[[3], [4]]]))
      >>> kept.tolist(), rewards.shape
      ([[[4]]], (1, 1))

    References:
      Mukobi et al. 2023, the filter of section 3; K = 1 there.
    """
    r = floating("rewards", rewards)
    if not r.ndim:
        raise ValueError("rewards must be [*b, n], the samples of each prompt")
    whole("keep", keep, 1, r.shape[-1])
    kept, place = jax.lax.top_k(r, keep)

    def taken(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        if leaf.shape[: r.ndim] != r.shape:
            raise ValueError(
                f"samples hold an array {leaf.shape}; expected {(*r.shape, '...')}, a "
                "row for each reward"
            )
        index = place.reshape(*place.shape, *(1,) * (leaf.ndim - r.ndim))
        return jnp.take_along_axis(leaf, index, axis=r.ndim - 1)

    return jax.tree.map(taken, samples), kept


def superhf_loss(
    prior: Teacher,
    policy: Student,
    labels: Int[ArrayLike, "*b t"],
    *,
    coefficient: ArrayLike,
    divergence: str | FDivergence = "forward_kl",
    weights: Weights | None = None,
    reduction: Reduction = "sequence",
    **options: Any,
) -> tuple[Float[Array, "*b"], Metrics]:
    """``−log q(label) + λ D(prior‖q)`` of every token, in nats.

    `distillation_loss` with the prior as teacher, a label weight of 1/(1 + λ), and
    1 + λ times its value.

    Args:
      prior: what the policy was before; no gradient flows into it. Sides as in
        `distillation_loss`: logits, or hidden states and a head.
      policy: q, at the same positions: those that predict a kept sample's tokens.
      labels: these tokens; negative: none.
      coefficient: λ >= 0, may be traced. The paper's code sums the divergence over the
        M samples of a minibatch and averages the rest: that is λ M here.
      divergence: the paper's is forward KL; ``"reverse_kl"`` has no floor.
      weights, reduction, options: as in `distillation_loss`.

    Returns:
      Loss and metrics as in `distillation_loss`, "distillation/loss" included, which is
      1/(1 + λ) of it.

    Raises:
      ValueError: a coefficient that is negative; and as in `distillation_loss`.

    Example:
      >>> from kljax.divergences import Logits
      >>> prior, policy = Logits(jnp.zeros((1, 1, 2))), Logits(jnp.zeros((1, 1, 2)))
      >>> loss, _ = superhf_loss(prior, policy, jnp.array([[1]]), coefficient=0.35)
      >>> round(float(loss[0]), 4)  # log 2, the divergence is 0
      0.6931

    References:
      Mukobi et al. 2023, the loss of section 3 (λ = 0.35 by default).
    """
    known = concrete(coefficient)
    if known is not None and not (known >= 0).all():
        raise ValueError(f"coefficient must be at least 0, got {coefficient}")
    loss, metrics = distillation_loss(
        prior,
        policy,
        divergence=divergence,
        labels=labels,
        label_weight=1 / (1 + coefficient),
        weights=weights,
        reduction=reduction,
        **options,
    )
    return jnp.multiply(1 + coefficient, loss), metrics
