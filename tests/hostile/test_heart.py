"""Hostile logits, temperatures and names: each with its right value or its error."""

import warnings

import closed_forms
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import FORMS

import kljax.divergences as kd
from kljax.divergences import _probabilities, estimators

NAN, INF = np.nan, np.inf
LEAST = float(np.finfo(np.float32).min)
P = np.float32([[1, 0, 0, 1], [0.3, -1, 2, 0.1], [0, 0, 0, 0], [3, 1, -2, 0]])
Q = np.float32([[0, 1, 2, 3], [1, 0.2, -1, 0.4], [1, 0, 0, 0.5], [0, 1, -1, 2]])
P1, Q1 = P[0], Q[0]


def with_last(x, last):
    return np.float32([*x[:3], last])


def slope(name, p, q, **options):
    """The gradient in both sides."""
    return jnp.stack(
        jax.grad(lambda p, q: kd.divergence(p, q, name, **options), (0, 1))(p, q)
    )


def slopes_of(name, p, q):
    _, in_p, in_q, _ = closed_forms.value_and_gradients(FORMS[name], p[None], q[None])
    return np.stack([in_p[0], in_q[0]])


def value_of(name, p, q):
    p, q = np.atleast_2d(np.float64(p)), np.atleast_2d(np.float64(q))
    return closed_forms.value_and_gradients(FORMS[name], p, q)[0]


MASKED = np.float32([0, 1, -1e9, 2])
KEPT = np.array([True, True, True, False])
ROWS_T = np.float32([0.5, 1, 2, 4])


def at(temperature):
    """`forward_kl` of the first row at a temperature that is not known."""
    run = jax.jit(lambda t: kd.forward_kl(P1, Q1, temperature=t))
    return run(jnp.float32(temperature))


def under_mask(last):
    p, q = with_last(P1, last), with_last(Q1, last)
    return jnp.stack(
        [kd.forward_kl(p, q, where=KEPT), *slope("forward_kl", p, q, where=KEPT)[:, 3]]
    )


