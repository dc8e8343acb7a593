"""The command line, in process except for one look at what gets imported."""

import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from experiments.cli import CHEAPLY, main

ROOT = pathlib.Path(__file__).resolve().parents[2]


def call(package, *words):
    return main(list(words), package=package)


def only_folder(name="ring"):
    (folder,) = pathlib.Path("runs", name).iterdir()
    return folder


def test_list(broken, capsys):
    assert call(broken, "list") == 1
    out = capsys.readouterr().out
    assert "Nobody, On rings (2025)" in out and "smoke, cpu, gpu" in out
    assert "cannot be imported: division by zero" in out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["lst"], ["command 'lst'", "did you mean 'list'?", "list, run, report, env"]),
        (["run", "rng"], ["experiment 'rng'", "did you mean 'ring'?", "known: ring"]),
        (
            ["run", "ring", "--preset", "gpux"],
            ["did you mean 'gpu'?", "smoke, cpu, gpu"],
        ),
        (["run", "ring", "--preset"], ["--preset needs a name", "smoke, cpu, gpu"]),
        (
            ["run", "ring", "--teachr.steps", "4"],
            [
                "'--teachr.steps'",
                "did you mean '--teacher.steps'?",
                "--widths",
                "--workdir",
            ],
        ),
        (["run", "ring", "--steps=4"], ["did you mean '--teacher.steps'?"]),
        (["run", "ring", "--dry_rn"], ["did you mean '--dry-run'?"]),
        (["run", "ring", "--teacher.steps", "x"], ["--teacher.steps", "'x'"]),
        (["run", "ring", "--seed", "-1"], ["seed must not be negative"]),
        (["run", "ring", "stray"], ["stray"]),
        (["report", "--nope"], ["--nope"]),
    ],
)
def test_a_command_line_that_is_not_understood(package, capsys, words, parts):
    assert call(package, *words) == 2
    err = capsys.readouterr().err
    assert all(part in err for part in parts), err
    assert "Traceback" not in err
    assert not pathlib.Path("runs").exists()


def test_help(package, capsys):
    assert call(package) == 2
    assert call(package, "--help") == 0
    assert call(package, "run", "--help") == 0
    assert "experiments: ring" in capsys.readouterr().out
    assert call(package, "run", "ring", "--preset", "gpu", "--help") == 0
    out = capsys.readouterr().out
    assert "--teacher.steps INT" in out and "paper: 380K. (default: 9)" in out


def test_dry_run_prints_and_stops(package, capsys):
    words = "run ring --dry-run --teacher.steps=7 --teacher.no-augment --widths 5 6"
    assert call(package, *words.split(), "--workdir", "elsewhere") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "--teacher.steps 7" in lines and "--widths 5 6" in lines
    assert "--teacher.no-augment" in lines
    assert lines[-1].startswith("run folder: elsewhere/ring/cpu-s0-")
    assert not pathlib.Path("elsewhere").exists()


def test_run_stores_what_it_returned(package, capsys):
    assert call(package, "run", "ring", "--preset", "smoke", "--seed", "2") == 0
    out = capsys.readouterr().out
    for part in ("✓ holds  T1", "✗ fails  T2", "– not measured  T3", "0.5812"):
        assert part in out
    folder = only_folder()
    assert f"picture: {folder}/figures/curve.png" in out
    stored = json.loads((folder / "results.json").read_text())
    assert stored["verdicts"]["T1"]["interval"] == "0.75 to 0.85, 3 seeds"
    assert stored["config"]["teacher"]["steps"] == 1 and stored["seed"] == 2
    assert stored["claims"][0]["source"] == "table 2"
    assert stored["command"].endswith("run ring --preset smoke --seed 2")
    assert stored["environment"]["versions"]["kljax"]
    before = (folder / "results.json").read_bytes()
    assert call(package, "run", "ring", "--preset", "smoke", "--seed", "2") == 0
    assert (folder / "results.json").read_bytes() == before  # no clock in there
    assert len(json.loads((folder / "timing.json").read_text())["sessions"]) == 2


@pytest.mark.parametrize(
    ("preset", "plugins", "given", "cheap"),
    [
        ("smoke", (), {}, True),
        ("smoke", ("cuda",), {"JAX_PLATFORMS": "cpu"}, True),
        ("smoke", ("cuda",), {}, False),
        ("smoke", (), {"JAX_PLATFORMS": "tpu"}, False),
        ("smoke", (), {"XLA_FLAGS": "--xla_dump_to=there"}, False),
        ("cpu", (), {}, False),
    ],
)
def test_only_a_smoke_run_on_a_cpu_is_compiled_cheaply(
    package, capsys, monkeypatch, preset, plugins, given, cheap
):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: plugins)
    names = (*CHEAPLY, "JAX_PLATFORMS")
    for name in names:
        monkeypatch.setenv(name, "")  # so that it is as before when the test is over
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert call(package, "run", "ring", "--preset", preset) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.endswith(", compiled cheaply") == cheap
    expected = given | CHEAPLY if cheap else given
    assert {k: os.environ[k] for k in names if k in os.environ} == expected
    stored = json.loads((only_folder() / "results.json").read_text())
    said = stored["environment"]["variables"].get("XLA_FLAGS")
    assert said == expected.get("XLA_FLAGS")


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        ("interrupt", "after step 5"),
        ("terminate", "stopped by a request to end (SIGTERM)"),
    ],
)
def test_an_interrupted_run_says_how_to_go_on(package, capsys, trouble, why):
    words = ["run", "ring", "--trouble", trouble, "--workdir", "my runs"]
    assert call(package, *words) == 130
    err = capsys.readouterr().err
    command = f"run ring --trouble {trouble} --workdir 'my runs'"
    assert f"\n{why}\nto go on: python -m experiments {command}\n" in err
    (folder,) = pathlib.Path("my runs", "ring").iterdir()
    assert not (folder / "results.json").exists()
    assert call(package, *words) == 0
    sessions = json.loads((folder / "timing.json").read_text())["sessions"]
    assert [session["finished"] for session in sessions] == [False, True]


