"""f-DPG: the gradient of every divergence, what Z does to it, what a baseline does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.generators import names
from kljax.objectives.partition import RunningPartition
from kljax.objectives.policy.certify import targets
from kljax.objectives.policy.dpg import f_dpg
from kljax.objectives.targets import Constraint, Tilt

INFINITE = {"reverse_kl", "jeffreys", "neyman_chi2", "softened_reverse_kl"}
SCALES = {"forward_kl", "reverse_kl", "squared_hellinger", "alpha",
          "pearson_chi2", "neyman_chi2"}  # fmt: skip
"""Divergences whose gradient a wrong Z multiplies, or leaves."""


@pytest.fixture(scope="module")
def cases(spaces):
    """A soft and a hard target: log q, log p, each sequence's derivative of log q, and
    the derivatives of divergences."""
    with jax.enable_x64(True):
        soft = spaces["on"]
        log_p = jnp.where(jnp.arange(4) == 2, -jnp.inf, soft.log_p)
        hard = dataclasses.replace(soft, log_p=jax.nn.log_softmax(log_p))
        grads = soft.jacobian[soft.prefix, soft.tokens].sum(1)
        found = {}
        for name, space in {"soft": soft, "hard": hard}.items():
            log_q, log_p = (np.asarray(x).sum(-1) for x in space.samples[:2])
            exact = {k.removeprefix("sequence "): v for k, v in targets(space).items()}
            found[name] = log_q, log_p, grads, exact
        return found


@jax.jit
def slopes(log_q, log_p, log_b, log_z, baseline, wrong=0.0):
    """What multiplies each sample's derivative, by divergence; P = Z p."""

    def total(x, name):
        given = {"log_score": log_p + log_z, "log_partition": log_z + wrong}
        given |= {"log_behavior": log_b, "baseline": baseline}
        return f_dpg(name, log_q=x, **given)[0].sum()

    return {name.removesuffix("_kl"): jax.grad(total)(log_q, name) for name in names()}


def proposals(log_q, log_p):
    """On policy, and off it: an even mixture with the target, which covers both."""
    return {"on": log_q, "off": np.logaddexp(log_q, log_p) - np.log(2)}


@pytest.mark.parametrize("kind, count", [("soft", 13), ("hard", 9)])
def test_the_gradient_is_that_of_every_divergence(cases, kind, count):
    """F1, F3: to rounding, whatever Z and the baseline are; 2^16 samples come to it
    within 4 standard errors, of Pearson's off policy alone."""
    rng = np.random.default_rng(0)
    log_q, log_p, grads, exact = cases[kind]
    short = {name.removesuffix("_kl") for name in INFINITE}
    for policy, log_b in proposals(log_q, log_p).items():
        law = np.exp(log_b)
        drawn = rng.multinomial(2**16, law / law.sum()) / 2**16
        every = slopes(log_q, log_p, log_b, 3.0, 0.7)
        checked = {k: np.asarray(c) for k, c in every.items() if k in exact}
        for name, c in checked.items():
            want = exact[name]
            gap = np.linalg.norm((law * c) @ grads - want) / np.linalg.norm(want)
            assert gap <= 1e-10, (policy, name, gap)
            if (policy, name) != ("on", "pearson_chi2"):
                along = c * (grads @ want)
                mean = drawn @ along
                error = np.sqrt((drawn @ along**2 - mean**2) / 2**16)
                assert abs(mean - want @ want) < 4 * error, (policy, name)
                assert error < abs(mean), (policy, name)
        assert len(checked) == count
        for name in short if kind == "hard" else ():  # jit: not a number, no lie
            np.testing.assert_array_equal(np.isnan(every[name]), log_p == -np.inf)


def test_what_is_infinite_at_a_hard_target_is_refused_by_name():
    log_q, allowed = jnp.log(jnp.array([0.5, 0.5])), jnp.array([[True], [False]])
    given = {"log_q": log_q, "log_score": Constraint().log_score(log_q, allowed)}
    for name in INFINITE:
        kind = name.replace("_", "").replace("kl", "KL")
        with pytest.raises(ValueError, match=f"(?i)where {kind} is infinite: soften"):
            f_dpg(name, **given, log_partition=jnp.log(0.5))
    _, metrics = f_dpg("total_variation", **given, log_partition=jnp.log(0.5))
    assert metrics["dpg/possible"] == 0.5


