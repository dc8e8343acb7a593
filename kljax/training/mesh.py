"""Meshes of devices, and several processes.

A step is parallel because its arguments are: replicate the state, shard the batch.
Models too large for one device also cut their parameters, see
`kljax.models.language.sharding`.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kljax.arguments import whole
from kljax.training.arguments import check_batch
from kljax.training.state import is_key
from kljax.typing import PyTree


def start_processes(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins this process to the others; call it before anything touches a device.

    Args:
        coordinator: "host:port" of process 0; None asks the scheduler (SLURM, Open MPI,
            Cloud TPU), as `jax.distributed.initialize` does.
        processes: how many there are; None asks the scheduler.
        process_id: which one this is, from 0; None asks the scheduler.

    Raises:
        ValueError: only some of the three were given.
    """
    given = (coordinator, processes, process_id)
    if any(value is None for value in given) and any(v is not None for v in given):
        raise ValueError(
            "give coordinator, processes and process_id together or not at all, got "
            f"{given}"
        )
    jax.distributed.initialize(coordinator, processes, process_id)


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis "data" over the devices (None: all, of all processes).

    Example:
        >>> data_mesh().axis_names
        ('data',)
    """
    return Mesh(np.asarray(jax.devices() if devices is None else devices), ("data",))


def model_mesh(
    *, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh with the axes "data", "fsdp" and "tensor"; "data" takes what is left.

    Args:
        fsdp: over how many devices examples and one axis of every matrix are cut.
        tensor: over how many heads, hidden units and vocabulary are cut; neighbours,
            for they talk most.
        devices: None is all, of all processes.

    Raises:
        ValueError: `fsdp * tensor` does not divide the number of devices.

    Example:
        >>> dict(model_mesh(devices=jax.devices()[:1]).shape)
        {'data': 1, 'fsdp': 1, 'tensor': 1}
    """
    found = np.asarray(jax.devices() if devices is None else devices)
    if found.size % (whole("fsdp", fsdp) * whole("tensor", tensor)):
        raise ValueError(
            f"fsdp is {fsdp} and tensor {tensor}; their product must divide the "
            f"number of devices, {found.size}"
        )
    return Mesh(found.reshape(-1, fsdp, tensor), ("data", "fsdp", "tensor"))


def shard_batch(batch: dict[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """The batch with its leading axis cut over "data" (and "fsdp"), scalars whole.

    Args:
        batch: the whole batch, the same on every process; each keeps its part.
        mesh: from `data_mesh` or `model_mesh`; the devices of those two axes divide
            the batch.

    Raises:
        TypeError: `batch` is no dict of arrays.
        ValueError: the mesh does not divide a leading axis.
    """
    axes = tuple(name for name in ("data", "fsdp") if name in mesh.shape)
    count = math.prod(mesh.shape[name] for name in axes)

    def place(name: str, value: Any) -> jax.Array:
        value = np.asarray(value)
        if value.ndim and value.shape[0] % count:
            raise ValueError(
                f"{count} devices must divide the batch: batch[{name!r}] has shape "
                f"{value.shape}"
            )
        spec = PartitionSpec(axes) if value.ndim else PartitionSpec()
        sharding = NamedSharding(mesh, spec)
        return jax.make_array_from_callback(
            value.shape, sharding, lambda index: value[index]
        )

    found = check_batch(batch, "batch")
    return {name: place(name, value) for name, value in found.items()}


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """A copy of the tree with every leaf on every device of the mesh.

    Args:
        tree: arrays and typed keys, the same on every process.
        mesh: from `data_mesh`.

    Example:
        >>> replicate({"w": np.ones(3)}, data_mesh())["w"].shape
        (3,)
    """
    everywhere = NamedSharding(mesh, PartitionSpec())

    def place(leaf: Any) -> jax.Array:
        if is_key(leaf):
            data = place(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        value = np.asarray(leaf)
        return jax.make_array_from_callback(
            value.shape, everywhere, lambda index: value[index]
        )

    return jax.tree.map(place, tree)
