"""`bench`: a small run in process, and a command line that is not understood."""

import json
import os
import pathlib
import time

import numpy as np
import pytest
import references

from experiments.benchmarks import cores, definitions, measuring, recording
from experiments.cli import main


def test_a_small_run_is_stored_printed_and_drawn(tmp_path, capsys):
    words = ["bench", "logits", "--preset", "smoke", "--seconds", "0"]
    assert main([*words, "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "forward_kl value+grad, N=64 V=256" in out and "GFLOP/s" in out
    lines = (tmp_path / "benchmarks.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {r["contender"] for r in rows} >= {"kljax", "optax", "GKD formula"}
    for row in rows:
        assert row["benchmark"] == "logits" and row["versions"]["jax"]
        assert row["seconds"] > 0 and row["floor_seconds"] > 0
    errors = next(r["errors"] for r in rows if r["contender"] == "kljax")
    assert errors and max(errors.values()) < 1e-4
    pictures = {path.name for path in (tmp_path / "benchmarks").iterdir()}
    assert pictures >= {"README.md", "logits-smoke-forward_kl.png"}


def test_definitions_of_plain_peers_are_those_of_the_divergences():
    """In float64; errors are against them too."""
    rng = np.random.default_rng(0)
    p, q = rng.normal(size=(2, 3, 7))
    masses = references.softmax(p), references.softmax(q)
    for name, value in references.VALUES.items():
        found = definitions.exact(name, p, q)
        np.testing.assert_allclose(found, value(*masses), rtol=1e-9)


def test_each_is_called_by_time_and_by_turns():
    calls = {"quick": 0, "slow": 0}

    def busy(name, seconds):
        calls[name] += 1
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    given = {
        "quick": lambda: busy("quick", 1e-4),
        "slow": lambda: busy("slow", 0.03),
    }
    taken = measuring.seconds(given, 0.05)
    assert 1e-4 <= taken["quick"] < 2e-3 and 0.03 <= taken["slow"] < 0.06
    # Once to warm up, once to see how long it takes, then two at a time; what is quick
    # goes on until its time is over.
    assert calls["slow"] == 4 and calls["quick"] > 50


def test_names_are_looked_up(capsys):
    assert "logits" in recording.names()
    assert main(["bench", "logitz"]) == 2
    assert "did you mean 'logits'?" in capsys.readouterr().err
    assert main(["bench", "logits", "--preset", "cpux"]) == 2
    assert "known: smoke, cpu, gpu" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--seconds", "-1"], ["--nope"]])
def test_options_are_checked(words):
    assert main(["bench", "logits", *words]) == 2


def counted(path):
    """For `cores.times`: writes down how many cores there are."""
    pathlib.Path(path).write_text(str(len(os.sched_getaffinity(0))))
    return {"sum": lambda x: x.sum()}, (np.ones(1000),)


def test_one_core_is_taken_and_given_back():
    before = os.sched_getaffinity(0)
    with cores.one():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


@pytest.mark.slow
def test_a_process_has_as_many_cores_as_it_is_given(tmp_path, monkeypatch):
    # The process has to find this file, and what it imports.
    here = pathlib.Path(__file__).parent
    folders = [here, here.parent, os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
    path = tmp_path / "cores"
    source = f"{pathlib.Path(__file__).stem}:{counted.__name__}"
    wall, cpu = cores.times(1, source, (str(path),), 0.0)["sum"]
    assert path.read_text() == "1" and wall > 0 and cpu >= 0


@pytest.mark.slow
def test_decoding_is_compared_with_the_same_weights(tmp_path, capsys):
    pytest.importorskip("torch")
    words = ["bench", "decoding", "--preset", "smoke", "--seconds", "0"]
    assert main([*words, "--results", str(tmp_path)]) == 0
    lines = (tmp_path / "benchmarks.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {r["contender"] for r in rows} >= {"kljax", "kljax generate", "transformers"}
    notes = [r["notes"] for r in rows if r["contender"] == "kljax generate"]
    assert all(note["tokens as transformers'"] == 1 for note in notes)
    errors = [r["errors"] for r in rows if r["group"] == "prefill"]
    assert errors[0]["of largest logit"] < 1e-5
    loaded = [r["notes"] for r in rows if r["group"] == "loading"]
    assert all(note["resident when decoding MiB"] > 50 for note in loaded)
