"""Rows of logits as log-probabilities, for what is no f-divergence."""

import dataclasses

import jax
import jax.numpy as jnp

from kljax.kernels.logits import referenced
from kljax.typing import Array, Bool, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogProbabilities:
    """Both sides of a row, normalised, and their accurate log-ratio.

    Hugely negative, but finite, where an outcome is impossible; 0 in an empty row.
    """

    log_p: Float[Array, "*b v"]
    log_q: Float[Array, "*b v"]
    log_u: Float[Array, "*b v"]
    p_zero: Bool[Array, "*b v"]
    q_zero: Bool[Array, "*b v"]
    """No outcome is impossible in a row of NaN, and all its numbers are NaN."""
    empty: Bool[Array, "*b"]
    """Rows in which a side has no outcome."""
    p_logits: Float[Array, "*b v"]
    q_logits: Float[Array, "*b v"]
    """As they were given; 0 where an outcome is impossible."""
    sharpness: Float[Array, "*b 1"] | None


def log_probabilities(
    p_logits: Float[Array, "*b v"],
    q_logits: Float[Array, "*b v"],
    where: Bool[Array, "*b v"] | None = None,
    sharpness: Float[Array, "*b"] | None = None,
) -> LogProbabilities:
    """Both sides of each row of logits; arguments as in `kljax.kernels.logits`."""
    a, b = referenced.masked(p_logits, q_logits, where)
    if sharpness is not None:
        sharpness = jnp.broadcast_to(sharpness, a.shape[:-1])[..., None].astype(a.dtype)
    origin_p, origin_q, empty = referenced.origins(a, b)
    sides = referenced.sides(a, b, origin_p, origin_q, sharpness)
    e_p, e_q = jnp.exp(sides.a), jnp.exp(sides.b)
    z_p, z_q, gap = referenced.sums([e_p, e_q, e_q - e_p])
    unsound = referenced.unsound(z_p, z_q)
    empty &= ~unsound
    z_p, z_q, gap = (jnp.where(empty, 1, x) for x in (z_p, z_q, gap))
    z_q, shift = referenced.quotient(z_p, z_q, gap)
    log_zp, log_zq = _log_normalizer(sides.a), _log_normalizer(sides.b)
    if sharpness is not None:
        unsound |= jnp.isnan(sharpness)
    rows = referenced.outcomes(sides, log_zp, log_zq, shift)
    # A product, so that the gradient is NaN as well.
    fault = jnp.where(unsound, jnp.nan, 1)
    return LogProbabilities(
        jnp.where(empty, 0, rows.log_p * fault),
        jnp.where(empty, 0, rows.log_q * fault),
        jnp.where(empty, 0, rows.log_u * fault),
        sides.p_zero & ~unsound,
        sides.q_zero & ~unsound,
        empty[..., 0],
        jnp.where(sides.p_zero, 0, a),
        jnp.where(sides.q_zero, 0, b),
        sharpness,
    )


def _log_normalizer(side: Array) -> Array:
    """``log Σ e^x`` where one x is 0: a small sum of the others keeps its digits."""
    reference = _first_top(jnp.where(side == 0, 1.0, 0.0), side == 0)
    above = jnp.where(reference, jnp.expm1(side), jnp.exp(side))
    return jnp.log1p(jnp.sum(above, axis=-1, keepdims=True))


def cross_entropy_rows(p, q, where=None, sharpness=None) -> Array:
    """``−Σ p log q`` of each row; 0 where a side is empty."""
    rows = log_probabilities(p, q, where, sharpness)
    either = rows.p_zero | rows.q_zero
    terms = -jnp.exp(rows.log_p) * jnp.where(either, 0, rows.log_q)
    missing = jnp.any(rows.q_zero & ~rows.p_zero, axis=-1)
    total = referenced.within(jnp.sum(terms, axis=-1))
    return _settled(jnp.where(missing, jnp.inf, total), rows.empty)


def renyi_rows(p, q, where, sharpness, alpha, amari) -> Array:
    """Rényi's divergence of each row, from Amari's of the same order."""
    # log1p(α(α−1) D_α) keeps the digits of small values.
    x = jnp.where(alpha == 1, 0, alpha * (alpha - 1) * amari)
    small = jnp.abs(x) < 0.5
    near = jnp.where(small, x, 0)
    factor = jnp.where(
        jnp.abs(near) < 1e-4,
        1 - near / 2,
        jnp.log1p(near) / jnp.where(near == 0, 1, near),
    )
    close = alpha * jnp.where(small, amari, 0) * factor
    rows = log_probabilities(p, q, where, sharpness)
    joint = ~rows.p_zero & ~rows.q_zero
    lone = ~jnp.any(joint, axis=-1)
    excess = jnp.where(alpha == 1, 1, alpha - 1)
    far = _power_mean(rows, joint & ~(small | lone)[..., None], excess)
    missing = jnp.any(rows.q_zero & ~rows.p_zero, axis=-1) & (alpha >= 1)
    value = jnp.where(small, close, jnp.where(lone, jnp.inf, far))
    value = jnp.where(missing, jnp.inf, jnp.where(value < 0, 0, value))
    return _settled(value, rows.empty)


