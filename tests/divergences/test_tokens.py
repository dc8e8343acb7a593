"""Losses of linear heads against float64 NumPy: values, gradients, every option."""

from functools import partial

import chex
import fused
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import kljax.divergences as kd

N, V, D_P, D_Q = 11, 13, 7, 5
RNG = np.random.default_rng(3)
SIDES = {
    "p_hidden": RNG.normal(size=(N, D_P)),
    "p_head": RNG.normal(size=(D_P, V)) * 0.6,
    "p_bias": RNG.normal(size=V),
    "q_hidden": RNG.normal(size=(N, D_Q)),
    "q_head": RNG.normal(size=(D_Q, V)) * 0.6,
    "q_bias": RNG.normal(size=V),
}
WEIGHTS = np.array([0, 0.5, 1, 0, 2, 0, 0, 0, 0, 0, 1.5])
LABELS = RNG.integers(0, V, size=N)
FORWARD, RECOMPUTE = "gradient_in_forward", "recompute"
BOTH = pytest.mark.parametrize("implementation", [FORWARD, RECOMPUTE])
OFTEN_FORWARD = pytest.mark.parametrize(
    "implementation", [FORWARD, pytest.param(RECOMPUTE, marks=pytest.mark.slow)]
)


def close(got, want, relative=1e-6, absolute=1e-9):
    np.testing.assert_allclose(np.asarray(got), want, rtol=relative, atol=absolute)


def logits(side, arrays, cap=None, temperature=1.0):
    z = np.asarray(arrays[f"{side}_hidden"], np.float64) @ arrays[f"{side}_head"]
    return capped(z + arrays.get(f"{side}_bias", 0), cap) / temperature


def capped(z, cap):
    return z if cap is None else cap * np.tanh(z / cap)


def dense(name, arrays, caps=(None, None), temperatures=(1.0, 1.0)):
    p, q = (
        references.softmax(logits(s, arrays, cap, t))
        for s, cap, t in zip("pq", caps, temperatures)
    )
    return references.VALUES[name](p, q)


def dense_gradient(name, arrays, weights, normalizer, caps, temperatures):
    """Of Σ w D / normalizer, through differences in the products' entries."""
    out = {}
    raws = {s: logits(s, arrays) for s in "pq"}
    for i, s in enumerate("pq"):

        def rows(raw, i=i, s=s):
            sides = [
                references.softmax(capped(z, c) / t)
                for z, c, t in zip(
                    (raw if k == s else raws[k] for k in "pq"), caps, temperatures
                )
            ]
            return references.VALUES[name](*sides)

        g = references.gradient(rows, raws[s]) * weights[:, None] / normalizer
        out[f"{s}_hidden"] = g @ arrays[f"{s}_head"].T
        out[f"{s}_head"] = arrays[f"{s}_hidden"].T @ g
        out[f"{s}_bias"] = g.sum(0)
    return out


OFTEN = ("forward_kl", "jensen_shannon", "total_variation")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in OFTEN else [pytest.mark.slow])
        for n in kd.names()
    ],
)
def test_value_and_all_gradients_of_every_divergence(name, x64):
    caps, temperatures = (4.0, 3.0), (1.5, 0.8)
    loss = partial(
        fused.divergence,
        name,
        temperature=temperatures,
        soft_cap=caps,
        normalizer=3.0,
        chunk_size=4,
    )

    @jax.jit
    def both(arrays, weights):
        total = lambda arrays, weights: loss(**arrays, weights=weights)
        return jax.value_and_grad(total, argnums=(0, 1))(arrays, weights)

    value, (gradient, in_weights) = both(SIDES, WEIGHTS)
    rows = dense(name, SIDES, caps, temperatures)
    want = dense_gradient(name, SIDES, WEIGHTS, 3.0, caps, temperatures)
    close(value, (WEIGHTS * rows).sum() / 3)
    close(in_weights, rows / 3)
    for k, g in want.items():
        close(gradient[k], g, 1e-6, 1e-8 * np.abs(g).max())


