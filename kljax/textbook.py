"""A divergence from the generator that a textbook prints, f(u) of the ratio itself.

A printed f loses its digits near ``u = 1``, where it is a difference of numbers near 1.
There its Taylor series in ``log u`` takes over, built once, in float64.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import jet

from kljax.fdivergence import FDivergence, generator
from kljax.typing import Array

_ORDER = 16
_FAR, _FARTHER = 300.0, 600.0


def _static():
    return dataclasses.field(metadata={"static": True})


@generator
class Textbook(FDivergence):
    """``f(u)`` as printed, normalised to ``f(1) = f'(1) = 0``; see `from_generator`."""

    f: Callable[[Array], Array] = _static()
    series: tuple[float, ...] = _static()
    constants: tuple[float, float] = _static()
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
        near = jnp.abs(l) < 0.3
        x = jnp.where(near, l, 0)
        total = jnp.zeros_like(x)
        for coefficient in reversed(self.series):
            total = total * x + coefficient
        level, slope = self.constants
        far = jnp.where(near, 1, l)
        printed = self.f(jnp.exp(far)) - level - slope * jnp.expm1(far)
        return jnp.where(near, x * x * total, printed)


def _build(f, at_zero: float | None) -> Textbook:
    with jax.enable_x64(True):
        one, zero = jnp.ones(()), jnp.zeros(())
        unit = [one, *([zero] * (_ORDER - 1))]
        try:
            level, terms = jet.jet(lambda l: f(jnp.exp(l)), (zero,), (unit,))
        except (NotImplementedError, KeyError) as error:
            raise ValueError(
                "f must be made of operations that have a Taylor rule (arithmetic, "
                f"exp, log, powers, tanh): {error}"
            ) from error
        level, slope = float(level), float(terms[0])
        # Derivative k of f(e^l) − level − slope (e^l − 1), over k!.
        series = tuple(
            (float(term) - slope) / math.factorial(k)
            for k, term in enumerate(terms[1:], start=2)
        )
        if at_zero is None:
            far, farther = (float(f(jnp.exp(-l))) for l in (_FAR, _FARTHER))
            growing = not np.isfinite(farther) or abs(farther - far) > 1e-3
            at_zero = math.inf if growing else farther - level + slope
        else:
            at_zero = float(at_zero) - level + slope
    return Textbook(f, series, (level, slope), at_zero, None)


def textbook(
    f: Callable[[Array], Array],
    dual: Callable[[Array], Array] | None,
    at_zero: float | None,
    dual_at_zero: float | None,
) -> Textbook:
    """The object behind `FDivergence.from_generator`; arguments as there."""
    swapped = dual or (lambda v: v * f(1 / v))
    partner = _build(swapped, dual_at_zero)
    return dataclasses.replace(_build(f, at_zero), partner=partner)
