"""Ids, labels and lists that are wrong, and numbers that no shape allows."""

from functools import partial

import fused
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kljax.divergences as kd
from kljax.decoding import Decoding, Fusion, Sampling, generate, speculate, stream
from kljax.models.language.transformer import TransformerConfig, transformer
from kljax.objectives import on_policy
from kljax.objectives.distillation import distillation_loss, sequence_level_loss

V, N = 5, 2
LOG_P = np.float32(np.log([[0.5, 0.3], [0.6, 0.1]]))
Q = np.float32(np.log([[0.6, 0.2, 0.1, 0.06, 0.04]] * N))
IDS = np.array([[0, 1], [4, 2]])
MODEL = {"q_hidden": Q, "q_head": np.eye(V, dtype=np.float32)}
BOTH = {**MODEL, "p_hidden": Q, "p_head": MODEL["q_head"]}
SIDE = kd.Logits(Q[None])
LISTS = kd.TopK(LOG_P[None], IDS[None])


def edited(array, place, value):
    found = np.array(
        array, np.int64 if np.issubdtype(np.asarray(array).dtype, int) else None
    )
    found[place] = value
    return found


def topk(ids=IDS, log_p=LOG_P, name="forward_kl", **options):
    return fused.dense_topk(log_p, ids, Q, name, **options)


def linear_topk(ids=IDS, log_p=LOG_P, function=fused.topk, **options):
    return function("forward_kl", log_p_topk=log_p, ids=ids, **MODEL, **options)


renormalized = partial(linear_topk, function=fused.restricted)
labelled = lambda labels, **more: fused.cross_entropy(labels, **MODEL, **more)
linear = lambda **more: fused.divergence("forward_kl", **BOTH, **more)
distilled = lambda teacher=SIDE, **more: distillation_loss(teacher, SIDE, **more)


def mixture(labels):
    return fused.divergence("forward_kl", labels=labels, label_weight=0.5, **BOTH)


APPLY, INITIAL = transformer(TransformerConfig(11, width=8, depth=1, heads=2))
GREEDY = Sampling(temperature=0)
PARAMS = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, leaf.dtype),
    jax.eval_shape(INITIAL, jax.random.key(0)),
)


def text(function, prompt, **options):
    count, combine = (3, Fusion()) if function is speculate else (1, None)
    settings = Decoding(2, GREEDY, combine=combine, **options)
    return function([(APPLY, PARAMS)] * count, prompt, settings)


