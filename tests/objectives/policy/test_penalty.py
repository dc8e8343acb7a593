"""Both forms of every divergence have its gradient, exactly; masks and limits."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from references import TEXTBOOK, VALUES

from kljax.generators import names
from kljax.objectives.policy.certify import certify, certify_all, targets
from kljax.objectives.policy.penalty import score, value
from kljax.objectives.policy.space import Space

INFINITE = {"reverse_kl", "jeffreys", "neyman_chi2", "softened_reverse_kl"}
PENALTIES = {
    (form.__name__, credit, name): form(name, credit)
    for form in (value, score)
    for credit in ("token", "sequence")
    for name in names()
}
PENALTIES["score", "to_go", "reverse_kl"] = score("reverse_kl", "to_go")
# Apart, so that what tests ask of the finite ones is one program.
FINITE = {key: f for key, f in PENALTIES.items() if key[2] not in INFINITE}
OTHERS = {key: f for key, f in PENALTIES.items() if key[2] in INFINITE}


@jax.jit
def of_all(logs, where):
    """Losses and slopes of every penalty, of [log_q, log_p, log_behavior]."""
    given = {"log_p": logs[1], "log_behavior": logs[2], "where": where}
    found = {}
    for key, penalty in PENALTIES.items():
        losses, pull = jax.vjp(lambda x, f=penalty: f(log_q=x, **given), logs[0])
        found["/".join(key)] = losses, *pull(jnp.ones_like(losses))
    return found


def set_in(logs):
    """Fewer rows and tokens in the shape that the program above is made for."""
    rows, tokens = logs.shape[1:]
    where = (jnp.arange(6) < rows)[:, None] & (jnp.arange(7) < tokens)
    room = (0, 0), (0, 6 - rows), (0, 7 - tokens)
    return jnp.pad(logs, room, constant_values=jnp.nan), where


def named(credit, name):
    where = "local" if credit == "token" else "sequence"
    return f"{where} {name.removesuffix('_kl')}"


def test_a_space_holds_every_sequence_once_with_its_probability():
    """Against products of conditionals, sequence by sequence, in NumPy."""
    space = Space.drawn(jax.random.key(2), 3, 3, off=0.4, end=1)
    want = {}
    for drawn in itertools.product(range(3), repeat=3):
        kept = drawn[: drawn.index(1) + 1] if 1 in drawn else drawn
        state, log_q = np.asarray(space.student["start"]), []
        for token in kept:
            x = {name: np.asarray(one) for name, one in space.student.items()}
            scores = state @ x["head"] / 2 + x["bias"]
            log_q.append(scores[token] - np.log(np.exp(scores).sum()))
            state = np.tanh(state @ x["mix"] + x["tokens"][token])
        want[kept] = log_q
    assert len(space.tokens) == len(want) == 15
    for tokens, where, log_q in zip(space.tokens, space.where, space.samples.log_q):
        np.testing.assert_allclose(log_q[where], want[tuple(tokens[where])], rtol=1e-12)
        assert not np.asarray(log_q)[~where].any() and (tokens[~where] == 1).all()
    assert abs(space.weights.sum() - 1) < 1e-14
    assert abs(space.on_policy.weights - space.weights).max() > 0.01
    np.testing.assert_allclose(
        space.on_policy.weights, np.exp([sum(x) for x in want.values()]), rtol=1e-12
    )


@pytest.mark.parametrize("which", ["off", "ended"])
def test_targets_are_the_derivatives_of_printed_generators(spaces, which):
    space = spaces[which]
    found, log_p = targets(space), space.samples.log_p.sum(-1)
    reached = space.gathered(np.where(space.where, space.weights[:, None], 0))

    @jax.jit
    @jax.jacrev
    def want(parameters):
        """Each term q f(p/q) as it is printed; f(u) + c(1 - u) has the same sum."""
        table = space.table(parameters)
        taken = jnp.where(space.where, table[space.prefix, space.tokens], 0).sum(-1)
        of = {}
        for name, f in TEXTBOOK.items():
            each = jnp.exp(table) * f(jnp.exp(space.log_p - table))
            of[named("token", name)] = (reached[:, None] * each).sum()
            of[named("sequence", name)] = (
                jnp.exp(taken) * f(jnp.exp(log_p - taken))
            ).sum()
        return of

    for name, gradient in want(space.student).items():
        flat = ravel_pytree(gradient)[0]
        np.testing.assert_allclose(
            found[name], flat, rtol=0, atol=1e-10 * abs(flat).max()
        )
    assert len(found) == 26


@pytest.mark.parametrize("which", ["on", "off", "another", "ended"])
def test_every_divergence_in_both_forms_and_credits(spaces, which):
    found = certify_all(FINITE, spaces[which]) | certify_all(OTHERS, spaces[which])
    for (form, credit, name), one in found.items():
        assert one.label == named(credit, name), (form, credit, name, str(one))
        assert one.residual <= 1e-10 and one.teacher
    assert len(found) == 2 * 2 * 13 + 1


def test_the_value_is_unbiased(spaces):
    space = spaces["off"]
    p, q = (np.exp(np.asarray(x)) for x in (space.log_p, space.log_q))
    whole = [np.exp(x.sum(-1)) for x in (space.samples.log_p, space.samples.log_q)]
    reached = space.gathered(np.broadcast_to(space.weights[:, None], space.where.shape))
    for name, of in VALUES.items():
        each = value(name)(**space.samples._asdict())
        assert space.weights @ each.sum(-1) == pytest.approx(reached @ of(p, q), 1e-12)
        each = value(name, "sequence")(**space.samples._asdict())
        assert space.weights @ each == pytest.approx(of(*whole), rel=1e-12)


def test_an_impossible_token_is_legal_where_the_divergence_is_finite(spaces):
    space = spaces["off"]
    log_p = jnp.where(jnp.arange(4) == 2, -jnp.inf, space.log_p)
    hard = dataclasses.replace(space, log_p=jax.nn.log_softmax(log_p))
    for (_, credit, name), one in certify_all(FINITE, hard).items():
        assert one.label == named(credit, name)
    assert len(FINITE) == 2 * 2 * 9 and len(targets(hard)) == 18
    some = jax.tree.map(lambda x: x[-6:], hard.samples)
    refused_here = (some.log_p == -jnp.inf).any(axis=-1)
    assert refused_here.any() and not refused_here.all()
    traced = of_all(*set_in(jnp.stack(some[:3])))
    for key, refused in OTHERS.items():
        kind = key[2].replace("_", "").replace("kl", "KL")
        with pytest.raises(ValueError, match=f"(?i)log_p is −inf at .*{kind}"):
            refused(**some._asdict())
        seen = traced["/".join(key)][0]
        assert jnp.isnan(seen).any() and not jnp.isnan(seen).all()
    with pytest.raises(ValueError, match="ReverseKL is infinite"):
        certify(value("reverse_kl"), hard)


def test_padding_changes_nothing_at_all():
    """Whatever it holds: values, and gradients in it, are exactly 0."""
    logs = jax.random.normal(jax.random.key(4), (3, 6, 7)) - 2
    counts = jnp.arange(7) < jnp.array([7, 5, 3, 1, 0, 6])[:, None]
    wide = jnp.concatenate([jnp.where(counts, logs, jnp.nan), logs + jnp.inf], -1)
    mask = jnp.concatenate([counts, jnp.zeros_like(counts)], -1)

    narrow, padded = of_all(logs, counts), of_all(wide, mask)
    for name, (losses, slopes) in narrow.items():
        more, steeper = padded[name]
        if losses.ndim == 2:
            assert not jnp.where(counts, 0, losses).any() and not more[:, 7:].any()
            more = more[:, :7]
        assert (more == losses).all() and jnp.isfinite(losses).all(), name
        assert not jnp.where(counts, 0, slopes).any() and not steeper[:, 7:].any()
        assert (steeper[:, :7] == slopes).all() and slopes.any(), name
        # Both forms have one gradient, sample by sample.
        same = narrow[name.replace("score", "value").replace("to_go", "token")][1]
        if "to_go" not in name:
            np.testing.assert_allclose(slopes, same, rtol=1e-7, atol=1e-12)


def test_a_joint_loss_is_an_advantage_sample_by_sample():
    """KDRL's identities, at rho = 1, in float32."""
    keys = jax.random.split(jax.random.key(5), 3)
    q, p, reward = (jax.random.normal(k, (4, 5), jnp.float32) for k in keys)
    both = {"log_p": p, "log_behavior": q}
    beta, k2 = jnp.float32(0.3), lambda x: 0.5 * (p - x) ** 2

    def slope(f):
        return np.asarray(jax.jit(jax.grad(lambda x: f(x).sum()))(q))

    def same(f, g):
        np.testing.assert_allclose(slope(f), slope(g), atol=2e-6)

    ratio = lambda x: jnp.exp(x - q)
    joint = lambda x: -reward * ratio(x) + beta * k2(x)
    same(joint, lambda x: -(reward + beta * (p - q)) * ratio(x))
    same(k2, lambda x: score("reverse_kl")(log_q=x, **both))
    k3 = lambda x: jnp.expm1(p - x) - (p - x)
    same(k3, lambda x: score("forward_kl")(log_q=x, **both))
    same(lambda x: ratio(x) * k3(x), lambda x: value("reverse_kl")(log_q=x, **both))


