"""A divergence of a policy from its teacher as a loss of samples, in two exact forms.

With ``u = p/q`` of a token, or of a sequence, and ``rho = q/b`` its ratio to the policy
`b` that it was sampled from:

    value:  rho f(u)                         rho differentiated
    score:  sg(rho grad_q(log u)) log q      sg: not differentiated

Both have the gradient of ``D_f(p‖q)`` in expectation, for every divergence, on policy
(rho is 1, and differentiated all the same) and off policy; it is the same one, sample
by sample. `value` is an unbiased estimate of the divergence as well, while the number
that `score` returns means nothing: its use is the credit to go.

What is differentiated is a matter of `credit`. ``"token"``: the *local* divergence, the
sum of those of the next token after each prefix, with the law of the prefixes held
fixed. ``"sequence"``: that of the laws of whole sequences. ``"to_go"``: the same for
reverse KL, each token charged with what comes from it on alone.

References: Go et al. 2023, "Aligning language models with preferences through
f-divergence minimization", theorem 1 (``-grad_q`` is their pseudo-reward); Schulman
2020, "Approximating KL divergence", for the sampled KL.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from kljax.arguments import concrete
from kljax.errors import unknown
from kljax.generators import FDivergence, Outcomes, ReverseKL, get
from kljax.objectives.policy.arguments import counted
from kljax.typing import Array, ArrayLike, Bool, Float

__all__ = ["Penalty", "score", "value"]

Tokens = Float[ArrayLike, "*b t"]


@runtime_checkable
class Penalty(Protocol):
    """A loss of samples; takes the mean over them to estimate, or its gradient."""

    def __call__(
        self,
        *,
        log_q: Tokens,
        log_p: Tokens,
        log_behavior: Tokens | None = None,
        where: Bool[ArrayLike, "*b t"] | None = None,
    ) -> Float[Array, "..."]:
        """The loss of each token, or of each sequence.

        Args:
          log_q: the policy's log-probability of each sampled token.
          log_p: the teacher's; −inf is legal where the divergence is finite.
          log_behavior: that of the policy that they were sampled from, as they were
            sampled (temperature and filters included); None: the policy itself.
          where: which tokens count; others may hold anything.

        Returns:
          ``[*b, t]``, 0 where a token does not count, to be summed over tokens, or
          ``[*b]``; both to be averaged over sequences, in nats.

        Raises:
          ValueError: shapes that differ; a token that is impossible for the teacher,
            where that makes the divergence infinite (NaN where it is traced).
        """
        ...


def value(
    divergence: FDivergence | str, credit: str = "token", **parameters: ArrayLike
) -> Penalty:
    """``rho f(p/q)``: an unbiased estimate of D_f(p‖q), and so is its gradient.

    Args:
      divergence: an object of `kljax.generators`, or its name.
      credit: ``"token"`` or ``"sequence"``.
      **parameters: of a divergence given by name, such as ``alpha``; may be traced.

    Returns:
      The `Penalty`; nonnegative.

    Raises:
      ValueError: an unknown name.

    Example:
      >>> loss = value("reverse_kl")
      >>> log_q, log_p = jnp.array([[-2.0, -1.5]]), jnp.array([[-2.0, -2.0]])
      >>> [round(float(x), 3) for x in loss(log_q=log_q, log_p=log_p)[0]]  # k3
      [0.0, 0.107]

    References:
      For reverse KL on policy: ``rho k3`` of DeepSeek-V3.2 (2025).
    """
    return _penalty(_value, {"token": _Ratios.of, "sequence": _Ratios.of_sums},
                    divergence, credit, parameters)  # fmt: skip


def score(
    divergence: FDivergence | str, credit: str = "token", **parameters: ArrayLike
) -> Penalty:
    """``sg(rho grad_q(log p/q)) log q``: its gradient is that of D_f(p‖q) on average.

    Args:
      divergence: an object of `kljax.generators`, or its name.
      credit: ``"token"``, ``"sequence"``, or ``"to_go"`` for reverse KL, whose
        sequence term is a sum over tokens: less variance, the same expectation.
      **parameters: of a divergence given by name, such as ``alpha``; may be traced.

    Returns:
      The `Penalty`; read its gradient, not its value.

    Raises:
      ValueError: an unknown name; ``"to_go"`` for another divergence.

    Example:
      >>> loss = score("reverse_kl")
      >>> grad = jax.grad(lambda x: loss(log_q=x, log_p=jnp.zeros((1, 1))).sum())
      >>> grad(jnp.full((1, 1), -0.5)).tolist()  # k1 as a reward
      [[-0.5]]

    References:
      Go et al. 2023, theorem 1 and Eq. 4 (off policy); to go: Sutton et al. 2000.
    """
    credits = {"token": _Ratios.of, "sequence": _Ratios.of_sums, "to_go": _Ratios.of}
    if credit == "to_go":
        found = get(divergence, **parameters)
        if not isinstance(found, ReverseKL):
            raise ValueError(
                "credit 'to_go' is for reverse_kl, whose sequence term is a sum over "
                f"tokens; got {type(found).__name__}: 'sequence' is right for it"
            )
        return _penalty(_score_to_go, credits, found, credit, {})
    return _penalty(_score, credits, divergence, credit, parameters)


class _Ratios(NamedTuple):
    """Log-probabilities over the sampling policy's, of what counts; else 0."""

    log_q: Array
    q_over: Array
    """``log q/b``; −inf where sampling is impossible."""
    p_over: Array
    counts: Array

    @staticmethod
    def of(logs: tuple[Array, ...], counts: Array) -> "_Ratios":
        log_q, log_p, log_b = logs
        possible = log_b != -jnp.inf
        b = jnp.where(possible, log_b, 0)
        q_over, p_over = (jnp.where(possible, x - b, -jnp.inf) for x in (log_q, log_p))
        return _Ratios(log_q, q_over, p_over, counts)

    @staticmethod
    def of_sums(logs: tuple[Array, ...], counts: Array) -> "_Ratios":
        return _Ratios.of(tuple(x.sum(axis=-1) for x in logs), counts.any(axis=-1))