# How it is made and what comes of it: numbers, or an error's text.
CASES = {
    "masked by -1e9": (
        lambda: slope("forward_kl", P1, MASKED)[1],
        [-0.2755, 0.1103, -0.1345, 0.2997],
    ),
    "the same row, both sides": (
        lambda: slope("forward_kl", P1, MASKED),
        lambda: slopes_of("forward_kl", P1, MASKED),
    ),
    "a mode masked by -1e4": (
        lambda: slope("jensen_shannon", P1, with_last(Q1, -1e4)),
        lambda: slopes_of("jensen_shannon", P1, with_last(Q1, -1e4)),
    ),
    "the smallest float32": (
        lambda: kd.forward_kl(P1, with_last(Q1, LEAST)),
        lambda: value_of("forward_kl", P1, with_last(Q1, LEAST))[0],
    ),
    "the smallest bfloat16 on both sides": (
        lambda: kd.jeffreys(with_last(P1, -3.39e38), with_last(Q1, -3.39e38)),
        lambda: value_of("jeffreys", P1[:3], Q1[:3])[0],
    ),
    "NaN under where": (
        lambda: under_mask(NAN),
        lambda: [value_of("forward_kl", P1[:3], Q1[:3])[0], 0, 0],
    ),
    "+inf under where": (
        lambda: under_mask(INF),
        lambda: [value_of("forward_kl", P1[:3], Q1[:3])[0], 0, 0],
    ),
    "NaN beside impossible outcomes": (
        lambda: kd.cauchy_schwarz(np.float32([-INF, NAN, -INF, -INF]), Q1),
        NAN,
    ),
    "NaN beside an empty side": (
        lambda: kd.forward_kl(np.full(4, -INF, np.float32), with_last(Q1, NAN)),
        NAN,
    ),
    "Rényi of an empty row": (
        lambda: kd.renyi(P1, np.full(4, -INF, np.float32), alpha=2.0),
        0,
    ),
    "temperatures by row, as many as outcomes": (
        lambda: kd.forward_kl(P, Q, temperature=ROWS_T),
        lambda: value_of("forward_kl", P / ROWS_T[:, None], Q / ROWS_T[:, None]),
    ),
    "temperatures of outcomes": (
        lambda: kd.forward_kl(P[:3], Q[:3], temperature=ROWS_T),
        "temperature must be one number or have the shape of the result's rows",
    ),
    "a temperature of 1e-30": (
        lambda: at(1e-30),
        lambda: value_of("forward_kl", P1 * 1e30, Q1 * 1e30)[0],
    ),
    "an infinite temperature": (lambda: at(INF), 0),
    "a traced temperature of NaN": (lambda: at(NAN), NAN),
    "a traced temperature of -1": (lambda: at(-1), NAN),
    "a temperature of NaN": (
        lambda: kd.forward_kl(P, Q, temperature=NAN),
        "temperature must be positive, got nan",
    ),
    "an order of NaN": (
        lambda: kd.renyi(P, Q, alpha=NAN),
        "alpha must be positive, got nan",
    ),
    "beta beyond 1 in an array": (
        lambda: kd.jensen_shannon(P, Q, beta=jnp.array(2.0)),
        r"beta must be in \(0, 1\), got 2.0",
    ),
    "a traced beta beyond 1": (
        lambda: jax.jit(kd.skew_forward_kl)(P, Q, beta=1.5),
        np.full(4, NAN),
    ),
    "the derivative in a beta of -1": (
        lambda: jax.jit(jax.grad(lambda b: kd.skew_reverse_kl(P, Q, beta=b).sum()))(
            -1.0
        ),
        NAN,
    ),
    "a beta for each row": (
        lambda: kd.skew_forward_kl(P, Q, beta=jnp.full(4, 0.1)),
        lambda: value_of("skew_forward_kl", P, Q),
    ),
    "a beta for each outcome": (
        lambda: kd.skew_forward_kl(P[:3], Q[:3], beta=jnp.full(4, 0.1)),
        r"shape of the result's rows, \(3,\)",
    ),
    "a name in capitals": (
        lambda: kd.divergence(P, Q, "KL"),
        "did you mean 'kl'",
    ),
    "a traced order of -1": (
        lambda: jax.jit(kd.renyi)(P, Q, alpha=-1.0),
        np.full(4, NAN),
    ),
    "a misspelt name": (
        lambda: kd.divergence(P, Q, "revers_kl"),
        "did you mean 'reverse_kl'",
    ),
    "a name of another scale": (
        lambda: kd.divergence(P, Q, "hellinger"),
        "did you mean 'squared_hellinger'",
    ),
    "a NaN log-probability": (
        lambda: estimators.k3(log_p=jnp.array([NAN, -1]), log_q=jnp.array([-INF, -1])),
        [NAN, 0],
    ),
    "a NaN weight": (
        lambda: estimators.effective_sample_size(jnp.array([0, NAN, 0])),
        NAN,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hostile_input(name):
    make, expected = CASES[name]
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            make()
        return
    want = expected() if callable(expected) else expected
    atol = 5e-5 if name == "masked by -1e9" else 2e-7
    np.testing.assert_allclose(make(), want, rtol=1e-5, atol=atol)


def test_probabilities_are_warned_of_once():
    p, q = np.float32([[0.5, 0.3, 0.2]] * 2), np.float32([[0.1, 0.2, 0.7]] * 2)
    innocent = [
        (np.log(p), np.log(q)),
        (p, np.log(q)),
        (2 * p, q),
        (np.full((2, 3), 1 / 3, np.float32),) * 2,  # means the same either way
        (np.float32([[NAN, 0.5, 0.5]] * 2), q),
    ]
    _probabilities._warn.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for pair in innocent:
            kd.total_variation(*pair)
        jax.jit(kd.total_variation)(p, q)
    with pytest.warns(UserWarning, match=r"pass jnp.log\(p\) and jnp.log\(q\)"):
        kd.total_variation(p, q)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kd.total_variation(p, q)
