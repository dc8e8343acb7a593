"""Every experiment: complete metadata, and its `smoke` preset in process."""

import dataclasses
import shlex

import numpy as np
import pytest

from experiments import discovery, execution, harness, kit
from experiments.cli import main

EXPERIMENTS = discovery.find()


@pytest.fixture(params=EXPERIMENTS)
def name(request):
    return request.param


def test_metadata_is_complete(name, capsys):
    module = discovery.load(name)
    assert isinstance(module.PAPER, str) and module.PAPER
    assert {"smoke", "cpu"} <= set(module.PRESETS)
    assert f"experiments run {name}" in (module.__doc__ or "")
    fields = {field.name: field for field in dataclasses.fields(module.Config)}
    assert fields["seed"].default == 0
    assert module.Config.__dataclass_params__.frozen
    assert module.CLAIMS
    assert len({claim.id for claim in module.CLAIMS}) == len(module.CLAIMS)
    for claim in module.CLAIMS:
        assert isinstance(claim, kit.Claim)
        for field in ("id", "statement", "source", "bar"):
            assert str(getattr(claim, field)), f"claim {claim.id} has no {field}"
    hashes = set()
    for preset, config in module.PRESETS.items():
        assert isinstance(config, module.Config)
        hashes.add(harness.config_hash(config))
        # What --dry-run prints must lead back to the same run folder.
        words = ["run", name, "--preset", preset, "--dry-run"]
        assert main(words) == 0
        *fields, folder = capsys.readouterr().out.splitlines()
        spelt = [word for line in fields for word in shlex.split(line)]
        assert main([*words, *spelt]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == folder
    assert len(hashes) == len(module.PRESETS), "two presets are the same"


def test_smoke_preset_runs(name, tmp_path):
    from PIL import Image
    from rich.console import Console

    from kljax.training.progress import silent

    module = discovery.load(name)
    config = module.PRESETS["smoke"]
    stored = execution.execute(
        name, module, "smoke", config, tmp_path / "run", progress=silent()
    )
    assert stored is not None
    results = harness.results_from(stored)
    assert set(results.verdicts) == {claim.id for claim in module.CLAIMS}
    for verdict in results.verdicts.values():
        assert verdict.measured or verdict.holds is None
        assert verdict.measure or not verdict.measured, "its number is not named"
    assert results.tables and all(table.rows for table in results.tables)
    assert results.scale and results.made and all(f.title for f in results.figures)
    for table in results.tables:
        width = Console(width=300).measure(execution.grid(table)).maximum
        assert table.detail or width <= 100, f"{table.title!r}: {width} columns"
    assert results.figures
    for figure in results.figures:
        assert figure.caption
        with Image.open(tmp_path / "run" / "figures" / figure.path) as image:
            assert image.format == "PNG" and min(image.size) >= 100
            assert np.asarray(image.convert("L")).std() > 1, f"{figure.path} is blank"
    # The same command again: finished stages are read back, the numbers are the same.
    again = execution.execute(
        name, module, "smoke", config, tmp_path / "run", progress=silent()
    )
    assert again == stored
    published = execution.publish(tmp_path / "run", tmp_path / "results")
    assert published.name == "smoke"
