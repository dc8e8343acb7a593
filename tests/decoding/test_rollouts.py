"""Rollouts: the law that was sampled from, on ragged prompts, compiled once."""

import jax
import numpy as np
import pytest
from scipy import stats

from kljax.decoding import Decoding, Sampling, generate
from kljax.decoding.rollouts import log_probs, roll_out
from kljax.models.language.transformer import TransformerConfig, transformer
from kljax.theory.sequences import sequences

V, T, G = 5, 3, 4096
APPLY, INITIAL = transformer(
    TransformerConfig(vocab_size=V, width=8, depth=1, heads=2, max_length=16)
)
END = 4
PROMPT = np.array([[9, 1, 2], [3, 0, 1]])
WHERE = np.array([[False, True, True], [True, True, True]])
LAWS = {
    "plain": Sampling(),
    "warm": Sampling(temperature=1.7),
    "top-k": Sampling(temperature=0.8, top_k=3),
    "top-p": Sampling(top_p=0.8),
    "min-p": Sampling(temperature=1.3, min_p=0.4),
}


@pytest.fixture(scope="module")
def params():
    """Logits that are far from flat."""
    drawn = INITIAL(jax.random.key(0))
    return drawn | {"head": jax.tree.map(lambda x: 10 * x, drawn["head"])}


def filtered(log_p, sampling):
    """The law of a setting in float64 NumPy, by sorting, for distinct outcomes."""
    z = np.float64(log_p) / sampling.temperature
    order = np.argsort(-z)
    kept = np.ones(len(z), bool)
    if sampling.top_k is not None:
        kept[order[sampling.top_k :]] = False
    p = np.where(kept, np.exp(z - z.max()), 0)
    p /= p.sum()
    if sampling.top_p is not None:
        upto = np.cumsum(p[order])
        p[order[1:][upto[:-1] >= sampling.top_p]] = 0
    if sampling.min_p is not None:
        p[p < sampling.min_p * p.max()] = 0
    return p / p.sum()


@pytest.mark.parametrize("law", LAWS)
def test_completions_are_of_the_law_and_say_its_log_probability(params, law):
    sampling = LAWS[law]
    settings = Decoding(T, sampling, stop_tokens=[END], pad_id=3)

    @jax.jit
    def write(params, key):
        found = roll_out(
            (APPLY, params), PROMPT, settings, group=G, key=key, where=WHERE
        )
        return found, log_probs((APPLY, params), found, sampling)

    found, again = write(params, jax.random.key(1))
    write(jax.tree.map(lambda x: 0.5 * x, params), jax.random.key(2))
    assert write._cache_size() == 1
    kept = np.asarray(found.where)
    assert np.isfinite(found.log_behavior).all()
    np.testing.assert_allclose(found.log_behavior, again, atol=1e-5)
    assert (np.asarray(found.log_behavior)[~kept] == 0).all()
    # Up to the end token, itself included; then pads.
    ended = np.cumsum(np.asarray(found.tokens) == END, axis=-1)
    assert kept[..., 0].all() and (kept[..., 1:] == (ended[..., :-1] == 0)).all()
    assert (np.asarray(found.tokens)[~kept] == 3).all()

    # Frequencies against the exact law of all texts, the model asked for every prefix.
    every = np.asarray(sequences(V, T))
    for row in range(2):
        prompt = PROMPT[row, WHERE[row]]
        ids = np.concatenate([np.tile(prompt, (V**T, 1)), every], axis=1)
        log_next = APPLY(params, ids)[:, len(prompt) - 1 : -1]
        exact: dict = {}
        for text, rows in zip(every.tolist(), np.asarray(log_next)):
            mass, end = 1.0, False
            shown = []
            for token, one in zip(text, rows):
                shown.append(3 if end else token)
                # What follows an end is one text.
                mass *= (token == 0) if end else filtered(one, sampling)[token]
                end |= token == END
            exact[tuple(shown)] = exact.get(tuple(shown), 0) + mass
        drawn = np.asarray(found.tokens)[row]
        texts, counts = np.unique(drawn, axis=0, return_counts=True)
        seen = dict(zip(map(tuple, texts.tolist()), counts))
        assert all(exact[text] > 0 for text in seen)
        expected = np.array([G * p for p in exact.values()])
        observed = np.array([seen.get(text, 0) for text in exact])
        rare = expected < 5
        pairs = [
            np.append(x[~rare], x[rare].sum()) if rare.any() else x
            for x in (observed, expected)
        ]
        pairs = [x[pairs[1] > 0] for x in pairs]
        assert stats.chisquare(*pairs).pvalue > 1e-4


def test_a_ratio_is_that_of_the_filtered_laws(params):
    """Of a policy that has moved on; its gradient is that of the filtered law, and a
    token that its own filter would drop is kept."""
    sampling = Sampling(temperature=0.7, top_k=2)
    settings = Decoding(T, sampling)
    prompt = np.where(WHERE, PROMPT, 0)
    moved = params | {"head": jax.tree.map(lambda x: -0.5 * x, params["head"])}

    @jax.jit
    def run(params, moved, key):
        found = roll_out((APPLY, params), prompt, settings, group=64, key=key)

        def total(moved):
            log_q = log_probs((APPLY, moved), found, sampling)
            return log_q.sum(), log_q

        slopes, log_q = jax.grad(total, has_aux=True)(moved)
        return found, log_q, slopes

    found, log_q, slopes = run(params, moved, jax.random.key(3))
    texts = np.asarray(found.tokens).reshape(-1, T)
    ids = np.concatenate([np.repeat(prompt, 64, axis=0), texts], axis=1)
    logits = np.float64(APPLY(moved, ids)[:, 2:-1]) / 0.7
    chosen = ids[:, 3:, None]
    top = np.sort(logits, axis=-1)[..., -2:-1]
    kept = (logits >= top) | (np.arange(V) == chosen)
    mass = np.where(kept, np.exp(logits), 0)
    exact = np.log(np.take_along_axis(mass, chosen, -1)[..., 0] / mass.sum(-1))
    np.testing.assert_allclose(log_q.reshape(-1, T), exact, atol=1e-5)
    assert (kept.sum(-1) == 3).any() and np.isfinite(log_q).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slopes))
    assert np.abs(slopes["head"]["kernel"]).max() > 0


def test_a_greedy_text_is_no_sample(params):
    greedy = Sampling(temperature=0)
    with pytest.raises(ValueError, match="there is no law"):
        roll_out((APPLY, params), PROMPT, Decoding(2, greedy), group=1, key=None)
    penalty = Sampling(repetition_penalty=2.0)
    for sampling in (greedy, penalty):
        with pytest.raises(ValueError, match="one law for all tokens"):
            log_probs((APPLY, params), None, sampling)


def test_inside_a_program_a_cache_has_no_slots_to_spare(params):
    """It is compiled for its sizes anyway; the tokens are those of a call alone."""
    prompt, settings = np.where(WHERE, PROMPT, 0), Decoding(T)
    write = lambda params, key: generate(
        [(APPLY, params)], prompt, settings, where=WHERE, key=key
    )
    key = jax.random.key(5)
    program = jax.jit(write).lower(params, key).as_text()
    assert "x256x" not in program and f"x{PROMPT.shape[1] - 1 + T}x" in program
    alone, inside = write(params, key), jax.jit(write)(params, key)
    np.testing.assert_array_equal(alone.tokens, inside.tokens)
    np.testing.assert_allclose(
        alone.log_probabilities, inside.log_probabilities, atol=1e-5
    )
