"""Lists of a confident teacher: the tail at any size, from float64 references."""

from functools import partial

import fused
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import kljax.divergences as kd
from kljax.objectives.distillation import distillation_loss

V = 5
TAILS = np.array([10.0**-i for i in range(1, 13)])
MODEL = np.log([0.6, 0.2, 0.1, 0.06, 0.04])
Q = np.float32(np.broadcast_to(MODEL, (len(TAILS) + 1, V)))
# The singular ones; the others see a small tail less.
STEEP = ("forward_kl", "reverse_kl", "neyman_chi2")


def coarse(x, k, tail=None):
    rest = 1 - x[..., :k].sum(-1) if tail is None else tail
    return np.concatenate([x[..., :k], rest[..., None]], -1)


def ids(k):
    return np.broadcast_to(np.arange(k), (len(Q), k))


def close(got, want, relative=2e-5):
    scale = np.abs(want).max(axis=tuple(range(1, want.ndim)), keepdims=True)
    assert (np.abs(np.asarray(got) - want) <= relative * scale + 1e-6).all()


def lists(log_p, ids, name, q, **options):
    return fused.dense_topk(log_p, ids, q, name, **options)


def rows_and_slopes(function, names):
    """Values, and gradients in the model's logits, of every name; one program."""

    def of(name, q):
        rows = function(name, q)
        return jnp.sum(rows), rows

    both = {n: jax.value_and_grad(lambda q, n=n: of(n, q), has_aux=True) for n in names}
    run = lambda q: {n: f(q) for n, f in both.items()}
    found = jax.jit(run)(Q)
    return {n: (rows, slope) for n, ((_, rows), slope) in found.items()}


def test_one_outcome_with_a_tail_of_any_size():
    log_p = np.float32(np.append(np.log1p(-TAILS), 0)[:, None])
    given = -np.expm1(np.float64(log_p[:-1, 0]))
    p = coarse(np.exp(np.float64(log_p[:-1])), 1, given)
    found = rows_and_slopes(partial(lists, log_p, ids(1)), kd.names())
    for name, (rows, slope) in found.items():
        of = lambda z, f=references.VALUES[name]: f(p, coarse(references.softmax(z), 1))
        close(rows[:-1], of(np.float64(Q[:-1])))
        close(slope[:-1], references.gradient(of, Q[:-1]), 1e-4)
        # What is lost to rounding is as much as rounding hides, and no infinity.
        assert np.isfinite(rows[-1]) and np.isfinite(slope[-1]).all(), name
        assert slope[-1, 0] < 0 or name == "total_variation", name
    lost = found["reverse_kl"][0][-1]
    close(
        lost[None],
        references.reverse_kl(
            coarse(np.array([[1.0]]), 1, np.array([2.0**-24])), np.array([[0.6, 0.4]])
        ),
    )


def test_lists_in_bfloat16_and_lists_of_everything():
    """A tail that rounding makes is none: neither here nor there is it infinite."""
    base = np.array([0.9, 0.06, 0.04])
    p = np.append(np.log1p(-TAILS), 0)[:, None] + np.log(base)
    narrow = p.astype(jnp.bfloat16)
    whole = np.log(references.softmax(np.float64(Q[:, ::-1]))).astype(jnp.bfloat16)
    head = {"q_head": np.eye(V, dtype=np.float32), "reduction": "none"}

    def every_form(name, q):
        some = {"log_p_topk": narrow, "ids": ids(3), "q_hidden": q, **head}
        every = {"log_p_topk": whole, "ids": ids(V), "q_hidden": q, **head}
        return jnp.stack([
            fused.dense_topk(narrow, ids(3), q, name),
            fused.topk(name, **some),
            fused.restricted(name, **some),
            fused.dense_topk(whole, ids(V), q, name),
            fused.topk(name, **every),
        ])  # fmt: skip

    listed = np.exp(np.float64(narrow))
    hidden = 2.0**-7 * (listed * -np.log(listed)).sum(-1)
    full, q = references.softmax(np.float64(whole)), references.softmax(np.float64(Q))
    only = lambda x: x[..., :3] / x[..., :3].sum(-1, keepdims=True)
    for name, (rows, slope) in rows_and_slopes(every_form, STEEP[1:]).items():
        value = references.VALUES[name]
        assert np.isfinite(rows).all() and np.isfinite(slope).all(), name
        assert (np.asarray(rows) >= 0).all() and np.abs(slope).min(-1).max() > 0
        close(rows[2], value(only(listed), only(q)))
        for i in (3, 4):
            close(rows[i], value(full, q))
        # The least divergence that rounding allows, or that of the tail as given.
        rest = 1 - listed.sum(-1)
        tail = np.where(rest > hidden, rest, np.clip(hidden, 2.0**-8, 0.1))
        p = coarse(listed, 3, tail)
        want = value(p / p.sum(-1, keepdims=True), coarse(q, 3))
        close(rows[0], want, 2e-4)
        close(rows[1], want, 2e-4)


@pytest.mark.optimized
def test_a_tail_that_is_given_keeps_its_digits():
    log_p = np.float32(np.log1p(-TAILS)[:, None] + np.log([0.5, 0.3, 0.2]))
    p = np.exp(np.log1p(-TAILS)[:, None] + np.log([0.5, 0.3, 0.2]))
    p, q = coarse(p, 3, TAILS), coarse(references.softmax(np.float64(Q[:-1])), 3)
    tail = np.float32(np.log(TAILS))
    found = jax.jit(
        lambda q: {
            n: fused.dense_topk(log_p, ids(3)[:-1], q, n, log_tail=tail) for n in STEEP
        }
    )(Q[:-1])
    for name, rows in found.items():
        close(rows, references.VALUES[name](p, q))


def test_a_confident_teachers_stored_list_has_the_full_divergence():
    z = np.float32([[[30, 0, -1, -2, -3]]])  # a tail of 1e-13

    @jax.jit
    def of_stored(z, q):
        stored = kd.top_outcomes(kd.Logits(z), 1)
        return distillation_loss(stored, kd.Logits(q), divergence="reverse_kl")[0]

    loss = of_stored(z, Q[None, :1])
    p = coarse(references.softmax(np.float64(z[0])), 1)
    p[..., 1] = references.softmax(np.float64(z[0]))[..., 1:].sum(-1)
    close(
        loss, references.reverse_kl(p, coarse(references.softmax(np.float64(Q[:1])), 1))
    )
