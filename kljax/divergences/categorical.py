"""Divergences between categorical distributions given as logits.

Target first: ``p_logits`` is the target (teacher, data), ``q_logits`` the model. Values
are in nats, one per leading index; event axes are reduced, the batch never is.
"""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from kljax.fdivergence import FDivergence
from kljax.generators import Alpha, get, names
from kljax.kernels.blocks import by_rows
from kljax.kernels.logits import row_divergence
from kljax.kernels.normalized import log_probabilities, masked, reference
from kljax.typing import Array, ArrayLike, Bool, Float


def floating(name: str, x: ArrayLike) -> Array:
    """`x` as an array; integers and complex numbers raise."""
    array = jnp.asarray(x)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{name} must hold floating-point logits, got {array.dtype} "
            f"of shape {array.shape}"
        )
    return array


def _on_last_axis(name: str, x: ArrayLike, axis: int) -> Array:
    array = floating(name, x)
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(f"axis {axis} does not exist in {name}, shape {array.shape}")
    array = jnp.moveaxis(array, axis, -1)
    if array.shape[-1] == 0:
        raise ValueError(f"{name} has no outcomes on axis {axis}: {array.shape}")
    return array


def _mask(where: ArrayLike | None, axis: int, like: Array) -> Array | None:
    """The outcomes to keep, with the outcome axis last."""
    if where is None:
        return None
    mask = jnp.asarray(where)
    if mask.dtype != jnp.bool_:
        raise TypeError(f"where must be boolean, got {mask.dtype}")
    if mask.ndim != like.ndim:
        raise ValueError(
            f"where must have the rank of the logits, {like.ndim}: it takes outcomes "
            f"away on both sides; got shape {mask.shape}. To leave out whole tokens, "
            "weigh the result instead"
        )
    mask = jnp.moveaxis(mask, axis, -1)
    try:
        return jnp.broadcast_to(mask, like.shape)
    except ValueError:
        raise ValueError(
            f"where of shape {mask.shape} does not broadcast to {like.shape} "
            "(outcome axis last)"
        ) from None


def _check_temperature(temperature: ArrayLike) -> None:
    if isinstance(temperature, int | float) and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def _pair(
    p_logits: ArrayLike, q_logits: ArrayLike, axis: int, pad_vocab: bool
) -> tuple[Array, Array]:
    """Both sides with the outcome axis last and of one shape."""
    p = _on_last_axis("p_logits", p_logits, axis)
    q = _on_last_axis("q_logits", q_logits, axis)
    short = p.shape[-1] - q.shape[-1]
    if short and not pad_vocab:
        raise ValueError(
            f"p_logits has {p.shape[-1]} outcomes and q_logits has {q.shape[-1]}; "
            "pad_vocab=True treats the missing ones as impossible"
        )
    p, q = (
        jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, n)], constant_values=-jnp.inf)
        if n > 0
        else x
        for x, n in ((p, -short), (q, short))
    )
    try:
        shape = jnp.broadcast_shapes(p.shape, q.shape)
    except ValueError:
        raise ValueError(
            f"p_logits {p.shape} and q_logits {q.shape} do not broadcast "
            "(outcome axis last)"
        ) from None
    return jnp.broadcast_to(p, shape), jnp.broadcast_to(q, shape)


@partial(jax.jit, inline=True)
def _rows(divergence, p, q, temperature, where) -> Array:
    if temperature is None:
        return row_divergence(divergence, p, q, where)
    scale = jnp.asarray(temperature, jnp.promote_types(p.dtype, jnp.float32))
    if scale.ndim == 0:
        return row_divergence(divergence, p, q, where, 1 / scale)
    a, b = reference(*masked(p, q, where))
    return row_divergence(divergence, a / scale, b / scale)


def _not_one(temperature: ArrayLike) -> ArrayLike | None:
    """`None` for the number 1, which then costs nothing."""
    return (
        None
        if isinstance(temperature, int | float) and temperature == 1
        else temperature
    )


