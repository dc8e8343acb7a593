"""The loop: resume, logging, evaluation, non-finite losses, interruption."""

import json
import os
import signal
import subprocess
import sys
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import training_processes as processes

from kljax.errors import CheckpointError, NonFiniteLoss
from kljax.training import (
    Every,
    Interrupted,
    Loss,
    Player,
    RunFolder,
    fit,
    init_state,
    jit_step,
    make_step,
    state_digest,
)


@pytest.fixture(scope="module")
def step():
    """Compiled once for all states of this file, restored ones included."""
    chex.clear_trace_counter()
    return jit_step(chex.assert_max_traces(processes.game()[0], n=1))


def start():
    return processes.game()[1]


def scalar_game(loss=None, **more):
    """One number pulled to 0, compiled in no time."""
    player = Player("m", loss or (lambda w, **_: Loss(w[None] ** 2)), optax.sgd(0.1))
    state = init_state(jax.random.key(0), {"m": np.float32(1)}, [player], **more)
    return make_step([player]), state


def test_saved_at_5_resumed_ends_at_10_bit_for_bit(step, tmp_path):
    straight = fit(step, start(), processes.batches, steps=10)
    with RunFolder(tmp_path, {}) as run:
        half = fit(step, start(), processes.batches, steps=5, run=run)
        assert int(half.step) == 5
    with RunFolder(tmp_path, {}) as run:
        asked = []

        def batches(n):
            asked.append(n)
            return processes.batches(n)

        resumed = fit(step, start(), batches, steps=10, run=run)
        assert asked == [5, 6, 7, 8, 9]
        assert state_digest(resumed) == state_digest(straight)
        again = fit(step, start(), batches, steps=10, run=run)  # finished: read back
        assert len(asked) == 5
        assert state_digest(again) == state_digest(straight)
        with pytest.raises(CheckpointError, match="has 10 steps, more than steps=7"):
            fit(step, start(), batches, steps=7, run=run)


def test_lines_come_when_due_and_hold_no_clock(tmp_path):
    step, state = scalar_game()
    with RunFolder(tmp_path, {}) as run:
        fit(step, state, lambda n: {}, steps=7, run=run, every=Every(log=3), stage="a")
        lines = run.metrics("a")
    assert [line["step"] for line in lines] == [3, 6, 7]
    assert set(lines[0]) == {"stage", "step", "m/loss", "m/grad_norm"}
    value = np.float32(1)
    for line in lines:
        expected = float(value * np.float32(0.8) ** (line["step"] - 1)) ** 2
        np.testing.assert_allclose(line["m/loss"], expected, rtol=1e-5)
    timing = (tmp_path / "timing.jsonl").read_text().splitlines()
    clock = [json.loads(line) for line in timing]
    assert [entry.get("step") for entry in clock] == [None, 3, 6, 7]
    assert all(entry["steps_per_second"] > 0 for entry in clock[1:])


def test_evaluations_are_lines_and_are_cut_back_too(tmp_path):
    def evaluate(state):
        return {"distance": jnp.abs(state.params["m"])}

    ends = []
    for stop in (None, 5):
        folder = tmp_path / str(stop)

        def batches(n, stop=stop):
            if n == stop:
                raise OSError("the disk went away")
            return {}

        every = Every(checkpoint=3, log=2, evaluate=2)
        options = {"steps": 8, "every": every, "evaluate": evaluate}
        if stop is not None:
            step, state = scalar_game()
            with RunFolder(folder, {}) as run, pytest.raises(OSError, match="went"):
                fit(step, state, batches, run=run, **options)
            assert len((folder / "metrics.jsonl").read_text().splitlines()) > 2
        step, state = scalar_game()
        with RunFolder(folder, {}) as run:
            fit(step, state, lambda n: {}, run=run, **options)
        ends.append((folder / "metrics.jsonl").read_bytes())
    assert ends[0] == ends[1]
    found = [json.loads(line) for line in ends[0].splitlines()]
    assert [line["step"] for line in found if "distance" in line] == [2, 4, 6, 8]


def exploding(w, *, state, frozen, batch, key):
    return Loss(w[None] ** 2 + batch["trap"], {"other": w})


@pytest.mark.parametrize("at", [4, 5])
def test_non_finite_loss_names_step_role_and_last_good_checkpoint(at, tmp_path):
    step, state = scalar_game(exploding)
    step = jit_step(step)

    def batches(n):
        return {"trap": np.float32([np.nan if n + 1 == at else 0])}

    with RunFolder(tmp_path, {}) as run, pytest.raises(NonFiniteLoss) as caught:
        fit(step, state, batches, steps=20, run=run, every=Every(checkpoint=2))
    message = str(caught.value)
    good = tmp_path / "checkpoints" / "train" / f"{(at - 1) // 2 * 2:08d}"
    assert f"step {at}, role m: not finite (m/loss = nan" in message
    assert str(good) in message
    assert good.is_dir() and not good.with_name("00000006").exists()
    with pytest.raises(NonFiniteLoss, match=r"last good checkpoint: none"):
        fit(step, scalar_game(exploding)[1], batches, steps=20)


