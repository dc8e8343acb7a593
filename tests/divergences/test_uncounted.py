"""Random ids, masks and NaNs: what has no weight changes nothing, what has shows."""

from functools import partial

import fused
import jax
import jax.numpy as jnp
import numpy as np
import references

import kljax.divergences as kd
from kljax.objectives.distillation import sequence_level_loss

CASES, N, D, V, K = 5000, 4, 3, 5, 2
KINDS = ("state", "label", "twice", "outside", "logits", "list")
SEES = {
    "divergence": ("state",),
    "cross_entropy": ("state", "label"),
    "lists": ("state", "twice", "outside", "logits", "list"),
    "renormalized": ("state", "twice", "outside", "list"),
    "dense lists": ("state", "twice", "outside", "logits", "list"),
    "dense labels": ("state", "label"),
}


def random_cases(rng):
    normal = lambda *shape: np.float32(rng.normal(size=(CASES, *shape)))
    p_hidden, p_head = normal(N, D), normal(D, V)
    ids = rng.permuted(np.broadcast_to(np.arange(V), (CASES, N, V)), axis=-1)[..., :K]
    full = references.softmax(np.float64(p_hidden @ p_head))
    weights = np.float32(rng.uniform(0.5, 2, (CASES, N)))
    weights[rng.uniform(size=weights.shape) < 0.5] = 0
    weights[:, 0] = 1
    return {
        "q_hidden": normal(N, D),
        "q_logits": normal(N, V),
        "p_hidden": p_hidden,
        "log_p": np.float32(np.log(np.take_along_axis(full, ids, -1))),
        "labels": np.int32(rng.integers(0, V, (CASES, N))),
        "ids": np.int32(ids),
        "weights": weights,
        "p_head": p_head,
        "q_head": normal(D, V),
    }


def spoiled(rng, cases, where, kinds):
    """Junk of a kind, an index of `KINDS` by token, in the tokens of `where`."""
    found = {k: x.copy() for k, x in cases.items()}
    at = lambda kind: where & (kinds == KINDS.index(kind))
    junk = np.float32([np.nan, np.inf, -np.inf, 3e38])
    counts = (found["weights"] > 0)[..., None]
    for k in ("q_hidden", "q_logits", "p_hidden"):
        some = at("state")[..., None] & (rng.uniform(size=found[k].shape) < 0.5)
        some |= at("state")[..., None] & (np.arange(found[k].shape[-1]) == 0)
        drawn = rng.choice(junk, found[k].shape)
        found[k] = np.where(some, np.where(counts, np.nan, drawn), found[k])
    wrong = rng.choice(np.int32([V, V + 3, 2**31 - 1]), (CASES, N))
    found["labels"] = np.where(at("label"), wrong, found["labels"])
    ids = found["ids"]
    ids[..., 1] = np.where(at("twice"), ids[..., 0], ids[..., 1])
    either = np.where(rng.uniform(size=wrong.shape) < 0.5, wrong, -1 - wrong)
    ids[..., 1] = np.where(at("outside"), either, ids[..., 1])
    found["log_p"] = found["log_p"] + 12 * at("logits")[..., None].astype("f4")
    found["log_p"][..., 0] = np.where(at("list"), np.nan, found["log_p"][..., 0])
    return found


def model(c):
    return {k: c[k] for k in ("q_hidden", "q_head", "weights")} | {"chunk_size": 2}


def lists(c):
    return {"log_p_topk": c["log_p"], "ids": c["ids"]}


LOSSES = {
    "divergence": lambda c: fused.divergence(
        "jensen_shannon", p_hidden=c["p_hidden"], p_head=c["p_head"], **model(c)
    ),
    "cross_entropy": lambda c: fused.cross_entropy(
        c["labels"], **model(c), implementation="recompute"
    ),
    "lists": lambda c: fused.topk("forward_kl", **lists(c), **model(c)),
    "renormalized": lambda c: fused.restricted("reverse_kl", **lists(c), **model(c)),
    "dense lists": lambda c: (
        jnp.sum(
            fused.dense_topk(
                c["log_p"], c["ids"], c["q_logits"], "reverse_kl", weights=c["weights"]
            )
        )
        / jnp.sum(c["weights"])
    ),
    "dense labels": lambda c: sequence_level_loss(
        kd.Logits(c["q_logits"]), c["labels"], weights=c["weights"], reduction="mean"
    )[0],
}


@partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
@jax.vmap
def values_and_gradients(case):
    moving = {k: case.pop(k) for k in ("q_hidden", "q_logits", "q_head", "p_hidden")}
    found = {
        name: jax.value_and_grad(lambda moving, f=f: f(case | moving))(moving)
        for name, f in LOSSES.items()
    }
    return {k: x[0] for k, x in found.items()}, {k: x[1] for k, x in found.items()}


def exact(case):
    """Float64 NumPy, by loss."""
    c = {k: np.asarray(x, np.float64) for k, x in case.items()}
    soft = references.softmax
    q, dense = soft(c["q_hidden"] @ c["q_head"]), soft(c["q_logits"])
    p = soft(c["p_hidden"] @ c["p_head"])
    pick = lambda x, at: np.take_along_axis(x, np.int64(at), -1)
    rest = lambda x: np.concatenate([x, 1 - x.sum(-1, keepdims=True)], -1)
    listed = lambda x: pick(x, case["ids"])
    only = lambda x: x / x.sum(-1, keepdims=True)
    masses, label = np.exp(c["log_p"]), case["labels"][..., None]
    rows = {
        "divergence": references.jensen_shannon(p, q),
        "cross_entropy": -np.log(pick(q, label))[..., 0],
        "lists": references.kl(rest(masses), rest(listed(q))),
        "renormalized": references.reverse_kl(only(masses), only(listed(q))),
        "dense lists": references.reverse_kl(rest(masses), rest(listed(dense))),
        "dense labels": -np.log(pick(dense, label))[..., 0],
    }
    total = c["weights"].sum(-1)
    return {k: (c["weights"] * x).sum(-1) / total for k, x in rows.items()}


def test_ten_thousand_patterns_of_what_counts_and_what_does_not():
    rng = np.random.default_rng(5)
    clean = random_cases(rng)
    kinds = rng.integers(0, len(KINDS), (CASES, N))
    values, slopes = values_and_gradients(dict(clean))
    for name, want in exact(clean).items():
        np.testing.assert_allclose(values[name], want, 2e-4, 1e-5, err_msg=name)
    # Junk wherever the weight is 0: no value and no gradient moves.
    dirty = spoiled(rng, clean, clean["weights"] == 0, kinds)
    found = values_and_gradients(dict(dirty))
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        found,
        (values, slopes),
    )
    # One token more that counts: NaN where the loss sees it, else nothing.
    counted = np.zeros((CASES, N), bool)
    counted[
        np.arange(CASES), (rng.uniform(size=(CASES, N)) * clean["weights"]).argmax(1)
    ] = True
    kind = kinds[counted]
    values_too, slopes_too = values_and_gradients(
        dict(spoiled(rng, dirty, counted, kinds))
    )
    for name, sees in SEES.items():
        hit = np.isin(kind, [KINDS.index(k) for k in sees])
        assert np.isnan(values_too[name])[hit].all(), name
        np.testing.assert_allclose(
            values_too[name][~hit], values[name][~hit], 1e-4, 1e-5
        )
        own = "q_logits" if name.startswith("dense") else "q_hidden"
        moved = np.asarray(slopes_too[name][own])
        assert np.isnan(moved[counted])[hit].all(), name
        assert np.isfinite(moved[~counted]).all(), name
        np.testing.assert_allclose(moved[~hit], slopes[name][own][~hit], 1e-4, 1e-5)
        if own == "q_hidden":
            assert (
                np.isnan(np.asarray(slopes_too[name]["q_head"])[hit]).any((1, 2)).all()
            )
