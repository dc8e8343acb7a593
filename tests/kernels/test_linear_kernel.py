"""The compiled linear losses: products, buffers, memory; bfloat16; what is skipped."""

import re

import fused
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import kljax.divergences as kd
from kljax.kernels.linear import fused as kernel
from kljax.kernels.linear.operands import Operands, Side

MIB = 2**20
KEYS = ("p_hidden", "p_head", "q_hidden", "q_head")


def shapes(n, v, d_p, d_q, dtype=jnp.float32):
    sizes = ((n, d_p), (d_p, v), (n, d_q), (d_q, v))
    return {k: jax.ShapeDtypeStruct(s, dtype) for k, s in zip(KEYS, sizes)}


def compiled(shape, wanted, name="forward_kl", **options):
    """Of the loss, or of its value and gradient in the arguments `wanted`."""

    def loss(moved, given):
        return fused.divergence(name, **moved, **given, **options)

    moved = {k: x for k, x in shape.items() if k in wanted}
    given = {k: x for k, x in shape.items() if k not in wanted}
    function = jax.value_and_grad(loss) if wanted else loss
    return jax.jit(function).lower(moved, given).compile()


def products(program):
    return len(re.findall(r" dot\(|__onednn\$matmul|custom-call.*gemm", program))


SMALL = shapes(64, 48, 24, 16)


@pytest.mark.inspected
@pytest.mark.parametrize(
    "wanted, implementation, expected",
    [
        ((), None, 2),
        (("q_hidden", "q_head"), None, 4),
        (("q_hidden",), None, 3),
        (("q_head",), None, 3),
        (("p_hidden",), None, 3),
        (KEYS, None, 6),
        ((), "recompute", 2),
        (("q_hidden", "q_head"), "recompute", 6),
        (("q_head",), "recompute", 5),
    ],
)
def test_number_of_products_and_no_full_array(wanted, implementation, expected):
    options = {"implementation": implementation, "chunk_size": 16}
    program = compiled(SMALL, wanted, **options).as_text()
    assert products(program) == expected
    # Chunks of 16 tokens: no array holds the logits of more.
    sizes = [
        np.prod([int(n) for n in dims.split(",")])
        for dims in re.findall(r"f32\[([\d,]+)\]", program)
    ]
    assert max(sizes) <= max(64 * 24, 24 * 48) < 64 * 48
    assert 16 * 48 in sizes


@pytest.mark.inspected
def test_memory_is_flat_in_tokens_and_a_25th_of_the_naive():
    temporary = {}
    for n in (2048, 8192):
        program = compiled(shapes(n, 32768, 512, 512), ("q_hidden", "q_head"))
        temporary[n] = program.memory_analysis().temp_size_in_bytes / MIB

    def naive(q, p):
        log_q = jax.nn.log_softmax(q["h"] @ q["w"])
        p = jax.nn.softmax(p["h"] @ p["w"])
        return jnp.mean(jnp.sum(p * (jnp.log(p) - log_q), -1))

    shape = shapes(8192, 32768, 512, 512)
    q, p = ({"h": shape[f"{s}_hidden"], "w": shape[f"{s}_head"]} for s in "qp")
    whole = jax.jit(jax.value_and_grad(naive)).lower(q, p).compile()
    full = whole.memory_analysis().temp_size_in_bytes / MIB
    # All that grows is the gradient itself, once before it is divided by Σ w.
    gradient = (8192 - 2048) * 512 * 4 / MIB
    assert temporary[8192] - temporary[2048] < gradient + 1
    assert temporary[8192] <= full / 25
    assert full >= 3000


@pytest.mark.inspected
def test_forward_mode_and_second_order_keep_to_their_chunks():
    shape = shapes(1024, 8192, 64, 64)
    given = {k: x for k, x in shape.items() if k != "q_hidden"}

    def temporary(n, function):
        hidden = jax.ShapeDtypeStruct((n, 64), jnp.float32)
        others = {**given, "p_hidden": hidden}
        program = jax.jit(function).lower(hidden, hidden, others).compile()
        return program.memory_analysis().temp_size_in_bytes / MIB

    def forward(h, v, given):
        loss = lambda h: fused.divergence(
            "forward_kl", q_hidden=h, **given, implementation="recompute"
        )
        return jax.jvp(loss, (h,), (v,))

    def second(h, v, given):
        loss = lambda h: fused.divergence(
            "forward_kl", q_hidden=h, **given, implementation="recompute"
        )
        return jax.jvp(jax.grad(loss), (h,), (v,))

    for function in (forward, second):
        low, high = (temporary(n, function) for n in (1024, 4096))
        assert high - low < 4 < low, (function, low, high)


