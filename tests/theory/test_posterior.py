"""Exact posteriors against float64 NumPy, written from their definitions.

B and numbers in parentheses are those of Korbak et al.'s formulas as `kljax.theory.
posterior` counts them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from scipy import optimize, special

from kljax.theory import sequences as all_of
from kljax.theory.best_of_n import best_of_n, best_of_n_bound, best_of_n_round
from kljax.theory.budget import beta_at, budget, compared, efficiency
from kljax.theory.posterior import (
    conditioned,
    distances,
    elbo_gap,
    log_partition,
    log_success,
    objective,
    posterior,
)
from kljax.theory.sequences import chained, sequence_log_probs

V, T = 4, 5
N = V**T
X = np.indices((V,) * T).reshape(T, N).T


def law(rng, *lead):
    return special.log_softmax(1.5 * rng.normal(size=(*lead, N)), axis=-1)


def cases(count=20):
    """Policies, priors, rewards `[20, n]`, beta `[20]`."""
    rng = np.random.default_rng(0)
    reward = rng.normal(size=(count, N)) * 10 ** rng.uniform(-1, 1, (count, 1))
    return law(rng, count), law(rng, count), reward, 10 ** rng.uniform(-1, 1, count)


def kl(p, q):
    return np.sum(np.exp(p) * (p - q), axis=-1)


def tilted(prior, reward, beta):
    score = prior + reward / np.asarray(beta)[..., None]
    log_z = special.logsumexp(score, axis=-1)
    return score - log_z[..., None], log_z


# ------------------------------------------------------------------------- posteriors


def test_value_identity_and_elbo(x64):
    """B1, B2: J = β log Z − β KL(q‖p), with both sides from their definitions."""
    q, prior, reward, beta = cases()
    p, log_z = tilted(prior, reward, beta)
    j = np.sum(np.exp(q) * (reward + beta[:, None] * (prior - q)), axis=-1)
    scale = np.maximum(1, abs(j))
    np.testing.assert_allclose(log_partition(prior, reward, beta), log_z, atol=1e-11)
    np.testing.assert_allclose(posterior(prior, reward, beta), p, atol=1e-10)
    found = objective(q, prior, reward, beta)
    np.testing.assert_array_less(abs(found - j) / scale, 1e-10)
    np.testing.assert_array_less(abs(found - beta * (log_z - kl(q, p))) / scale, 1e-10)
    gap = elbo_gap(q, prior, reward, beta)
    np.testing.assert_allclose(gap, log_z - j / beta, rtol=1e-10)
    assert (gap > 0).all()
    best = posterior(prior, reward, beta)
    np.testing.assert_allclose(elbo_gap(best, prior, reward, beta), 0, atol=1e-14)
    np.testing.assert_allclose(
        objective(best, prior, reward, beta), beta * log_z, rtol=1e-10
    )


def test_gradient_is_that_of_the_divergence(x64):
    """B1, (8): over logits z, dJ/dz = −β q (s − E_q s), s = log q − log prior − r/β."""
    q, prior, reward, beta = cases()
    score = q - prior - reward / beta[:, None]
    mean = np.sum(np.exp(q) * score, axis=-1, keepdims=True)
    exact = -beta[:, None] * np.exp(q) * (score - mean)
    of_logits = lambda z: objective(jax.nn.log_softmax(z), prior, reward, beta).sum()
    slope = jax.jit(jax.grad(of_logits))
    best = slope(posterior(prior, reward, beta))  # S3 of SALSA: it is stationary
    np.testing.assert_array_less(np.linalg.norm(best, axis=-1), 1e-8)
    found = slope(jnp.asarray(q) + 3.0)
    error = np.linalg.norm(found - exact, axis=-1) / np.linalg.norm(exact, axis=-1)
    np.testing.assert_array_less(error, 1e-10)


def test_no_penalty_is_the_mean_reward(x64):
    q, prior, reward, _ = cases(3)
    prior[:, 0] = -np.inf  # nothing is infinite that does not count
    expected = np.sum(np.exp(q) * reward, axis=-1)
    np.testing.assert_allclose(objective(q, prior, reward, 0.0), expected, rtol=1e-12)
    assert (objective(q, prior, reward, 1.0) == -np.inf).all()


def test_every_distance_to_the_posterior(x64):
    q, prior, reward, beta = cases(2)
    beta = np.maximum(beta, 1)
    p, _ = tilted(prior, reward / 10, beta)
    found = distances(q, prior, reward / 10, beta)
    assert set(found) == set(references.TABLE)
    for name, value in found.items():
        exact = references.TABLE[name].value(np.exp(p), np.exp(q))
        np.testing.assert_allclose(value, exact, rtol=1e-9, err_msg=name)


def test_limits_of_beta(x64):
    """B4: reward and KL fall in β; the prior and the conditioned prior are the ends."""
    rng = np.random.default_rng(1)
    prior, reward = law(rng), (X[:, 0] == X[:, 4]).astype(float)
    beta = np.geomspace(1e-2, 1e5, 40)
    paths = jax.vmap(lambda b: budget(prior, reward, b))(jnp.asarray(beta))
    assert (np.diff(paths.kl) < 0)[8:].all() and (np.diff(paths.reward) < 0)[8:].all()
    total = lambda a, b: 0.5 * abs(np.exp(a) - np.exp(b)).sum()
    assert total(posterior(prior, reward, 1e5), prior) < 1e-3
    given = np.where(reward == 1, prior, -np.inf)
    given -= special.logsumexp(given)
    np.testing.assert_allclose(conditioned(prior, reward == 1), given, atol=1e-12)
    assert total(posterior(prior, reward, 1e-2), given) < 1e-3
    sharp = np.exp(posterior(prior, reward, 1e-3))
    np.testing.assert_allclose(sharp, np.exp(given), atol=1e-12)


def test_tilts_compose(x64):
    """B5, (9)."""
    rng = np.random.default_rng(2)
    prior, one, two = law(rng), rng.normal(size=N), rng.normal(size=N)
    found = posterior(posterior(prior, one, 0.3), two, 0.7)
    np.testing.assert_allclose(
        found, tilted(prior, one / 0.3 + two / 0.7, 1.0)[0], atol=1e-12
    )


def test_binary_rewards_and_projection(x64):
    """B5, (6), (10), (13)."""
    rng = np.random.default_rng(3)
    prior, allowed = law(rng), X[:, 1] == 2
    log_odds = lambda p: log_success(p, allowed) - log_success(p, ~allowed)
    exact = lambda p: np.log(np.exp(p)[allowed].sum() / np.exp(p)[~allowed].sum())
    np.testing.assert_allclose(log_odds(prior), exact(prior), atol=1e-12)
    for beta in (0.05, 0.5, 5.0):
        p = posterior(prior, allowed.astype(float), beta)
        shift = log_odds(p) - log_odds(prior)
        np.testing.assert_allclose(shift, 1 / beta, rtol=0, atol=1e-12 / beta)
        cost = budget(prior, allowed.astype(float), beta).kl
        assert cost < -log_success(prior, allowed) * (1 - 1e-12) or beta == 0.05
    p = np.asarray(conditioned(prior, allowed))
    ratios = p[allowed] - p[allowed][0], prior[allowed] - prior[allowed][0]
    np.testing.assert_allclose(*ratios, atol=1e-12)
    hardest = budget(prior, allowed.astype(float), 0.01).kl
    np.testing.assert_allclose(hardest, -log_success(prior, allowed), rtol=1e-12)
    q = np.where(allowed, rng.normal(size=N), -np.inf)
    q -= special.logsumexp(q)
    on = allowed
    left = np.sum(np.exp(q[on]) * (q[on] - prior[on]))
    right = np.sum(np.exp(q[on]) * (q[on] - p[on])) - log_success(prior, allowed)
    np.testing.assert_allclose(left, right, rtol=1e-12)


def test_budget(x64):
    """(11), (12): cost, slope by finite differences, and the law of the root."""
    rng = np.random.default_rng(4)
    prior, reward = law(rng), rng.normal(size=N)
    sigma = np.sqrt(np.exp(prior) @ (reward - np.exp(prior) @ reward) ** 2)
    for beta in sigma * np.array([0.1, 1.0, 30.0, 300.0]):
        found = budget(prior, reward, beta)
        p, log_z = tilted(prior, reward, beta)
        np.testing.assert_allclose(found.log_partition, log_z, atol=1e-12)
        np.testing.assert_allclose(found.reward, np.exp(p) @ reward, atol=1e-12)
        cost = found.reward / beta - log_z
        np.testing.assert_allclose(found.kl, cost, rtol=1e-9, atol=1e-13)
        step = 1e-4 / beta
        ends = [
            np.exp(tilted(prior, reward, 1 / (1 / beta + s))[0]) for s in (-step, step)
        ]
        slope = (ends[1] - ends[0]) @ reward / (2 * step)
        np.testing.assert_allclose(found.variance, slope, rtol=1e-5)
        root = sigma * np.sqrt(2 * found.kl)
        np.testing.assert_allclose(found.root_law, root, rtol=1e-9)
        if beta >= 30 * sigma:
            np.testing.assert_allclose(found.gain / root, 1, rtol=0.01)
    small = budget(jnp.float32(prior), jnp.float32(reward), 1000.0)
    exact = budget(prior, reward, 1000.0)
    for name in ("gain", "kl", "root_law"):  # 1e-6 of a reward of 1, in float32
        np.testing.assert_allclose(
            getattr(small, name), getattr(exact, name), rtol=1e-5
        )


def test_efficiency(x64):
    """A gain over that of the posterior as far away, found by root finding."""
    rng = np.random.default_rng(7)
    prior, reward = law(rng), rng.normal(size=N)
    policies = np.stack(
        [law(rng), tilted(prior, reward, 0.4)[0], tilted(prior, -reward, 1)[0]]
    )
    found = efficiency(policies, prior, reward)
    for q, share in zip(policies, found):
        far = lambda b, q=q: kl(tilted(prior, reward, b)[0], prior) - kl(q, prior)
        best = tilted(prior, reward, optimize.brentq(far, 1e-2, 1e2, xtol=1e-13))[0]
        gain = (np.exp(q) - np.exp(prior)) @ reward
        most = (np.exp(best) - np.exp(prior)) @ reward
        np.testing.assert_allclose(share, gain / most, rtol=1e-9)
    np.testing.assert_allclose(found[1], 1, rtol=1e-9)
    assert -1 <= found[2] < 0 < found[0] < 1


def test_extremes_in_float32():
    """r/β beyond 88, impossible outcomes, a row without any: no NaN."""
    half, never = np.log(np.float32(0.5)), -np.inf
    prior = np.array([[half, half, never], [0, never, never]], np.float32)
    reward = np.array([[0, 1000, 5000], [1, 2, 3]], np.float32)
    p = posterior(prior, reward, 1.0)
    np.testing.assert_allclose(np.exp(p), [[0, 1, 0], [1, 0, 0]], atol=1e-30)
    assert log_partition(prior, reward, 1.0)[0] == np.float32(1000 - np.log(2))
    found = budget(prior, reward, 1.0)
    np.testing.assert_allclose(found.gain, [500, 0], rtol=1e-6)
    np.testing.assert_allclose(found.kl, [np.log(2), 0], rtol=1e-6)
    none = np.zeros((2, 3), bool)
    assert (conditioned(prior, none) == -np.inf).all()
    assert (log_success(prior, none) == -np.inf).all()
    tiny = np.log(np.array([1e-42, 1.0]))  # p / prior is no number of float32
    found = budget(jnp.float32(tiny), jnp.array([1.0, 0.0]), 1e-3)
    np.testing.assert_allclose([found.gain, found.reward], 1.0, rtol=1e-6)


def test_what_is_no_law_is_refused():
    prior = np.log(np.full(4, 0.25))
    with pytest.raises(ValueError, match=r"reward has shape \(3,\)"):
        posterior(prior, np.zeros(3), 1.0)
    with pytest.raises(ValueError, match="beta must be positive, got 0"):
        posterior(prior, np.zeros(4), 0.0)
    with pytest.raises(ValueError, match=r"beta must be one number .* got \(3,\)"):
        log_partition(np.stack([prior] * 2), np.zeros(4), np.ones(3))
    with pytest.raises(TypeError, match="allowed must be boolean"):
        conditioned(prior, np.ones(4))
    with pytest.raises(ValueError, match="log_prior has shape"):
        posterior(0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"unknown anchor 'b'"):
        compared({"a": prior}, np.zeros(4), 1.0, "b")


# ------------------------------------------------------------- references, best of n


def test_references_are_compared_before_training(x64):
    """SALSA (6): value and rewards of the optimum with each of them."""
    rng = np.random.default_rng(5)
    laws, reward, beta = {"a": law(rng, 3), "b": law(rng, 3)}, rng.normal(size=N), 0.4
    found = compared(laws, reward, beta, "a")
    for name, prior in laws.items():
        p, log_z = tilted(prior, reward, np.full(3, beta))
        one = found[name]
        np.testing.assert_allclose(one.value, beta * log_z, rtol=1e-11)
        np.testing.assert_allclose(one.reward, np.exp(p) @ reward, atol=1e-12)
        np.testing.assert_allclose(one.own_reward, np.exp(prior) @ reward, atol=1e-12)
        np.testing.assert_allclose(one.kl, kl(p, prior), rtol=1e-9)
        np.testing.assert_allclose(one.kl_anchor, kl(p, laws["a"]), rtol=1e-9)


def test_beta_at_a_distance(x64):
    rng = np.random.default_rng(6)
    prior, reward, far = law(rng), rng.normal(size=N), np.array([1e-4, 0.1, 1.0, 2.0])
    beta = np.asarray(beta_at(far, prior, reward))
    for b, one in zip(beta, far):
        np.testing.assert_allclose(kl(tilted(prior, reward, b)[0], prior), one, 1e-6)
    two = beta_at(0.1, np.stack([prior, law(rng)]), reward)
    np.testing.assert_allclose(two[0], beta[1], rtol=1e-9)


def test_best_of_n_against_samples(x64):
    """2e5 samples on 64 outcomes, distinct rewards and ones that tie."""
    rng = np.random.default_rng(7)
    p = special.log_softmax(rng.normal(size=64))
    draws = rng.choice(64, size=(200_000, 5), p=np.exp(p))
    for reward in (rng.normal(size=64), rng.integers(0, 4, 64).astype(float)):
        best = draws[np.arange(len(draws)), reward[draws].argmax(axis=1)]
        share = np.bincount(best, minlength=64) / len(draws)
        law_of_best = np.exp(best_of_n(p, reward, 5))
        assert 0.5 * abs(share - law_of_best).sum() < 0.01
        np.testing.assert_allclose(law_of_best.sum(), 1, rtol=1e-12)
        error = np.sqrt(law_of_best * (1 - law_of_best) / len(draws)) + 1e-5
        assert (abs(share - law_of_best) < 4.5 * error).all()


def test_best_of_n_at_its_limits(x64):
    rng = np.random.default_rng(8)
    p = special.log_softmax(rng.normal(size=(2, 30)), axis=-1)
    reward = rng.normal(size=30)
    np.testing.assert_allclose(best_of_n(p, reward, 1), p, atol=1e-12)
    found = best_of_n(p, np.zeros(30), np.array([3.0, 1e6]))  # all tie
    np.testing.assert_allclose(found, p, atol=1e-12)
    order = np.argsort(reward)
    cdf = np.cumsum(np.exp(p[0])[order])
    exact = np.diff(np.append(0, cdf**7))
    np.testing.assert_allclose(np.exp(best_of_n(p[0], reward, 7))[order], exact, 1e-10)
    gone = np.where(np.arange(30) == order[-1], -np.inf, p[0])
    assert best_of_n(gone, reward, 4)[order[-1]] == -np.inf
    many = np.full(100_000, -np.log(100_000))
    q = best_of_n(many, rng.normal(size=100_000), 16)
    np.testing.assert_allclose(kl(np.asarray(q), many), 1.835, rtol=0.01)
    np.testing.assert_allclose(
        best_of_n_bound(np.float64(16)), np.log(16) - 15 / 16, rtol=1e-12
    )
    narrow = best_of_n(jnp.float32([-1e-7, -16.0]), jnp.array([0.0, 1.0]), 64)
    share = -np.expm1(64 * np.log1p(-np.exp(-16.0)))
    np.testing.assert_allclose(np.exp(narrow[1]), share, rtol=1e-5)


def test_rounds_of_the_best_of_n_with_a_prior(x64):
    """A round minimizes its objective; rounds end where a scalar equation says."""
    rng = np.random.default_rng(11)
    prior, p = law(rng), law(rng)
    reward, n, c = rng.normal(size=N), 16, np.array([0.0, 0.1, 0.35, 3.0])

    @jax.jit
    def run(p):
        step = lambda q, _: (best_of_n_round(q, prior, reward, n, c),) * 2
        end, path = jax.lax.scan(step, jnp.tile(p, (4, 1)), None, 300)
        return jnp.exp(best_of_n(p, reward, n)), jnp.exp(path[0]), jnp.exp(end)

    kept, q, end = map(np.asarray, run(p))
    np.testing.assert_allclose(q.sum(axis=-1), 1, rtol=1e-12)
    for weight, one in zip(c, q):  # the slope in q is the same for all outcomes
        slope = (kept + weight * np.exp(prior)) / one
        np.testing.assert_allclose(slope[one > 0], 1 + weight, rtol=1e-9)
    first, top = np.exp(prior[reward.argmax()]), reward.argmax()
    for weight, one in zip(c[1:], end[1:]):
        rest = lambda m, w=weight: (1 - (1 - m) ** n + w * first) / (1 + w) - m
        root = optimize.brentq(rest, 0.5 / (1 + weight), 1 - 1e-12)
        np.testing.assert_allclose(one[top], root, rtol=1e-9)
        assert (one >= weight / (1 + weight) * np.exp(prior) * (1 - 1e-12)).all()
    assert abs(end[0, top] - 1) < 1e-12


# -------------------------------------------------------------------------- sequences


def test_sequences_by_prefix(x64):
    """Against the product of conditionals, sequence by sequence."""
    rng = np.random.default_rng(9)
    table = special.log_softmax(rng.normal(size=(V + 1, V)), axis=-1)
    skew = rng.normal(size=V)

    def log_next(prefix):
        row = jnp.asarray(table)[prefix[-1] if len(prefix) else V]
        return jax.nn.log_softmax(row + jnp.sum(prefix) * skew)  # of all the prefix

    exact = np.zeros(N)
    for t in range(T):
        row = table[X[:, t - 1] if t else np.full(N, V)]
        row = special.log_softmax(row + X[:, :t].sum(1)[:, None] * skew, axis=-1)
        exact += row[np.arange(N), X[:, t]]
    found = sequence_log_probs(log_next, V, T, chunk_size=100)
    np.testing.assert_allclose(found, exact, atol=1e-12)
    np.testing.assert_array_equal(all_of.sequences(V, T), X)
    levels = [
        special.log_softmax(rng.normal(size=(V**t, V)), axis=-1) for t in range(T)
    ]
    rank = lambda x: int("".join(map(str, x)) or "0", V)
    exact = [sum(levels[t][rank(x[:t]), x[t]] for t in range(T)) for x in X]
    np.testing.assert_allclose(chained(levels), exact, atol=1e-12)


def test_a_million_sequences_ask_once_per_prefix():
    asked = []

    def log_next(prefix):
        jax.debug.callback(asked.append, prefix)
        return jnp.log(jnp.array([0.25, 0.75]))

    jax.block_until_ready(sequence_log_probs(log_next, 2, 4))
    jax.effects_barrier()
    assert len(asked) == len({(*prefix.tolist(),) for prefix in asked}) == 2**4 - 1
    quiet = lambda prefix: jnp.log(jnp.arange(1.0, 11.0) / 55)
    found = np.asarray(sequence_log_probs(quiet, 10, 6, chunk_size=2**14))
    assert found.shape == (10**6,)
    np.testing.assert_allclose(np.exp(found, dtype=np.float64).sum(), 1, rtol=1e-5)


def test_sizes_that_cannot_be_enumerated_are_refused():
    even = lambda prefix: jnp.log(jnp.full(10, 0.1))
    with pytest.raises(ValueError, match=r"vocab \*\* length is 10000000"):
        sequence_log_probs(even, 10, 7)
    with pytest.raises(ValueError, match=r"levels\[1\] has shape \(2, 3\)"):
        chained([np.zeros((1, 2)), np.zeros((2, 3))])
    with pytest.raises(ValueError, match="levels is empty"):
        chained([])
