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
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, dataclass_transform

import jax
import jax.numpy as jnp

from kljax.generators.one_pass import OnePass
from kljax.typing import Array, ArrayLike

INF = math.inf


class Moments(NamedTuple):
    """``D = closed_form(w)`` with ``w = log Σ p^alpha q^(1 − alpha)``."""

    alpha: Any
    closed_form: Callable[[Array], Array]


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


def check_range(name: str, value: Any, low: float, high: float, closed: str) -> None:
    """Raise for a Python number outside its range; let arrays and tracers through."""
    if not isinstance(value, (int, float)):
        return
    x = float(value)
    above = x >= low if "[" in closed else x > low
    below = x <= high if "]" in closed else x < high
    if not (above and below):
        bounds = f"{closed[0]}{low}, {high}{closed[-1]}"
        raise ValueError(f"{name} must lie in {bounds}, got {value!r}")


def _limit(log_mass: Array, bound: Any) -> Array:
    """``mass · bound``; infinity, whatever the mass, where the bound is infinite."""
    infinite = jnp.isinf(bound)
    return jnp.where(
        infinite, jnp.inf, jnp.exp(log_mass) * jnp.where(infinite, 0.0, bound)
    )


@generator
class FDivergence:
    """Base of the generators: derives from `value` what an author does not write."""

    moments: ClassVar[Any] = None
    """One-pass form, where ``D`` is a function of one sum of powers (`Moments`)."""

    one_pass: ClassVar[OnePass | None] = None
    """One-pass form in other sums; that of `dual` serves as well."""

    centered: ClassVar[bool] = False
    """Whether ``Σ q grad_q`` is 0 whatever p and q."""

    limits_included: ClassVar[bool] = False
    """Whether `mass_term` and `mass_grad` hold where a mass is 0.

    There `log_u` is -1e30 or 1e30, 0 if both masses are; infinite limits are left to
    the caller.
    """

    @staticmethod
    def from_generator(
        f: Callable[[Array], Array],
        dual: Callable[[Array], Array] | None = None,
        *,
        at_zero: float | None = None,
        dual_at_zero: float | None = None,
    ) -> "FDivergence":
        """A divergence from the textbook generator ``f(u)``, u the ratio itself.

        Args:
          f: convex, elementwise, of ``jax.numpy`` operations with two derivatives;
            need not be normalised. At 1 it is smooth or has a corner between sides
            that are, as ``|u − 1|`` and hinges have.
          dual: ``v f(1/v)``, used where u > 1. Without it the result is accurate for
            ``|log u| <= 15`` only.
          at_zero: ``lim f(u)`` at ``u = 0`` (``inf`` allowed); found numerically
            when left out.
          dual_at_zero: ``lim f(u)/u`` at infinity; found numerically when left out.

        Raises:
          ValueError: for an f that is none of this, such as ``|u − 1|**1.5``, a dual
            that is not f's, or a limit that must be given.

        Example:
          >>> import jax.numpy as jnp
          >>> f = FDivergence.from_generator(lambda u: u * jnp.log(u))
          >>> round(float(f.value(jnp.log(2.0))), 4)  # 2 log 2 - 1
          0.3863
        """
        from kljax.generators.textbook import textbook

        return textbook(f, dual, at_zero, dual_at_zero)

    def value(self, log_u: ArrayLike) -> Array:
        """``f(u)``."""
        raise TypeError(f"{type(self).__name__} must define value(log_u)")

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
        l = jnp.asarray(log_u)
        return jax.jvp(self.value, (l,), (jnp.ones_like(l),))[1]

    def grad_p(self, log_u: ArrayLike) -> Array:
        """``f'(u)``: the gradient of ``q f(p/q)`` in p."""
        l = jnp.asarray(log_u)
        low, high = jnp.minimum(l, 0), jnp.maximum(l, 0)
        rising = self.dual.value(-high) - self.dual.slope(-high)
        return jnp.where(l <= 0, self.slope(low) * jnp.exp(-low), rising)

    def grad_q(self, log_u: ArrayLike) -> Array:
        """``f(u) − u f'(u)``: the gradient of ``q f(p/q)`` in q."""
        l = jnp.asarray(log_u)
        low, high = jnp.minimum(l, 0), jnp.maximum(l, 0)
        falling = self.value(low) - self.slope(low)
        return jnp.where(l <= 0, falling, self.dual.slope(-high) * jnp.exp(high))

    def curvature(self, log_u: ArrayLike) -> Array:
        """``u² f''(u)``: the weight of the score difference in f-distill (its h)."""
        l = jnp.asarray(log_u)
        slope, second = jax.jvp(self.slope, (l,), (jnp.ones_like(l),))
        return second - slope

    def conjugate(self, t: ArrayLike) -> Array:
        """``f*(t) = sup over u >= 0 of u t − f(u)``; +inf outside its domain.

        By bisection of ``f'(u) = t`` where a divergence has no elementary form;
        its derivative is the maximising u.
        """
        return _conjugate(self, jnp.asarray(t))

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
                self.interior(*safe),
            ),
        )

    def grad_term(
        self, log_p: ArrayLike, log_q: ArrayLike, log_u: ArrayLike | None = None
    ) -> Array:
        """``q · grad_q`` of each outcome, with its limits; arguments as in `term`.

        The gradient in the model's logits is this minus q times its sum. That in
        the target's is ``dual.grad_term(log_q, log_p)`` likewise.
        """
        p_zero, q_zero, *safe = _split(log_p, log_q, log_u)
        at_zero = jnp.where(jnp.isinf(self.at_zero), 0.0, self.at_zero)
        mass = jnp.where(q_zero, 0, jnp.exp(jnp.asarray(log_q)))
        return jnp.where(
            p_zero | q_zero,
            jnp.where(p_zero, mass * at_zero, 0),
            self.grad_interior(*safe),
        )

    def interior(self, log_p: Array, log_q: Array, log_u: Array) -> Array:
        """``q f(p/q)`` for positive p and q, from the stable half on either side."""
        below = jnp.exp(log_q) * self.value(jnp.minimum(log_u, 0))
        above = jnp.exp(log_p) * self.dual.value(jnp.minimum(-log_u, 0))
        return jnp.where(log_u <= 0, below, above)

    def grad_interior(self, log_p: Array, log_q: Array, log_u: Array) -> Array:
        """``q (f − u f')`` for positive p and q, from the stable halves."""
        low, high = jnp.minimum(log_u, 0), jnp.minimum(-log_u, 0)
        below = jnp.exp(log_q) * self.grad_q(low)
        return jnp.where(log_u <= 0, below, jnp.exp(log_p) * self.dual.slope(high))

    def mass_term(self, outcomes: Outcomes) -> Array:
        """`interior` where the masses are known: worth writing if it saves an `exp`."""
        return self.interior(outcomes.log_p, outcomes.log_q, outcomes.log_u)

    def mass_grad(self, outcomes: Outcomes) -> Array:
        """`grad_interior` where the masses are known."""
        return self.grad_interior(outcomes.log_p, outcomes.log_q, outcomes.log_u)


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


