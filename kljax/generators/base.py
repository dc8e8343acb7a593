"""What an f-divergence is: the members that everything else in kljax calls.

``D_f(p‖q) = E_q[f(p/q)]`` with `p` the target and `q` the model, in nats. An object is
a frozen dataclass and a pytree: its real parameters are leaves, so they can be traced,
swept by `vmap`, scheduled and differentiated. Members act elementwise on the log-ratio
``log_u = log p − log q`` and use the generator normalised to ``f(1) = f'(1) = 0``
(adding ``c(u − 1)`` leaves ``D_f`` unchanged), which keeps float32 accurate near
``p = q``.
"""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, dataclass_transform

import jax
import jax.numpy as jnp

from kljax.arguments import floating, legal
from kljax.generators.accurate import NEAR, expm1_near
from kljax.generators.one_pass import OnePass
from kljax.typing import Array, ArrayLike

INF = math.inf


class Outcomes(NamedTuple):
    """Outcomes possible on both sides, with what a kernel knows of them already."""

    log_p: Array
    log_q: Array
    log_u: Array
    """``log p − log q``, more accurate than the difference of the two above."""
    p: Array
    q: Array
    excess: Array
    """``p − q``, accurate where they nearly agree."""

    @staticmethod
    def of(log_p: Array, log_q: Array, log_u: Array, p=None, q=None) -> "Outcomes":
        """From the logarithms of two masses, and the masses if they are known."""
        p = jnp.exp(log_p) if p is None else p
        q = jnp.exp(log_q) if q is None else q
        near = jnp.abs(log_u) < NEAR
        close = -p * expm1_near(-jnp.where(near, log_u, 0))
        excess = jnp.where(near, close, p - q)
        return Outcomes(log_p, log_q, log_u, p, q, excess)

    @property
    def swapped(self) -> "Outcomes":
        """The sides exchanged."""
        log_p, log_q, log_u, p, q, excess = self
        return Outcomes(log_q, log_p, -log_u, q, p, -excess)


