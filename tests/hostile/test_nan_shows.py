"""A NaN in any array of any public distance shows in the value and in the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from public_calls import TABLE, VARIANTS

# Counted, stopped or linear: the gradient is a constant by definition.
FLAT = {
    "bounds.donsker_varadhan": {"critic_p"},
    "scores.integral_divergence": {"rates"},
    "samples.histogram_kl": {"x_p", "x_q"},
    "scores.score_from_denoiser": {"denoised", "noisy"},
    "scores.surrogate": {"samples", "score_p", "score_q", "log_ratio"},
    "scores.pairing": {"samples", "direction", "weight"},
}


@pytest.mark.parametrize("name", {**TABLE, **VARIANTS})
def test_nan_shows(name):
    function, arrays = {**TABLE, **VARIANTS}[name]
    arrays = jax.tree.map(np.asarray, arrays)

    @jax.jit
    def run(arrays):
        def total(arrays):
            leaves = map(jnp.asarray, jax.tree.leaves(function(**arrays)))
            floats = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
            return sum(map(jnp.sum, floats))

        return jax.value_and_grad(total)(arrays)

    value, gradients = run(arrays)
    assert np.isfinite(value)
    leaves, shape = jax.tree.flatten(arrays)
    for i, (path, array) in enumerate(jax.tree.leaves_with_path(arrays)):
        spoiled = array.copy()
        spoiled.flat[0] = np.nan
        value, gradients = run(
            shape.unflatten([*leaves[:i], spoiled, *leaves[i + 1 :]])
        )
        assert np.isnan(value), path
        if path[0].key not in FLAT.get(name, ()):
            assert np.isnan(jax.tree.leaves(gradients)[i]).any(), path
