"""A divergence from the generator that a textbook prints, f(u) of the ratio itself.

A printed f loses its digits near ``u = 1``, where it is a difference of numbers near 1.
There two polynomials in ``log u`` take over, one for each side of 1: with the slopes s±
of f at 1, s their mean and k half their gap,

    f(u) − f(1) − s (u − 1) = k |u − 1| + (u − 1)² ∫₀¹ (1 − t) f''(1 + t (u − 1)) dt,

whose terms do not cancel. They are made once, in float64, and checked against f.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kljax.generators.base import FDivergence, generator
from kljax.typing import Array

_RADII = (0.3, 0.1, 0.03, 0.01)
"""Where the polynomials may end: the first at which they agree with f."""
_DEGREE = 10
_STEP = 2.0**-27
"""Slopes at 1 are read off so far beside it: a kink has two."""
_FARTHEST = (28.0, 150.0)
"""|log u|, float32 and float64, beyond which f is continued: u³ is still finite."""
_GRID = np.linspace(-15, 15, 241)
_SIZE = 512
"""How many u are looked at together, always: each operation is compiled once."""


def _static():
    return dataclasses.field(metadata={"static": True})


class _Tangent(NamedTuple):
    """Value at 1 and the mean of the slopes there."""

    level: float
    slope: float


class _Near(NamedTuple):
    """``kink |u − 1| + l² · polynomial(l)`` for ``|l| < radius``."""

    radius: float
    kink: float
    below: tuple[float, ...]
    above: tuple[float, ...]

    def __call__(self, l: Array) -> Array:
        below, total = l < 0, jnp.zeros_like(l)
        for left, right in zip(reversed(self.below), reversed(self.above)):
            total = total * l + jnp.where(below, left, right)
        return self.kink * jnp.abs(jnp.expm1(l)) + l * l * total


class _Tail(NamedTuple):
    """``A + B e^{rate·l}``, or a line where the rate is 0, below ``l = start``."""

    start: float
    level: float
    slope: float
    rate: float

    def __call__(self, l: Array) -> Array:
        lowest, highest = (getattr(jnp.finfo(l.dtype), x) for x in ("min", "max"))
        d = jnp.maximum(l, lowest) - self.start
        if self.rate:
            grown = jnp.minimum(self.rate * d, math.log(highest))
            d = jnp.expm1(grown) / self.rate
        return self.level + self.slope * d

    @property
    def limit(self) -> float:
        if self.slope == 0:
            return self.level
        return self.level - self.slope / self.rate if self.rate > 0 else math.inf


@generator
class Textbook(FDivergence):
    """``f(u)`` as printed, normalised to ``f(1) = f'(1) = 0``; see `from_generator`."""

    f: Callable[[Array], Array] = _static()
    near: _Near = _static()
    tangent: _Tangent = _static()
    tails: tuple[_Tail, _Tail] = _static()
    limit: float = _static()
    partner: "Textbook | None" = _static()

    @property
    def at_zero(self):
        return self.limit

    @property
    def dual(self):
        if self.partner is None:
            return super().dual
        return dataclasses.replace(self.partner, partner=self)

    def value(self, log_u):
        l = jnp.asarray(log_u)
        tail = self.tails[l.dtype == jnp.float64]
        close, deep = jnp.abs(l) < self.near.radius, l < tail.start
        far, (level, slope) = jnp.where(close | deep, 1, l), self.tangent
        printed = self.f(jnp.exp(far)) - level - slope * jnp.expm1(far)
        beyond = jnp.minimum(tail(jnp.where(deep, l, tail.start)), self.limit)
        within = self.near(jnp.where(close, l, 0))
        return jnp.where(close, within, jnp.where(deep, beyond, printed))


