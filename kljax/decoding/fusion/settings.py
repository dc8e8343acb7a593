"""Logit fusion as one setting of a generation loop; methods of the literature.

The large model's logits are moved by the change that fine-tuning made in a small one,

    P̃ ∝ exp(z + Σ_t α_t (s_t − s)),

with a weight per token, which `solve_weights` finds by the rule of a `Fusion`.
Proxy-tuning, DExperts and contrastive decoding add the same change at a weight that is
fixed: `PRESETS`.

Examples in the prompt need no code here: every model reads the same prompt, few-shot or
not. Experts merged in weight space: `kljax.models.language.task_arithmetic`.

Reference:
  Fan et al., "On giant's shoulders: effortless weak to strong by dynamic logits fusion"
  (2024). Its 21-point grid is `kljax.decoding.fusion.grid`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from kljax.arguments import traced, whole
from kljax.decoding.fusion.curve import prepare
from kljax.decoding.fusion.logits import differ, fuse, padded, triple, wide
from kljax.decoding.fusion.rules import RULES, SINGLE, Options, Weights
from kljax.decoding.fusion.solver import each_row
from kljax.typing import Array, ArrayLike, Bool, Float

__all__ = ["PRESETS", "Fusion", "preset", "solve_weights"]


@dataclasses.dataclass(frozen=True)
class Fusion:
    """A setting of logit fusion, and the `combine` of a generation loop.

    Called with the logits of the large model, the base and the experts, in this order,
    each [*b, v], it returns the fused logits and ``{"alpha": [*b, t]}``.
    An entry [*b, n, v] counts as n models, as `adapted` gives them (see
    `kljax.models.language.lora`). With no expert the large model is its own:
    z + α (z − s), contrastive decoding. It hashes as long as its fields are Python
    values.

    Example:
      >>> z, s, e = jnp.array([[0.0, 1.0]]), jnp.zeros((1, 2)), jnp.array([[2.0, 0.0]])
      >>> fused, info = Fusion(rule="static", weight=0.5)((z, s, e))
      >>> fused.tolist(), info["alpha"].tolist()
      ([[1.0, 1.0]], [[0.5]])
    """

    rule: str | None = None
    """One of `kljax.decoding.fusion.RULES`, which says what they are; None is `dynamic`
    for one expert and `axis` for several."""
    max_weight: Any = 2.0
    """The largest weight, > 0; one number, or a tuple with one per expert."""
    iterations: Any = 4
    """Passes over the vocabulary after the targets', the same number for every row, may
    be traced; 4 give 1e-5 in α."""
    init: str = "analytic"
    """"analytic" starts at √((a + b)/Var_P d); "scan" looks at eight points first and
    stays in the best one's basin, for rows with several minima (heavy tails)."""
    cross: bool = False
    """Match F with b and R with a, as the paper's appendix prints it."""
    target: str = "mean"
    """Of `axis`: "mean" fits every expert to the mean of all targets, as Algorithm 1
    does, "own" to its own; both choose by the joint objective."""
    weight: Any = 1.0
    """Of `static`: one number, or a tuple with one per expert; may be traced."""
    ridge: float = 0.0
    """Of `projection`: adds ½ ridge |α|² to the dual."""
    plausibility: float | None = None
    """Keep only tokens of probability ≥ this × the largest under the large model."""
    pad_vocab: bool = False
    """Append impossible outcomes to the shorter vocabularies."""

    def __post_init__(self) -> None:
        """Checks what does not depend on the logits."""
        for name, value, known in (
            ("rule", "dynamic" if self.rule is None else self.rule, RULES),
            ("init", self.init, ("analytic", "scan")),
            ("target", self.target, ("mean", "own")),
        ):
            if value not in known:
                choices = ", ".join(known)
                raise ValueError(f"{name}: expected one of {choices}, got {value!r}")
        steps, most, share = self.iterations, self.max_weight, self.plausibility
        if not traced(steps):
            whole("iterations", steps)
        if isinstance(most, int | float) and not 0 < most < jnp.inf:
            raise ValueError(f"max_weight: expected > 0 and finite, got {most}")
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"plausibility: expected in (0, 1], got {share}")

    def __call__(self, logits: Sequence[Array]) -> tuple[Array, dict[str, Array]]:
        """Fused logits and diagnostics."""
        z, s, experts = self._stacked(logits)
        # The loss is not asked for: it would be one more pass.
        alpha = solve_weights(z, s, experts, self).alpha
        fused = fuse(z, s, experts, alpha, pad_vocab=self.pad_vocab)
        if self.plausibility is not None:
            top = jnp.max(z, axis=-1, keepdims=True)
            drop = z < top + jnp.log(self.plausibility)
            missing = fused.shape[-1] - drop.shape[-1]
            pads = [(0, 0)] * (drop.ndim - 1) + [(0, missing)]
            drop = jnp.pad(drop, pads, constant_values=True)
            fused = jnp.where(drop, -jnp.inf, fused)
        return fused, {"alpha": alpha}

    def _stacked(self, logits: Sequence[Array]) -> tuple[Array, Array, Array]:
        if len(logits) < 2:
            raise ValueError(
                "fusion: expected the logits of the large model, the base and the "
                f"experts, got {len(logits)} array(s)"
            )
        z, *others = (jnp.asarray(x) for x in logits)
        stacks = [x if x.ndim == z.ndim + 1 else x[..., None, :] for x in others]
        if len({x.shape[-1] for x in stacks}) > 1:
            if not self.pad_vocab:
                raise ValueError(differ(logits))
            size = max(x.shape[-1] for x in stacks)
            stacks = [padded(x, size) for x in stacks]
        small = jnp.concatenate(stacks, axis=-2)
        if small.shape[-2] == 1:
            missing = small.shape[-1] - z.shape[-1]
            own = padded(z, z.shape[-1] + max(missing, 0))
            return z, small[..., 0, :], own[..., None, :]
        return z, small[..., 0, :], small[..., 1:, :]


