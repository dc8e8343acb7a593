"""Generation against a plain loop of full float64 forward passes in NumPy."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformer_reference as reference

from kljax.decoding import Decoding, Sampling, generation, job, lockstep
from kljax.decoding.decoders import Reader
from kljax.decoding.generation import bucket, generate, stream
from kljax.models.language.stacking import stack_layers
from kljax.models.language.transformer import TransformerConfig, transformer

GREEDY = Sampling(temperature=0)
CONFIG = TransformerConfig(
    vocab_size=97, width=32, depth=2, heads=4, kv_heads=2, hidden=48, max_length=128
)
APPLY, INITIAL = transformer(CONFIG)
PARAMS = reference.draw(INITIAL)
EXACT = jax.tree.map(np.float64, PARAMS)
LENGTHS = np.array([7, 1, 4])
PROMPT = np.random.default_rng(3).integers(0, 97, (3, 7)).astype(np.int32)
WHERE = np.arange(7) >= 7 - LENGTHS[:, None]
NEW = 24


def log_softmax(z):
    return z - z.max() - np.log(np.exp(z - z.max()).sum())


def plain_loop(logits, prompt, count):
    """Greedy tokens and their log-probabilities, one full forward pass each."""
    tokens, log_p = list(prompt), []
    for _ in range(count):
        z = logits(np.array(tokens))
        tokens.append(int(z.argmax()))
        log_p.append(log_softmax(z)[tokens[-1]])
    return np.array(tokens[len(prompt) :]), np.array(log_p)


def exact_logits(tokens):
    return reference.logits(CONFIG, EXACT, tokens)[-1]


def row(i):
    return PROMPT[i, 7 - LENGTHS[i] :]


EXPECTED = [plain_loop(exact_logits, row(i), NEW) for i in range(3)]


def greedy(prompt=PROMPT, where=WHERE, others=(), key=None, **options):
    settings = Decoding(**{"max_new_tokens": NEW, "sampling": GREEDY, **options})
    models = [(APPLY, PARAMS), *others]
    return generate(models, prompt, settings, where=where, key=key)


def test_left_padded_rows_equal_the_plain_loop():
    found = greedy()
    for i, (tokens, log_p) in enumerate(EXPECTED):
        np.testing.assert_array_equal(found.tokens[i], tokens)
        np.testing.assert_allclose(found.log_probabilities[i], log_p, atol=2e-5)
    np.testing.assert_array_equal(found.lengths, [NEW] * 3)


def test_rows_stop_on_their_own():
    """Rows 0 and 1 stop at a token they make, row 2 does not."""
    stops = {int(EXPECTED[0][0][5]), int(EXPECTED[1][0][9])}
    ends = [
        next((n + 1 for n, t in enumerate(tokens) if t in stops), NEW)
        for tokens, _ in EXPECTED
    ]
    assert min(ends) < NEW
    found = greedy(stop_tokens=sorted(stops), pad_id=96)
    np.testing.assert_array_equal(found.lengths, ends)
    for i, end in enumerate(ends):
        np.testing.assert_array_equal(found.tokens[i, :end], EXPECTED[i][0][:end])
        assert (found.tokens[i, end:] == 96).all()
        assert (found.log_probabilities[i, end:] == 0).all()


def test_row_alone_and_across_buckets(monkeypatch):
    """Batch 1 = row of batch 3, the same when the cache has to grow on the way."""
    whole = greedy(row(0)[None], None)
    np.testing.assert_array_equal(whole.tokens[0], EXPECTED[0][0])
    np.testing.assert_allclose(whole.log_probabilities[0], EXPECTED[0][1], atol=2e-5)
    monkeypatch.setattr(generation, "SMALLEST", 16)
    monkeypatch.setattr(generation, "ROOM", 4)
    sizes = []
    grow = lockstep.grow
    monkeypatch.setattr(generation, "grow", lambda s, n: sizes.append(n) or grow(s, n))
    grown = greedy(row(0)[None], None)
    assert sizes == [64]
    np.testing.assert_array_equal(grown.tokens, whole.tokens)


def test_one_program_per_shape_and_streams_of_the_same_tokens():
    """Prompts of 5 and 7 tokens, any stop and pad tokens: one pair of programs."""
    greedy()
    programs = lockstep.begin._cache_size(), lockstep.advance._cache_size()
    short = greedy(PROMPT[:, 2:], WHERE[:, 2:], max_new_tokens=20, pad_id=3)
    assert programs == (lockstep.begin._cache_size(), lockstep.advance._cache_size())
    np.testing.assert_array_equal(short.tokens[2], EXPECTED[2][0][:20])
    settings, models = Decoding(12, GREEDY), [(APPLY, PARAMS)]
    parts = list(stream(models, PROMPT, settings, chunk=5, where=WHERE))
    assert [part.tokens.shape for part in parts] == [(3, 5), (3, 5), (3, 2)]
    assert [part.lengths.tolist() for part in parts] == [[5] * 3, [5] * 3, [2] * 3]
    tokens = np.concatenate([part.tokens for part in parts], axis=1)
    np.testing.assert_array_equal(tokens, [t[:12] for t, _ in EXPECTED])
    assert lockstep.advance._cache_size() == programs[1] + 1
    first = int(EXPECTED[0][0][2])
    settings = dataclasses.replace(settings, stop_tokens=[first])
    stopped = stream(models, PROMPT[[0, 0, 0]], settings, chunk=5)
    assert len(list(stopped)) == 1, "a stream ends when all rows have stopped"


def test_sampled_rows_do_not_depend_on_the_others():
    """Drawn tokens: log-probabilities of the law; rows by keys; traced settings."""
    key = jax.random.key(5)
    settings = Decoding(NEW, Sampling(temperature=jnp.float32(0.8), top_k=20))
    models = [(APPLY, PARAMS)]
    found = generate(models, PROMPT, settings, key=key, where=WHERE)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(3))
    before = lockstep.advance._cache_size()
    settings = Decoding(NEW, Sampling(temperature=jnp.float32(0.8), top_k=20))
    rows = {"key": keys[::-1], "where": WHERE[::-1]}
    swapped = generate(models, PROMPT[::-1], settings, **rows)
    assert lockstep.advance._cache_size() == before
    np.testing.assert_array_equal(swapped.tokens[::-1], found.tokens)
    assert len({tuple(np.asarray(r).tolist()) for r in found.tokens}) == 3
    for i in range(3):
        text = np.concatenate([row(i), found.tokens[i]])
        logits = reference.logits(CONFIG, EXACT, text)[len(row(i)) - 1 : -1] / 0.8
        for z, token, log_p in zip(
            logits, found.tokens[i], found.log_probabilities[i], strict=True
        ):
            kept = np.where(z >= np.sort(z)[-20], z, -np.inf)
            assert abs(log_softmax(kept)[token] - log_p) < 3e-5


def test_repeated_tokens_are_penalised():
    """Tokens of the prompt and those that were made."""
    found = greedy(sampling=dataclasses.replace(GREEDY, repetition_penalty=1.7))
    tokens = list(row(0))
    for n in range(NEW):
        z = exact_logits(np.array(tokens))
        had = np.isin(np.arange(97), tokens)
        z = np.where(had, np.where(z > 0, z / 1.7, z * 1.7), z)
        tokens.append(int(z.argmax()))
        assert tokens[-1] == int(found.tokens[0, n])
    assert tokens[7:] != EXPECTED[0][0].tolist()


@dataclasses.dataclass(frozen=True)
class Mean:
    """A combine of two models, with a diagnostic of two numbers per token."""

    def __call__(self, logits):
        first, second = logits
        return 0.5 * (first + second), {
            "top": jnp.stack([x.max(-1) for x in logits], -1)
        }


SMALL = TransformerConfig(vocab_size=97, width=16, depth=1, heads=2, max_length=128)
SMALL_APPLY, SMALL_INITIAL = transformer(SMALL)
SMALL_PARAMS = reference.draw(SMALL_INITIAL, 4)


def test_two_models_in_lockstep():
    found = greedy(others=[(SMALL_APPLY, SMALL_PARAMS)], combine=Mean())
    exact = jax.tree.map(np.float64, SMALL_PARAMS)

    def both(tokens):
        return exact_logits(tokens), reference.logits(SMALL, exact, tokens)[-1]

    for i in range(3):
        tokens, log_p = plain_loop(lambda t: sum(both(t)) / 2, row(i), NEW)
        np.testing.assert_array_equal(found.tokens[i], tokens)
        np.testing.assert_allclose(found.log_probabilities[i], log_p, atol=2e-5)
        text = np.concatenate([row(i), tokens[:5]])
        tops = [z.max() for z in both(text)]
        np.testing.assert_allclose(found.diagnostics["top"][i, 5], tops, atol=2e-5)
    assert found.diagnostics["top"].shape == (3, NEW, 2)


def test_inside_jit_with_stacked_layers():
    def run(params, prompt):
        return generate([(APPLY, params)], prompt, Decoding(4, GREEDY), where=WHERE)

    found = jax.jit(run)(stack_layers(PARAMS), PROMPT)
    np.testing.assert_array_equal(found.tokens, [t[:4] for t, _ in EXPECTED])


@pytest.mark.inspected
@pytest.mark.parametrize("slots", [1024, 8192])
def test_one_row_steps_copy_no_cache(slots):
    """Temporaries of the decode program do not grow with the cache (6 MiB a layer)."""
    config = TransformerConfig(
        vocab_size=97, width=576, depth=2, heads=9, kv_heads=3, max_length=9000
    )
    apply, initial = transformer(config)
    params = jax.eval_shape(initial, jax.random.key(0))
    prompt = jax.ShapeDtypeStruct((1, 33), jnp.int32)
    where = jax.ShapeDtypeStruct((1, 33), jnp.bool_)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    plan = lockstep.Plan((Reader(apply, 97, jnp.dtype("float32")),), None, GREEDY)
    stops = jax.ShapeDtypeStruct((1,), jnp.int32)
    values = lockstep.Values((params,), {}, stops, number)

    def start(*given):
        options = {"slots": slots, "track": plan.sampling.penalizes}
        return lockstep.begin(plan.readers, (given[0],), (None,), *given[1:], **options)

    state = jax.eval_shape(start, params, prompt, where, keys)
    program = lockstep.advance.lower(plan, values, state, number, size=16).compile()
    memory = program.memory_analysis()
    assert memory.temp_size_in_bytes <= 2 * 2**20
    cache = 2 * 2 * 3 * slots * 64 * 4
    assert memory.alias_size_in_bytes >= cache, "the cache is updated in place"
    copies = [line for line in program.as_text().splitlines() if " copy(" in line]
    assert not [line for line in copies if re.search(rf"3,{slots},64\]", line)]


def test_buckets():
    assert [bucket(n) for n in (1, 256, 257, 3000)] == [256, 256, 512, 4096]
    lengths = [job.padded_length(n) for n in (0, 1, 2, 16, 17, 130, 511, 512)]
    assert lengths == [0, 1, 16, 16, 32, 160, 512, 512]


def combine_badly(logits):
    return logits[0], {"alpha": jnp.zeros(5)}


WIDE, WIDE_INITIAL = transformer(dataclasses.replace(SMALL, vocab_size=98))
BAD = {
    r"prompt has shape \(3, 0\); expected": {"prompt": PROMPT[:, :0]},
    r"prompt has shape \(7,\); expected": {"prompt": PROMPT[0], "where": None},
    r"where has shape \(3, 6\)": {"where": WHERE[:, :6]},
    r"where ends with False in rows \[1\]; pad": {"where": WHERE & [[1], [0], [1]] > 0},
    "max_new_tokens must be at least 1, got 0": {"max_new_tokens": 0},
    "7 tokens and max_new_tokens is 122; model 0 has a context of 128": {
        "max_new_tokens": 122
    },
    r"vocabularies of \[97, 98\] tokens; they must share one tokenizer": {
        "others": [(WIDE, reference.draw(WIDE_INITIAL))],
        "combine": Mean(),
    },
    "2 models and no combine": {"others": [(SMALL_APPLY, SMALL_PARAMS)]},
    "key is None": {"sampling": Sampling()},
    r"key has shape \(2,\) and dtype uint32": {
        "sampling": Sampling(),
        "key": jnp.zeros(2, jnp.uint32),
    },
    r"combine returned 'alpha' of shape \(5,\)": {"combine": combine_badly},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments(message):
    with pytest.raises(ValueError, match=message):
        greedy(**BAD[message])


def test_bad_types():
    with pytest.raises(TypeError, match="dtype float32; expected integers"):
        greedy(PROMPT.astype(np.float32))
    with pytest.raises(TypeError, match="function without init_cache"):
        greedy(others=[(lambda *a, **k: None, {})], combine=Mean())
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        stream([(APPLY, PARAMS)], PROMPT, Decoding(3, GREEDY), chunk=0)
    with pytest.raises(TypeError, match="is a PureTransformer; expected a pair"):
        generate((APPLY, PARAMS), PROMPT, Decoding(3, GREEDY))
    with pytest.raises(ValueError, match="caches has 2 entries for 1 models"):
        generate([(APPLY, PARAMS)], PROMPT, Decoding(3, GREEDY), caches=[None, None])
    with pytest.raises(TypeError, match="settings is a Sampling; expected"):
        generate([(APPLY, PARAMS)], PROMPT, GREEDY)
    with pytest.raises(TypeError, match="sampling is a float"):
        Decoding(3, 0.5)