class _Probe:
    """f, f' and f'' at arrays of u, in float64, with complaints in words."""

    def __init__(self, name: str, f: Callable[[Array], Array]) -> None:
        self.name, self.f = name, f
        self._tails: dict[float, _Tail] = {}
        for shape in ((), (3,), (2, 3)):
            u = jax.ShapeDtypeStruct(shape, jnp.float64)
            found = self._call(lambda u: jax.eval_shape(f, u), u)
            if getattr(found, "shape", None) != shape or found.dtype != jnp.float64:
                raise ValueError(
                    f"{name} must return an array like u, {shape} of float64, got "
                    f"{found}"
                )
        self._check_convex()
        self.tangent, self.kink = self._at_one()

    def _call(self, function: Callable, u: Any) -> Any:
        try:
            return function(u)
        except (TypeError, ValueError, IndexError, NotImplementedError) as error:
            # JAX's own, where the user's f is of no use to it: said again in our words.
            raise ValueError(
                f"{self.name} must be made of jax.numpy operations on an array u, with "
                f"two derivatives: {str(error).splitlines()[0]}"
            ) from error

    def __call__(self, u: np.ndarray) -> np.ndarray:
        """f, elementwise."""
        return self._at(self.f, u)[0]

    def derivatives(self, u: np.ndarray) -> np.ndarray:
        """f, f' and f'', ``[3, n]``."""

        def first(u):
            value, slope = jax.value_and_grad(self.f)(u)
            return slope, value

        def both(u):
            (slope, value), second = jax.value_and_grad(first, has_aux=True)(u)
            return value, slope, second

        return self._at(both, u)

    def _at(self, function: Callable, u: np.ndarray) -> np.ndarray:
        full = jnp.asarray(np.pad(u, (0, _SIZE - len(u)), constant_values=1.5))
        with np.errstate(all="ignore"):
            found = self._call(jax.vmap(function), full)
            return np.asarray(np.atleast_2d(found))[:, : len(u)]

    def printed(self, l: np.ndarray) -> np.ndarray:
        return self._normalized(self(np.exp(l)), l)

    def _normalized(self, f: np.ndarray, l: np.ndarray) -> np.ndarray:
        level, slope = self.tangent
        return f - level - slope * np.expm1(l)

    def _check_convex(self) -> None:
        u = np.exp(_GRID)
        f = self(u)
        bad = np.isnan(f) | (f == -np.inf) | ~(np.isfinite(f) | (abs(_GRID) > 2))
        if bad.any():
            at = int(np.argmax(bad))
            raise ValueError(f"{self.name} must be finite, got {f[at]} at u = {u[at]}")
        # From large to small, or a function that sorts would pass.
        together = self._call(lambda u: np.asarray(self.f(u)), jnp.asarray(u[::-1]))
        with np.errstate(all="ignore"):
            rise = np.diff(f) / np.diff(u)
            rounding = 1e-9 * (1 + abs(f) + u) / np.gradient(u)
            falls = np.diff(rise) < -rounding[1:-1]
        if not np.allclose(f[::-1], together):
            raise ValueError(f"{self.name} must act on each element of u by itself")
        if falls.any():
            at = u[1:-1][falls][0]
            raise ValueError(f"{self.name} must be convex, is not near u = {at:.3g}")

    def _at_one(self) -> tuple[_Tangent, float]:
        """The tangent at 1, and half of the gap between the slopes there."""
        step = _STEP * np.array([-1.0, 1.0])
        f, first, second = self.derivatives(1 + np.append(step, 0))
        level, (left, right) = float(f[2]), first[:2] - step * second[:2]
        if not np.isfinite([level, left, right]).all():
            raise ValueError(
                f"{self.name} must be finite at u = 1, with slopes there; got value "
                f"{level} and slopes {left} and {right}"
            )
        slope, kink = float(left + right) / 2, float(right - left) / 2
        smooth = abs(kink) < 1e-9 * (1 + abs(slope))
        return _Tangent(level, slope), 0.0 if smooth else kink

    def near(self) -> _Near:
        for radius in _RADII:
            below, above = self._side(-radius), self._side(radius)
            if below is not None and above is not None:
                return _Near(radius, self.kink, below, above)
        raise ValueError(
            f"{self.name} is smooth neither at u = 1 nor on both sides of a corner "
            "there, so it cannot be evaluated near 1: derive a class from FDivergence "
            "and write its value"
        )

    def _side(self, end: float) -> tuple[float, ...] | None:
        """Coefficients between l = 0 and the end, if they give f."""
        l = end * (1 + np.polynomial.chebyshev.chebpts1(_DEGREE + 1)) / 2
        checked = end * np.linspace(0.03, 1, 14)
        bend, bend_there = self._bends(l, checked)
        fitted = np.polynomial.Chebyshev.fit(l, bend, _DEGREE, domain=sorted((0, end)))
        series = fitted.convert(kind=np.polynomial.Polynomial).coef
        series = np.pad(series, (0, _DEGREE + 1 - len(series)))
        l, bend = checked, bend_there
        found = np.polynomial.polynomial.polyval(l, series)
        scale = 1 + abs(self.tangent.level) + abs(self.tangent.slope) + self.kink
        fits = abs(found - bend) <= 1e-8 * np.max(abs(bend)) + 1e-12 * scale
        printed = self.printed(l)
        off = abs(self.kink * abs(np.expm1(l)) + l * l * found - printed)
        right = off <= 1e-7 * abs(printed) + 1e-10 * scale
        return tuple(series.tolist()) if (fits & right).all() else None

    def _bends(self, *points: np.ndarray) -> list[np.ndarray]:
        """``(u − 1)²/l² ∫₀¹ (1 − t) f''(1 + t (u − 1)) dt`` at each of them."""
        nodes, weights = np.polynomial.legendre.leggauss(16)
        t = (1 + nodes) / 2
        u = [1 + np.outer(np.expm1(l), t) for l in points]
        second = self.derivatives(np.concatenate(u).ravel())[2].reshape(-1, len(t))
        parts = np.split(second, np.cumsum([len(l) for l in points])[:-1])
        return [
            (np.expm1(l) / l) ** 2 * (part @ (weights / 2 * (1 - t)))
            for l, part in zip(points, parts)
        ]

    def tail(self, farthest: float) -> _Tail:
        if farthest not in self._tails:
            self._tails[farthest] = self._tail(farthest)
        return self._tails[farthest]

    def _tail(self, farthest: float) -> _Tail:
        l = -farthest * 0.8 ** np.arange(24)
        u = np.exp(l)
        with np.errstate(all="ignore"):
            f, first, second = self.derivatives(u)
            level = self._normalized(f, l)
            gap = first - self.tangent.slope
            rate = 1 + u * second / np.where(gap == 0, 1, gap)
        known = np.all(np.isfinite([level, gap, rate, second]), axis=0)
        # The farthest point of those up to which all is finite.
        i = int(np.argmax(np.cumprod(known[::-1])[::-1]))
        slope, rate = float(u[i] * gap[i]), float(rate[i])
        # Below this the slope is rounding, and its rate means nothing.
        slope = slope if abs(slope) > 1e-11 * (1 + abs(level[i])) else 0.0
        rate = rate if slope and abs(rate) > 1e-9 else 0.0
        return _Tail(float(l[i]), float(level[i]), slope, rate)

    def limit(self, name: str) -> float:
        """What the values tend to at 0, if two tails agree about it."""
        far = self.tail(_FARTHEST[1])
        limit, other = far.limit, self.tail(-far.start / 1.5).limit
        if limit == other or abs(limit - other) <= 1e-6 * (1 + abs(limit)):
            return limit
        raise ValueError(
            f"{name} must be given: f moves so slowly at that end that its limit "
            f"cannot be told from its values ({other:g} or {limit:g})"
        )

    def stated(self, name: str, limit: float) -> float:
        """A limit of the printed f, normalised."""
        (level, slope), least = self.tangent, self.tail(_FARTHEST[1]).level
        if not limit - level + slope >= least - 1e-6 * (1 + abs(least)):
            raise ValueError(
                f"{name} must be at least {least + level - slope:g}, which f comes to; "
                f"got {limit}"
            )
        return float(limit) - level + slope

    def made(self, name: str, limit: float | None) -> Textbook:
        tails = self.tail(_FARTHEST[0]), self.tail(_FARTHEST[1])
        limit = self.limit(name) if limit is None else self.stated(name, limit)
        return Textbook(self.f, self.near(), self.tangent, tails, limit, None)


