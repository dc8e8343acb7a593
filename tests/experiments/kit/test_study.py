"""Stages that are read back, sweeps in one program or many, what made a stage."""

import json
import multiprocessing
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import kit
from kljax.errors import CheckpointError
from kljax.training import Loss, Player, init_state, silent, stacked


@pytest.fixture
def open_study(tmp_path):
    """`open_study(name)`: a run in a folder; the one before is closed."""
    opened = []

    def make(name="run", config=None, **more):
        for study in opened:
            study.folder.close()
        config = config or kit.Settings()
        opened.append(kit.Study(config, tmp_path / name, silent(), **more))
        return opened[-1]

    yield make
    for study in opened:
        study.folder.close()


VALUE = {  # on import no array of JAX: it is imported before a process is forked
    "a": np.eye(2), "b": 3, "c": [1.5, float("nan"), float("-inf")], "word": "nan",
    "rows": {("x", 0): {"y": np.float32(2)}, 7: None}, "pair": (1, [np.arange(3)]),
    "flag": True, "array": {"array": "no"},
}  # fmt: skip


def test_a_stage_is_worked_out_once_and_comes_back_as_it_was(open_study):
    calls = []
    work = lambda: calls.append(1) or VALUE | {"jax": jnp.ones(2)}
    for _ in range(2):
        found = open_study().once(("kind", "s/1", 0), work)
        assert found["a"].tolist() == [[1, 0], [0, 1]] and found["a"].dtype == float
        assert np.isnan(found["c"][1]) and found["c"][2] == -np.inf
        assert isinstance(found["jax"], np.ndarray) and found["jax"].sum() == 2
        assert found["word"] == "nan" and found["array"] == {"array": "no"}
        assert found["rows"] == {("x", 0): {"y": 2.0}, 7: None}
        assert found["pair"][0] == 1 and found["pair"][1][0].tolist() == [0, 1, 2]
        assert isinstance(found["pair"], tuple) and found["flag"] is True
    assert len(calls) == 1
    study = open_study()
    with pytest.raises(CheckpointError, match="call one of them otherwise"):
        study.once(("kind", "s-1", 0), work)
    with pytest.raises(TypeError, match="no JSON form"):
        study.once("other", lambda: object())


def test_members_that_learn_alone_come_back_by_their_names(open_study):
    """Steps of SGD on ½ (w − goal)² with noise of their own keys, in NumPy."""

    def loss(params, own, key):
        noise = own["scale"] * jax.random.normal(key, ())
        return Loss(0.5 * (params["w"] - own["goal"]) ** 2 + noise * params["w"], {})

    kinds = (("near", 1.0, 0.0), ("far", 4.0, 0.0), ("loud", 1.0, 1.0))
    members = {
        (name, seed): {"start": {"w": np.zeros(3, np.float32)}, "seed": seed,
                       "goal": np.full(3, goal, np.float32), "scale": scale}
        for seed in (0, 1)
        for name, goal, scale in kinds
    }  # fmt: skip
    found = open_study().learn("alone", loss, members, optax.sgd(0.3), steps=2)
    assert set(found) == set(members)
    for seed in (0, 1):
        # The mean over three weights has a third of each one's slope.
        for name, goal in (("near", 1.0), ("far", 4.0)):
            want = np.full(3, goal * (1 - (1 - 0.3 / 3) ** 2))
            np.testing.assert_allclose(found[name, seed]["w"], want, rtol=1e-6)
    assert abs(found["loud", 0]["w"] - found["loud", 1]["w"]).max() > 1e-3


