"""Data parallelism: a mesh of one axis, and several processes.

A step is parallel because its arguments are: replicate the state, shard the batch.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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


def shard_batch(batch: dict[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """The batch with its leading axis cut over "data"; scalars go everywhere.

    Args:
        batch: the whole batch, the same on every process; each keeps its part.
        mesh: from `data_mesh`; its size divides the batch.

    Raises:
        ValueError: the mesh does not divide a leading axis.
    """
    count = mesh.shape["data"]

    def place(name: str, value: Any) -> jax.Array:
        value = np.asarray(value)
        if value.ndim and value.shape[0] % count:
            raise ValueError(
                f"{count} devices must divide the batch: batch[{name!r}] has shape "
                f"{value.shape}"
            )
        spec = PartitionSpec("data") if value.ndim else PartitionSpec()
        sharding = NamedSharding(mesh, spec)
        return jax.make_array_from_callback(
            value.shape, sharding, lambda index: value[index]
        )

    return {name: place(name, value) for name, value in batch.items()}


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
