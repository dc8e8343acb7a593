"""The loss of a policy: closed forms, what its gradient is on average, schedules."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kljax.divergences import reverse_kl
from kljax.objectives.policy import legacy
from kljax.objectives.policy.advantages import (
    generalized_advantages,
    group_advantages,
    leave_one_out_advantages,
)
from kljax.objectives.policy.certify import certify_all, targets
from kljax.objectives.policy.losses import policy_loss, unsolved, value_loss
from kljax.objectives.policy.penalty import score, value
from kljax.objectives.policy.references import (
    arithmetic_reference,
    geometric_reference,
)
from kljax.objectives.policy.space import Space

RNG = np.random.default_rng(0)
SHAPE = (2, 3, 6)
Q, P, B = RNG.normal(size=(3, *SHAPE)) * 0.5 - 1
WHERE = np.arange(6) < RNG.integers(0, 7, (2, 3, 1))
WHERE[0, 0] = [True, False, True, True, False, False]
ADVANTAGES, BETA = RNG.normal(size=(2, 3)), 0.3
AGGREGATES = {"token_mean": "token_mean", "seq_mean": "seq_mean", "fixed": 4.0}
CLIPS = {"none": None, "one": 0.2, "two": (0.1, 0.4)}


def given(**changes):
    arrays = {"log_behavior": B, "where": WHERE, "log_p": P, "beta": BETA}
    return arrays | changes


@jax.jit
def of_settings(q, a, given):
    """Losses, metrics and slopes of every aggregate and clip, in one program."""
    found = {}
    for first, aggregate in AGGREGATES.items():
        for second, clip in CLIPS.items():

            def total(q, aggregate=aggregate, clip=clip):
                options = {"aggregate": aggregate, "clip": clip}
                losses, metrics = policy_loss(q, a, **options, **given)
                return losses.sum(), (losses, metrics)

            slope, rest = jax.grad(total, has_aux=True)(q)
            found[first, second] = *rest, slope
    return found


def divisors(name):
    lengths = WHERE.sum(-1)
    mean = np.broadcast_to(lengths.mean(1, keepdims=True), lengths.shape)
    every = {"token_mean": mean, "seq_mean": np.maximum(lengths, 1)}
    return every.get(name, np.full(lengths.shape, 4.0))


def test_every_aggregate_and_clip_in_closed_form():
    found = of_settings(Q, ADVANTAGES, given())
    ratio, a = np.exp(Q - B), ADVANTAGES[..., None] * np.ones(6)
    penalty = ratio * (np.exp(P - Q) - 1 - P + Q)
    assert len(found) == 9
    for (first, second), (losses, metrics, slope) in found.items():
        low, high = {"none": (9, 1e9), "one": (0.2, 0.2), "two": (0.1, 0.4)}[second]
        clipped = np.clip(ratio, 1 - low, 1 + high) * a
        gain, stopped = np.minimum(ratio * a, clipped), clipped < ratio * a
        weight = WHERE / divisors(first)[..., None]
        kept = WHERE / np.maximum(WHERE.sum(-1, keepdims=True), 1)
        want = {
            "loss": (weight * (BETA * penalty - gain)).sum(-1),
            "policy/penalty": (weight * penalty).sum(-1),
            "policy/ratio": (kept * ratio).sum(-1),
            "policy/clipped": (kept * stopped).sum(-1),
        }
        for name, one in (metrics | {"loss": losses}).items():
            np.testing.assert_allclose(one, want[name], rtol=1e-9, atol=1e-12)
        # What is clipped moves nothing, and the KL moves it all the same.
        moved = BETA * ratio * (Q - P) - np.where(stopped, 0, ratio * a)
        np.testing.assert_allclose(slope, weight * moved, rtol=1e-9, atol=1e-12)
        assert stopped[WHERE].any() != (second == "none")
        if first == "token_mean":  # the mean over groups of means over their tokens
            tokens = [(x * m).sum() / m.sum() for x, m in zip(-gain, WHERE)]
            mean = losses.mean() - BETA * metrics["policy/penalty"].mean()
            np.testing.assert_allclose(mean, np.mean(tokens), rtol=1e-9)


def test_padding_changes_nothing_at_all():
    """Exactly 0, whatever it holds: of losses, metrics and slopes."""
    wide = lambda x: jnp.concatenate([jnp.where(WHERE, x, jnp.nan), x + jnp.inf], -1)
    mask = jnp.concatenate([WHERE, jnp.zeros_like(WHERE)], -1)
    narrow = of_settings(Q, ADVANTAGES, given())
    arrays = given(log_behavior=wide(B), log_p=wide(P), where=mask)
    for name, (losses, metrics, slope) in of_settings(
        wide(Q), ADVANTAGES, arrays
    ).items():
        was, measured, steep = narrow[name]
        assert (losses == was).all() and (slope[..., :6] == steep).all()
        assert not slope[..., 6:].any() and not slope[..., :6][~WHERE].any()
        jax.tree.map(np.testing.assert_array_equal, metrics, measured)

    @jax.jit
    def others(v, rewards, where):
        advantages, returns = generalized_advantages(rewards, v, where=where)
        error = lambda x: value_loss(x, returns, old_values=v, where=where)[0].sum()
        per_token = policy_loss(v, advantages, where=where)[0]
        mixed = arithmetic_reference(jnp.stack([v, rewards], -1), where=where)
        return advantages, returns, mixed, jax.grad(error)(v), error(v), per_token

    for now, was in zip(others(wide(Q), wide(P), mask), others(Q, P, WHERE)):
        if now.shape[-1:] == (12,):
            assert not now[..., 6:].any() and not now[..., :6][~WHERE].any()
            now = now[..., :6]
        assert (now == was).all() and jnp.isfinite(now).all()


# ----------------------------------------------------------------- what it estimates


def alone(penalty, aggregate=1.0, clip=0.2):
    """The penalty's part of the loss, as a function that can be certified."""

    def function(*, log_q, log_p, log_behavior, where):
        nothing = jnp.zeros(log_q.shape[:1])
        options = {"aggregate": aggregate, "clip": clip, "penalty": penalty}
        options |= {"log_behavior": log_behavior, "where": where, "log_p": log_p}
        return policy_loss(log_q, nothing, beta=1.0, **options)[0]

    return function


