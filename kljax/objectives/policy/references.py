"""References that are made of several models: log-probabilities of sampled tokens.

What a policy is held to may be one model whose parameters are a weighted mean, a soup
(`kljax.models.language.task_arithmetic.soup`), or the models' laws, mixed:

    geometric   softmax(Σ_k w_k log p_k) of the next token: what a soup of models near
                each other comes to
    arithmetic  Σ_k w_k p_k(x) of whole sequences, told token by token: some model's
                every habit is allowed

References: Chegini et al. 2024, "SALSA", arXiv 2411.01798 (soups); the mixtures are
ours.
"""

import jax
import jax.numpy as jnp

from kljax.arguments import as_array, floating
from kljax.objectives.policy.arguments import counted
from kljax.objectives.targets import Mixture, Product
from kljax.typing import Array, ArrayLike, Bool, Float, Int

__all__ = ["arithmetic_reference", "geometric_reference"]


def arithmetic_reference(
    log_p: Float[ArrayLike, "*b t k"],
    weights: Float[Array, "k"] | None = None,
    *,
    where: Bool[ArrayLike, "*b t"] | None = None,
) -> Float[Array, "*b t"]:
    """Log-probabilities of tokens under a mixture of models of whole sequences.

    A model's share of the next token grows with what it gave to the tokens before, so
    that the sum over a sequence is ``log Σ_k w_k p_k(x)``, `targets.Mixture`'s.

    Args:
      log_p: of each sampled token under each model.
      weights: k numbers >= 0, made to sum to 1; None: equal ones.
      where: which tokens count.

    Returns:
      `log_p` for `policy_loss`; 0 where a token does not count.

    Raises:
      ValueError: shapes.

    Example:
      >>> log_p = jnp.log(jnp.array([[0.9, 0.1], [0.9, 0.1]]))  # two tokens, two models
      >>> [round(float(x), 2) for x in jnp.exp(arithmetic_reference(log_p))]
      [0.5, 0.82]
    """
    x = floating("log_p", log_p)
    if x.ndim < 2:
        raise ValueError(f"log_p has shape {x.shape}; expected [*b, t, k]")
    (_,), counts = counted(where, log_p=x[..., 0])
    x = jnp.where(counts[..., None], x, 0)
    start = jnp.zeros_like(x[..., :1, :])
    before = jnp.concatenate([start, jnp.cumsum(x, axis=-2)[..., :-1, :]], axis=-2)
    # Beside the likeliest model: what is subtracted below is small at any length.
    most = jnp.max(before, axis=-1, keepdims=True)
    beside = before - jnp.where(most == -jnp.inf, 0, most)
    mixed = lambda y: Mixture(weights).log_score(y[..., 0], y[..., 1:])  # noqa: E731
    dead = mixed(beside) == -jnp.inf  # no model has come this far
    return jnp.where(
        dead, -jnp.inf, mixed(beside + x) - jnp.where(dead, 0, mixed(beside))
    )


def geometric_reference(
    logits: Float[ArrayLike, "*b t v k"],
    tokens: Int[ArrayLike, "*b t"],
    weights: Float[Array, "k"] | None = None,
) -> Float[Array, "*b t"]:
    """Log-probabilities of tokens under ``softmax(Σ_k w_k log p_k)``.

    Args:
      logits: of all next tokens under each model, normalized or not.
      tokens: those that were sampled; any id where they do not count.
      weights: k numbers >= 0, made to sum to 1; None: equal ones.

    Returns:
      `log_p` for `policy_loss`.

    Raises:
      ValueError: shapes.

    Example:
      >>> logits = jnp.log(jnp.array([[[0.5, 0.8], [0.5, 0.2]]]))  # one token of two
      >>> round(float(jnp.exp(geometric_reference(logits, jnp.array([0])))[0]), 4)
      0.6667
    """
    x, ids = floating("logits", logits), as_array("tokens", tokens, "integers")
    if x.ndim < 3 or ids.shape != x.shape[:-2]:
        raise ValueError(
            f"logits {x.shape} and tokens {ids.shape}; expected [*b, t, v, k], [*b, t]"
        )
    score = Product(weights).log_score(x[..., 0], x[..., 1:])
    log_p = jax.nn.log_softmax(score)
    return jnp.take_along_axis(log_p, ids[..., None], axis=-1)[..., 0]