def _by_rows(function: Callable[..., Array], p, q, temperature, where, *more) -> Array:
    """`function` of both sides, referenced and at their temperature, block by block."""

    def referenced(rows):
        p, q, where, *more = rows
        # After the shift, so that a large common offset costs no digits.
        a, b = reference(*masked(p, q, where))
        return function(a / temperature, b / temperature, *more)

    rows = p, q, where, *more
    if jnp.ndim(temperature):
        return referenced(rows)
    return by_rows(referenced, rows, p.ndim - 1)


def checked(
    p_logits: ArrayLike,
    q_logits: ArrayLike,
    temperature: ArrayLike,
    where: ArrayLike | None,
    *,
    axis: int = -1,
    pad_vocab: bool = False,
) -> tuple[Array, Array, Array | None]:
    """Both sides and the mask as arrays of one shape, the outcomes last; or raises."""
    _check_temperature(temperature)
    p, q = _pair(p_logits, q_logits, axis, pad_vocab)
    return p, q, _mask(where, axis, p)


def divergence(
    p_logits: Float[ArrayLike, "*b v"],
    q_logits: Float[ArrayLike, "*b v"],
    divergence: str | FDivergence,
    *,
    axis: int = -1,
    temperature: ArrayLike = 1.0,
    where: Bool[ArrayLike, "*b v"] | None = None,
    pad_vocab: bool = False,
    **parameters: Any,
) -> Float[Array, "*b"]:
    """``D_f(p‖q) = Σ q f(p/q)`` with ``p, q = softmax`` of the logits, in nats.

    Args:
      p_logits: the target's logits, unnormalised, ``-inf`` for impossible outcomes.
      q_logits: the model's logits; leading axes broadcast.
      divergence: a name of `names()` or an object.
      axis: the outcomes' axis.
      temperature: divides both logits; positive, may be traced. No factor T² is
        applied.
      where: which outcomes exist, of the logits' rank. Both sides renormalise over
        them; a row without any gives 0.
      pad_vocab: let the shorter vocabulary end in impossible outcomes.
      **parameters: of the divergence, such as ``alpha=0.3``, may be traced.

    Returns:
      One value per leading index: float32, or float64 if an input is. Relative error
      in float32 about 3e-6, also where p and q nearly agree. Never negative or NaN;
      ``+inf`` where the divergence is. A row of value ``+inf`` has gradient 0.

      On a CPU rows are taken in blocks, which gathers logits that `jit` finds split
      over devices: use `divergence_sharded` there, and wherever outcomes are split.

    Raises:
      ValueError: shapes, axis, name or a parameter's range.
      TypeError: logits that are not floating point, a mask that is not boolean.

    Example:
      >>> import jax.numpy as jnp
      >>> p, q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> round(float(divergence(p, q, "forward_kl")), 4)
      0.5108

    References:
      Csiszár (1967); Ali and Silvey (1966). Scales: the table in `kljax.generators`.
    """
    objective = get(divergence, **parameters)
    p, q, mask = checked(
        p_logits, q_logits, temperature, where, axis=axis, pad_vocab=pad_vocab
    )
    return _rows(objective, p, q, _not_one(temperature), mask)


def _wrapper(name: str) -> Callable[..., Array]:
    """`divergence` of one name; its parameters become keyword arguments."""

    def wrapper(p_logits, q_logits, **options):
        return divergence(p_logits, q_logits, name, **options)

    summary = type(get(name)).__doc__
    wrapper.__name__ = wrapper.__qualname__ = name
    wrapper.__doc__ = (
        f"{summary}\n\n    Arguments, result and errors as in `divergence`; parameters"
        f"\n    of the divergence by keyword: {get(name)}."
    )
    return wrapper


NAMED = MappingProxyType({name: _wrapper(name) for name in names()})
"""``forward_kl(p_logits, q_logits, ...)`` and its siblings, by name."""


