"""Logit fusion as one setting of a generation loop; methods of the literature.

Proxy-tuning, DExperts and contrastive decoding add the same change of logits as
`kljax.decoding.fusion` does, at a weight that is fixed: `PRESETS`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from kljax.decoding.fusion import RULES, Weights, differ, fuse, padded, solve_weights
from kljax.typing import Array

__all__ = ["PRESETS", "Fusion", "preset"]


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
    """One of `RULES`; None is `dynamic` for one expert and `axis` for several."""
    max_weight: Any = 2.0
    iterations: int = 4
    init: str = "analytic"
    cross: bool = False
    target: str = "mean"
    weight: Any = 1.0
    """Of `static`: one number, or a tuple with one per expert."""
    ridge: float = 0.0
    plausibility: float | None = None
    """Keep only tokens of probability ≥ this × the largest under the large model."""
    pad_vocab: bool = False

    def __post_init__(self) -> None:
        """Checks what does not depend on the logits."""
        if self.rule is not None and self.rule not in RULES:
            known = ", ".join(RULES)
            raise ValueError(f"rule: expected one of {known}, got {self.rule!r}")
        if self.plausibility is not None and not 0 < self.plausibility <= 1:
            raise ValueError(
                f"plausibility: expected in (0, 1], got {self.plausibility}"
            )

    def weights(self, logits: Sequence[Array]) -> Weights:
        """`solve_weights` with these settings, for the logits of all models."""
        z, s, experts = self._stacked(logits)
        several = experts.shape[-2] > 1
        return solve_weights(
            z,
            s,
            experts,
            rule=self.rule or ("axis" if several else "dynamic"),
            max_weight=self.max_weight,
            iterations=self.iterations,
            init=self.init,
            cross=self.cross,
            target=self.target,
            weight=self.weight,
            ridge=self.ridge,
            pad_vocab=self.pad_vocab,
        )

    def __call__(self, logits: Sequence[Array]) -> tuple[Array, dict[str, Array]]:
        """Fused logits and diagnostics."""
        z, s, experts = self._stacked(logits)
        # The loss is not asked for: it would be one more pass.
        alpha = self.weights(logits).alpha
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
