"""What a linear loss is made from, as one pytree, and how it is taken apart.

A tree with holes (``None``) is a part of such a tree: the tokens' share of it, or the
operands that are differentiated.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = [
    "Among",
    "Lists",
    "Operands",
    "Pair",
    "Side",
    "accumulator",
    "combine",
    "keep",
    "part",
    "token_wise",
]


class Side(NamedTuple):
    """Hidden states and a head: ``softcap(states @ head + bias) / temperature``."""

    states: Any
    """``[n, d]``."""
    head: Any
    """``[d, v]``."""
    bias: Any = None
    """``[v]``, ``-inf`` takes an outcome away."""
    soft_cap: Any = None
    temperature: Any = None
    """Of this side alone; `Operands.sharpness` is that of both."""


class Lists(NamedTuple):
    """A target's listed outcomes; all others are one outcome more."""

    log_p: Any
    """``[n, k]``."""
    ids: Any
    log_tail: Any = None
    """``[n]``; None: one minus the list."""


class Among(NamedTuple):
    """A target's listed outcomes; nothing else exists, on either side."""

    log_p: Any
    """``[n, k]``, normalized or not."""
    ids: Any


class Operands(NamedTuple):
    """All that a loss is computed from; what it has not is None."""

    q: Side
    p: Any = None
    """`Side`, `Lists`, `Among`, or None if there is no divergence."""
    weights: Any = None
    """``[n]``."""
    labels: Any = None
    """``[n]``, integers; None if there is no cross-entropy."""
    label_scale: Any = None
    divergence_scale: Any = None
    sharpness: Any = None
    """One over the temperature of both sides."""
    parameters: tuple = ()
    """The leaves of the divergence."""


class Pair(NamedTuple):
    """Something of each side that has a head; None otherwise."""

    p: Any
    q: Any

    @classmethod
    def of(cls, operands: Operands) -> "Pair":
        """The sides with heads."""
        return cls(operands.p if isinstance(operands.p, Side) else None, operands.q)

    def each(self, function: Callable, *others: "Pair") -> "Pair":
        """`function` of both; None where any of its arguments is."""
        rows = zip(self, *others)
        found = (None if any(x is None for x in r) else function(*r) for r in rows)
        return Pair(*found)

    def put(self, operands: Operands, field: str) -> Operands:
        """The operands with these as a field of their sides."""
        p, q = operands.p, operands.q._replace(**{field: self.q})
        if isinstance(p, Side):
            p = p._replace(**{field: self.p})
        return operands._replace(p=p, q=q)


def keep(mask: Any, tree: Any) -> Any:
    """The tree with holes where a mask of its shape is False."""
    return jax.tree.map(lambda kept, x: x if kept else None, mask, tree)


def combine(first: Any, *others: Any) -> Any:
    """Trees of one shape laid over each other: the last that is no hole counts."""

    def last(*found):
        there = [x for x in found if x is not None]
        return there[-1] if there else None

    return jax.tree.map(last, first, *others, is_leaf=lambda x: x is None)


def token_wise(operands: Operands) -> Operands:
    """Which operands have the tokens as their first axis."""
    mask = jax.tree.map(lambda _: False, operands)
    mask = Pair.of(mask).each(lambda _: True).put(mask, "states")
    if not isinstance(operands.p, Side):
        mask = mask._replace(p=jax.tree.map(lambda _: True, operands.p))
    labelled = None if operands.labels is None else True
    return mask._replace(weights=True, labels=labelled)


def accumulator(operands: Operands) -> Any:
    """The type of sums over tokens: float32, or the widest of the operands'."""
    leaves = jax.tree.leaves(operands)
    floats = (x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating))
    return jnp.result_type(jnp.float32, *floats)


def part(mask: Any, tree: Any) -> tuple[Any, Any]:
    """The tree in two: what the mask keeps, and the rest."""
    return keep(mask, tree), keep(jax.tree.map(operator.not_, mask), tree)