def renyi(
    p_logits: Float[ArrayLike, "*b v"],
    q_logits: Float[ArrayLike, "*b v"],
    *,
    alpha: ArrayLike,
    axis: int = -1,
    temperature: ArrayLike = 1.0,
    where: Bool[ArrayLike, "*b v"] | None = None,
    pad_vocab: bool = False,
) -> Float[Array, "*b"]:
    """Rényi's ``log(Σ p^α q^(1−α))/(α − 1)``, α > 0; forward KL at α = 1.

    Args:
      p_logits, q_logits, axis, temperature, where, pad_vocab: as in `divergence`.
      alpha: the order, positive, may be traced.

    Returns:
      One value per leading index, in nats; ``+inf`` for α >= 1 where the model lacks
      an outcome of the target, and for disjoint supports.

    Raises:
      ValueError, TypeError: as in `divergence`, or ``alpha <= 0``.

    Example:
      >>> import jax.numpy as jnp
      >>> p, q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> round(float(renyi(p, q, alpha=2.0)), 4)  # log(0.25/0.9 + 0.25/0.1)
      1.0217

    References:
      van Erven and Harremoës (2014), Eq. 1.
    """
    if isinstance(alpha, int | float) and not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    _check_temperature(temperature)
    p, q = _pair(p_logits, q_logits, axis, pad_vocab)
    alpha = jnp.asarray(alpha, jnp.promote_types(p.dtype, jnp.float32))
    mask = _mask(where, axis, p)
    return _renyi(p, q, alpha, temperature, mask)


@jax.jit
def _renyi(p, q, alpha, temperature, where):
    amari = _rows(Alpha(alpha), p, q, temperature, where)
    function = partial(_renyi_rows, alpha)
    return _by_rows(function, p, q, temperature, where, amari)


def _renyi_rows(alpha, a, b, amari):
    # log E = log1p(α(α−1) D_α) keeps the digits of small values; a plain
    # log-sum-exp those of large ones.
    x = alpha * (alpha - 1) * amari
    small = jnp.abs(x) < 0.5
    near = jnp.where(small, x, 0)
    factor = jnp.where(
        jnp.abs(near) < 1e-4,
        1 - near / 2,
        jnp.log1p(near) / jnp.where(near == 0, 1, near),
    )
    rows = log_probabilities(a, b)
    p_zero, q_zero = rows.log_p == -jnp.inf, rows.log_q == -jnp.inf
    joint = ~p_zero & ~q_zero
    power = alpha * jnp.where(joint, rows.log_p, 0) + (1 - alpha) * jnp.where(
        joint, rows.log_q, 0
    )
    safe = jnp.where(small[..., None], 0, jnp.where(joint, power, -jnp.inf))
    lone = jnp.all(safe == -jnp.inf, axis=-1, keepdims=True)
    w = jax.nn.logsumexp(jnp.where(lone, 0, safe), axis=-1)
    far = jnp.where(lone[..., 0], jnp.inf, w / jnp.where(alpha == 1, 1, alpha - 1))
    missing = jnp.any(q_zero & ~p_zero, axis=-1) & (alpha >= 1)
    value = jnp.where(small, alpha * jnp.where(small, amari, 0) * factor, far)
    return jnp.where(missing, jnp.inf, jnp.maximum(value, 0))


def cauchy_schwarz(
    p_logits: Float[ArrayLike, "*b v"],
    q_logits: Float[ArrayLike, "*b v"],
    *,
    axis: int = -1,
    temperature: ArrayLike = 1.0,
    where: Bool[ArrayLike, "*b v"] | None = None,
    pad_vocab: bool = False,
) -> Float[Array, "*b"]:
    """``log(Σp² Σq² / (Σpq)²)``: symmetric, 0 only at p = q, normaliser-free.

    Args:
      p_logits, q_logits, axis, temperature, where, pad_vocab: as in `divergence`.

    Returns:
      One value per leading index, in nats; ``+inf`` for disjoint supports.

    Raises:
      ValueError, TypeError: as in `divergence`.

    Example:
      >>> import jax.numpy as jnp
      >>> p, q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> round(float(cauchy_schwarz(p, q)), 4)  # log(0.5 · 0.82 / 0.25)
      0.4947

    References:
      Principe, Information Theoretic Learning (2010), Eq. 2.90: twice the form there.
    """
    _check_temperature(temperature)
    p, q = _pair(p_logits, q_logits, axis, pad_vocab)
    return _cauchy_schwarz(p, q, temperature, _mask(where, axis, p))


@jax.jit
def _cauchy_schwarz(p, q, temperature, where):
    return _by_rows(_cauchy_schwarz_rows, p, q, temperature, where)


