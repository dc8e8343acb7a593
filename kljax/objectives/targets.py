"""Targets: what a policy is to become, as unnormalized laws.

A target is an object that scores sequences, `log_score(log_prior, evidence)`: log P of
each, from its log-probability under the prior and what is known of it (a reward,
features, a constraint, other models' log-probabilities). P need not sum to 1:

    p(x) = P(x) / Z,   Z = Σ_x P(x)

Where nothing can be enumerated `kljax.objectives.partition` estimates Z.
Log-probabilities are those of whole sequences (or of tokens, for targets by token);
shapes are the caller's, `[b]` or `[*b, n]`, features on a last axis of their own.

References: Korbak et al. 2022, arXiv 2205.11275; Khalifa et al. 2021, "A distributional
approach to controlled text generation" (GDC); Go et al. 2023, "Aligning language models
with preferences through f-divergence minimization", arXiv 2302.08215, whose base model
a(x) is the prior here.
"""

import abc
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from kljax.arguments import check_positive, floating, whole
from kljax.objectives.ratio import effective_fraction
from kljax.typing import Array, ArrayLike, Bool, Float, Int

__all__ = [
    "Constraint",
    "Exponential",
    "Mixture",
    "Moments",
    "Product",
    "Target",
    "Teacher",
    "Tilt",
    "fit_moments",
]


class Target(Protocol):
    """What all targets offer."""

    def log_score(self, log_prior: ArrayLike, evidence: ArrayLike) -> Array:
        """log P, unnormalized, −inf for what must not be."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tilt:
    """Prior times evidence, ``P = prior · e^{r/β}``: the optimum of a KL penalty.

    Args:
      beta: positive, may be traced; broadcasts with the rewards.

    Example:
      >>> float(Tilt(0.5).log_score(-1.0, 2.0))
      3.0
    """

    beta: ArrayLike

    def __post_init__(self):
        if isinstance(self.beta, int | float):
            check_positive("beta", self.beta)

    def log_score(
        self, log_prior: Float[ArrayLike, "*b"], reward: Float[ArrayLike, "*b"]
    ) -> Float[Array, "*b"]:
        """log P from the reward of each sequence."""
        evidence = floating("reward", reward) / self.beta
        return floating("log_prior", log_prior) + evidence


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Exponential:
    """An exponential family over the prior, ``P = prior · e^{λ·φ}``.

    With λ from `fit_moments` it is the law of least KL to the prior among those with
    given means of the features φ (GDC).

    Args:
      weights: λ, one per feature.

    Example:
      >>> features = jnp.array([1.0, 0.5])
      >>> float(Exponential(jnp.array([1.0, 2.0])).log_score(0.0, features))
      2.0

    Reference: Khalifa et al. 2021, Eq. 1.
    """

    weights: Float[Array, "k"]

    def log_score(
        self, log_prior: Float[ArrayLike, "*b"], features: Float[ArrayLike, "*b k"]
    ) -> Float[Array, "*b"]:
        """log P from the features of each sequence."""
        evidence = floating("features", features) @ self.weights
        return floating("log_prior", log_prior) + evidence


@dataclass(frozen=True)
class Constraint:
    """The prior where all constraints hold, ``P = prior · Π_k φ_k``, nothing elsewhere.

    The limit of `Exponential` as λ grows, and of a binary reward as β vanishes. Reverse
    KL and its kin are infinite to it: they need a `Tilt`.

    Example:
      >>> Constraint().log_score(jnp.zeros(2), jnp.array([[True], [False]])).tolist()
      [0.0, -inf]
    """

    def log_score(
        self, log_prior: Float[ArrayLike, "*b"], allowed: Bool[ArrayLike, "*b k"]
    ) -> Float[Array, "*b"]:
        """log P from what each sequence satisfies."""
        mask = jnp.asarray(allowed)
        if mask.dtype != jnp.bool_:
            raise TypeError(f"allowed must be boolean, got {mask.dtype}")
        return jnp.where(mask.all(axis=-1), floating("log_prior", log_prior), -jnp.inf)


@dataclass(frozen=True)
class Teacher:
    """Another model's law: distillation. The prior takes no part.

    Example:
      >>> float(Teacher().log_score(-1.0, -2.0))
      -2.0
    """

    def log_score(
        self, log_prior: Float[ArrayLike, "*b"], log_teacher: Float[ArrayLike, "*b"]
    ) -> Float[Array, "*b"]:
        """log P, the teacher's log-probability of each sequence."""
        del log_prior
        return floating("log_teacher", log_teacher)