def test_a_table_of_levels_shows_every_level_and_their_average(open_study):
    rows = {
        (m, s, t): {"x": s + 2.0 * (m == "b") + 10 * (t == "sort")}
        for m in ("a_1", "b")
        for s in range(3)
        for t in ("add", "sort")
    }
    study, found = open_study(), kit.Scores(rows, factor="tasks")
    study.level_table("Points", found, "x", more={"own": len}, caption="Of both.")
    [table] = study.tables
    assert table.columns == ("", "add", "sort", "average", "own")
    # Half of Student's interval of 0, 1, 2 is 4.303 / sqrt(3).
    assert table.rows == (
        ("a 1", 1.0, 11.0, "6 ± 2.5", 3), ("b", 3.0, 13.0, "8 ± 2.5", 1)
    )  # fmt: skip
    assert table.caption.endswith("± is half of the 95 % interval. Of both.")
    with pytest.raises(KeyError, match="unknown metric 'y'"):
        study.level_table("Points", found, "y")
    alone = kit.Scores({k: v for k, v in rows.items() if k[2] == "add"}, factor="tasks")
    study.level_table("Points", alone, "x")
    assert study.tables[1].columns == ("", "add")
    assert "3 seeds and 1 task;" in study.tables[1].caption


def test_costs_keep_the_seconds_of_what_was_interrupted(open_study):
    def stopped():
        sum(i * i for i in range(2_000_000))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_study().once(("slow", 0), stopped)
    study = open_study()
    before = study.stages.costs()["slow"][0]
    assert before > 0.02
    inner = lambda: study.once("inner", lambda: sum(i * i for i in range(1_000_000)))
    study.once(("slow", 0), lambda: [inner(), sum(i * i for i in range(1_000_000))][1])
    costs = study.stages.costs()
    assert costs["slow"][0] > before and costs["inner"][0] > 0
    once = json.dumps(open_study().stages.costs())
    assert json.dumps(costs) == once


def test_what_is_pinned_must_not_change(open_study):
    study = open_study()
    study.pin(data="abc")
    assert study.metrics == {"data": "abc"}
    open_study().pin(data="abc", more=1)
    with pytest.raises(CheckpointError, match="data = abc, now it is abd"):
        open_study().pin(data="abd")


def test_a_stage_of_other_code_is_said_so(open_study, tmp_path):
    source = tmp_path / "paper.py"
    source.write_text("one = 1\n")
    options = {"sources": [source], "claims": "c1"}
    study = open_study(**options)
    study.once("old", lambda: 1)
    assert study.stages.remarks() == []
    source.write_text("one = 2\n")
    study = open_study(sources=[source], claims="c2")
    study.once("old", lambda: 2)
    study.once("new", lambda: 2)
    first, second = study.stages.remarks()
    assert first.startswith("stage old: was made by other code (commit ")
    assert second.startswith("stage old: is older than the claims")
    (made,) = [one for one in study.stages.sessions() if one["stages"] == ["new"]]
    assert made["versions"]["jax"] == jax.__version__ and made["claims"] == "c2"


# ------------------------------------------------------------------ training


def player(rate):
    def loss(w, *, state, frozen, batch, key):
        noise = 0.01 * jax.random.normal(key, w.shape)
        gap = jnp.square(w + noise - frozen["to"] * batch["x"]).sum()
        return Loss(jnp.broadcast_to(gap, batch["x"].shape[:1]))

    return Player("m", loss, optax.adam(rate))


def begun(own):
    start = jax.random.normal(jax.random.key(own["seed"]), (3,))
    return init_state(jax.random.key(own["seed"]), {"m": start}, [player(0.1)])


MEMBERS = {
    ("slow", 0): {"rate": 0.01, "seed": 0},
    ("fast", 0): {"rate": 0.3, "seed": 0},
    ("fast", 1): {"rate": 0.3, "seed": 1},
}


def swept(study, members=MEMBERS, state=begun, label="train", **options):
    return study.sweep(
        label,
        lambda own: [player(own["rate"])],
        members,
        state,
        steps=6,
        frozen={"to": jnp.ones(())},
        log_every=2,
        evaluate=lambda state: {"size": jnp.abs(state.params["m"]).sum()},
        evaluate_every=3,
        **options,
    )


