"""f-DPG: a policy is drawn to a target that can be scored and need not be normalized.

The divergence chooses the method: forward KL is DPG, and GDC where the target meets
moments; reverse KL is KL-regularized reinforcement learning of a `Tilt`. Targets are
those of `kljax.objectives.targets`, their constants come from
`kljax.objectives.partition`.

References: Parshakova et al. 2019, "Distributional reinforcement learning for
energy-based sequential models" (DPG); Khalifa et al. 2021, "A distributional approach
to controlled text generation" (GDC); Go et al. 2023, "Aligning language models with
preferences through f-divergence minimization", arXiv 2302.08215 (f-DPG).
"""

import jax
import jax.numpy as jnp

from kljax.arguments import floating
from kljax.generators import FDivergence, get
from kljax.objectives.policy.penalty import score
from kljax.typing import Array, ArrayLike, Float

__all__ = ["f_dpg"]


def f_dpg(
    divergence: FDivergence | str,
    *,
    log_q: Float[ArrayLike, "*c n"],
    log_score: Float[ArrayLike, "*c n"],
    log_partition: Float[ArrayLike, "*#c"],
    log_behavior: Float[ArrayLike, "*c n"] | None = None,
    baseline: Float[ArrayLike, "*#c"] = 0.0,
    **parameters: ArrayLike,
) -> tuple[Float[Array, "*c n"], dict[str, Float[Array, "*c"]]]:
    """Losses of n samples whose mean has the gradient of D_f(p‖q), p = P/Z.

        −sg(ρ (r − B)) log q,   r = −grad_q(log p/q),   ρ = q/b

    What log Z is decides what is paid for it:

    - *exact*: the number, where outcomes can be enumerated.
    - *running*: ``state.update(log_weights).value`` of a `RunningPartition`, whose
      weights are log P − log b. It shares samples with the gradient, a bias of 1/n.
    - *delayed*: ``state.delayed(log_weights)``, then the update: no such bias.

    A wrong Z scales the gradient of forward KL and of every α-divergence, and leaves
    that of reverse KL alone; it bends that of all others.

    Args:
      divergence: an object of `kljax.generators`, or its name.
      log_q: the policy's log-probabilities of whole sequences, in float32 at least.
      log_score: log P of them; −inf is legal where the divergence is finite.
      log_partition: log Z, an entry per context c.
      log_behavior: that of the policy that they were sampled from, as they were
        sampled; None: the policy itself.
      baseline: B, fixed before the samples were drawn: any such number is right, the
        mean of earlier "dpg/reward" lowers the variance (not that of forward KL, whose
        rewards have a heavy tail).
      **parameters: of a divergence given by name, such as ``alpha``.

    Returns:
      A loss per sample; read its gradient, not its value. And by context "dpg/reward",
      the mean of ρ r, and "dpg/possible", the share of samples with P > 0.

    Raises:
      ValueError: shapes; an impossible sample of reverse_kl, jeffreys, neyman_chi2,
        softened_reverse_kl, which are infinite there (NaN where it is traced): soften
        the target (`Tilt`, `Exponential`) or take another divergence.

    Example:
      >>> log_q, prior = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.5, 0.5]))
      >>> log_score = prior + jnp.array([0.0, 2.0])  # a Tilt by a reward
      >>> log_z = jax.nn.logsumexp(log_score)
      >>> loss, found = f_dpg("jensen_shannon", log_q=log_q, log_score=log_score,
      ...                     log_partition=log_z)
      >>> baseline = 0.99 * 0.0 + 0.01 * found["dpg/reward"]  # for the next batch

    References:
      Go et al. 2023, theorem 1 and algorithm 1. Their Jensen-Shannon is twice ours.
    """
    generator = get(divergence, **parameters)
    log_q, log_p = floating("log_q", log_q), floating("log_score", log_score)
    if log_p.shape != log_q.shape or not log_q.ndim:
        raise ValueError(
            f"log_q {log_q.shape} and log_score {log_p.shape} must be [*c, n], one "
            "number for each of the same sequences"
        )
    log_z, b = (
        jnp.broadcast_to(floating(name, x), log_q.shape[:-1])[..., None]
        for name, x in (("log_partition", log_partition), ("baseline", baseline))
    )
    # Impossible whatever Z is, an estimate of 0 included.
    log_p = jnp.where(log_p == -jnp.inf, log_p, log_p - log_z)
    held = jax.lax.stop_gradient(log_q)
    own = held if log_behavior is None else floating("log_behavior", log_behavior)
    of = score(generator, "sequence")
    whole = {"log_q": log_q, "log_p": log_p, "log_behavior": own}
    losses = of(**{name: x[..., None] for name, x in whole.items()})
    ratio = jax.lax.stop_gradient(jnp.exp(held - own))
    reward = -ratio * generator.grad_q(jax.lax.stop_gradient(log_p) - held)
    metrics = {
        "dpg/reward": jnp.mean(reward, axis=-1),
        "dpg/possible": jnp.mean(log_p > -jnp.inf, axis=-1),
    }
    return losses + jax.lax.stop_gradient(ratio * b) * log_q, metrics