LABELS = {
    "local reverse": alone(None),
    "local forward": alone(value("forward_kl")),
    "local le_cam": alone(score("le_cam"), clip=None),
    "sequence reverse": alone(score("reverse_kl", "to_go")),
    "sequence forward": alone(value("forward_kl", "sequence")),
    "biased": alone(None, "seq_mean"),
}


def test_the_penalty_is_the_divergence_that_it_is_called(spaces):
    """GRPO's and KDRL's; the mean over a sequence's own length is none."""
    found = certify_all(LABELS, spaces["ended"])
    for label, one in found.items():
        assert one.label == label and one.teacher, str(one)
        assert one.residual > 1e-3 if label == "biased" else one.residual <= 1e-10


def gradient_of(loss, space):
    """Of losses of the log-probabilities of all sequences, in the parameters."""
    slopes = np.asarray(jax.jit(jax.jacrev(loss))(space.samples.log_q))
    every = slopes.reshape(-1, *space.where.shape)
    return np.squeeze([space.gradient(one, 0) for one in every])


def test_rewards_are_followed_without_bias_where_their_baseline_is_of_others():
    """All pairs of sequences as groups; those that are normalized follow another."""
    with jax.enable_x64(True):
        space = Space.drawn(jax.random.key(2), 2, 3, off=0.0, end=1)
    count = len(space.tokens)
    reward = np.random.default_rng(4).normal(size=count)
    rows = np.array(np.meshgrid(*[np.arange(count)] * 2)).reshape(2, -1).T
    weights = space.weights[rows].prod(1)
    where = jnp.asarray(space.where)[rows]

    def every(q):
        """The exact objective, and losses of pairs: no baseline, others, normalized."""
        found = [-(jnp.exp(q.sum(-1)) @ reward)]
        for of in (lambda r: r, leave_one_out_advantages, group_advantages):
            options = {"clip": None, "aggregate": 1.0, "where": where}
            losses, _ = policy_loss(q[rows], of(reward[rows]), **options)
            found.append(weights @ losses.mean(1))
        return jnp.stack(found)

    exact, plain, others, normalized = gradient_of(every, space)
    scale = abs(exact).max()
    np.testing.assert_allclose(plain, exact, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(others, exact, rtol=0, atol=1e-12 * scale)
    cosine = normalized @ exact / np.linalg.norm(normalized) / np.linalg.norm(exact)
    assert cosine < 0.9999


@pytest.mark.parametrize("count, bar", [(2**18, 0.02)])
def test_k1_as_a_reward_converges_to_the_sequence_gradient(spaces, count, bar):
    """REINFORCE with the others as its baseline, sampled in one program."""
    space = spaces["on"]
    log_p, edges = space.samples.log_p, jnp.cumsum(jnp.asarray(space.weights))

    def sampled(q):
        drawn = jax.random.uniform(jax.random.key(11), (count,)) * edges[-1]
        rows = jnp.searchsorted(edges, drawn, side="right", method="sort")
        q = q[rows]
        reward = jax.lax.stop_gradient(log_p[rows] - q).sum(-1)
        advantages = leave_one_out_advantages(reward)
        return policy_loss(q, advantages, clip=None, aggregate=1.0)[0].mean()

    exact = targets(space)["sequence reverse"]
    error = np.linalg.norm(gradient_of(sampled, space) - exact)
    assert error <= bar * np.linalg.norm(exact)


def test_a_teacher_in_the_loss_is_one_in_the_advantages_sample_by_sample():
    """At rho = 1, in float32: k2, and the default of `policy_loss`, which is it."""
    q, p = (jnp.asarray(x, jnp.float32) for x in (Q, P))
    options = {"clip": None, "aggregate": 1.0}

    @jax.jit
    def slopes(q):
        def slope(advantages, **more):
            total = lambda x: policy_loss(x, advantages, **options, **more)[0].sum()
            return jax.grad(total)(q)

        a = jnp.broadcast_to(ADVANTAGES[..., None], SHAPE).astype(jnp.float32)
        teacher = {"log_p": p, "beta": jnp.float32(BETA)}
        k2 = legacy.formula("k2", "loss")
        shaped = a + teacher["beta"] * (p - q)
        joint = slope(a, **teacher), slope(a, penalty=k2, **teacher)
        return slope(shaped), *joint

    want, *joint = slopes(q)
    for one in joint:
        np.testing.assert_allclose(one, want, atol=1e-6)


def test_every_reference_enters_the_gradient():
    """Each objective with a reference, and with another one in its place."""
    soft = lambda seed: np.random.default_rng(seed).normal(size=(*SHAPE, 4, 2))
    tokens = np.random.default_rng(5).integers(0, 4, SHAPE)
    solved = np.array([[True, False, False], [False] * 3])

    @jax.jit
    def of(q, p, logits):
        k1 = legacy.formula("k1", "loss", allow_biased=True)
        full = lambda log_q, **_: reverse_kl(
            logits[..., 0], logits[..., 1] * log_q[..., None]
        )
        soup = {
            "geometric": geometric_reference(logits, tokens),
            "arithmetic": arithmetic_reference(jnp.stack([p, 2 * p], -1)),
        }
        settings = {
            "GRPO": {},
            "k3": {"penalty": legacy.formula("k3", "loss", allow_biased=True)},
            "KDRL, response": {"beta": unsolved(solved)},
            "KDRL, group": {"beta": unsolved(solved, "group")},
            "to go": {"penalty": score("reverse_kl", "to_go")},
            "sequence": {"penalty": value("reverse_kl", "sequence")},
            "PPO, reward": {"advantages": p - q, "beta": 0.0},
            "full": {"penalty": full},
            **{name: {"log_p": log_p} for name, log_p in soup.items()},
            "k1": {"penalty": k1},
        }

        def slope(q, advantages=0.1 * ADVANTAGES, log_p=p, beta=1.0, **more):
            options = {"log_p": log_p, "beta": beta, "where": WHERE, **more}
            return policy_loss(q, advantages, **options)[0].sum()

        return {
            name: jax.grad(lambda x, options=options: slope(x, **options))(q)
            for name, options in settings.items()
        }

    mine, others = of(Q, P, soft(0)), of(Q, P[::-1] - 0.5, soft(1))
    for name, found in mine.items():
        change = np.linalg.norm(others[name] - found) / np.linalg.norm(found)
        assert change == 0 if name == "k1" else change > 0.1, name


def test_a_penalty_that_is_not_what_it_is_called_is_refused():
    with pytest.raises(ValueError, match="teacher does not enter it"):
        legacy.formula("k1", "loss")
    with pytest.raises(ValueError, match="local forward"):
        legacy.formula("k3", "loss")


# ----------------------------------------------------------------- schedules, masks

DECAY = optax.linear_schedule(5e-3, 1e-3, 80)


def v_shaped(low, high, steps, turn):
    """OThink-MR1's Eq. 3, as the module's docstring has it."""
    mid = (low + high) / 2
    parts = (mid, low, turn), (low, high, steps - turn)
    return optax.join_schedules([optax.linear_schedule(*x) for x in parts], [turn])


def test_schedules_take_the_papers_values():
    for step, beta in {0: 5e-3, 40: 3e-3, 80: 1e-3, 279: 1e-3}.items():
        assert float(DECAY(step)) == pytest.approx(beta, abs=1e-9)
    steps = jnp.array([0, 150, 300, 650, 1000])
    tables = {
        (0.04, 0.10): [0.070, 0.055, 0.040, 0.070, 0.100],
        (0.0, 0.02): [0.010, 0.005, 0.0, 0.010, 0.020],
    }
    for (low, high), want in tables.items():
        found = v_shaped(low, high, 1000, 300)(steps)
        np.testing.assert_allclose(found, want, atol=1e-7)


def test_a_whole_run_is_one_program():
    """Beta, masks, a hard switch and the reference change; nothing is traced again."""
    q, p = jnp.asarray(Q), jnp.asarray(P)

    @jax.jit
    @chex.assert_max_traces(1)
    def step(q, number, reference, correct, beta):
        teach = number < 2  # distil, then reinforce
        a = jnp.where(teach, 0.0, 1.0) * ADVANTAGES
        heard = unsolved(correct) * jnp.where(teach, 1.0, beta)
        options = {"log_p": reference, "beta": heard, "where": WHERE}
        return jax.grad(lambda x: policy_loss(x, a, **options)[0].sum())(q)

    @jax.jit
    @jax.grad
    def plain(q, a, beta):
        return policy_loss(q, a, log_p=p, beta=beta, where=WHERE)[0].sum()

    @jax.jit
    @jax.grad
    def bare(q):
        return policy_loss(q, ADVANTAGES, where=WHERE)[0].sum()

    flat = v_shaped(0.04, 0.04, 4, 2)
    for number in range(4):
        wrong = jnp.zeros((2, 3), bool)
        found = step(q, jnp.array(number), p, wrong, flat(number))
        a, beta = (0 * ADVANTAGES, 1.0) if number < 2 else (ADVANTAGES, flat(0))
        np.testing.assert_allclose(found, plain(q, a, beta), rtol=1e-12)
    # A dynamic weight that is constant is that constant, one of 0 no reference at all.
    assert (plain(q, ADVANTAGES, flat(3)) == plain(q, ADVANTAGES, 0.04)).all()
    assert (plain(q, ADVANTAGES, v_shaped(0, 0.02, 4, 2)(2)) == bare(q)).all()
    all_right = step(q, jnp.array(3), p - 1, jnp.ones((2, 3), bool), flat(3))
    assert (all_right == bare(q)).all()


def test_masks_key_on_what_is_right():
    right = jnp.array([[1, 0, 0], [0, 0, 0], [1, 1, 1]], bool)
    assert unsolved(right).tolist() == [[0, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert unsolved(right, "group").tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]


def test_a_group_without_variance_still_hears_its_teacher():
    rewards = jnp.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])

    @jax.jit
    @jax.grad
    def slope(q):
        return policy_loss(q, group_advantages(rewards), log_p=P, beta=0.5)[0].sum()

    np.testing.assert_allclose(slope(jnp.asarray(Q)), 0.5 * (Q - P) / 6, rtol=1e-9)