@pytest.mark.parametrize("each", [False, True])
def test_together_and_one_by_one_are_the_same(open_study, each):
    asked = []

    def batches(n, label=None):
        asked.append(label)
        shift = 0 if label is None else label[1] + len(label[0])
        return {"x": np.full((4, 1), n + shift, np.float32)}

    found = []
    for together in (True, False):
        asked.clear()
        study = open_study(str(together))
        state = swept(study, batches=batches, each=each, together=together)
        # No member's batches are made for another one.
        assert len(asked) == (6 if together and not each else 18)
        steps, size = study.curve("train", "size")
        assert steps.tolist() == [3, 6] and size.shape == (2, 3)
        _, loss = study.curve("train", "m/loss")
        found.append((np.asarray(state.params["m"]), size, loss))
    for one, other in zip(*found):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    ends = found[0][0]
    assert np.abs(ends[0] - ends[1]).max() > 0.1  # a rate of its own
    with pytest.raises(KeyError, match="logged no 'siz'"):
        study.curve("train", "siz")


def test_a_member_that_is_inserted_takes_nobodys_place(open_study):
    first = swept(
        open_study(), together=False, batches=lambda n: {"x": np.ones((4, 1))}
    )
    more = {("new", 5): {"rate": 0.1, "seed": 5}} | MEMBERS
    calls = []
    again = swept(
        open_study(),
        more,
        together=False,
        batches=lambda n: calls.append(n) or {"x": np.ones((4, 1))},
    )
    assert calls == list(range(6))  # the new one alone was trained
    np.testing.assert_array_equal(again.params["m"][1:], first.params["m"])
    swept(open_study("one"), batches=lambda n: {"x": np.ones((4, 1))})
    with pytest.raises(CheckpointError, match=r"train/members"):
        swept(open_study("one"), more, batches=lambda n: {"x": np.ones((4, 1))})


def test_states_that_are_given_live_on(open_study):
    states = stacked([begun(own) for own in MEMBERS.values()])
    x = lambda n: {"x": np.ones((4, 1), np.float32)}
    ends = [
        swept(open_study(str(together)), state=states, batches=x, together=together)
        for together in (True, False)
    ]
    assert np.isfinite(states.params["m"]).all()  # not donated
    np.testing.assert_allclose(*(one.params["m"] for one in ends), rtol=1e-6)


def whole(study, killed=""):
    """Every kind of stage; the process is killed in the middle of one of them."""

    def batches_in(phase):
        def batches(n):
            if phase == killed and n == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return {"x": np.full((4, 1), n, np.float32)}

        return batches

    def work():
        if killed == "once":
            os.kill(os.getpid(), signal.SIGKILL)
        return np.arange(3.0)

    found = [study.once("first", lambda: np.ones(3)) + study.once("second", work)]
    state, frozen = begun({"seed": 0}), {"to": jnp.ones(())}
    options = {"steps": 6, "frozen": frozen}
    state = study.fit("fit", [player(0.1)], state, batches_in("fit"), **options)
    found.append(state.params["m"])
    for together in (True, False):
        batches = batches_in("together" if together else "apart")
        label = f"sweep {together}"
        state = swept(study, batches=batches, together=together, label=label)
        found.append(state.params["m"])
    return [np.asarray(one).tolist() for one in found]


def told(folder, killed, answer):
    study = kit.Study(kit.Settings(checkpoint_every=1), folder, silent())
    answer.send(whole(study, killed))


def test_what_was_killed_goes_on(tmp_path):
    # A fork server imports once; each child is a process that can be killed.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jax", "optax", "orbax.checkpoint", __name__])

    def go(run, killed=""):
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=told, args=(tmp_path / run, killed, there))
        child.start()
        there.close()
        try:
            return here.recv()
        except EOFError:  # killed before it could answer
            return None
        finally:
            child.join()
            assert child.exitcode == (-signal.SIGKILL if killed else 0)

    for killed in ("once", "fit", "together", "apart"):
        assert go("killed", killed) is None, killed
    assert go("killed") == go("whole") is not None
    names = [
        sorted(path.name for path in (tmp_path / run / "stages").glob("*.json"))
        for run in ("killed", "whole")
    ]
    assert names[0] == names[1] and len(names[0]) == 8
