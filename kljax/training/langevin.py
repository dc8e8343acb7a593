"""Langevin dynamics: steps of gradient descent that end at a posterior, not a mode.

    θ ← θ − η ∇U(θ) + √(2η) ξ,    U(θ) = −Σ_i log p_θ(z_i) − log w(θ)

With the gradient of a mini-batch, scaled up to all data, it is SGLD. Its law goes to
e^{−U} as η goes to 0; what is left at a given step is in `kljax.theory.stationary`.
Momentum, Adam and preconditioners that depend on θ do not sample that law.

References: Welling and Teh 2011, "Bayesian learning via stochastic gradient Langevin
dynamics"; Feder, Urbanke, Fogel 2025, arXiv 2506.07661 (15), (17).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kljax.arguments import whole
from kljax.training.descent import descended
from kljax.typing import Array, Float, Key, PyTree

__all__ = ["langevin", "posterior_predictive", "snapshots"]


def langevin(rate: float | Array, key: Key[Array, ""]) -> optax.GradientTransformation:
    """The rule as an optax transformation, for whatever takes one.

    The loss is U itself: of a training step, whose loss is a mean, n times that and the
    prior's part.

    Args:
      rate: η, which may be traced.
      key: of the noise; each chain has its own.

    Returns:
      An optax transformation, whose state carries the key.

    Example:
      >>> rule = langevin(1e-3, jax.random.key(0))
    """
    return optax.chain(optax.add_noise(2 / rate, 0.0, key), optax.sgd(rate))


def snapshots(
    energy: Callable[[PyTree, Key[Array, ""]], Float[Array, ""]],
    start: PyTree,
    rate: float | Array,
    *,
    key: Key[Array, ""],
    keep: int,
    thin: int = 1,
    burn: int = 0,
) -> PyTree:
    """One chain, from time to time: a pure function, to be compiled and mapped over.

    Args:
      energy: `energy(params, key)`, U in nats, or an unbiased estimate of it by a
        mini-batch that the key draws: n / b times the batch's part of the sum.
      start: parameters, any tree.
      rate: η, which may be traced.
      key: of noise and batches; several chains by `vmap` over key (and start).
      keep: snapshots.
      thin: steps from one to the next.
      burn: steps before; the first snapshot is taken after `burn + thin`.

    Returns:
      Parameters with a leading axis of `keep`. A chain that diverged holds NaN or inf.

    Raises:
      ValueError, TypeError: counts that are none.

    Example:
      >>> square = lambda x, key: x**2 / 2
      >>> given = dict(key=jax.random.key(0), keep=2000, thin=10)
      >>> found = snapshots(square, jnp.zeros(()), 0.1, **given)
      >>> found.shape, round(float(found.var()), 1)
      ((2000,), 1.1)
    """
    whole("keep", keep), whole("thin", thin), whole("burn", burn, least=0)
    noise, batches = jax.random.split(key)
    stops = range(burn + thin, burn + thin * keep + 1, thin)
    return descended(energy, start, langevin(rate, noise), stops, key=batches)


def posterior_predictive(
    apply: Callable[..., Float[Array, "*b k"]], params: PyTree, *inputs: Any
) -> Float[Array, "*b k"]:
    """Log of the mean of the probabilities that snapshots give (17).

    Probabilities are averaged, neither logits nor parameters: those are other laws.

    Args:
      apply: `apply(params, *inputs)` gives the logits of one model.
      params: of all, with a leading axis, as `snapshots` returns them.
      inputs: of `apply`, the same for all.

    Returns:
      Normalized log-probabilities of the classes.

    Example:
      >>> logits = jnp.log(jnp.array([[0.9, 0.1], [0.3, 0.7]]))
      >>> found = posterior_predictive(lambda params: params, logits)
      >>> [round(float(p), 2) for p in jnp.exp(found)]
      [0.6, 0.4]
    """
    log_q = jax.nn.log_softmax(jax.vmap(lambda one: apply(one, *inputs))(params))
    return jax.nn.logsumexp(log_q, axis=0) - jnp.log(len(log_q))
