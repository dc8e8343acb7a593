"""What a function of log-probabilities estimates: the name of its expected gradient.

Every sequence of a `Space` is summed over, in float64, so that the expectation of the
gradient is exact; it is compared with the derivatives of every divergence of
`kljax.generators.names`, local and of whole sequences, and is one of them, a sum of two
with small rational factors, zero, or biased.
"""

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Mapping
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from kljax.generators import get, names
from kljax.objectives.policy.space import Outcomes, Samples, Space, mean
from kljax.typing import Array, Float

__all__ = ["Certificate", "Undecided", "certify", "certify_all", "targets"]

EXACT, BIASED = 1e-10, 1e-3
"""Most that an exact combination leaves of the gradient, least that a bias does."""
LARGEST = 1000
"""Of the numerators and denominators of factors."""


class Undecided(ArithmeticError):
    """A gradient that is near to a combination of targets and is not it."""


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What an expected gradient is; `str` says it in a sentence.

    Attributes:
      terms: factors and names of the divergences whose derivatives add up to it; none
        where it is zero; None where it is biased.
      residual: what the best of all combinations leaves, over the gradient's norm.
      cosines: of the angle to each divergence's derivative, by its name.
      teacher: whether the gradient changes with the teacher at all.

    Example:
      >>> terms = (Fraction(1), "local reverse"), (Fraction(-1), "local forward")
      >>> Certificate(terms, residual=0.0, cosines={}, teacher=True).label
      'local reverse - local forward'
    """

    terms: tuple[tuple[Fraction, str], ...] | None
    residual: float
    cosines: Mapping[str, float]
    teacher: bool

    @property
    def label(self) -> str:
        """``local reverse``, ``2 sequence forward``, ``zero``, ``biased``, ..."""
        if self.terms is None:
            return "biased"
        words = []
        for factor, name in self.terms:
            size = "" if abs(factor) == 1 else f"{abs(factor)} "
            words += ["-" if factor < 0 else "+", f"{size}{name}"]
        return " ".join(words).removeprefix("+ ") or "zero"

    def __str__(self):
        deaf = "" if self.teacher else " The teacher does not enter it."
        if self.terms is None:
            nearest = max(self.cosines, key=lambda name: abs(self.cosines[name]))
            near = f"{nearest} is nearest, at a cosine of {self.cosines[nearest]:.3f}"
            return f"Its gradient is biased, that of no divergence: {near}.{deaf}"
        if not self.terms:
            return f"Its gradient is zero on average.{deaf}"
        return f"Its gradient is, on average, exactly that of: {self.label}.{deaf}"


def certify(function: Callable[..., Array], space: Space) -> Certificate:
    """What the gradient of a function of log-probabilities is on average.

    Args:
      function: takes ``log_q``, ``log_p``, ``log_behavior`` ``[n, t]`` and ``where`` by
        these names, as a `kljax.objectives.policy.penalty.Penalty` does; also
        ``outcomes``, the `Outcomes` of all tokens, if it has an argument of that name.
        It returns losses ``[n, t]``, summed over the tokens that count, or ``[n]``.
        Where sampling is on policy, ``log_behavior`` equals ``log_q``.
      space: of float64, sampled from the policy that the samples are to come from.

    Returns:
      The `Certificate`. Local divergences are those at the prefixes that are sampled.

    Raises:
      Undecided: the best combination leaves between 1e-10 and 1e-3 of the gradient.
      ValueError: losses of another shape; a space of less than float64.

    Example:
      >>> from kljax.objectives.policy import penalty
      >>> with jax.enable_x64(True):
      ...     space = Space.drawn(jax.random.key(0), 3, 2)
      ...     print(certify(penalty.score("le_cam"), space))
      Its gradient is, on average, exactly that of: local le_cam.

    References:
      Go et al. 2023, theorem 1; Tang & Munos 2025, "On a few pitfalls in KL divergence
      gradient estimation for RL".
    """
    return certify_all({"function": function}, space)["function"]


def certify_all(
    functions: Mapping[str, Callable[..., Array]], space: Space
) -> dict[str, Certificate]:
    """`certify` of many functions at once; the names in an `Undecided` are theirs."""
    if space.log_p.dtype != jnp.float64:
        raise ValueError(
            f"certify needs a space of float64, got {space.log_p.dtype}: draw it, and "
            "certify, under jax.enable_x64(True)"
        )
    candidates = targets(space)
    other = dataclasses.replace(space, log_p=jnp.roll(space.log_p, 1, axis=-1))
    largest = np.abs(space.jacobian).max()
    given = tuple(functions.values())
    both = [
        jax.device_get(_slopes(given, one.samples, one.outcomes, one.weights))
        for one in (space, other)
    ]
    found = {}
    for name, mine, others in zip(functions, *both):
        # Zero is small beside what would add up if nothing cancelled.
        sizes = sum(np.abs(x).sum() for x in mine)
        changes = sum(np.abs(x - y).sum() for x, y in zip(mine, others))
        gradient = space.gradient(mine[0], sum(map(space.gathered, mine[1:])))
        if not np.isfinite(gradient).all():
            functions[name](**space.samples._asdict())  # may say why
            raise ValueError(f"{name}: its gradient is not finite on this space")
        try:
            found[name] = _classified(
                gradient, candidates, EXACT * sizes * largest, changes > EXACT * sizes
            )
        except Undecided as error:
            raise Undecided(f"{name}: {error}") from None
    return found


def targets(space: Space) -> dict[str, Float[np.ndarray, "d"]]:
    """The derivative of every divergence in the student's parameters, by name.

    ``local reverse`` and so on: of the next token, summed over prefixes as they are
    sampled; ``sequence reverse``: of the laws of whole sequences. Divergences that are
    infinite there have none.
    """
    count = space.log_q.size
    whole = [x.sum(axis=-1) for x in (space.samples.log_p, space.samples.log_q)]
    log_p, log_q = (
        jnp.concatenate([table.ravel(), sums])
        for table, sums in zip((space.log_p, space.log_q), whole)
    )

    each = {
        name: np.asarray(slopes)
        for name, (value, slopes) in _terms(log_p, log_q).items()
        if value < np.inf
    }
    reached = space.gathered(np.broadcast_to(space.weights[:, None], space.where.shape))
    local, sequence = {}, {}
    for name, slopes in each.items():
        table = slopes[:count].reshape(space.log_q.shape)
        short = name.removesuffix("_kl")
        local[f"local {short}"] = space.gradient(None, reached[:, None] * table)
        sequence[f"sequence {short}"] = space.gradient(slopes[count:, None], 0)
    return local | sequence


@jax.jit
def _terms(log_p: Array, log_q: Array) -> dict[str, tuple[Array, Array]]:
    """Every divergence and its derivative; each term sees its own mass alone."""
    return {
        name: jax.value_and_grad(lambda q, p, of: of.term(p, q).sum())(
            log_q, log_p, get(name)
        )
        for name in dict.fromkeys(("reverse_kl", "forward_kl", *names()))
    }


@functools.partial(jax.jit, static_argnums=0)
def _slopes(
    functions: tuple[Callable, ...],
    samples: Samples,
    outcomes: Outcomes,
    weights: Array,
) -> list[list[Array]]:
    """The derivatives of expected losses in the log-probabilities that they take."""

    def expected(inputs, function):
        arguments = samples._replace(log_q=inputs[0])._asdict()
        if len(inputs) > 1:
            arguments["outcomes"] = outcomes._replace(log_q=inputs[1])
        return mean(function(**arguments), samples.where, weights)

    found = []
    for function in functions:
        wants_all = "outcomes" in inspect.signature(function).parameters
        inputs = [samples.log_q, outcomes.log_q][: 1 + wants_all]
        found.append(jax.grad(expected)(inputs, function))
    return found


def _classified(
    gradient: np.ndarray, targets: dict[str, np.ndarray], zero: float, teacher: bool
) -> Certificate:
    size = np.linalg.norm(gradient)
    if size <= zero:
        return Certificate((), 0.0, {}, teacher)
    unit = gradient / size
    cosines = {n: float(unit @ t / np.linalg.norm(t)) for n, t in targets.items()}
    best, found = np.inf, []
    for count in (1, 2):
        for chosen, rough in _residuals(unit, targets, count):
            best = min(best, rough)
            if rough > BIASED:
                continue
            columns = np.stack([targets[name] for name in chosen], axis=1)
            factors, *_ = np.linalg.lstsq(columns, unit)
            residual = float(np.linalg.norm(columns @ factors - unit))
            near = [y for x in factors * size if (y := _rational(x))]
            if residual <= EXACT and len(near) == count:
                cost = sum(abs(x.numerator) + x.denominator for x in near)
                found.append((cost, chosen, near, residual))
        if found:
            break  # no second term where one is enough
    if found:
        _, chosen, near, residual = min(found, key=lambda one: one[0])
        terms = tuple(sorted(zip(near, chosen), key=lambda one: one[0] < 0))
        return Certificate(terms, residual, cosines, teacher)
    if best <= BIASED:
        raise Undecided(
            f"the best combination of divergences leaves {best:.1e} of the gradient, "
            "or its factors are no small fractions: too near for a bias, and not exact"
        )
    return Certificate(None, best, cosines, teacher)


def _residuals(
    unit: np.ndarray, targets: dict[str, np.ndarray], count: int
) -> list[tuple[tuple[str, ...], float]]:
    """What every choice of so many targets leaves of a vector of norm 1, to 1e-7."""
    directions = np.stack([t / np.linalg.norm(t) for t in targets.values()])
    order, gram, along = [*targets], directions @ directions.T, directions @ unit
    found = []
    for chosen in itertools.combinations(range(len(targets)), count):
        part, seen = gram[np.ix_(chosen, chosen)], along[[*chosen]]
        if np.linalg.det(part) > 1e-12:  # else one of them would do
            left = 1 - seen @ np.linalg.solve(part, seen)
            names = tuple(order[i] for i in chosen)
            found.append((names, float(np.sqrt(max(left, 0)))))
    return found


def _rational(factor: float) -> Fraction | None:
    """The small fraction that a factor is; None if it is none."""
    near = Fraction(factor).limit_denominator(LARGEST)
    exact = abs(near - factor) <= 1e-8 * abs(factor)
    return near if exact and 0 < abs(near.numerator) <= LARGEST else None