def from_generator(
    f: Callable[[Array], Array],
    dual: Callable[[Array], Array] | None = None,
    *,
    at_zero: float | None = None,
    dual_at_zero: float | None = None,
) -> FDivergence:
    """A divergence from the textbook generator ``f(u)``, u the ratio itself.

    A class with `mass_term` is better, where the terms are known in closed form: it is
    exact at any ratio, and several times as fast.

    Args:
      f: convex, elementwise, of ``jax.numpy`` operations with two derivatives; need
        not be normalised. At 1 it is smooth or has a corner between sides that are, as
        ``|u − 1|`` and hinges have.
      dual: ``v f(1/v)``, used where u > 1. Without it the result is accurate for
        ``|log u| <= 15`` only.
      at_zero: ``lim f(u)`` at ``u = 0`` (``inf`` allowed); found numerically when left
        out.
      dual_at_zero: ``lim f(u)/u`` at infinity; found numerically when left out.

    Raises:
      ValueError: for an f that is none of this, such as ``|u − 1|**1.5``, a dual that
        is not f's, or a limit that must be given.

    Example:
      >>> import jax.numpy as jnp
      >>> f = from_generator(lambda u: u * jnp.log(u))
      >>> round(float(f.value(jnp.log(2.0))), 4)  # 2 log 2 - 1
      0.3863
    """
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        this = _Probe("f", f)
        other = _Probe("dual", dual or (lambda v: v * f(1 / v)))
        l = np.linspace(-3, 3, 13)
        want, got = np.exp(-l) * this.printed(l), other.printed(-l)
        if not np.allclose(want, got, rtol=1e-6, atol=1e-9):
            raise ValueError("dual must be v f(1/v), up to a multiple of v − 1")
        made = this.made("at_zero", at_zero)
        partner = other.made("dual_at_zero", dual_at_zero)
    return dataclasses.replace(made, partner=partner)