@pytest.mark.optimized
def test_bfloat16_gradients_of_a_small_divergence():
    n, v, d = 96, 4096, 128
    rng = np.random.default_rng(0)
    q_hidden = jnp.bfloat16(rng.normal(size=(n, d)))
    p_hidden = jnp.bfloat16(q_hidden + 0.01 * rng.normal(size=(n, d)))
    head = jnp.bfloat16(rng.normal(size=(d, v)) * 0.17)
    wide = [np.float64(x.astype(jnp.float32)) for x in (p_hidden, q_hidden, head)]
    p, q = (references.softmax(h @ wide[2]) for h in wide[:2])
    value = references.jensen_shannon(p, q)
    assert 3e-5 < value.mean() < 7e-5
    m = (p + q) / 2
    log_ratio = np.log(q) - np.log(m)
    g = 0.5 * q * (log_ratio - (q * log_ratio).sum(-1, keepdims=True))
    want = g @ wide[2].T, wide[1].T @ g

    def errors(gradients):
        return [
            np.linalg.norm(np.float64(x.astype(jnp.float32)) - y) / np.linalg.norm(y)
            for x, y in zip(gradients, want)
        ]

    arrays = {"q_hidden": q_hidden, "q_head": head}
    fixed = {"p_hidden": p_hidden, "p_head": head}
    leaves, structure = jax.tree.flatten(kd.JensenShannon())
    sides = Side(q_hidden, head), Side(p_hidden, head)
    parameters = tuple(map(jnp.asarray, leaves))
    given = Operands(*sides, parameters=parameters)
    plan, given = kernel.planned(structure, given, 8)
    wanted = jax.tree.map(lambda _: False, given)._replace(q=Side(True, True))
    found = jax.jit(lambda given: kernel.sum_and_gradient(plan, wanted, given))(given)
    found = jax.tree.leaves(found[1])
    assert {x.dtype for x in found} == {jnp.dtype("float32")}
    # The performance bar: 75 % with logits rounded to bfloat16.
    assert max(errors(found)) <= 2e-3

    def loss(arrays):
        options = {"chunk_size": 8, "implementation": "recompute"}
        return n * fused.divergence("jensen_shannon", **fixed, **arrays, **options)

    total, gradient = jax.jit(jax.value_and_grad(loss))(arrays)
    assert total.dtype == jnp.float32
    assert {x.dtype for x in gradient.values()} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(total, value.sum(), rtol=1e-5)
    # Rounding the result to bfloat16 is 1.7e-3 by itself.
    assert max(errors([gradient[k] for k in arrays])) <= 2.5e-3


def test_float32_head_gradients_do_not_lose_bfloat16_chunks():
    """Twelve chunks whose sum rounds to nothing in bfloat16 keep their parts."""
    n, v, d = 24, 8, 4
    rng = np.random.default_rng(2)
    hidden = np.float32(rng.normal(size=(n, d)))
    arrays = {
        "p_hidden": jnp.bfloat16(hidden + 1),
        "p_head": jnp.bfloat16(rng.normal(size=(d, v))),
        "q_hidden": jnp.bfloat16(hidden),
    }
    head = np.float32(rng.normal(size=(d, v)))

    def loss(head, chunk, implementation):
        return fused.divergence(
            "forward_kl",
            **arrays,
            q_head=head,
            chunk_size=chunk,
            implementation=implementation,
        )

    gradient = jax.jit(jax.grad(loss), static_argnums=(1, 2))
    whole = gradient(head, n, "gradient_in_forward")
    for implementation in ("gradient_in_forward", "recompute"):
        pieces = gradient(head, 2, implementation)
        np.testing.assert_allclose(pieces, whole, rtol=1e-5, atol=1e-7)


def test_masked_chunks_are_not_computed():
    """A target of NaN in masked tokens reaches nothing: their chunks never run."""
    n, c = 64, 16
    rng = np.random.default_rng(4)
    arrays = {k: np.float32(rng.normal(size=x.shape)) for k, x in SMALL.items()}
    mask = np.arange(n) % 4 == 1  # packed, they fill one chunk of four
    poisoned = {**arrays, "p_hidden": np.where(mask[:, None], arrays["p_hidden"], 0)}
    poisoned["p_hidden"][~mask] = np.nan

    def loss(moved, arrays):
        return fused.divergence(
            "forward_kl", **{**arrays, **moved}, weights=mask, chunk_size=c
        )

    step = jax.jit(jax.value_and_grad(loss))
    keys = ("q_hidden", "q_head")
    moved = {k: arrays[k] for k in keys}
    value, gradient = step(moved, poisoned)
    clean, expected = step(moved, arrays)
    np.testing.assert_allclose(value, clean, rtol=1e-6)
    for k in keys:
        np.testing.assert_allclose(gradient[k], expected[k], rtol=1e-5, atol=1e-8)
    assert not np.asarray(gradient["q_hidden"])[~mask].any()


@pytest.mark.inspected
def test_chunks_follow_the_budget_and_are_never_shrunk():
    assert kernel.default_chunk(8192, 32768) == 256
    assert kernel.default_chunk(8192, 128256) == 128
    assert kernel.default_chunk(50, 32768) == 50
    assert kernel.default_chunk(0, 10) == 1
    for chunk, vocab in ((256, 32768), (37, 50), (100, 32768), (1, 128256), (7, 9)):
        shapes_of = (chunk, 2), (2, vocab)
        side = Side(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes_of))
        plan, _ = kernel.planned(None, Operands(side), chunk)
        assert plan.chunk % plan.block == 0
        assert chunk <= plan.chunk < chunk + plan.chunk // plan.block
    # 8519 tokens, a prime: filled up, not cut into tiles of one.
    program = compiled(shapes(8519, 64, 8, 8), (), chunk_size=256).as_text()
    assert "f32[34,256,8]" in program