def test_a_floor_under_the_teacher_bounds_its_pull():
    """It does not end it, as clipping the penalty would."""
    q, p = jnp.array([[-1.0, -1.0]]), jnp.array([[-90.0, -1.5]])

    @jax.jit
    @jax.grad
    def slope(x):
        floored = jnp.maximum(p, jax.lax.stop_gradient(x) - 20)
        return policy_loss(x, jnp.zeros(1), log_p=floored, beta=1.0)[0].sum()

    np.testing.assert_allclose(slope(q), [[10.0, 0.25]])


def test_the_value_loss_is_the_worse_of_two():
    v, returns, old = RNG.normal(size=(3, *SHAPE))

    @jax.jit
    def of(v):
        options = {"where": WHERE, "aggregate": 1.0}
        clipped = value_loss(v, returns, old_values=old, **options)
        return clipped, value_loss(v, returns, **options)

    near = np.clip(v, old - 0.2, old + 0.2)
    plain, other = (v - returns) ** 2, (near - returns) ** 2
    (losses, metrics), (unclipped, _) = of(v)
    count = np.maximum(WHERE.sum(-1), 1)
    total = lambda x: np.where(WHERE, x, 0).sum(-1)
    np.testing.assert_allclose(losses, total(np.maximum(plain, other)) / 2, rtol=1e-12)
    np.testing.assert_allclose(unclipped, total(plain) / 2, rtol=1e-12)
    np.testing.assert_allclose(metrics["value/squared_error"], total(plain) / count)
    np.testing.assert_allclose(metrics["value/clipped"], total(other > plain) / count)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x: policy_loss(x, jnp.ones(4)), r"advantages has shape \(4,\)"),
        (lambda x: policy_loss(x, x, aggregate="mean"), "unknown aggregate 'mean'"),
        (lambda x: policy_loss(x, x, aggregate=0.0), "aggregate must be positive"),
        (lambda x: policy_loss(x, x, log_p=x[:1]), r"log_p \(1, 3\)"),
        (lambda x: policy_loss(x, x, log_behavior=x[0]), r"log_behavior \(3,\)"),
        (lambda x: policy_loss(x, x, penalty=value("le_cam")), "penalty needs log_p"),
        (lambda x: policy_loss(x, x, log_p=x, beta=x), "beta must be one number or"),
        (
            lambda x: policy_loss(x, x, log_p=x, penalty=lambda **_: x[:, :2]),
            r"penalty returned shape \(2, 2\)",
        ),
        (lambda x: value_loss(x, x[0]), r"returns \(3,\)"),
        (lambda x: unsolved(x, "token"), "unknown per 'token'"),
        (lambda x: arithmetic_reference(x[0]), r"expected \[\*b, t, k\]"),
        (lambda x: geometric_reference(x, x), r"logits \(2, 3\)"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call(jnp.zeros((2, 3)))
