"""Divergences that are functions of a few sums over a row: one pass over the outcomes.

The sums are taken in units of a reference outcome, in which the two sides nearly agree
where they nearly agree at all; a value near 0 is built from terms that are small
themselves, never from a difference of large ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from kljax.generators import accurate as el
from kljax.typing import Array


class Unit(NamedTuple):
    """Outcomes in units of a reference: ``p = e_p/Σ e_p``, ``q = e_q/Σ e_q``.

    An outcome that a side lacks is 0 there, and `d` is huge if one side alone does.
    """

    e_p: Array
    e_q: Array
    d: Array
    """``log p − log q`` but for a constant of the row."""
    excess: Array
    """``e_q − e_p``, accurate near ``d = 0``."""
    p_missing: Array
    q_missing: Array
    """Outcomes of the one side that the other lacks."""


class OnePass(NamedTuple):
    """How `D` follows from sums over a row of `Unit`s."""

    summands: Callable[[Unit], tuple[Array, ...]]
    value: Callable[..., Array]
    """``(z_p, z_q, x, rise, *sums)`` to ``D``.

    `x` is the accurate ``z_q/z_p − 1``, `rise` the logarithm of ``z_q/z_p``.
    """


def _kl_summands(unit: Unit) -> tuple[Array, ...]:
    # e_p φ(−d); an outcome that the target lacks counts with the model's mass, as the
    # expanded form has it.
    far = unit.e_q + unit.e_p * (unit.d - 1)
    gap = el.phi_of_mass(unit.e_p, -unit.d, far)
    return jnp.where(unit.q_missing, jnp.inf, gap), unit.e_p * unit.d


def _kl_value(z_p, z_q, x, rise, gap, slope):
    small = jnp.abs(x) < 0.5
    close = gap / z_p + el.log1p_rest(jnp.where(small, x, 0))
    direct = slope / z_p + rise
    value = jnp.where(small, close, direct)
    # Unlike a maximum, these let a NaN through.
    value = jnp.where(value < 0, 0, value)
    return jnp.where(gap == jnp.inf, jnp.inf, value)


def _jeffreys_summands(unit: Unit) -> tuple[Array, ...]:
    cross = -unit.excess * unit.d
    cross = jnp.where(unit.p_missing | unit.q_missing, jnp.inf, cross)
    return cross, unit.e_p * unit.d, unit.e_q * unit.d


def _jeffreys_value(z_p, z_q, x, rise, cross, p_slope, q_slope):
    small = jnp.abs(x) < 0.5
    close = (cross + jnp.where(small, x, 0) * p_slope) / z_q
    value = jnp.where(small, close, p_slope / z_p - q_slope / z_q)
    value = jnp.where(value < 0, 0, value)
    return jnp.where(cross == jnp.inf, jnp.inf, value)


FORWARD_KL = OnePass(_kl_summands, _kl_value)
JEFFREYS = OnePass(_jeffreys_summands, _jeffreys_value)