def test_parameters_may_be_traced():
    logs = jax.random.normal(jax.random.key(6), (3, 2, 4)) - 1
    given = dict(zip(("log_q", "log_p", "log_behavior"), logs))
    alphas = jnp.array([-1.0, 0.0, 0.5, 1.0, 2.0])
    for form in (value, score):
        of = jax.jit(jax.vmap(lambda alpha, f=form: f("alpha", alpha=alpha)(**given)))
        found = of(alphas)
        for alpha, one in zip(alphas, found):
            want = form("alpha", alpha=float(alpha))(**given)
            np.testing.assert_allclose(one, want, rtol=1e-9)
        np.testing.assert_allclose(found[1], form("reverse_kl")(**given), rtol=1e-9)


def test_samples_that_cannot_be_drawn_count_nothing():
    """Neither those of the sampling policy, nor tokens that the policy has dropped."""
    q, p = jnp.array([[-1.0, -jnp.inf]]), jnp.array([[-2.0, -1.0]])
    for name, (losses, slopes) in of_all(*set_in(jnp.stack([q, p, q]))).items():
        assert jnp.isfinite(slopes).all() and slopes[0, 1] == 0, name
        assert losses.ndim == 1 or losses[0, 1] == 0, name


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x: value("reverse"), "unknown divergence 'reverse'"),
        (lambda x: value("alpha", "tokens"), "unknown credit 'tokens'"),
        (lambda x: value("reverse_kl", "to_go"), "unknown credit 'to_go'"),
        (lambda x: score("forward_kl", "to_go"), "for reverse_kl.*got ForwardKL"),
        (lambda x: value("le_cam")(log_q=x, log_p=x[:1]), r"log_p \(1, 3\)"),
        (lambda x: value("le_cam")(log_q=x, log_p=x, where=x[0]), r"where \(3,\)"),
        (lambda x: value("le_cam")(log_q=x, log_p="x"), "log_p must be real numbers"),
        (lambda x: Space.drawn(jax.random.key(0), 1, 3), "vocab must be at least 2"),
        (lambda x: Space.drawn(jax.random.key(0), 4, 11), r"vocab \*\* length"),
        (lambda x: Space.drawn(jax.random.key(0), 4, 2, end=4), "end must be at most"),
        (lambda x: Space.drawn(jax.random.key(0), 4, 2, off=2), "off is 2"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call(jnp.zeros((2, 3)))
