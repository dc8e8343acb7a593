"""Divergences between categorical distributions given as logits.

Target first: ``p_logits`` is the target (teacher, data), ``q_logits`` the model. Values
are in nats, one per leading index; event axes are reduced, the batch never is.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from kljax.arguments import as_array, check_positive, floats, rows_shaped, whole
from kljax.divergences._arguments import for_rows
from kljax.divergences._probabilities import warn_of_probabilities
from kljax.generators import Alpha, FDivergence, get, names
from kljax.kernels.logits import normalized, row_divergence
from kljax.kernels.logits.blocks import by_rows
from kljax.kernels.logits.referenced import sharpness_of
from kljax.typing import Array, ArrayLike, Bool, Float


def _on_last_axis(name: str, x: ArrayLike, axis: int) -> Array:
    array = floats(name, x)
    axis = whole("axis", axis, least=None)
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(f"axis {axis} does not exist in {name}, shape {array.shape}")
    if axis not in (-1, array.ndim - 1):
        array = jnp.moveaxis(array, axis, -1)
    if array.shape[-1] == 0:
        raise ValueError(f"{name} has no outcomes on axis {axis}: {array.shape}")
    return array


def _mask(where: ArrayLike | None, axis: int, like: Array) -> Array | None:
    """The outcomes to keep, with the outcome axis last."""
    if where is None:
        return None
    mask = as_array("where", where, "boolean")
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
    p, q = (x if x.shape == shape else jnp.broadcast_to(x, shape) for x in (p, q))
    return p, q


def _temperature(value: ArrayLike, rows: tuple[int, ...]) -> Array | None:
    """As an array that fits the result; `None` for the number 1, which costs nothing.

    Raises for another shape, and for what is known not to be positive.
    """
    if isinstance(value, int | float) and value == 1:
        return None
    return rows_shaped("temperature", value, rows)


@partial(jax.jit, inline=True)
def _rows(divergence, p, q, temperature, where) -> Array:
    sharpness = None if temperature is None else sharpness_of(temperature, p, q)
    return row_divergence(divergence, p, q, where, sharpness)


@partial(jax.jit, static_argnums=0)
def _by_rows(function: Callable[..., Array], p, q, temperature, where, *more) -> Array:
    """``function(p, q, where, sharpness, *more)`` block by block.

    The sharpness and what is more are numbers of a row.
    """
    lead = p.shape[:-1]
    if temperature is not None:
        more = sharpness_of(temperature, p, q), *more
    more = [jnp.broadcast_to(x, lead) for x in more]
    if temperature is None:
        more = [None, *more]
    return by_rows(lambda rows: function(*rows), (p, q, where, *more), p.ndim - 1)


def _normalized(rows_of, p_logits, q_logits, axis, temperature, where, pad_vocab):
    """What `rows_of` makes of normalised sides, the arguments as in `divergence`."""
    p, q = _pair(p_logits, q_logits, axis, pad_vocab)
    warmth = _temperature(temperature, p.shape[:-1])
    return _by_rows(rows_of, p, q, warmth, _mask(where, axis, p))


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
    check_positive("temperature", temperature)
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
      temperature: divides both logits; positive, may be traced; one number, or one
        for each row, of the result's shape. No factor T² is applied.
      where: which outcomes exist, of the logits' rank. Both sides renormalise over
        them; a row without any gives 0.
      pad_vocab: let the shorter vocabulary end in impossible outcomes.
      **parameters: of the divergence, such as ``alpha=0.3``, may be traced; one number,
        or one for each row. One that is traced and out of its range gives NaN.

    Returns:
      One value per leading index: float32, or float64 if an input is. Relative error
      in float32 about 3e-6, also where p and q nearly agree. Never negative; ``+inf``
      where the divergence is. A row of value ``+inf`` has gradient 0. A row in which a
      NaN or ``+inf`` counts is NaN, and so is its gradient; what `where` takes away may
      hold anything and has gradient 0.

      Two arrays of probabilities in place of logits, if they are known, are warned of
      once.

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
    p, q = _pair(p_logits, q_logits, axis, pad_vocab)
    mask, lead = _mask(where, axis, p), p.shape[:-1]
    warn_of_probabilities(p, q)
    warmth = _temperature(temperature, lead)
    return _rows(for_rows(objective, lead), p, q, warmth, mask)


@runtime_checkable
class Named(Protocol):
    """`divergence` of one name, as an editor sees it."""

    def __call__(
        self,
        p_logits: Float[ArrayLike, "*b v"],
        q_logits: Float[ArrayLike, "*b v"],
        *,
        axis: int = -1,
        temperature: ArrayLike = 1.0,
        where: Bool[ArrayLike, "*b v"] | None = None,
        pad_vocab: bool = False,
        **parameters: Any,
    ) -> Float[Array, "*b"]:
        """One value per leading index."""
        ...


def _wrapper(name: str) -> Named:
    """`divergence` of one name; its parameters become keyword arguments."""

    def wrapper(p_logits, q_logits, **options):
        return divergence(p_logits, q_logits, name, **options)

    summary = type(get(name)).__doc__
    wrapper.__name__ = wrapper.__qualname__ = name
    wrapper.__signature__ = _signature(get(name))  # pyrefly: ignore[missing-attribute]
    wrapper.__doc__ = (
        f"{summary}\n\n    Arguments, result and errors as in `divergence`; parameters"
        f"\n    of the divergence by keyword: {get(name)}."
    )
    return wrapper


def _signature(objective: FDivergence) -> inspect.Signature:
    """That of `divergence`, its name and parameters replaced by the object's own."""
    whole = inspect.signature(divergence)
    own = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default)
        for f in dataclasses.fields(objective)
    ]
    kept = [x for n, x in whole.parameters.items() if n not in _NOT_OF_WRAPPERS]
    return whole.replace(parameters=[*kept, *own])


