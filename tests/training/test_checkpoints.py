"""Checkpoints: exact, asynchronous, whole or refused."""

import logging
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.errors import CheckpointError
from kljax.training import Checkpoints, state_digest


def tree(value=0.0):
    return {
        "w": jnp.full((3, 2), float(value)),
        "half": jnp.full(3, value, jnp.bfloat16),
        "n": jnp.int32(value),
        "flag": jnp.array([True, False]),
        "empty": jnp.zeros((0, 3)),
        "key": jax.random.key(int(value)),
        "keys": jax.random.split(jax.random.key(1, impl="rbg"), 2),
        "host": np.arange(3.0, dtype=np.float32) + value,
        "none": None,
    }


def saved(folder, *steps, **more):
    with Checkpoints(folder, **more) as checkpoints:
        for step in steps:
            checkpoints.save(step, tree(step))
    return pathlib.Path(folder)


def test_every_kind_of_leaf_comes_back(tmp_path):
    saved(tmp_path, 5, 7)
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore(tree())
        assert checkpoints.last == tmp_path / "00000007"
    assert state_digest(found) == state_digest(tree(7))
    assert found["keys"].dtype == tree()["keys"].dtype
    assert found["half"].dtype == jnp.bfloat16
    assert not found["w"].committed


def test_nothing_saved_gives_the_template(tmp_path):
    template = tree(3)
    with Checkpoints(tmp_path / "none") as checkpoints:
        assert checkpoints.restore(template) is template
        assert checkpoints.last is None
    assert not (tmp_path / "none").exists()


def test_the_copy_is_taken_before_the_state_is_donated(tmp_path):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros((300, 300))
    with Checkpoints(tmp_path) as checkpoints:
        for n in range(4):
            checkpoints.save(n, {"x": x})
            for _ in range(3):
                x = step(x)
            checkpoints.wait()
            found = checkpoints.restore({"x": jnp.ones((300, 300))})["x"]
            assert np.unique(found).tolist() == [3 * n]


def test_old_ones_go_and_leftovers_of_a_kill_are_ignored(tmp_path):
    saved(tmp_path, 1, 2, 3, 4, keep=3)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2, 3, 4]
        (tmp_path / ".writing-00000009" / "state").mkdir(parents=True)
        (tmp_path / ".old-00000001").mkdir()
        (tmp_path / "LAST.new").write_text("9")
        (tmp_path / "LAST").write_text("3")  # killed before this file was replaced
        assert state_digest(checkpoints.restore(tree())) == state_digest(tree(4))
    assert {p.name for p in tmp_path.iterdir()} == {
        *("00000002", "00000003", "00000004"),
        "LAST",
    }
    with pytest.raises(ValueError, match="keep must be at least 2, got 1"):
        Checkpoints(tmp_path, keep=1)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def altered(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [truncated, altered, pathlib.Path.unlink])
def test_any_file_damaged_falls_back_to_the_one_before(harm, tmp_path, caplog):
    good = saved(tmp_path / "good", 5, 10)
    files = [p.relative_to(good) for p in good.glob("00000010/**/*") if p.is_file()]
    assert len(files) > 5
    (tmp_path / "bad").mkdir()
    for number, name in enumerate(files):
        bad = tmp_path / "bad" / str(number)
        shutil.copytree(good, bad)
        if not (bad / name).stat().st_size:
            continue
        harm(bad / name)
        caplog.clear()
        with Checkpoints(bad) as checkpoints, caplog.at_level(logging.WARNING):
            if number:  # reading costs more than finding the damage
                assert checkpoints._choose(tree()) == 5
            else:
                assert state_digest(checkpoints.restore(tree())) == state_digest(
                    tree(5)
                )
        assert "00000010 is damaged" in caplog.text
        assert "falling back to step 5" in caplog.text


def test_the_damaged_one_is_written_anew(tmp_path):
    saved(tmp_path, 5, 10)
    truncated(tmp_path / "00000010" / "manifest.json")
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(tree())["n"]) == 5
        checkpoints.save(10, tree(10))
        checkpoints.wait()
        assert int(checkpoints.restore(tree())["n"]) == 10


def test_nothing_whole_raises_and_names_the_remedy(tmp_path):
    saved(tmp_path, 5, 10)
    for step in ("00000005", "00000010"):
        truncated(tmp_path / step / "state" / "_METADATA")
    before = sorted(tmp_path.rglob("*"))
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match="no whole checkpoint") as caught,
    ):
        checkpoints.restore(tree())
    message = str(caught.value)
    assert "state/_METADATA is truncated or altered" in message
    assert str(tmp_path / "00000005") in message and "delete that folder" in message
    assert sorted(tmp_path.rglob("*")) == before
    for step in ("00000005", "00000010"):
        shutil.rmtree(tmp_path / step)
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match="step 10 is gone"),
    ):
        checkpoints.restore(tree())


def test_foreign_checkpoints_are_refused(tmp_path):
    saved(tmp_path, 5, owner="ours")
    template = tree()
    with Checkpoints(tmp_path, owner="theirs") as checkpoints:
        with pytest.raises(CheckpointError, match=r"configuration 'ours', .* 'theirs'"):
            checkpoints.restore(template)
    others = {
        r"\['w'\]: float32\[3, 2\] there, float32\[4, 2\] here": {
            "w": jnp.zeros((4, 2))
        },
        r"\['n'\]: int32\[\] there, float32\[\] here": {"n": jnp.float32(0)},
        r"\['more'\]: nothing there, float32\[1\] here": {"more": jnp.zeros(1)},
        r"\['keys'\]: rbg key uint32\[2, 4\] there, threefry2x32 key uint32\[2, 2\]": {
            "keys": jax.random.split(jax.random.key(0), 2)
        },
    }
    with Checkpoints(tmp_path, owner="ours") as checkpoints:
        for message, change in others.items():
            with pytest.raises(CheckpointError, match=message):
                checkpoints.restore(template | change)
        assert int(checkpoints.restore(template)["n"]) == 5


def test_a_write_that_fails_is_not_passed_over(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tree(1))
    checkpoints.wait()

    def full(step, manifest):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoints, "_publish", full)
    checkpoints.save(2, tree(2))
    with pytest.raises(CheckpointError, match=r"no space left.*00000001"):
        checkpoints.save(3, tree(3))
    checkpoints.close()
    (tmp_path / "file").touch()
    with Checkpoints(tmp_path / "file") as nowhere:
        with pytest.raises(CheckpointError, match=r"Not a directory.*permissions"):
            nowhere.save(1, tree(1))
    with Checkpoints(tmp_path) as after:
        assert int(after.restore(tree())["n"]) == 1
