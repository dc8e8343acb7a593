"""Many runs as one: equal trees with a leading axis, for `vmap` of a training step."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from kljax.typing import PyTree

__all__ = ["stacked", "taken"]


@jax.jit
def stacked(trees: Sequence[PyTree]) -> PyTree:
    """Equal trees as one, with a new leading axis.

    Args:
        trees: of one structure, with leaves of equal shapes; states of a run, say.

    Returns:
        A tree whose leaves are `[n, ...]`, copies.

    Raises:
        ValueError: no tree, or structures or shapes that differ.

    Example:
        >>> stacked([{"w": jnp.zeros(2)}, {"w": jnp.ones(2)}])["w"].shape
        (2, 2)
    """
    if not trees:
        raise ValueError("trees must be one at least, got none")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def taken(tree: PyTree, rows: int | Sequence[int]) -> PyTree:
    """The members of stacked trees at `rows`; an integer gives one without the axis.

    Example:
        >>> pair = stacked([{"w": jnp.zeros(2)}, {"w": jnp.ones(2)}])
        >>> taken(pair, 1)["w"].tolist(), taken(pair, [1, 1, 0])["w"].shape
        ([1.0, 1.0], (3, 2))
    """
    return jax.tree.map(lambda leaf: leaf[jnp.asarray(rows)], tree)
