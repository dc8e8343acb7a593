"""Transport at scales, masses and costs at which digits or plans are lost."""

import jax
import numpy as np
import pytest
from tabled import check_refused, check_right, refused

from kljax.divergences import transport as t

A, B = np.float32([0.5, 0.3, 0.2]), np.float32([0.1, 0.2, 0.7])
COST = np.float32([[0, 1, 4], [1, 0, 1], [4, 1, 0]])
X = np.float32([[0, 0], [1, 0], [0, 2]])
HALF, FLIP = np.float32([0.5, 0.5]), np.float32([[0, 1], [1, 0]])
NAN, INF = np.nan, np.inf
APART = float(A @ COST @ B)  # masses that do not know of each other
POINTS = float(np.sum(A[:, None] * B * ((X[:, None] - X - 1) ** 2).sum(-1)))
MEANS = float(np.sum((A @ X - B @ (X + 1)) ** 2))


def _sinkhorn(a=A, b=B, cost=COST, epsilon=1.0, **options):
    return t.sinkhorn(a, b, cost, epsilon, **options)


def _traced(field, **given):
    name, value = given.popitem()
    solve = jax.jit(lambda x: getattr(_sinkhorn(**{name: x}), field))
    return solve(value)


CASES = {
    "epsilon 1e8": (lambda: _sinkhorn(epsilon=1e8).value, APART),
    "epsilon 1e10": (lambda: _sinkhorn(epsilon=1e10).value, APART),
    "epsilon 1e30": (lambda: _sinkhorn(epsilon=1e30).value, APART),
    "epsilon 1e38": (lambda: _sinkhorn(epsilon=1e38).value, APART),
    "cost at epsilon 1e30": (lambda: t.transport_cost(A, B, COST, 1e30), APART),
    "epsilon 1e30 of points": (
        lambda: _sinkhorn(cost=t.SquaredDistances(X, X + 1), epsilon=1e30).value,
        POINTS,
    ),
    "epsilon 1e8 of points": (
        lambda: _sinkhorn(cost=t.SquaredDistances(X, X + 1), epsilon=1e8).value,
        POINTS,
    ),
    "divergence at 1e8": (
        lambda: t.sinkhorn_divergence(X, X + 1, 1e8, a=A, b=B),
        MEANS,
    ),
    "large cost": (
        lambda: _sinkhorn(cost=COST + np.float32(2**20), epsilon=1e8).value,
        APART + 2**20,
    ),
    "small epsilon": (lambda: _sinkhorn(epsilon=1e-6).converged, False),
    "NaN cost": (lambda: _traced("value", cost=np.where(COST == 4, NAN, COST)), NAN),
    "NaN cost, verdict": (lambda: _sinkhorn(cost=COST * NAN).converged, False),
    "NaN epsilon": (lambda: _traced("value", epsilon=np.float32(NAN)), NAN),
    "no plan": (
        lambda: _sinkhorn(HALF, HALF, np.float32([[INF, INF], [0, 1]])).converged,
        False,
    ),
    "infinite gain": (
        lambda: _sinkhorn(cost=COST - INF),
        "cost must be above",
    ),
    "masses of sum 2": (lambda: _sinkhorn(a=2 * A), "a must be of sum 1"),
    "masses of sum 2, traced": (lambda: _traced("value", a=2 * A), NAN),
    "negative mass": (
        lambda: _sinkhorn(b=np.float32([-0.5, 0.5, 1])),
        "b must be at least 0, got -0.5",
    ),
    "no mass at all": (lambda: _sinkhorn(a=0 * A), "a must be of sum 1"),
    "epsilon beyond float32": (lambda: _sinkhorn(epsilon=1e40), "epsilon.*finite"),
    "negative epsilons": (lambda: _sinkhorn(epsilon=np.float32([-1])), "epsilon.*-1"),
    "half a step": (
        lambda: _sinkhorn(iterations=1.5),
        "iterations must be an int",
    ),
    "integers": (lambda: _sinkhorn([1, 0], [0, 1], [[0, 3], [1, 0]], 1).value, 3),
    "masks that do not fit": (
        lambda: t.sinkhorn_divergence(X, X, 1.0, a=A, b=[0.5, 0.5]),
        "do not fit",
    ),
}


@pytest.mark.parametrize("name", refused(CASES))
def test_refused(name):
    check_refused(*CASES[name])


def test_right():
    check_right(CASES, rtol=1e-6)


def test_what_all_costs_have_in_common_takes_no_digits():
    """All but the value and the potentials is that of the same costs near 0."""
    far = np.float32(10000)

    @jax.jit
    @jax.vmap
    def answers(cost):
        def solve(cost, epsilon=0.1):
            return _sinkhorn(cost=cost, epsilon=epsilon, iterations=400)

        result = solve(cost)
        return {
            "value": result.value,
            "potentials": (result.f, result.g),
            "errors": (result.marginal_error_a, result.converged),
            "plan": t.transport_plan(A, B, cost, 0.1, iterations=400),
            "slope": jax.grad(lambda c: solve(c).value)(cost),
            "in epsilon": jax.grad(lambda e: solve(cost, e).value)(0.1),
            "sharp": jax.grad(t.transport_cost, 2)(A, B, cost, 1.0),
            "of a potential": jax.grad(lambda c: solve(c).f[0])(cost),
        }

    found = answers(np.stack([COST, COST + far]))
    near, moved = (jax.tree.map(lambda x, i=i: x[i], found) for i in (0, 1))
    assert moved["errors"][1]
    moved["value"] -= far
    moved["potentials"] = [x - far / 2 for x in moved["potentials"]]
    for name, want in near.items():
        # A potential of 5000 has digits to 5e-4.
        atol = 2e-3 if name in ("value", "potentials") else 2e-6
        for x, y in zip(jax.tree.leaves(moved[name]), jax.tree.leaves(want)):
            np.testing.assert_allclose(x, y, atol=atol, rtol=1e-5, err_msg=name)


def test_points_without_mass_may_hold_anything():
    @jax.jit
    @jax.vmap
    def both(x, y, a, b):
        def divergence(x, y):
            return t.sinkhorn_divergence(x, y, 1.0, a=a, b=b, iterations=20)

        return jax.value_and_grad(divergence, (0, 1))(x, y)

    x, y = np.stack([X] * 4), np.stack([X + 1] * 4)
    x[:, 2] = y[:, 0] = np.float32([0.5, NAN, INF, -INF])[:, None]
    a, b = np.float32([0.5, 0.5, 0]), np.float32([0, 0.3, 0.7])
    value, slopes = both(x, y, *(np.stack([m] * 4) for m in (a, b)))
    for found in (value, *slopes):
        np.testing.assert_allclose(found, np.stack([found[0]] * 4), atol=1e-5)
    assert np.isfinite(value).all() and not slopes[0][:, 2].any()
    # NaN that counts is in both.
    value, slopes = both(x, y, *(np.stack([m] * 4) for m in (A, B)))
    assert np.isnan(value[1]) and all(np.isnan(s[1]).any() for s in slopes)
