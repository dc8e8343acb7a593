"""The fused linear loss is the dense one: random cases of every kind, by `vmap`."""

import fused
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import kljax.divergences as kd

# Tokens, outcomes, widths of target and model, chunk, type: compiled once each.
CASES = [
    ((1, 2, 1, 1), 1, np.float32),
    ((3, 5, 2, 4), 2, np.float64),
    ((7, 16, 4, 3), 3, jnp.bfloat16),
    ((8, 33, 5, 5), 4, np.float32),
    ((5, 128, 8, 4), 5, np.float16),
    ((12, 17, 3, 6), 5, np.float32),
    ((2, 257, 6, 2), 1, jnp.bfloat16),
    ((6, 48, 2, 7), 64, np.float64),
]
KEYS = ("p_hidden", "p_head", "p_bias", "q_hidden", "q_head", "q_bias")


def random_cases(sizes, dtype, count, seed):
    """Arrays of many scales; outcomes missing on one side or both; masked tokens."""
    rng = np.random.default_rng(seed)
    n, v, d_p, d_q = sizes
    found = {}
    for side, width in (("p", d_p), ("q", d_q)):
        scale = 10 ** rng.uniform(-1, 0.7, size=(count, 1, 1))
        head = rng.normal(size=(count, width, v)) * scale * width**-0.5
        bias = rng.normal(size=(count, v)) + rng.choice([0, 20], size=(count, 1))
        bias[rng.uniform(size=bias.shape) < rng.choice([0, 0.3], (count, 1))] = -np.inf
        found[f"{side}_hidden"] = rng.normal(size=(count, n, width))
        found |= {f"{side}_head": head, f"{side}_bias": bias}
    # What the model lacks the target lacks as well, in half of the cases.
    lacks = np.isneginf(found["q_bias"]) & (rng.uniform(size=(count, 1)) < 0.5)
    found["p_bias"][lacks] = -np.inf
    weights = rng.uniform(0.1, 2, size=(count, n))
    kept = rng.choice([0.0, 0.0, 0.5, 1.0], size=(count, 1))
    weights[rng.uniform(size=weights.shape) < kept] = 0
    wide = np.float64 if dtype == np.float64 else np.float32
    return {k: np.asarray(x, dtype) for k, x in found.items()}, np.asarray(
        weights, wide
    )


def dense(name, arrays, weights):
    wide = {k: x.astype(jnp.promote_types(x.dtype, "f4")) for k, x in arrays.items()}
    p, q = (
        jnp.matmul(wide[f"{s}_hidden"], wide[f"{s}_head"], precision="highest")
        + wide[f"{s}_bias"]
        for s in ("p", "q")
    )
    rows = kd.divergence(p, q, name)
    total = jnp.sum(jnp.where(weights > 0, weights * rows, 0))
    return total / jnp.where(jnp.any(weights > 0), jnp.sum(weights), 1)


def exact(name, arrays, weights):
    """Float64 NumPy; 0 where no token or no outcome is left."""
    wide = {k: np.asarray(x, np.float64) for k, x in arrays.items()}
    p, q = (
        references.softmax(
            wide[f"{s}_hidden"] @ wide[f"{s}_head"] + wide[f"{s}_bias"][:, None]
        )
        for s in ("p", "q")
    )
    empty = (p.sum(-1) == 0) | (q.sum(-1) == 0)
    with np.errstate(over="ignore", invalid="ignore"):
        rows = np.where(empty, 0, references.VALUES[name](p, q))
        kept = np.where(weights > 0, weights * rows, 0).sum(-1)
    return kept / np.where(weights.any(-1), weights.sum(-1), 1)


def check(cases, names, count):
    checked = dict.fromkeys(names, 0)
    for i, (sizes, chunk, dtype) in enumerate(cases):
        with jax.enable_x64(dtype == np.float64):
            arrays, weights = random_cases(sizes, dtype, count, i)

            def ours(name, arrays, weights, chunk=chunk):
                return fused.divergence(
                    name, **arrays, weights=weights, chunk_size=chunk
                )

            def both(arrays, weights, ours=ours):
                return [
                    jax.value_and_grad(lambda given, f=f, n=n: f(n, given, weights))(
                        arrays
                    )
                    for n in names
                    for f in (ours, dense)
                ]

            found = jax.jit(jax.vmap(both))(arrays, weights)
        digits = 1e-9 if dtype == np.float64 else 1e-4
        narrow = dtype in (jnp.bfloat16, np.float16)
        for name, (got, slope), (whole, want) in zip(names, found[::2], found[1::2]):
            got, whole = (np.asarray(x, np.float64) for x in (got, whole))
            reference = exact(name, arrays, weights)
            # What overflows float32 is infinite there.
            far = reference > 1e37
            np.testing.assert_allclose(
                got[~far], reference[~far], digits, 1e-3 * digits, err_msg=name
            )
            np.testing.assert_allclose(got, whole, digits, 1e-7, err_msg=name)
            assert (got >= 0).all(), name
            for k in KEYS:
                a, b = (np.asarray(x[k], np.float64) for x in (slope, want))
                assert not np.isnan(a).any(), (name, k)
                # The gradient is rounded to the type of the array.
                scale = np.abs(b).max(axis=tuple(range(1, b.ndim)), keepdims=True)
                bound = (2e-2 if narrow else 20 * digits) * scale + 1e-6
                with np.errstate(invalid="ignore"):  # float16: beyond 65504, alike
                    gap = np.where(a == b, 0, np.abs(a - b))
                assert (gap <= bound)[~far].all(), (name, k, i)
            checked[name] += count
    return checked


def test_random_cases_are_those_of_the_dense_loss():
    assert check(CASES[3:4], ("jensen_shannon",), 32) == {"jensen_shannon": 32}


@pytest.mark.optimized
@pytest.mark.slow
@pytest.mark.parametrize("name", kd.names())
def test_ten_thousand_random_cases(name):
    assert check(CASES, (name,), 1250) == {name: 10_000}
