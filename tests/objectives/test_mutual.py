"""Mutual distillation: the gate, both gradients, and what it is where it is reduced."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from kljax.divergences import label_cross_entropy
from kljax.objectives.mutual import balance, bd_kd, mutual_loss
from kljax.training import Loss, Player, init_state, make_step

DML = np.array([[1.0, 0.0], [1.0, 0.0]])
RNG = np.random.default_rng(0)
B, V, T = 7, 5, 3.0
LABELS = RNG.integers(0, 3, B)


def logits(scale=1.0, dtype=np.float32):
    return (scale * RNG.normal(size=(B, V))).astype(dtype)


def by_numpy(peer, own, y, weights, coupling, temperature):
    """A transcription of the loss, an example at a time."""
    out = []
    for z_p, z_q, label in zip(np.float64(peer), np.float64(own), y):
        log_p, log_q = (special.log_softmax(z / temperature) for z in (z_p, z_q))
        p, q = np.exp(log_p), np.exp(log_q)
        gap = -(p * log_p).sum() + (q * log_q).sum()
        d, n = weights[1] if gap > 0 else weights[0]
        kls = (p * (log_p - log_q)).sum(), (q * (log_q - log_p)).sum()
        soft = d * kls[0] + n * kls[1]
        hard = -special.log_softmax(z_q)[label]
        out.append(hard + coupling * temperature**2 * soft)
    return np.array(out)


numpys = jax.jit(functools.partial(mutual_loss, coupling=0.7, temperature=T))


@pytest.mark.parametrize("weights", [bd_kd(2.0, 3.0), bd_kd()[::-1], DML])
def test_the_loss_is_that_of_numpy(weights):
    peer, own = logits(2.0), logits(3.0)
    found, metrics = numpys(peer, own, LABELS, weights)
    expected = by_numpy(peer, own, LABELS, np.asarray(weights), 0.7, T)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert 0 < metrics["mutual/confident"].sum() < B  # both cases are there
    several, _ = numpys(np.stack([peer, own, -own]), own, LABELS, weights)
    one_by_one = [numpys(p, own, LABELS, weights)[0] for p in (peer, own, -own)]
    np.testing.assert_allclose(several, np.mean(one_by_one, axis=0), rtol=1e-6)


@pytest.mark.parametrize("dtype, within", [(np.float64, 1e-6), (np.float32, 1e-5)])
def test_gradients_of_both_divergences(dtype, within):
    """T dFKL/dz = q - p, T dRKL/dz = q (log(q/p) - RKL)."""
    with jax.enable_x64(dtype is np.float64):
        peer, own = logits(2.0, dtype), logits(2.0, dtype)

        def soft(own, weights):
            hard, soft = (
                mutual_loss(peer, own, LABELS, weights, coupling=a, temperature=T)[0]
                for a in (0.0, 1.0)
            )
            return jnp.sum(soft - hard) / T

        log_p, log_q = (special.log_softmax(np.float64(z) / T, 1) for z in (peer, own))
        p, q = np.exp(log_p), np.exp(log_q)
        reverse = (q * (log_q - log_p)).sum(1, keepdims=True)
        slope = jax.jit(jax.grad(soft))
        np.testing.assert_allclose(slope(own, DML), q - p, atol=within)
        np.testing.assert_allclose(
            slope(own, 1 - DML), q * (log_q - log_p - reverse), atol=within
        )


def test_divergences_are_not_negative_and_finite_at_large_logits():
    own = logits()
    loss = jax.jit(mutual_loss)
    _, same = loss(own, own + 3, LABELS, bd_kd())
    _, near = loss(own, own * (1 + 1e-4), LABELS, bd_kd())
    for name in ("mutual/forward_kl", "mutual/reverse_kl"):
        np.testing.assert_allclose(same[name], 0, atol=1e-7)
        assert (near[name] >= -1e-7).all()
    wild = 1e4 * np.sign(logits())
    value, slope = jax.value_and_grad(
        lambda z: loss(wild[::-1], z, LABELS, bd_kd())[0].sum()
    )(wild)
    assert np.isfinite(value) and np.isfinite(slope).all()


def test_what_no_weight_asks_for_may_be_infinite():
    """The peer rules an outcome out: reverse KL is infinite, mutual learning is not."""
    peer = np.array([[0.0, 1.0, -np.inf]], np.float32)
    loss = jax.jit(
        jax.value_and_grad(lambda z, w: mutual_loss(peer, z, LABELS[:1], w)[0].sum())
    )
    flat = np.zeros((1, 3), np.float32)
    value, slope = loss(flat, DML)
    assert np.isfinite(value) and np.isfinite(slope).all()
    assert np.isinf(loss(flat, bd_kd())[0])


def test_the_gate_by_its_truth_table():
    flat, sharp = np.zeros(3, np.float32), np.array([0, 0, 4], np.float32)
    peer, own = (
        np.stack([flat, sharp, sharp, flat]),
        np.stack([sharp, flat, sharp, flat]),
    )
    rule = jax.jit(balance)
    d, n = rule(peer, own, bd_kd(3.0, 2.0))
    # The student is more confident, less, equal, equal: ties sharpen.
    assert d.tolist() == [3, 1, 1, 1] and n.tolist() == [1, 2, 2, 2]
    d, n = rule(peer, own, bd_kd(3.0, 2.0), sharpness=1.5)
    gap = special.entr(special.softmax(peer, 1)).sum(1)
    gap -= special.entr(special.softmax(own, 1)).sum(1)
    s = special.expit(1.5 * gap)
    np.testing.assert_allclose(d, 1 + 2 * s, rtol=1e-5)
    np.testing.assert_allclose(n, 1 + (1 - s), rtol=1e-5)


def test_the_gate_passes_no_gradient():
    peer, own = logits(), logits()

    @jax.jit
    def slopes(peer, own):
        both = lambda *z: sum(
            d.sum() + n.sum()
            for d, n in (balance(*z, bd_kd(), sharpness=k) for k in (None, 2.0))
        )
        to_peer = jax.grad(lambda z: mutual_loss(z, own, LABELS, bd_kd())[0].sum())
        return jax.grad(both, (0, 1))(peer, own), to_peer(peer)

    assert not any(np.any(slope) for slope in jax.tree.leaves(slopes(peer, own)))


def test_what_is_wrong_is_named():
    z = logits()
    for weights, words in (
        (np.ones(2), r"weights must be \[2, 2\], got shape \(2,\)"),
        ([[1.0, -1.0], [1.0, 1.0]], "weights must be >= 0"),
    ):
        with pytest.raises(ValueError, match=words):
            balance(z, z, weights)
    with pytest.raises(ValueError, match=r"peer_logits must be .* got \(7, 4\)"):
        mutual_loss(z[:, :4], z, LABELS, DML)


# ------------------------------------------------------------------ training

X = RNG.normal(size=(B, 4)).astype(np.float32)
START = {
    name: RNG.normal(size=(4, V)).astype(np.float32) for name in ("student", "teacher")
}


def trained(players, params, frozen, steps=20, step=None):
    step = step or jax.jit(make_step(players))
    state = init_state(jax.random.key(0), params, players)
    for _ in range(steps):
        state, _ = step(state, {"x": X}, frozen)
    return jax.tree.map(np.asarray, state.params)


def pair(order=("student", "teacher")):
    """One role of two networks: both move from the same parameters."""

    def loss(params, *, state, frozen, batch, key):
        out = {name: batch["x"] @ params[name] for name in order}
        of = {
            "student": lambda: mutual_loss(
                out["teacher"], out["student"], LABELS, frozen, temperature=T
            ),
            "teacher": lambda: mutual_loss(
                out["student"], out["teacher"], LABELS, DML, temperature=T
            ),
        }
        return Loss(sum(of[name]()[0] for name in order))

    return [Player("pair", loss, optax.sgd(0.3))]


def alone(name, peer=None, weights=DML, role=None):
    """One network of its own role, which hears `peer` as it is at that moment."""

    def loss(w, *, state, frozen, batch, key):
        own = batch["x"] @ w
        if peer is None:
            return Loss(label_cross_entropy(LABELS, own))
        heard = batch["x"] @ state.params[peer]
        return Loss(mutual_loss(heard, own, LABELS, weights, temperature=T)[0])

    return Player(name, loss, optax.sgd(0.3))


PAIR = pair()
PAIRS_STEP = jax.jit(make_step(PAIR))


def coupled(weights):
    """Both networks trained with these weights, which are numbers of one program."""
    weights = np.asarray(weights, np.float32)
    return trained(PAIR, {"pair": START}, weights, step=PAIRS_STEP)["pair"]


def test_reductions():
    both, one = coupled(np.ones((2, 2))), coupled(bd_kd(1.0, 1.0))
    for name in START:
        np.testing.assert_array_equal(both[name], one[name])
    mutual, ruled = coupled(DML), coupled(bd_kd())
    assert np.abs(mutual["student"] - both["student"]).max() > 1e-3
    assert np.abs(ruled["student"] - both["student"]).max() > 1e-3
    # Without a coupling a network learns as if it were alone.
    single = trained([alone("student")], {"student": START["student"]}, None)
    np.testing.assert_array_equal(
        coupled(np.zeros((2, 2)))["student"], single["student"]
    )

    def plain(params, *, state, frozen, batch, key):  # mutual learning in optax's words
        z = {name: batch["x"] @ params[name] for name in START}
        total = 0
        for own, peer in (("student", "teacher"), ("teacher", "student")):
            p = jax.lax.stop_gradient(jax.nn.softmax(z[peer] / T))
            kl = optax.kl_divergence(jax.nn.log_softmax(z[own] / T), p)
            hard = optax.softmax_cross_entropy_with_integer_labels(z[own], LABELS)
            total += hard + T**2 * kl
        return Loss(total)

    other = trained([Player("pair", plain, optax.sgd(0.3))], {"pair": START}, None)
    for name in START:
        np.testing.assert_allclose(mutual[name], other["pair"][name], atol=2e-5)


def test_together_the_order_does_not_matter_and_in_turns_it_does():
    one = coupled(bd_kd())
    swapped = pair(("teacher", "student"))
    other = trained(swapped, {"pair": START}, np.float32(bd_kd()))["pair"]
    for name in START:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-6)
    players = [alone("student", "teacher", bd_kd()), alone("teacher", "student")]
    in_turns = [trained(who, dict(START), None) for who in (players, players[::-1])]
    gap = np.abs(in_turns[0]["student"] - in_turns[1]["student"]).max()
    assert gap > 1e-3