@dataclass_transform(frozen_default=True)
def generator(cls):
    """Class decorator: frozen dataclass, registered as a pytree.

    Fields are leaves; those with ``metadata={"static": True}`` are structure.
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)
    static = [f.name for f in fields if f.metadata.get("static")]
    names = [f.name for f in fields if f.name not in static]
    keys = [jax.tree_util.GetAttrKey(name) for name in names]

    # The class is part of the structure's data: jaxlib 0.10 holds the structures of
    # two registered dataclasses equal if only their fields agree, and a cache of
    # compiled functions may then return another divergence's program.
    def structure(node):
        return cls, tuple(getattr(node, name) for name in static)

    def flatten(node):
        return tuple(getattr(node, name) for name in names), structure(node)

    def flatten_with_keys(node):
        leaves, data = flatten(node)
        return tuple(zip(keys, leaves)), data

    def unflatten(data, leaves):
        return cls(**dict(zip(names, leaves)), **dict(zip(static, data[1])))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


class Range(NamedTuple):
    """Where a parameter lies: between two numbers, which may be legal as well."""

    low: float
    high: float
    ends: str = "()"

    def outside(self, x: Any) -> Any:
        """Where `x` is not in it; not where it is NaN."""
        below = x < self.low if "[" in self.ends else x <= self.low
        return below | (x > self.high if "]" in self.ends else x >= self.high)

    def __str__(self):
        return f"{self.ends[0]}{self.low}, {self.high}{self.ends[1]}"


def _limit(log_mass: Array, bound: Any) -> Array:
    """``mass · bound``; infinity, whatever the mass, where the bound is infinite."""
    infinite = jnp.isinf(bound)
    return jnp.where(
        infinite, jnp.inf, jnp.exp(log_mass) * jnp.where(infinite, 0.0, bound)
    )


@generator
class FDivergence:
    """Base of the generators: an author writes one form, and the rest is derived.

    That form is `mass_term` (with `mass_grad` where it is simpler or faster than a
    derivative), which is exact at any ratio. Whoever has f alone writes `value`
    instead, with `dual` and both limits if they are known: only the half
    ``log_u <= 0`` of either is then used in a sum. If both are written, `mass_term`
    counts in sums.
    """

    ranges: ClassVar[Mapping[str, Range]] = MappingProxyType({})
    """Of its parameters, by name."""

    one_pass: ClassVar[OnePass | None] = None
    """One-pass form, where ``D`` is a function of a few sums; that of `dual` serves."""

    centered: ClassVar[bool] = False
    """Whether ``Σ q grad_q`` is 0 whatever p and q."""

    smooth: ClassVar[bool] = False
    """Whether f has a second derivative at 1: an error in all log-ratios then counts
    squared."""

    limits_included: ClassVar[bool] = False
    """Whether `mass_term` and `mass_grad` hold where a mass is 0.

    There `log_u` is finite, hugely negative or positive where one mass alone is 0;
    infinite limits are left to the caller.
    """

    def __post_init__(self):
        # An object of gradients holds arrays of any size, and a structure None.
        for name, legal_range in self.ranges.items():
            value = getattr(self, name)
            number = isinstance(value, (int, float))
            if number and (legal_range.outside(value) or math.isnan(value)):
                raise ValueError(f"{name} must lie in {legal_range}, got {value!r}")

    def in_range(self) -> "FDivergence":
        """With NaN in place of traced parameters out of their range.

        Raises:
          ValueError: an array that is known to be out of range.
          TypeError: a parameter that is no real number.
        """
        arrays = {}
        for name, its in self.ranges.items():
            value = getattr(self, name)
            if not isinstance(value, (int, float)):
                arrays[name] = legal(
                    name, floating(name, value), its.outside, f"in {its}"
                )
        return dataclasses.replace(self, **arrays) if arrays else self

    def mass_term(self, outcomes: Outcomes) -> Array:
        """``q f(p/q)`` of positive masses: never negative, 0 where they are equal."""
        l, p, q = outcomes.log_u, outcomes.p, outcomes.q
        above = l > 0
        below = q * self.value(jnp.where(above, 0, l))
        return jnp.where(above, p * self.dual.value(jnp.where(above, -l, 0)), below)

    def mass_grad(self, outcomes: Outcomes) -> Array:
        """``q`` times the derivative of `mass_term` in q, that is ``q · grad_q``."""
        q, zero = outcomes.q, jnp.zeros_like(outcomes.q)
        one = zero + 1
        along = Outcomes(zero, one, -one, zero, q, -q)
        return jax.jvp(self.mass_term, (outcomes,), (along,))[1]

    def value(self, log_u: ArrayLike) -> Array:
        """``f(u)``."""
        if not _written_in_masses(self):
            raise TypeError(
                f"{type(self).__name__} must define mass_term(outcomes) or value(log_u)"
            )
        l = _floating(log_u)
        above = l > 0
        pair = Outcomes.of(jnp.where(above, 0, l), jnp.where(above, -l, 0), l)
        return self.mass_term(pair) * jnp.exp(jnp.where(above, l, 0))

    @property
    def dual(self) -> "FDivergence":
        """The swapped divergence ``f°(v) = v f(1/v)``: ``D_f(p‖q) = D_f°(q‖p)``."""
        return Swapped(self)

    @property
    def at_zero(self) -> Any:
        """``f(0)``: the cost per unit of model mass where the target has none.

        Read off ``value`` at ``log_u = −40`` and ``−80`` unless an author writes it.
        """
        near, nearer = self.value(jnp.array([-40.0, -80.0]))
        return jnp.where(jnp.abs(nearer - near) > 1e-3 * (1 + near), INF, nearer)

    @property
    def dual_at_zero(self) -> Any:
        """``f°(0)``: the cost per unit of target mass where the model has none."""
        return self.dual.at_zero

    def slope(self, log_u: ArrayLike) -> Array:
        """``u f'(u)``, the derivative of `value` in ``log u``."""
        l = _floating(log_u)
        return self.grad_p(l) * jnp.exp(l)

    def grad_p(self, log_u: ArrayLike) -> Array:
        """``f'(u)``: the gradient of ``q f(p/q)`` in p."""
        return self.dual.grad_q(-_floating(log_u))

    def grad_q(self, log_u: ArrayLike) -> Array:
        """``f(u) − u f'(u)``: the gradient of ``q f(p/q)`` in q."""
        l = _floating(log_u)
        # An eighth of the largest number: sums and quotients of masses stay finite.
        top = math.log(float(jnp.finfo(l.dtype).max) / 8)
        o = Outcomes.of(jnp.where(l > top, top, l), jnp.zeros_like(l), l)
        return self.mass_grad(o._replace(log_p=l))

    def curvature(self, log_u: ArrayLike) -> Array:
        """``u² f''(u)``: the weight of the score difference in f-distill (its h)."""
        l = _floating(log_u)
        return -jax.jvp(self.grad_q, (l,), (jnp.ones_like(l),))[1]

    def term(
        self, log_p: ArrayLike, log_q: ArrayLike, log_u: ArrayLike | None = None
    ) -> Array:
        """``q f(p/q)`` of each outcome, with the limits where p or q is 0.

        Args:
          log_p: log-probabilities of the target, ``-inf`` allowed.
          log_q: log-probabilities of the model, same shape, ``-inf`` allowed.
          log_u: their difference, where the caller knows it more accurately.

        Returns:
          The terms, same shape; never negative, never NaN, ``+inf`` possible.
        """
        p_zero, q_zero, *safe = _split(log_p, log_q, log_u)
        return jnp.where(
            p_zero,
            jnp.where(q_zero, 0, _limit(jnp.asarray(log_q), self.at_zero)),
            jnp.where(
                q_zero,
                _limit(jnp.asarray(log_p), self.dual_at_zero),
                self.mass_term(Outcomes.of(*safe)),
            ),
        )


