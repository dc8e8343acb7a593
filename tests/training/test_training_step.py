"""The step against NumPy: players in order, repeats, averages, weights, sums."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kljax.training import (
    Loss,
    Player,
    init_state,
    jit_step,
    make_step,
    state_digest,
)


def linear_loss(params, *, state, frozen, batch, key):
    error = batch["x"] @ params["w"] - batch["y"]
    return Loss(jnp.sum(error**2, -1), {"size": jnp.abs(error).sum(-1)})


def linear_problem(seed=0, size=8):
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(size, 3)), rng.normal(size=(3, 2))
    batch = {"x": x, "y": x @ rng.normal(size=(3, 2))}
    batch["weights"] = rng.integers(1, 4, size=size).astype(float)
    return {"w": w}, batch


def state_of(params, *players, **more):
    roles = {player.role: params for player in players}
    return init_state(jax.random.key(0), roles, players, **more)


def test_players_move_in_order_and_see_each_other(x64):
    """fake ← fake − 0.2 (fake − real), three times; real ← real − 0.4 (real + fake)."""

    def fake_loss(fake, *, state, frozen, batch, key):
        return Loss((fake - state.params["real"]) ** 2 * jnp.ones(4))

    def real_loss(real, *, state, frozen, batch, key):
        return Loss((real + frozen["sign"] * state.params["fake"]) ** 2 * jnp.ones(4))

    players = (
        Player("fake", fake_loss, optax.sgd(0.1), repeats=3),
        Player("real", real_loss, optax.sgd(0.2)),
    )
    state = init_state(
        jax.random.key(0), {"fake": np.float64(2), "real": np.float64(-1)}, players
    )
    step = jit_step(make_step(players))
    fake, real = 2.0, -1.0
    for _ in range(4):
        state, metrics = step(state, {}, {"sign": 1.0})
        for _ in range(3):
            fake_value, fake_grad = (fake - real) ** 2, 2 * (fake - real)
            fake -= 0.1 * fake_grad
        real_value, real_grad = (real + fake) ** 2, 2 * (real + fake)
        real -= 0.2 * real_grad
        np.testing.assert_allclose(state.params["fake"], fake, rtol=1e-14)
        np.testing.assert_allclose(state.params["real"], real, rtol=1e-14)
        np.testing.assert_allclose(metrics["fake/loss"], fake_value, rtol=1e-13)
        np.testing.assert_allclose(metrics["real/loss"], real_value, rtol=1e-13)
        np.testing.assert_allclose(metrics["fake/grad_norm"], abs(fake_grad))
        np.testing.assert_allclose(metrics["real/grad_norm"], abs(real_grad))
    assert set(metrics) == {
        *(
            f"{role}/{name}"
            for role in ("fake", "real")
            for name in ("loss", "grad_norm")
        ),
        "finite",
    }
    assert int(state.step) == 4


def test_average_follows_the_ramp_after_the_last_repeat(x64):
    def loss(w, **_):
        return Loss(w[None])

    player = Player("m", loss, optax.sgd(0.25), repeats=2, ema_decay=0.6)
    state = state_of(np.float64(1), player)
    step = jit_step(make_step([player]))
    value, average = 1.0, 1.0
    for n in range(25):
        state, _ = step(state, {})
        value -= 2 * 0.25
        decay = min(0.6, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * value
        np.testing.assert_allclose(state.ema["m"], average, rtol=1e-6)
    assert (1 + 24) / (10 + 24) > 0.6 > (1 + 0) / (10 + 0)


@pytest.mark.parametrize("unroll", [False, True])
def test_micro_batches_give_the_weighted_mean_of_the_batch(unroll, x64):
    params, batch = linear_problem()
    player = Player("m", linear_loss, optax.sgd(0.1))
    step = make_step([player], accumulate=4, unroll=unroll)
    state, metrics = jax.jit(step)(state_of(params, player), batch)
    x, y, w, weights = batch["x"], batch["y"], params["w"], batch["weights"]
    error = x @ w - y
    grad = 2 * x.T @ (weights[:, None] * error) / weights.sum()
    np.testing.assert_allclose(state.params["m"]["w"], w - 0.1 * grad, atol=1e-12)
    mean = (weights * (error**2).sum(-1)).sum() / weights.sum()
    np.testing.assert_allclose(metrics["m/loss"], mean, rtol=1e-12)
    size = (weights * np.abs(error).sum(-1)).sum() / weights.sum()
    np.testing.assert_allclose(metrics["size"], size, rtol=1e-12)
    np.testing.assert_allclose(metrics["m/grad_norm"], np.linalg.norm(grad))


def test_four_micro_batches_equal_one_in_float32():
    params, batch = linear_problem()
    player = Player("m", linear_loss, optax.sgd(0.1))
    batch = {name: np.float32(value) for name, value in batch.items()}
    params = {"w": np.float32(params["w"])}
    ends = [
        jax.jit(make_step([player], accumulate=count))(state_of(params, player), batch)
        for count in (1, 4)
    ]
    (one, one_metrics), (four, four_metrics) = ends
    np.testing.assert_allclose(
        four.params["m"]["w"], one.params["m"]["w"], rtol=0, atol=1.2e-7
    )
    np.testing.assert_allclose(four_metrics["m/loss"], one_metrics["m/loss"], rtol=2e-7)


def test_examples_of_weight_zero_count_for_nothing():
    def loss(w, *, state, frozen, batch, key):
        return Loss(batch["x"] * w + batch["bad"], {"x": batch["x"] + batch["bad"]})

    player = Player("m", loss, optax.sgd(1.0))
    step = jit_step(make_step([player]))
    x, bad = np.array([1.0, 2, 3, 4]), np.array([0, np.nan, 0, np.inf])
    weights = np.array([1.0, 0, 3, 0])
    batch = {"x": np.float32(x), "bad": np.float32(bad)}
    state, metrics = step(
        state_of(np.float32(2), player), batch | {"weights": np.float32(weights)}
    )
    assert metrics["m/loss"] == 2 * (1 + 9) / 4
    assert metrics["x"] == 10 / 4
    assert state.params["m"] == 2 - 10 / 4
    state, metrics = step(state, batch | {"weights": np.zeros(4, np.float32)})
    assert metrics["m/loss"] == 0 and metrics["m/grad_norm"] == 0
    assert metrics["finite"] and state.params["m"] == 2 - 10 / 4


def test_bfloat16_lives_inside_the_loss_alone():
    seen = []

    def loss(params, *, state, frozen, batch, key):
        seen.append((params["w"], state.params["m"]["w"], state.ema["m"]["w"]))
        error = batch["x"].astype(params["w"].dtype) @ params["w"] - batch["y"]
        return Loss(jnp.sum(error**2, -1))

    params, batch = linear_problem()
    batch = {name: np.float32(value) for name, value in batch.items()}
    player = Player("m", loss, optax.adam(0.01), ema_decay=0.9)
    ends = [
        jax.jit(make_step([player], compute_dtype=dtype))(
            state_of(jax.tree.map(jnp.float32, params), player), batch
        )
        for dtype in (jnp.bfloat16, None)
    ]
    (half, half_metrics), (full, full_metrics) = ends
    assert all(leaf.dtype == jnp.bfloat16 for leaf in seen[0])
    floats = [x for x in jax.tree.leaves(half) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert floats and all(leaf.dtype == jnp.float32 for leaf in floats)
    np.testing.assert_allclose(
        half_metrics["m/loss"], full_metrics["m/loss"], rtol=0.02
    )
    np.testing.assert_allclose(
        half.params["m"]["w"], full.params["m"]["w"], rtol=0, atol=1e-3
    )


def test_one_batch_is_learnt_by_heart_in_one_trace():
    params, batch = linear_problem(size=3)
    batch = {"x": np.eye(3, dtype=np.float32), "y": np.float32(batch["y"])}
    player = Player("m", linear_loss, optax.inject_hyperparams(optax.sgd)(0.5))
    chex.clear_trace_counter()
    step = jit_step(chex.assert_max_traces(make_step([player]), n=1))
    state = state_of(jax.tree.map(jnp.float32, params), player)
    first = None
    for _ in range(30):
        state, metrics = step(state, batch)
        first = metrics["m/loss"] if first is None else first
    assert metrics["m/loss"] < 1e-5 < first
    np.testing.assert_allclose(metrics["m/learning_rate"], 0.5)


def test_a_student_may_start_as_its_teacher():
    params, batch = linear_problem()
    shared = jax.tree.map(jnp.float32, params)
    player = Player("student", linear_loss, optax.adam(0.1), ema_decay=0.9)
    roles = {"student": shared, "teacher": shared}
    state = init_state(jax.random.key(0), roles, [player], aux={"start": shared})
    step = jit_step(make_step([player]))
    for _ in range(2):
        state, _ = step(state, batch, {"teacher": shared})
    np.testing.assert_array_equal(state.params["teacher"]["w"], shared["w"])
    assert not np.array_equal(state.params["student"]["w"], shared["w"])


def test_keys_differ_and_repeat():
    def loss(w, *, state, frozen, batch, key):
        drawn = jax.random.uniform(key, batch["x"].shape)
        return Loss(drawn * w, aux=jnp.concatenate([state.aux[len(drawn) :], drawn]))

    players = [Player(role, loss, optax.sgd(0.0), repeats=2) for role in ("a", "b")]
    step = jax.jit(make_step(players, accumulate=2))
    ends = []
    for _ in range(2):
        params = {"a": np.float32(1), "b": np.float32(1)}
        aux = jnp.zeros(2 * 2 * 2 * 4)
        state = init_state(jax.random.key(1), params, players, aux=aux)
        for _ in range(2):
            state, _ = step(state, {"x": np.zeros(4, np.float32)})
        ends.append(state)
    assert state_digest(ends[0]) == state_digest(ends[1])
    assert len(np.unique(ends[0].aux)) == ends[0].aux.size
    assert (ends[0].aux > 0).all()


def test_model_state_passes_through_micro_batches_and_repeats():
    def loss(w, *, state, frozen, batch, key):
        count = state.model_state["m"]["count"] + 1
        half = (batch["x"] * w).astype(jnp.bfloat16)
        return Loss(half, {"count": count}, model_state={"count": count})

    player = Player("m", loss, optax.sgd(0.1), repeats=3)
    start = {"m": {"count": np.float32(0)}}
    state = state_of(np.float32(1), player, model_state=start)
    step = jit_step(make_step([player], accumulate=2))
    for _ in range(2):
        state, metrics = step(state, {"x": np.ones(4, np.float32)})
    assert state.model_state["m"]["count"] == 2 * 3 * 2
    assert metrics["count"] == 11.5  # scalars: the mean over micro-batches
    assert metrics["m/loss"].dtype == jnp.float32


def test_a_sweep_by_vmap_equals_its_runs():
    params, batch = linear_problem()

    def loss(params, *, state, frozen, batch, key):
        found = linear_loss(params, state=state, frozen=frozen, batch=batch, key=key)
        noise = jax.random.normal(key, found.per_example.shape)
        return Loss(frozen * found.per_example + noise * params["w"][0, 0])

    player = Player("m", loss, optax.sgd(0.05), ema_decay=0.9)
    step = make_step([player])
    states = [
        init_state(
            jax.random.key(seed), {"m": jax.tree.map(jnp.float32, params)}, [player]
        )
        for seed in range(3)
    ]
    scales = jnp.array([0.5, 1.0, 2.0])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    swept = jit_step(jax.vmap(step, in_axes=(0, None, 0)))
    single = jax.jit(step)
    for _ in range(3):
        stacked, metrics = swept(stacked, batch, scales)
        states = [single(state, batch, scales[i])[0] for i, state in enumerate(states)]
    assert metrics["m/loss"].shape == (3,)
    for i, state in enumerate(states):
        np.testing.assert_allclose(
            stacked.params["m"]["w"][i], state.params["m"]["w"], rtol=1e-5, atol=1e-6
        )


def bad_step(loss, batch=None, accumulate=1, **more):
    player = Player("m", loss, optax.sgd(0.1))
    state = state_of(np.float32(1), player, **more)
    batch = {"x": np.ones(4, np.float32)} if batch is None else batch
    jax.eval_shape(make_step([player], accumulate=accumulate), state, batch)


def test_mistakes_are_named_at_trace_time():
    ones = jnp.ones(4)
    with pytest.raises(ValueError, match=r"'m' must have shape \[b\], got \(\)"):
        bad_step(lambda w, **_: Loss(w))
    with pytest.raises(TypeError, match="must return a Loss"):
        bad_step(lambda w, **_: w * ones)
    with pytest.raises(ValueError, match=r"metric 'g' of 'm' .* got \(2,\)"):
        bad_step(lambda w, **_: Loss(w * ones, {"g": jnp.ones(2)}))
    with pytest.raises(ValueError, match=r"weights.*\(4,\).*got \(3,\)"):
        bad_step(lambda w, **_: Loss(w * ones), {"weights": np.ones(3)})
    with pytest.raises(ValueError, match=r"accumulate=3 .* batch\['x'\].*\(4,\)"):
        bad_step(lambda w, **_: Loss(w * ones), accumulate=3)
    with pytest.raises(ValueError, match="aux changed its structure"):
        bad_step(lambda w, **_: Loss(w * ones, aux={"a": w}))
    with pytest.raises(ValueError, match=r"aux\['a'\] changed its shape"):
        bad_step(lambda w, **_: Loss(w * ones, aux={"a": ones}), aux={"a": ones[:2]})
    with pytest.raises(ValueError, match=r"reports itself: \['m/loss'\]"):
        bad_step(lambda w, **_: Loss(w * ones, {"m/loss": w}))
    with pytest.raises(ValueError, match=r"named twice.*\['finite'\]"):
        bad_step(lambda w, **_: Loss(w * ones, {"finite": w}))
    with pytest.raises(ValueError, match="need players and accumulate"):
        make_step([])
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        Player("m", linear_loss, optax.sgd(0.1), repeats=0)
    with pytest.raises(ValueError, match=r"ema_decay must lie in \[0, 1\), got 1"):
        Player("m", linear_loss, optax.sgd(0.1), ema_decay=1)


def test_states_are_checked_and_widened():
    player = Player("m", linear_loss, optax.adam(0.1), ema_decay=0.5)
    half = {"w": jnp.ones(2, jnp.bfloat16), "n": jnp.arange(2)}
    state = state_of(half, player)
    assert state.params["m"]["w"].dtype == jnp.float32
    assert state.params["m"]["n"].dtype == jnp.int32
    with pytest.raises(TypeError, match=r"typed key from jax\.random\.key"):
        init_state(np.zeros(2, np.uint32), {"m": half}, [player])
    with pytest.raises(ValueError, match=r"lack the players' roles \['m'\]"):
        init_state(jax.random.key(0), {"n": half}, [player])
    with pytest.raises(ValueError, match="name a role twice"):
        init_state(jax.random.key(0), {"m": half}, [player, player])
    with pytest.raises(ValueError, match=r"without params: \['x'\]"):
        state_of(half, player, model_state={"x": 1})
    other = Player("n", linear_loss, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"player 'n' is not in \['m'\]"):
        make_step([other])(state, {})


def test_digest_sees_every_bit():
    base = {"w": np.zeros(4, np.float32), "k": jax.random.key(0)}
    others = [
        base | {"w": np.array([0, 0, 0, 1e-45], np.float32)},
        base | {"w": np.zeros(4, np.int32)},
        base | {"w": np.zeros((2, 2), np.float32)},
        base | {"k": jax.random.key(1)},
        {"v": base["w"], "k": base["k"]},
    ]
    digests = {state_digest(tree) for tree in (base, *others)}
    assert len(digests) == 1 + len(others)
    moved = base | {"w": jnp.zeros(4)}
    assert state_digest(moved) == state_digest(base)