def _cauchy_schwarz_rows(a, b):
    rows = log_probabilities(a, b)
    joint = (a > -jnp.inf) & (b > -jnp.inf)
    none = rows.empty | ~jnp.any(joint, axis=-1)
    # With weights p²/Σp² the value is log(1 + Var(q/p)/E(q/p)²): nothing cancels.
    weight = jax.nn.softmax(jnp.where(none[..., None], 0, 2 * a), axis=-1)
    log_p2 = jax.nn.logsumexp(2 * jnp.where(none[..., None], 0, rows.log_p), axis=-1)
    near = jnp.exp(jnp.clip(jnp.where(joint, -rows.log_u, 0), -30.0, 30.0))
    near = jnp.where(joint, near, 0)
    mean = jnp.sum(weight * near, axis=-1, keepdims=True)
    variance = jnp.sum(weight * (near - mean) ** 2, axis=-1)
    lone = (a == -jnp.inf) & (b > -jnp.inf)
    outside = jnp.sum(
        jnp.where(lone, jnp.exp(2 * rows.log_q - log_p2[..., None]), 0), axis=-1
    )
    square = mean[..., 0] ** 2
    small = jnp.log1p((variance + outside) / jnp.where(square == 0, 1, square))

    def moment(x):
        return jax.nn.logsumexp(jnp.where(none[..., None], 0, x), axis=-1)

    cross = jnp.where(joint, rows.log_p + rows.log_q, -jnp.inf)
    large = moment(2 * rows.log_p) + moment(2 * rows.log_q) - 2 * moment(cross)
    value = jnp.where((small < 0.5) & (square > 0), small, jnp.maximum(large, 0))
    return jnp.where(rows.empty, 0, jnp.where(none, jnp.inf, value))


def entropy(
    logits: Float[ArrayLike, "*b v"],
    *,
    axis: int = -1,
    temperature: ArrayLike = 1.0,
    where: Bool[ArrayLike, "*b v"] | None = None,
) -> Float[Array, "*b"]:
    """Shannon's ``−Σ p log p``, in nats.

    Args:
      logits, axis, temperature, where: as in `divergence`.

    Returns:
      One value per leading index, within ``[0, log v]``.

    Raises:
      ValueError, TypeError: as in `divergence`.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(entropy(jnp.zeros(4))), 4)  # log 4
      1.3863
    """
    return cross_entropy(
        logits, logits, axis=axis, temperature=temperature, where=where
    )


def cross_entropy(
    p_logits: Float[ArrayLike, "*b v"],
    q_logits: Float[ArrayLike, "*b v"],
    *,
    axis: int = -1,
    temperature: ArrayLike = 1.0,
    where: Bool[ArrayLike, "*b v"] | None = None,
    pad_vocab: bool = False,
) -> Float[Array, "*b"]:
    """``−Σ p log q``, in nats: entropy of the target plus forward KL.

    Args:
      p_logits, q_logits, axis, temperature, where, pad_vocab: as in `divergence`.

    Returns:
      One value per leading index; ``+inf`` where the model lacks an outcome of the
      target.

    Raises:
      ValueError, TypeError: as in `divergence`.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(cross_entropy(jnp.zeros(2), jnp.log(jnp.array([0.9, 0.1])))), 4)
      1.204
    """
    _check_temperature(temperature)
    p, q = _pair(p_logits, q_logits, axis, pad_vocab)
    return _cross_entropy(p, q, temperature, _mask(where, axis, p))


@jax.jit
def _cross_entropy(p, q, temperature, where):
    return _by_rows(_cross_entropy_rows, p, q, temperature, where)


def _cross_entropy_rows(a, b):
    rows = log_probabilities(a, b)
    p_zero, q_zero = rows.log_p == -jnp.inf, rows.log_q == -jnp.inf
    mass = jnp.exp(rows.log_p)
    terms = -mass * jnp.where(p_zero | q_zero, 0, rows.log_q)
    missing = jnp.any(q_zero & ~p_zero, axis=-1)
    total = jnp.where(missing, jnp.inf, jnp.sum(terms, axis=-1))
    return jnp.where(rows.empty, 0, total)
