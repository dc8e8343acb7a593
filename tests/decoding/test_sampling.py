"""Sampling by enumeration in float64 NumPy, by sorting; draws by a chi-square test."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kljax.decoding.sampling import Sampling, greedy
from kljax.decoding.sampling import sample as plain_sample
from kljax.decoding.sampling import warp as plain_warp

V = 50
# Compiled whole: run op by op, each op would be compiled by itself.
sample = jax.jit(plain_sample, static_argnames="sampling")
warp = jax.jit(plain_warp, static_argnames="sampling")


def law(logits, *, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """One row, step by step, with a sort at each."""
    x = np.float64(logits) / temperature
    if top_k is not None and top_k < len(x):
        x = np.where(x >= np.sort(x)[-top_k], x, -np.inf)
    p = np.exp(x - x.max())
    p /= p.sum()
    if top_p is not None:
        order = np.argsort(-p, kind="stable")
        upto = np.cumsum(p[order])
        last = p[order[np.argmax(upto >= top_p - 1e-15)]]
        p = np.where(p >= last, p, 0)
    if min_p is not None:
        p = np.where(p >= min_p * p.max(), p, 0)
    return p / p.sum()


SETTINGS = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "top_k": {"top_k": 7},
    "top_p": {"top_p": 0.8},
    "top_p, little": {"top_p": 1e-3},
    "min_p": {"min_p": 0.2},
    "all": {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
}


def rows(n, scale=2.0, seed=0):
    return np.random.default_rng(seed).normal(size=(n, V)) * scale


@pytest.mark.parametrize("name", SETTINGS)
def test_the_law_is_that_of_the_sorted_reference(name, x64):
    logits = np.concatenate([rows(60), rows(60, 8.0, 1), rows(60, 0.1, 2)])
    logits[:20, ::3] = -np.inf
    got = jax.nn.softmax(warp(logits, Sampling(**SETTINGS[name])))
    want = np.stack([law(row, **SETTINGS[name]) for row in logits])
    np.testing.assert_allclose(got, want, atol=1e-13)


@pytest.mark.optimized
def test_nucleus_ends_at_the_exact_threshold_in_float32():
    # Weights one unit in the last place apart: any threshold that is only near fails.
    top = np.float32(1.0)
    near = np.nextafter(top, np.float32(0), dtype=np.float32)
    logits = jnp.log(jnp.array([[top, near, 0.5, 0.25, 0.25]]))
    kept = lambda p: (warp(logits, Sampling(top_p=p)) > -jnp.inf)[0].tolist()
    assert kept(0.3) == [True, False, False, False, False]
    assert kept(0.6) == [True, True, False, False, False]
    assert kept(0.8) == [True, True, True, False, False]
    assert kept(0.9) == [True] * 5  # equal ones stay together
    assert kept(1.0) == [True] * 5


def test_filters_that_keep_everything_change_no_bit():
    logits = np.concatenate([rows(40, 8.0), rows(40, 30.0, 1)]).astype(np.float32)
    logits[:20, ::3], logits[20, 7], logits[21, 8] = -np.inf, np.nan, 1e30
    want = np.asarray(warp(logits, Sampling(temperature=0.5)))

    def of(top_p, min_p):
        return plain_warp(logits, Sampling(0.5, top_p=top_p, min_p=min_p))

    def known(**settings):
        return warp(logits, Sampling(temperature=0.5, **settings))

    kept = {
        "a number": known(top_p=1.0),
        "an integer": known(top_p=1, min_p=0),
        "more than there are": known(top_k=V + 1, min_p=0.0),
        "as many": known(top_k=V, top_p=1.0),
        "traced": jax.jit(of)(1.0, 0.0),
        "traced, half precision": jax.jit(of)(jnp.bfloat16(1), jnp.bfloat16(0)),
    }
    for name, got in kept.items():
        assert np.asarray(got).tobytes() == want.tobytes(), name


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.5, "top_k": 30}])
def test_draws_have_the_law(settings):
    n = 20000
    logits = rows(1, 1.5, 3)[0].astype(np.float32)
    logits[[0, 13, 49]] = -np.inf
    sampling = Sampling(**settings)
    keys = jax.random.split(jax.random.key(1), n)
    token, log_p = sample(keys, np.tile(logits, (n, 1)), sampling)
    want = law(logits, **settings)
    counts = np.bincount(token, minlength=V)
    possible = want > 0
    assert counts[~possible].sum() == 0
    assert stats.chisquare(counts[possible], n * want[possible]).pvalue > 1e-3
    np.testing.assert_allclose(log_p, np.log(want[token]), rtol=1e-4, atol=1e-5)


def test_draws_over_several_blocks():
    # 700 outcomes are three blocks; the middle one is impossible.
    n, v = 30000, 700
    logits = np.random.default_rng(5).normal(size=v).astype(np.float32)
    logits[256:512] = -np.inf
    p = np.exp(np.float64(logits))
    p /= p.sum()
    token = sample(jax.random.key(0), np.tile(logits, (n, 1))).token
    counts = np.bincount(token, minlength=v)
    assert counts[256:512].sum() == 0
    groups = lambda x: np.concatenate([x[:256], x[512:]]).reshape(37, 12).sum(axis=1)
    assert stats.chisquare(groups(counts), n * groups(p)).pvalue > 1e-3


def test_a_row_does_not_depend_on_the_others_with_a_key_each():
    logits = rows(8).astype(np.float32)
    keys = jax.random.split(jax.random.key(2), 8)
    together = sample(keys, logits).token
    alone = [int(sample(k, row).token) for k, row in zip(keys, logits)]
    assert together.tolist() == alone
    with pytest.raises(ValueError, match=r"one per row \(8,\), got shape \(3,\)"):
        sample(keys[:3], logits)


def test_greedy_takes_the_first_of_the_largest():
    logits = np.float32([[1, 3, 3], [-np.inf, -np.inf, 0], [np.nan, 1, 2]])
    assert jax.jit(greedy)(logits).tolist() == [1, 2, 0]
    token, log_p = sample(jax.random.key(0), logits[:2], Sampling(temperature=0))
    assert token.tolist() == [1, 2]
    np.testing.assert_allclose(
        log_p, [-np.log(2 + np.exp(-2)), 0], rtol=1e-6, atol=1e-7
    )


def test_repetition_penalty():
    logits = jnp.array([[2.0, -1.0, 0.5, -jnp.inf]])
    seen = jnp.array([[3, 1, 0, 1]])
    got = warp(logits, Sampling(repetition_penalty=2.0), seen=seen)
    assert got.tolist() == [[1.0, -2.0, 0.5, -np.inf]]
    with pytest.raises(ValueError, match="needs `seen`"):
        warp(logits, Sampling(repetition_penalty=2.0))
    with pytest.raises(ValueError, match=r"seen: expected shape \(1, 4\), got \(4,\)"):
        warp(logits, Sampling(), seen=seen[0])


@pytest.mark.parametrize("settings", [{}, {"temperature": 0}, {"top_p": 0.9}])
def test_impossible_rows_and_extremes_give_no_nan(settings):
    logits = np.full((3, V), -np.inf, np.float32)
    logits[1, 4] = 1e30
    logits[2] = 3e38 * np.sign(np.arange(V) - 10.5)
    token, log_p = sample(jax.random.key(0), logits, Sampling(**settings))
    assert token[0] == 0 and log_p[0] == -np.inf
    assert token[1] == 4 and log_p[1] == 0
    assert token[2] > 10 and np.isfinite(log_p[2])


def test_settings_may_be_traced_and_compile_once():
    @chex.assert_max_traces(1)
    def of(logits, temperature, top_p, min_p):
        return plain_warp(logits, Sampling(temperature, top_p=top_p, min_p=min_p))

    logits, jitted = rows(1)[0].astype(np.float32), jax.jit(of)
    for t, p, m in ((0.5, 0.9, 0.0), (1.7, 0.5, 0.1)):
        got = jax.nn.softmax(jitted(logits, t, p, m))
        want = law(logits, temperature=t, top_p=p, min_p=m)
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_half_precision_is_raised_and_the_program_holds_no_sort():
    logits = jnp.asarray(rows(4), jnp.bfloat16)
    assert warp(logits).dtype == jnp.float32
    chosen = Sampling(top_p=0.9, min_p=0.01)
    text = sample.lower(jax.random.key(0), logits, chosen)
    assert "stablehlo.sort" not in text.as_text()


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"temperature": -1.0}, "temperature: expected ≥ 0, got -1.0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 1.5}, r"top_p: expected in \(0, 1\], got 1.5"),
        ({"min_p": -0.1}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty: expected > 0"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        Sampling(**settings)


def test_bad_logits():
    with pytest.raises(ValueError, match=r"logits: expected \[\*b, v\]"):
        plain_warp(jnp.float32(1.0))


@pytest.mark.parametrize("k", [1, 7, 50, 299])
def test_the_kth_largest_is_found_among_numbers_of_any_size_and_sign(k):
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=(9, 300)))
    x *= np.float32([[1e-30, 1, 1e30] * 3]).T
    x[3] = -np.abs(x[3])
    x[4] = np.round(x[4])  # ties, zeros of both signs among them
    x[5, 30:] = -np.inf
    x[6, 3] = np.inf
    least = np.sort(x)[:, -k, None]
    want = np.where(x < least, -np.inf, x)
    np.testing.assert_array_equal(warp(x, Sampling(top_k=k)), want)
