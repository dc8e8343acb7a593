"""One loss of a policy on its samples, of which the field's objectives are settings.

    loss_i = w_i (Σ_t −min(ρ A, clip(ρ) A) + beta_i Σ_t penalty),  ρ = q/b

`w` is the length normalizer, the same for rewards and penalty, so that a coefficient
means the same in every run; the clip acts on the reward alone and never on the penalty.
Everything that a schedule sets (beta, advantages' factor, clip) may be traced: a whole
run is one program. Whether the penalty's gradient is what it is called is certified
(`kljax.objectives.policy.certify`); its default is the reverse KL, right on and off
policy.

| objective | advantages | setting |
| --- | --- | --- |
| REINFORCE, RLOO | rewards; `leave_one_out_advantages` | ``clip=None``, aggregate 1.0 |
| PPO | `generalized_advantages` | and `value_loss` |
| GRPO | `group_advantages` | `log_p` of the reference, ``beta=0.04`` |
| DAPO | likewise | ``clip=(0.2, 0.28)``, no `log_p` |
| Dr. GRPO | ``(n − 1)/n · leave_one_out_advantages`` | aggregate: a number of tokens |
| KDRL | `group_advantages` | `log_p` of the teacher, ``beta=schedule(step)`` |
| GRPO-D | `group_advantages` | ``beta=schedule(step)``, a V of two lines |
| SALSA | any | `log_p` of a soup or a mixture (`policy.references`) |

Schedules are optax's, functions of the traced step:

    linear to a floor (KDRL)  optax.linear_schedule(5e-3, 1e-3, 80)
    cosine                    optax.cosine_decay_schedule(5e-3, steps, alpha=0.2)
    V (GRPO-D, Eq. 3)         optax.join_schedules(
                                  [optax.linear_schedule(mid, low, w),
                                   optax.linear_schedule(low, high, steps - w)], [w])
    hard switch               ``teach = step < s``: ``beta=teach * 1.0`` and
                              ``(1 - teach) * advantages``: distil, then reinforce

References: Schulman et al. 2017, "Proximal policy optimization algorithms"; Shao et al.
2024, "DeepSeekMath" (GRPO); Xu et al. 2025, "KDRL", arXiv 2506.02208; Liu et al. 2025,
"OThink-MR1", arXiv 2503.16081 (GRPO-D); Yu et al. 2025, "DAPO"; Liu et al. 2025,
"Understanding R1-Zero-like training" (Dr. GRPO).
"""

from typing import Literal

import jax
import jax.numpy as jnp

from kljax.arguments import as_array, check_positive, fitting, floating
from kljax.errors import unknown
from kljax.objectives.policy.arguments import counted
from kljax.objectives.policy.penalty import Penalty, value
from kljax.typing import Array, ArrayLike, Bool, Float

__all__ = ["policy_loss", "unsolved", "value_loss"]

Metrics = dict[str, Array]
Aggregate = Literal["token_mean", "seq_mean"] | ArrayLike
Clip = ArrayLike | tuple[ArrayLike, ArrayLike] | None