def _power_mean(rows: LogProbabilities, joint: Array, excess: Array) -> Array:
    """``log(Σ p (p/q)^(α−1))/(α−1)`` over the joint outcomes, α − 1 the `excess`.

    A logarithm of the sum itself would overflow before it is divided by ``α − 1``.
    """
    excess = excess[..., None]
    t = referenced.within(rows.log_u + rows.log_p / excess)

    def from_top(at_top):
        a, b = _from_top(rows, at_top, joint)
        return a + excess * referenced.within(a - b)

    at_top, power = _refined(from_top, jnp.where(excess > 0, t, -t), joint)
    return _at(t, at_top)[..., 0] + _log_sum(power) / excess[..., 0]


def _refined(from_top, start: Array, joint: Array) -> tuple[Array, Array]:
    """The outcome at which a power is largest, and the power measured from there.

    Huge numbers tie at first; measured from one of them they differ.
    """
    at_top = _first_top(start, joint)
    at_top = _first_top(from_top(at_top), joint)
    return at_top, jnp.where(joint, from_top(at_top), -jnp.inf)


def _first_top(x: Array, among: Array) -> Array:
    """Where `x` is largest among some outcomes; nowhere if there are none."""
    top = jnp.argmax(jnp.where(among, x, -jnp.inf), axis=-1, keepdims=True)
    return (jnp.arange(x.shape[-1]) == top) & among


def _at(x: Array, one: Array) -> Array:
    return jnp.sum(jnp.where(one, x, 0), axis=-1, keepdims=True)


def _from_top(rows: LogProbabilities, at_top: Array, joint: Array) -> list[Array]:
    """Both sides measured from one outcome: exact among those like it.

    Outcomes that count may have logits of -1e4, and logarithms no better than 1e-3.
    """
    scale = 1 if rows.sharpness is None else rows.sharpness
    sides = rows.p_logits, rows.q_logits
    return [
        referenced.within(jnp.where(joint, x - _at(x, at_top), 0) * scale)
        for x in sides
    ]


def _log_sum(power: Array) -> Array:
    """``log Σ e^power`` of what is not above 0 by much; 0 where all is ``-inf``."""
    none = jnp.all(power == -jnp.inf, axis=-1)
    total = jnp.sum(jnp.exp(power), axis=-1)
    return jnp.log(jnp.where(none, 1, total))


def cauchy_schwarz_rows(p, q, where=None, sharpness=None) -> Array:
    """``log(Σp² Σq² / (Σpq)²)`` of each row; 0 where a side is empty."""
    rows = log_probabilities(p, q, where, sharpness)
    log_p, log_q = rows.log_p, rows.log_q
    joint = ~rows.p_zero & ~rows.q_zero
    none = ~jnp.any(joint, axis=-1)
    # With weights p²/Σp² the value is log(1 + Var(q/p)/E(q/p)²): nothing cancels.
    log_p2 = jax.nn.logsumexp(2 * log_p, axis=-1, keepdims=True)
    weight = jnp.exp(2 * log_p - log_p2)
    # Where the target has next to nothing, q² alone counts.
    lone = ~rows.q_zero & (rows.p_zero | (rows.log_u < -30))
    near = jnp.where(lone | ~joint, 0, jnp.exp(-jnp.where(lone, 0, rows.log_u)))
    mean = jnp.sum(weight * near, axis=-1, keepdims=True)
    variance = jnp.sum(weight * (near - mean) ** 2, axis=-1)
    outside = jnp.sum(jnp.where(lone, jnp.exp(2 * log_q - log_p2), 0), axis=-1)
    square = mean[..., 0] ** 2
    tiny = square < jnp.finfo(square.dtype).tiny
    small = jnp.log1p((variance + outside) / jnp.where(tiny, 1, square))
    close = (small < 0.5) & ~tiny

    cross = referenced.within(log_p + log_q)
    at_top, power = _refined(lambda at: sum(_from_top(rows, at, joint)), cross, joint)
    products = _at(cross, at_top)[..., 0] + _log_sum(power)
    q_squares = jax.nn.logsumexp(2 * log_q, axis=-1)
    large = log_p2[..., 0] + q_squares - 2 * products
    value = jnp.where(close, small, jnp.where(large < 0, 0, large))
    return _settled(jnp.where(none, jnp.inf, value), rows.empty)


def _settled(value: Array, empty: Array) -> Array:
    """0 of an empty row; no gradient of either that or an infinite one."""
    return jnp.where(empty, 0, jnp.where(value == jnp.inf, jnp.inf, value))
