"""The linear divergence over a simulated mesh equals that of one device."""

import re

import fused
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

N, V, D_P, D_Q = 26, 21, 6, 5  # neither axis divides tokens or vocabulary
RNG = np.random.default_rng(11)
SIDES = {
    "p_hidden": RNG.normal(size=(N, D_P)),
    "p_head": RNG.normal(size=(D_P, V)),
    "p_bias": RNG.normal(size=V),
    "q_hidden": RNG.normal(size=(N, D_Q)),
    "q_head": RNG.normal(size=(D_Q, V)),
    "q_bias": RNG.normal(size=V),
}
SIDES = {k: np.float32(x) for k, x in SIDES.items()}
AUTO = (jax.sharding.AxisType.Auto,) * 2


def mesh(shape=(2, 2)):
    return jax.make_mesh(shape, ("data", "model"), axis_types=AUTO)


def close(got, want, relative, absolute=0.0):
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), relative, absolute)


def sharded(name, arrays, axes=("data", "model"), shape=(2, 2), **options):
    token, vocab = axes
    return fused.divergence(
        name,
        mesh=mesh(shape),
        token_axis=token,
        vocab_axis=vocab,
        **arrays,
        **options,
    )


@pytest.mark.parametrize(
    "name, axes, shape",
    [
        ("forward_kl", ("data", "model"), (2, 2)),
        ("jensen_shannon", ("data", "model"), (1, 4)),
        pytest.param("alpha", (None, "model"), (1, 2), marks=pytest.mark.slow),
        pytest.param("reverse_kl", ("data", None), (4, 1), marks=pytest.mark.slow),
    ],
)
def test_value_and_gradients_equal_one_device(name, axes, shape):
    weights = np.float32(np.arange(N) % 3) * (np.arange(N) < 20)
    options = {"temperature": 1.3, "soft_cap": 5.0, "chunk_size": 4}

    def both(function):
        def loss(arrays, weights):
            return function(arrays, weights)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(SIDES, weights)

    value, gradient = both(
        lambda arrays, w: sharded(name, arrays, axes, shape, weights=w, **options)
    )
    want, expected = both(
        lambda arrays, w: fused.divergence(name, **arrays, weights=w, **options)
    )
    close(value, want, 1e-6)
    for got, exact in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected)):
        close(got, exact, 1e-4, 1e-6 * np.abs(exact).max())


