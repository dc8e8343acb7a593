"""A list of layers, and the same layers stacked on a leading axis.

A stack is scanned: one layer is compiled, whatever the depth. A list is unrolled: on a
CPU decoding from it is half again as fast, for a scan copies every layer's weights and
cache out of the stack.
"""

import jax
import jax.numpy as jnp

from kljax.arguments import whole
from kljax.typing import PyTree

__all__ = ["is_stacked", "stack_layers", "unstack_layers"]


def is_stacked(params: PyTree) -> bool:
    """Whether the layers of these parameters are stacked."""
    return "stacked" in params["layers"]


def stack_layers(params: PyTree, period: int = 1) -> dict:
    """`layers.<i>.NAME` becomes `layers.stacked.<i % period>.NAME[i // period]`.

    Args:
      params: of a transformer, with a list of layers.
      period: `moe_layers` of its config where it has experts; layers that are so many
        apart have the same parts.

    Returns:
      A new dict; other entries are the same arrays. What is stacked already is
      returned as it is.

    Raises:
      ValueError: `period` does not divide the depth, or the layers differ.

    Example:
      >>> params = {"layers": {i: {"w": jnp.ones(3)} for i in range(4)}}
      >>> stack_layers(params)["layers"]["stacked"][0]["w"].shape
      (4, 3)
    """
    if is_stacked(params):
        return params
    layers = [params["layers"][i] for i in range(len(params["layers"]))]
    if len(layers) % whole("period", period):
        raise ValueError(f"period is {period}; it must divide {len(layers)} layers")
    groups = {}
    for i in range(period):
        group = layers[i::period]
        structures = {jax.tree.structure(layer) for layer in group}
        if len(structures) > 1:
            raise ValueError(
                f"layers {period} apart have different parts; give as period the "
                "config's moe_layers"
            )
        groups[i] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *group)
    return {**params, "layers": {"stacked": groups}}


def unstack_layers(params: PyTree) -> dict:
    """The inverse of `stack_layers`.

    Args:
      params: of a transformer, in either layout.

    Returns:
      A new dict with a list of layers; other entries are the same arrays.

    Example:
      >>> params = {"layers": {"stacked": {0: {"w": jnp.ones((4, 3))}}}}
      >>> sorted(unstack_layers(params)["layers"])
      [0, 1, 2, 3]
    """
    if not is_stacked(params):
        return params
    groups = params["layers"]["stacked"]
    period, count = len(groups), len(jax.tree.leaves(groups)[0])
    layers = {
        i: jax.tree.map(lambda leaf, n=i // period: leaf[n], groups[i % period])
        for i in range(period * count)
    }
    return {**params, "layers": layers}
