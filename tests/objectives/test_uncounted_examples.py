"""Examples without weight, and NaN that counts, in the diffusion objective."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.objectives import diffusion, on_policy

B = 4
RNG = np.random.default_rng(2)
ARRAYS = {k: np.float32(RNG.normal(size=(B, 3))) for k in ("sample", "fake", "real")}
ARRAYS |= {
    "logits": np.float32(RNG.normal(size=B)),
    "sigma": np.float32([0.3, 1.0, 2.0, 5.0]),
    "scale": np.float32(RNG.uniform(1, 2, B)),
}
WEIGHTS = np.float32([1, 0, 0.5, 2])
SEEN = ("ratio/mean", "ratio/ess", "weight/ess", "weight/max")


@jax.jit
def loss(arrays):
    bins = diffusion.RatioBins.init(3, sigma_min=0.1, sigma_max=10.0)

    def total(sample, logits):
        out = diffusion.generator_loss(
            sample, arrays["fake"], arrays["real"], arrays["sigma"],
            divergence="forward_kl", logits=logits, bins=bins, gan_weight=0.1,
            scale=arrays["scale"], example_weights=WEIGHTS,
        )  # fmt: skip
        metrics = {k: out.metrics[k] for k in SEEN}
        return jnp.sum(WEIGHTS * out.per_example), (out.bins.mean, metrics)

    both = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
    return both(arrays["sample"], arrays["logits"])


def test_an_example_of_weight_0_may_hold_anything():
    junk = {k: x.copy() for k, x in ARRAYS.items()}
    for x, value in zip(junk.values(), (np.nan, np.inf, -np.inf, np.nan, np.nan, 3e38)):
        x[1] = value
    check = lambda x, y: np.testing.assert_allclose(x, y, 1e-6, 1e-7)
    jax.tree.map(check, loss(junk), loss(ARRAYS))


@pytest.mark.parametrize("name", ["sample", "real", "logits", "sigma"])
def test_a_nan_that_counts_shows(name):
    broken = ARRAYS | {name: ARRAYS[name].copy()}
    broken[name][2] = np.nan
    (value, (means, metrics)), (in_sample, in_logits) = loss(broken)
    assert np.isnan(value) and np.isnan(in_sample[2]).all()
    if name in ("logits", "sigma"):
        assert np.isnan(means).any() and np.isnan(metrics["weight/max"])
    if name == "logits":
        assert np.isnan(in_logits[2]) and all(map(np.isnan, metrics.values()))


def test_a_share_that_is_no_number():
    mixed = jax.jit(
        lambda f: on_policy.mixed_batch(
            jax.random.key(0), jnp.zeros(2), lambda key, batch: batch + 1, fraction=f
        )[1]
    )
    assert np.isnan(mixed(np.nan)["distillation/on_policy"])