def test_who_cares_about_z(cases):
    """F2: a wrong Z turns the gradient of none but those that are no powers."""
    shifts = np.log([0.25, 0.5, 1.0, 2.0, 4.0])
    log_q, log_p, grads, _ = cases["soft"]
    every = [slopes(log_q, log_p, log_q, 0.0, 0.0, wrong) for wrong in shifts]
    for name in names():
        key = name.removesuffix("_kl")
        each = np.stack([np.exp(log_q) * np.asarray(c[key]) for c in every]) @ grads
        size = np.linalg.norm(each, axis=1) / np.linalg.norm(each[2])
        cosines = each @ each[2] / (size * (each[2] @ each[2]))
        assert (cosines[[0, 1, 3, 4]] > 0.9999).all() == (name in SCALES), name
        if name == "forward_kl":
            np.testing.assert_allclose(size, np.exp(-shifts), rtol=1e-9)
        if name == "reverse_kl":
            np.testing.assert_allclose(size, 1, rtol=1e-9)


def test_a_baseline_lowers_the_variance_but_of_forward_kl():
    """F3, on the sheet's target: rewards at both ends of a sequence, a bigram."""
    x = np.stack(np.meshgrid(*[np.arange(4)] * 5, indexing="ij"), -1).reshape(-1, 5)
    table = 0.8 * np.asarray(jax.random.normal(jax.random.key(0), (5, 4)))
    before = np.concatenate([np.full((1024, 1), 4), x[:, :-1]], axis=1)
    counts = np.zeros((1024, 5, 4))
    np.add.at(counts, (np.arange(1024)[:, None], before, x), 1)
    log_next = np.asarray(jax.nn.log_softmax(table))
    log_q = np.einsum("nij,ij->n", counts, log_next)
    q = np.exp(log_q)
    grads = (counts - counts.sum(2, keepdims=True) * np.exp(log_next)).reshape(1024, -1)
    reward = -1.5 * (x[:, 0] != x[:, 4]) - ((x == 2).sum(1) != 1)
    score = np.asarray(Tilt(0.25).log_score(log_q, reward))
    log_z = np.log(np.exp(score).sum())

    def spreads(baselines):
        """Variance over the squared mean, the mean, and the mean reward."""
        of = slopes(log_q, score - log_z, log_q, log_z, baselines)
        for name in kinds:
            each = np.asarray(of[name])[:, None] * grads
            mean = q @ each
            varied = q @ (each**2).sum(1) - mean @ mean
            yield varied / (mean @ mean), mean, -q @ of[name]

    kinds = ("reverse", "jensen_shannon", "total_variation", "forward")
    plain, means, rewards = zip(*spreads(0.0))
    found = [[*spreads(reward)][i] for i, reward in enumerate(rewards)]
    with_mean, same, _ = zip(*found)
    np.testing.assert_allclose(same, means, rtol=0, atol=1e-12)
    ratio = np.divide(with_mean, plain)
    assert ratio[:3].max() < 0.8 and 0.99 < ratio[3] < 1.01


def test_shapes_are_checked_and_contexts_have_their_own_z():
    logs = jax.random.normal(jax.random.key(1), (3, 2, 4)) - 1
    z, b = jnp.array([0.3, -0.2]), jnp.array([0.0, 1.0])
    given = {"log_q": logs[0], "log_score": logs[1], "log_behavior": logs[2]}
    of = jax.jit(lambda x, z, b: f_dpg("le_cam", **x, log_partition=z, baseline=b))
    losses, metrics = of(given, z, b)
    for i in range(2):
        one, _ = of({name: value[i] for name, value in given.items()}, z[i], b[i])
        np.testing.assert_allclose(losses[i], one, rtol=1e-12)
    assert losses.shape == (2, 4) and metrics["dpg/reward"].shape == (2,)
    with pytest.raises(ValueError, match=r"log_score \(4,\) must be \[\*c, n\]"):
        f_dpg("le_cam", log_q=logs[0], log_score=logs[1, 0], log_partition=0.0)


def test_a_delayed_constant_is_there_before_any_sample_is_possible():
    """Of a rare constraint: nothing, nothing, then one sample of weight e."""
    none, one = jnp.full(4, -jnp.inf), jnp.array([-jnp.inf, 1.0, -jnp.inf, -jnp.inf])

    @jax.jit
    def step(state, weights):
        log_z = state.delayed(weights)
        total = lambda x: f_dpg(
            "jensen_shannon", log_q=x, log_score=weights - 2.0, log_partition=log_z
        )[0].sum()
        return state.update(weights), log_z, jax.grad(total)(jnp.full(4, -2.0))

    state, rare = RunningPartition.init(), 1 - np.log(12)
    for weights, want in ((none, -np.inf), (none, -np.inf), (one, rare), (none, rare)):
        state, log_z, slope = step(state, weights)
        np.testing.assert_allclose(log_z, want, rtol=1e-6)
        assert jnp.isfinite(slope).all()
        np.testing.assert_allclose(slope[weights == -jnp.inf], np.log(2) / 2, rtol=1e-6)