@dataclass(frozen=True)
class _OfModels(abc.ABC):
    weights: Float[Array, "k"] | None = None

    def log_score(
        self, log_prior: Float[ArrayLike, "*b"], log_others: Float[ArrayLike, "*b k"]
    ) -> Float[Array, "*b"]:
        """log P, from the others' log-probabilities of each sequence."""
        return self._joined(*_beside(log_prior, log_others, self.weights))

    @abc.abstractmethod
    def _joined(self, every: Array, weights: Array) -> Array:
        """Log-probabilities of all models, on the last axis, and their shares."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mixture(_OfModels):
    """The arithmetic mixture of the prior and other models, ``Σ w_k p_k``; normalized.

    Args:
      weights: of the prior and of the others, k + 1 positive numbers, made to sum to 1;
        None: equal ones.

    Example:
      >>> others = jnp.log(jnp.array([0.6]))
      >>> round(float(jnp.exp(Mixture().log_score(jnp.log(0.2), others))), 4)
      0.4
    """

    def _joined(self, every: Array, weights: Array) -> Array:
        return jax.nn.logsumexp(every + jnp.log(weights), axis=-1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Product(_OfModels):
    """The geometric mixture of the prior and other models, ``Π p_k^{w_k}``.

    By token it is what a soup of models with parameters near each other comes to.

    Args:
      weights: as in `Mixture`.

    Example:
      >>> others = jnp.log(jnp.array([0.8]))
      >>> round(float(jnp.exp(Product().log_score(jnp.log(0.2), others))), 4)
      0.4
    """

    def _joined(self, every: Array, weights: Array) -> Array:
        return jnp.sum(jnp.where(weights == 0, 0, every * weights), axis=-1)


def _beside(prior: ArrayLike, others: ArrayLike, weights: ArrayLike | None):
    prior, others = floating("log_prior", prior), floating("log_others", others)
    if others.shape[:-1] != prior.shape or not others.ndim:
        raise ValueError(
            f"log_others has shape {others.shape}; expected {(*prior.shape, 'k')}, the "
            "models on the last axis"
        )
    every = jnp.concatenate([prior[..., None], others], axis=-1)
    count = every.shape[-1]
    if weights is None:
        return every, jnp.full(count, 1 / count, every.dtype)
    shares = floating("weights", weights).astype(every.dtype)
    if shares.shape != (count,):
        words = f"weights has shape {shares.shape}; expected {(count,)}, the prior's"
        raise ValueError(f"{words} first")
    return every, shares / shares.sum()


# ---------------------------------------------------------------------------- moments


class Moments(NamedTuple):
    """An exponential family with given means."""

    target: Exponential
    means: Float[Array, "k"]
    """Of the features under it, as the weights see them."""
    error: Float[Array, ""]
    """The largest of their distances from what was asked."""
    effective: Float[Array, ""]
    """Effective sample size of the tilted weights."""
    steps: Int[Array, ""]


def fit_moments(
    log_weights: Float[ArrayLike, "n"],
    features: Float[ArrayLike, "n k"],
    means: Float[ArrayLike, "k"],
    *,
    tolerance: float = 1e-9,
    steps: int = 50,
) -> Moments:
    """λ of `Exponential` such that the features have the given means.

    By Newton's method on the weighted covariance, a step halved until it comes nearer:
    quadratic at the end, where a gradient step of GDC needs hundreds.

    Args:
      log_weights: log-probabilities of all n outcomes: exact. Or log prior/q of n
        samples of q, zeros for samples of the prior: self-normalized importance
        sampling, right up to noise of 1/√n. Need not be normalized.
      features: φ of each.
      means: μ, inside the range of the features: at its edge λ is infinite, and
        `Constraint` is the target.
      tolerance: the error to end at (float32 comes to about 1e-6).
      steps: Newton's, at most.

    Returns:
      `Moments`; look at `error`, which stays large where no λ is there.

    Raises:
      ValueError: shapes.

    Example:
      >>> phi, means = jnp.array([[0.0], [1.0]]), jnp.array([0.75])
      >>> found = fit_moments(jnp.zeros(2), phi, means)
      >>> round(float(found.target.weights[0]), 4)  # log 3
      1.0986

    Reference: Khalifa et al. 2021, section 2.2; Newton's method is ours.
    """
    log_w, phi = floating("log_weights", log_weights), floating("features", features)
    mu = floating("means", means)
    if phi.ndim != 2 or log_w.shape != phi.shape[:1] or mu.shape != phi.shape[1:]:
        raise ValueError(
            f"log_weights {log_w.shape}, features {phi.shape} and means {mu.shape}; "
            "expected [n], [n, k] and [k]"
        )
    whole("steps", steps, 0)
    return _newton(log_w, phi, mu, tolerance, steps)


@jax.jit
def _newton(log_w, phi, mu, tolerance, steps) -> Moments:
    kept = jnp.where(log_w[:, None] == -jnp.inf, 0, phi) - mu
    share = lambda weights: jax.nn.softmax(log_w + kept @ weights)  # noqa: E731
    residual = lambda weights: share(weights) @ kept  # noqa: E731
    size = lambda weights: jnp.max(abs(residual(weights)), initial=0)  # noqa: E731
    length = lambda weights: jnp.sum(residual(weights) ** 2)  # noqa: E731

    def unfinished(state):
        weights, moved, taken = state
        return moved & (taken < steps) & (size(weights) > tolerance)

    def step(state):
        weights, _, taken = state
        w, off = share(weights), residual(weights)
        spread = (w[:, None] * (kept - off)).T @ (kept - off)
        move = -jnp.linalg.pinv(spread, hermitian=True) @ off
        here = length(weights)
        nearer = lambda scale: length(weights + scale * move) < here  # noqa: E731
        scale = jax.lax.while_loop(
            lambda s: ~nearer(s) & (s > 1e-6), lambda s: s / 2, jnp.ones((), off.dtype)
        )
        better = nearer(scale)
        return weights + jnp.where(better, scale, 0) * move, better, taken + 1

    start = jnp.zeros(mu.shape, kept.dtype), jnp.array(True), jnp.array(0)
    weights, _, taken = jax.lax.while_loop(unfinished, step, start)
    log_tilted = log_w + kept @ weights
    effective = len(log_w) * effective_fraction(log_tilted)
    means = residual(weights) + mu
    return Moments(Exponential(weights), means, size(weights), effective, taken)
