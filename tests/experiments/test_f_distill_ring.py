"""The ring experiment's own parts: judges, populations, the adaptive alpha."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import f_distill_ring as ring
from experiments.one_step import ring_line as line
from experiments.one_step import ring_training as training
from kljax import generators


def test_judged_sees_a_missing_mode_and_stray_points():
    law = training.RingConfig().law()
    mode = np.arange(8000) % 8
    noise = np.random.default_rng(1).normal(size=(8000, 2))
    means = np.asarray(law.means, np.float64)
    good = means[mode] + 0.08 * noise
    score = training.judged(good, good, law)
    assert score["modes"] == 8 and score["tv"] < 0.01 and score["near"] > 0.999
    lost = means[np.where(mode == 3, 4, mode)] + 0.08 * noise
    score = training.judged(lost, good, law)
    assert score["modes"] == 7 and score["tv"] == pytest.approx(0.125, abs=0.01)
    stray = good * np.where(np.arange(8000) < 2000, 0.0, 1.0)[:, None]
    assert training.judged(stray, good, law)["near"] == pytest.approx(0.75, abs=0.01)


def test_family_is_every_divergence_with_curvature():
    left_out = set(generators.names()) - set(training.FAMILY)
    assert left_out == {"total_variation", "alpha"}
    labels = [member.label for member in ring.members_of(ring.Config())]
    assert len(set(labels)) == len(labels)


def test_members_of_a_population_differ_by_their_divergence_alone():
    """Same key, hence the same noise, and the same initial networks."""
    config = training.TrainingConfig(width=8, depth=1, embedding=4, steps=3, batch=16)
    built = []
    shapes = jax.eval_shape(
        lambda: (
            built.append(training.Networks.build(config, 0.7, jax.random.key(0)))
            or built[0][1]
        )
    )
    # Numbers from NumPy: compiling the initializers would take longer than the test.
    random = np.random.default_rng(0)
    initial = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * random.normal(size=leaf.shape), leaf.dtype),
        shapes,
    )
    game = training.Game(built[0][0], config, training.RingConfig().law())
    members = ring.members_of(ring.PRESETS["smoke"])
    count = len(members)
    state, frozen = training.population(
        game, members, [0, 1], [initial["denoiser"]] * 2, [initial["critic"]] * 2
    )
    assert state.step.shape == (2 * count,)
    keys = np.asarray(jax.random.key_data(state.key))
    assert (keys[:count] == keys[0]).all() and (keys[count:] == keys[-1]).all()
    assert (keys[0] != keys[-1]).any()
    for leaf in jax.tree.leaves(state.params):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    assert frozen["adaptive"].tolist() == ([False] * (count - 1) + [True]) * 2
    # The student's loss hands back the bins and the controller that it was given.
    out = jax.eval_shape(
        jax.vmap(
            lambda state, frozen: game.student(
                state.params["student"],
                state=state,
                frozen=frozen,
                batch={},
                key=state.key,
            )
        ),
        state,
        frozen,
    )
    assert jax.tree.structure(out.aux) == jax.tree.structure(state.aux)
    for got, had in zip(jax.tree.leaves(out.aux), jax.tree.leaves(state.aux)):
        assert got.shape == had.shape and got.dtype == had.dtype
    assert out.per_example.shape == (2 * count, config.batch)


def test_adaptive_alpha_escapes_where_the_claim_says_so(x64):
    """Clipped ratio: out of both traps; exact ratio: it stays in them."""
    task = line.low_noise()
    starts = line.log_starts([(0.503, -1.9982), (0.5043, 1.9972)])
    knobs = {"target": 0.5, "gain": 0.02, "steps": 600}
    free = line.adaptive_paths(task, starts, clip=(0.1, 20.0), **knobs)
    held = line.adaptive_paths(task, starts, clip=None, **knobs)
    assert (free.theta[:, -1, 0] > line.COVERS).all()
    assert (held.theta[:, -1, 0] < 0.6).all()
    assert (np.abs(held.alpha[:, -1] - 0.5) < 0.05).all()
    # At the covering end the fraction has settled at its target.
    np.testing.assert_allclose(free.ess[:, -1], 0.5, atol=0.02)


def test_parts_of_a_population():
    from experiments.one_step.ring_session import Students

    members = ring.members_of(ring.PRESETS["smoke"])
    shape = (2, len(members))
    scores = [[{"tv": 10.0 * s + i} for i in range(shape[1])] for s in range(2)]
    curve = np.arange(3 * shape[0] * shape[1]).reshape(3, *shape)
    every = Students(
        members, (0, 1), np.zeros((*shape, 4, 2)), scores, np.arange(3), *[curve] * 3
    )
    part = every.part((members[4], members[2]), 1)
    assert part.column("tv").tolist() == [[4.0, 2.0]]
    assert part.alpha.tolist() == curve[:, :1, [4, 2]].tolist()
    assert dataclasses.replace(ring.Config(), seed=1).seed == 1
    assert jnp.asarray(part.samples).shape == (1, 2, 4, 2)
