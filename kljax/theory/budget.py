"""What a posterior gains and costs, and what each reference could give at best.

Laws and rewards as in `kljax.theory.posterior`, whose formulas are meant by numbers in
parentheses.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kljax.arguments import floating
from kljax.divergences import forward_kl
from kljax.errors import unknown
from kljax.theory.posterior import expected, log_partition, posterior
from kljax.typing import Array, ArrayLike, Float

__all__ = ["Budget", "Reference", "beta_at", "budget", "compared", "efficiency"]


class Budget(NamedTuple):
    """What the posterior gains and what it costs, per prompt."""

    log_partition: Float[Array, "*b"]
    reward: Float[Array, "*b"]
    """E_p r."""
    gain: Float[Array, "*b"]
    """E_p r − E_prior r."""
    kl: Float[Array, "*b"]
    """KL(p‖prior) = E_p[r]/β − log Z (11)."""
    variance: Float[Array, "*b"]
    """Var_p r: the derivative of the reward in 1/β (11)."""
    root_law: Float[Array, "*b"]
    """σ_prior(r) · √(2 KL(p‖prior)): the gain of a small tilt (12)."""


def budget(
    log_prior: Float[ArrayLike, "*#b n"],
    reward: Float[ArrayLike, "*#b n"],
    beta: ArrayLike,
) -> Budget:
    """Reward, cost and their law along the path of posteriors (11), (12).

    Arguments and errors as in `log_partition`.

    Example:
      >>> prior, reward = jnp.log(jnp.full(2, 0.5)), jnp.array([0.0, 1.0])
      >>> found = budget(prior, reward, 10.0)
      >>> round(float(found.gain / found.root_law), 4)
      0.9998
    """
    p, prior = posterior(log_prior, reward, beta), floating("log_prior", log_prior)
    mean = expected(prior, reward)
    from_mean = floating("reward", reward) - mean[..., None]
    # p − prior by the larger of the two: no ratio overflows, and no digits are lost.
    tilt = jnp.where(prior == -jnp.inf, 0, p - prior)
    moved = jnp.sign(tilt) * jnp.exp(jnp.maximum(p, prior)) * -jnp.expm1(-abs(tilt))
    gain = jnp.sum(moved * from_mean, axis=-1)
    kl = forward_kl(p, prior)
    spread = expected(p, (from_mean - gain[..., None]) ** 2)
    root = jnp.sqrt(2 * expected(prior, from_mean**2) * kl)
    evidence = log_partition(log_prior, reward, beta)
    return Budget(evidence, mean + gain, gain, kl, spread, root)


def beta_at(
    kl: ArrayLike,
    log_prior: Float[ArrayLike, "*#b n"],
    reward: Float[ArrayLike, "*#b n"],
) -> Float[Array, "*b"]:
    """The β whose posterior lies so far from the prior: KL(p‖prior) = kl.

    Its posterior has the largest reward of all laws at that distance, which makes it
    the one to compare best-of-n, or a trained policy, with.

    Args:
      kl: nats, above 0; broadcasts with the prompts.
      log_prior, reward: as in `log_partition`.

    Returns:
      β per prompt, by bisection over 1e-6 to 1e6 times the range of r; an end of it
      where no β reaches so far (at most −log prior of the best outcomes is reached).

    Example:
      >>> prior, reward = jnp.log(jnp.full(2, 0.5)), jnp.array([0.0, 1.0])
      >>> beta = beta_at(0.1, prior, reward)
      >>> round(float(budget(prior, reward, beta).kl), 5)
      0.1
    """
    prior, r, kl = (
        floating(name, value)
        for name, value in zip(("log_prior", "reward", "kl"), (log_prior, reward, kl))
    )
    possible = lambda fill: jnp.where(prior == -jnp.inf, fill, r)  # noqa: E731
    span = possible(-jnp.inf).max(-1) - possible(jnp.inf).min(-1)
    scale = jnp.where(span == 0, 1, span) + jnp.zeros_like(kl)
    most = jnp.full_like(scale, jnp.log(1e6))
    prior, r = (jnp.broadcast_to(x, (*scale.shape, x.shape[-1])) for x in (prior, r))

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        far = forward_kl(posterior(prior, r, scale * jnp.exp(middle)), prior) > kl
        return jnp.where(far, middle, low), jnp.where(far, high, middle)

    low, high = jax.lax.fori_loop(0, 60, halve, (-most, most))
    return scale * jnp.exp((low + high) / 2)


def efficiency(
    log_q: Float[ArrayLike, "*#b n"],
    log_prior: Float[ArrayLike, "*#b n"],
    reward: Float[ArrayLike, "*#b n"],
) -> Float[Array, "*b"]:
    """What a law gains over the prior, as a share of the posterior's at equal KL.

    Args:
      log_q: log-probabilities of a policy, or of what a sampler returns.
      log_prior, reward: as in `log_partition`.

    Returns:
      At most 1, which posteriors of any β have; NaN for the prior itself. Where q is
      further away than any β reaches, a share of the largest gain that there is.

    Example:
      >>> prior, reward = jnp.log(jnp.full(2, 0.5)), jnp.array([0.0, 1.0])
      >>> worse = jnp.log(jnp.array([0.8, 0.2]))
      >>> round(float(efficiency(worse, prior, reward)), 4)
      -1.0
    """
    kl = forward_kl(log_q, log_prior)
    prior, r = floating("log_prior", log_prior), floating("reward", reward)
    gain = expected(log_q, r) - expected(prior, r)
    prior, r = (jnp.broadcast_to(x, (*kl.shape, x.shape[-1])) for x in (prior, r))
    return gain / budget(prior, r, beta_at(kl, prior, r)).gain


class Reference(NamedTuple):
    """The best that there is with one reference, before anything is trained."""

    value: Float[Array, "*b"]
    """β log Z: the largest objective."""
    reward: Float[Array, "*b"]
    """E_p r of the optimum."""
    own_reward: Float[Array, "*b"]
    """E r of the reference itself."""
    kl: Float[Array, "*b"]
    """KL from the optimum to the reference."""
    kl_anchor: Float[Array, "*b"]
    """KL from the optimum to the anchor, the same for all: how far a policy moves."""


def compared(
    references: Mapping[str, Float[ArrayLike, "*#b n"]],
    reward: Float[ArrayLike, "*#b n"],
    beta: ArrayLike,
    anchor: str,
) -> dict[str, Reference]:
    """What each reference could give at best, at one β.

    A fine-tuned model, the soup of several, their geometric or arithmetic mixture
    (`kljax.objectives.targets`): a better one shows here, and what training adds to
    or takes from it is then the optimizer's.

    Args:
      references: log-probabilities of all outcomes, by name.
      reward, beta: as in `log_partition`.
      anchor: the one that distances are measured to in addition, the first model say.

    Raises:
      ValueError: shapes, β, or an anchor that is none of the references.

    Example:
      >>> laws = {"even": [0.5, 0.5], "good": [0.1, 0.9]}
      >>> laws = {name: jnp.log(jnp.array(law)) for name, law in laws.items()}
      >>> found = compared(laws, jnp.array([0.0, 1.0]), 1.0, "even")
      >>> bool(found["good"].reward > found["even"].reward)
      True

    Reference: Chegini et al. 2024, "SALSA", arXiv 2411.01798, objective of section 3.
    """
    if anchor not in references:
        raise ValueError(unknown("anchor", anchor, references))
    found = {}
    for name, law in references.items():
        best, spent = posterior(law, reward, beta), budget(law, reward, beta)
        value = jnp.asarray(beta) * spent.log_partition
        own = spent.reward - spent.gain
        away = forward_kl(best, references[anchor])
        found[name] = Reference(value, spent.reward, own, spent.kl, away)
    return found
