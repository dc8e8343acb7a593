"""The state of a run: one frozen pytree whose parts are dicts keyed by role."""

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kljax.typing import Array, Int, Key, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a run needs to go on; what a checkpoint holds.

    `params`, `model_state` (BatchNorm statistics and the like), `opt_state` and `ema`
    are dicts keyed by role. `step` counts finished steps, `aux` is whatever the
    objectives carry along, `key` never changes: the steps fold their number into it.
    A sweep stacks several states along a first axis, `step` and `key` included.
    """

    step: Int[Array, "*sweep"]
    params: dict[str, PyTree]
    model_state: dict[str, PyTree]
    opt_state: dict[str, PyTree]
    ema: dict[str, PyTree]
    aux: PyTree
    key: Key[Array, "*sweep"]


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed PRNG key (which NumPy cannot hold)."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def state_digest(tree: PyTree) -> str:
    """SHA-256 over the paths, types, shapes and bytes of a tree's leaves.

    Two runs agree bit for bit exactly when their digests are equal.

    Args:
        tree: any pytree of arrays, typed keys included.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> state_digest({"w": np.zeros(2)}) == state_digest({"w": np.ones(2)})
        False
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        value = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
        head = f"{jax.tree_util.keystr(path)}|{value.dtype}|{value.shape}|"
        digest.update(head.encode())
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
