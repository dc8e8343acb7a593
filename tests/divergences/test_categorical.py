"""The public face: axes, temperature, other divergences, errors, light imports."""

from functools import partial

import fused
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from scipy import special, stats
from scipy.spatial.distance import jensenshannon

import kljax.divergences as kd

RNG = np.random.default_rng(1)
P, Q = np.float32(RNG.normal(size=(2, 5, 7)) * 1.5)
p, q = references.softmax(P), references.softmax(Q)


def close(got, want, relative=2e-5, absolute=1e-7):
    np.testing.assert_allclose(np.asarray(got), want, rtol=relative, atol=absolute)


def test_hand_numbers_and_scipy():
    close(kd.forward_kl(P, Q), special.rel_entr(p, q).sum(-1))
    close(kd.reverse_kl(P, Q), special.rel_entr(q, p).sum(-1))
    close(kd.jensen_shannon(P, Q), jensenshannon(p, q, axis=-1) ** 2)
    close(kd.entropy(P), stats.entropy(p, axis=-1))
    close(kd.cross_entropy(P, Q), -(p * np.log(q)).sum(-1))
    half, skewed = np.full((2, *P.shape), -np.inf)  # of two outcomes, in P's shape
    half[:, :2], skewed[:, :2] = np.log([0.5, 0.5]), np.log([0.9, 0.1])
    close(kd.forward_kl(half, skewed), 0.5 * np.log(0.25 / 0.09))
    close(kd.total_variation(half, skewed), 0.4)
    close(kd.pearson_chi2(half, skewed), 0.25 / 0.9 + 0.25 / 0.1 - 1)


def test_every_name_is_a_documented_function():
    for name in kd.names():
        function = getattr(kd, name)
        close(function(P, Q), references.VALUES[name](p, q))
        assert function.__name__ == name and "divergence" in function.__doc__
        assert name in dir(kd)
    close(kd.alpha(P, Q, alpha=1), special.rel_entr(p, q).sum(-1))
    with pytest.raises(AttributeError, match="no attribute 'kl'"):
        _ = kd.kl


def test_axis_broadcast_and_temperature():
    close(kd.forward_kl(P.T, Q.T, axis=0), special.rel_entr(p, q).sum(-1))
    close(kd.forward_kl(P[0], Q), special.rel_entr(p[0], q).sum(-1))
    warm = references.softmax(P / 2.5), references.softmax(Q / 2.5)
    close(kd.forward_kl(P, Q, temperature=2.5), references.kl(*warm))
    shifted = (
        np.float32(P + 1e4),
        np.float32(Q + 1e4),
    )  # digits are lost here, not below
    want = references.kl(
        *(references.softmax(x / 3.0) for x in map(np.float64, shifted))
    )
    close(kd.forward_kl(*shifted, temperature=3.0), want, 1e-5)

    def at(temperature):
        return jnp.sum(kd.forward_kl(P, Q, temperature=temperature))

    h = 1e-4
    exact = np.float64(P), np.float64(Q)
    low, high = (
        references.kl(*(references.softmax(x / (2.0 + s)) for x in exact)).sum()
        for s in (-h, h)
    )
    close(jax.jit(jax.grad(at))(2.0), (high - low) / (2 * h), 1e-4)


@jax.jit
def renyi_slope(alpha, x):
    return jax.grad(lambda x: jnp.sum(kd.renyi(P, x, alpha=alpha)))(x)


@pytest.mark.parametrize("alpha", [0.3, 0.999999, 1.0, 2.0, 5.0])
def test_renyi(alpha):
    if alpha == 1.0:
        want = references.kl(p, q)
    else:
        want = np.log((p**alpha * q ** (1 - alpha)).sum(-1)) / (alpha - 1)
    close(kd.renyi(P, Q, alpha=alpha), want, 3e-5)
    gradient = renyi_slope(alpha, Q)

    def reference(x):
        r = references.softmax(x)
        if alpha == 1.0:
            return references.kl(p, r)
        return np.log((p**alpha * r ** (1 - alpha)).sum(-1)) / (alpha - 1)

    if alpha != 0.999999:  # float64 differences cancel there
        close(gradient, references.gradient(reference, Q), 1e-3, 1e-5)


