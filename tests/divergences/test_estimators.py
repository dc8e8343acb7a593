"""Estimators by exact enumeration: each outcome, weighted by its probability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from kljax.divergences import estimators as e
from kljax.generators import names

P = np.array([0.1, 0.2, 0.4, 0.3])
# Multiples of 1/8, so that eight samples have exactly this law.
Q = np.array([0.5, 0.25, 0.125, 0.125])
SAMPLES = np.repeat(np.arange(4), (8 * Q).astype(int))

REFERENCES = {
    "forward_kl": lambda p, q: np.sum(p * np.log(p / q)),
    "reverse_kl": lambda p, q: np.sum(q * np.log(q / p)),
    "total_variation": lambda p, q: 0.5 * np.sum(np.abs(p - q)),
    "squared_hellinger": lambda p, q: 1 - np.sum(np.sqrt(p * q)),
    "pearson_chi2": lambda p, q: np.sum(p**2 / q) - 1,
    "jensen_shannon": lambda p, q: (
        0.5 * np.sum(p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q)))
    ),
}


def _gradient(f, logits, step=1e-6):
    """Central differences of f(softmax(logits)) in NumPy."""

    def softmax(x):
        return np.exp(x) / np.exp(x).sum()

    moves = step * np.eye(len(logits))
    return np.array(
        [(f(softmax(logits + m)) - f(softmax(logits - m))) / (2 * step) for m in moves]
    )


@jax.jit
def _values_and_slopes(logits, log_p):
    """Each estimator at each outcome, with its gradient in the logits of q."""

    def all_of_them(logits):
        log_q = jax.nn.log_softmax(logits)
        fs = (e.k1, e.k2, e.k3, e.forward_k1, e.forward_k3)
        return jnp.stack([f(log_p=log_p, log_q=log_q) for f in fs])

    return all_of_them(logits), jax.jacobian(all_of_them)(logits)


def test_values_and_gradients_are_what_the_docstrings_say(x64):
    value, slope = map(np.asarray, _values_and_slopes(np.log(Q), np.log(P)))
    k1, k2, k3 = value[:3] @ Q
    reverse, forward = REFERENCES["reverse_kl"](P, Q), REFERENCES["forward_kl"](P, Q)
    in_reverse = _gradient(lambda q: REFERENCES["reverse_kl"](P, q), np.log(Q))
    in_forward = _gradient(lambda q: REFERENCES["forward_kl"](P, q), np.log(Q))
    np.testing.assert_allclose([k1, k3], reverse, rtol=1e-12)
    assert abs(k2 - reverse) > 0.01  # biased
    np.testing.assert_allclose(value[3:] @ P, forward, rtol=1e-12)
    assert (value[np.array([1, 2, 4])] >= 0).all()

    def mean(i, law):
        return np.einsum("n,nk->k", law, slope[i])

    np.testing.assert_allclose(mean(0, Q), 0, atol=1e-12)
    np.testing.assert_allclose(mean(1, Q), in_reverse, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(mean(2, Q), in_forward, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(mean(3, P), in_forward, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(mean(4, P), in_forward, rtol=1e-7, atol=1e-9)


def test_k2_is_reverse_kl_to_third_order(x64):
    gaps = []
    for scale in (1e-2, 1e-3):
        p = Q * (1 + scale * np.array([1.0, -1.0, -2.0, 0.0]))
        k2 = np.asarray(_values_and_slopes(np.log(Q), np.log(p))[0])[1] @ Q
        gaps.append(abs(k2 - REFERENCES["reverse_kl"](p, Q)))
    assert gaps[0] / gaps[1] == pytest.approx(1000, rel=0.1)


@pytest.fixture(scope="module")
def estimates():
    """Value and gradient of every divergence under three sampling laws, one compile."""

    def one(name, logits, log_p, law):
        log_q = jax.nn.log_softmax(logits)
        if law == "everything":
            args = {"log_behavior": jnp.full(4, -jnp.log(4.0), log_q.dtype)}
        elif law == "on_policy":
            log_p, log_q = log_p[SAMPLES], log_q[SAMPLES]
            args = {"log_behavior": lax.stop_gradient(log_q)}
        else:
            log_p, log_q, args = log_p[SAMPLES], log_q[SAMPLES], {}
        return e.f_divergence(name, log_p=log_p, log_q=log_q, **args)

    @jax.jit
    def run(logits, log_p):
        return {
            (name, law): jax.value_and_grad(one, 1)(name, logits, log_p, law)
            for name in REFERENCES
            for law in ("everything", "on_policy", "plain")
            if law != "plain" or name == "reverse_kl"
        }

    with jax.enable_x64(True):
        return jax.device_get(run(np.log(Q), np.log(P)))


@pytest.mark.parametrize("name", REFERENCES)
def test_f_divergences(estimates, name):
    expected = REFERENCES[name](P, Q)
    slope = _gradient(lambda q: REFERENCES[name](P, q), np.log(Q))
    for law in ("everything", "on_policy"):
        value, gradient = estimates[name, law]
        np.testing.assert_allclose(value, expected, rtol=1e-10)
        np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-8)
    if name == "reverse_kl":
        value, gradient = estimates[name, "plain"]
        np.testing.assert_allclose(value, expected, rtol=1e-10)
        forward = _gradient(lambda q: REFERENCES["forward_kl"](P, q), np.log(Q))
        np.testing.assert_allclose(gradient, forward, rtol=1e-6, atol=1e-8)


def test_weighted_samples_of_a_third_law():
    rng = np.random.default_rng(0)
    x = 2 * rng.normal(size=(4, 5000)).astype(np.float32)
    log_b = -0.5 * (x / 2) ** 2 - np.log(2)
    # log-densities without their common constant: N(0.5, 1) and N(0, 1).
    log_p, log_q = -0.5 * (x - 0.5) ** 2, -0.5 * x**2
    laws = {"log_p": log_p, "log_q": log_q, "log_behavior": log_b}
    estimate = jax.jit(
        e.f_divergence, static_argnames=("divergence", "self_normalized")
    )
    plain = np.asarray(estimate("reverse_kl", **laws))
    assert plain.shape == (4,) and plain.dtype == jnp.float32
    np.testing.assert_allclose(plain.mean(), 0.125, rtol=0.05)
    shifted = laws | {"log_p": log_p + 7, "log_q": log_q - 3}
    for kind in (laws, shifted):
        normalized = np.asarray(estimate("reverse_kl", **kind, self_normalized=True))
        np.testing.assert_allclose(normalized.mean(), 0.125, rtol=0.05)
    weights = np.exp(log_q - log_b)
    kish = weights.sum(-1) ** 2 / (weights**2).sum(-1)
    got = jax.jit(e.effective_sample_size)(log_q - log_b + 100)
    np.testing.assert_allclose(got, kish, rtol=1e-4)
    assert jax.jit(e.effective_sample_size)(np.full(3, -np.inf)) == 0


def test_impossible_samples():
    inf = np.inf
    log_p = np.array([-inf, -inf, -1.0, -1.0, -500.0])
    log_q = np.array([-1.0, -inf, -inf, -1.0, -1.0])

    @jax.jit
    def every(log_p, log_q):
        fs = (e.k1, e.k2, e.k3)
        return jnp.stack([f(log_p=log_p, log_q=log_q) for f in fs])

    value = every(log_p, log_q)
    expected = [
        [inf, 0, -inf, 0, 499],
        [inf, 0, inf, 0, 499**2 / 2],
        [inf, 0, inf, 0, 498],
    ]
    np.testing.assert_allclose(value, expected)
    turned = np.asarray(every(log_q, log_p))
    assert turned[2, 4] == inf and (turned[2, :4] >= 0).all()

    @jax.jit
    def gradients(log_p, log_q):
        return jax.grad(lambda *args: every(*args).sum(), (0, 1))(log_p, log_q)

    for pair in ((log_p, log_q), (log_q, log_p)):
        for gradient in gradients(*pair):
            assert np.isfinite(gradient).all()
            np.testing.assert_allclose(np.asarray(gradient)[:3], 0)

    @jax.jit
    def all_divergences(log_p, log_q):
        return {
            name: jax.value_and_grad(
                lambda a, b, name=name: e.f_divergence(
                    name, log_p=a, log_q=b, log_behavior=jnp.zeros(5)
                ),
                (0, 1),
            )(log_p, log_q)
            for name in names()
        }

    for name, (value, gradients_) in all_divergences(log_p, log_q).items():
        assert not np.isnan(value), name
        assert not any(np.isnan(x).any() for x in gradients_), name


def test_types_and_errors():
    low = jnp.array([-1.0, -2.0], jnp.bfloat16)
    for f in (e.k1, e.k2, e.k3):
        both = jax.eval_shape(lambda x, f=f: f(log_p=x, log_q=x), low)
        assert both.dtype == jnp.float32
        with pytest.raises(ValueError, match=r"log_p \(2,\) and log_q \(3,\)"):
            f(log_p=low, log_q=jnp.zeros(3))
    estimate = jax.eval_shape(lambda x: e.f_divergence("le_cam", log_p=x, log_q=x), low)
    assert estimate.dtype == jnp.float32
    with pytest.raises(ValueError, match=r"log_behavior \(1,\)"):
        e.f_divergence("le_cam", log_p=low, log_q=low, log_behavior=jnp.zeros(1))
    with pytest.raises(ValueError, match="sample axis"):
        e.f_divergence("le_cam", log_p=0.0, log_q=0.0)
    with pytest.raises(ValueError, match="sample axis"):
        e.effective_sample_size(0.0)
    with pytest.raises(TypeError):
        e.k1(low, low)
