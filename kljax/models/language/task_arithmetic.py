"""Arithmetic on the weights of models with one structure: soups and task vectors.

A task vector is what fine-tuning added to the weights; vectors of several tasks are
added to one base, negative weights take a task away. Merged experts are then one model,
for instance the one expert of dynamic logit fusion.

References: Wortsman et al. 2022, "Model soups"; Ilharco et al. 2023, "Editing models
with task arithmetic".
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from kljax.typing import ArrayLike, PyTree

__all__ = ["add_task_vectors", "soup", "task_vector"]


def task_vector(tuned: PyTree, base: PyTree) -> PyTree:
    """τ = θ_tuned − θ_base.

    Args:
      tuned, base: parameters of one structure.

    Returns:
      The differences, in float32 at least: those of bfloat16 weights would be coarse.

    Raises:
      ValueError: structures or shapes differ; names the entry.

    Example:
      >>> base, tuned = {"w": jnp.ones(2)}, {"w": jnp.array([1.0, 3.0])}
      >>> task_vector(tuned, base)["w"].tolist()
      [0.0, 2.0]

    References:
      Ilharco et al. 2023, section 2.
    """
    check_alike("tuned", [tuned], base)
    return jax.tree.map(lambda x, y: _wide(x) - _wide(y), tuned, base)


def add_task_vectors(
    base: PyTree, vectors: Sequence[PyTree], weights: ArrayLike | Sequence = 1.0
) -> PyTree:
    """θ = θ_base + Σ_t λ_t τ_t.

    Args:
      base: parameters.
      vectors: of `task_vector`, any number of them.
      weights: λ, one number for all or one per vector; negative ones take away.

    Returns:
      Parameters in the dtypes of `base`.

    Raises:
      ValueError: structures or shapes differ, or the number of weights does.

    Example:
      >>> base, vector = {"w": jnp.ones(2)}, {"w": jnp.array([0.0, 2.0])}
      >>> add_task_vectors(base, [vector, vector], [0.5, -1.0])["w"].tolist()
      [1.0, 0.0]

    References:
      Ilharco et al. 2023, section 2 (addition, negation); the multi-expert baseline of
      Fan et al. 2024, "On giant's shoulders".
    """
    check_alike("vectors", vectors, base)
    scale = jnp.asarray(weights)
    if scale.ndim > 1 or (scale.ndim == 1 and len(scale) != len(vectors)):
        raise ValueError(
            f"weights has shape {scale.shape}; expected one number or one for each of "
            f"{len(vectors)} vectors"
        )
    scale = jnp.broadcast_to(scale, (len(vectors),))

    def moved(start: jax.Array, *changes: jax.Array) -> jax.Array:
        total = _wide(start)
        for weight, change in zip(scale, changes, strict=True):
            total = total + weight.astype(total.dtype) * change
        return total.astype(jnp.asarray(start).dtype)

    return jax.tree.map(moved, base, *vectors)


def soup(
    models: Sequence[PyTree], weights: ArrayLike | Sequence | None = None
) -> PyTree:
    """The weighted mean of several models' parameters.

    θ = Σ_t w_t θ_t / Σ_t w_t.

    Args:
      models: at least one; all of one structure.
      weights: one number ≥ 0 per model, not all 0; None: equal.

    Returns:
      Parameters in the dtypes of the first model.

    Raises:
      ValueError: no model, structures or shapes differ, or the number of weights does.

    Example:
      >>> soup([{"w": jnp.zeros(2)}, {"w": jnp.array([2.0, 4.0])}])["w"].tolist()
      [1.0, 2.0]

    References:
      Wortsman et al. 2022, uniform soup.
    """
    if not models:
        raise ValueError("models is empty; expected at least one")
    first = models[0]
    share = jnp.ones(len(models)) if weights is None else jnp.asarray(weights)
    if share.shape != (len(models),):
        raise ValueError(
            f"weights has shape {share.shape}; expected one for each of {len(models)} "
            "models"
        )
    share = share / jnp.sum(share)
    zero = jax.tree.map(jnp.zeros_like, first)
    check_alike("models", models, first)
    wide = [jax.tree.map(_wide, model) for model in models]
    return jax.tree.map(
        lambda x, y: x.astype(jnp.asarray(y).dtype),
        add_task_vectors(jax.tree.map(_wide, zero), wide, share),
        first,
    )


def check_alike(name: str, trees: Sequence[PyTree], like: PyTree) -> None:
    """Raises ValueError where a tree has other entries or shapes than `like`."""

    def shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in leaves}

    wanted = shapes(like)
    for tree in trees:
        found = shapes(tree)
        for path in [*wanted, *found]:
            if found.get(path) != wanted.get(path):
                raise ValueError(
                    f"{name}: entry {path} has shape {found.get(path, 'none')}, "
                    f"expected {wanted.get(path, 'none')}; weights can only be added "
                    "between models of one configuration"
                )


def _wide(x: ArrayLike) -> jax.Array:
    array = jnp.asarray(x)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))
