"""Both sides of a row of logits measured from the target's mode.

With ``d = a − b`` of the logits shifted by their values there, ``log u = d +
log(Z_q/Z_p)``, and the small number ``Z_q/Z_p − 1 = E_p[e^{−d} − 1]`` is computed as
such: two separately normalised arrays would cancel. Where the model has next to nothing
at the target's mode the two cannot agree, and each is measured from its own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kljax.generators import Outcomes
from kljax.generators import accurate as el
from kljax.generators.one_pass import Unit
from kljax.typing import Array, ArrayLike, Bool, Float

FAR = 20.0
"""A model further below its maximum than this has next to nothing at an outcome."""


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
    """``a − b``, huge where one side is impossible, 0 where both are."""
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


def origins(
    a: Array, b: Array, sharpness: Array | None, axis: str | None = None
) -> Origins:
    """The target's mode; each side's own maximum where the model lacks that outcome.

    By maxima alone: an argmax is slow on a CPU, and a gather does not shard.
    """
    top = jnp.max(a, axis=-1, keepdims=True)
    at_top = jnp.max(jnp.where(a == top, b, -jnp.inf), axis=-1, keepdims=True)
    q_top = jnp.max(b, axis=-1, keepdims=True)
    if axis is not None:
        tops = jax.lax.all_gather(jnp.stack([top, at_top, q_top]), axis)
        tops, there, q_tops = jnp.moveaxis(tops, 1, 0)
        top, q_top = jnp.max(tops, axis=0), jnp.max(q_tops, axis=0)
        at_top = jnp.max(jnp.where(tops == top, there, -jnp.inf), axis=0)
    empty = (top == -jnp.inf) | (q_top == -jnp.inf)
    gap = (q_top - at_top) * (1 if sharpness is None else sharpness)
    origin_q = jnp.where(gap <= FAR, at_top, q_top)
    found = (jnp.where(jnp.isfinite(x), x, 0) for x in (top, origin_q))
    found = (*map(jax.lax.stop_gradient, found), empty)
    # Numbers of a row are computed once, not again for each of its outcomes.
    return Origins(*jax.lax.optimization_barrier(found))


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


def _beyond(dtype) -> float:
    """The largest difference of two logits: it is exceeded where one side lacks one."""
    return float(np.nextafter(jnp.finfo(dtype).max, dtype.type(0)))


def sides(
    a: Array, b: Array, origin_p: Array, origin_q: Array, sharpness: Array | None
) -> Sides:
    """Both sides as `Sides`, times the sharpness ``[*b, 1]``."""
    most = jnp.finfo(a.dtype).max
    p_zero, q_zero = a == -jnp.inf, b == -jnp.inf
    high, low = _half_difference(a, b)
    high_0, low_0 = _half_difference(origin_p, origin_q)
    d = 2 * ((high - high_0) + (low - low_0))
    a, b = a - origin_p, b - origin_q
    if sharpness is not None:
        steep = (p_zero, a), (q_zero, b), (p_zero | q_zero, d)
        a, b, d = (jnp.where(zero, 0, x) * sharpness for zero, x in steep)
        a, b = within(a), within(b)
    # Largest numbers and no infinities: no difference of two is then a NaN.
    a, b = jnp.where(p_zero, -most, a), jnp.where(q_zero, -most, b)
    finite = _beyond(d.dtype)
    d = jnp.clip(d, -finite, finite)
    lone_p, lone_q = jnp.where(q_zero, most, d), jnp.where(q_zero, 0, -most)
    d = jnp.where(p_zero, lone_q, lone_p)
    return Sides(a, b, d, p_zero, q_zero)


def unit(sides: Sides) -> Unit:
    """Masses in units of the reference."""
    d, beyond = sides.d, _beyond(sides.d.dtype)
    e_p, e_q = jnp.exp(sides.a), jnp.exp(sides.b)
    near = jnp.abs(d) < el.NEAR
    close = e_p * el.expm1_near(-jnp.where(near, d, 0))
    excess = jnp.where(near, close, e_q - e_p)
    # Read off the difference, which is at hand; the logits are not.
    return Unit(e_p, e_q, d, excess, d < -beyond, d > beyond)


def sums(parts: list[Array], axis: str | None = None) -> list[Array]:
    """Over each row; one exchange where outcomes are split over devices."""
    found = [jnp.sum(x, axis=-1, keepdims=True) for x in parts]
    return found if axis is None else list(jax.lax.psum(found, axis))


def unsound(z_p: Array, z_q: Array) -> Array:
    """Whether a logit of the row that counts is NaN or ``+inf``, from the masses."""
    return ~((z_p < jnp.inf) & (z_q < jnp.inf))


def normalizers(z_p: Array, z_q: Array, x: Array) -> tuple[Array, Array, Array]:
    """Logarithms of both, and of their quotient from ``x = z_q/z_p − 1``."""
    log_zp, log_zq = jnp.log(z_p), jnp.log(z_q)
    small = jnp.abs(x) < 0.5
    # The logarithm of the quotient: either is large where outcomes are many.
    far = jnp.log(z_q / z_p)
    shift = jnp.where(small, jnp.log1p(jnp.where(small, x, 0)), far)
    return log_zp, log_zq, shift


def outcomes(sides: Sides, log_zp, log_zq, shift, p=None, q=None) -> Outcomes:
    """What the generators take; `p` and `q` are the masses, if they are known."""
    log_p, log_q, log_u = sides.a - log_zp, sides.b - log_zq, sides.d + shift
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
