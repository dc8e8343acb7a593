"""Block verification gives the text, or the law, of the plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from transformer_reference import draw

from kljax.decoding import (
    Decoding,
    Fusion,
    Sampling,
    generate,
    generation,
    speculate,
    speculative,
)
from kljax.models.language.lora import adapted, stack_adapters
from kljax.models.language.transformer import TransformerConfig, transformer

GREEDY = Sampling(temperature=0)


def family(vocab, dtype, count=3, distance=0.6, seed=0):
    """Models that know similar things: one set of weights, moved a little for each."""
    config = TransformerConfig(vocab, width=16, depth=1, heads=2, hidden=24)
    apply, initial = transformer(config)
    shared = draw(initial, seed)
    rng = np.random.default_rng(seed)

    def moved(leaf):
        noise = rng.normal(size=leaf.shape) * distance * leaf.std()
        return jnp.asarray(leaf + noise, dtype)

    return [(apply, jax.tree.map(moved, shared)) for _ in range(count)]


def prompts(rows, length, vocab, seed=0):
    """Rows of different lengths, padded on the left."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab, size=(rows, length))
    sizes = rng.integers(1, length + 1, size=rows)
    return tokens, np.arange(length) >= length - sizes[:, None]


def both(rows, new, *, draft=4, models=None, stop=(), seed=0, before=None):
    models = models or family(40, jnp.float64)
    prompt, where = prompts(rows, 6, 40, seed)
    settings = Decoding(new, GREEDY, stop_tokens=stop, pad_id=39, combine=Fusion())
    plain = generate(models, prompt, settings, where=where)
    if before is not None:
        before()
    return plain, speculate(models, prompt, settings, where=where, draft=draft)


def check_equal(plain, block):
    np.testing.assert_array_equal(block.lengths, plain.lengths)
    n = plain.tokens.shape[1]
    np.testing.assert_array_equal(block.tokens[:, :n], plain.tokens)
    made = np.arange(n) < np.asarray(plain.lengths)[:, None]
    for name, wanted in (
        ("log_probabilities", plain.log_probabilities),
        *plain.diagnostics.items(),
    ):
        got = block.diagnostics.get(name, block.log_probabilities)[:, :n]
        np.testing.assert_allclose(got[made], wanted[made], atol=1e-9)
    assert (np.asarray(block.accepted) <= 4 * np.asarray(block.calls)).all()


def test_greedy_text_is_the_plain_loops(x64, monkeypatch):
    squeezed = []
    original = speculative._squeezed

    def spare_no_room():
        # Rows leave holes, which are then squeezed out on the way.
        monkeypatch.setattr(generation, "bucket", lambda n: n - 12)
        count = lambda cache: squeezed.append(1) or original(cache)
        monkeypatch.setattr(speculative, "_squeezed", count)

    plain, block = both(64, 24, stop=(7,), before=spare_no_room)
    check_equal(plain, block)
    assert squeezed and int(min(plain.lengths)) < 24
    # Neither everything nor nothing is accepted, or the test would say little.
    assert 0.3 < float(block.calls_per_token.mean()) < 0.95
    assert len({tuple(row) for row in np.asarray(block.tokens)}) > 30


@pytest.mark.slow
def test_five_hundred_greedy_texts(x64):
    for seed in range(4):
        models = family(40, jnp.float64, seed=seed)
        plain, block = both(128, 40, models=models, stop=(7, 11), seed=seed)
        check_equal(plain, block)


@pytest.mark.slow
def test_a_stack_of_adapters_reads_the_block(x64):
    large, shared = family(40, jnp.float64, 2)
    apply, params = shared
    rng = np.random.default_rng(1)
    query = {"down": rng.normal(size=(16, 2)), "up": rng.normal(size=(2, 16))}
    one = {"layers": {0: {"attention": {"query": query}}}}
    two = jax.tree.map(lambda x: x[::-1] * 0.7, one)
    small = (adapted(apply, 2), {**params, "lora": stack_adapters([one], base=True)})
    drafter = (adapted(apply), {**params, "lora": two})
    plain, block = both(4, 12, models=[large, small, drafter])
    check_equal(plain, block)
    assert plain.diagnostics["alpha"].shape == (4, 12, 2)


