"""Top-k targets of linear losses, and what bad input is told."""

from functools import partial

import fused
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

N, V, D, K = 10, 12, 4, 3
RNG = np.random.default_rng(8)
HIDDEN, HEAD = RNG.normal(size=(N, D)), RNG.normal(size=(D, V))
FULL = references.softmax(RNG.normal(size=(N, V)) * 2)
IDS = np.argsort(-FULL, -1)[:, :K]
LISTED = np.take_along_axis(FULL, IDS, -1)
GIVEN = {"log_p_topk": np.log(LISTED), "ids": IDS, "chunk_size": 4}


def close(got, want, relative=1e-6, absolute=1e-9):
    np.testing.assert_allclose(np.asarray(got), want, rtol=relative, atol=absolute)


def with_tail(x):
    picked = np.take_along_axis(x, IDS, -1)
    return np.concatenate([picked, 1 - picked.sum(-1, keepdims=True)], -1)


def listed(x):
    picked = np.take_along_axis(x, IDS, -1)
    return picked / picked.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    "function, outcomes, name, implementation",
    [
        (fused.topk, with_tail, "forward_kl", "gradient_in_forward"),
        (fused.topk, with_tail, "jensen_shannon", "recompute"),
        (fused.restricted, listed, "reverse_kl", "gradient_in_forward"),
    ],
)
def test_topk_targets(function, outcomes, name, implementation, x64):
    weights = np.arange(N) % 3.0

    def total(hidden, head):
        return function(
            name,
            q_hidden=hidden,
            q_head=head,
            temperature=1.4,
            weights=weights,
            implementation=implementation,
            **GIVEN,
        )

    def rows(raw):
        q = references.softmax(raw / 1.4)
        return references.VALUES[name](outcomes(FULL), outcomes(q))

    value, (in_hidden, in_head) = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(
        HIDDEN, HEAD
    )
    raw = HIDDEN @ HEAD
    close(value, (weights * rows(raw)).sum() / weights.sum())
    g = references.gradient(rows, raw) * weights[:, None] / weights.sum()
    close(in_hidden, g @ HEAD.T, 1e-6, 1e-9)
    close(in_head, HIDDEN.T @ g, 1e-6, 1e-9)


def test_tail_is_a_lower_bound_and_never_negative(x64):
    raw = HIDDEN @ HEAD
    full = references.kl(FULL, references.softmax(raw))
    rows = jax.jit(partial(fused.topk, "forward_kl", reduction="none", **GIVEN))
    rows = np.asarray(rows(q_hidden=HIDDEN, q_head=HEAD))
    assert (rows <= full).all() and (rows >= 0).all()


def test_fused_equals_dense_topk():
    arrays = [np.float32(x) for x in (HIDDEN, HEAD, np.log(LISTED))]
    hidden, head, log_p = arrays

    @jax.jit
    def both(log_p, hidden, head):
        given = {"log_p_topk": log_p, "ids": IDS, "q_hidden": hidden, "q_head": head}
        dense = fused.dense_topk(log_p, IDS, hidden @ head, "reverse_kl")
        return fused.topk("reverse_kl", **given), jnp.mean(dense)

    close(*both(log_p, hidden, head), 1e-5)


SIDES = {
    "p_hidden": np.ones((2, 3, 4), np.float32),
    "p_head": np.ones((4, 6), np.float32),
    "q_hidden": np.ones((2, 3, 5), np.float32),
    "q_head": np.ones((5, 6), np.float32),
}
MODEL = {k: x for k, x in SIDES.items() if k.startswith("q_")}


def loss(**changes):
    name = changes.pop("name", "forward_kl")
    return fused.divergence(name, **{**SIDES, **changes})


