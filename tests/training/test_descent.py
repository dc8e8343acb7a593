"""Descent that keeps its best round, against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kljax.training.descent import selected

DRAWN = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


@jax.jit
@jax.vmap
def run(start, bad):
    """Five rounds of three steps; round `bad` has no score."""
    batches = lambda n: {"at": jnp.asarray(DRAWN)[n], "n": jnp.full(3, n)}

    def score(x):
        # The number of the round, as x carries it.
        return jnp.where(x["n"] == bad, jnp.nan, jnp.abs(x["x"]))

    def loss(x, batch):
        return (x["x"] - batch["at"]) ** 2 + (x["n"] - batch["n"]) ** 2 / 2

    rules = {"x": optax.sgd(0.2), "n": optax.sgd(1.0)}
    rule = optax.multi_transform(rules, {"x": "x", "n": "n"})
    first = {"x": start, "n": jnp.float32(-1.0)}
    return selected(loss, first, rule, batches, score, rounds=5)


def test_the_round_with_the_lowest_score_is_kept():
    x, ends = 2.0, []
    for batch in DRAWN:
        for at in batch:
            x -= 0.4 * (x - at)
        ends.append(x)
    ends = np.array(ends)
    best = int(np.abs(ends).argmin())
    other = int(np.argsort(np.abs(ends))[1])
    found = run(np.full(2, 2, np.float32), np.float32([-9, best]))
    np.testing.assert_allclose(found.params["x"], ends[[best, other]], rtol=1e-5)
    np.testing.assert_allclose(found.scores[0], np.abs(ends), rtol=1e-5)
    assert np.isnan(found.scores[1]).sum() == 1 and np.isnan(found.scores[1][best])