def policy_loss(
    log_q: Float[ArrayLike, "*b t"],
    advantages: Float[ArrayLike, "*b"] | Float[ArrayLike, "*b t"],
    *,
    log_behavior: Float[ArrayLike, "*b t"] | None = None,
    where: Bool[ArrayLike, "*b t"] | None = None,
    clip: Clip = 0.2,
    aggregate: Aggregate = "token_mean",
    log_p: Float[ArrayLike, "*b t"] | None = None,
    penalty: Penalty | None = None,
    beta: ArrayLike = 0.0,
) -> tuple[Float[Array, "*b"], Metrics]:
    """The clipped surrogate of the rewards and a penalty toward a reference or teacher.

    Args:
      log_q: the policy's log-probability of each sampled token.
      advantages: of each sequence, or of each token; not differentiated.
      log_behavior: log-probabilities under the policy that they were sampled from, as
        they were sampled (temperature and filters included); None: the policy itself,
        whose ratio is 1 and differentiated all the same.
      where: which tokens count, up to and with the end token; others may hold anything
        and change nothing.
      clip: how far from 1 the ratio is rewarded for going, one number or (below,
        above); None: any distance, the plain policy gradient.
      aggregate: what the tokens' sum is divided by. ``"token_mean"``: the mean length
        of the group, which is the last axis of `*b`: a mean over its tokens.
        ``"seq_mean"``: the sequence's own length; neither gradient is that of the
        expected reward or of a KL where lengths differ. A positive number: itself; 1.0
        leaves sums, whose gradients are those that the parts are named by.
      log_p: the reference's, or the teacher's; not differentiated. A teacher that all
        but excludes a token pulls without bound; one that is floored,
        ``jnp.maximum(log_p, jax.lax.stop_gradient(log_q) - 20)``, pulls by 20.
      penalty: from `kljax.objectives.policy.penalty`, or any function like it;
        None: ``value("reverse_kl")``, on policy sample by sample k2's gradient. Exact
        instead of sampled: ``lambda **_: reverse_kl(p_logits, q_logits)``.
      beta: >= 0, of the penalty; one number, or one for each sequence (`unsolved`).

    Returns:
      A loss per sequence, to be averaged over them; "policy/penalty" (without beta),
      "policy/ratio" and "policy/clipped", the share of tokens whose reward no longer
      moves the policy, per sequence.

    Raises:
      ValueError: shapes; an unknown aggregate; a penalty without `log_p`.

    Example:
      >>> log_q = jnp.log(jnp.array([[0.5, 0.5], [0.5, 0.1]]))  # two samples
      >>> log_p = jnp.log(jnp.array([[0.5, 0.9], [0.5, 0.1]]))
      >>> advantages = jnp.array([1.0, -1.0])
      >>> loss, metrics = policy_loss(log_q, advantages, log_p=log_p, beta=0.1)
      >>> [round(float(x), 3) for x in metrics["policy/penalty"]]  # u - 1 - log u
      [0.106, 0.0]

    References:
      See the module; KDRL's Eq. 8, GRPO's Eq. 3, PPO's Eq. 7.
    """
    sampled = log_q if log_behavior is None else log_behavior
    (q, b), counts = counted(where, log_q=log_q, log_behavior=sampled)
    b = jax.lax.stop_gradient(b)
    possible = counts & (b != -jnp.inf)  # what cannot be drawn counts nothing
    ratio = jnp.exp(jnp.where(possible, q, 0) - jnp.where(possible, b, 0))
    a = jax.lax.stop_gradient(_of_tokens(advantages, counts))
    gain, stopped = ratio * a, jnp.zeros(q.shape, bool)
    if clip is not None:
        low, high = clip if isinstance(clip, tuple) else (clip, clip)
        clipped = jnp.clip(ratio, 1 - low, 1 + high) * a
        gain, stopped = jnp.minimum(gain, clipped), clipped < gain
    weights, lengths = _weights(aggregate, counts)
    mean = lambda x: jnp.where(possible, x, 0).sum(axis=-1) / lengths  # noqa: E731
    metrics = {"policy/ratio": mean(ratio), "policy/clipped": mean(stopped)}
    loss = -weights * jnp.where(possible, gain, 0).sum(axis=-1)
    if log_p is None:
        if penalty is not None:
            raise ValueError("penalty needs log_p, the reference's log-probabilities")
        return loss, metrics
    penalty = value("reverse_kl") if penalty is None else penalty
    (_, p), _ = counted(counts, log_q=q, log_p=log_p)
    each = penalty(
        log_q=q, log_p=jax.lax.stop_gradient(p), log_behavior=b, where=counts
    )
    if each.shape == q.shape:
        each = jnp.where(counts, each, 0).sum(axis=-1)
    if each.shape != loss.shape:
        raise ValueError(
            f"penalty returned shape {each.shape}; expected {q.shape} or {loss.shape}, "
            "a number for each token or sequence"
        )
    metrics["policy/penalty"] = weights * each
    return loss + fitting("beta", beta, loss.shape) * weights * each, metrics


