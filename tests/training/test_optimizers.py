"""An optimizer's state is any pytree: all kinds are trained, saved, resumed, sharded.

One step holds a player for each, so that all of them are compiled and stored together.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from kljax.training import (
    Every,
    Loss,
    Player,
    RunFolder,
    adam,
    clipped,
    data_mesh,
    fit,
    init_state,
    jit_step,
    make_step,
    replicate,
    shard_batch,
    state_digest,
    warmup_cosine,
)

RATE = optax.linear_schedule(0.1, 0.02, 4)
TREE = {"w": np.full((3, 2), 0.5, np.float32), "b": np.zeros(2, np.float32)}


def groups(tree):
    return {"w": "matrices", "b": "rest"}


def by_group(matrices, rest):
    return optax.partition({"matrices": matrices, "rest": rest}, groups)


def ahead():
    """Lookahead moves two copies, whose losses are those of the fast one."""
    inner = optax.lookahead(optax.sgd(0.1), 2, 0.5)

    def update(grads, state, params=None):
        return inner.update(grads.fast, state, params)

    return optax.GradientTransformation(inner.init, update)


injected = optax.inject_hyperparams
OPTIMIZERS = {
    "schedule": optax.adam(RATE),
    "injected": injected(optax.adamw)(RATE, weight_decay=1e-2),
    "injected chain": optax.chain(
        optax.clip_by_global_norm(1.0), injected(optax.sgd)(RATE)
    ),
    "MultiSteps": optax.MultiSteps(injected(optax.adam)(RATE), 2),
    "masked": optax.chain(
        optax.masked(optax.add_decayed_weights(0.1), {"w": True, "b": False}),
        optax.adam(0.1),
    ),
    "partition": by_group(injected(optax.adam)(RATE), injected(optax.sgd)(0.05)),
    "frozen part": by_group(optax.adam(0.1), optax.set_to_zero()),
    "apply_if_finite": optax.apply_if_finite(optax.adam(0.1), 3),
    "lookahead": ahead(),
    "noisy": optax.noisy_sgd(0.1, key=jax.random.key(1)),
    "line search": optax.lbfgs(),
    "plateau": optax.chain(optax.adam(0.1), contrib.reduce_on_plateau(patience=1)),
    "schedule_free": contrib.schedule_free_adamw(0.1),
    "prodigy": contrib.prodigy(1.0),
    "muon": contrib.muon(RATE),
    "sophia": contrib.sophia(0.1),
    "sam": contrib.sam(
        optax.sgd(0.1), optax.chain(contrib.normalize(), optax.sgd(0.1))
    ),
}
every = pytest.mark.parametrize("name", OPTIMIZERS)


def loss(params, *, state, frozen, batch, key):
    params = getattr(params, "fast", params)
    error = batch["x"] @ params["w"] + params["b"] - batch["y"]
    return Loss(jnp.sum(error**2, -1))


def batches(n):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(4, 3)).astype(np.float32)
    return {"x": x, "y": x @ np.ones((3, 2), np.float32)}


PLAYERS = [
    Player(name, loss, optimizer, ema_decay=0.9)
    for name, optimizer in OPTIMIZERS.items()
]


def start(players=PLAYERS):
    params = {player.role: TREE for player in players}
    if "lookahead" in params:
        params["lookahead"] = optax.LookaheadParams.init_synced(TREE)
    return init_state(jax.random.key(0), params, players)


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Four steps straight, two and two with a restart between, and what was logged."""
    step, first = jit_step(make_step(PLAYERS)), start()

    def again():  # tracing every optimizer's start costs a second
        return jax.tree.map(lambda leaf: leaf.copy(), first)

    straight = fit(step, again(), batches, steps=4)
    with RunFolder(tmp_path_factory.mktemp("run"), {}, env={}) as run:
        fit(step, again(), batches, steps=2, run=run, every=Every(log=1))
        resumed = fit(step, first, batches, steps=4, run=run, every=Every(log=1))
        lines = run.metrics("train")
    assert step._cache_size() == 1, "a restored state compiles anew"
    return straight, resumed, lines


def part(state, name):
    return state.params[name], state.opt_state[name], state.ema[name]


@every
def test_any_state_is_resumed_bit_for_bit(name, ends):
    straight, resumed, lines = ends
    assert state_digest(part(resumed, name)) == state_digest(part(straight, name))
    for tree in part(straight, name)[::2]:
        kept = getattr(tree, "fast", tree)["w"]
        assert np.isfinite(kept).all() and not np.array_equal(kept, TREE["w"])
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


