"""Entropic transport: value, and value with gradient, at equal numbers of iterations.

Batches of problems with a matrix of costs, and one problem between two point clouds.
The floor of a matrix is what its form here cannot avoid: five exponentials a pair (two
iterations in the log domain, one kernel; a sixth for the gradient) and two products of
a matrix and a vector an iteration, at the rate of a matrix product, which no product
with a vector reaches. That of points is one exponential a pair and update.

Peers in their best form that runs: plain JAX in the log domain, its gradient unrolled;
OTT-JAX, jitted and vmapped, never stopped early, its errors looked at every ten
iterations or once, in the log domain or with the kernel (which has no digits left for a
small epsilon); POT, batched on torch, and one problem after the other on NumPy.
"""

import dataclasses
import functools
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.measuring import Contender, Floors, Group, Question, Reason
from kljax.divergences import transport

__all__ = ["PRESETS", "QUESTIONS", "REASONS", "groups"]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Points a side; `points` and `memory` (compiled, not run) are of point clouds."""

    problems: int
    sides: tuple[int, ...]
    points: tuple[int, ...]
    memory: tuple[int, ...] = ()
    width: int = 16
    iterations: int = 100
    point_iterations: int = 10


PRESETS = {
    "smoke": Sizes(2, (8,), (32,), width=3, iterations=20),
    "cpu": Sizes(32, (16, 64, 128), (1024, 4096), memory=(16384,)),
    "gpu": Sizes(256, (64, 256), (4096, 16384), memory=(65536,)),
}

_EPSILON = 0.01
"""Of costs that are at most 1."""
_LOOKED_AT = (0.1, 0.01, 0.003)
"""Epsilons at which errors are looked at."""
_POINT_EPSILON = 4.0


def _ours(a, b, cost, epsilon, iterations):
    return transport.sinkhorn(a, b, cost, epsilon, iterations=iterations).value


def _plain(a, b, cost, epsilon, iterations):
    log_a, log_b = jnp.log(a), jnp.log(b)
    scaled = cost / epsilon

    def step(potentials, _):
        weights = (log_b + potentials[1])[..., None, :]
        f = -jax.nn.logsumexp(weights - scaled, axis=-1)
        weights = (log_a + f)[..., :, None]
        return (f, -jax.nn.logsumexp(weights - scaled, axis=-2)), None

    start = jnp.zeros_like(a), jnp.zeros_like(b)
    f, g = jax.lax.scan(step, start, None, length=iterations)[0]
    return epsilon * (jnp.sum(f * a, axis=-1) + jnp.sum(g * b, axis=-1))


def _ott(look: int | None, log_domain: bool = True) -> Callable | None:
    if importlib.util.find_spec("ott") is None:
        return None
    with warnings.catch_warnings():
        # Of a library that OTT imports.
        warnings.simplefilter("ignore", DeprecationWarning)
        from ott.geometry import (  # pyrefly: ignore[missing-import]
            geometry,
            pointcloud,
        )
        from ott.problems.linear import (  # pyrefly: ignore[missing-import]
            linear_problem,
        )
        from ott.solvers.linear import sinkhorn  # pyrefly: ignore[missing-import]

    def of(a, b, cost, epsilon, iterations):
        solver = sinkhorn.Sinkhorn(
            lse_mode=log_domain,
            threshold=-1.0,
            min_iterations=iterations,
            max_iterations=iterations,
            inner_iterations=look or iterations,
        )

        def one(a, b, cost):
            if isinstance(cost, tuple):
                space = pointcloud.PointCloud(*cost, epsilon=epsilon)
            else:
                space = geometry.Geometry(cost_matrix=cost, epsilon=epsilon)
            problem = linear_problem.LinearProblem(space, a, b)
            return solver(problem).reg_ot_cost

        return jax.vmap(one)(a, b, cost) if a.ndim > 1 else one(a, b, cost)

    return of


def _pot_torch(epsilon, iterations, gradient) -> Callable | None:
    if not all(importlib.util.find_spec(x) for x in ("ot", "torch")):
        return None
    import ot  # pyrefly: ignore[missing-import]

    def of(a, b, cost):
        cost = cost.detach().requires_grad_(gradient)
        found: Any = ot.solve_batch(
            cost,
            epsilon,
            a,
            b,
            max_iter=iterations,
            tol=0.0,
            method="log_sinkhorn",
            reg_type="kl",
            grad="envelope" if gradient else "detach",
        )
        if not gradient:
            return found.value.numpy()
        found.value.sum().backward()
        return cost.grad.numpy()

    return of


def _pot_numpy(epsilon, iterations) -> Callable | None:
    if importlib.util.find_spec("ot") is None:
        return None
    import ot  # pyrefly: ignore[missing-import]

    def of(a, b, cost):
        options: dict[str, Any] = {"numItermax": iterations, "stopThr": 0.0}
        problems = zip(a, b, cost)
        return [ot.sinkhorn(*p, epsilon, warn=False, **options) for p in problems]

    return of


def _matrices(problems: int, n: int) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (problems, n, 2))
    y = 0.5 + jax.random.normal(keys[1], (problems, n, 2))
    cost = jnp.sum((x[:, :, None] - y[:, None]) ** 2, axis=-1)
    cost = cost / jnp.max(cost, axis=(1, 2), keepdims=True)
    a, b = (jax.random.uniform(k, (problems, n), minval=0.5) for k in keys[2:])
    return a / a.sum(-1, keepdims=True), b / b.sum(-1, keepdims=True), cost


def _clouds(n: int, width: int) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0))
    mass = jnp.full(n, 1 / n)
    x, y = (jax.random.normal(k, (n, width)) for k in keys)
    return mass, mass, x, y + 0.25


def _exact(a, b, cost, epsilon: float, iterations: int) -> np.ndarray:
    """Float64, every update a log-sum-exp of NumPy."""
    a, b, scaled = (np.float64(x) for x in (a, b, cost))
    scaled, log_a, log_b = scaled / epsilon, np.log(a), np.log(b)
    f, g = np.zeros_like(a), np.zeros_like(b)
    for _ in range(iterations):
        f = -np.logaddexp.reduce((log_b + g)[..., None, :] - scaled, axis=-1)
        g = -np.logaddexp.reduce((log_a + f)[..., :, None] - scaled, axis=-2)
    return epsilon * (np.sum(f * a, -1) + np.sum(g * b, -1))


def _errors(function: Callable, made: Callable, iterations: int) -> Mapping[str, float]:
    """Worst relative error of the value of 8 problems, by epsilon."""
    a, b, cost = (x[:8] for x in made())
    found = {}
    for epsilon in _LOOKED_AT:
        want = _exact(a, b, cost, float(np.float32(epsilon)), iterations)
        of = functools.partial(function, epsilon=epsilon, iterations=iterations)
        got = np.asarray(jax.jit(of)(a, b, cost), np.float64)
        found[f"{epsilon:g}"] = float(np.max(np.abs(got / want - 1)))
    return found


def _total(function: Callable, epsilon: float, iterations: int) -> Callable:
    def of(a, b, cost):
        return jnp.sum(function(a, b, cost, epsilon, iterations))

    return of


def _slope(function: Callable, epsilon: float, iterations: int) -> Callable:
    total = _total(function, epsilon, iterations)
    return lambda a, b, cost: jax.value_and_grad(total, 2)(a, b, cost)


def _of_points(function: Callable, held: str, epsilon, iterations) -> Callable:
    """Value and gradient in both clouds."""

    def total(clouds, a, b):
        x, y = clouds
        if held == "matrix":
            norms = jnp.sum(x**2, -1)[:, None] + jnp.sum(y**2, -1)
            cost = norms - 2 * x @ y.T
        else:
            cost = transport.SquaredDistances(x, y) if held == "ours" else (x, y)
        return function(a, b, cost, epsilon, iterations)

    return lambda a, b, x, y: jax.value_and_grad(total)((x, y), a, b)


def _torch(made: Callable) -> list:
    import torch  # pyrefly: ignore[missing-import]

    return [torch.from_numpy(np.array(x)) for x in made()]


QUESTIONS = (
    Question(
        "matrix",
        "Sinkhorn on matrices of costs",
        ("matrix value", "matrix value+grad"),
    ),
    Question("points", "Sinkhorn between point clouds", ("points value+grad",)),
)
REASONS = (
    Reason(
        "A matrix of 1,024² costs stays in a large cache, and OTT makes it once; ours "
        "takes a matrix product again in every update, for memory that does not grow.",
        groups="points *",
        sizes="1024×*",
    ),
)


def groups(preset: str) -> Iterator[Group]:
    """What is compared, one size after the other."""
    settings = PRESETS[preset]
    here = {
        "kljax": _ours,
        "plain JAX, log domain": _plain,
        "OTT": _ott(10),
        "OTT, errors once": _ott(None),
        "OTT, kernel": _ott(10, log_domain=False),
    }
    count = settings.iterations
    for n in settings.sides:
        made = functools.partial(_matrices, settings.problems, n)
        for title, form, exponentials in (
            ("value", _total, 5),
            ("value+grad", _slope, 6),
        ):
            pairs = settings.problems * n**2

            def floor(rates: Floors, pairs=pairs, exponentials=exponentials):
                return exponentials * pairs / rates.exp + 4 * count * pairs / rates.gemm

            look = n == settings.sides[min(1, len(settings.sides) - 1)]
            look = look and title == "value"
            compared = []
            for who, function in here.items():
                built = error = None
                if function is not None:
                    built = form(function, _EPSILON, count)
                    error = functools.partial(_errors, function, made, count)
                error = error if look else None
                compared.append(Contender(who, built, error=error))
            compared += _pot(made, count, gradient=title != "value")
            yield Group(
                f"matrix {title}",
                {"problems": settings.problems, "n": n, "iterations": count},
                made,
                compared,
                floor,
            )
    yield from _point_groups(settings, here)


def _pot(made: Callable, count: int, gradient: bool) -> list[Contender]:
    if jax.default_backend() != "cpu":
        return []
    torch = _pot_torch(_EPSILON, count, gradient)
    given = None if torch is None else _torch(made)
    found = [Contender("POT, torch", torch, compiled=False, arguments=given)]
    if not gradient:
        loop = _pot_numpy(_EPSILON, count)
        arrays = [np.asarray(x) for x in made()]
        found.append(Contender("POT, NumPy", loop, compiled=False, arguments=arrays))
    return found


def _point_groups(settings: Sizes, here: Mapping) -> Iterator[Group]:
    sizes = [(n, True) for n in settings.points] + [(n, False) for n in settings.memory]
    count, width = settings.point_iterations, settings.width
    for n, timed in sizes:
        compared = []
        for who, held in (
            ("kljax", "ours"),
            ("plain JAX, log domain", "matrix"),
            ("OTT, errors once", "theirs"),
        ):
            function, built = here[who], None
            if function is not None:
                built = _of_points(function, held, _POINT_EPSILON, count)
            compared.append(Contender(who, built))

        def floor(rates: Floors, n=n):
            # Two updates an iteration, and the gradient's weights.
            return (2 * count + 1) * n**2 * (1 / rates.exp + 2 * width / rates.gemm)

        yield Group(
            "points value+grad",
            {"n": n, "d": width, "iterations": count},
            functools.partial(_clouds, n, width),
            compared,
            floor,
            timed,
        )
