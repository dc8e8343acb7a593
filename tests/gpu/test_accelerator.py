"""The kernels on an accelerator, against float64 NumPy: ``pytest -m gpu``.

Left out of the default run. They pass on a CPU as well, and prove nothing new there.
"""

import re

import fused
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import kljax.divergences as kd
from kljax.divergences import samples, transport

pytestmark = pytest.mark.gpu
MIB = 2**20


def close(got, want, relative, absolute=0.0):
    np.testing.assert_allclose(np.asarray(got, np.float64), want, relative, absolute)


def logits(rows=64, width=32768, dtype=jnp.float32):
    """Divergences from 5e-7 to some nats, at offsets up to 1e4; outcomes missing."""
    rng = np.random.default_rng(0)
    scale = np.geomspace(1e-3, 3, rows)[:, None]
    offset = np.resize([0.0, 90.0, 1e4], rows)[:, None]
    p = rng.normal(size=(rows, width)) * 2
    q = p + scale * rng.normal(size=p.shape)
    q += 0 if dtype == jnp.bfloat16 else offset
    lost = rng.uniform(size=p.shape) < 0.1
    p[lost] = q[lost] = -np.inf
    return jnp.asarray(p, dtype), jnp.asarray(q, dtype)


def masses(*logits):
    return [references.softmax(np.asarray(x.astype(jnp.float32), "f8")) for x in logits]


@pytest.mark.parametrize("name", kd.names())
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_of_logits(name, dtype):
    p, q = logits(dtype=dtype)
    got = jax.jit(lambda p, q: kd.divergence(p, q, name))(p, q)
    assert got.dtype == jnp.float32
    close(got, references.VALUES[name](*masses(p, q)), 2e-5)


def test_gradients_of_logits():
    p, q = logits()
    a, b = masses(p, q)
    slopes = jax.jit(
        jax.grad(lambda p, q: jnp.sum(kd.divergence(p, q, "forward_kl")), (0, 1))
    )(p, q)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(a > 0, np.log(a) - np.log(b), 0)
    want = a * (ratio - references.kl(a, b)[:, None]), b - a
    for got, exact in zip(slopes, want):
        error = np.abs(np.asarray(got, np.float64) - exact).sum(-1)
        assert (error <= 2e-5 * np.abs(exact).sum(-1)).all()


def test_rows_are_not_taken_in_blocks():
    """A loop over blocks would be bound by launches; a CPU's cache asks for one."""
    shape = jax.ShapeDtypeStruct((1024, 32768), jnp.bfloat16)
    gradient = jax.grad(lambda q, p: jnp.sum(kd.divergence(p, q, "forward_kl")))
    program = jax.jit(gradient).lower(shape, shape).compile()
    loops = len(re.findall(r" while\(", program.as_text()))
    assert (loops > 0) == (jax.default_backend() == "cpu")


@pytest.mark.parametrize("name", ["forward_kl", "jensen_shannon", "alpha"])
@pytest.mark.parametrize("implementation", ["gradient_in_forward", "recompute"])
def test_linear_heads(name, implementation):
    n, v, d_p, d_q = 96, 4096, 64, 48
    rng = np.random.default_rng(1)
    shapes = {"p": (d_p, 0.3), "q": (d_q, 0.3)}
    arrays = {}
    for side, (width, scale) in shapes.items():
        arrays[f"{side}_hidden"] = np.float32(rng.normal(size=(n, width)))
        arrays[f"{side}_head"] = np.float32(rng.normal(size=(width, v)) * scale)
    weights = np.float32(np.arange(n) % 3)

    def loss(model, target):
        return fused.divergence(
            name,
            **model,
            **target,
            weights=weights,
            chunk_size=40,
            implementation=implementation,
        )

    model = {k: x for k, x in arrays.items() if k[0] == "q"}
    target = {k: x for k, x in arrays.items() if k[0] == "p"}
    # TF32, the usual default for float32 on a GPU, is three digits.
    with jax.default_matmul_precision("highest"):
        value, slope = jax.jit(jax.value_and_grad(loss))(model, target)
    wide = {k: np.float64(x) for k, x in arrays.items()}
    raw = {s: wide[f"{s}_hidden"] @ wide[f"{s}_head"] for s in "pq"}
    p, q = (references.softmax(raw[s]) for s in "pq")
    rows = references.VALUES[name](p, q)
    close(value, (weights * rows).sum() / weights.sum(), 1e-5)
    # Along the gradient itself, by differences of the exact loss.
    along = np.float64(slope["q_head"])
    along /= np.linalg.norm(along)
    step = 1e-4

    def moved(sign):
        head = wide["q_head"] + sign * step * along
        rows = references.VALUES[name](p, references.softmax(wide["q_hidden"] @ head))
        return (weights * rows).sum() / weights.sum()

    want = (moved(1) - moved(-1)) / (2 * step)
    close(np.vdot(slope["q_head"], along), want, 2e-4)


