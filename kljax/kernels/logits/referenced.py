"""Both sides of a row of logits measured from origins of their own.

A side's first origin is its maximum: masses and normalisers follow from it. The model's
is then moved to where outcomes have log-ratio 0, and the log-ratio is computed afresh
from the logits: it is as accurate as it is small, wherever the two maxima lie.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kljax.generators import Outcomes, quick
from kljax.typing import Array, ArrayLike, Bool, Float


class Origins(NamedTuple):
    """From where a row is measured; ``[*b, 1]``. No gradient passes through."""

    p: Array
    q: Array
    empty: Array
    """Whether a side has no outcome, unless a NaN is one: a maximum may miss it."""


class Sides(NamedTuple):
    """Both sides of a row in units of the reference; ``[*b, v]``."""

    a: Array
    b: Array
    d: Array
    """Their difference, huge where one side is impossible."""
    p_zero: Array
    q_zero: Array


def masked(
    p_logits: Float[Array, "*b v"],
    q_logits: Float[Array, "*b v"],
    where: Bool[Array, "*b v"] | None,
) -> tuple[Float[Array, "*b v"], Float[Array, "*b v"]]:
    """Both sides in one precision, at least float32, `-inf` where `where` is false."""
    dtype = jnp.promote_types(p_logits.dtype, q_logits.dtype)
    dtype = jnp.promote_types(dtype, jnp.float32)
    a, b = p_logits.astype(dtype), q_logits.astype(dtype)
    if where is None:
        return a, b
    return jnp.where(where, a, -jnp.inf), jnp.where(where, b, -jnp.inf)


def once(*rows: Array) -> list[Array]:
    """Numbers of a row, which a CPU is not to compute again for each outcome."""
    return jax.lax.platform_dependent(
        list(rows), cpu=jax.lax.optimization_barrier, default=lambda x: x
    )


def stored(x: Array, masses: Array) -> Array:
    """`x`, stored on a CPU, which would compute it in each loop that reads it.

    But not what ends in a division: here by 1, of masses within [0, 1].
    """
    return jax.lax.platform_dependent(
        x, masses, cpu=lambda x, m: x / (1 + 0 * m), default=lambda x, m: x
    )


def origins(a: Array, b: Array, axis: str | None = None) -> Origins:
    """The maximum of each side.

    By maxima alone: an argmax is slow on a CPU, and a gather does not shard.
    """
    lowest = jnp.asarray(-jnp.inf, a.dtype)
    # Both in one loop.
    tops = jax.lax.reduce(
        jax.lax.stop_gradient((a, b)),
        (lowest, lowest),
        lambda x, y: tuple(map(jnp.maximum, x, y)),
        (a.ndim - 1,),
    )
    if axis is not None:
        tops = jax.lax.pmax(jnp.stack(tops), axis)
    top, q_top = tops = [x[..., None] for x in tops]
    empty = (top == -jnp.inf) | (q_top == -jnp.inf)
    found = (jnp.where(jnp.isfinite(x), x, 0) for x in tops)
    return Origins(*once(*found, empty))


def _half_difference(a: Array, b: Array) -> tuple[Array, Array]:
    """``(a − b)/2`` and its rounding error (Knuth); halves do not overflow."""
    a, b = a / 2, b / 2
    h = a - b
    t = h - a
    return h, (a - (h - t)) - (b + t)


def within(x: Array) -> Array:
    """The largest number in place of an infinity; a NaN stays one."""
    most = jnp.finfo(x.dtype).max
    return jnp.where(x < -most, -most, jnp.where(x > most, most, x))


def offset(x: Array, origin: Array) -> Array:
    """``x − origin``, 0 where `x` is impossible."""
    return jnp.where(x == -jnp.inf, 0, x - origin)


def from_origin(x: Array, origin: Array, sharpness: Array | None) -> Array:
    """A side measured from its origin, times the sharpness; ``-inf`` stays."""
    x, lost = x - origin, x == -jnp.inf
    if sharpness is None:
        return x
    return jnp.where(lost, -jnp.inf, jnp.where(lost, 0, x) * sharpness)


def sides(
    a: Array, b: Array, origin_p: Array, origin_q: Array, sharpness: Array | None
) -> Sides:
    """Both sides as `Sides`, times the sharpness ``[*b, 1]``."""
    most = jnp.finfo(a.dtype).max
    p_zero, q_zero = a == -jnp.inf, b == -jnp.inf
    high, low = _half_difference(a, b)
    high_0, low_0 = _half_difference(origin_p, origin_q)
    d = 2 * ((high - high_0) + (low - low_0))
    if sharpness is not None:
        d = within(jnp.where(p_zero | q_zero, 0, d)) * sharpness
    # Largest numbers and no infinities: no difference of two is then a NaN.
    lone_p, lone_q = jnp.where(q_zero, most, d), jnp.where(q_zero, 0, -most)
    d = jnp.where(p_zero, lone_q, lone_p)
    side_p = from_origin(a, origin_p, sharpness)
    side_q = from_origin(b, origin_q, sharpness)
    return Sides(within(side_p), within(side_q), within(d), p_zero, q_zero)


def sums(parts: list[Array], axis: str | None = None) -> list[Array]:
    """Over each row; one exchange where outcomes are split over devices."""
    found = [jnp.sum(x, axis=-1, keepdims=True) for x in parts]
    return found if axis is None else list(jax.lax.psum(found, axis))


def unsound(z_p: Array, z_q: Array) -> Array:
    """Whether a logit of the row that counts is NaN or ``+inf``, from the masses."""
    return ~((z_p < jnp.inf) & (z_q < jnp.inf))


def quotient(z_p: Array, z_q: Array, gap: Array) -> tuple[Array, Array]:
    """The model's normaliser and ``log(z_q/z_p)``, from ``gap = z_q − z_p`` as well.

    The two agree to all digits, or else outcomes of which the masses count and those of
    which the log-ratio counts would not balance.
    """
    x = gap / z_p
    small = jnp.abs(x) < 0.5
    # The logarithm of the quotient: either is large where outcomes are many.
    far = jnp.log(z_q / z_p)
    shift = jnp.where(small, jnp.log1p(jnp.where(small, x, 0)), far)
    return jnp.where(small, z_p + gap, z_q), shift


def moved(origin: Array, shift: Array, sharpness: Array | None) -> tuple[Array, Array]:
    """The model's origin where the log-ratio is about 0, and what is left of it."""
    change = shift if sharpness is None else shift / sharpness
    change = jnp.where(jnp.isfinite(change), change, 0)
    new = origin + change
    # The rounding error of this sum (Knuth).
    change_then = new - origin
    rest = (origin - (new - change_then)) + (change - change_then)
    if sharpness is None:
        return new, rest
    return new, jnp.where(change == 0, shift, rest * sharpness)


def outcomes(sides: Sides, log_zp, log_zq, shift, p=None, q=None) -> Outcomes:
    """What the generators take; `p` and `q` are the masses, if they are known."""
    log_p, log_q, log_u = sides.a - log_zp, sides.b - log_zq, sides.d + shift
    p = quick.exp(log_p) if p is None else p
    q = quick.exp(log_q) if q is None else q
    return Outcomes.of(log_p, log_q, log_u, p, q)


def sharpness_of(temperature: ArrayLike, *like: Array) -> Array:
    """One over the temperature; NaN if that is not positive, and largest at 0.

    So steep that its own derivative overflows, it has none.
    """
    t = jnp.asarray(temperature)
    t = t.astype(jnp.result_type(*like, jnp.float32))
    steep = jnp.where((t > 0) & (t < 1e-18), jax.lax.stop_gradient(t), t)
    finite = jnp.minimum(1 / steep, jnp.finfo(t.dtype).max)
    return finite * jnp.where(t > 0, 1, jnp.nan)
