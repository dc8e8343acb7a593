"""README and CONTRIBUTING: their Python runs, their commands are those that CI runs."""

import ast
import pathlib
import re

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_python_of_a_document_runs(document, tmp_path):
    names: dict = {}
    for block in blocks(document, "python"):
        exec(compile(block, document, "exec"), names)
    if document == "README.md":
        logits = np.arange(3.0)
        q = np.exp(logits) / np.exp(logits).sum()
        assert float(names["value"]) == pytest.approx(-np.log(q).mean() - np.log(3))
        np.testing.assert_allclose(names["gradient"], q - 1 / 3, rtol=1e-5)
        x = names["batches"](999)["x"]
        before = names["loss"](names["student"], **seen(x)).per_example.mean()
        after = names["loss"](names["state"].params["student"], **seen(x))
        assert float(after.per_example.mean()) < 0.1 * float(before)
        assert names["family"].shape == (7, 4) and np.isfinite(names["slope"])
    else:
        results = names["run"](
            names["PRESETS"]["smoke"], workdir=tmp_path, progress=None
        )
        assert results.verdicts["J"].holds
        assert 0 < float(names["close"]) < 1e-6
        assert names["loss"].shape == (4,)


def seen(x):
    return {"state": None, "frozen": None, "batch": {"x": x}, "key": None}


def test_every_quoted_command_is_run_by_ci():
    script = (ROOT / ".ci" / "run").read_text()
    script = script.replace(" -q --disable-pip-version-check", "")
    commands = [
        part.strip()
        for document in ("README.md", "CONTRIBUTING.md")
        for block in blocks(document, "bash")
        for line in block.splitlines()
        for part in line.split("#")[0].split("&&")
    ]
    assert "pytest" in commands and "python -m experiments run f_distill" in commands
    for command in commands:
        # The main job runs with its smoke preset, a path of one's own in a test.
        assert command in script or "--data.path" in command, command


def test_first_screen_holds_two_set_up_commands():
    top = (ROOT / "README.md").read_text().split("## ")[0]
    set_up = re.findall(r"^pip install.*$", top, flags=re.M)
    assert set_up == [
        "pip install -e '.[experiments]' && python -m experiments run f_distill",
        "pip install -e '.[test]' && pytest",
    ]


def test_every_public_name_is_documented():
    bare = []
    for path in sorted((ROOT / "kljax").rglob("*.py")):
        module = ast.parse(path.read_text())
        where = path.relative_to(ROOT)
        if not ast.get_docstring(module):
            bare.append(str(where))
        for node in module.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                public = not node.name.startswith("_")
                if public and not ast.get_docstring(node):
                    bare.append(f"{where}:{node.lineno} {node.name}")
    assert not bare, bare