_NOT_OF_WRAPPERS = ("divergence", "parameters")
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

    Arguments as in `divergence`. The order alpha is positive and may be traced: one
    number, or one for each row.

    Returns:
      One value per leading index, in nats; ``+inf`` for α >= 1 where the model lacks
      an outcome of the target, and for disjoint supports; NaN for a traced order that
      is not positive.

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
    p, q = _pair(p_logits, q_logits, axis, pad_vocab)
    rows = p.shape[:-1]
    alpha = rows_shaped("alpha", alpha, rows)
    mask = _mask(where, axis, p)
    return _renyi(p, q, alpha, _temperature(temperature, rows), mask)


@jax.jit
def _renyi(p, q, alpha, temperature, where):
    alpha = alpha.astype(jnp.result_type(p, q, jnp.float32))
    alpha = alpha * jnp.where(alpha <= 0, jnp.nan, 1)  # a NaN stays, with its slope
    of_outcomes = alpha[..., None] if alpha.ndim else alpha
    amari = _rows(Alpha(of_outcomes), p, q, temperature, where)
    return _by_rows(normalized.renyi_rows, p, q, temperature, where, alpha, amari)


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

    Arguments and errors as in `divergence`.

    Returns:
      One value per leading index, in nats; ``+inf`` for disjoint supports.

    Example:
      >>> import jax.numpy as jnp
      >>> p, q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> round(float(cauchy_schwarz(p, q)), 4)  # log(0.5 · 0.82 / 0.25)
      0.4947

    References:
      Principe, Information Theoretic Learning (2010), Eq. 2.90: twice the form there.
    """
    given = p_logits, q_logits, axis, temperature, where, pad_vocab
    return _normalized(normalized.cauchy_schwarz_rows, *given)


def entropy(
    logits: Float[ArrayLike, "*b v"],
    *,
    axis: int = -1,
    temperature: ArrayLike = 1.0,
    where: Bool[ArrayLike, "*b v"] | None = None,
) -> Float[Array, "*b"]:
    """Shannon's ``−Σ p log p``, in nats.

    Arguments and errors as in `divergence`.

    Returns:
      One value per leading index, within ``[0, log v]``.

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

    Arguments and errors as in `divergence`.

    Returns:
      One value per leading index; ``+inf`` where the model lacks an outcome of the
      target.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(cross_entropy(jnp.zeros(2), jnp.log(jnp.array([0.9, 0.1])))), 4)
      1.204
    """
    given = p_logits, q_logits, axis, temperature, where, pad_vocab
    return _normalized(normalized.cross_entropy_rows, *given)