OUTSIDE = [
    ("topk, nothing", lambda: topk(IDS[:, :0], LOG_P[:, :0]), "list between 1 and 5"),
    ("topk, a number", lambda: topk(IDS[0, 0], LOG_P[0, 0]), "p must be"),
    ("topk, weights [3]", lambda: topk(weights=np.ones(3)), r"weights must be \(2,\)"),
    (
        "topk, id v",
        lambda: topk(edited(IDS, (1, 0), V)),
        r"ids holds 5 at \[1, 0\]: .* 0 to 4",
    ),
    ("topk, id -1", lambda: topk(edited(IDS, (0, 1), -1)), r"ids holds -1 at \[0, 1\]"),
    ("topk, id 2^32", lambda: topk(edited(IDS, (0, 0), 2**32)), "ids holds 4294967296"),
    (
        "topk, id -100 in 16 bits",
        lambda: topk(np.int16([[0, -100], [1, 2]])),
        "holds -100",
    ),
    ("topk, id 200 in 8 bits", lambda: topk(np.uint8([[0, 200], [1, 2]])), "holds 200"),
    (
        "topk, an id twice",
        lambda: topk(edited(IDS, (1, 1), 4)),
        r"distinct .* \[4, 4\] at \[1\]",
    ),
    (
        "topk, logits",
        lambda: topk(log_p=LOG_P + 3),
        r"log_p at \[0\] .* 16.07, more than 1",
    ),
    (
        "topk, mass 1.3",
        lambda: topk(log_p=LOG_P + np.float32(0.5)),
        "more than 1",
    ),
    (
        "topk, a mass for its log",
        lambda: topk(log_tail=np.float32([0.2, 0.3])),
        "more than 1",
    ),
    (
        "topk, one tail",
        lambda: topk(log_tail=np.float32(-2)),
        r"log_tail must be \(2,\)",
    ),
    (
        "topk, tails of integers",
        lambda: topk(log_tail=np.array([-2, -2])),
        "log_tail must be float",
    ),
    (
        "topk, alpha [v]",
        lambda: topk(name="alpha", alpha=np.ones(V) / 3),
        r"Alpha .*\(2,\); got \(5,\)",
    ),
    (
        "linear_topk, id v",
        lambda: linear_topk(edited(IDS, (1, 1), V)),
        r"ids holds 5 at \[1, 1\]",
    ),
    (
        "linear_topk, twice",
        lambda: linear_topk(edited(IDS, (0, 1), 0)),
        "ids must be distinct",
    ),
    ("linear_topk, logits", lambda: linear_topk(log_p=LOG_P + 2), "more than 1"),
    ("renormalized, id v", lambda: renormalized(edited(IDS, (0, 0), V)), "ids holds 5"),
    ("renormalized, twice", lambda: renormalized(edited(IDS, (0, 1), 0)), "distinct"),
    ("label v", lambda: labelled([1, V]), r"labels holds 5 at \[1\]: expected 0 to 4"),
    (
        "label 2^40",
        lambda: labelled(np.array([2**40, -1])),
        "labels holds 1099511627776",
    ),
    (
        "label that counts",
        lambda: labelled([V, V], weights=[0, 2]),
        r"holds 5 at \[1\]",
    ),
    ("label of a mixture", lambda: mixture([0, 9]), "labels holds 9"),
    (
        "label of a distillation",
        lambda: distilled(labels=[[0, V]], label_weight=0.5),
        "labels holds 5",
    ),
    (
        "label of a text",
        lambda: sequence_level_loss(SIDE, np.array([[7, 0]])),
        "labels holds 7",
    ),
    (
        "teacher's id v",
        lambda: distilled(LISTS._replace(ids=IDS[None] + 1)),
        r"ids holds 5 at \[0, 1, 0\]",
    ),
    (
        "prompt, id v",
        lambda: text(generate, np.array([[1, 11]])),
        r"prompt holds 11 at \[0, 1\]: expected 0 to 10",
    ),
    (
        "prompt, id -1",
        lambda: text(generate, np.array([[-1, 1]])),
        r"prompt holds -1 at \[0, 0\]",
    ),
    (
        "prompt, id 2^32",
        lambda: text(generate, np.array([[2**32, 1]])),
        "prompt holds 4294967296",
    ),
    ("stream, id v", lambda: text(stream, np.array([[1, 99]])), "prompt holds 99"),
    (
        "speculate, id v",
        lambda: text(speculate, jnp.array([[1, 11]])),
        "prompt holds 11",
    ),
    (
        "stop token v",
        lambda: text(generate, np.array([[1, 2]]), stop_tokens=(3, 11)),
        "stop_tokens holds 11",
    ),
    (
        "temperature [v]",
        lambda: distilled(temperature=np.ones(V)),
        r"temperature .*\(1, 2\); got \(5,\)",
    ),
    (
        "temperature [v] of lists",
        lambda: distilled(LISTS, temperature=np.ones(V)),
        "rows",
    ),
    (
        "temperature inf",
        lambda: linear(temperature=np.inf),
        "temperature must be positive, got inf",
    ),
    (
        "temperature nan",
        lambda: linear(temperature=(1.0, np.nan)),
        "must be positive, got nan",
    ),
    (
        "temperature of an array",
        lambda: linear(temperature=np.float32(-1)),
        "positive, got -1",
    ),
    (
        "temperature 1e-40",
        lambda: distilled(temperature=1e-40),
        "temperature must be positive",
    ),
    (
        "temperature of a list",
        lambda: kd.top_outcomes(SIDE, 2, temperature=np.ones(V)),
        "must be one number",
    ),
    (
        "soft cap inf",
        lambda: linear(soft_cap=np.inf),
        "soft_cap must be positive, got inf",
    ),
    (
        "alpha per token",
        lambda: fused.divergence("alpha", alpha=np.ones(N) / 2, **BOTH),
        "numbers",
    ),
    (
        "fraction nan",
        lambda: on_policy.mixed_batch(jax.random.key(0), {}, None, fraction=np.nan),
        "0 to 1",
    ),
]


