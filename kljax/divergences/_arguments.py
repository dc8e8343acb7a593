"""Arguments that several divergences take, checked alike."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kljax.arguments import checked_ids, concrete, fitting
from kljax.kernels.linear import listed
from kljax.typing import Array, ArrayLike

__all__ = ["checked_lists", "for_rows"]


def for_rows(divergence: Any, rows: tuple[int, ...]) -> Any:
    """The divergence, each parameter a number or one for each row: or raises."""

    def fit(parameter: ArrayLike) -> ArrayLike:
        if not jnp.ndim(parameter):
            return parameter
        name = f"a parameter of {type(divergence).__name__}"
        return fitting(name, parameter, rows)[..., None]

    return jax.tree.map(fit, divergence)


def checked_lists(
    log_p: ArrayLike,
    ids: ArrayLike,
    vocab: int,
    log_tail: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    *,
    normalized: bool = True,
) -> tuple[Array, Array | None]:
    """The ids of lists ``[*b, k]`` in int32, and the log-mass of all other outcomes.

    Args:
      log_p: log-probabilities of the ids; or logits, if they are not `normalized`.
      ids: integers of the same shape.
      vocab: how many outcomes there are.
      log_tail: ``[*b]`` or None.
      weights: of the lists, ``[*b]``: at those of 0 nothing is looked at.

    Raises:
      ValueError: as far as values are known, ids outside the vocabulary or twice in a
        list, masses that sum to more than 1; a tail of another shape.
      TypeError: a tail that is not floating point.
    """
    rows = np.shape(log_p)[:-1]
    counts = None if weights is None else _column(weights)
    index = checked_ids("ids", ids, vocab, counts)
    tail = None if log_tail is None else jnp.asarray(log_tail)
    if tail is not None and not jnp.issubdtype(tail.dtype, jnp.floating):
        raise TypeError(f"log_tail must be floating point, got {tail.dtype}")
    if tail is not None and tail.shape != rows:
        raise ValueError(f"log_tail must be {rows}, one per list, got {tail.shape}")
    kept = np.ones(rows, bool) if weights is None else concrete(weights)
    known, masses = concrete(ids), concrete(log_p)
    if kept is None or known is None or masses is None:
        return index, tail
    kept = np.broadcast_to(kept != 0, rows)
    for place in np.argwhere(listed.repeated(known, np) & kept)[:1]:
        raise ValueError(
            f"ids must be distinct within a list, got {known[tuple(place)].tolist()} "
            f"at {place.tolist()}"
        )
    others = None if log_tail is None else concrete(log_tail)
    if not normalized or (others is None and log_tail is not None):
        return index, tail
    with np.errstate(over="ignore", invalid="ignore"):
        total = listed.total_mass(masses, others, np)
    excess = total > 1 + listed.excess_allowed(jnp.asarray(log_p).dtype)
    for place in np.argwhere(excess & kept)[:1]:
        raise ValueError(
            f"log_p at {place.tolist()} holds masses that sum to "
            f"{total[tuple(place)]:.4g}, more than 1: expected log-probabilities, "
            "normalized over the full vocabulary (jax.nn.log_softmax of the logits)"
        )
    return index, tail


def _column(weights: ArrayLike) -> ArrayLike:
    known = concrete(weights)
    return jnp.asarray(weights)[..., None] if known is None else known[..., None]
