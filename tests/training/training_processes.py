"""What the tests of this folder run in processes of their own.

A fork server imports JAX and Orbax once; each child is a real process that starts its
own backend and can be killed. `python training_processes.py FOLDER` is the same run as
a plain command.
"""

import json
import multiprocessing
import pathlib
import sys
import time

import numpy as np

SETTINGS = {"steps": 120, "log_every": 4, "checkpoint_every": 10}


def server():
    """Where the children come from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jax", "optax", "orbax.checkpoint", __name__])
    return context


def batches(n, size=8):
    """A pure function of the step."""
    rng = np.random.default_rng([7, n])
    x = rng.normal(size=(size, 3)).astype(np.float32)
    weights = rng.integers(0, 3, size=size).astype(np.float32)
    return {"x": x, "y": x @ np.ones((3, 2), np.float32), "weights": weights}


def game():
    """Two players with noise, repeats, an average, `aux` and model state."""
    import jax
    import jax.numpy as jnp
    import optax

    from kljax.training import Loss, Player, init_state, make_step

    def critic_loss(params, *, state, frozen, batch, key):
        fake = batch["x"] @ state.params["student"]["w"]
        noise = jax.random.normal(key, fake.shape)
        error = fake + 0.1 * noise - batch["x"] @ params["w"]
        seen = {"count": state.model_state["critic"]["count"] + 1}
        return Loss(jnp.sum(error**2, -1), model_state=seen)

    def student_loss(params, *, state, frozen, batch, key):
        fake = batch["x"] @ params["w"]
        pull = fake - batch["x"] @ state.params["critic"]["w"]
        error = jnp.sum((fake - batch["y"]) ** 2, -1)
        value = error + jnp.sum(pull * jax.random.uniform(key, fake.shape), -1)
        running = {"mean": 0.9 * state.aux["mean"] + 0.1 * jnp.mean(error)}
        return Loss(value, {"error": error, "running": running["mean"]}, aux=running)

    players = (
        Player("critic", critic_loss, optax.adam(0.03), repeats=2),
        Player("student", student_loss, optax.adam(0.01), ema_decay=0.99),
    )
    start = {"w": jax.random.normal(jax.random.key(5), (3, 2))}
    state = init_state(
        jax.random.key(3),
        {"student": start, "critic": start},
        players,
        model_state={"critic": {"count": jnp.zeros((), jnp.int32)}},
        aux={"mean": jnp.zeros(())},
    )
    return make_step(players, accumulate=2), state


def train(folder, pause=0.0):
    """One run, resumed if need be; its digest goes into the stage's result."""
    from kljax.training import Every, RunFolder, fit, state_digest

    def slowly(n):
        time.sleep(pause)
        return batches(n)

    step, state = game()
    with RunFolder(folder, SETTINGS) as run:
        every = Every(SETTINGS["checkpoint_every"], log=SETTINGS["log_every"])
        steps = SETTINGS["steps"]
        state = fit(step, state, slowly, steps=steps, every=every, run=run)
        run.finish_stage("train", {"state_digest": state_digest(state)})


def outcome(folder):
    """The digest and the bytes of metrics.jsonl."""
    folder = pathlib.Path(folder)
    result = json.loads((folder / "stages" / "train.json").read_text())
    return result["state_digest"], (folder / "metrics.jsonl").read_bytes()


def sharded_difference(answers):
    """Largest difference after three steps between 4 devices and 1."""
    import jax

    jax.config.update("jax_num_cpu_devices", 4)
    from kljax.training import data_mesh, fit, jit_step, replicate, shard_batch

    step, state = game()
    step, mesh = jit_step(step), data_mesh()
    one = fit(step, state, batches, steps=3)
    state = replicate(game()[1], mesh)
    four = fit(step, state, lambda n: shard_batch(batches(n), mesh), steps=3)
    four, one = (tree.__dict__ | {"key": None} for tree in (four, one))
    far = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), four, one)
    answers.put((mesh.size, max(jax.tree.leaves(far))))


def joined(answers, folder, port, number):
    """One of two processes with two devices each, training together."""
    import jax

    jax.config.update("jax_num_cpu_devices", 2)
    from kljax import training

    training.start_processes(f"127.0.0.1:{port}", 2, number)
    mesh = training.data_mesh()
    step, state = game()
    state = training.replicate(state, mesh)

    def sharded(n):
        return training.shard_batch(batches(n), mesh)

    with training.RunFolder(folder, {}) as run:
        every = training.Every(4, log=2)
        state = training.fit(step, state, sharded, steps=6, run=run, every=every)
        again = training.fit(
            step, training.replicate(game()[1], mesh), sharded, steps=6, run=run
        )
    same = training.state_digest(state) == training.state_digest(again)
    answers.put((number, mesh.size, same, np.asarray(state.params["student"]["w"])))
    jax.distributed.shutdown()


if __name__ == "__main__":
    train(sys.argv[1], float(sys.argv[2]))
