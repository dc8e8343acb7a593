"""A module as a pure function and a dict of arrays.

Training steps, `vmap` over stacked seeds, exponential averages and checkpoints all
want parameters that are a plain pytree. The module is split once, outside; the pure
function merges it again at trace time, which costs nothing at run time. What a module
carries beside its parameters, running statistics, is a second such dict.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, overload

import jax
import numpy as np
from flax import nnx

from kljax.typing import Array, ArrayLike, Key, PyTree

__all__ = [
    "PureModule",
    "StatefulModule",
    "functional",
    "parameter_count",
    "pure",
    "random_params",
]


@dataclass(frozen=True)
class PureModule:
    """The structure of a module; calling it with parameters runs the module.

    It hashes, so that it may be closed over or be a static argument of `jax.jit`.
    """

    graphdef: nnx.GraphDef

    def __call__(self, params: PyTree, *args: Any, **kwargs: Any) -> Any:
        """Run the module's `__call__` with `params` in place of its own."""
        return nnx.merge(self.graphdef, params)(*args, **kwargs)


@dataclass(frozen=True)
class StatefulModule:
    """The structure of a module with running statistics; it hashes, too."""

    graphdef: nnx.GraphDef

    def __call__(
        self,
        params: PyTree,
        model_state: PyTree,
        *args: Any,
        train: bool,
        where: ArrayLike | None = None,
        **kwargs: Any,
    ) -> tuple[Any, PyTree]:
        """What the module says, and its statistics after that.

        Args:
          params: from `initial`, or what a step made of them.
          model_state: statistics, as `initial` gave them or this function.
          args, kwargs: for the module's `__call__`, which also takes `train`, `where`.
          train: normalize by the batch and move the statistics; else by the statistics.
          where: booleans [b], the examples that count: `weights > 0`. The others move
            nothing.

        Returns:
          The output, and the statistics; unchanged where not in training.
        """
        model = nnx.merge(self.graphdef, params, model_state)
        out = model(*args, train=train, where=where, **kwargs)
        return out, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


Build = Callable[[nnx.Rngs], nnx.Module]
Initial = Callable[[Array], Any]


@overload
def pure(
    build: Build, *, stateful: Literal[False] = False
) -> tuple[PureModule, Initial]:
    """``(apply, initial)``; ``apply(params, *inputs)``."""


@overload
def pure(build: Build, *, stateful: Literal[True]) -> tuple[StatefulModule, Initial]:
    """The same with running statistics; ``initial(key)`` gives them as well."""


def pure(
    build: Build, *, stateful: bool = False
) -> tuple[PureModule | StatefulModule, Initial]:
    """A module's pure function and the jitted draw of its initial values.

    `apply(params, *args) = model(*args)` with `params = initial(key)`, a nested dict of
    arrays without any Flax type in it. One compiled program draws all values (a U-Net
    built layer by layer takes 15 s of small compilations, this 2 s), and nothing is
    computed before `initial` is called.

    With running statistics (`BatchNorm`) it is `params, model_state = initial(key)` and

        out, model_state = apply(params, model_state, *args, train=..., where=...)

    A loss returns the new ones as `Loss(..., model_state=model_state)`; the training
    step carries them.

    Args:
      build: makes the module from random streams.
      stateful: whether it holds running statistics (`nnx.BatchStat`) beside parameters;
        its `__call__` then takes `train` and `where`, see `StatefulModule`.

    Returns:
      `apply`, and `initial(key)`. `vmap` over keys gives stacked parameters:
      `jax.vmap(initial)(keys)`.

    Raises:
      TypeError: the module holds variables of another kind (statistics without
        `stateful`, streams of random numbers); names them.

    Example:
      >>> from kljax.models.mlp import MLPDenoiser
      >>> apply, initial = pure(lambda rngs: MLPDenoiser(2, width=8, rngs=rngs))
      >>> params = initial(jax.random.key(0))
      >>> apply(params, jax.numpy.ones((5, 2)), jax.numpy.zeros(5)).shape
      (5, 2)
    """
    structure = []

    def initial(key: Key[Array, ""]) -> Any:
        model = build(nnx.Rngs(key))
        graphdef, params, statistics, others = nnx.split(
            model, nnx.Param, nnx.BatchStat, ...
        )
        _check_kinds(nnx.to_flat_state(others))
        if not stateful:
            _check_kinds(nnx.to_flat_state(statistics))
        structure.append(graphdef)
        found = nnx.to_pure_dict(params)
        return (found, nnx.to_pure_dict(statistics)) if stateful else found

    jax.eval_shape(initial, jax.random.key(0))
    kind = StatefulModule if stateful else PureModule
    return kind(structure[0]), jax.jit(initial)


def _check_kinds(found: Any) -> None:
    """Raises where a module holds what its pure function could not give back."""
    for path, variable in found:
        name, kind = ".".join(map(str, path)), type(variable).__name__
        remedy = "build the module without it and pass random keys as arguments"
        if isinstance(variable, nnx.BatchStat):
            remedy = "its running statistics need pure(build, stateful=True)"
        raise TypeError(f"the module holds {name} of kind {kind}: {remedy}")


def functional(build: Build, key: Key[Array, ""]) -> tuple[PureModule, dict]:
    """`pure` for one set of parameters: `apply` and `initial(key)`.

    Args:
      build: makes the module from random streams, see `pure`.
      key: random key of the initial values.

    Returns:
      `apply`, to be called as `apply(params, *args, **kwargs)`, and `params`.

    Example:
      >>> from kljax.models.mlp import MLPDenoiser
      >>> build = lambda rngs: MLPDenoiser(2, width=8, rngs=rngs)
      >>> apply, params = functional(build, jax.random.key(0))
      >>> sorted(params)
      ['blocks', 'condition', 'dense_in', 'dense_out']
    """
    apply, initial = pure(build)
    return apply, initial(key)


def parameter_count(params: PyTree) -> int:
    """How many numbers a pytree of parameters holds.

    Example:
      >>> parameter_count({"w": jax.numpy.ones((2, 3)), "b": jax.numpy.ones(3)})
      9
    """
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def random_params(initial: Callable[..., PyTree], seed: int) -> PyTree:
    """Parameters without any training for measurements of time: nothing is compiled.

    Args:
      initial: of `pure`.
      seed: of NumPy's generator.

    Returns:
      Float32 as `initial` shapes it: normal with deviation 0.02, ones where it is a
      vector or a number.

    Example:
      >>> make = lambda key: {"w": jax.numpy.zeros((3, 2)), "scale": jax.numpy.zeros(2)}
      >>> params = random_params(make, 0)
      >>> params["w"].shape, params["scale"].tolist()
      ((3, 2), [1.0, 1.0])
    """
    random = np.random.default_rng(seed)

    def leaf(shape: jax.ShapeDtypeStruct) -> Array:
        if len(shape.shape) < 2:
            return jax.numpy.ones(shape.shape, shape.dtype)
        values = random.standard_normal(shape.shape, np.float32)
        return jax.numpy.asarray(0.02 * values)

    return jax.tree.map(leaf, jax.eval_shape(initial, jax.random.key(0)))