def _penalty(
    form: Callable, credits: dict, divergence: Any, credit: str, parameters: dict
) -> Penalty:
    divergence = get(divergence, **parameters)
    if credit not in credits:
        raise ValueError(unknown("credit", credit, credits))
    of = credits[credit]

    def penalty(*, log_q, log_p, log_behavior=None, where=None):
        sampled = log_q if log_behavior is None else log_behavior
        logs, counts = counted(where, log_q=log_q, log_p=log_p, log_behavior=sampled)
        log_q, log_p, log_b = logs
        log_b = jax.lax.stop_gradient(log_b)
        ratios = of((log_q, _allowed(divergence, log_p), log_b), counts)
        return jnp.where(ratios.counts, form(divergence, ratios), 0)

    return penalty


def _value(divergence: FDivergence, ratios: _Ratios) -> Array:
    return divergence.term(ratios.p_over, ratios.q_over)


def _score(divergence: FDivergence, ratios: _Ratios) -> Array:
    live = ratios.q_over != -jnp.inf
    log_q = jnp.where(live, ratios.log_q, 0)
    return jax.lax.stop_gradient(_mass_grad(divergence, ratios)) * log_q


def _score_to_go(divergence: FDivergence, ratios: _Ratios) -> Array:
    live = ratios.q_over != -jnp.inf
    # What a token is charged with weighs the ratio of all that led there, its own in.
    before = jnp.cumsum(ratios.q_over, axis=-1) - ratios.q_over
    before = jnp.where(live, before, -jnp.inf)
    charge = jnp.exp(before) * _mass_grad(divergence, ratios)
    to_go = jnp.flip(jnp.cumsum(jnp.flip(charge, -1), axis=-1), -1)
    return jax.lax.stop_gradient(to_go) * jnp.where(live, ratios.log_q, 0)


def _mass_grad(divergence: FDivergence, ratios: _Ratios) -> Array:
    """``rho grad_q(log u)`` without a product of a tiny and a huge number."""
    p, q = ratios.p_over, ratios.q_over
    live, none = q != -jnp.inf, p == -jnp.inf
    safe_q = jnp.where(live, q, 0)
    safe_p = jnp.where(live & ~none, p, safe_q)
    found = divergence.mass_grad(Outcomes.of(safe_p, safe_q, safe_p - safe_q))
    limit = jnp.exp(safe_q) * jnp.where(none, divergence.at_zero, 0)
    return jnp.where(live, jnp.where(none, limit, found), 0)


def _allowed(divergence: FDivergence, log_p: Array) -> Array:
    """`log_p`, unless it makes the divergence infinite; NaN in its place if traced."""
    wrong = (log_p == -jnp.inf) & jnp.isinf(divergence.at_zero)
    known = concrete(wrong)
    if known is None:
        return jnp.where(wrong, jnp.nan, log_p)
    if known.any():
        place = [int(i) for i in jnp.argwhere(wrong)[0]]
        raise ValueError(
            f"log_p is −inf at {place}, where {type(divergence).__name__} is infinite: "
            "soften the target, or take a divergence with a finite f(0), such as "
            "forward_kl or jensen_shannon"
        )
    return log_p
