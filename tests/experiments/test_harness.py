"""Records, configuration hashes, discovery, storage."""

import dataclasses
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import discovery, execution, harness
from kljax.errors import CheckpointError, unknown
from kljax.storing import plain, read_json, write_json


@dataclasses.dataclass(frozen=True)
class Data:
    path: str | None = None
    workers: int = harness.bookkeeping(2)


@dataclasses.dataclass(frozen=True)
class OtherData:
    path: str | None = None
    workers: int = harness.bookkeeping(2)


@dataclasses.dataclass(frozen=True)
class Config:
    data: Data | OtherData = Data()
    rates: tuple[float, ...] = (0.1, 0.2)
    seed: int = 0
    log_every: int = harness.bookkeeping(10)


def test_hash_covers_the_mathematics_and_nothing_else():
    base = harness.config_hash(Config())
    same = [
        Config(seed=3),
        Config(log_every=1),
        Config(data=Data(workers=9)),
    ]
    other = [
        Config(data=Data(path="x")),
        Config(data=OtherData()),
        Config(rates=(0.1,)),
    ]
    assert all(harness.config_hash(config) == base for config in same)
    assert len({base, *map(harness.config_hash, other)}) == 4


def test_run_folder_is_a_function_of_the_configuration(tmp_path):
    folder = harness.run_folder(tmp_path, "ring", "cpu", Config(seed=2))
    assert folder.parent == tmp_path / "ring"
    assert folder.name == f"cpu-s2-{harness.config_hash(Config())}"


def test_settings_are_spelt_like_options():
    flat = harness.settings(Config(data=Data(path="x")))
    assert flat["data.path"] == "x" and flat["rates"] == [0.1, 0.2]
    assert harness.spelling("rates", flat["rates"]) == ["--rates", "0.1", "0.2"]
    assert harness.spelling("a_b.fast_one", False) == ["--a-b.no-fast-one"]
    assert harness.spelling("fast", True) == ["--fast"]
    pairs = harness.spelling("pairs", [["a", 1], ["b", 2]])
    assert pairs == ["--pairs", "a", "1", "b", "2"]


def test_stored_values_are_strict_json(tmp_path):
    path = tmp_path / "x.json"
    value = {
        "nan": math.nan,
        "inf": np.float32(-np.inf),
        "array": jnp.arange(3.0),
        "nested": (np.int32(1), [np.bool_(True)]),
        "path": tmp_path,
    }
    write_json(path, value)
    stored = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert stored == {
        "nan": "nan",
        "inf": "-inf",
        "array": [0.0, 1.0, 2.0],
        "nested": [1, [True]],
        "path": tmp_path.as_posix(),
    }
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(TypeError, match="has no JSON form"):
        plain(object())
    path.write_text("{")
    with pytest.raises(CheckpointError, match=r"x\.json is not JSON"):
        read_json(path)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (True, "yes"), (0.581234, "0.5812"), (12, "12"), ("a", "a")],
)
def test_cells(value, text):
    assert harness.format_cell(value) == text


def test_what_introduces_a_paper_is_its_first_sentences():
    doc = "One:\ntwo. Three in arXiv 1.2? Four.\n\n    python -m x\n\nFive."
    assert harness.sentences(doc, 2) == "One: two. Three in arXiv 1.2?"
    assert harness.sentences(doc, 9).endswith("Four. Five.")
    assert harness.sentences(None, 1) == ""


def test_discovery_does_not_import(broken):
    # `broken` raises on import; what begins with an underscore is no experiment.
    assert list(discovery.find(broken)) == ["broken", "ring"]
    assert discovery.load("ring", broken).PAPER.startswith("Nobody")


def test_incomplete_experiment_is_named(package, tmp_path):
    (tmp_path / package / "papers" / "half.py").write_text(
        "CLAIMS = ()\ndef run(): ...\n"
    )
    with pytest.raises(TypeError, match=r"papers\.half lacks PAPER, Config, PRESETS"):
        discovery.load("half", package)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("teachr.steps", "teacher.steps"), ("steps", "teacher.steps"), ("SEED", "seed")],
)
def test_unknown_names_the_nearest_and_all(name, nearest):
    known = ["seed", "teacher.steps", "workdir"]
    message = unknown("field", name, known)
    assert f"; did you mean {nearest!r}? known: seed, teacher.steps, w" in message


def test_rerun_command_has_only_what_differs(package):
    module = discovery.load("ring", package)
    default = module.PRESETS["cpu"]
    config = dataclasses.replace(
        default,
        teacher=module.Teacher(steps=7, augment=False),
        widths=(3,),
        seed=1,
        log_every=99,
    )
    assert execution.rerun_command("ring", "cpu", config, default) == (
        "python -m experiments run ring --preset cpu --seed 1 --teacher.steps 7 "
        "--teacher.no-augment --widths 3"
    )