def value_loss(
    values: Float[ArrayLike, "*b t"],
    returns: Float[ArrayLike, "*b t"],
    *,
    old_values: Float[ArrayLike, "*b t"] | None = None,
    where: Bool[ArrayLike, "*b t"] | None = None,
    clip: Clip = 0.2,
    aggregate: Aggregate = "token_mean",
) -> tuple[Float[Array, "*b"], Metrics]:
    """Half the squared error of a value function, PPO's: the worse of two.

        ½ max((V − R)², (clip(V, V_old ± clip) − R)²)

    Args:
      values: V before each token.
      returns: what it should be; from `generalized_advantages`; not differentiated.
      old_values: V when the tokens were sampled; None: nothing is clipped.
      where: which tokens count.
      clip: how far V may go from `old_values`, in the rewards' unit, as in
        `policy_loss`.
      aggregate: as in `policy_loss`.

    Returns:
      A loss per sequence; "value/squared_error", its mean over the sequence's tokens,
      and "value/clipped", the share of tokens at which V no longer moves.

    Raises:
      ValueError: shapes; an unknown aggregate.

    Example:
      >>> loss, _ = value_loss(jnp.array([[1.0, 2.0]]), jnp.zeros((1, 2)))
      >>> loss.tolist()
      [1.25]

    References:
      The clip is that of Schulman's implementation of PPO (openai/baselines, ppo2).
    """
    old = values if old_values is None else old_values
    (v, r, old), counts = counted(where, values=values, returns=returns, old_values=old)
    r, old = jax.lax.stop_gradient((r, old))
    error = (v - r) ** 2
    worse, stopped = error, jnp.zeros(v.shape, bool)
    if clip is not None and old_values is not None:
        low, high = clip if isinstance(clip, tuple) else (clip, clip)
        near = (jnp.clip(v, old - low, old + high) - r) ** 2
        worse, stopped = jnp.maximum(error, near), near > error
    weights, lengths = _weights(aggregate, counts)
    loss = 0.5 * weights * jnp.where(counts, worse, 0).sum(axis=-1)
    error, stopped = (
        jnp.where(counts, x, 0).sum(axis=-1) / lengths for x in (error, stopped)
    )
    return loss, {"value/squared_error": error, "value/clipped": stopped}


def unsolved(
    correct: Bool[ArrayLike, "*b n"], per: Literal["response", "group"] = "response"
) -> Float[Array, "*b n"]:
    """1 where a teacher is still to be heard, 0 where rewards do: KDRL's masks.

    To be multiplied with `policy_loss`'s beta. Per response, what is averaged over is
    no longer the policy, and the result the gradient of no divergence.

    Args:
      correct: which of the n samples of each prompt are right (not: a shaped reward).
      per: ``"response"``, where the sample is wrong; ``"group"``, where all are.

    Raises:
      ValueError: an unknown `per`, or no axis of samples.

    Example:
      >>> right = jnp.array([[True, False], [False, False]])
      >>> unsolved(right).tolist(), unsolved(right, "group").tolist()
      ([[0.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]])

    References:
      Xu et al. 2025, "KDRL", reward-guided masking.
    """
    right = as_array("correct", correct).astype(bool)
    if not right.ndim:
        raise ValueError("correct must be [*b, n], the samples of each prompt")
    if per == "group":
        right = jnp.broadcast_to(right.any(axis=-1, keepdims=True), right.shape)
    elif per != "response":
        raise ValueError(unknown("per", per, ("response", "group")))
    return 1.0 - right


def _of_tokens(advantages: ArrayLike, counts: Array) -> Array:
    """Advantages of all tokens, 0 where they do not count."""
    a = floating("advantages", advantages)
    if a.shape == counts.shape[:-1]:
        a = a[..., None]
    elif a.shape != counts.shape:
        raise ValueError(
            f"advantages has shape {a.shape}; expected {counts.shape[:-1]} or "
            f"{counts.shape}, a number for each sequence or token"
        )
    return jnp.where(counts, a, 0)


def _weights(aggregate: Aggregate, counts: Array) -> tuple[Array, Array]:
    """What each sequence's sum is multiplied by, and its length, 1 at least."""
    lengths = counts.sum(axis=-1)
    own = jnp.maximum(lengths, 1)
    if isinstance(aggregate, str):
        if aggregate not in _DIVISORS:
            raise ValueError(
                f"{unknown('aggregate', aggregate, _DIVISORS)}; or a number"
            )
        return 1 / _DIVISORS[aggregate](lengths, own), own
    check_positive("aggregate", aggregate)
    return jnp.broadcast_to(1 / fitting("aggregate", aggregate, ()), own.shape), own


def _token_mean(lengths: Array, own: Array) -> Array:
    mean = jnp.mean(lengths, axis=-1, keepdims=True) if lengths.ndim else lengths
    return jnp.broadcast_to(jnp.where(mean == 0, 1, mean), own.shape)


_DIVISORS = {"token_mean": _token_mean, "seq_mean": lambda lengths, own: own}
