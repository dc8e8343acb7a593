"""Targets and their constants against float64 NumPy and exact sums.

F and B are the checks of Go et al. 2023 and Korbak et al. 2022 on all sequences of five
tokens out of four.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from kljax.objectives.partition import RunningPartition, bracket, estimated
from kljax.objectives.targets import (
    Constraint,
    Exponential,
    Mixture,
    Product,
    Teacher,
    Tilt,
    fit_moments,
)
from kljax.theory.posterior import elbo_gap
from kljax.theory.sequences import chained

V, T = 4, 5
N = V**T
X = np.indices((V,) * T).reshape(T, N).T


def law(rng, *lead):
    return special.log_softmax(rng.normal(size=(*lead, N)), axis=-1)


def features():
    """Whether there is a token 2; whether the ends agree."""
    return np.stack([(X == 2).any(axis=1), X[:, 0] == X[:, 4]], axis=1).astype(float)


# ---------------------------------------------------------------------------- targets


def test_scores(x64):
    rng = np.random.default_rng(0)
    prior, others, reward = law(rng), law(rng, 2), rng.normal(size=N)
    score = lambda target, evidence: np.asarray(target.log_score(prior, evidence))
    exact = prior + reward / 0.2
    np.testing.assert_allclose(score(Tilt(0.2), reward), exact, rtol=1e-12)
    weights = np.array([1.5, -2.0])
    exact = prior + features() @ weights
    found = score(Exponential(jnp.asarray(weights)), features())
    np.testing.assert_allclose(found, exact, rtol=1e-12)
    allowed = np.stack([X[:, 0] == 1, X[:, 1] == 2], axis=1)
    found = score(Constraint(), allowed)
    np.testing.assert_array_equal(found, np.where(allowed.all(1), prior, -np.inf))
    np.testing.assert_array_equal(score(Teacher(), others[0]), others[0])
    models, shares = np.stack([prior, *others]), np.array([0.5, 0.2, 0.3])
    for weights, own in ((None, np.full(3, 1 / 3)), (2 * shares, shares)):
        given = None if weights is None else jnp.asarray(weights)
        found = np.exp(score(Mixture(given), others.T))
        np.testing.assert_allclose(found, own @ np.exp(models), rtol=1e-12)
        assert abs(found.sum() - 1) < 1e-12
        found = score(Product(given), others.T)
        np.testing.assert_allclose(found, own @ models, rtol=1e-12)


def test_targets_are_trees_and_take_traced_parameters():
    slope = jax.grad(lambda target: target.log_score(0.0, 2.0))(Tilt(jnp.float32(0.5)))
    assert float(slope.beta) == -8.0
    few = jnp.zeros((2, 1)), jnp.zeros((2, 1, 3))
    for target in (Mixture(jnp.ones(4)), Product()):
        assert jax.jit(lambda t, x: t.log_score(*x))(target, few).shape == (2, 1)
    off = Product(jnp.array([1.0, 0.0])).log_score(-1.0, jnp.array([-jnp.inf]))
    assert float(off) == -1.0  # a model without a say has no veto


def test_wrong_evidence_is_refused():
    with pytest.raises(ValueError, match="beta must be positive, got 0"):
        Tilt(0.0)
    with pytest.raises(TypeError, match="allowed must be boolean"):
        Constraint().log_score(np.zeros(3), np.ones((3, 1)))
    with pytest.raises(ValueError, match=r"log_others has shape \(3,\)"):
        Mixture().log_score(np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match=r"weights has shape \(3,\); expected \(2,\)"):
        Product(jnp.ones(3)).log_score(np.zeros(3), np.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"expected \[n\], \[n, k\] and \[k\]"):
        fit_moments(np.zeros(3), np.zeros((3, 2)), np.zeros(3))


# ---------------------------------------------------------------------------- moments


def bases(rng):
    """A base model with means (.63, .20) of two binary features."""
    base = law(rng)
    phi = features()
    dual = lambda w: special.logsumexp(base + phi @ w) - w @ [0.63, 0.2]
    base = base + phi @ optimize.minimize(dual, np.zeros(2), tol=1e-12).x
    return base - special.logsumexp(base), phi


MU = np.array([0.5, 0.9])


def test_moments_are_met_exactly(x64):
    """F4: Newton meets them, and the law is the one of SciPy's minimizer."""
    base, phi = bases(np.random.default_rng(1))
    np.testing.assert_allclose(np.exp(base) @ phi, [0.63, 0.2], atol=1e-6)
    for mu in (MU, np.array([0.99, 0.01])):
        found = fit_moments(base, phi, mu)
        p = special.softmax(base + phi @ np.asarray(found.target.weights))
        np.testing.assert_allclose(p @ phi, mu, atol=1e-8)
        np.testing.assert_allclose(found.means, mu, atol=1e-8)
        assert found.error < 1e-8 and found.steps < 20
        dual = lambda w, mu=mu: special.logsumexp(base + phi @ w) - w @ mu
        slope = lambda w, mu=mu: special.softmax(base + phi @ w) @ phi - mu
        exact = optimize.minimize(dual, np.zeros(2), jac=slope, tol=1e-12).x
        np.testing.assert_allclose(found.target.weights, exact, atol=1e-4)
        size = 1 / np.sum(p**2)
        np.testing.assert_allclose(found.effective, size, rtol=1e-8)