@pytest.mark.parametrize(
    "changes, error, words",
    [
        (
            {"q_head": np.ones((4, 6))},
            ValueError,
            "q.states has width 5.*takes 4",
        ),
        ({"p_hidden": np.ones((2, 3, 5))}, ValueError, "p.states has width 5"),
        ({"q_head": np.ones((5, 7))}, ValueError, "6 outcomes and q.head.*pad_vocab"),
        ({"q_head": np.ones((5, 0))}, ValueError, r"q.head must be \[width, vocab\]"),
        ({"q_head": np.ones(5)}, ValueError, r"q.head must be \[width, vocab\]"),
        ({"q_hidden": np.ones(5)}, ValueError, r"\[\.\.\., tokens, width\]"),
        (
            {"q_hidden": np.ones((3, 2, 5))},
            ValueError,
            r"tokens \(2, 3\) and q \(3",
        ),
        (
            {"q_hidden": np.ones((2, 3, 5), int)},
            TypeError,
            "q.states must be .*int",
        ),
        ({"p_head": np.ones((4, 6), int)}, TypeError, "p.head must be .*int"),
        ({"q_bias": np.ones(5)}, ValueError, r"q.bias must be \[vocab\] = \(6,\)"),
        (
            {"weights": np.ones((3, 2))},
            ValueError,
            r"\(2, 3\), one .* \(3, 2\)",
        ),
        ({"weights": np.ones((2, 3), complex)}, TypeError, "weights must be real"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1.*got 0"),
        ({"chunk_size": -8}, ValueError, "chunk_size must be at least 1"),
        ({"chunk_size": 2.0}, TypeError, "chunk_size must be an int"),
        ({"chunk_size": True}, TypeError, "chunk_size must be an int"),
        ({"temperature": 0.0}, ValueError, "temperature must be positive, got 0.0"),
        ({"temperature": (1, 2, 3)}, ValueError, "temperature.*pair"),
        ({"temperature": np.ones(3)}, ValueError, "temperature must be a number"),
        ({"soft_cap": (None, -3.0)}, ValueError, "q.soft_cap must be positive"),
        ({"normalizer": 0}, ValueError, "normalizer must be positive"),
        ({"normalizer": np.ones(3)}, ValueError, "normalizer must be a number"),
        ({"reduction": "sum"}, ValueError, "unknown reduction 'sum'; known"),
        ({"implementation": "fast"}, ValueError, "unknown implementation 'fast'"),
        (
            {"implementation": "gradient_in_forward", "reduction": "none"},
            ValueError,
            "needs reduction='mean'",
        ),
        ({"reduction": "none", "normalizer": 2.0}, ValueError, "normalizer needs"),
        ({"name": "klx"}, ValueError, "unknown divergence 'klx'; "),
        ({"alpha": 0.3}, TypeError, "no parameter"),
    ],
)
def test_bad_input_is_told_what_is_wrong(changes, error, words):
    with pytest.raises(error, match=words):
        loss(**changes)


def test_bad_labels_and_lists():
    cross = partial(fused.cross_entropy, **MODEL)
    with pytest.raises(TypeError, match="labels must be integers"):
        cross(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"labels must be \(2, 3\)"):
        cross(np.ones((3,), int))
    with pytest.raises(ValueError, match="one per token"):
        cross(np.ones((2, 3, 1), int))
    with pytest.raises(TypeError, match="unexpected keyword"):
        cross(np.ones((2, 3), int), p_hidden=SIDES["p_hidden"])
    top = partial(fused.topk, "forward_kl", **MODEL)
    log_p, ids = np.zeros((2, 3, 2), np.float32), np.zeros((2, 3, 2), int)
    with pytest.raises(TypeError, match=r"p\.ids must be integers"):
        top(log_p_topk=log_p, ids=log_p)
    with pytest.raises(ValueError, match="must both be the tokens'"):
        top(log_p_topk=log_p, ids=ids[..., :1])
    with pytest.raises(ValueError, match="between 1 and 6"):
        top(log_p_topk=np.zeros((2, 3, 7), np.float32), ids=np.zeros((2, 3, 7), int))
    with pytest.raises(ValueError, match="label_weight must be a number"):
        fused.divergence(
            "forward_kl",
            labels=np.ones((2, 3), int),
            label_weight=np.ones(2),
            divergence_weight=1.0,
            **SIDES,
        )