NAMES = {
    "lm_distillation --methods klx": "unknown name in methods: 'klx'; known: cross_e",
    "lm_distillation --methods forward-kl": "did you mean 'forward_kl'?",
    "lm_distillation --methods forward_kl/policy": "only /on_policy may stand behind",
    "lm_distillation --methods cross_entropy/on_policy": "'cross_entropy/on_policy'",
    "lm_distillation --methods alpha alpha": "methods names alpha twice",
    "lm_distillation --methods": "methods names nothing",
    "lm_distillation --data.packages nunpy": "package 'nunpy' is not installed",
    "lm_distillation --data.path /none": "data.path: '/none' is no file or folder",
    "lm_distillation --teacher.source smolm2": "did you mean 'smollm2'?",
    "lm_distillation --teacher.source ./none": "teacher.source: source is './none'",
    "dynamic_logit_fusion --small.source smolm2": "small.source: source is 'smolm2'",
    "dynamic_logit_fusion --tasks.folder /none": "tasks.folder: '/none' is no",
    "f_distill --data.path /none": "data.path: '/none' is no file or folder",
    "lm_distillation --seeds 0": "seeds must be at least 1, 100 at most, got 0",
    "f_distill --students forward_k": "did you mean 'forward_kl'?",
    "f_distill --students reverse_kl/gan": "only /no_gan may stand behind",
    "f_distill --data.name digitz": "'digitz'",
    "f_distill --model.kind unett": "invalid choice 'unett'",
    "f_distill --student.noise karas": "invalid choice 'karas'",
    "dynamic_logit_fusion --packages numpyx": "package 'numpyx' is not installed",
    "dynamic_logit_fusion --domain ../x": "package '../x' is not installed",
    "dynamic_logit_fusion --timing.parts dynamik": "did you mean 'dynamic'?",
}


@pytest.mark.parametrize("words", NAMES)
def test_a_wrong_name_fails_before_anything_runs(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--dry-run"]):
        assert main(["run", *words.split(), *more]) == 2
        err = " ".join(capsys.readouterr().err.replace("│", "").split())
        assert NAMES[words] in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_message(package, capsys):
    pathlib.Path("taken").write_text("")
    assert call(package, "run", "ring", "--workdir", "taken") == 1
    assert "Not a directory: 'taken" in capsys.readouterr().err


def test_known_errors_are_one_message(package, capsys):
    words = ["run", "ring", "--trouble", "data"]
    assert call(package, *words) == 1
    err = capsys.readouterr().err
    assert "DataError: digits.npz is missing" in err and "--traceback" in err
    with pytest.raises(RuntimeError, match="digits"):
        call(package, *words, "--traceback")
    with pytest.raises(ZeroDivisionError):
        call(package, "run", "ring", "--trouble", "bug")


def test_publish_copies_and_replaces(package, capsys):
    results = pathlib.Path(package, "results", "ring")
    assert call(package, "run", "ring", "--publish") == 0
    (results / "cpu" / "figures" / "stale.png").write_text("old")
    assert call(package, "run", "ring", "--publish") == 0
    assert call(package, "run", "ring", "--publish", "--seed", "1") == 0
    assert call(package, "run", "ring", "--publish", "--teacher.steps", "4") == 0
    labels = sorted(folder.name for folder in results.iterdir())
    assert {"cpu", "cpu-s1"} < set(labels) and len(labels) == 3
    assert any(re.fullmatch("cpu-[0-9a-f]{8}", label) for label in labels)
    files = {str(f.relative_to(results / "cpu")) for f in results.glob("cpu/**/*.*")}
    assert files == {"results.json", "timing.json", "figures/curve.png"}
    capsys.readouterr()
    assert call(package, "list") == 0
    assert "cpu (0.1)" in capsys.readouterr().out  # measured


def test_what_has_lost_a_figure_cannot_be_published(package, capsys):
    assert call(package, "run", "ring", "--trouble", "figure", "--publish") == 1
    assert "figures/curve.png" in capsys.readouterr().err
    assert not list(pathlib.Path(package).glob("results/ring/[!.]*"))


def test_env(package, capsys):
    assert call(package, "env") == 0
    out = capsys.readouterr().out
    for name in ("python", "kljax", "jax", "jaxlib", "flax", "optax", "numpy"):
        assert re.search(rf"^(versions\.)?{name} +\d", out, flags=re.MULTILINE)
    assert "devices" in out and "commit" in out


def test_jax_is_not_loaded_before_it_is_needed(package, tmp_path):
    program = f"""
import sys
from experiments.cli import main
assert main([]) == 2 and main(["run", "none"], package="{package}") == 2
assert main(["report"], package="{package}") == 0
heavy = {{"jax", "tyro", "rich", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