STACKED = {
    k: np.stack([x, x[::-1]]) if k.endswith("hidden") else x for k, x in SIDES.items()
}


@jax.jit
def rows_of_tokens(one, two, weights):
    each = partial(fused.divergence, "jensen_shannon", reduction="none")
    return each(**two, chunk_size=4), each(**one, chunk_size=2, weights=weights)


@BOTH
def test_reductions_weights_and_leading_axes(implementation, x64):
    rows = dense("jensen_shannon", SIDES)
    mean = partial(fused.divergence, "jensen_shannon", implementation=implementation)
    kept = WEIGHTS > 0

    @jax.jit
    def found(one, two, weights, kept):
        return (
            mean(**one),
            mean(**one, chunk_size=3),
            mean(**one, chunk_size=3, weights=kept),
            mean(**one, weights=weights, normalizer=2.0),
            mean(**two, chunk_size=4),
        )

    want = (
        rows.mean(),
        rows.mean(),
        rows[kept].mean(),
        (WEIGHTS * rows).sum() / 2,
        rows.mean(),
        np.stack([rows, rows[::-1]]),
        WEIGHTS * rows,
    )
    got = (
        *found(SIDES, STACKED, WEIGHTS, kept),
        *rows_of_tokens(SIDES, STACKED, WEIGHTS),
    )
    for x, expected in zip(got, want, strict=True):
        close(x, expected)


@jax.jit
def pulled(head, cotangent):
    rows = lambda head: fused.divergence(
        "forward_kl", **{**SIDES, "q_head": head}, reduction="none", chunk_size=4
    )
    return jax.vjp(rows, head)[1](cotangent)[0]


@BOTH
def test_per_token_cotangents_and_second_order(implementation, x64):
    """Directional second derivatives against differences of NumPy gradients."""
    keys = ("q_hidden", "q_head", "q_bias")
    rng = np.random.default_rng(5)
    direction = {k: rng.normal(size=SIDES[k].shape) for k in keys}
    given = {k: x for k, x in SIDES.items() if k not in keys}

    def total(moved):
        return fused.divergence(
            "forward_kl",
            **given,
            **moved,
            weights=WEIGHTS,
            normalizer=1.0,
            chunk_size=4,
            implementation=implementation,
        )

    at = {k: SIDES[k] for k in keys}
    along = lambda f, x, v: jax.jvp(f, (x,), (v,))[1]
    both = jax.jit(lambda x, v: [along(f, x, v) for f in (total, jax.grad(total))])
    first, second = both(at, direction)

    def numpy_gradient(step):
        moved = {k: SIDES[k] + step * direction.get(k, 0) for k in SIDES}
        one = (1.0, 1.0)
        return dense_gradient("forward_kl", moved, WEIGHTS, 1.0, (None, None), one)

    here = numpy_gradient(0.0)
    close(first, sum((here[k] * direction[k]).sum() for k in keys))
    h = 1e-3
    low, high = numpy_gradient(-h), numpy_gradient(h)
    for k in keys:
        want = (high[k] - low[k]) / (2 * h)
        close(second[k], want, 1e-4, 1e-5 * np.abs(want).max())

    cotangent = rng.normal(size=N)

    want = dense_gradient("forward_kl", SIDES, cotangent, 1.0, (None, None), (1, 1))
    close(pulled(SIDES["q_head"], cotangent), want["q_head"], 1e-6, 1e-8)


@pytest.mark.slow
def test_hessian_in_one_hidden_state(x64):
    arrays = {k: (x[:1] if k.endswith("hidden") else x) for k, x in SIDES.items()}
    total = lambda h: fused.divergence(
        "jensen_shannon", **{**arrays, "q_hidden": h}, implementation="recompute"
    )
    got = jax.jit(jax.hessian(total))(arrays["q_hidden"])[0, :, 0]
    p = references.softmax(logits("p", arrays)[0])
    rows = lambda z: references.jensen_shannon(p, references.softmax(z))
    inner = references.hessian(rows, logits("q", arrays)[0])
    head = arrays["q_head"]
    close(got, head @ inner @ head.T, 1e-5, 1e-7)