@pytest.mark.parametrize(
    "call, words", [x[1:] for x in OUTSIDE], ids=[x[0] for x in OUTSIDE]
)
def test_what_is_wrong_is_named(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call()


def test_speculation_is_not_traced():
    with pytest.raises(TypeError, match="call speculate outside of"):
        jax.jit(lambda prompt: text(speculate, prompt))(np.array([[1, 2]]))


# Junk where nothing counts, and the same call with something decent there.
JUNK_IDS, JUNK = (
    edited(IDS, 1, [2**31 - 1, -100]),
    np.float32([LOG_P[0], [np.nan, np.inf]]),
)
UNCOUNTED = [
    ("topk", lambda ids, log_p: topk(ids, log_p, weights=[1, 0]).sum()),
    ("linear_topk", lambda ids, log_p: linear_topk(ids, log_p, weights=[1, 0])),
    (
        "renormalized",
        lambda ids, log_p: renormalized(ids, log_p, weights=[True, False]),
    ),
    ("labels", lambda ids, _: labelled(ids[:, 0], weights=[0.5, 0])),
    ("negative labels", lambda ids, _: labelled(ids[:, 1])),
    (
        "lists of a teacher",
        lambda ids, log_p: distilled(
            kd.TopK(log_p[None], ids[None]), weights=np.array([[1, 0]])
        )[0],
    ),
    (
        "labels of a distillation",
        lambda ids, _: distilled(
            labels=ids[None, :, 0], label_weight=0.5, weights=np.array([[1, 0]])
        )[0],
    ),
]


@pytest.mark.parametrize(
    "call", [x[1] for x in UNCOUNTED], ids=[x[0] for x in UNCOUNTED]
)
def test_what_does_not_count_may_be_anything(call):
    decent = edited(IDS, 1, [0, -1 if call is UNCOUNTED[4][1] else 1])
    assert float(jnp.sum(call(JUNK_IDS, JUNK))) == float(jnp.sum(call(decent, LOG_P)))


def test_prompts_with_junk_under_the_mask_and_traced_ones():
    params = INITIAL(jax.random.key(0))
    settings = Decoding(3, GREEDY, pad_id=7)
    where = np.array([[False, True, True]] * 4)
    prompt = np.array([[0, 3, 4], [-100, 3, 4], [2**31 - 1, 3, 4], [0, 11, 4]])

    @jax.jit
    def continued(prompt):
        return generate([(APPLY, params)], prompt, settings, where=where)

    found = continued(prompt)
    tokens, log_p = np.asarray(found.tokens), np.asarray(found.log_probabilities)
    assert np.isfinite(log_p[:3]).all() and np.isnan(log_p[3]).all()
    assert (log_p[:3] == log_p[0]).all() and (tokens[:3] == tokens[0]).all()
    assert (tokens[3] == 7).all()


def spoiled(logits):
    """NaN in the second row, as a broken expert would have it."""
    first = logits[0]
    rows = jnp.arange(len(first)).reshape(-1, *(1,) * (first.ndim - 1))
    much = jnp.where(rows == 1, jnp.inf, 0)
    # Not a NaN that is written: XLA's exp on a CPU loses one that it knows.
    return first + much - much, {}


@pytest.mark.parametrize("sampling", [GREEDY, Sampling()], ids=["greedy", "sampled"])
def test_a_row_without_a_law_ends_with_minus_1(sampling):
    model, prompt = (APPLY, INITIAL(jax.random.key(0))), np.array([[0, 3]] * 3)
    settings = Decoding(3, sampling, pad_id=7, combine=spoiled)
    key = None if sampling.greedy else jax.random.key(1)
    for found in (
        generate([model], prompt, settings, key=key),
        speculate([model] * 2, prompt, settings, draft=2, drafter=1, key=key),
    ):
        tokens, log_p = map(np.asarray, (found.tokens, found.log_probabilities))
        assert tokens[1, 0] == -1 and np.isnan(log_p[1, 0])
        assert found.lengths.tolist() == [3, 1, 3]
        assert (tokens[[0, 2]] >= 0).all() and np.isfinite(log_p[[0, 2]]).all()
