"""Divergences that are functions of a few sums over a row: one pass over the outcomes.

The sums are taken in units of a reference outcome, in which the two sides nearly agree
where they nearly agree at all; a value near 0 is built from terms that are small
themselves, never from a difference of large ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from kljax import elementary as el
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
    """``e_q − level·e_p``, accurate near ``d = 0``."""
    level: Array
    """1; less in a row whose `e_q` had to be scaled down, by this factor."""
    p_missing: Array
    q_missing: Array
    """Outcomes of the one side that the other lacks."""


class OnePass(NamedTuple):
    """How `D` follows from sums over a row of `Unit`s."""

    summands: Callable[[Unit], tuple[Array, ...]]
    value: Callable[..., tuple[Array, Array]]
    """``(z_p, z_q, lift, *sums)`` to ``D`` and ``Σ q/Σ p − 1`` in these units.

    `lift` is the logarithm of ``1/level``. The latter result is used below ½ in size.
    """


def ratio_excess(excess: Array, z_p: Array, lift: Array) -> Array:
    """``z_q/z_p − 1`` from the summed excess; huge in a scaled row."""
    return jnp.where(lift > 0, jnp.inf, excess / z_p)


def _kl_summands(unit: Unit) -> tuple[Array, ...]:
    # e_p φ(−d); an outcome that the target lacks counts with the model's mass, as the
    # expanded form has it.
    far = unit.e_q + unit.e_p * (unit.d - unit.level)
    gap = el.phi_of_mass(unit.e_p, -unit.d, far)
    slope = unit.e_p * unit.d
    return jnp.where(unit.q_missing, jnp.inf, gap), slope


def _kl_value(z_p, z_q, lift, gap, slope):
    infinite = gap == jnp.inf
    g, s = jnp.where(infinite, 0, gap) / z_p, slope / z_p
    x = ratio_excess(jnp.where(infinite, 0, gap) - slope, z_p, lift)
    small = jnp.abs(x) < 0.5
    close = g + el.log1p_rest(jnp.where(small, x, 0))
    direct = s + jnp.log(z_q) - jnp.log(z_p) + lift
    value = jnp.maximum(jnp.where(small, close, direct), 0)
    return jnp.where(infinite, jnp.inf, value), x


def _jeffreys_summands(unit: Unit) -> tuple[Array, ...]:
    cross = -unit.excess * unit.d
    cross = jnp.where(unit.p_missing | unit.q_missing, jnp.inf, cross)
    return unit.excess, cross, unit.e_p * unit.d, unit.e_q * unit.d


def _jeffreys_value(z_p, z_q, lift, excess, cross, p_slope, q_slope):
    infinite = cross == jnp.inf
    x = ratio_excess(excess, z_p, lift)
    small = jnp.abs(x) < 0.5
    close = (jnp.where(infinite, 0, cross) + jnp.where(small, x, 0) * p_slope) / z_q
    value = jnp.maximum(jnp.where(small, close, p_slope / z_p - q_slope / z_q), 0)
    return jnp.where(infinite, jnp.inf, value), x


FORWARD_KL = OnePass(_kl_summands, _kl_value)
JEFFREYS = OnePass(_jeffreys_summands, _jeffreys_value)