def test_parameters_are_traced_swept_and_differentiated(x64):
    loss = partial(fused.divergence, **SIDES, chunk_size=4)

    def at(alpha, temperature, cap):
        return loss("alpha", alpha=alpha, temperature=temperature, soft_cap=cap)

    def numpy(alpha, temperature, cap):
        p, q = (references.softmax(logits(s, SIDES, cap, temperature)) for s in "pq")
        return references.alpha(p, q, alpha).mean()

    chex.clear_trace_counter()
    once = jax.jit(jax.grad(chex.assert_max_traces(at, 1), argnums=(0, 1, 2)))
    h = 1e-5
    for point in ((0.3, 1.2, 5.0), (0.7, 0.9, 2.0)):
        got = once(*point)
        for i, slope in enumerate(got):
            shift = h * np.eye(3)[i]
            low, high = numpy(*(point - shift)), numpy(*(point + shift))
            close(slope, (high - low) / (2 * h), 1e-5, 1e-8)
    sweep = np.array([0.1, 0.5, 0.9])
    got = jax.jit(jax.vmap(lambda a: loss("alpha", alpha=a)))(sweep)
    close(got, [references.alpha(*probabilities(), a).mean() for a in sweep])


def probabilities():
    return tuple(references.softmax(logits(s, SIDES)) for s in "pq")


@OFTEN_FORWARD
def test_vmap_over_problems_with_masks(implementation, x64):
    masks = np.array([WEIGHTS > 0, np.zeros(N, bool), np.ones(N, bool)])

    def total(head, mask):
        arrays = {**SIDES, "q_head": head}
        return fused.divergence(
            "forward_kl",
            **arrays,
            weights=mask,
            chunk_size=4,
            implementation=implementation,
        )

    heads = np.stack([SIDES["q_head"] * s for s in (1.0, 2.0, 0.5)])
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(total)))(heads, masks)
    for value, gradient, head, mask in zip(values, gradients, heads, masks):
        arrays = {**SIDES, "q_head": head}
        total_weight = max(mask.sum(), 1)
        close(value, (dense("forward_kl", arrays) * mask).sum() / total_weight)
        want = dense_gradient(
            "forward_kl", arrays, mask, total_weight, (None, None), (1.0, 1.0)
        )
        close(gradient, want["q_head"], 1e-6, 1e-8)


@BOTH
def test_masked_empty_and_infinite(implementation):
    arrays = {k: np.float32(x) for k, x in SIDES.items()}

    def total(arrays, weights):
        return fused.divergence(
            "forward_kl",
            **arrays,
            weights=weights,
            chunk_size=4,
            implementation=implementation,
        )

    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
    value, gradient = step(arrays, np.zeros(N, np.float32))
    assert float(value) == 0
    for k, g in gradient[0].items():
        assert not np.asarray(g).any(), k
    assert np.isfinite(np.asarray(gradient[1])).all()

    nothing = {k: x[:0] if k.endswith("hidden") else x for k, x in arrays.items()}
    value, gradient = jax.jit(jax.value_and_grad(lambda a: total(a, None)))(nothing)
    assert float(value) == 0 and not np.asarray(gradient["q_head"]).any()
    rows = lambda x: fused.divergence("forward_kl", **x, reduction="none")
    assert jax.eval_shape(rows, nothing).shape == (0,)

    # An outcome that the model lacks: +inf and gradient 0; the masked token is not
    # counted, whatever it is.
    lacking = {**arrays, "q_bias": np.where(np.arange(V) == 2, -np.inf, 0)}
    value, gradient = step(lacking, np.float32(WEIGHTS))
    assert np.isposinf(float(value))
    for g in jax.tree.leaves(gradient):
        assert not np.asarray(g).any() and not np.isnan(np.asarray(g)).any()
    also = {**lacking, "p_bias": lacking["q_bias"]}
    value, gradient = step(also, np.float32(WEIGHTS))
    keep = np.arange(V) != 2
    kept = {k: x[..., keep] if "hidden" not in k else x for k, x in also.items()}
    rows = dense("forward_kl", kept)
    close(value, (WEIGHTS * rows).sum() / WEIGHTS.sum(), 1e-5)
    assert not np.asarray(gradient[0]["q_head"])[:, 2].any()
    assert not np.isnan(np.asarray(gradient[0]["q_bias"])).any()


