"""One-step distillation: the three losses on laws that are known, and populations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_expit

from kljax import generators
from kljax.theory.mixtures import GaussianMixture
from kljax.training import Player, make_step, stacked, taken
from kljax.training.one_step import Draws, OneStep, OneStepConfig, noised

STD = 0.5
LAW = GaussianMixture(jnp.zeros(1), jnp.zeros((1, 2)), jnp.full(1, STD))
BATCH = 64


def moved(mean):
    return GaussianMixture(jnp.zeros(1), mean[None], jnp.full(1, STD))


def draw(key, batch, sides):
    keys, count = jax.random.split(key, 4), sides * BATCH
    sigma = OneStepConfig(sigma_min=0.1, sigma_max=2.0).levels(keys[0], count)
    noise = jax.random.normal(keys[1], (count, 2))
    return Draws(jax.random.normal(keys[2], (BATCH, 2)), noise, sigma, keys[3])


def game(**options):
    """Student N(mean, STD²), exact denoisers; the critic looks at one coordinate."""
    rates = {"critic_rate": 0.1, "learning_rate": 0.1}
    levels = {"bins": 4, "sigma_min": 0.1, "sigma_max": 2.0}
    return OneStep(
        OneStepConfig(steps=100, **levels, **rates, **options),
        draw,
        real=lambda key, batch: LAW.sample(key, BATCH),
        generate=lambda mean, z, ids: mean + STD * z,
        denoise=lambda mean, x, sigma, ids: moved(mean).denoise(x, sigma),
        teach=lambda frozen, x, sigma, ids: (LAW.denoise(x, sigma), x),
        logits=lambda scale, x, sigma, ids: scale * x[:, 0],
        sigma_data=STD,
    )


def players(one, index=0, weight=0.0):
    options = (generators.get("forward_kl"), generators.get("reverse_kl"))
    return one.players(lambda alpha: generators.Choice(index, options), weight)


def started(one, mean):
    return one.start(jax.random.key(0), jnp.array(mean), jnp.zeros(()))


def loss_and_slope(player, state, role):
    def loss(params):
        found = player.loss(
            params, state=state, frozen=None, batch={}, key=jax.random.key(1)
        )
        return found.per_example.mean()

    return jax.jit(jax.value_and_grad(loss))(state.params[role])


def test_a_student_like_its_teacher_stays_and_another_is_pulled():
    one = game()
    some = players(one, 1)
    here = loss_and_slope(some[2], started(one, [0.0, 0.0]), "student")
    assert here[0] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(here[1], 0, atol=1e-6)
    _, slope = loss_and_slope(some[2], started(one, [1.0, -1.0]), "student")
    assert slope[0] > 0.1 and slope[1] < -0.1


def test_the_true_score_learns_the_data():
    one = game()
    player = Player("fake_score", one.true_score, optax.sgd(0.1))
    slopes = []
    for mean in ([0.0, 0.0], [1.0, -1.0]):
        state = started(one, mean)
        slopes.append(loss_and_slope(player, state, "fake_score")[1])
    assert np.abs(slopes[0]).max() < 0.2 * np.abs(slopes[1]).max()
    assert slopes[1][0] > 0.1 and slopes[1][1] < -0.1


def test_the_fake_score_learns_the_student_and_not_the_data():
    one = game()
    some = players(one)
    state = started(one, [1.0, 0.0])
    _, right = loss_and_slope(some[0], state, "fake_score")
    shifted = state.params | {"fake_score": jnp.zeros(2)}
    off = dataclasses.replace(state, params=shifted)
    _, wrong = loss_and_slope(some[0], off, "fake_score")
    assert abs(right[0]) < 0.1 * abs(wrong[0]) and wrong[0] < 0


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_the_critic_tells_samples_from_data(weight):
    """Eq. 7 from the draws, in NumPy; the penalty is that of the perturbed data."""
    one = game(r1_weight=weight)
    some = players(one)
    state = started(one, [1.0, 0.0])
    params = state.params | {"critic": jnp.array(2.0)}
    state = dataclasses.replace(state, params=params)
    value, _ = loss_and_slope(some[1], state, "critic")
    key = jax.random.key(1)
    draws = draw(key, {}, 2)
    x = [state.params["student"] + STD * draws.latent, LAW.sample(draws.key, BATCH)]
    noisy = np.asarray(noised(jnp.concatenate(x), draws.noise, draws.sigma), np.float64)
    fake, real = np.split(2 * noisy[:, 0], 2)
    shift = jax.random.normal(jax.random.fold_in(draws.key, 1), (BATCH, 2))[:, 0]
    penalty = (2 * 0.1 * np.asarray(shift, np.float64)) ** 2
    expected = -log_expit(real) - log_expit(-fake) + weight * penalty
    assert value == pytest.approx(expected.mean(), rel=1e-5)


def test_members_of_a_population_are_what_they_are_alone():
    """Own divergence and weight of the game, traced; the same noise."""
    one = game()

    def step(state, own):
        return make_step(players(one, own["index"], own["weight"]))(state, {}, None)

    own = {"index": jnp.array([0, 1]), "weight": jnp.array([0.5, 0.0])}
    first = started(one, [1.0, 0.0])
    state, found = jax.jit(jax.vmap(step))(stacked([first, first]), own)
    for i in range(2):
        alone, metrics = jax.jit(step)(first, taken(own, i))
        for name, value in metrics.items():
            np.testing.assert_allclose(found[name][i], value, rtol=1e-5, atol=1e-6)
        for a, b in zip(
            jax.tree.leaves(taken(state.params, i)), jax.tree.leaves(alone.params)
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert abs(found["student/loss"][0] - found["student/loss"][1]) > 1e-3
    assert found["alpha"].tolist() == [0.0, 0.0]
    assert (state.aux["controller"].alpha > 0).all()
