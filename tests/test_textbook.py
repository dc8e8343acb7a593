"""Generators as printed, smooth and not, against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from divergences.test_conformance import TEXTBOOK
from jax.scipy.special import entr, xlogy

from kljax.divergences import divergence, get
from kljax.fdivergence import FDivergence

made = FDivergence.from_generator
INF, H = np.inf, 1e-6


def _sum(f):
    """D_f from f itself, which is 0 at 1."""
    return lambda p, q: np.sum(q * f(p / q), axis=-1)


def _alpha(u):
    return (u**0.01 - 0.01 * u - 0.99) / -0.0099


# f, its divergence in NumPy, and f(0) and f°(0) once f'(1) = 0.
PRINTED = {
    name: (f, references.VALUES[name], get(name).at_zero, get(name).dual_at_zero)
    for name, f in TEXTBOOK.items()
} | {
    "hinge": (lambda u: jnp.maximum(u - 1, 0), references.total_variation, 0.5, 0.5),
    "shifted": (
        lambda u: jnp.where(u < 1, 1 - u, 0.0) + 7,
        references.total_variation,
        0.5,
        0.5,
    ),
    "hockey stick": (
        lambda u: jnp.maximum(u - 1.1, 0),
        _sum(lambda u: np.maximum(u - 1.1, 0)),
        0,
        1,
    ),
    "cube": (lambda u: abs(u - 1) ** 3, _sum(lambda u: abs(u - 1) ** 3), 1, INF),
    "xlogy": (lambda u: xlogy(u, u), references.kl, 1, INF),
    "entr": (lambda u: 2 - entr(u), references.kl, 1, INF),
    "where": (
        lambda u: jnp.where(u > 0, -jnp.log(u), 0.0),
        references.reverse_kl,
        INF,
        1,
    ),
    "alpha 0.01": (_alpha, _sum(_alpha), 100, 1 / 0.99),
    "slow": (
        lambda u: 0.5 * (u - 1) ** 2 / (u + 1),
        references.VALUES["le_cam"],
        0.5,
        0.5,
    ),
}


def test_values_gradients_and_limits(x64):
    rng = np.random.default_rng(0)
    p, q, step = (rng.normal(size=6) for _ in range(3))
    logits = np.stack(
        [q, p + 1e-3 * q, p + [0, 0, 0, 0.2, 0, -0.2], q - 9 * np.eye(6)[5]]
    )
    objects = [made(f) for f, *_ in PRINTED.values()]

    @jax.jit
    def every(q):
        def one(q):
            return [
                jax.value_and_grad(lambda q: divergence(p, q, d))(q) for d in objects
            ]

        return jax.vmap(one)(q)

    softmax = references.softmax
    for name, found, d in zip(PRINTED, every(logits), objects):
        _, reference, at_zero, dual_at_zero = PRINTED[name]
        want = reference(softmax(p), softmax(logits))
        np.testing.assert_allclose(found[0], want, rtol=1e-7, atol=1e-13, err_msg=name)
        up, down = (reference(softmax(p), softmax(logits + s * step)) for s in (H, -H))
        # Nobody's p and q agree in an outcome, where a corner has no slope.
        np.testing.assert_allclose(
            found[1] @ step, (up - down) / (2 * H), rtol=1e-4, atol=1e-7, err_msg=name
        )
        assert float(d.at_zero) == pytest.approx(float(at_zero), rel=1e-9), name
        assert float(d.dual_at_zero) == pytest.approx(float(dual_at_zero), rel=1e-9), (
            name
        )


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