def test_renyi_and_cauchy_schwarz_near_equality_and_at_the_edge():
    near = np.float32(P + 1e-2 * RNG.normal(size=P.shape))
    r = references.softmax(near)
    cs = np.log((p**2).sum(-1) * (r**2).sum(-1) / (p * r).sum(-1) ** 2)
    close(kd.cauchy_schwarz(P, near), cs, 1e-4, 1e-11)
    cs = np.log((p**2).sum(-1) * (q**2).sum(-1) / (p * q).sum(-1) ** 2)
    close(kd.cauchy_schwarz(P, Q), cs)
    want = np.log((p**2 / r).sum(-1))
    close(kd.renyi(P, near, alpha=2.0), want, 1e-4, 1e-12)
    # Rows of as many outcomes, of which those beyond the third do not exist.
    none = -np.inf
    a, lone_a, b, lone_b, empty = (
        np.float32([*row, *[none] * (P.shape[1] - 3)])
        for row in (
            [0, none, 1],
            [0, none, none],
            [none, 0, 1],
            [none, 0, none],
            [none, none, none],
        )
    )
    x = np.stack([a, lone_a, empty, *P])
    y = np.stack([b, lone_b, empty, *P])
    found = {}

    @partial(jax.jit, static_argnums=0)
    def both(f, x, y, **order):
        def total(x, y):
            rows = f(x, y, **order)
            return jnp.sum(jnp.where(jnp.isinf(rows), 0, rows)), rows

        return jax.grad(total, argnums=(0, 1), has_aux=True)(x, y)

    for name, f, order in (
        ("cauchy_schwarz", kd.cauchy_schwarz, {}),
        ("cross_entropy", kd.cross_entropy, {}),
        ("below", kd.renyi, {"alpha": 0.5}),
        ("above", kd.renyi, {"alpha": 1.5}),
    ):
        slopes, found[name] = both(f, x, y, **order)
        assert not any(np.isnan(g).any() for g in slopes)
    assert np.isfinite(found["below"][0])
    assert np.isinf(found["above"][0])
    assert np.isinf(found["below"][1])
    assert np.isinf(found["cauchy_schwarz"][1])
    pa, pb = references.softmax(a), references.softmax(b)
    want = np.log((pa**2).sum() * (pb**2).sum() / (pa * pb).sum() ** 2)
    close(found["cauchy_schwarz"][0], want)
    assert found["cauchy_schwarz"][2] == found["cross_entropy"][2] == 0


def test_topk_has_a_tail_and_bounds_the_full_value():
    ids = np.argsort(-P, axis=-1)[:, :3]
    log_p = np.float32(np.take_along_axis(np.log(p), ids, -1))
    tail = lambda x: np.concatenate(
        [
            np.take_along_axis(x, ids, -1),
            1 - np.take_along_axis(x, ids, -1).sum(-1, keepdims=True),
        ],
        -1,
    )
    everything = np.broadcast_to(np.arange(7), P.shape)

    @jax.jit
    def found(x):
        def total(x):
            rows = fused.dense_topk(log_p, ids, x, "forward_kl")
            return jnp.sum(rows), rows

        gradient, rows = jax.grad(total, has_aux=True)(x)
        some = [fused.dense_topk(log_p, ids, x, n) for n in ("jensen_shannon", "alpha")]
        all_of = fused.dense_topk(np.float32(np.log(p)), everything, x, "forward_kl")
        return [rows, *some], all_of, gradient

    each, full, gradient = found(Q)
    for name, got in zip(("forward_kl", "jensen_shannon", "alpha"), each, strict=True):
        close(got, references.VALUES[name](tail(p), tail(q)), 5e-5)
        assert (np.asarray(got) <= references.VALUES[name](p, q) * (1 + 1e-5)).all()
    close(full, references.kl(p, q), 1e-4)
    reference = lambda x: references.kl(tail(p), tail(references.softmax(x)))
    close(gradient, references.gradient(reference, Q), 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: kd.forward_kl(P, Q[:, :6]),
            ValueError,
            "7 outcomes and q_logits has 6",
        ),
        (
            lambda: kd.forward_kl(P[:3], Q),
            ValueError,
            r"\(3, 7\) and q_logits \(5, 7\)",
        ),
        (lambda: kd.forward_kl(np.arange(3), np.arange(3)), TypeError, "int64|int32"),
        (lambda: kd.forward_kl(P, Q, axis=2), ValueError, "axis 2 does not exist"),
        (lambda: kd.forward_kl(P[:, :0], Q[:, :0]), ValueError, "no outcomes"),
        (lambda: kd.forward_kl(P, Q, temperature=0), ValueError, "temperature must be"),
        (lambda: kd.forward_kl(P, Q, where=np.ones(5, bool)), ValueError, "rank"),
        (lambda: kd.forward_kl(P, Q, where=np.ones((5, 7))), TypeError, "boolean"),
        (lambda: kd.forward_kl(P, Q, where=np.ones((4, 7), bool)), ValueError, "where"),
        (lambda: kd.divergence(P, Q, "klx"), ValueError, "known: forward_kl"),
        (lambda: kd.renyi(P, Q, alpha=-1.0), ValueError, "alpha must be positive"),
        (lambda: fused.dense_topk(P, Q, Q, "alpha"), TypeError, "ids must be integers"),
        (lambda: fused.dense_topk(P, np.zeros(3, int), Q, "alpha"), ValueError, "both"),
        (
            lambda: fused.dense_topk(P, np.zeros((5, 7), int), Q[:, :6], "alpha"),
            ValueError,
            "between 1 and 6",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