@pytest.mark.optimized
def test_digits_of_a_small_divergence_survive_the_exchange():
    """Against float64 NumPy, with logits that are the heads themselves."""
    n, v = 8, 4096
    base = RNG.normal(size=(n, v)) * 2
    # Half of the outcomes are all but impossible: the states differ by e^20.
    base[: n // 2, : v // 2] -= 20
    noise = RNG.normal(size=(n, v)) * np.geomspace(1e-3, 0.3, n)[:, None]
    p, q = np.float32(base), np.float32(base + noise + 90)
    arrays = {"p_hidden": np.eye(n), "p_head": p, "q_hidden": np.eye(n), "q_head": q}
    arrays = {k: np.float32(x) for k, x in arrays.items()}
    exact = [references.softmax(x) for x in (p, q)]

    def each(weights, name):
        return sharded(name, arrays, weights=weights, normalizer=1.0, chunk_size=3)

    for name in ("jensen_shannon",):
        # The gradient in a token's weight is the token's value.
        rows = jax.jit(jax.grad(each), static_argnums=1)(np.ones(n, np.float32), name)
        want = references.VALUES[name](*exact)
        assert want.min() < 1e-6
        close(rows, want, 1e-5)


def test_missing_outcomes_and_infinite_tokens():
    lacking = np.where(np.arange(V) > 14, -np.inf, 0).astype(np.float32)
    arrays = {**SIDES, "q_bias": lacking}
    for name, changed in (
        ("jensen_shannon", arrays),
        ("forward_kl", {**arrays, "p_bias": lacking}),
    ):
        loss = jax.jit(jax.value_and_grad(lambda x, name=name: sharded(name, x)))
        value, gradient = loss(changed)
        single = lambda arrays, name=name: fused.divergence(name, **arrays)
        want, expected = jax.jit(jax.value_and_grad(single))(changed)
        close(value, want, 2e-6)
        for k in gradient:
            close(gradient[k], expected[k], 1e-4, 1e-6)
    assert np.isposinf(loss(arrays)[0])


@pytest.mark.inspected
@pytest.mark.parametrize("name, reductions", [("forward_kl", 6)])
def test_collectives_of_the_compiled_program(name, reductions):
    """A few numbers a token and chunk; nothing as long as a head."""
    n, v, c = 64, 512, 16
    sides = {
        "p_hidden": (n, 8),
        "p_head": (8, v),
        "q_hidden": (n, 8),
        "q_head": (8, v),
    }
    shapes = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in sides.items()}
    specs = {
        k: jax.sharding.NamedSharding(
            mesh(), jax.P("data") if k.endswith("hidden") else jax.P(None, "model")
        )
        for k in shapes
    }

    def loss(model, target):
        return sharded(name, {**model, **target}, chunk_size=c)

    model = {k: x for k, x in shapes.items() if k[0] == "q"}
    target = {k: x for k, x in shapes.items() if k[0] == "p"}
    program = (
        jax.jit(
            jax.value_and_grad(loss),
            in_shardings=({k: specs[k] for k in model}, {k: specs[k] for k in target}),
        )
        .lower(model, target)
        .compile()
        .as_text()
    )
    found = re.findall(r"f32\[([\d,]*)\][^=]*? (all-\w+|collective-\w+)\(", program)
    assert {kind for _, kind in found} == {"all-reduce"}
    for dims, kind in found:
        size = np.prod([int(x) for x in dims.split(",") if x])
        # The head's gradient, split by outcomes, is summed over the tokens once.
        assert size <= max(8 * v // 2, n * 8), (dims, kind)
    assert "f32[8,512]" not in " ".join(f"f32[{d}]" for d, k in found)
    assert len(found) <= reductions, found


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_every_derivative_equals_one_device(reduction):
    """Temperature, soft-cap, parameter; and the second order, forward over reverse."""
    tangent = np.float32(RNG.normal(size=(D_Q, V)))

    def both(function):
        def loss(head, temperature, cap, alpha):
            arrays = {**SIDES, "q_head": head}
            found = function(
                "alpha", arrays, temperature=temperature, soft_cap=cap, alpha=alpha,
                reduction=reduction, chunk_size=8,
            )  # fmt: skip
            return jnp.sum(jnp.sin(1.0 + jnp.arange(found.size)) * jnp.ravel(found))

        point = SIDES["q_head"], np.float32(1.3), np.float32(4), np.float32(0.3)
        gradient = jax.grad(loss, argnums=(0, 1, 2, 3))
        moved = tangent, *(np.float32(x) for x in (0.3, 0.2, 0.1))
        second = lambda at, v: jax.jvp(gradient, at, v)
        return jax.jit(second)(point, moved)

    got = both(sharded)
    want = both(lambda name, arrays, **options: fused.divergence(
        name, **arrays, **options
    ))  # fmt: skip
    for x, exact in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        close(x, exact, 2e-4, 2e-5 * np.abs(exact).max())


def test_what_is_not_offered_raises():
    loss = lambda h: sharded("forward_kl", {**SIDES, "q_hidden": h})
    with pytest.raises(ValueError, match="vocab_axis needs two Hidden sides"):
        sharded("forward_kl", SIDES, labels=np.zeros(N, int), label_weight=0.5)
    with pytest.raises(ValueError, match="vocab_axis 'expert' is not an axis"):
        sharded("forward_kl", SIDES, axes=("data", "expert"))
    with pytest.raises(ValueError, match="are both 'data'"):
        sharded("forward_kl", SIDES, axes=("data", "data"))
    tangent = np.float32(RNG.normal(size=(N, D_Q)))
    single = lambda h: fused.divergence("forward_kl", **{**SIDES, "q_hidden": h})
    got, want = jax.jit(
        lambda h, v: [jax.jvp(f, (h,), (v,))[1] for f in (loss, single)]
    )(SIDES["q_hidden"], tangent)
    close(got, want, 1e-4, 1e-6)


def test_what_does_not_count_and_a_nan_that_does():
    weights = np.float32(np.arange(N) % 3)
    junk = {k: SIDES[k].copy() for k in ("p_hidden", "q_hidden")}
    junk["q_hidden"][::3] = [[np.nan], [np.inf], [3e38]] * 3
    junk["p_hidden"][0] = -np.inf

    @jax.jit
    def loss(arrays):
        whole = lambda arrays: sharded(
            "forward_kl", arrays, weights=weights, chunk_size=4
        )
        return jax.value_and_grad(whole)(arrays)

    value, gradient = loss(SIDES)
    got, slopes = loss(SIDES | junk)
    close(got, value, 1e-6)
    jax.tree.map(lambda x, y: close(x, y, 1e-5, 1e-7), slopes, gradient)
    junk["q_hidden"][7] = np.nan
    broken, slopes = loss(SIDES | junk)
    assert np.isnan(broken) and np.isnan(slopes["q_head"]).all()
    assert np.isnan(slopes["q_hidden"][7]).all()
    assert np.isfinite(np.delete(slopes["q_hidden"], 7, axis=0)).all()
    # One column of a head: a device sees it, and all have to hear of it.
    head = SIDES["q_head"].copy()
    head[0, -1] = np.nan
    broken, slopes = loss(SIDES | {"q_head": head})
    assert np.isnan(broken) and np.isnan(slopes["q_bias"]).all()
