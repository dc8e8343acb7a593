"""Generators as printed, smooth and not, against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import entr, xlogy
from references import TEXTBOOK

import kljax.divergences as kd
from kljax.divergences import get

made = kd.from_generator
INF = np.inf


def _alpha(u):
    return (u**0.01 - 0.01 * u - 0.99) / -0.0099


def _corner(u):
    return 0.5 * abs(u - 1)


# f, the same in NumPy with f(1) = f'(1) = 0, and its f(0) and f°(0).
HARD = {
    "hinge": (lambda u: jnp.maximum(u - 1, 0), _corner, 0.5, 0.5),
    "shifted": (lambda u: jnp.where(u < 1, 1 - u, 0.0) + 7, _corner, 0.5, 0.5),
    "hockey stick": (
        lambda u: jnp.maximum(u - 1.1, 0),
        lambda u: np.maximum(u - 1.1, 0),
        0,
        1,
    ),
    "cube": (lambda u: abs(u - 1) ** 3, lambda u: abs(u - 1) ** 3, 1, INF),
    "xlogy": (lambda u: xlogy(u, u), lambda u: u * np.log(u) - u + 1, 1, INF),
    "entr": (lambda u: 2 - entr(u), lambda u: u * np.log(u) - u + 1, 1, INF),
    "where": (
        lambda u: jnp.where(u > 0, -jnp.log(u), 0.0),
        lambda u: u - 1 - np.log(u),
        INF,
        1,
    ),
    "alpha 0.01": (_alpha, _alpha, 100, 1 / 0.99),
    "slow": (
        lambda u: 0.5 * (u - 1) ** 2 / (u + 1),
        lambda u: 0.5 * (u - 1) ** 2 / (u + 1),
        0.5,
        0.5,
    ),
}
SIDE = np.geomspace(1e-3, 6, 32)
L = np.concatenate([-SIDE, SIDE])


@pytest.mark.parametrize("name", HARD)
def test_what_is_not_smooth_or_slow(name, x64):
    f, reference, at_zero, dual_at_zero = HARD[name]
    d, h = made(f), 1e-6

    @jax.jit
    def found(l, far):
        moved = jax.jvp(d.value, (l,), (jnp.ones_like(l),))
        return *moved, d.dual.value(-l), d.value(far)

    # Beyond what the printed f can be evaluated at, in single precision too.
    value, slope, dual, far = found(L, jnp.float32([-90, -3e38]))
    u = np.exp(L)
    np.testing.assert_allclose(value, reference(u), rtol=1e-7, atol=1e-14)
    # The dual alone is what terms with u > 1 are made of.
    np.testing.assert_allclose(dual, value / u, rtol=1e-7, atol=1e-14)
    change = (reference(np.exp(L + h)) - reference(np.exp(L - h))) / (2 * h)
    np.testing.assert_allclose(slope, change, rtol=1e-5, atol=1e-8)
    assert d.at_zero == pytest.approx(at_zero, rel=1e-9)
    assert d.dual_at_zero == pytest.approx(dual_at_zero, rel=1e-9)
    far = np.float64(far)
    assert not np.isnan(far).any()
    np.testing.assert_allclose(far[0], reference(np.exp(-90.0)), rtol=1e-5)


@pytest.mark.parametrize("name", TEXTBOOK)
def test_every_divergence_as_it_is_printed(name, x64):
    d, known = made(TEXTBOOK[name]), get(name)
    of_both = (d.value, known.value), (d.grad_q, known.grad_q)
    values, slopes = jax.jit(lambda l: tuple([f(l) for f in pair] for pair in of_both))(
        L
    )
    np.testing.assert_allclose(*values, rtol=1e-8)
    np.testing.assert_allclose(*slopes, rtol=1e-6, atol=1e-9)
    assert d.at_zero == pytest.approx(float(known.at_zero), rel=1e-9)
    assert d.dual_at_zero == pytest.approx(float(known.dual_at_zero), rel=1e-9)


REFUSED = {
    "root of a corner": (lambda u: abs(u - 1) ** 1.5, "smooth neither at u = 1"),
    "third derivative": (lambda u: abs(u - 1) ** 2.5, "smooth neither at u = 1"),
    "concave": (jnp.sqrt, "convex"),
    "wave": (lambda u: jnp.sin(3 * u), "convex"),
    "pole at 1": (lambda u: 1 / (u - 1) ** 2, "must be finite, got inf at u = 1.0"),
    "0/0 at 1": (lambda u: (u - 1) ** 2 / jnp.log(u), "must be finite, got nan"),
    "number": (lambda u: 1.0, "an array like u"),
    "single precision": (lambda u: (u - 1).astype(jnp.float32) ** 2, "float64"),
    "shape": (lambda u: u[None] ** 2, "an array like u"),
    "NumPy": (lambda u: u * np.log(u), "jax.numpy operations"),
    "branch": (lambda u: u if u > 1 else 1 / u, "jax.numpy operations"),
    "mean": (lambda u: u * jnp.log(u) - jnp.mean(u), "each element of u"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    f, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        made(f)


def test_stated_limits_and_duals():
    f = TEXTBOOK["forward_kl"]
    with pytest.raises(ValueError, match=r"at_zero must be at least 0.*got -0.5"):
        made(f, at_zero=-0.5)
    with pytest.raises(ValueError, match="dual must be"):
        made(f, lambda v: v**2)
    # Near 0 a convex piece of 1/log u, whose limit values do not tell.
    bend = 2.0 + 1 / np.log(0.01)
    slope = -1 / (0.01 * np.log(0.01) ** 2)
    slow = lambda u: jnp.where(
        u < 0.01, 2 + 1 / jnp.log(u), bend + slope * (u - 0.01) + (u - 0.01) ** 2 * 60
    )
    with pytest.raises(ValueError, match="at_zero must be given"):
        made(slow)
    assert float(made(slow, at_zero=2.0).at_zero) > float(
        made(slow, at_zero=INF).tails[1].level
    )
