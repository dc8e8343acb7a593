"""Dynamic logit fusion: a large model steered by what small experts learnt.

The large model's logits are moved by the change that fine-tuning made in a small one,

    P̃ ∝ exp(z + Σ_t α_t (s_t − s)),

with a weight per token. `solve_weights` finds it, `fuse` applies it;
`kljax.decoding.fusion_settings` holds both as one setting of a generation loop.

Examples in the prompt need no code here: every model reads the same prompt, few-shot or
not. Experts merged in weight space: `kljax.models.language.task_arithmetic`.

Reference:
  Fan et al., "On giant's shoulders: effortless weak to strong by dynamic logits fusion"
  (2024). Its 21-point grid is `kljax.decoding.fusion_grid`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kljax.arguments import shadow
from kljax.decoding import fusion_solver as solver
from kljax.decoding.fusion_curve import IMPOSSIBLE, Problem, movement, prepare
from kljax.typing import Array, ArrayLike, Bool, Float

__all__ = ["RULES", "Weights", "fuse", "solve_weights"]

RULES = (*solver.SINGLE, "axis", "projection", "static")


class Weights(NamedTuple):
    """Weights per expert, and the objective at them in nats²."""

    alpha: Float[Array, "*b t"]
    loss: Float[Array, "*b"]


def solve_weights(
    large_logits: Float[ArrayLike, "*b v"],
    base_logits: Float[ArrayLike, "*b v"],
    expert_logits: Float[ArrayLike, "*b t v"],
    *,
    rule: str = "dynamic",
    max_weight: Any = 2.0,
    iterations: int | Array = 4,
    init: str = "analytic",
    cross: bool = False,
    target: str = "mean",
    weight: Any = 1.0,
    ridge: float = 0.0,
    where: Bool[ArrayLike, "*b v"] | None = None,
    pad_vocab: bool = False,
) -> Weights:
    """How far to move the large model, so that it moves as far as the small one did.

    With P = softmax(z), Q = softmax(s), Q_t = softmax(s_t), a_t = KL(Q_t‖Q),
    b_t = KL(Q‖Q_t), F(α) = KL(P̃_α‖P) and R(α) = KL(P‖P̃_α), the rules are

    | rule | weight |
    | --- | --- |
    | `dynamic` | one expert: argmin over [0, max] of (F − a)² + (R − b)² (Eq. 3) |
    | `kl_ball` | one expert: F(α) = a, the move of least KL with the largest E[d] |
    | `jeffreys` | one expert: F(α) + R(α) = a + b |
    | `axis` | several: each expert alone, the best one is taken (Algorithm 1) |
    | `projection` | several: argmin of KL(P̃‖P) with E_P̃[d_t] − E_P[d_t] = a_t + b_t |
    | `static` | `weight`, as in proxy-tuning |

    The dynamic objective of several experts has two residuals for t unknowns and so no
    unique answer; Algorithm 1's "one at a time" is what picks one. `projection` is
    convex and has one. All passes are a fixed number, the same for every row.

    Args:
      large_logits: z, any float type; float32 inside, float64 stays.
      base_logits: s, the small model before fine-tuning.
      expert_logits: s_t, the experts stacked on the last axis but one.
      rule: one of `RULES`.
      max_weight: the largest weight, > 0; one number or one per expert.
      iterations: passes over the vocabulary after the targets', may be traced; 4 give
        1e-5 in α.
      init: "analytic" starts at √((a + b)/Var_P d); "scan" looks at eight points first
        and stays in the best one's basin, for rows with several minima (heavy tails).
      cross: match F with b and R with a, as the paper's appendix prints it.
      target: of `axis`: "mean" fits every expert to the mean of all targets, as
        Algorithm 1 does, "own" to its own; both choose by the joint objective.
      weight: of `static`; one number or one per expert, may be traced.
      ridge: of `projection`: adds ½ ridge |α|² to the dual.
      where: outcomes that count; the others are taken away from all models.
      pad_vocab: append impossible outcomes to the shorter vocabularies.

    Returns:
      alpha [*b, t] within [0, max_weight], without a gradient, and the loss [*b]: for
      `kl_ball` and `jeffreys` the squared gap, for `projection` |E[d] − c|², else
      Σ_t (F − a_t)² + (R − b_t)². Where an expert equals the base, P̃ = P at any weight
      and the weight is only finite. An outcome counts where all models allow it
      (logit > -1e9); a NaN that counts gives NaN. Targets below eps^⅔ drown in
      rounding: there α is the start value.

    Raises:
      ValueError: shapes, vocabularies or names that do not fit.

    Example:
      >>> s, expert = jnp.array([0.0, 1.0, 2.0]), jnp.array([[1.0, 0.0, 0.0]])
      >>> solve_weights(s, s, expert).alpha.round(3).tolist()  # a large model like it
      [1.0]
    """
    z, s, experts = _checked(large_logits, base_logits, expert_logits, pad_vocab)
    dtype = _wide(z, s, experts)
    count = experts.shape[-2]
    _check_options(rule, count, iterations, init, target, max_weight)
    high = _per_expert("max_weight", max_weight, count, dtype)
    fixed = _per_expert("weight", weight, count, dtype)

    def one(z: Array, s: Array, experts: Array, *mask: Array) -> Weights:
        problem = prepare(z, s, experts, *mask)
        if rule == "projection":
            alpha = solver.project(
                problem, high=high, iterations=iterations, ridge=ridge
            )
            gap = movement(problem, alpha).mean - problem.shift
            return Weights(alpha + _unknown(problem), jnp.sum(gap**2))
        a, b = problem.forward, problem.reverse
        if cross:
            a, b = b, a
        if rule == "static":
            alpha = fixed
        else:
            mean = target == "mean"
            found = [
                solver.along(
                    rule if rule in solver.SINGLE else "dynamic",
                    problem,
                    t,
                    jnp.mean(a) if mean else a[t],
                    jnp.mean(b) if mean else b[t],
                    high=high[t],
                    iterations=iterations,
                    scan=init == "scan",
                )
                for t in range(count)
            ]
            alone = jnp.diag(jnp.stack(found))
            alpha = alone[0] if count == 1 else _best(problem, alone, cross)
            alpha += _unknown(problem)
        return Weights(alpha, _loss(rule, problem, alpha, a, b, cross))

    flat = [x.reshape(-1, *x.shape[z.ndim - 1 :]) for x in (z, s, experts)]
    if where is not None:
        mask = _mask(where, z)
        flat.append(mask.reshape(-1, mask.shape[-1]))
    alpha, loss = solver.each_row(one, *map(jax.lax.stop_gradient, flat))
    batch = z.shape[:-1]
    return Weights(alpha.reshape(*batch, count), loss.reshape(batch))


def _unknown(problem: Problem) -> Array:
    """0, or NaN where a logit that counts is: comparisons in a search would hide it."""
    return jnp.sum(shadow(problem.shift)) + shadow(problem.log_partition)


def _best(problem: Problem, alone: Array, cross: bool) -> Array:
    """Of weights [t t], one expert each, those of the least joint loss."""

    def loss(alpha: Array) -> Array:
        return _loss("axis", problem, alpha, problem.forward, problem.reverse, cross)

    return alone[jnp.argmin(jax.lax.map(loss, alone))]


def _loss(
    rule: str, problem: Problem, alpha: Array, a: Array, b: Array, cross: bool
) -> Array:
    here = movement(problem, alpha)
    along = alpha @ here.mean
    forward, reverse = along - here.psi, here.psi
    if rule == "kl_ball":
        return (forward - a[0]) ** 2
    if rule == "jeffreys":
        return (along - a[0] - b[0]) ** 2
    return solver.joint_loss(forward, reverse, problem, cross)


def fuse(
    large_logits: Float[ArrayLike, "*b v"],
    base_logits: Float[ArrayLike, "*b v"],
    expert_logits: Float[ArrayLike, "*b t v"],
    alpha: Float[ArrayLike, "*b t"],
    *,
    pad_vocab: bool = False,
) -> Float[Array, "*b v"]:
    """The fused logits z + Σ_t α_t (s_t − s), Eq. 2.

    Args:
      large_logits, base_logits, expert_logits, pad_vocab: as in `solve_weights`.
      alpha: weights, [*b, t] or anything that broadcasts to it.

    Returns:
      Logits [*b, v], float32 or float64, not normalised. -inf where the large model has
      it, and where the base allows an outcome and an expert of positive weight does
      not. Where the base does not allow it, experts have no say.

    Raises:
      ValueError: shapes or vocabularies that do not fit.

    Example:
      >>> z, s = jnp.array([0.0, 1.0]), jnp.zeros(2)
      >>> fuse(z, s, jnp.array([[2.0, 0.0]]), jnp.array([0.5])).tolist()
      [1.0, 1.0]

    References:
      Liu et al., "Tuning language models by proxy" (2024); Liu et al., "DExperts"
      (2021); Li et al., "Contrastive decoding" (2023).
    """
    z, s, experts = _checked(large_logits, base_logits, expert_logits, pad_vocab)
    z, s, experts = (x.astype(_wide(z, s, experts)) for x in (z, s, experts))
    alpha = jnp.asarray(alpha, z.dtype)
    try:
        alpha = jnp.broadcast_to(alpha, experts.shape[:-1])
    except ValueError as error:
        raise ValueError(
            f"alpha: shape {alpha.shape} does not broadcast to {experts.shape[:-1]}, "
            "one weight per expert"
        ) from error
    base_has = ~(s <= IMPOSSIBLE)
    for t in range(experts.shape[-2]):
        s_t, weight = experts[..., t, :], alpha[..., t, None]
        expert_has = ~(s_t <= IMPOSSIBLE)
        used = base_has & expert_has & (weight != 0)
        change = jnp.where(used, s_t - s, 0)
        barred = base_has & ~expert_has & (weight > 0)
        z = jnp.where(barred, -jnp.inf, z + weight * change)
    return z


# ------------------------------------------------------------------ checks


def differ(arrays: Sequence[Array]) -> str:
    """The message for logits whose vocabularies differ."""
    sizes = ", ".join(str(x.shape[-1]) for x in arrays)
    return (
        f"the models' vocabularies differ ({sizes} entries): fusion adds logits of the "
        "same tokens. Use models with one tokenizer; if the larger ones only have "
        "unused entries at the end, pass pad_vocab=True"
    )


def padded(x: Array, size: int) -> Array:
    """`x` with impossible entries up to `size`."""
    missing = size - x.shape[-1]
    if not missing:
        return x
    pads = [(0, 0)] * (x.ndim - 1) + [(0, missing)]
    return jnp.pad(x, pads, constant_values=-jnp.inf)


def _checked(
    large: ArrayLike,
    base: ArrayLike,
    experts: ArrayLike,
    pad_vocab: bool,
) -> tuple[Array, Array, Array]:
    z, s, e = jnp.asarray(large), jnp.asarray(base), jnp.asarray(experts)
    if z.ndim == 0 or e.ndim != z.ndim + 1 or e.shape[:-2] != z.shape[:-1]:
        raise ValueError(
            f"expert_logits: expected [*b, t, v] for large_logits {z.shape}, got "
            f"{e.shape}; one expert is expert_logits[..., None, :]"
        )
    if e.shape[-2] == 0 or z.shape[-1] == 0:
        raise ValueError(
            "expected at least one expert and one outcome, got expert_logits "
            f"{e.shape} and large_logits {z.shape}"
        )
    if s.ndim != z.ndim or s.shape[:-1] != z.shape[:-1]:
        raise ValueError(
            f"base_logits: expected {z.shape}, as large_logits, got {s.shape}"
        )
    size = max(z.shape[-1], s.shape[-1], e.shape[-1])
    if not pad_vocab and not z.shape[-1] == s.shape[-1] == e.shape[-1]:
        raise ValueError(differ((z, s, e)))
    return padded(z, size), padded(s, size), padded(e, size)


def _wide(*arrays: Array) -> Any:
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def _mask(where: ArrayLike, like: Array) -> Array:
    mask = jnp.asarray(where, bool)
    if mask.ndim != like.ndim:
        raise ValueError(
            f"where: expected the rank of large_logits {like.shape}, got {mask.shape}"
        )
    return jnp.broadcast_to(mask, like.shape)


def _check_options(
    rule: str, count: int, iterations: Any, init: str, target: str, max_weight: Any
) -> None:
    for name, value, known in (
        ("rule", rule, RULES),
        ("init", init, ("analytic", "scan")),
        ("target", target, ("mean", "own")),
    ):
        if value not in known:
            choices = ", ".join(known)
            raise ValueError(f"{name}: expected one of {choices}, got {value!r}")
    if rule in solver.SINGLE and count > 1:
        raise ValueError(
            f"rule {rule!r} has one weight, got {count} experts: two numbers do not "
            'determine several weights. Use rule="axis" (the best expert alone) or '
            '"projection" (a weight for each)'
        )
    if isinstance(iterations, int) and iterations < 1:
        raise ValueError(f"iterations: expected at least 1, got {iterations}")
    if isinstance(max_weight, int | float) and not 0 < max_weight < jnp.inf:
        raise ValueError(f"max_weight: expected > 0 and finite, got {max_weight}")


def _per_expert(name: str, value: Any, count: int, dtype: Any) -> Array:
    array = jnp.asarray(value, dtype)
    if array.shape not in ((), (count,)):
        raise ValueError(
            f"{name}: expected one number or one per expert ({count}), got shape "
            f"{array.shape}"
        )
    return jnp.broadcast_to(array, (count,))
