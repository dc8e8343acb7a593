"""OThink-MR1: what is exact is exact, against all responses one by one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.papers import othink_mr1
from experiments.papers.othink_mr1 import lab


def test_pictures_show_what_they_are_said_to():
    x, answers = lab.pictures(np.random.default_rng(0), 200)
    cells = x.reshape(200, 16, 16, 3)
    there = cells.max(axis=(2, 3)) > 0.4
    assert (there.sum(axis=1) == answers[:, 0] - lab.FIRST + 1).all()
    area = (cells > 0.4).sum(axis=(1, 2))
    assert (area.argmax(axis=1) == answers[:, 1] - lab.FIRST).all()
    assert {*np.unique(answers[:, 0])} == {*range(2, 11)}


def test_accuracy_and_kl_are_sums_over_all_responses(x64):
    """On two of the twelve tokens, the others being impossible."""
    rng = np.random.default_rng(1)
    allowed = np.array([3, 7])
    both = np.full((2, 2, lab.T, lab.V + 1, lab.V), -np.inf)
    both[..., allowed] = np.log(rng.dirichlet([1, 1], size=both.shape[:-1]))
    law, reference = jnp.asarray(both)
    answers = jnp.array([3, 7])
    right, distance = np.zeros(2), np.zeros(2)
    for tokens in itertools.product(allowed, repeat=lab.T):
        before = (lab.V, *tokens[:-1])
        p, q = (np.array([x[:, t, before[t], tokens[t]] for t in range(lab.T)]).sum(0)
                for x in both)  # fmt: skip
        right += np.exp(p) * (tokens[-1] == np.asarray(answers))
        distance += np.exp(p) * (p - q)
    of = jax.jit(lambda *laws: (lab.accuracy(laws[0], answers), lab.kl(*laws)))
    accuracy, kl = of(law, reference)
    np.testing.assert_allclose(accuracy, 100 * right.mean(), rtol=1e-12)
    np.testing.assert_allclose(kl, distance.mean(), rtol=1e-12)
    tokens = jax.jit(lab.drawn, static_argnums=2)(jax.random.key(0), law, 4000)
    share = 100 * (tokens[..., -1] == answers[:, None]).mean()
    assert abs(share - accuracy) < 4 * 50 / np.sqrt(8000)
    log_p = np.asarray(lab.of_tokens(law, tokens).sum(-1))
    error = log_p.std() / np.sqrt(8000)  # minus the entropy, by the chain rule
    known = lab.of_tokens(reference, tokens).sum(-1)
    gap = log_p - np.asarray(known)
    assert abs(gap.mean() - kl) < 4 * gap.std() / np.sqrt(8000) and error > 0


def test_the_constant_has_the_dynamic_weights_mean():
    config = othink_mr1.Config(steps=1000)
    weights = othink_mr1.schedules(config)
    dynamic = np.asarray(weights["GRPO-D"])
    np.testing.assert_allclose(dynamic[[0, 150, 300, 650]], [0.07, 0.055, 0.04, 0.07],
                               atol=1e-7)  # fmt: skip
    np.testing.assert_allclose(weights["equal mean"], dynamic.mean(), rtol=1e-5)
    assert abs(dynamic.mean() - 0.0655) < 1e-4
    rising, falling = (weights[name] for name in ("rising", "falling"))
    np.testing.assert_allclose(rising, falling[::-1], rtol=1e-6)
