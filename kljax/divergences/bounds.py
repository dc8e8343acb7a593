"""Lower bounds on divergences from a critic at samples of both laws.

A critic is a function v, trained to be the log-ratio log p − log q; a bound takes its
values at samples of the target and of the model, and is to be maximized in it.
"""

import math

import jax
import jax.numpy as jnp

from kljax.arguments import floating, shadow
from kljax.generators import FDivergence, get
from kljax.typing import Array, ArrayLike, Float

__all__ = ["donsker_varadhan", "variational"]


def variational(
    critic_p: Float[ArrayLike, "*b n"],
    critic_q: Float[ArrayLike, "*b m"],
    divergence: FDivergence | str,
    **parameters: ArrayLike,
) -> Float[Array, "*b"]:
    """A lower bound on D_f(p‖q) from a critic's log-ratio v at samples of both.

    E_p[f'(e^v)] + E_q[f(e^v) − e^v f'(e^v)] ≤ D_f(p‖q), with equality at
    v = log p − log q: maximise in the critic. In the generator's members, mean of
    `grad_p` over samples of p plus mean of `grad_q` over samples of q.

    Args:
      critic_p: v at samples of the target, last axis.
      critic_q: v at samples of the model, last axis.
      divergence: an object of `kljax.generators`, or its name.
      **parameters: of a divergence given by name, such as ``alpha``; may be traced.

    Returns:
      One value per leading index, nats. A sample mean: it may exceed the divergence.

    Raises:
      ValueError: without a sample axis or for an unknown name.

    Example:
      >>> v = jnp.zeros(3)
      >>> float(variational(v, v, "forward_kl"))
      0.0

    References:
      Nguyen, Wainwright, Jordan, "Estimating divergence functionals and the likelihood
      ratio by convex risk minimization" (2010), Lemma 1, with f' ∘ exp ∘ v as critic.
    """
    divergence = get(divergence, **parameters)
    v_p, v_q = _critic("critic_p", critic_p), _critic("critic_q", critic_q)
    return jnp.mean(divergence.grad_p(v_p), -1) + jnp.mean(divergence.grad_q(v_q), -1)


def donsker_varadhan(
    critic_p: Float[ArrayLike, "*b n"], critic_q: Float[ArrayLike, "*b m"]
) -> Float[Array, "*b"]:
    """Donsker and Varadhan's lower bound on KL(p‖q), tighter than the variational one.

    E_p[v] − log E_q[e^v] ≤ KL(p‖q), with equality at v = log p − log q + constant. Its
    minibatch value and gradient are biased, through the logarithm of a mean.

    Args:
      critic_p, critic_q: the critic v at samples of target and model, last axes.

    Returns:
      One value per leading index, nats.

    Raises:
      ValueError: without a sample axis.

    Example:
      >>> float(donsker_varadhan(jnp.ones(3), jnp.ones(2)))
      0.0

    References:
      Belghazi et al., "Mutual information neural estimation" (2018).
    """
    v_p, v_q = _critic("critic_p", critic_p), _critic("critic_q", critic_q)
    log_mean = jax.nn.logsumexp(v_q, axis=-1) - math.log(v_q.shape[-1])
    return jnp.mean(v_p, axis=-1) - log_mean


def _critic(name: str, x: ArrayLike) -> Array:
    """A critic at samples, of which there must be some."""
    array = floating(name, x)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"{name} needs samples on its last axis, got {array.shape}")
    return array + shadow(array)
