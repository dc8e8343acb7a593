"""The logits kernel: memory that does not grow with rows, one way to be right."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import kljax.divergences as kd
from kljax.kernels.logits import blocks

MIB = 2**20
V = 32768


def total(name, p, q, **options):
    return jnp.sum(kd.divergence(p, q, name, **options))


def shapes(rows, width=V, dtype=jnp.float32):
    return (jax.ShapeDtypeStruct((rows, width), dtype),) * 2


def temporaries(function, rows, *more, dtype=jnp.float32):
    lowered = jax.jit(function).lower(*shapes(rows, dtype=dtype), *more)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def hessian_vector(name, p, q):
    return jax.jvp(jax.grad(partial(total, name), argnums=1), (p, q), (p, q))[1]


def forward_mode(name, p, q):
    return jax.jvp(partial(total, name), (p, q), (q, p))


USES = {
    "model": lambda name: jax.value_and_grad(partial(total, name), argnums=1),
    "jvp": lambda name: partial(forward_mode, name),
    "hvp": lambda name: partial(hessian_vector, name),
}


@pytest.mark.inspected
@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("forward_kl", "model"),
        ("forward_kl", "hvp"),
        ("jensen_shannon", "model"),
        ("alpha", "jvp"),
    ],
)
def test_memory_is_small_and_flat_in_rows(name, use):
    function = USES[use](name)
    bound = 8 * MIB
    few, many = temporaries(function, 2048), temporaries(function, 4 * 2048)
    assert few <= bound
    assert many - few <= 2048 * 4 * 4 * 32  # numbers of a row, no row itself


@pytest.mark.inspected
def test_memory_of_16_bits_is_at_most_a_gradient_more(monkeypatch):
    monkeypatch.setattr(blocks, "cores", lambda: 1)
    value = partial(total, "forward_kl")
    assert temporaries(value, 2048, dtype=jnp.bfloat16) <= 2 * MIB  # not widened: 512
    result = 2 * 2048 * V
    gradient = USES["model"]("forward_kl")
    assert temporaries(gradient, 2048, dtype=jnp.bfloat16) <= result + 2 * MIB


@pytest.mark.inspected
def test_memory_of_many_cores_is_bounded(monkeypatch):
    monkeypatch.setattr(blocks, "cores", lambda: 64)
    rows = 2040  # of no other test: what was traced before would be run again
    assert temporaries(partial(total, "forward_kl"), rows) <= 4 * MIB
    result, gradient = 2 * rows * V, USES["model"]("jensen_shannon")
    assert temporaries(gradient, rows, dtype=jnp.bfloat16) <= result + 8 * MIB


@pytest.mark.inspected
def test_memory_where_no_block_divides_the_rows():
    gradient = USES["model"]("forward_kl")
    assert temporaries(gradient, 2053) <= 16 * MIB  # the logits are 514 MiB


@pytest.mark.inspected
def test_memory_under_vmap_is_that_of_a_block_of_each():
    def gradients(p, q):
        split = (x.reshape(2, -1, V) for x in (p, q))
        return jax.vmap(USES["model"]("forward_kl"))(*split)

    few, many = temporaries(gradients, 2 * 1021), temporaries(gradients, 8 * 1021)
    assert few <= 32 * MIB and many - few <= 2 * MIB


@pytest.mark.inspected
def test_memory_with_a_mask_and_a_temperature():
    mask = jax.ShapeDtypeStruct((2048, V), jnp.bool_)
    scalar = jax.ShapeDtypeStruct((), jnp.float32)

    def warm(p, q, where, temperature):
        return total("forward_kl", p, q, where=where, temperature=temperature)

    gradient = jax.value_and_grad(warm, argnums=(1, 3))
    assert temporaries(gradient, 2048, mask, scalar) <= 32 * MIB


@pytest.mark.inspected
def test_memory_of_what_is_no_f_divergence():
    function = jax.grad(lambda p, q: jnp.sum(kd.cross_entropy(p, q)), argnums=1)
    assert temporaries(function, 2048) <= 32 * MIB


def test_the_gradient_is_for_the_side_that_is_asked_for():
    rows = 8

    def logarithms(argnums):
        gradient = jax.grad(partial(total, "jensen_shannon"), argnums=argnums)
        text = jax.jit(gradient).lower(*shapes(rows)).as_text()
        # One in each logarithm of mixtures, as a CPU computes it.
        return len(re.findall(r"stablehlo\.shift_right_arithmetic ", text))

    assert logarithms(1) < logarithms((0, 1))


def test_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "cores", lambda: 1)
    assert blocks.chains(V) == 1
    assert blocks.block_rows(2048, V) == 2
    assert blocks.block_rows(600, 2 * V) == 2
    assert blocks.block_rows(600, V // 2) == 4
    assert blocks.block_rows(2053, V // 2) == 4  # a prime: the last block begins early
    assert blocks.block_rows(5, V // 2) == 3  # of equal size: less is done twice
    assert blocks.block_rows(64, 10**6) == 2
    assert blocks.block_rows(512, 100) == 512


def test_blocks_of_several_cores(monkeypatch):
    monkeypatch.setattr(blocks, "cores", lambda: 2)
    assert [blocks.chains(v) for v in (8, V, 2 * V, 4 * V, 10**6)] == [2, 2, 2, 1, 1]
    assert blocks.block_rows(2048, V, 2) == 4
    assert blocks.block_rows(2048, V) == 8  # a block for all cores
    assert blocks.block_rows(300, 2048, 2) == 50  # six of them, in whole turns
    assert blocks.block_rows(64, 2048, 2) == 64
    monkeypatch.setattr(blocks, "cores", lambda: 64)
    assert blocks.chains(V) == 4
    assert blocks.block_rows(5, V, 4) == 2  # two again would be one too few


@pytest.mark.parametrize("cores", [1, 2, 8])
def test_cores_change_no_value_and_no_gradient(cores, monkeypatch):
    monkeypatch.setattr(blocks, "cores", lambda: cores)
    monkeypatch.setattr(blocks, "_BLOCK", 256)
    monkeypatch.setattr(blocks, "_TURN", 512)
    # Another number of rows for each, or what was traced before would be run again.
    p, q = np.float32(np.random.default_rng(0).normal(size=(2, 37 + cores, 32)) * 2)
    assert blocks.block_rows(len(p), 32, blocks.chains(32)) < len(p) / 2
    mass_p, mass_q = references.softmax(p), references.softmax(q)
    weight = np.arange(1.0, 1 + len(p), dtype=np.float32)

    def weighted(p, q):
        value = kd.divergence(p, q, "forward_kl")
        return jnp.sum(weight * value), value

    gradient, value = jax.jit(jax.grad(weighted, 1, has_aux=True))(p, q)
    np.testing.assert_allclose(value, references.kl(mass_p, mass_q), rtol=3e-6)
    want = weight[:, None] * (mass_q - mass_p)
    np.testing.assert_allclose(gradient, want, atol=1e-6 * np.max(weight))


def test_blocked_rows_are_those_of_one_row_at_a_time():
    # 521 is a prime; leading axes are merged and split again.
    rng = np.random.default_rng(0)
    p, q = np.float32(rng.normal(size=(2, 1, 521, 2048)) * 2)
    assert blocks.block_rows(521, 2048) < 521
    want = references.jensen_shannon(references.softmax(p), references.softmax(q))
    value, gradient = jax.jit(
        jax.value_and_grad(partial(total, "jensen_shannon"), argnums=1)
    )(p, q)
    np.testing.assert_allclose(value, want.sum(), rtol=1e-6)
    some = jax.jit(jax.vmap(jax.grad(partial(total, "jensen_shannon"), argnums=1)))(
        p[0, ::100], q[0, ::100]
    )
    np.testing.assert_allclose(gradient[0, ::100], some, atol=1e-9, rtol=1e-5)


@pytest.mark.parametrize("name", ["forward_kl", "jensen_shannon", "alpha"])
def test_gradient_at_equality_and_its_curvature(name, x64):
    p = np.random.default_rng(1).normal(size=5)
    mass = references.softmax(p)
    fisher = np.diag(mass) - np.outer(mass, mass)
    f = partial(total, name)

    def twice(p, q):
        gradient = jax.grad(f, 1)(p, q)
        return gradient, gradient

    hessian, gradient = jax.jit(jax.jacfwd(twice, 1, has_aux=True))(p, p)
    np.testing.assert_allclose(gradient, 0, atol=1e-15)
    curvature = float(jax.jit(kd.get(name).curvature)(0.0))
    np.testing.assert_allclose(hessian, curvature * fisher, atol=1e-12)


# Eight shapes, each compiled once; cases are drawn inside.
CASES = [
    ((1, 2), np.float32),
    ((3, 5), np.float64),
    ((7, 16), jnp.bfloat16),
    ((2, 4, 33), np.float32),
    ((16, 128), np.float16),
    ((5, 257), np.float32),
    ((1, 1000), jnp.bfloat16),
    ((4, 64), np.float32),
]


def random_cases(shape, dtype, count, seed):
    """Logits of many scales, some outcomes missing on either side, some masked."""
    rng = np.random.default_rng(seed)
    lead = (count,) + (1,) * len(shape)
    scale = 10 ** rng.uniform(-1, 1, size=lead)
    noise = 10 ** rng.uniform(-3, 0.7, size=lead)
    offset = rng.choice([0.0, 3.0, 50.0], size=lead)
    p = rng.normal(size=(count, *shape)) * scale
    q = p + noise * rng.normal(size=p.shape) + offset
    share = rng.choice([0.0, 0.0, 0.3], size=(2, *lead))
    for x, lost in zip((p, q), share):
        x[rng.uniform(size=x.shape) < lost] = -np.inf
    where = rng.uniform(size=p.shape) >= rng.choice([0.0, 0.0, 0.4, 1.0], size=lead)
    return np.asarray(p, dtype), np.asarray(q, dtype), where


def check_random_cases(names, count, seed, checked=None):
    checked = {} if checked is None else checked
    for i, (shape, dtype) in enumerate(CASES):
        with jax.enable_x64(dtype == np.float64):
            p, q, where = random_cases(shape, dtype, count, seed + i)

            def every(p, q, where):
                return [
                    jax.value_and_grad(
                        lambda q, n=n: (
                            lambda d: (jnp.sum(jnp.where(jnp.isinf(d), 0, d)), d)
                        )(kd.divergence(p, q, n, where=where)),
                        has_aux=True,
                    )(q)
                    for n in names
                ]

            found = jax.jit(jax.vmap(every))(p, q, where)
        exact = [np.where(where, np.asarray(x, np.float64), -np.inf) for x in (p, q)]
        side = [references.softmax(x) for x in exact]
        empty = (side[0].sum(-1) == 0) | (side[1].sum(-1) == 0)
        tolerance = 1e-9 if dtype == np.float64 else 3e-5
        for name, ((_, value), gradient) in zip(names, found):
            with np.errstate(over="ignore", invalid="ignore"):
                want = np.where(empty, 0, references.VALUES[name](*side))
            value = np.asarray(value, np.float64)
            # What overflows float32 is infinite there.
            want = np.where(want > 3e38, np.inf, want)
            # NumPy's own difference of probabilities is known to 1e-15 only.
            sure = (want == 0) | (want > 1e-8)
            np.testing.assert_allclose(
                value[sure], want[sure], rtol=tolerance, atol=1e-12, err_msg=name
            )
            gradient = np.asarray(gradient, np.float64)
            assert not np.isnan(gradient).any() and not np.isnan(value).any(), name
            assert (value >= 0).all(), name
            assert (gradient[~where] == 0).all(), name
            checked[name] = checked.get(name, 0) + count
    return checked


def test_random_cases_against_numpy():
    assert check_random_cases(("forward_kl",), 24, 0)["forward_kl"] == 8 * 24


@pytest.mark.slow
def test_ten_thousand_random_cases_against_numpy():
    checked = check_random_cases(kd.names(), 1250, 100)
    assert set(checked) == set(kd.names())
    assert set(checked.values()) == {10_000}
