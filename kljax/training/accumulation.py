"""Weighted sums of a loss, over one batch or over several micro-batches."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kljax.arguments import described, unlike
from kljax.training.players import Loss
from kljax.training.state import is_key
from kljax.typing import Array, PyTree


def accumulated(
    one: Callable[[PyTree, dict, Any], tuple[PyTree, PyTree]],
    carried: PyTree,
    batch: dict,
    count: int,
    unroll: bool,
) -> tuple[PyTree, PyTree]:
    """Sums of `one` over `count` micro-batches, threading `carried` through them.

    Args:
        one: `one(carried, micro_batch, number) -> (carried, sums)`.
        carried: what a micro-batch leaves to the next.
        batch: arrays `[b, ...]`, with `count` dividing b; scalars are shared.
        count: number of micro-batches, at least 1.
        unroll: lay them out one after the other instead of scanning.

    Returns:
        The last `carried`, and the sums.

    Raises:
        ValueError: `count` does not divide a leading axis.
    """
    if count == 1:
        return one(carried, batch, 0)
    micro = {name: _split(name, value, count) for name, value in batch.items()}
    first = {name: value[0] for name, value in micro.items()}
    if unroll:
        carried, total = one(carried, first, 0)
        for number in range(1, count):
            part = {name: value[number] for name, value in micro.items()}
            carried, sums = one(carried, part, number)
            total = jax.tree.map(jnp.add, total, sums)
        return carried, total

    def body(carry, numbered):
        carried, total = carry
        carried, sums = one(carried, *numbered)
        return (carried, jax.tree.map(jnp.add, total, sums)), None

    shapes = jax.eval_shape(one, carried, first, 0)[1]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    carry, _ = jax.lax.scan(body, (carried, zeros), (micro, jnp.arange(count)))
    return carry


def counted(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with 0 for what is not finite in examples of weight 0.

    Their losses have no weight, but 0 · NaN would come back through the derivatives.
    """
    if batch.get("weights") is None:
        return batch
    weights = jnp.asarray(batch["weights"])

    def clean(leaf):
        value = jnp.asarray(leaf)
        inexact = jnp.issubdtype(value.dtype, jnp.inexact)
        if not inexact or weights.ndim != 1 or value.shape[:1] != weights.shape:
            return leaf
        idle = jnp.expand_dims(weights == 0, tuple(range(1, value.ndim)))
        return jnp.where(idle & ~jnp.isfinite(value), 0, value)

    return jax.tree.map(clean, batch)


def loss_sums(role: str, loss: Loss, batch: dict) -> dict[str, Any]:
    """Σ w·loss, Σ w, Σ w·metric and Σ scalar metric, in float32 or wider.

    An example of weight 0 counts for nothing, whatever its loss.

    Raises:
        TypeError: the loss function did not return a `Loss` of real numbers.
        ValueError: a shape is neither `[b]` nor, for a metric, `[]`.
    """
    if not isinstance(loss, Loss):
        raise TypeError(
            f"the loss of {role!r} must return a Loss, got {described(loss)}: write "
            "return Loss(per_example, metrics)"
        )
    if not isinstance(loss.metrics, Mapping):
        raise unlike(f"the metrics of {role!r}", loss.metrics, "a dict of named arrays")
    given, wanted = ("per_example", 1) if loss.mean is None else ("mean", 0)
    values = _wide(getattr(loss, given), f"{given} of {role!r}")
    if values.ndim != wanted:
        raise ValueError(
            f"{given} of {role!r} must have shape {'[b]' if wanted else '[]'}, got "
            f"{values.shape}: reduce the event axes, leave the batch axis"
        )
    weights = jnp.ones_like(values)
    if "weights" in batch:
        weights = _wide(batch["weights"], "batch['weights']")
    if weights.shape != values.shape:
        raise ValueError(
            f"batch['weights'] must have the shape {values.shape} of {given} of "
            f"{role!r}, got {weights.shape}"
        )
    metrics = {
        name: _wide(value, f"metric {name!r} of {role!r}")
        for name, value in loss.metrics.items()
    }
    for name, value in metrics.items():
        if value.shape not in ((), values.shape):
            raise ValueError(
                f"metric {name!r} of {role!r} must have shape [] or {values.shape}, "
                f"got {value.shape}"
            )

    def total(value):
        return jnp.sum(jnp.where(weights == 0, 0, weights * value))

    return {
        "loss": total(values),
        "weight": jnp.sum(weights),
        "means": {name: total(value) for name, value in metrics.items() if value.ndim},
        "scalars": {name: value for name, value in metrics.items() if not value.ndim},
    }


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """The tree with its floating-point leaves in `dtype`; None leaves it alone."""
    if dtype is None:
        return tree

    def convert(leaf):
        floating = jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
        return jnp.asarray(leaf, dtype) if floating else leaf

    return jax.tree.map(convert, tree)


def replacing(name: str, old: PyTree, new: PyTree) -> PyTree:
    """`new` in the types of `old`; None keeps `old`.

    Raises:
        ValueError: their structures or shapes differ (each step would compile anew).
    """
    if new is None:
        return old
    had, has = jax.tree.structure(old), jax.tree.structure(new)
    if had != has:
        raise ValueError(
            f"{name} changed its structure: it was {had} and became {has}; give "
            "init_state the initial value"
        )

    def like(path, old_leaf, new_leaf):
        if is_key(new_leaf):
            return new_leaf
        old_leaf, new_leaf = jnp.asarray(old_leaf), jnp.asarray(new_leaf)
        if old_leaf.shape != new_leaf.shape:
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} changed its shape from "
                f"{old_leaf.shape} to {new_leaf.shape}"
            )
        return new_leaf.astype(old_leaf.dtype)

    return jax.tree_util.tree_map_with_path(like, old, new)


def _split(name: str, value: Any, count: int) -> Array:
    """`[b, ...] -> [count, b / count, ...]`; a device's examples go into every part."""
    value = jnp.asarray(value)
    if value.ndim == 0:
        return jnp.broadcast_to(value, (count,))
    if value.shape[0] % count:
        raise ValueError(
            f"accumulate={count} must divide the batch: batch[{name!r}] has shape "
            f"{value.shape}"
        )
    parts = value.reshape(value.shape[0] // count, count, *value.shape[1:])
    return jnp.moveaxis(parts, 1, 0)


def _wide(value: Any, name: str) -> Array:
    try:
        found = None if value is None else jnp.asarray(value)
    except (TypeError, ValueError):
        found = None
    if found is None or jnp.iscomplexobj(found):
        raise unlike(name, value, "an array of real numbers")
    return found.astype(jnp.promote_types(found.dtype, jnp.float32))
