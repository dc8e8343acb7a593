"""README and CONTRIBUTING: their Python runs, their commands are those that CI runs."""

import ast
import importlib.metadata
import re
import sys
import tomllib

import numpy as np
import pytest
from documents import ROOT, block, blocks, executed

from experiments.cli import main

README, CONTRIBUTING = "README.md", "CONTRIBUTING.md"


def test_every_readme_block_is_a_program_of_its_own():
    first, distilled, family, sampled, steered = (
        executed(code, f"readme_{n}") for n, code in enumerate(blocks(README, "python"))
    )
    logits = np.arange(3.0)
    q = np.exp(logits) / np.exp(logits).sum()
    assert float(first["value"]) == pytest.approx(-np.log(q).mean() - np.log(3))
    np.testing.assert_allclose(first["gradient"], q - 1 / 3, rtol=1e-5)
    x = distilled["batches"](999)["x"]
    before = distilled["loss"](distilled["student"], **seen(x)).per_example.mean()
    after = distilled["loss"](distilled["state"].params["student"], **seen(x))
    assert float(after.per_example.mean()) < 0.1 * float(before)
    assert family["family"].shape == (7, 4) and np.isfinite(family["slope"])
    assert sampled["low"] < 0.25 < sampled["high"]
    assert steered["per_token"].shape == (1, 8, 1)  # rows, tokens, experts


def seen(x):
    return {"state": None, "frozen": None, "batch": {"x": x}, "key": None}


def test_the_divergence_and_the_objective_of_contributing_run():
    close = executed(block(CONTRIBUTING, "@generator"), "divergence")["close"]
    assert 0 < float(close) < 1e-6
    objective = executed(block(CONTRIBUTING, "def hinton"), "objective")
    assert objective["loss"].shape == (4,)
    assert set(objective["metrics"]) == {"distillation/kl"}
    assert len(blocks(CONTRIBUTING, "python")) == 3  # the third is a file, see below


def test_the_paper_of_contributing_is_run_by_the_command_line(
    tmp_path, monkeypatch, capsys
):
    source = (ROOT / "experiments" / "kit" / "example.py").read_text()
    assert block(CONTRIBUTING, "CLAIMS") == source
    assert len(source.splitlines()) <= 40
    papers = tmp_path / "contributed" / "papers"
    papers.mkdir(parents=True)
    for folder in (papers, papers.parent):
        (folder / "__init__.py").write_text("")
    (papers / "jensen.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    package = {"package": "contributed"}
    words = ["run", "jensen", "--preset", "smoke"]
    assert main([*words, "--dry-run"], **package) == 0
    assert main(words, **package) == 0
    assert "undecided (smoke); --preset cpu decides  J" in capsys.readouterr().out
    assert main(["run", "jensen", "--publish"], **package) == 0
    assert "✓ holds  J" in (out := capsys.readouterr().out) and "warning" not in out
    assert main(["list"], **package) == 0 and main(["report"], **package) == 0
    assert main([*words, "--seeds", "0"], **package) == 2
    assert "seeds must be at least 1" in capsys.readouterr().err
    for name in [name for name in sys.modules if name.startswith("contributed")]:
        del sys.modules[name]


def test_every_quoted_command_is_run_by_ci():
    script = (ROOT / ".ci" / "run").read_text()
    script = script.replace(" -q --disable-pip-version-check", "")
    commands = [
        part.strip()
        for document in (README, CONTRIBUTING)
        for block in blocks(document, "bash")
        for line in block.splitlines()
        for part in line.split("#")[0].split("&&")
    ]
    assert "pytest" in commands and "python -m experiments run f_distill" in commands
    for command in commands:
        # The main job runs with its smoke preset, a path of one's own in a test.
        assert command in script or "--data.path" in command, command


def test_first_screen_holds_two_set_up_commands():
    top = (ROOT / README).read_text().split("## ")[0]
    set_up = re.findall(r"^pip install.*$", top, flags=re.M)
    assert set_up == [
        "pip install -e '.[experiments]' && python -m experiments run f_distill",
        "pip install -e '.[test]' && pytest",
    ]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


def required(extra: str | None) -> set[str]:
    """The distributions that an extra brings, those of other extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] if extra is None else []
    lines = lines or project["optional-dependencies"][extra]
    found = set()
    for line in lines:
        name, _, extras = re.match(r"([\w-]+)(\[([\w,]+)\])?", line).groups()
        if name == "kljax":
            found = found.union(*map(required, extras.split(",")))
        else:
            found.add(name.lower())
    return found


def test_the_first_install_line_brings_what_its_commands_import():
    brought = required(None) | required("experiments") | {"kljax", "jaxlib"}
    distributions = importlib.metadata.packages_distributions()
    lacking = {}
    for folder in ("kljax", "experiments"):
        for path in (ROOT / folder).rglob("*.py"):
            if "benchmarks" in path.parts:  # peers are measured where they are there
                continue
            for name in {name.split(".")[0] for name in imported(path)}:
                own = name in sys.stdlib_module_names or name == "experiments"
                from_ = {d.lower() for d in distributions.get(name, [name])}
                if not own and not from_ & brought:
                    lacking[name] = path.name
    assert not lacking


def test_every_public_name_is_documented():
    bare = []
    for path in sorted((ROOT / "kljax").rglob("*.py")):
        module = ast.parse(path.read_text())
        where = path.relative_to(ROOT)
        if not ast.get_docstring(module):
            bare.append(str(where))
        for node in module.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                private = node.name.startswith("_")
                overload = "overload" in map(ast.unparse, node.decorator_list)
                if not private and not overload and not ast.get_docstring(node):
                    bare.append(f"{where}:{node.lineno} {node.name}")
    assert not bare, bare
