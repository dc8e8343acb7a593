"""A model whose logits become NaN or infinite: the row ends, the others go on."""

import dataclasses

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


@dataclasses.dataclass(frozen=True)
class Breaking:
    """The model, whose first row has no law from some slot of its cache on."""

    value: float
    slot: int = 20

    def init_cache(self, batch, slots, dtype):
        return APPLY.init_cache(batch, slots, dtype)

    def step(self, params, inputs, cache, *, where=None):
        late = cache.cursor + jnp.arange(inputs.shape[1]) >= self.slot
        logits, cache = APPLY.step(params, inputs, cache, where=where)
        first = jnp.arange(len(logits)) == 0
        bad = first[:, None, None] & late[None, :, None]
        return jnp.where(bad, self.value, logits), cache


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("function", [generate, speculate])
@pytest.mark.parametrize(("broken", "value"), [(0, np.nan), (1, np.inf), (2, np.nan)])
def test_a_row_without_a_law_ends(function, temperature, broken, value):
    settings = Decoding(8, Sampling(temperature), pad_id=7, combine=Fusion())
    sound = [(APPLY, params) for params in PARAMS]
    models = list(sound)
    models[broken] = (Breaking(value), PARAMS[broken])
    key = jax.random.key(0)
    want, found = (function(m, PROMPT, settings, key=key) for m in (sound, models))
    end = int(found.lengths[0])
    assert 1 <= end < 8 and found.lengths[1] == 8
    assert found.tokens[0, end - 1] == -1
    assert np.isnan(found.log_probabilities[0, end - 1])
    np.testing.assert_array_equal(found.tokens[0, end:], 7)
    np.testing.assert_array_equal(found.log_probabilities[0, end:], 0)
    np.testing.assert_array_equal(found.tokens[0, : end - 1], want.tokens[0, : end - 1])
    np.testing.assert_array_equal(found.tokens[1], want.tokens[1])
    assert np.isfinite(found.log_probabilities[1]).all()