def test_bfloat16_gradients_of_linear_heads():
    n, v, d = 256, 8192, 512
    rng = np.random.default_rng(2)
    q = jnp.bfloat16(rng.normal(size=(n, d)))
    p = jnp.bfloat16(q + 0.01 * rng.normal(size=(n, d)))
    head = jnp.bfloat16(rng.normal(size=(d, v)) * 2 * d**-0.5)
    got = jax.jit(
        jax.grad(
            lambda q, p, head: fused.divergence(
                "jensen_shannon", p_hidden=p, p_head=head, q_hidden=q, q_head=head
            )
        )
    )(q, p, head)
    wide = [np.float64(x.astype(jnp.float32)) for x in (p, q, head)]
    a, b = (references.softmax(h @ wide[2]) for h in wide[:2])
    gap = np.log(b) - np.log((a + b) / 2)
    slope = 0.5 / n * b * (gap - (b * gap).sum(-1, keepdims=True))
    want = slope @ wide[2].T
    error = np.linalg.norm(np.float64(got.astype(jnp.float32)) - want)
    # 1.7e-3 is the rounding of the result; logits in bfloat16 would make it 0.75.
    assert error <= 2.5e-3 * np.linalg.norm(want)


def test_memory_of_linear_heads_does_not_grow_with_tokens():
    def temporary(n):
        shapes = [(n, 512), (512, 32768), (n, 512), (512, 32768)]
        arrays = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in shapes]

        def loss(model, target):
            sides = zip(("q_hidden", "q_head", "p_hidden", "p_head"), (*model, *target))
            return fused.divergence("forward_kl", **dict(sides), chunk_size=1024)

        step = jax.jit(jax.value_and_grad(loss)).lower(arrays[2:], arrays[:2])
        return step.compile().memory_analysis().temp_size_in_bytes / MIB

    few, many = temporary(4096), temporary(4 * 4096)
    assert many - few <= 3 * 12288 * 512 * 4 / MIB


@pytest.mark.parametrize("width", [2, 16])
def test_kernel_densities(width):
    rng = np.random.default_rng(3)
    data, query = rng.normal(size=(5000, width)), rng.normal(size=(700, width)) * 1.5
    bandwidth = 0.4
    got = jax.jit(samples.kde_log_density, static_argnums=2)(
        np.float32(query), np.float32(data), bandwidth
    )
    wide = np.float64(np.float32(query)), np.float64(np.float32(data))
    square = ((wide[0][:, None] - wide[1][None]) ** 2).sum(-1) / bandwidth**2
    top = -0.5 * square.min(-1, keepdims=True)
    sums = np.exp(-0.5 * square - top).sum(-1)
    want = np.log(sums) + top[:, 0] - np.log(len(data))
    want -= width * np.log(bandwidth) + 0.5 * width * np.log(2 * np.pi)
    # With TF32 in the exponent it would be 1e-2 or worse.
    close(got, want, 1e-5, 2e-4)


def test_entropic_transport():
    rng = np.random.default_rng(4)
    n, epsilon = 200, 0.05
    a, b = (rng.dirichlet(np.ones(n)) for _ in range(2))
    x, y = rng.uniform(size=(2, n, 2))
    cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    f = np.zeros(n)
    for _ in range(500):
        g = -epsilon * logsumexp((f[:, None] - cost) / epsilon + np.log(a)[:, None], 0)
        f = -epsilon * logsumexp((g[None] - cost) / epsilon + np.log(b)[None], 1)
    want = a @ f + b @ g
    arrays = [np.float32(z) for z in (a, b, cost)]
    solve = jax.jit(
        lambda a, b, c: transport.sinkhorn(a, b, c, epsilon, iterations=500)
    )
    close(solve(*arrays).value, want, 1e-4)


def logsumexp(x, axis):
    top = x.max(axis=axis, keepdims=True)
    return np.log(np.exp(x - top).sum(axis)) + np.squeeze(top, axis)
