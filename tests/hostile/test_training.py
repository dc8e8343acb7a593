"""What a careful user gives the training room by mistake: an error that says what fits.

Each row is a mistake, the type of its error and words that must stand in the message.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kljax.errors import CheckpointError
from kljax.training import (
    Checkpoints,
    Loss,
    Player,
    RunFolder,
    data_mesh,
    fit,
    init_state,
    jit_step,
    make_step,
    rich_progress,
    shard_batch,
)

X = {"x": np.ones(4, np.float32)}


def good(w, *, state, frozen, batch, key):
    return Loss(w * batch["x"])


def player(loss=good, role="m", optimizer=optax.sgd(0.1), **more):  # noqa: B008
    return Player(role, loss, optimizer, **more)


def start(**more):
    players = [player(**more)]
    return init_state(jax.random.key(0), {"m": np.float32(1)}, players)


def fitted(**changed):
    given = {"step": make_step([player()]), "state": start(), "batches": lambda n: X}
    return fit(**(given | {"steps": 1} | changed))


def trained(loss, batch=X, **more):
    """One step of a loss, as far as shapes go: nothing is compiled."""
    step = make_step([player(loss)], **more)
    return jax.eval_shape(step, start(), batch)


def begun(params, **more):
    return init_state(jax.random.key(0), params, [player(**more)])


def closed(folder):
    with RunFolder(folder, {}, env={}) as run:
        return run


def consumed():
    state = start()
    jit_step(make_step([player()]))(state, X)
    return state


def taken(folder):
    (folder / "file").write_text("")
    RunFolder(folder / "file", {})


def shared():
    state = start()
    fitted(state=state, frozen={"teacher": state.params["m"]})


def returning(value):
    return lambda w, **_: value


ROWS = {
    # ---- what fit is given
    "a list of batches": (
        lambda _: fitted(batches=[X]),
        TypeError,
        r"batches must be a function .*lambda n: data\[n % len\(data\)\], got a list",
    ),
    "one batch": (lambda _: fitted(batches=X), TypeError, "got a dict of 1"),
    "an iterator": (
        lambda _: fitted(batches=iter([X])),
        TypeError,
        "batches must .* iterator could not be resumed",
    ),
    "batches without n": (
        lambda _: fitted(batches=lambda: X),
        TypeError,
        r"batches\(n\) -> dict of arrays, got <lambda>\(\)",
    ),
    "no batch": (
        lambda _: fitted(batches=lambda n: None),
        TypeError,
        r"batches\(0\) must be a dict of arrays \[b, ...\], got None",
    ),
    "text in a batch": (
        lambda _: fitted(batches=lambda n: {"x": np.array(["a"])}),
        TypeError,
        r"batches\(0\)\['x'\] must be a NumPy or JAX array of numbers",
    ),
    "run as a path": (
        lambda _: fitted(run="runs/a"),
        TypeError,
        r"run must be a RunFolder or None, got the str 'runs/a': write with RunFolder",
    ),
    "a closed run": (
        lambda folder: fitted(run=closed(folder)),
        ValueError,
        "run is closed: call fit inside `with`",
    ),
    "progress=True": (
        lambda _: fitted(progress=True),
        TypeError,
        r"progress must come from rich_progress\(\) or silent\(\), .* got True",
    ),
    "progress not called": (
        lambda _: fitted(progress=rich_progress),
        TypeError,
        "progress must come from .* got the function rich_progress",
    ),
    "no steps": (lambda _: fitted(steps=0), ValueError, "at least 1, got 0"),
    "steps below 0": (lambda _: fitted(steps=-2), ValueError, "at least 1, got -2"),
    "steps as a float": (
        lambda _: fitted(steps=3.0),
        TypeError,
        r"steps must be an int, got the float 3\.0",
    ),
    "steps as a bool": (lambda _: fitted(steps=True), TypeError, "an int, got True"),
    "a loss as step": (
        lambda _: fitted(step=good),
        TypeError,
        r"step must be a function from make_step\(players\), got good\(w, \*, state",
    ),
    "a step of one answer": (
        lambda _: fitted(step=lambda state, batch, frozen=None: state),
        TypeError,
        r"step must return \(state, metrics\), got a value of type TrainState",
    ),
    "params as state": (
        lambda _: fitted(state={"m": 1.0}),
        TypeError,
        "state must be a TrainState from init_state, got a dict of 1",
    ),
    "a state that is gone": (
        lambda _: fitted(state=consumed()),
        ValueError,
        "state was consumed by a step before .* go on with the state that came back",
    ),
    "a state as frozen": (
        lambda _: shared(),
        ValueError,
        "frozen holds arrays of state, which the step consumes: pass copies",
    ),
    "a name as frozen": (
        lambda _: fitted(frozen={"teacher": "gpt2"}),
        TypeError,
        r"frozen\['teacher'\] must be a NumPy or JAX array of numbers, got the str",
    ),
    "an evaluation of nothing": (
        lambda _: fitted(evaluate=lambda state: None),
        TypeError,
        "evaluate must return a dict of named numbers, got None",
    ),
    "stage as a number": (
        lambda folder: fitted(run=RunFolder(folder, {}, env={}), stage=3),
        TypeError,
        "stage must be text, got the int 3",
    ),
    # ---- losses
    "a loss without state": (
        lambda _: trained(lambda w, *, frozen, batch, key: good),
        TypeError,
        r"loss of 'm' must be a function loss\(params, \*, state, frozen, batch, key\) "
        r"-> Loss, got <lambda>\(w, \*, frozen, batch, key\): .*'state'",
    ),
    "a loss of two positions": (
        lambda _: trained(lambda w, batch: good),
        TypeError,
        r"got <lambda>\(w, batch\)",
    ),
    "a loss that wants more": (
        lambda _: trained(lambda w, y, **_: good),
        TypeError,
        "missing a required argument: 'y'",
    ),
    "no loss": (lambda _: trained(None), TypeError, "-> Loss, got None"),
    "a bare array": (
        lambda _: trained(returning(jnp.ones(4))),
        TypeError,
        r"must return a Loss, got an array of float32 \(4,\): write return Loss\(",
    ),
    "a tuple": (
        lambda _: trained(returning((jnp.ones(4), {}))),
        TypeError,
        "must return a Loss, got a tuple of 2",
    ),
    "nothing returned": (
        lambda _: trained(returning(None)),
        TypeError,
        "must return a Loss, got None",
    ),
    "the batch reduced": (
        lambda _: trained(returning(Loss(jnp.ones(())))),
        ValueError,
        r"must have shape \[b\], got \(\): reduce the event axes, leave the batch axis",
    ),
    "an event axis left": (
        lambda _: trained(returning(Loss(jnp.ones((4, 2))))),
        ValueError,
        r"must have shape \[b\], got \(4, 2\)",
    ),
    "complex losses": (
        lambda _: trained(returning(Loss(jnp.ones(4, jnp.complex64)))),
        TypeError,
        "per_example of 'm' must be an array of real numbers, got an array of complex",
    ),
    "no losses": (
        lambda _: trained(returning(Loss(None))),
        TypeError,
        "per_example of 'm' must be an array of real numbers, got None",
    ),
    "metrics as a list": (
        lambda _: trained(returning(Loss(jnp.ones(4), [1.0]))),
        TypeError,
        "metrics of 'm' must be a dict of named arrays, got a list of 1",
    ),
    "a metric of words": (
        lambda _: trained(returning(Loss(jnp.ones(4), {"a": "b"}))),
        TypeError,
        "metric 'a' of 'm' must be an array of real numbers, got the str 'b'",
    ),
    "one weight for all": (
        lambda _: trained(good, X | {"weights": np.float32(1)}),
        ValueError,
        r"batch\['weights'\] must have the shape \(4,\) .* got \(\)",
    ),
    "weights that are None": (
        lambda _: trained(good, X | {"weights": None}),
        TypeError,
        r"batch\['weights'\] must be an array of real numbers, got None",
    ),
    # ---- players and states
    "a player alone": (
        lambda _: make_step(player()),
        TypeError,
        r"players must be a list of Player, .* write \[Player\(...\)\]",
    ),
    "a role twice": (
        lambda _: make_step([player(), player()]),
        ValueError,
        r"name a role twice \(use `repeats`\)",
    ),
    "a role that the state lacks": (
        lambda _: fitted(step=make_step([player(role="n")])),
        ValueError,
        r"player 'n' is not in \['m'\]",
    ),
    "an optimizer not called": (
        lambda _: player(optimizer=optax.adam),
        TypeError,
        r"must be an optax transformation such as optax.adam\(1e-3\), got the function",
    ),
    "a rate as optimizer": (
        lambda _: player(optimizer=0.1),
        TypeError,
        r"optimizer of 'm' must be an optax transformation .* got the float 0\.1",
    ),
    "an optimizer that wants more": (
        lambda _: trained_by(heated()),
        TypeError,
        "optimizer of 'm' cannot be updated from gradients, .*'temperature'",
    ),
    "an optimizer whose state grows": (
        lambda _: trained_by(growing()),
        ValueError,
        "the optimizer's state of 'm' changed its structure",
    ),
    "a schedule that takes no count": (
        lambda _: trained_by(optax.adam(lambda: 0.1)),
        TypeError,
        "optimizer of 'm' cannot be updated .* 0 positional arguments but 1 was given",
    ),
    "a mask of other leaves": (
        lambda _: begun({"m": {"w": 1.0}}, optimizer=masked("v")),
        TypeError,
        "optimizer of 'm' cannot start from the parameters",
    ),
    "an average of words": (
        lambda _: player(ema_decay="0.9"),
        TypeError,
        "ema_decay must be a number or None, got the str '0.9'",
    ),
    "accumulate as a float": (
        lambda _: make_step([player()], accumulate=2.0),
        TypeError,
        r"accumulate must be an int, got the float 2\.0",
    ),
    "an unknown type": (
        lambda _: make_step([player()], compute_dtype="bf16"),
        TypeError,
        "compute_dtype must be a floating-point type .* got 'bf16'",
    ),
    "params of no role": (
        lambda _: begun({"w": np.ones(3)}),
        ValueError,
        r"params lack the players' roles \['m'\], they have \['w'\]",
    ),
    "params as an array": (
        lambda _: begun(np.ones(3)),
        TypeError,
        r"params must be a dict by role, got an array of float64 \(3,\)",
    ),
    "params that are empty": (
        lambda _: begun({"m": {}}),
        ValueError,
        r"params\['m'\] holds no array",
    ),
    "params of words": (
        lambda _: begun({"m": {"w": "x"}}),
        TypeError,
        r"params\['m'\]\['w'\] must be a NumPy or JAX array of numbers",
    ),
    "integers to train": (
        lambda _: jax.eval_shape(make_step([player()]), begun({"m": np.int32(1)}), X),
        TypeError,
        r"params\['m'\] has type int32 and cannot be trained",
    ),
    "several keys": (
        lambda _: init_state(
            jax.random.split(jax.random.key(0)), {"m": 1.0}, [player()]
        ),
        ValueError,
        r"key must be one key, got shape \(2,\)",
    ),
    # ---- folders and meshes
    "a file as folder": (taken, CheckpointError, "cannot be a run's folder: .*exists"),
    "a run of no config": (
        lambda folder: RunFolder(folder, "adam"),
        TypeError,
        "config must be a dict .* got the str 'adam'",
    ),
    "a run of no path": (
        lambda _: RunFolder(None, {}),
        TypeError,
        "path must be a folder's path, got None",
    ),
    "half a checkpoint to keep": (
        lambda folder: Checkpoints(folder, keep=2.5),
        TypeError,
        r"keep must be an int, got the float 2\.5",
    ),
    "a list to shard": (
        lambda _: shard_batch([X], data_mesh()),
        TypeError,
        r"batch must be a dict of arrays \[b, ...\], got a list of 1",
    ),
}


def masked(name):
    return optax.masked(optax.adam(0.1), {name: True})


def growing():
    def update(updates, state, params=None):
        return updates, (*state, jnp.zeros(()))

    return optax.GradientTransformation(lambda params: (), update)


def heated():
    def update(updates, state, params=None, *, temperature):
        return updates, state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def trained_by(optimizer):
    state = start(optimizer=optimizer)
    step = make_step([player(optimizer=optimizer)])
    return jax.eval_shape(step, state, X)


@pytest.mark.parametrize("name", ROWS)
def test_a_mistake_is_named(name, tmp_path):
    mistake, kind, words = ROWS[name]
    with pytest.raises(kind, match=words):
        mistake(tmp_path)
