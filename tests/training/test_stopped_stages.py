"""A stage asked to end at any of its phases: nothing that was trained is lost."""

import os
import pathlib
import shutil
import signal
import threading

import jax
import numpy as np
import optax
import pytest

from kljax.training import (
    Checkpoints,
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

STEPS = 8
PLAYERS = [
    Player(
        "m",
        lambda w, *, batch, **_: Loss((w - batch["x"]) ** 2),
        optax.adam(0.1),
        ema_decay=0.9,
    )
]
STEP = jit_step(make_step(PLAYERS))


def stage(folder, asked):
    """As an experiment runs it: trained, then its result stored."""
    state = init_state(jax.random.key(0), {"m": np.float32(1)}, PLAYERS)

    def batches(n):
        asked.append(n)
        return {"x": np.float32([n, 1])}

    def evaluate(state):
        return {"distance": abs(state.params["m"])}

    every = Every(checkpoint=4, log=2, evaluate=3)
    options = {"steps": STEPS, "every": every, "evaluate": evaluate}
    with RunFolder(folder, {}, env={}) as run:
        if (found := run.stage_result("train")) is None:
            state = fit(STEP, state, batches, run=run, **options)
            found = {"digest": state_digest(state)}
            run.finish_stage("train", found)
    return found, (folder / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return stage(tmp_path_factory.mktemp("undisturbed"), [])


@pytest.fixture
def like_the_command_line(tmp_path):
    """Outside the loop SIGTERM is a `KeyboardInterrupt`, as the command line has it.

    A process without that handler ends there and then. What was on the disk at that
    moment is therefore all that it leaves.
    """
    left = []

    def handler(number, frame):
        left.append([p.name for p in sorted(tmp_path.glob("checkpoints/train/0*"))])
        heard.set()
        raise KeyboardInterrupt("SIGTERM")

    heard.clear()
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, handler)
    yield left
    for number, known in before.items():
        signal.signal(number, known)


heard = threading.Event()


def ask(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def ask_and_linger():
    """In the writing thread: time enough for the main one to leave, if it would."""
    ask()
    heard.wait(0.1)


def around(monkeypatch, owner, name, when, before=None, after=None):
    """Calls `before` and `after` the method, once, where `when(*arguments)` holds."""
    plain, todo = getattr(owner, name), [True]

    def wrapped(self, *arguments):
        due = bool(todo) and when(self, *arguments)
        if due:
            todo.clear()
        if due and before:
            before()
        result = plain(self, *arguments)
        if due and after:
            after()
        return result

    monkeypatch.setattr(owner, name, wrapped)


def is_step(number):
    return lambda self, step, *rest: step == number


def is_result(self, target):
    return pathlib.Path(target).name == "train.json"


def always(*_):
    return True


# Where the signal comes, and how many steps at least are saved by then.
PHASES = {
    "restoring": ((Checkpoints, "restore", always), 0),
    "a periodic checkpoint": ((Checkpoints, "save", is_step(4)), 4),
    "its write": ((Checkpoints, "_publish", is_step(4)), 4),
    "the last checkpoint": ((Checkpoints, "save", is_step(STEPS)), STEPS),
    "the final write": ((Checkpoints, "_publish", is_step(STEPS)), STEPS),
    "closing": ((Checkpoints, "close", always), STEPS),
    "the result": ((RunFolder, "finish_stage", always), STEPS),
    "the result's rename": ((pathlib.Path, "replace", is_result), STEPS),
}
CASES = [(name, side) for name in PHASES for side in ("before", "after")]


@pytest.mark.parametrize(("name", "side"), CASES)
def test_asked_in_any_phase_nothing_is_lost(
    name, side, undisturbed, like_the_command_line, monkeypatch, tmp_path
):
    (owner, method, when), least = PHASES[name]
    asked = []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        asking = ask_and_linger if method == "_publish" else ask
        around(patch, owner, method, when, **{side: asking})
        stage(tmp_path, asked)
        signal.raise_signal(signal.SIGTERM)  # the stage was over before it came
    trained = len(asked)
    assert trained >= least
    for names in like_the_command_line:
        assert names[-1:] == [f"{trained:08d}"], "it ended before the write did"
    again = []
    assert stage(tmp_path, again) == undisturbed
    assert again == list(range(trained, STEPS)), "a trained step was trained again"


@pytest.mark.parametrize("at", [0, 1, 5, STEPS - 1])
def test_asked_in_a_step_it_is_the_last_one(
    at, undisturbed, like_the_command_line, monkeypatch, tmp_path
):
    class Asking(list):
        def append(self, n):
            super().append(n)
            if n == at:
                ask()

    with pytest.raises(
        Interrupted, match=f"after step {at + 1} of 8; saved in"
    ) as stop:
        stage(tmp_path, Asking())
    assert "was stopped by a request to end (SIGTERM)" in str(stop.value)
    again = []
    assert stage(tmp_path, again) == undisturbed
    assert again == list(range(at + 1, STEPS))


def test_before_the_first_step_there_is_nothing_to_save(
    like_the_command_line, monkeypatch, tmp_path
):
    around(monkeypatch, Checkpoints, "restore", always, before=ask)
    with pytest.raises(Interrupted, match="after step 0 of 8; nothing to save yet"):
        stage(tmp_path, asked := [])
    assert not asked


@pytest.mark.parametrize("where", [4, STEPS])
def test_asked_twice_while_it_writes(
    where, undisturbed, like_the_command_line, monkeypatch, tmp_path
):
    def twice():
        ask(signal.SIGINT)
        ask(signal.SIGINT)

    asked = []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as stop:
        around(patch, Checkpoints, "save", is_step(where), after=twice)
        stage(tmp_path, asked)
    assert "stopped at once by Ctrl-C (SIGINT), the second request" in str(stop.value)
    again = []
    assert stage(tmp_path, again) == undisturbed
    assert again == list(range(where, STEPS)), "the write was not brought to its end"


def saved_tree(value):
    return {"w": np.full(3, value, np.float32)}


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for step in (3, 5):
            checkpoints.save(step, saved_tree(step))
    return folder


@pytest.mark.parametrize(
    ("again", "fatal"), [(False, n) for n in range(3)] + [(True, n) for n in range(3)]
)
def test_a_kill_at_any_rename_loses_no_written_checkpoint(
    again, fatal, two_saved, monkeypatch, tmp_path
):
    """From the fatal rename on nothing happens any more, as after `kill -9`."""
    last = 5 if again else 10  # written over, or beside what must go for it
    shutil.copytree(two_saved, tmp_path, dirs_exist_ok=True)
    calls = []

    def dying(plain):
        def moved(self, target):
            calls.append(target)
            if len(calls) > fatal:
                raise OSError("killed")
            return plain(self, target)

        return moved

    checkpoints = Checkpoints(tmp_path)
    with monkeypatch.context() as patch:
        for name in ("rename", "replace"):
            patch.setattr(pathlib.Path, name, dying(getattr(pathlib.Path, name)))
        checkpoints.save(last, saved_tree(99))
        checkpoints._finisher.join()
    checkpoints._writer.close()
    with Checkpoints(tmp_path) as later:
        found = later.restore(saved_tree(0))["w"]
        names = {path.name for path in tmp_path.iterdir()}
    # Before the new one is in place under its name the old one is as good.
    expected = {5, 99} if again and len(calls) <= 1 else {99}
    assert float(found[0]) in expected
    assert not [name for name in names if name.startswith((".", "LAST."))]