def test_speculation_without_fusion(x64):
    large, small = family(40, jnp.float64, 2)
    prompt = prompts(5, 6, 40)[0]
    settings = Decoding(10, GREEDY, combine=first_alone)
    block = speculate([large, small], prompt, settings, drafter=1, draft=2)
    # Read whole, the large model alone would have chosen every one of these tokens.
    text = np.concatenate([prompt, block.tokens], axis=1)
    logits = jax.jit(large[0])(large[1], text)[:, 5:-1]
    np.testing.assert_array_equal(block.tokens, np.argmax(logits, axis=-1))


def first_alone(logits):
    return logits[0], {}


def test_sampled_text_has_the_law_of_the_plain_loop():
    v, rows, new = 6, 4000, 3
    models = family(v, jnp.float32, distance=0.8)
    sampling = Sampling(temperature=1.2, top_k=5)
    fusion = Fusion(rule="static", weight=0.8)  # quick to compile
    block = speculate(
        models,
        np.full((rows, 2), [[1, 4]]),
        Decoding(new, sampling, combine=fusion),
        draft=2,
        key=jax.random.key(3),
    )
    # The law by enumeration: all texts, read whole by every model.
    texts = np.stack(np.meshgrid(*[np.arange(v)] * new, indexing="ij"), -1)
    texts = texts.reshape(-1, new)
    read = np.concatenate([np.full((len(texts), 2), [[1, 4]]), texts], axis=1)[:, :-1]

    @jax.jit
    def fused(params):
        found = [apply(p, read)[:, 1:] for (apply, _), p in zip(models, params)]
        return fusion(tuple(found))[0]

    x = np.float64(fused([params for _, params in models])) / 1.2
    x = np.where(x >= np.sort(x, axis=-1)[..., 1:2], x, -np.inf)  # without the least
    x = x - x.max(axis=-1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    each = np.take_along_axis(log_p, texts[..., None], axis=-1)[..., 0]
    law = np.exp(each.sum(axis=-1))
    assert law.sum() == pytest.approx(1, abs=1e-4)
    index = np.asarray(block.tokens) @ v ** np.arange(new)[::-1]
    counts = np.bincount(index, minlength=v**new)
    assert counts[law == 0].sum() == 0
    # Rare texts are counted together.
    rare = rows * law < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    law_of = np.append(law[~rare], law[rare].sum())
    assert stats.chisquare(counts, rows * law_of / law_of.sum()).pvalue > 1e-3
    np.testing.assert_allclose(
        block.log_probabilities, each[index], rtol=1e-3, atol=1e-3
    )
    assert 0.34 < float(block.calls_per_token.mean()) < 0.9


def test_bad_arguments():
    models = family(9, jnp.float32)

    def call(models, prompt, sampling=GREEDY, **options):
        settings = Decoding(4, sampling, combine=Fusion())
        return speculate(models, prompt, settings, **options)

    prompt = np.zeros((1, 2), int)
    with pytest.raises(ValueError, match="draft must be at least 1"):
        call(models, prompt, draft=0)
    with pytest.raises(ValueError, match="drafter: expected 1 to 2"):
        call(models, prompt, drafter=3)
    with pytest.raises(ValueError, match="repetition_penalty is 2"):
        call(models, prompt, sampling=Sampling(repetition_penalty=2.0))
    with pytest.raises(ValueError, match="vocabularies of"):
        call([*models[:2], *family(8, jnp.float32, 1)], prompt)
    with pytest.raises(ValueError, match="context"):
        call(models, np.zeros((1, 3000), int))
