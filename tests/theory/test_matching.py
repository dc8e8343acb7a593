"""Fixed points of the divergence family on the line, against the published table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax import generators
from kljax.theory.matching import (
    LineMatching,
    fixed_point,
    fixed_points,
    log_std,
    with_std,
)
from kljax.theory.mixtures import GaussianMixture

NAMES = (
    "softened_reverse_kl",
    "reverse_kl",
    "jeffreys",
    "squared_hellinger",
    "jensen_shannon",
    "forward_kl",
)
STARTS = [
    (1.0, 0.5),
    (1.0, -1.5),
    (np.exp(0.6), 1.5),
    (np.exp(0.6), -0.5),
]  # (std, mean)
# (std, mean) for the four starts; None: as the first.
LOW_NOISE = {
    "reverse_kl": [(0.5019, -1.9989), None, (0.5043, 1.9972), None],
    "softened_reverse_kl": [(0.5011, -1.9993), None, (0.5027, 1.9982), None],
    "jensen_shannon": [(1.8572, -0.8393), (0.5030, -1.9982), None, None],
    "squared_hellinger": [(1.8199, -0.8257), (0.5073, -1.9963), None, None],
    "jeffreys": [(1.6164, -0.8158), None, None, None],
    "forward_kl": [(1.9, -0.8), None, None, None],
}
ANNEALED = {
    "softened_reverse_kl": (1.6504, -0.8009),
    "reverse_kl": (1.7315, -0.7786),
    "jeffreys": (1.7969, -0.7768),
    "squared_hellinger": (1.8560, -0.7913),
    "jensen_shannon": (1.8734, -0.7965),
    "forward_kl": (1.9, -0.8),
}


def two_modes():
    return GaussianMixture(
        jnp.log(jnp.array([0.7, 0.3])), jnp.array([[-2.0], [2.0]]), jnp.full(2, 0.5)
    )


# Four levels and 601 points in both tasks: one compilation serves them.
LOW = {"levels": [0.1, 0.2, 0.4, 0.4], "weights": [1, 1, 1, 0], "reach": 10.0}
UP = {"levels": [0.1, 0.3, 1.0, 3.0], "weights": [0.01, 0.09, 1, 9], "reach": 30.0}


@functools.partial(jax.jit, static_argnames=("steps", "newton"))
def ends_of(task, starts, steps, newton):
    options = tuple(generators.get(name) for name in NAMES)
    one = lambda index, start: fixed_point(
        task, generators.Choice(index, options), start, steps=steps, newton=newton
    )
    every = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    return every(jnp.arange(len(NAMES)), starts)


def solve(levels, weights, reach, steps=400, newton=6):
    task = jax.jit(LineMatching.build, static_argnames=("bounds", "points"))(
        two_modes(),
        np.array(levels),
        np.array(weights, float),
        bounds=(-reach, reach),
        points=601,
    )
    starts = jnp.array([(np.log(a), b) for a, b in STARTS])
    ends = ends_of(task, starts, steps, newton)
    assert (ends.gradient_norm < 1e-13).all()
    found = np.array(ends.theta)
    found[..., 0] = np.exp(found[..., 0])
    return found, np.asarray(ends.polish)


def check_low_noise(found):
    for name, row in zip(NAMES, found, strict=True):
        table = LOW_NOISE[name]
        expected = [entry or table[0] for entry in table]
        np.testing.assert_allclose(row, expected, atol=2e-3, err_msg=name)


def check_annealed(found):
    for name, row in zip(NAMES, found, strict=True):
        np.testing.assert_allclose(row, [ANNEALED[name]] * 4, atol=2e-3, err_msg=name)
    assert (
        np.diff(found[:, 0, 0]) > 0
    ).all()  # the ordering of the standard deviations


def test_low_noise_fixed_points(x64):
    """T2: mode seeking, bistable and covering divergences, every start, to 2e-3."""
    found, polish = solve(**LOW)
    check_low_noise(found)
    assert polish.max() < 1e-3  # Newton only sharpened what descent had found


def test_annealing_removes_collapse(x64):
    """T3: with levels up to 3 every start of every divergence covers."""
    found, polish = solve(**UP)
    check_annealed(found)
    assert polish.max() < 2e-2


@pytest.mark.slow
def test_fixed_points_by_descent_alone(x64):
    """T2 and T3 without Newton, to machine precision."""
    found, _ = solve(**LOW, steps=6000, newton=0)
    check_low_noise(found)
    found, _ = solve(**UP, steps=6000, newton=0)
    check_annealed(found)


def test_gradient_is_that_of_the_value(x64):
    """The theorem's sum = autodiff of the exact objective, all strictly convex f."""
    levels, theta = np.array([0.3, 1.0]), np.array([0.6, -0.5])
    options = tuple(generators.get(name) for name in ("alpha", "le_cam"))

    @jax.jit
    def both(theta, levels):
        task = LineMatching.build(
            two_modes(), levels, bounds=(-14.0, 14.0), points=2001
        )
        exact = [jax.grad(task.value)(theta, d) for d in options]
        return jnp.stack(exact), jnp.stack(
            [task.gradient(theta, d)[0] for d in options]
        )

    exact, got = both(theta, levels)
    error = np.linalg.norm(got - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert error.max() <= 2e-6, error


def test_bad_input_names_the_argument():
    with pytest.raises(ValueError, match="target: expected a mixture on the line"):
        LineMatching.build(GaussianMixture.ring(), jnp.ones(1))


def test_fixed_points_in_one_program_are_those_one_by_one(x64):
    build = jax.jit(LineMatching.build, static_argnames="points")
    task = build(two_modes(), np.array([0.2, 0.4]), points=401)
    starts, names = log_std(STARTS[:2]), ("reverse_kl", "forward_kl")
    np.testing.assert_allclose(with_std(starts), STARTS[:2], rtol=1e-12)
    found = fixed_points(task, names, starts, steps=60)
    for i, name in enumerate(names):
        one = jax.jit(lambda start, n=name: fixed_point(task, n, start, steps=60))
        alone = one(starts[i]).theta
        np.testing.assert_allclose(found[i, i], alone, rtol=1e-9)