def _floating(log_u: ArrayLike) -> Array:
    """With the largest number in place of an infinity; a NaN stays one."""
    l = jnp.asarray(log_u)
    l = l.astype(jnp.result_type(l, float))
    most = jnp.finfo(l.dtype).max
    return jnp.clip(l, -most, most)


def _written_in_masses(divergence: FDivergence) -> bool:
    return type(divergence).mass_term is not FDivergence.mass_term


def _split(log_p, log_q, log_u):
    """Where p and q are 0, and finite stand-ins for the arguments there."""
    log_p, log_q = jnp.asarray(log_p), jnp.asarray(log_q)
    # Beside a NaN nothing is impossible: it would be hidden by the limit.
    nan = jnp.isnan(log_p) | jnp.isnan(log_q)
    p_zero, q_zero = (log_p == -jnp.inf) & ~nan, (log_q == -jnp.inf) & ~nan
    either = p_zero | q_zero
    log_p, log_q = jnp.where(either, 0, log_p), jnp.where(either, 0, log_q)
    log_u = log_p - log_q if log_u is None else jnp.where(either, 0, log_u)
    return p_zero, q_zero, log_p, log_q, log_u


class Symmetric(FDivergence):
    """A divergence that is its own dual."""

    @property
    def dual(self):
        return self


@generator
class Swapped(FDivergence):
    """The dual of `base`, for generators that do not name theirs."""

    base: FDivergence

    @property
    def dual(self):
        return self.base

    @property
    def limits_included(self):  # pyrefly: ignore[bad-override]
        return self.base.limits_included

    @property
    def smooth(self):  # pyrefly: ignore[bad-override]
        return self.base.smooth

    @property
    def at_zero(self):
        known = type(self.base).dual_at_zero is not FDivergence.dual_at_zero
        return self.base.dual_at_zero if known else super().at_zero

    def mass_term(self, outcomes):
        return self.base.mass_term(outcomes.swapped)

    def value(self, log_u):
        if _written_in_masses(self.base):
            return super().value(log_u)
        l = jnp.asarray(log_u)
        return jnp.exp(l) * self.base.value(-l)
