"""Run folders: one writer, one configuration, whole files."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.errors import CheckpointError
from kljax.training import FolderInUse, RunFolder, config_hash, environment


@dataclasses.dataclass(frozen=True)
class Optimizer:
    name: str = "adam"
    rate: float = 0.1


def test_two_writers_are_refused(tmp_path):
    with RunFolder(tmp_path, {}) as first:
        with pytest.raises(FolderInUse, match=r"process .* wait until it ends"):
            RunFolder(tmp_path, {})
        first.close()
        RunFolder(tmp_path, {}).close()
    run = RunFolder(tmp_path, {})
    del run  # the lock goes with its owner
    RunFolder(tmp_path, {}).close()


def test_another_configuration_is_refused_by_field(tmp_path):
    config = {"optimizer": Optimizer(), "sizes": (1, 2)}
    RunFolder(tmp_path, config).close()
    RunFolder(tmp_path, dict(reversed(config.items()))).close()
    changed = config | {"optimizer": Optimizer(rate=0.2), "seed": 1}
    with pytest.raises(CheckpointError) as caught:
        RunFolder(tmp_path, changed)
    assert "optimizer.rate: 0.1 there, 0.2 here" in str(caught.value)
    assert "seed: 'absent' there, 1 here" in str(caught.value)
    RunFolder(tmp_path, config).close()  # the refusal gave the lock back
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON"):
        RunFolder(tmp_path, config)


def test_hashes_name_the_mathematics():
    assert len(config_hash({})) == 12
    assert config_hash({"a": (1, 2)}) == config_hash({"a": [1, 2]})
    assert config_hash({"a": np.float64(0.5)}) == config_hash({"a": 0.5})
    assert config_hash({"a": 1}) != config_hash({"a": 1.5})
    with pytest.raises(TypeError, match=r"config\.f has no JSON form"):
        config_hash({"f": print})


def test_environments_are_kept_and_changes_noted(tmp_path):
    RunFolder(tmp_path, {}).close()
    env = json.loads((tmp_path / "env.json").read_text())
    assert env == environment()
    assert {"jax", "jaxlib", "numpy"} <= env["versions"].keys() and env["devices"]
    RunFolder(tmp_path, {}, env=env | {"versions": {"jax": "9"}}).close()
    timing = (tmp_path / "timing.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in timing]
    assert "env_changed" not in entries[0]
    assert (
        f"versions.jax: {jax.__version__!r} there, '9' here"
        in (entries[1]["env_changed"])
    )
    assert json.loads((tmp_path / "env.json").read_text()) == env


def test_stages_are_finished_once_and_wholly(tmp_path):
    with RunFolder(tmp_path, {}) as run:
        assert run.stage_result("teacher") is None
        run.finish_stage("teacher", {"value": np.float32(0.5), "worst": np.inf})
        assert run.stage_result("teacher") == {"value": 0.5, "worst": np.inf}
        assert list((tmp_path / "stages").iterdir()) == [
            tmp_path / "stages" / "teacher.json"
        ]
        with pytest.raises(TypeError, match="has no JSON form"):
            run.finish_stage("teacher", {"value": object()})
        assert run.stage_result("teacher") == {"value": 0.5, "worst": np.inf}
        (tmp_path / "stages" / "teacher.json").write_text('{"val')
        with pytest.raises(CheckpointError, match=r"teacher\.json is not JSON"):
            run.stage_result("teacher")
        for name in ("", "../x", "a/b", ".hidden"):
            with pytest.raises(ValueError, match="stage must be"):
                run.checkpoints(name)
        assert run.figures == tmp_path / "figures" and run.figures.is_dir()


def test_metrics_are_cut_back_by_stage(tmp_path):
    path = pathlib.Path(tmp_path) / "metrics.jsonl"
    with RunFolder(tmp_path, {}) as run:
        for step in (1, 2, 3):
            run.log({"stage": "a", "step": step, "x": jnp.float32(0.1)})
        run.log({"stage": "b", "step": 9, "x": np.array([1.0, np.nan])})
        kept = path.read_bytes()
        with path.open("ab") as file:
            file.write(b'{"stage": "b", "st')
    with RunFolder(tmp_path, {}) as run:
        assert path.read_bytes() == kept
        run.rewind("b", 9)
        assert path.read_bytes() == kept
        run.rewind("a", 2)
        assert [line["step"] for line in run.metrics("a")] == [1, 2]
        assert run.metrics("b") == [{"stage": "b", "step": 9, "x": [1.0, "nan"]}]
        assert not path.with_name(".metrics.jsonl.new").exists()
        assert np.float32(run.metrics("a")[0]["x"]) == np.float32(0.1)
        path.write_bytes(b"not json\n" + kept)
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 1 is not"):
            run.rewind("a", 2)
