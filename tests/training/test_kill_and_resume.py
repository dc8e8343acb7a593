"""A run killed at any moment and started again ends with the same bits."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import training_processes as processes

from kljax.training import FolderInUse, RunFolder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    child = processes.server().Process(target=processes.train, args=(folder,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    return processes.outcome(folder)


def wait_until(condition, child, seconds=30):
    """Whether the condition came true while the child was alive."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and child.is_alive():
        if condition():
            return True
        time.sleep(0.0005)
    return False


def lines(folder, name="metrics.jsonl"):
    path = folder / name
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_at_three_moments(undisturbed, tmp_path):
    checkpoints = tmp_path / "checkpoints" / "train"
    moments = [
        lambda: lines(tmp_path) >= 1,  # before the first checkpoint is whole
        lambda: any(checkpoints.glob(".writing-*")),  # in the midst of writing one
        lambda: lines(tmp_path) >= 20,  # with lines beyond the last checkpoint
    ]
    for moment in moments:
        # Its own start and first log must be there: the rest may be its forerunner's.
        known = lines(tmp_path, "timing.jsonl")
        child = processes.server().Process(
            target=processes.train, args=(tmp_path, 0.003)
        )
        child.start()
        assert wait_until(lambda: lines(tmp_path, "timing.jsonl") >= known + 2, child)  # noqa: B023
        assert wait_until(moment, child), "it ended before it could be killed"
        with pytest.raises(FolderInUse, match=f"process {child.pid} on"):
            RunFolder(tmp_path, processes.SETTINGS)
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"stage": "train", "st')  # a torn line, whatever the kill left
    known = lines(tmp_path, "timing.jsonl")
    child = processes.server().Process(target=processes.train, args=(tmp_path,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert processes.outcome(tmp_path) == undisturbed
    clock = (tmp_path / "timing.jsonl").read_text().splitlines()[known:]
    assert json.loads(clock[1])["step"] > 20, "it started from scratch"


def test_sigterm_saves_and_ends(undisturbed, tmp_path):
    child = processes.server().Process(target=processes.train, args=(tmp_path, 0.003))
    child.start()
    assert wait_until(lambda: lines(tmp_path) >= 2, child)
    child.terminate()
    child.join(30)
    assert child.exitcode not in (0, -signal.SIGKILL, None)
    steps = [int(p.name) for p in (tmp_path / "checkpoints/train").glob("0*")]
    assert steps and max(steps) >= 8
    child = processes.server().Process(target=processes.train, args=(tmp_path,))
    child.start()
    child.join(60)
    assert processes.outcome(tmp_path) == undisturbed


@pytest.mark.slow
def test_killed_by_command_at_many_moments(undisturbed, tmp_path):
    rng = np.random.default_rng(0)
    command = [sys.executable, processes.__file__, str(tmp_path)]
    kills = 0
    for _ in range(25):
        child = subprocess.Popen([*command, "0.02"])
        before = lines(tmp_path)
        while lines(tmp_path) <= before and child.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.3))
        kills += child.poll() is None
        child.kill()
        child.wait()
    assert kills > 5
    subprocess.run([*command, "0"], check=True)
    assert processes.outcome(tmp_path) == undisturbed
