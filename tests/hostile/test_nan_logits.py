"""A model whose logits become NaN or infinite: the row ends, the others go on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.decoding import Decoding, Fusion, Sampling, generate, speculate
from kljax.models.language.transformer import TransformerConfig, transformer

APPLY, INITIAL = transformer(
    TransformerConfig(vocab_size=31, width=16, depth=1, heads=2)
)
PARAMS = [INITIAL(jax.random.key(seed)) for seed in range(3)]
PROMPT = jnp.array([[5, 2, 3], [1, 4, 6]])


class Breaking(NamedTuple):
    """Parameters of the model whose first row is one value from some slot on."""

    params: Any
    value: float
    slot: int


class Breakable:
    """The model; what breaks it are numbers, so that all cases share a program."""

    init_cache = staticmethod(APPLY.init_cache)

    @staticmethod
    def step(broken, inputs, cache, *, where=None):
        late = cache.cursor + jnp.arange(inputs.shape[1]) >= broken.slot
        logits, cache = APPLY.step(broken.params, inputs, cache, where=where)
        first = jnp.arange(len(logits)) == 0
        bad = first[:, None, None] & late[None, :, None]
        return jnp.where(bad, broken.value, logits), cache


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("function", [generate, speculate])
@pytest.mark.parametrize(("broken", "value"), [(0, np.nan), (1, np.inf), (2, np.nan)])
def test_a_row_without_a_law_ends(function, temperature, broken, value):
    settings = Decoding(8, Sampling(temperature), pad_id=7, combine=Fusion())
    key = jax.random.key(0)

    def run(slots):
        models = [
            (Breakable, Breaking(params, np.float32(value), np.int32(slot)))
            for params, slot in zip(PARAMS, slots)
        ]
        return function(models, PROMPT, settings, key=key)

    never = 1000
    want = run([never] * 3)
    found = run([20 if model == broken else never for model in range(3)])
    end = int(found.lengths[0])
    assert 1 <= end < 8 and found.lengths[1] == 8
    assert found.tokens[0, end - 1] == -1
    assert np.isnan(found.log_probabilities[0, end - 1])
    np.testing.assert_array_equal(found.tokens[0, end:], 7)
    np.testing.assert_array_equal(found.log_probabilities[0, end:], 0)
    np.testing.assert_array_equal(found.tokens[0, : end - 1], want.tokens[0, : end - 1])
    np.testing.assert_array_equal(found.tokens[1], want.tokens[1])
    assert np.isfinite(found.log_probabilities[1]).all()
