"""Inputs that are moved to a model's disadvantage, within a box around them.

The model is seen through its loss alone, `loss(inputs)`, one number per example or in
all; inputs are any pytree. So one attack serves classification, `loss = lambda x:
label_cross_entropy(labels, apply(params, x))`, and regression, squared errors. A model
with noise of its own is attacked through the mean of its loss over draws.

References: Goodfellow et al. 2015, "Explaining and harnessing adversarial examples";
Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks".
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kljax.arguments import whole
from kljax.typing import Array, ArrayLike, Key, PyTree

__all__ = ["fgsm", "pgd"]

Bounds = tuple[ArrayLike | None, ArrayLike | None]


def pgd(
    loss: Callable[[PyTree], Array],
    inputs: PyTree,
    epsilon: ArrayLike,
    *,
    step: ArrayLike,
    iterations: int,
    bounds: Bounds = (None, None),
    key: Key[Array, ""] | None = None,
) -> PyTree:
    """Projected gradient ascent of a loss in the box |moved − inputs| ≤ epsilon.

    x ← clip(x + step · sign ∂loss/∂x), to the box and to `bounds`.

    Args:
      loss: of inputs; its sum is raised, so that examples do not disturb each other.
      inputs: any pytree of floating arrays.
      epsilon: half of the box's side, in units of the inputs; may be traced.
      step: of one iteration, in the same units; may be traced.
      iterations: how many, at least 1.
      bounds: least and largest legal input (0 and 1 of pixels, say).
      key: start from a point drawn in the box; None: from the inputs.

    Returns:
      The moved inputs, without a gradient. Where the gradient is NaN they are NaN.

    Raises:
      ValueError, TypeError: iterations that are no number of them.

    Example:
      >>> pgd(lambda x: x**2, jnp.array([1.0, -1.0]), 1.0, step=0.25, iterations=2)
      Array([ 1.5, -1.5], dtype=float32)

    References:
      Madry et al. 2018, Eq. 1.
    """
    whole("iterations", iterations)
    inputs = jax.lax.stop_gradient(jax.tree.map(jnp.asarray, inputs))
    slope = jax.grad(lambda moved: jnp.sum(loss(moved)))

    def clipped(moved: PyTree) -> PyTree:
        boxed = lambda x, at: jnp.clip(x, at - epsilon, at + epsilon).astype(at.dtype)  # noqa: E731
        return jax.tree.map(
            lambda x, at: jnp.clip(boxed(x, at), *bounds), moved, inputs
        )

    def ascend(_: ArrayLike, moved: PyTree) -> PyTree:
        raised = jax.tree.map(lambda x, g: x + step * jnp.sign(g), moved, slope(moved))
        return clipped(raised)

    start = inputs if key is None else clipped(_drawn(key, inputs, epsilon))
    return jax.lax.fori_loop(0, iterations, ascend, start)


def fgsm(
    loss: Callable[[PyTree], Array],
    inputs: PyTree,
    epsilon: ArrayLike,
    *,
    bounds: Bounds = (None, None),
) -> PyTree:
    """The fast gradient sign method: `pgd` in one step to a corner of the box.

    Arguments and result as there.

    Example:
      >>> fgsm(lambda x: x**2, jnp.array([1.0, -1.0]), 0.5)
      Array([ 1.5, -1.5], dtype=float32)

    References:
      Goodfellow et al. 2015, §4.
    """
    return pgd(loss, inputs, epsilon, step=epsilon, iterations=1, bounds=bounds)


def _drawn(key: Key[Array, ""], inputs: PyTree, epsilon: ArrayLike) -> PyTree:
    leaves, shape = jax.tree.flatten(inputs)
    noise = [
        jax.random.uniform(jax.random.fold_in(key, i), x.shape, x.dtype, -1, 1)
        for i, x in enumerate(leaves)
    ]
    return jax.tree.map(lambda x, u: x + epsilon * u, inputs, shape.unflatten(noise))
