"""The KL penalties in use, by their parts, and what the gradient of each estimates.

A formula is an estimator of KL(q‖p), what is done with it, over what it is taken, and a
ratio to the policy that was sampled from. Most combinations do not have the gradient of
the KL that they are the value of; `formula` hands out those that do.

| part | name | meaning, with ``d = log q − log p`` |
| --- | --- | --- |
| estimator | ``k1``, ``k2``, ``k3`` | d, d²/2, exp(−d) − 1 + d |
| | ``abs`` | the size of d |
| | ``full`` | the sum over all tokens, ``q (log q − log p)`` |
| placement | ``loss`` | differentiated as it stands |
| | ``reward`` | not differentiated, times ``log q`` |
| | ``reward_to_go`` | likewise; each token is charged with the later ones' too |
| | ``straight_through`` | its value, with the derivative of ``k2`` |
| level | ``token``, ``sequence`` | of each token's log-probability, or of their sum |
| ratio | ``none``, ``detached``, ``differentiated`` | times q/b, as a constant or not |
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp

from kljax.divergences import estimators
from kljax.errors import unknown
from kljax.objectives.policy.certify import Certificate, certify
from kljax.objectives.policy.space import Outcomes, Space
from kljax.typing import Array, Bool, Float

__all__ = ["Formula", "certificate", "formula", "formulas"]


def _k1(log_q: Array, log_p: Array) -> Array:
    return estimators.k1(log_p=log_p, log_q=log_q)


def _k2(log_q: Array, log_p: Array) -> Array:
    return estimators.k2(log_p=log_p, log_q=log_q)


def _k3(log_q: Array, log_p: Array) -> Array:
    return estimators.k3(log_p=log_p, log_q=log_q)


def _abs(log_q: Array, log_p: Array) -> Array:
    return jnp.abs(_k1(log_q, log_p))


def _full(outcomes: Outcomes) -> Array:
    return jnp.sum(jnp.exp(outcomes.log_q) * _k1(*outcomes), axis=-1)


def _to_go(each: Array) -> Array:
    return jnp.flip(jnp.cumsum(jnp.flip(each, -1), axis=-1), -1)


# Of the estimate, k2, the weight (q/b, or 1) and what rewards are multiplied by.
_PLACEMENTS: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "loss": lambda k, k2, weight, direction: weight * k,
        "reward": lambda k, k2, weight, direction: jax.lax.stop_gradient(k) * direction,
        "reward_to_go": lambda k, k2, weight, direction: (
            _to_go(jax.lax.stop_gradient(k)) * direction
        ),
        "straight_through": lambda k, k2, weight, direction: (
            weight * (k2 + jax.lax.stop_gradient(k - k2))
        ),
    }
)
_ESTIMATORS = MappingProxyType({"k1": _k1, "k2": _k2, "k3": _k3, "abs": _abs})
# The weight, and what a reward is multiplied by, of log q and the ratio.
_RATIOS: Mapping[str, Callable[[Array, Array], tuple]] = MappingProxyType(
    {
        "none": lambda log_q, ratio: (1.0, log_q),
        "detached": lambda log_q, ratio: (
            jax.lax.stop_gradient(ratio),
            jax.lax.stop_gradient(ratio) * log_q,
        ),
        "differentiated": lambda log_q, ratio: (ratio, ratio),
    }
)
_PARTS = MappingProxyType(
    {
        "estimator": (*_ESTIMATORS, "full"),
        "placement": tuple(_PLACEMENTS),
        "level": ("token", "sequence"),
        "ratio": tuple(_RATIOS),
    }
)


@dataclasses.dataclass(frozen=True)
class Formula:
    """One formula by its parts, a `kljax.objectives.policy.penalty.Penalty`.

    Raises:
      ValueError: an unknown part, or parts that do not go together.

    Example:
      >>> k3 = Formula("k3", "loss")
      >>> print(k3)
      k3 in the loss, per token, without a ratio
      >>> k3(log_q=jnp.full((1, 1), -1.5), log_p=jnp.full((1, 1), -2.0))
      Array([[0.10653067]], dtype=float32)
    """

    estimator: str
    placement: str
    level: str = "token"
    ratio: str = "none"

    def __post_init__(self):
        for part, known in _PARTS.items():
            if (given := getattr(self, part)) not in known:
                raise ValueError(unknown(part, given, known))
        if self.level == "sequence":
            if self.placement == "reward_to_go":
                raise ValueError("reward_to_go is per token: level must be 'token'")
            if self.estimator == "full":
                raise ValueError("full is per token: level must be 'token'")

    def __str__(self):
        placed = {"loss": "in the loss", "reward": "as a reward"}
        words = placed.get(self.placement, self.placement.replace("_", " "))
        ratio = "out a" if self.ratio == "none" else f" a {self.ratio}"
        return f"{self.estimator} {words}, per {self.level}, with{ratio} ratio"

    @property
    def wanted(self) -> str:
        """What its gradient should be, as a `Certificate` labels it."""
        whole = self.level == "sequence" or self.placement == "reward_to_go"
        return "sequence reverse" if whole else "local reverse"

    def __call__(
        self,
        *,
        log_q: Float[Array, "*b t"],
        log_p: Float[Array, "*b t"],
        log_behavior: Float[Array, "*b t"] | None = None,
        where: Bool[Array, "*b t"] | None = None,
        outcomes: Outcomes | None = None,
    ) -> Float[Array, "..."]:
        """The loss of each token, or sequence; `outcomes` serves ``full`` alone.

        Raises:
          ValueError: ``full`` without `outcomes`.
        """
        log_b = jax.lax.stop_gradient(log_q if log_behavior is None else log_behavior)
        counts = jnp.ones(log_q.shape, bool) if where is None else where
        logs = [jnp.where(counts, x, 0) for x in (log_q, log_p, log_b)]
        if self.level == "sequence":
            logs = [x.sum(axis=-1) for x in logs]
        log_q, log_p, log_b = logs
        if self.estimator != "full":
            estimate = _ESTIMATORS[self.estimator](log_q, log_p)
        elif outcomes is not None:
            estimate = jnp.where(counts, _full(outcomes), 0)
        else:
            raise ValueError("estimator 'full' needs outcomes, those of all tokens")
        weight, direction = _RATIOS[self.ratio](log_q, jnp.exp(log_q - log_b))
        return _PLACEMENTS[self.placement](
            estimate, _k2(log_q, log_p), weight, direction
        )


def formulas() -> tuple[Formula, ...]:
    """All of them, in the order of their parts."""
    found = []
    for parts in itertools.product(*_PARTS.values()):
        try:
            found.append(Formula(*parts))
        except ValueError:
            continue
    return tuple(found)


def formula(
    estimator: str,
    placement: str,
    *,
    level: str = "token",
    ratio: str = "none",
    on_policy: bool = True,
    allow_biased: bool = False,
) -> Formula:
    """The formula of these parts, if its gradient is that of the KL in its name.

    Args:
      estimator, placement, level, ratio: its parts, see the module.
      on_policy: whether samples come from the policy itself.
      allow_biased: whether to hand it out whatever its gradient is.

    Raises:
      ValueError: its gradient is another, which is named with what to use instead; an
        unknown part.

    Example:
      >>> formula("k2", "loss")
      Formula(estimator='k2', placement='loss', level='token', ratio='none')

    References:
      Tang & Munos 2025; Liu et al. 2025, "Rethinking KL regularization in RLHF".
    """
    made = Formula(estimator, placement, level, ratio)
    if allow_biased:
        return made
    found = certificate(made, on_policy)
    if found.label != made.wanted:
        credit = "token" if made.wanted.startswith("local") else "sequence"
        sampled = "on" if on_policy else "off"
        raise ValueError(
            f"{made}, sampled {sampled} policy, is not the {made.wanted} KL. {found} "
            f"Use penalty.score('reverse_kl', '{credit}'), or say allow_biased=True"
        )
    return made


@functools.cache
def certificate(formula: Formula, on_policy: bool = True) -> Certificate:
    """What one formula estimates, by `certify` on a small space.

    Example:
      >>> certificate(Formula("k3", "loss")).label
      'local forward'
    """
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        return certify(formula, _space(on_policy))


@functools.cache
def _space(on_policy: bool) -> Space:
    return Space.drawn(jax.random.key(0), 4, 5, off=0.0 if on_policy else 0.3)