def test_moments_by_samples(x64):
    """F4: the error of the exact moments falls with the samples as published."""
    rng = np.random.default_rng(2)
    base, phi = bases(rng)
    fit = jax.jit(jax.vmap(lambda x: fit_moments(jnp.zeros(len(x)), x, MU)))
    for count, published in ((512, 0.040), (4096, 0.012), (32_768, 0.004)):
        draws = rng.choice(N, size=(8, count), p=np.exp(base))
        found = fit(jnp.asarray(phi[draws]))
        assert (found.error < 1e-8).all()
        tilted = special.softmax(
            base + np.asarray(found.target.weights) @ phi.T, axis=1
        )
        worst = abs(tilted @ phi - MU).max(axis=1)
        assert worst.mean() < 1.5 * published
        assert worst.mean() > 0.01 * published  # samples, not all sequences


def test_large_weights_come_to_the_constraint(x64):
    base, phi = bases(np.random.default_rng(3))
    allowed = phi[:, :1] == 1
    hard = special.softmax(Constraint().log_score(base, allowed))
    soft = Exponential(jnp.array([20.0])).log_score(base, phi[:, :1])
    assert 0.5 * abs(special.softmax(soft) - hard).sum() < 1e-3


def test_moments_out_of_reach_say_so():
    phi = np.array([[0.0], [1.0]])
    found = fit_moments(np.zeros(2), phi, np.array([1.5]))
    assert found.error > 0.4 and np.isfinite(found.target.weights).all()
    same = np.repeat(phi, 2, axis=1)  # features that say the same
    found = fit_moments(np.zeros(2), same, np.array([0.75, 0.75]))
    np.testing.assert_allclose(found.means, 0.75, atol=1e-6)


# -------------------------------------------------------------------------- constants


def tilted_case(rng):
    prior, reward = law(rng), rng.normal(size=N)
    return prior, reward, special.logsumexp(prior + reward)


def test_estimates_are_unbiased_and_their_logarithms_low(x64):
    """B6: E Ẑ = Z within 4 standard errors, E log Ẑ < log Z; ESS of its exact size."""
    rng = np.random.default_rng(4)
    prior, reward, log_z = tilted_case(rng)
    repeats, n = 2**12, 2**4  # 2^16 samples
    draws = rng.choice(N, size=(repeats, n), p=np.exp(prior))
    found = estimated(reward[draws])
    z = np.exp(np.asarray(found.log_partition))
    error = z.std(ddof=1) / np.sqrt(repeats)
    assert abs(z.mean() - np.exp(log_z)) < 4 * error
    gap = np.asarray(found.log_partition) - log_z
    error = gap.std(ddof=1) / np.sqrt(repeats)
    assert gap.mean() < -4 * error
    np.testing.assert_allclose(gap.mean(), -np.var(z / np.exp(log_z)) / 2, rtol=0.25)
    one = estimated(reward[draws.ravel()])
    w = np.exp(reward[draws.ravel()])
    np.testing.assert_allclose(one.effective, w.sum() ** 2 / (w**2).sum(), rtol=1e-10)
    exact = np.exp(2 * log_z - special.logsumexp(prior + 2 * reward))
    np.testing.assert_allclose(one.effective / w.size, exact, rtol=0.05)


