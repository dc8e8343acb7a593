"""Classes of Boolean functions against one label at a time, in float64 NumPy."""

import jax
import numpy as np
import pytest
from scipy import special

from kljax.models.dense import normal_mlp
from kljax.theory.boolean import (
    boolean_inputs,
    drawn_functions,
    label_divergence,
    label_regret,
)

NOISE = 0.05


def test_mixture_of_networks():
    """Every label's likelihood under every function, and U3's bound on the mean."""
    points = boolean_inputs(4)
    assert len(np.unique(points, axis=0)) == 16 and set(points.ravel()) == {-1, 1}
    apply, initial = normal_mlp((4, 6, 1))
    key = jax.random.key(0)
    models = np.asarray(drawn_functions((apply, initial), points, key, 30, together=7))
    alone = apply(initial(jax.random.split(key, 30)[11]), points)[:, 0] > 0
    np.testing.assert_array_equal(models[11], alone)
    rng, truth, stops = np.random.default_rng(1), points[:, 2] > 0, (1, 7, 40)
    x, flipped = rng.integers(0, 16, (2000, 40)), rng.random((2000, 40)) < NOISE
    run = lambda *data: label_regret(models, truth, *data, NOISE, stops).regret
    found = np.asarray(jax.jit(jax.vmap(run))(x, flipped))
    y = truth[x[0]] ^ flipped[0]
    log_q = np.where(models[:, x[0]] == y, np.log(1 - NOISE), np.log(NOISE))
    log_p = np.where(flipped[0], np.log(NOISE), np.log(1 - NOISE))
    for stop, one in zip(stops, found[0]):
        mixed = special.logsumexp(log_q[:, :stop].sum(1)) - np.log(30)
        np.testing.assert_allclose(
            one, log_p[:stop].sum() - mixed, rtol=1e-5, atol=1e-5
        )
    p = np.where(models[:, :, None] == [[[0, 1]]], 1 - NOISE, NOISE)
    law = np.where(truth[:, None] == [[0, 1]], 1 - NOISE, NOISE)
    exact = special.rel_entr(law, p).sum(-1).mean(1)
    far = label_divergence(models, truth, NOISE)
    np.testing.assert_allclose(far, exact, rtol=1e-5, atol=1e-7)
    bound = np.log(30) - special.logsumexp(-40 * exact)
    error = found[:, -1].std() / np.sqrt(len(found))
    assert found[:, -1].mean() <= bound + 3 * error


def test_parameters_are_alike_at_any_width():
    """Outputs of networks drawn from the prior have the variance of any width."""
    x = boolean_inputs(3)
    apply, initial = normal_mlp((3, 40, 1), spread=2.0, bias=0.5)
    keys = jax.random.split(jax.random.key(2), 4000)
    out = jax.jit(jax.vmap(lambda key: apply(initial(key), x)))(keys)
    # Half of the hidden units' second moment passes a ReLU.
    exact = 4.0 * (4.0 + 0.25) / 2 + 0.25
    np.testing.assert_allclose(np.var(out), exact, rtol=0.08)


def test_what_is_wrong_is_named():
    x = np.zeros(3, int)
    given = np.ones((2, 4), bool), np.ones(4, bool), x, x > 0
    with pytest.raises(ValueError, match="noise must lie in"):
        label_regret(*given, 0.5, (3,))
    with pytest.raises(ValueError, match="the stops are"):
        label_regret(*given, 0.1, (1, 2))
    with pytest.raises(ValueError, match="sizes must be two"):
        normal_mlp((3,))