def test_two_devices_give_what_one_gives(ends):
    mesh = data_mesh(jax.devices()[:2])
    some = ("injected", "MultiSteps", "partition", "line search")
    players = [player for player in PLAYERS if player.role in some]
    sharded = fit(
        make_step(players),
        replicate(start(players), mesh),
        lambda n: shard_batch(batches(n), mesh),
        steps=4,
    )
    for name in some:
        for leaf, found in sharded.params[name].items():
            alone = ends[0].params[name][leaf]
            np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("injected", [0.1, 0.08, 0.06, 0.04]),
        ("injected chain", [0.1, 0.08, 0.06, 0.04]),
        ("partition/0", [0.1, 0.08, 0.06, 0.04]),
        ("partition/1", [0.05] * 4),
    ],
)
def test_learning_rates_are_logged(name, rates, ends):
    role, _, number = name.partition("/")
    metric = f"{role}/learning_rate" + (f"/{number}" if number else "")
    np.testing.assert_allclose([line[metric] for line in ends[2]], rates, rtol=1e-6)
    assert "schedule/learning_rate" not in ends[2][0]  # optax does not hold it


def test_updates_are_those_of_optax_alone(ends):
    """The same optimizer by hand: gradients in float64 NumPy, optax for the rest."""
    optimizer = OPTIMIZERS["injected"]
    params, opt_state = TREE, optimizer.init(TREE)
    update = jax.jit(optimizer.update)
    for n in range(4):
        batch = {name: np.float64(value) for name, value in batches(n).items()}
        error = batch["x"] @ params["w"] + params["b"] - batch["y"]
        grads = {"w": 2 * batch["x"].T @ error / 4, "b": 2 * error.mean(0)}
        grads = jax.tree.map(np.float32, grads)
        updates, opt_state = update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
    for name, value in params.items():
        found = ends[0].params["injected"][name]
        np.testing.assert_allclose(found, value, rtol=1e-4)


@pytest.mark.parametrize("flat", [False, True])
def test_clipped_adam_is_numpys(flat, x64):
    schedule = warmup_cosine(0.2, 20, warmup=0.1, final=0.25)
    rule = adam(schedule, clip=0.5, b1=0.8, b2=0.9, weight_decay=0.1, flat=flat)
    tree = {"w": jnp.array([[1.0, -2], [0.5, 3]]), "b": jnp.array([0.0, 4])}
    slopes = {"w": jnp.array([[3.0, -1], [0, 2]]), "b": jnp.array([-0.5, 0.1])}
    w = np.concatenate([np.ravel(tree[name]) for name in ("b", "w")])
    g = np.concatenate([np.ravel(slopes[name]) for name in ("b", "w")])
    state, first, second = rule.init(tree), 0, 0
    update = jax.jit(rule.update)
    for n, share in enumerate((1.0, 0.01, 2.0)):
        given = jax.tree.map(lambda leaf, share=share: share * leaf, slopes)
        updates, state = update(given, state, tree)
        tree = optax.apply_updates(tree, updates)
        cut = share * g * min(1, 0.5 / np.linalg.norm(share * g))
        first, second = 0.8 * first + 0.2 * cut, 0.9 * second + 0.1 * cut**2
        up, root = first / (1 - 0.8 ** (n + 1)), np.sqrt(second / (1 - 0.9 ** (n + 1)))
        w = w - 0.2 * (n / 2) * (up / (root + 1e-8) + 0.1 * w)
    found = np.concatenate([np.ravel(tree[name]) for name in ("b", "w")])
    np.testing.assert_allclose(found, w, rtol=1e-7)
    np.testing.assert_allclose(schedule(11), 0.2 * (0.25 + 0.75 / 2), rtol=1e-6)
    np.testing.assert_allclose(schedule(np.array([2, 20])), [0.2, 0.05], rtol=1e-6)


def test_clipped_rules_see_short_gradients():
    rule = clipped(optax.sgd(1.0), 2.0)
    for given, expected in (([3.0, 4.0], [-1.2, -1.6]), ([0.3, 0.4], [-0.3, -0.4])):
        updates, _ = rule.update(jnp.array(given), rule.init(jnp.zeros(2)))
        np.testing.assert_allclose(updates, expected, rtol=1e-6)