@jax.custom_jvp
def _conjugate(divergence: FDivergence, t: Array) -> Array:
    l = _solve_slope(divergence, t)
    at_zero = jnp.asarray(divergence.at_zero, t.dtype)
    top = jnp.asarray(divergence.dual_at_zero, t.dtype)
    inside = -divergence.grad_q(l)
    return jnp.where(t >= top, INF, jnp.where(l <= -60, -at_zero, inside))


@_conjugate.defjvp
def _conjugate_jvp(primals, tangents):
    divergence, t = primals
    l = _solve_slope(divergence, t)
    top = jnp.asarray(divergence.dual_at_zero, t.dtype)
    u = jnp.where((t >= top) | (l <= -60), 0, jnp.exp(l))
    return _conjugate(divergence, t), u * tangents[1]


def _solve_slope(divergence: FDivergence, t: Array) -> Array:
    """The log-ratio at which ``f'(u) = t``, clipped to ±60."""

    def halve(_, bracket):
        low, high = bracket
        mid = (low + high) / 2
        below = divergence.grad_p(mid) < t
        return jnp.where(below, mid, low), jnp.where(below, high, mid)

    ends = jnp.full_like(t, -60.0), jnp.full_like(t, 60.0)
    low, high = jax.lax.fori_loop(0, 64, halve, ends)
    return (low + high) / 2


@generator
class Swapped(FDivergence):
    """The dual of `base`, for generators that do not name theirs."""

    base: FDivergence

    @property
    def dual(self):
        return self.base

    def value(self, log_u):
        l = jnp.asarray(log_u)
        return jnp.exp(l) * self.base.value(-l)