def test_intervals_cover(x64):
    rng = np.random.default_rng(5)
    prior, reward, log_z = tilted_case(rng)
    found = estimated(reward[rng.choice(N, size=(2000, 256), p=np.exp(prior))])
    inside = (found.low <= log_z) & (log_z <= found.high)
    assert 0.92 < inside.mean() < 0.97
    w = np.exp(np.array([0.0, 0.4, 1.0]))
    one = estimated(np.log(w) + 1000)  # beyond what exp can hold
    error = 1.96 * w.std(ddof=1) / np.sqrt(3)
    ends = np.log(np.maximum(w.mean() + np.array([-error, error]), 0)) + 1000
    np.testing.assert_allclose([one.low, one.high], ends, rtol=1e-12)
    wide = estimated(np.array([0.0, -50.0]))
    assert wide.low == -np.inf and np.isfinite(wide.high)
    none = estimated(np.full(3, -np.inf))
    assert none.log_partition == -np.inf and none.effective == 0
    with pytest.raises(ValueError, match="n > 1"):
        estimated(np.zeros(1))


def test_bracket_holds_log_z_on_average(x64):
    rng = np.random.default_rng(6)
    prior, reward, log_z = tilted_case(rng)
    draws = lambda p: rng.choice(N, size=(2000, 8), p=p)
    p = np.exp(prior + reward - log_z)
    low, high = bracket(reward[draws(np.exp(prior))], reward[draws(p / p.sum())])
    for bound, side in ((low, -1), (high, 1)):
        gap = side * (np.asarray(bound) - log_z)
        assert gap.mean() > 4 * gap.std() / np.sqrt(2000)
    assert (high - low).mean() < 0.5
    exact = -special.logsumexp(-reward[:5]) + np.log(5)
    np.testing.assert_allclose(bracket(reward[:2], reward[:5])[1], exact, rtol=1e-12)
    with pytest.raises(ValueError, match=r"log_weights_target has shape \(0,\)"):
        bracket(np.zeros(2), np.zeros(0))


def test_running_partition_under_a_moving_proposal(x64):
    """F5: 1e5 samples of proposals that change: unbiased within 4 standard errors."""
    rng = np.random.default_rng(7)
    prior, reward, log_z = tilted_case(rng)
    end, state, every = prior + reward - log_z, RunningPartition.init((2,)), []
    update = jax.jit(RunningPartition.update)
    for step in range(100):
        q = special.log_softmax(prior + (end - prior) * step / 150)
        x = rng.choice(N, size=(2, 1000), p=np.exp(q))
        every.append((prior + reward - q)[x])
        before = state.delayed(every[-1])
        state = update(state, every[-1])
        if step == 1:
            first = special.logsumexp(every[0], axis=1) - np.log(1000)
            np.testing.assert_allclose(before, first, rtol=1e-6)
    w = np.exp(np.concatenate(every, axis=1) - log_z)
    np.testing.assert_allclose(np.exp(state.value - log_z), w.mean(1), rtol=1e-5)
    error = w.std(axis=1) / np.sqrt(w.shape[1])
    assert (abs(w.mean(axis=1) - 1) < 4 * error).all() and (error < 0.01).all()
    assert np.isnan(RunningPartition.init().value)
    np.testing.assert_allclose(RunningPartition.init().delayed(jnp.zeros(3)), 0)
    with pytest.raises(ValueError, match=r"log_weights has shape \(3,\)"):
        state.update(jnp.zeros(3))


def test_score_gradient_by_samples(x64):
    """B6, (8): 2^18 samples of the policy come to the derivative of the divergence.

    With the mean for a baseline, which lowers the variance.
    """
    rng = np.random.default_rng(8)
    table = jnp.asarray(0.8 * rng.normal(size=(V + 1, V)))  # a bigram policy
    prior, beta = law(rng), 0.25
    reward = -1.5 * (X[:, 0] != X[:, 4]) - ((X == 2).sum(axis=1) != 1)

    def policy(table):
        log_next = jax.nn.log_softmax(table)
        later = [jnp.tile(log_next[:V], (V**t, 1)) for t in range(T - 1)]
        return chained([log_next[V:], *later])

    gap = lambda table: elbo_gap(policy(table), prior, reward, beta)
    exact = np.asarray(jax.jit(jax.grad(gap))(table))
    log_q, pull = jax.vjp(jax.jit(policy), table)
    score = np.asarray(log_q - Tilt(beta).log_score(prior, reward))
    count = rng.multinomial(2**18, np.exp(log_q)) / 2**18
    error = lambda s: np.linalg.norm(pull(count * s)[0] - exact)
    with_mean, size = error(score - count @ score), np.linalg.norm(exact)
    assert 0.002 < with_mean / size < 0.02
    assert with_mean < error(score)