def solve_weights(
    large_logits: Float[ArrayLike, "*b v"],
    base_logits: Float[ArrayLike, "*b v"],
    expert_logits: Float[ArrayLike, "*b t v"],
    fusion: Fusion = Fusion(),
    *,
    where: Bool[ArrayLike, "*b v"] | None = None,
) -> Weights:
    """How far to move the large model, so that it moves as far as the small one did.

    What "as far" means is the rule's to say: see the table in
    `kljax.decoding.fusion.rules`.

    Args:
      large_logits: z, any float type; float32 inside, float64 stays.
      base_logits: s, the small model before fine-tuning.
      expert_logits: s_t, the experts stacked on the last axis but one.
      fusion: the rule and its settings; `plausibility` is of no concern here.
      where: outcomes that count; the others are taken away from all models.

    Returns:
      alpha [*b, t] within [0, max_weight], without a gradient, and the loss [*b]: for
      `kl_ball` and `jeffreys` the squared gap, for `projection` |E[d] − c|², else
      Σ_t (F − a_t)² + (R − b_t)². Where an expert equals the base, P̃ = P at any weight
      and the weight is only finite. An outcome counts where all models allow it
      (logit > -1e9); a NaN that counts gives NaN. Targets below eps^⅔ drown in
      rounding: there α is the start value.

    Raises:
      ValueError: shapes or vocabularies that do not fit; several experts for a rule of
        one.

    Example:
      >>> s, expert = jnp.array([0.0, 1.0, 2.0]), jnp.array([[1.0, 0.0, 0.0]])
      >>> solve_weights(s, s, expert).alpha.round(3).tolist()  # a large model like it
      [1.0]
    """
    pad = fusion.pad_vocab
    z, s, experts = triple(large_logits, base_logits, expert_logits, pad)
    count = experts.shape[-2]
    rule = RULES[_rule_of(fusion, count)]
    options = _options(fusion, count, wide(z, s, experts))
    flat = [x.reshape(-1, *x.shape[z.ndim - 1 :]) for x in (z, s, experts)]
    if where is not None:
        mask = _mask(where, z)
        flat.append(mask.reshape(-1, mask.shape[-1]))
    alpha, loss = each_row(
        lambda *row: rule(prepare(*row), options), *map(jax.lax.stop_gradient, flat)
    )
    batch = z.shape[:-1]
    return Weights(alpha.reshape(*batch, count), loss.reshape(batch))


def _rule_of(fusion: Fusion, count: int) -> str:
    """The rule's name for so many experts."""
    rule = fusion.rule or ("axis" if count > 1 else "dynamic")
    if rule in SINGLE and count > 1:
        raise ValueError(
            f"rule {rule!r} has one weight, got {count} experts: two numbers do not "
            'determine several weights. Use rule="axis" (the best expert alone) or '
            '"projection" (a weight for each)'
        )
    return rule


def _options(fusion: Fusion, count: int, dtype: Any) -> Options:
    def each(name: str) -> Array:
        array = jnp.asarray(getattr(fusion, name), dtype)
        if array.shape not in ((), (count,)):
            raise ValueError(
                f"{name}: expected one number or one per expert ({count}), got shape "
                f"{array.shape}"
            )
        return jnp.broadcast_to(array, (count,))

    return Options(
        high=each("max_weight"),
        fixed=each("weight"),
        iterations=fusion.iterations,
        scan=fusion.init == "scan",
        cross=fusion.cross,
        own=fusion.target == "own",
        ridge=fusion.ridge,
    )


def _mask(where: ArrayLike, like: Array) -> Array:
    mask = jnp.asarray(where, bool)
    if mask.ndim != like.ndim:
        raise ValueError(
            f"where: expected the rank of large_logits {like.shape}, got {mask.shape}"
        )
    return jnp.broadcast_to(mask, like.shape)


PRESETS: dict[str, Fusion] = {
    "dynamic": Fusion(),
    # Models: large, small base, small tuned.
    "proxy_tuning": Fusion(rule="static", weight=1.0),
    # Models: large, anti-expert, expert.
    "dexperts": Fusion(rule="static", weight=2.0),
    # Models: expert, amateur. (1 + β) z − β s within the expert's plausible tokens.
    "contrastive": Fusion(rule="static", weight=0.5, plausibility=0.1),
}
"""Methods of the literature as settings; `dataclasses.replace` changes a field."""


def preset(name: str) -> Fusion:
    """A setting by name.

    Args:
      name: a key of `PRESETS`.

    Returns:
      The `Fusion`.

    Raises:
      ValueError: an unknown name; lists the known ones.

    Example:
      >>> preset("proxy_tuning").weight
      1.0

    References:
      Liu et al., "Tuning language models by proxy" (2024), Eq. 1; Liu et al.,
      "DExperts" (2021), Eq. 2; O'Brien and Lewis, "Contrastive decoding improves
      reasoning in large language models" (2023), β = 0.5 and plausibility 0.1.
    """
    if name not in PRESETS:
        raise ValueError(f"preset: {name!r} is not known; known: {', '.join(PRESETS)}")
    return PRESETS[name]
