"""What functions of sampled tokens are told, checked alike."""

import jax.numpy as jnp

from kljax.arguments import as_array, floating
from kljax.typing import Array, ArrayLike, Bool, Float

__all__ = ["counted"]


def counted(
    where: Bool[ArrayLike, "*b t"] | None, **arrays: Float[ArrayLike, "*b t"]
) -> tuple[list[Float[Array, "*b t"]], Bool[Array, "*b t"]]:
    """Numbers of the same tokens in one type, 0 where they do not count; and where.

    Args:
      where: which tokens count; None: all.
      **arrays: by the names that messages give them.

    Raises:
      ValueError: shapes that differ. TypeError: no real numbers.

    Example:
      >>> (x,), _ = counted(jnp.array([True, False]), x=jnp.array([1.0, jnp.nan]))
      >>> x.tolist()
      [1.0, 0.0]
    """
    found = {name: floating(name, value) for name, value in arrays.items()}
    (first, one), *_ = found.items()
    if where is None:
        counts = jnp.ones(one.shape, bool)
    else:
        counts = as_array("where", where).astype(bool)
    for name, array in (found | {"where": counts}).items():
        if array.shape != one.shape or not one.ndim:
            raise ValueError(
                f"{first} {one.shape} and {name} {array.shape} must be [*b, t], one "
                "number for each of the same tokens"
            )
    dtype = jnp.result_type(*found.values())
    return [jnp.where(counts, x, 0).astype(dtype) for x in found.values()], counts
