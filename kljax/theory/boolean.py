"""Classes of Boolean functions under noisy labels, mixed exactly.

A class is a table of what S functions say at m inputs, drawn from a prior over networks
say: with its draws alike it is a finite class, for which everything is exact. Labels
are a function's with a share of them wrong, p(y = f(x)|x) = 1 − noise, and inputs are
uniform, so that a function's divergence from the law of the labels is the share of
inputs at which it is wrong, times (1 − 2 noise) log((1 − noise) / noise).

References: as `kljax.theory.universal`, (5) and (9).
"""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from kljax.arguments import whole
from kljax.theory.universal import MixtureRegret, mixture_regret
from kljax.typing import Array, ArrayLike, Bool, Float, Int, Key, PyTree

__all__ = ["boolean_inputs", "drawn_functions", "label_divergence", "label_regret"]


def boolean_inputs(bits: int) -> Float[np.ndarray, "m bits"]:
    """All ``m = 2^bits`` inputs, of -1 and 1.

    Example:
      >>> boolean_inputs(2).tolist()
      [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """
    ends = [(-1.0, 1.0)] * whole("bits", bits)
    return np.array([*itertools.product(*ends)], np.float32)


def drawn_functions(
    model: tuple[Callable[[PyTree, Array], Array], Callable[[Array], PyTree]],
    inputs: Float[ArrayLike, "m bits"],
    key: Key[Array, ""],
    count: int,
    *,
    together: int = 100,
) -> Bool[Array, "s m"]:
    """What models drawn from their prior say: where their first output is positive.

    Args:
      model: `(apply, initial)`; `initial(key)` draws parameters from the prior.
      inputs: as `apply` takes them.
      key: of the draws.
      count: s, how many.
      together: how many are worked out at a time.

    Example:
      >>> model = (lambda w, x: x @ w, lambda key: jax.random.normal(key, (2, 1)))
      >>> drawn_functions(model, boolean_inputs(2), jax.random.key(0), 5).shape
      (5, 4)
    """
    apply, initial = model
    keys = jax.random.split(key, whole("count", count))
    one = lambda key: apply(initial(key), jnp.asarray(inputs))[:, 0] > 0  # noqa: E731
    return jax.lax.map(one, keys, batch_size=together)


def _odds(noise: float) -> float:
    if not 0 < noise < 0.5:
        raise ValueError(f"noise must lie in (0, 0.5), got {noise}")
    return math.log((1 - noise) / noise)


def label_divergence(
    functions: Bool[Array, "s m"], truth: Bool[Array, "m"], noise: float
) -> Float[Array, "s"]:
    """KL from the noisy labels of one function to those of others, mean over inputs.

    Args:
      functions: the class.
      truth: the function that labels are of.
      noise: share of wrong labels, in (0, 0.5).

    Returns:
      Nats per label, for `universal.soft_bound` and its like.

    Raises:
      ValueError: a noise out of range.

    Example:
      >>> class_ = jnp.array([[True, True], [True, False]])
      >>> found = label_divergence(class_, class_[0], 0.05)
      >>> [round(float(d), 3) for d in found]
      [0.0, 1.325]
    """
    return jnp.mean(functions != truth, axis=1) * (1 - 2 * noise) * _odds(noise)


def label_regret(
    functions: Bool[Array, "s m"],
    truth: Bool[Array, "m"],
    x: Int[Array, "n"],
    flipped: Bool[Array, "n"],
    noise: float,
    stops: tuple[int, ...],
) -> MixtureRegret:
    """`universal.mixture_regret` of the class, all alike, on noisy labels.

    Errors are counted by one product of matrices for all functions.

    Args:
      functions, truth, noise: as in `label_divergence`.
      x: which inputs were seen, in their order.
      flipped: which of their labels are wrong.
      stops: after how many labels the regret is wanted, ascending; the last is n.

    Returns:
      `MixtureRegret` at every stop.

    Raises:
      ValueError: shapes, stops or a noise out of range.

    Example:
      >>> class_ = jnp.array([[True, True], [False, False]])
      >>> seen, right = jnp.array([0, 1, 1]), jnp.zeros(3, bool)
      >>> found = label_regret(class_, class_[0], seen, right, 0.05, (1, 3))
      >>> [round(float(r), 4) for r in found.regret]
      [0.6419, 0.693]
    """
    odds, blocks = _odds(noise), np.diff((0, *stops))
    if x.shape != flipped.shape or sum(blocks) != len(x) or min(blocks) < 1:
        raise ValueError(
            f"x has shape {x.shape}, flipped {flipped.shape} and the stops are {stops};"
            " expected ascending ones up to n"
        )
    block = np.repeat(np.arange(len(blocks)), blocks)
    labels = jnp.asarray(truth)[x] ^ flipped
    count = lambda a: jax.ops.segment_sum(a.astype(jnp.float32), block, len(blocks))  # noqa: E731
    # A function is wrong where it says 1 and the label is 0, or 0 and it is 1.
    signed = jnp.zeros((len(blocks), len(truth))).at[block, x].add(1.0 - 2 * labels)
    said = jnp.asarray(functions, jnp.float32)
    wrong = count(labels)[:, None] + signed @ said.T
    # What all laws give to labels of any kind is left out on both sides.
    return mixture_regret(-odds * wrong, -odds * count(flipped))
