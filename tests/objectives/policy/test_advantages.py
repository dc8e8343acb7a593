"""Advantages against loops in NumPy, groups without variance, and padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.objectives.policy.advantages import (
    generalized_advantages,
    group_advantages,
    leave_one_out_advantages,
)

RNG = np.random.default_rng(0)
REWARDS = RNG.normal(size=(3, 5))


@jax.jit
def of_groups(rewards):
    every = {
        "others": leave_one_out_advantages,
        "sample": group_advantages,
        "population": lambda r: group_advantages(r, eps=0, ddof=0),
    }
    slope = lambda f: jax.grad(lambda r: (f(r) ** 2 + f(r)).sum())(rewards)
    return {name: (f(rewards), slope(f)) for name, f in every.items()}


def test_a_group_is_its_own_baseline():
    found = {name: value for name, (value, _) in of_groups(REWARDS).items()}
    others = [[r[i] - np.delete(r, i).mean() for i in range(5)] for r in REWARDS]
    np.testing.assert_allclose(found["others"], others, rtol=1e-12)
    centered = REWARDS - REWARDS.mean(1, keepdims=True)
    for name, ddof, eps in (("sample", 1, 1e-6), ("population", 0, 0)):
        want = centered / (REWARDS.std(1, ddof=ddof, keepdims=True) + eps)
        np.testing.assert_allclose(found[name], want, rtol=1e-12)


def test_a_group_without_variance_has_advantages_of_exactly_0():
    """A third sums to no whole number in binary: a mean would differ from it."""
    rewards = jnp.stack([jnp.full(5, 1 / 3), jnp.zeros(5), jnp.asarray(REWARDS[0])])
    for name, (value, slope) in of_groups(rewards).items():
        assert not value[:2].any() and value[2].all(), name
        assert jnp.isfinite(slope).all(), name
    broken = of_groups(jnp.where(jnp.eye(3, 5) * jnp.arange(3)[:, None], jnp.nan, 1.0))
    for value, _ in broken.values():
        assert jnp.isnan(value[1:]).all() and not value[0].any()


def test_gae_is_a_sum_over_what_comes_later():
    """Eq. 16 as it is printed, token by token; what does not count is not there."""
    rewards, values = RNG.normal(size=(2, 2, 3, 7))
    where = RNG.random((2, 3, 7)) < 0.7
    last, discount, decay = RNG.normal(size=(2, 3)), 0.9, 0.8
    spoil = lambda x: np.where(where, x, np.nan)

    @jax.jit
    def of(rewards, values, last, where):
        given = {"discount": discount, "decay": decay, "where": where}
        return generalized_advantages(rewards, values, last_value=last, **given)

    found = of(spoil(rewards), spoil(values), last, where)
    want = np.zeros((2, 2, 3, 7))
    for row in np.ndindex(2, 3):
        kept = np.flatnonzero(where[row])
        v = np.append(values[row][kept], last[row])
        delta = rewards[row][kept] + discount * v[1:] - v[:-1]
        for i, t in enumerate(kept):
            powers = (discount * decay) ** np.arange(len(kept) - i)
            want[0][row][t] = powers @ delta[i:]
            want[1][row][t] = want[0][row][t] + v[i]
    np.testing.assert_allclose(found, want, rtol=1e-10, atol=1e-12)
    assert not np.asarray(found)[:, ~where].any()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: leave_one_out_advantages(jnp.ones((2, 1))), r"n >= 2 samples"),
        (lambda: group_advantages(jnp.ones((2, 1))), r"n >= 2 samples"),
        (lambda: group_advantages(jnp.ones(3), ddof=-1), "ddof must be at least 0"),
        (lambda: generalized_advantages(jnp.ones(3), jnp.ones(2)), "values does not"),
        (
            lambda: generalized_advantages(*jnp.ones((2, 3)), last_value=jnp.ones(2)),
            "last_value does not fit",
        ),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
