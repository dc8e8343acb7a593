"""How far a trained network's features of its training data lie from those of others.

A diagnostic in the form of the bounds of `kljax.theory.generalization`, not a bound:
those have the laws of features *given the weights*, of which a training set is one
sample (all its examples, by symmetry, have the same law given W). Between samples KL is
infinite, so that Gaussians stand in for the laws, and the cost of matching two samples
is far from 0 where their laws are equal. **What both say of data that the network has
never seen is the floor**: measure that, too, and trust what exceeds it. At the input
nothing can exceed it in the mean, as no sample shows there what the weights know.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from kljax.arguments import concrete, expect, floating
from kljax.divergences.gaussian import Gaussian, kl
from kljax.divergences.transport import transport_cost
from kljax.theory.generalization import kl_bound, wasserstein_bound
from kljax.typing import Array, ArrayLike, Float, Int, PyTree

__all__ = ["LayerBounds", "Layered", "class_kl", "class_w1", "layer_bounds"]


@runtime_checkable
class Layered(Protocol):
    """A model that shows its layers: what `layer_bounds` asks for.

    `apply(params, x, features=True)` gives the output and the features of the layers
    before it, in order, each `[b, ...]`. `kljax.models.dense.MLP` and the denoisers do,
    through `kljax.models.functional.pure`; for what takes more arguments, or returns
    features otherwise, write the function:

        lambda params, x, features: resnet(params, statistics, x, train=False,
                                           features=features)[0]
    """

    def __call__(
        self, params: PyTree, x: Array, /, *, features: bool
    ) -> tuple[Array, Sequence[Array]]: ...


class LayerBounds(NamedTuple):
    """By layer: the input, the features, the output."""

    kl: Float[Array, "m"]
    """Of Gaussians within classes, nats."""
    kl_bound: Float[Array, "m"]
    """sqrt(2 sigma^2 kl), in units of the loss."""
    w1: Float[Array, "m"]
    """W_1 within classes, in units of the features."""
    wasserstein_bound: Float[Array, "m"] | None
    """In units of the loss; None where no norms were given."""


Labelled = tuple[ArrayLike, ArrayLike]
Group = tuple[Array, Array]
"""Points by class `[k, c, d]`, filled up with some of them, and masses `[k, c]`."""


def layer_bounds(
    apply: Layered,
    params: PyTree,
    train: Labelled,
    test: Labelled,
    *,
    norms: Float[ArrayLike, "n"] | None = None,
    sigma: float = 0.5,
    lipschitz: float = math.sqrt(2),
    noise: float = 0.1,
) -> LayerBounds:
    """Both distances between training and test features at every layer of a network.

    Jit it, or map it over stacked parameters and data of equal labels; labels must be
    known. Call it once more with unseen data in place of the training data.

    Args:
      apply: see `Layered`.
      params: of the network.
      train: examples `[n, ...]` and their labels `[n]`, whole numbers from 0 on.
      test: the same of other examples, of every class that is in `train`.
      norms: Lipschitz constants of the layers between, one fewer than there are layers
        with the input: of a dense one ``jnp.linalg.norm(kernel, ord=2)``.
      sigma, lipschitz: of the loss, see `kl_bound` and `wasserstein_bound`; 1/2 for
        that in [0, 1], sqrt(2) for cross-entropy.
      noise: see `class_kl`.

    Raises:
      ValueError: shapes, or a class that `test` lacks.
      TypeError: labels that are traced.

    Example:
      >>> from kljax.models.dense import MLP
      >>> from kljax.models.functional import functional
      >>> build = lambda rngs: MLP((2, 2, 2), rngs=rngs)
      >>> apply, params = functional(build, jax.random.key(0))
      >>> x, y = jax.random.normal(jax.random.key(1), (30, 2)), np.arange(30) % 2
      >>> found = layer_bounds(apply, params, (x, y), (x + 1, y))
      >>> found.kl.shape, bool((found.kl > 0).all())
      ((3,), True)
    """
    (x_p, y_p), (x_q, y_q) = train, test
    every = [_flat(apply, params, floating("x", x)) for x in (x_p, x_q)]

    def distances(p: Array, q: Array) -> tuple[Array, Array]:
        return class_kl(p, y_p, q, y_q, noise=noise), class_w1(p, y_p, q, y_q)

    gaps, w1 = _by_width(distances, list(zip(*every)))
    bound = None
    if norms is not None:
        bound = wasserstein_bound(w1, norms, lipschitz=lipschitz)
    return LayerBounds(gaps, kl_bound(gaps, sigma), w1, bound)


def _flat(apply: Layered, params: PyTree, x: Array) -> list[Array]:
    """The input, the features and the output, `[n, d]` each."""
    out, inside = apply(params, x, features=True)
    return [layer.reshape(len(x), -1) for layer in (x, *inside, out)]


def _by_width(of: Any, pairs: Sequence[tuple[Array, ...]]) -> tuple[Array, Array]:
    """What `of` says of every pair; layers of one width share its program."""
    widths = np.array([x.shape[1] for x, _ in pairs])
    places = [np.flatnonzero(widths == width) for width in np.unique(widths)]
    sides = (
        [jnp.stack([pairs[int(i)][s] for i in few]) for s in (0, 1)] for few in places
    )
    found = [jax.vmap(of)(*both) for both in sides]
    order = np.argsort(np.concatenate(places))
    first, second = (jnp.concatenate(values)[order] for values in zip(*found))
    return first, second


def class_kl(
    x_p: Float[ArrayLike, "n d"],
    y_p: Int[ArrayLike, "n"],
    x_q: Float[ArrayLike, "m d"],
    y_q: Int[ArrayLike, "m"],
    *,
    noise: float = 0.1,
) -> Float[Array, ""]:
    """KL of two labelled samples as Gaussians: a mean per class, one covariance.

        KL(S_p‖S_q) + ½ Σ_k share_k δ_kᵀ S_q⁻¹ δ_k,   δ_k the difference of the means

    Both sides are measured behind the same noise, which makes singular covariances
    legal and can only lower the KL of the laws.

    Args:
      x_p, y_p: points and classes of the target, whose shares weigh the classes. The
        laws of the labels themselves are not compared.
      x_q, y_q: of the other sample, with every class of the first.
      noise: variance that is added to every axis, as a share of the mean variance
        within classes of `x_q`; > 0.

    Returns:
      Nats.

    Raises:
      ValueError: shapes, noise that is not positive, a class that `y_q` lacks.
      TypeError: labels that are traced.
    """
    expect("noise", noise, noise > 0, "it must be positive")
    return _class_kl(*_grouped(x_p, y_p, x_q, y_q), noise)


@jax.jit
def _class_kl(p: Group, q: Group, share: Array, noise: ArrayLike) -> Array:
    (mean_p, cov_p), (mean_q, cov_q) = _moments(p, share), _moments(q, share)
    d = cov_q.shape[-1]
    # What is constant has a variance of rounding.
    least = jnp.finfo(cov_q.dtype).eps * jnp.mean(q[0] ** 2)
    spread = jnp.maximum(jnp.trace(cov_q) / d, least)
    more = noise * jnp.where(spread == 0, 1, spread) * jnp.eye(d, dtype=cov_q.dtype)
    cov_p, cov_q, still = cov_p + more, cov_q + more, jnp.zeros(d, cov_q.dtype)
    delta = mean_p - mean_q
    factor = jax.scipy.linalg.cho_factor(cov_q, lower=True)
    far = jnp.sum(delta.T * jax.scipy.linalg.cho_solve(factor, delta.T), axis=0)
    return kl(Gaussian(still, cov_p), Gaussian(still, cov_q)) + 0.5 * share @ far


def class_w1(
    x_p: Float[ArrayLike, "n d"],
    y_p: Int[ArrayLike, "n"],
    x_q: Float[ArrayLike, "m d"],
    y_q: Int[ArrayLike, "m"],
    *,
    epsilon: float = 0.01,
    iterations: int = 200,
) -> Float[Array, ""]:
    """W_1 of two labelled samples, Euclidean, transported within classes.

    By Sinkhorn's plan, whose cost is up to about 1 % above the optimum. It bounds the
    W_1 of (features, label) from above, as labels stay where they are. Of the laws it
    is another matter: n points of one law in d dimensions are about n^(−1/d) apart.

    Args:
      x_p, y_p, x_q, y_q: as in `class_kl`.
      epsilon: of the regularization, as a share of the mean distance; > 0.
      iterations: of Sinkhorn.

    Returns:
      In units of the points, the mean over classes by their shares in `y_p`.

    Raises:
      ValueError, TypeError: as `class_kl`.
    """
    expect("epsilon", epsilon, epsilon > 0, "it must be positive")
    return _class_w1(*_grouped(x_p, y_p, x_q, y_q), epsilon, iterations)


@partial(jax.jit, static_argnums=4)
def _class_w1(
    left: Group, right: Group, share: Array, epsilon: ArrayLike, iterations: int
) -> Array:
    (p, a), (q, b) = left, right
    center = jnp.sum(b[..., None] * q, axis=1, keepdims=True)
    p, q = p - center, q - center
    square = jnp.sum(p**2, -1)[:, :, None] + jnp.sum(q**2, -1)[:, None]
    square -= 2 * jnp.einsum("knd,kmd->knm", p, q)
    cost = jnp.sqrt(jnp.maximum(square, jnp.finfo(square.dtype).tiny))
    mean = jnp.einsum("kn,knm,km->k", a, cost, b)
    scale = epsilon * jnp.where(mean == 0, 1, mean)
    return share @ transport_cost(a, b, cost, scale, iterations=iterations)


def _grouped(x_p: Any, y_p: Any, x_q: Any, y_q: Any) -> tuple[Group, Group, Array]:
    """Both sides by class, and the shares `[k]` of the classes."""
    x_p, x_q = floating("x_p", x_p), floating("x_q", x_q)
    if x_p.ndim != 2 or x_q.ndim != 2 or x_p.shape[1] != x_q.shape[1]:
        raise ValueError(
            "x_p and x_q must be [n, d] and [m, d] with one d, got "
            f"{x_p.shape} and {x_q.shape}"
        )
    labels = [_labels(*one) for one in (("y_p", y_p, x_p), ("y_q", y_q, x_q))]
    known, counts = np.unique(labels[0], return_counts=True)
    if lacking := sorted({*known.tolist()} - {*labels[1].tolist()}):
        raise ValueError(f"y_q lacks the classes {lacking} of y_p")
    sides = []
    for x, own in zip((x_p, x_q), labels):
        every = [np.flatnonzero(own == k) for k in known]
        wide = max(map(len, every))
        rows = np.stack([np.resize(one, wide) for one in every])
        mass = np.stack([(np.arange(wide) < len(one)) / len(one) for one in every])
        sides.append((x[rows], jnp.asarray(mass, x.dtype)))
    return sides[0], sides[1], jnp.asarray(counts / counts.sum(), x_p.dtype)


def _labels(name: str, labels: Any, x: Array) -> np.ndarray:
    found = concrete(labels)
    if found is None:
        raise TypeError(f"{name} must be known when the program is made, got a tracer")
    if found.shape != x.shape[:1] or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(
            f"{name} must be {len(x)} whole numbers, a class for each example, got "
            f"{found.dtype} of shape {found.shape}"
        )
    return found


def _moments(side: Group, share: Array) -> tuple[Array, Array]:
    """Means by class `[k, d]` and the covariance within classes `[d, d]`."""
    x, mass = side
    mean = jnp.sum(mass[..., None] * x, axis=1)
    count = jnp.sum(mass > 0, axis=1)
    unbiased = share * count / jnp.maximum(count - 1, 1)
    rest = (x - mean[:, None]) * jnp.sqrt(mass * unbiased[:, None])[..., None]
    return mean, jnp.einsum("knd,kne->de", rest, rest)