def test_impossible_outcomes_survive_the_soft_cap():
    bias = np.where(np.arange(V) == 2, -np.inf, 0)
    arrays = {**SIDES, "q_bias": bias, "p_bias": bias}
    arrays = {k: np.float32(x) for k, x in arrays.items()}
    keep = np.arange(V) != 2
    kept = {k: x[..., keep] if "hidden" not in k else x for k, x in arrays.items()}
    total = lambda cap: fused.divergence("forward_kl", **arrays, soft_cap=cap)
    value, slope = jax.jit(jax.value_and_grad(total))(2.0)
    close(value, dense("forward_kl", kept, (2.0, 2.0)).mean(), 1e-5)
    assert np.isfinite(float(slope))


def test_what_a_bias_takes_away_may_hold_anything():
    """A column of a head, of either side; and of hidden states of weight 0."""
    gone = np.arange(V) == 2
    bias = np.where(gone, -np.inf, 0)
    arrays = {k: np.float32(x) for k, x in SIDES.items()}
    arrays |= {"p_bias": np.float32(bias), "q_bias": np.float32(bias)}
    spoiled = {k: x.copy() for k, x in arrays.items()}
    for side in "pq":
        spoiled[f"{side}_head"][:, gone] = np.nan
        spoiled[f"{side}_hidden"][WEIGHTS == 0] = np.nan
    loss = partial(fused.divergence, "forward_kl", weights=WEIGHTS, chunk_size=4)
    both = lambda arrays: jax.value_and_grad(lambda x: loss(**x))(arrays)
    run = jax.jit(both)
    jax.tree.map(lambda x, y: close(x, y, 1e-5, 1e-7), run(spoiled), run(arrays))

    @jax.jit
    def of_logits(arrays):
        p, q = (fused.hidden(dict(arrays), side) for side in "pq")
        sides = (kd.dense_logits(x, WEIGHTS) for x in (p, q))
        return kd.divergence(*sides, "forward_kl")

    rows = np.asarray(of_logits(spoiled))
    close((WEIGHTS * rows).sum() / WEIGHTS.sum(), run(arrays)[0], 1e-5)


def test_vocabularies_that_differ_by_padding(x64):
    wide = {**SIDES, "p_head": np.pad(SIDES["p_head"], ((0, 0), (0, 3)))}
    wide["p_bias"] = np.pad(SIDES["p_bias"], (0, 3), constant_values=-np.inf)
    want = dense("forward_kl", SIDES).mean()
    narrow = {**SIDES, "p_head": SIDES["p_head"][:, :9], "p_bias": SIDES["p_bias"][:9]}
    p = references.softmax(logits("p", narrow))
    q = references.softmax(logits("q", narrow))
    p = np.pad(p, ((0, 0), (0, V - 9)))
    loss = partial(fused.divergence, pad_vocab=True)

    @jax.jit
    def found(wide, narrow):
        names = "forward_kl", "jensen_shannon"
        some = [loss(name, **narrow, chunk_size=4) for name in names]
        return loss("forward_kl", **wide), loss("reverse_kl", **narrow), *some

    of_wide, reverse, forward, jensen_shannon = found(wide, narrow)
    close(of_wide, want)
    close(forward, references.kl(p, q).mean())
    close(jensen_shannon, references.jensen_shannon(p, q).mean())
    assert np.isinf(reverse)  # padding is no outcome of logit 0


