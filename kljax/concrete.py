"""What can be said of values that are known before a program runs.

A traced value is not known, and no check here looks at one.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["concrete"]


def concrete(value: Any) -> np.ndarray | None:
    """`value` on the host, or None: it is traced, or lies with other processes.

    In its own type: what `jax.numpy` would narrow, ids of 64 bits among them, is seen
    as it was given.
    """
    array = value if hasattr(value, "dtype") else _listed(value)
    if isinstance(array, jax.core.Tracer):
        return None
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return None
    return np.asarray(array)


def _listed(value: Any) -> Any:
    leaves = jax.tree.leaves(value)
    traced = any(isinstance(x, jax.core.Tracer) for x in leaves)
    return jnp.asarray(value) if traced else np.asarray(value)
