"""Where a transformer's parameters and activations live on a mesh of devices.

Axes of the mesh, all optional: "data" (examples), "fsdp" (examples, and one axis of
every matrix), "tensor" (heads, hidden units, vocabulary). Parameters are placed once;
`jax.jit` derives the rest, and inside `jax.set_mesh(mesh)` the activations between the
layers are pinned to their examples.

References: Shoeybi et al. 2019, "Megatron-LM" (tensor); Rajbhandari et al. 2020,
"ZeRO" (fsdp); Xu et al. 2021, "GSPMD".
"""

import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kljax.models.language.configuration import TransformerConfig
from kljax.typing import Array, PyTree

__all__ = ["for_lookup", "on_examples", "partition_specs", "shard_params"]

# Matrices whose columns belong to heads or hidden units, and those whose rows do.
COLUMNS = ("query", "key", "value", "gate", "up", "head")
ROWS = ("output", "down")
EXAMPLES = ("data", "fsdp")


def partition_specs(config: TransformerConfig, params: PyTree, mesh: Mesh) -> PyTree:
    """One `PartitionSpec` per parameter.

    Columns of query, key, value, gate, up and head (rows of output and down) are cut
    over "tensor", the other axis over "fsdp". Norms, router and position table are
    whole everywhere; so is an axis that the mesh does not divide, and heads are never
    cut through.

    Args:
      config: of the model.
      params: arrays or shapes (`jax.eval_shape(initial, key)`), in either layout.
      mesh: its axes named "fsdp" and "tensor" are used, each if it is there.

    Returns:
      A pytree of specs shaped like `params`.

    Example:
      >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("tensor",))
      >>> config = TransformerConfig(vocab_size=9, width=8, depth=1, heads=2)
      >>> params = {"head": {"kernel": jax.numpy.ones((8, 9))}}
      >>> partition_specs(config, params, mesh)["head"]["kernel"]
      P(None, 'tensor')
    """
    tensor = mesh.shape.get("tensor", 1)

    def spec(path: tuple[Any, ...], leaf: Any) -> PartitionSpec:
        part, kind = (str(entry.key) for entry in path[-2:])
        heads = {"key": config.kv_heads, "value": config.kv_heads}
        if part in ("query", "output"):
            heads[part] = config.heads
        across = "tensor" if heads.get(part, tensor) % tensor == 0 else None
        if part == "embedding" or (part in ROWS and kind == "kernel"):
            axes = (across, "fsdp")
        elif part in COLUMNS:
            axes = ("fsdp", across) if kind == "kernel" else (across,)
        else:
            axes = ()
        # Experts and stacked layers stand in front.
        axes = (None,) * (len(leaf.shape) - len(axes)) + axes
        return PartitionSpec(
            *(
                axis if axis in mesh.shape and not size % mesh.shape[axis] else None
                for axis, size in zip(axes, leaf.shape, strict=True)
            )
        )

    return jax.tree_util.tree_map_with_path(spec, params)


def shard_params(config: TransformerConfig, params: PyTree, mesh: Mesh) -> PyTree:
    """The parameters, cut over the mesh as `partition_specs` says.

    Args:
      config: of the model.
      params: arrays, in either layout.
      mesh: with axes among "data", "fsdp" and "tensor".

    Example:
      >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("fsdp",))
      >>> config = TransformerConfig(vocab_size=9, width=8, depth=1, heads=2)
      >>> params = {"head": {"kernel": jax.numpy.ones((8, 9))}}
      >>> shard_params(config, params, mesh)["head"]["kernel"].shape
      (8, 9)
    """
    specs = partition_specs(config, params, mesh)
    return jax.tree.map(
        lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)),
        params,
        specs,
    )


def on_examples(x: Array) -> Array:
    """Pins the first axis to the examples' mesh axes; does nothing without a mesh.

    It holds the compiler to gathering the "fsdp" parts of a matrix rather than moving
    activations around.
    """
    return _pinned(x, (EXAMPLES,) + ((),) * (x.ndim - 1))


def for_lookup(table: Array, axis: int) -> Array:
    """Pins a table whose vocabulary is `axis`: cut there alone, before it is read."""
    return _pinned(table, tuple(("tensor",) * (i == axis) for i in range(table.ndim)))


def _pinned(x: Array, wanted: tuple[tuple[str, ...], ...]) -> Array:
    """A sharding constraint of those mesh axes that are there and divide."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    automatic = [
        name
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind == jax.sharding.AxisType.Auto
    ]
    spec = []
    for names, size in zip(wanted, x.shape, strict=True):
        found = tuple(name for name in names if name in automatic)
        divides = size % math.prod(mesh.shape[name] for name in found) == 0
        spec.append(found if found and divides else None)
    if not automatic or (wanted[0] == EXAMPLES and spec[0] is None):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))