def model_side():
    return {k: x for k, x in SIDES.items() if k.startswith("q_")}


@OFTEN_FORWARD
def test_cross_entropy(implementation, x64):
    labels = LABELS.copy()
    labels[[1, 4]] = -100
    q = references.softmax(logits("q", SIDES, 3.0, 1.3))
    rows = -np.log(q[np.arange(N), np.clip(labels, 0, V)])
    counted = (labels >= 0) * WEIGHTS

    def total(model):
        return fused.cross_entropy(
            labels,
            **model,
            temperature=1.3,
            soft_cap=3.0,
            weights=WEIGHTS,
            chunk_size=4,
            implementation=implementation,
        )

    value, gradient = jax.jit(jax.value_and_grad(total))(model_side())
    close(value, (counted * rows).sum() / counted.sum())

    def numpy(raw):
        q = references.softmax(capped(raw, 3.0) / 1.3)
        return -np.log(q[np.arange(N), np.clip(labels, 0, V)])

    g = references.gradient(numpy, logits("q", SIDES)) * counted[:, None]
    g /= counted.sum()
    close(gradient["q_hidden"], g @ SIDES["q_head"].T, 1e-6, 1e-9)
    close(gradient["q_head"], SIDES["q_hidden"].T @ g, 1e-6, 1e-9)
    close(gradient["q_bias"], g.sum(0), 1e-6, 1e-9)


def test_cross_entropy_extremes():
    hidden = np.float32([[1.0], [1.0], [1.0], [1.0]])
    head = np.float32([[30.0, 5.0, 4.0]])
    labels = np.array([0, 3, 2, -1])
    bias = np.float32([0, 0, -np.inf])
    rows = lambda labels, head, bias=None: fused.cross_entropy(
        labels, q_hidden=hidden, q_head=head, q_bias=bias, reduction="none"
    )
    got = np.asarray(jax.jit(rows)(labels, head))
    # A confident prediction keeps its digits; no label 3 exists; −1 is not counted.
    close(got[0], np.log1p(np.exp(-25.0) + np.exp(-26.0)), 1e-5)
    assert np.isnan(got[1]) and got[3] == 0
    with pytest.raises(ValueError, match=r"labels holds 3 at \[1\]: expected 0 to 2"):
        rows(labels, head)
    close(got[2], 26 + np.log1p(np.exp(-25.0) + np.exp(-26.0)), 1e-6)
    labels[1] = 2

    @jax.jit
    def both(head):
        total = lambda head: (jnp.sum(x := rows(labels, head, bias)), x)
        return jax.grad(total, has_aux=True)(head)

    gradient, got = both(head)
    assert np.isinf(np.asarray(got)[1:3]).all()
    assert not np.isnan(np.asarray(gradient)).any()


@OFTEN_FORWARD
def test_mixture_of_cross_entropy_and_divergence(implementation, x64):
    labels = LABELS.copy()
    labels[3] = -1
    t, hard, soft = 2.0, 0.3, 0.7 * 4

    def total(model, hard):
        return fused.divergence(
            "forward_kl",
            labels=labels,
            label_weight=hard,
            divergence_weight=soft,
            **{**SIDES, **model},
            temperature=t,
            chunk_size=4,
            implementation=implementation,
        )

    both = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
    value, (gradient, in_hard) = both(model_side(), hard)
    keep = labels >= 0

    def rows(raw):
        q, cool = references.softmax(raw), references.softmax(raw / t)
        p = references.softmax(logits("p", SIDES) / t)
        cross = -np.log(q[np.arange(N), np.clip(labels, 0, V)])
        return hard * cross + soft * references.kl(p, cool), cross

    raw = logits("q", SIDES)
    close(value, rows(raw)[0][keep].mean())
    close(in_hard, rows(raw)[1][keep].mean())
    g = references.gradient(lambda z: rows(z)[0], raw) * keep[:, None] / keep.sum()
    close(gradient["q_head"], SIDES["q_hidden"].T @ g, 1e-6, 1e-9)