def test_updates_that_overflow_are_caught():
    huge = optax.chain(optax.scale(-1e30), optax.scale(1e30))
    player = Player("m", lambda w, **_: Loss(w[None]), huge)
    state = init_state(jax.random.key(0), {"m": np.float32(1)}, [player])
    with pytest.raises(
        NonFiniteLoss, match=r"step 1, role unknown: not finite \(the update or "
    ):
        fit(make_step([player]), state, lambda n: {}, steps=3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on_later(number, step, tmp_path):
    before = signal.getsignal(number)

    def batches(n):
        if n == 6 and not resumed:
            os.kill(os.getpid(), number)
        return processes.batches(n)

    resumed = False
    with RunFolder(tmp_path, {}) as run:
        with pytest.raises(Interrupted) as caught:
            fit(step, start(), batches, steps=10, run=run, every=Every(log=2))
        assert caught.value.signal_number == number
        assert caught.value.step == 7
        assert "after step 7 of 10" in str(caught.value)
        assert signal.getsignal(number) == before
        resumed = True
        end = fit(step, start(), batches, steps=10, run=run, every=Every(log=2))
        straight = fit(step, start(), batches, steps=10)
        assert state_digest(end) == state_digest(straight)
        assert [line["step"] for line in run.metrics("train")] == [2, 4, 6, 8, 10]


def test_a_second_signal_does_not_wait(tmp_path):
    step, state = scalar_game()

    def batches(n):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return {}

    with (
        RunFolder(tmp_path, {}) as run,
        pytest.raises(KeyboardInterrupt, match="without a checkpoint"),
    ):
        fit(step, state, batches, steps=3, run=run)


@pytest.fixture
def ctrl_c():
    """Ctrl-C as in a terminal: a job in the background starts with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_late_signal_is_delivered_after_all(tmp_path, ctrl_c):
    step, state = scalar_game()
    with RunFolder(tmp_path, {}) as run:
        fit(step, state, lambda n: {}, steps=1, run=run)
        cut = run.rewind

        def rewind(stage, n):  # the stage is finished: no step will look at the flag
            os.kill(os.getpid(), signal.SIGINT)
            cut(stage, n)

        run.rewind = rewind
        with pytest.raises(KeyboardInterrupt):
            fit(step, scalar_game()[1], lambda n: {}, steps=1, run=run)


def test_other_threads_train_without_signals(tmp_path):
    ends = []

    def work():
        step, state = scalar_game()
        with RunFolder(tmp_path, {}) as run:
            ends.append(fit(step, state, lambda n: {}, steps=2, run=run))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert int(ends[0].step) == 2


def test_a_stacked_sweep_is_logged_saved_and_resumed(tmp_path):
    def loss(w, *, state, frozen, batch, key):
        return Loss((w - frozen)[None] ** 2)

    step, _ = scalar_game(loss)
    step = jax.vmap(step, in_axes=(0, None, 0))
    keys = jax.random.split(jax.random.key(0), 3)
    goals = jnp.arange(3.0)

    def stacked():
        player = Player("m", loss, optax.sgd(0.1))
        return jax.vmap(lambda key: init_state(key, {"m": jnp.float32(1)}, [player]))(
            keys
        )

    def batches(n):
        return {}

    with RunFolder(tmp_path, {}) as run:
        fit(step, stacked(), batches, steps=2, frozen=goals, run=run)
        end = fit(step, stacked(), batches, steps=4, frozen=goals, run=run)
        losses = run.metrics("train")[-1]["m/loss"]
    straight = fit(step, stacked(), batches, steps=4, frozen=goals)
    assert state_digest(end) == state_digest(straight)
    expected = (1 - np.arange(3)) ** 2 * 0.8**6
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    with pytest.raises(
        NonFiniteLoss, match=r"role m: not finite \(m/loss = \[ 1\. nan  1\.\]"
    ):
        fit(
            step, stacked(), batches, steps=4, frozen=goals * jnp.array([1, jnp.nan, 1])
        )


def test_progress_is_told_the_last_step():
    told = []

    class Told:
        def task(self, description, total):
            told.append((description, total))
            return self

        def update(self, step, *, loss=None, rate=None):
            told.append((step, loss, rate))

        def close(self):
            told.append("closed")

    step, state = scalar_game()
    fit(step, state, lambda n: {}, steps=3, progress=Told(), stage="teacher")
    assert told[0] == ("teacher", 3) and told[-1] == "closed"
    n, loss, rate = told[-2]
    assert n == 3 and rate > 0
    np.testing.assert_allclose(loss, 0.8**4, rtol=1e-6)
    told.clear()
    fit(step, scalar_game()[1], lambda n: {}, steps=1, progress=Told())
    assert told[1] == (1, 1.0, None)  # one look has no rate: it is not 0


def test_counts_must_be_positive():
    step, state = scalar_game()
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        fit(step, state, lambda n: {}, steps=0)
    with pytest.raises(ValueError, match=r"every\.log must be at least 1, got 0"):
        fit(step, state, lambda n: {}, steps=1, every=Every(log=0))


def test_importing_the_room_loads_little():
    heavy = ["orbax", "orbax.checkpoint", "rich", "flax", "matplotlib"]
    code = (
        f"import sys, kljax.training; print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
