"""Array annotations used all over the library: ``Float[Array, "*b v"]`` and kin.

Axis letters: `b` batch, `t` time or token, `v` vocabulary, `k` classes or components,
`d` features, `n` and `m` points, `h` heads, `s` noise levels or steps, `*b` any leading
axes.
"""

from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, Key, PyTree

__all__ = ["Array", "ArrayLike", "Bool", "Float", "Int", "Key", "PyTree"]
