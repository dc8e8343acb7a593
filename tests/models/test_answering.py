"""Answers that are drawn have the probabilities that they are said to have."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kljax.data.arithmetic import longest_carry, mistaken, modular, sums
from kljax.models import answering
from kljax.models.language.transformer import TransformerConfig
from kljax.training.descent import descended

SHAPE = {"width": 8, "depth": 1, "heads": 2}
POLICIES = {
    "perceptron": answering.perceptron_policy(2, 2, 3, 8),
    "transformer": answering.transformer_policy(TransformerConfig(3, **SHAPE)),
}
ASKED = jnp.array([[0, 1], [2, 2]])


@pytest.mark.parametrize("name", [*POLICIES])
def test_answers_are_drawn_by_their_probabilities(name):
    ahead, initial = POLICIES[name]
    every = np.array([*itertools.product(range(3), repeat=2)])

    @jax.jit
    def of(key):
        params = initial(jax.random.key(0))
        drawn = answering.sample_answers(ahead, params, ASKED, 4000, 2, key=key)
        again = answering.answer_log_probs(ahead, params, ASKED, drawn[0])
        known = jnp.broadcast_to(every, (2, *every.shape))
        return *drawn, again, answering.answer_log_probs(ahead, params, ASKED, known)

    tokens, log_q, again, log_p = map(np.asarray, of(jax.random.key(1)))
    np.testing.assert_allclose(log_q, again, rtol=1e-6)
    p = np.exp(log_p.sum(-1))
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    assert abs(p[0] - p[1]).max() > 0.01  # it hears the question
    for row, law in zip(tokens @ [3, 1], p):
        counts = np.bincount(row, minlength=9)
        chi2 = ((counts - 4000 * law) ** 2 / (4000 * law)).sum()
        assert chi2 < 26.1  # 8 degrees of freedom, 0.1 %


def test_questions_have_their_one_right_answer():
    questions, answers = modular()
    a, b = questions.T
    assert (answers @ [8, 1] == (a * b + 3 * a + b) % 64).all() and len(a) == 64
    for given in ((1,), (2,), (3, 500)):
        questions, answers = sums(*given)
        place = 10 ** np.arange(given[0])
        first, second = np.split(questions, 2, axis=1)
        total = answers @ [*place, 10 ** given[0]]
        assert (first @ place + second @ place == total).all()
        assert len(np.unique(questions, axis=0)) == len(questions)
    wrong = mistaken(answers, 10, 0.3, np.random.default_rng(0))
    assert (wrong != answers).any(axis=1).mean() == pytest.approx(0.3, abs=2e-3)
    assert wrong.min() >= 0 and wrong.max() <= 9


def test_descent_stops_where_it_is_told_to():
    """On a quadratic, momentum carried on from stop to stop; each step has its key.

    The memory is the step's number, which moves the quadratic."""
    rule, key, stops = optax.sgd(0.1, momentum=0.9), jax.random.key(3), [0, 2, 6]
    noise = [float(jax.random.normal(jax.random.fold_in(key, n))) for n in range(6)]

    def pull(x, n, key):
        return (x - n - jax.random.normal(key)) ** 2, n + 1

    @jax.jit
    def found(x, zero):
        still = lambda x, key: pull(x, 0.0, key)[0]
        moved = {"memory": zero, "watch": lambda x, n: {"double": 2 * x, "step": n}}
        plain = descended(still, x, rule, stops, key=key)
        return plain, descended(pull, x, rule, stops, key=key, **moved)

    def walked(moving):
        x, speed, path = 1.0, 0.0, [1.0]
        for n in range(6):
            speed = 2 * (x - moving * n - noise[n]) + 0.9 * speed
            x -= 0.1 * speed
            path.append(x)
        return np.array(path)[stops]

    plain, seen = found(1.0, 0.0)
    np.testing.assert_allclose(plain, walked(0), rtol=1e-5)
    np.testing.assert_allclose(seen["double"], 2 * walked(1), rtol=1e-5)
    assert seen["step"].tolist() == stops


def test_carries_are_those_of_addition_by_hand():
    questions, _ = sums(3, 5000)
    a, b = (x @ 10 ** np.arange(3) for x in np.split(questions, 2, axis=1))
    # A carry into place i + 1: the lowest i + 1 digits do not hold the sum.
    into = np.stack([(a % 10**i + b % 10**i) >= 10**i for i in (1, 2, 3)], 1)
    expected = [
        max(map(len, "".join("01"[int(c)] for c in row).split("0"))) for row in into
    ]
    np.testing.assert_array_equal(longest_carry(questions), expected)
    assert {*expected} == {0, 1, 2, 3}
