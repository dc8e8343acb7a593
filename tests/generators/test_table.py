"""A divergence is its class, a row of the table and its reference: nothing else."""

import dataclasses
import inspect
import os
import pathlib
import shutil
import subprocess
import sys

import kljax.divergences as kd

ROOT = pathlib.Path(__file__).resolve().parents[2]

# The least an author writes: the term of two masses.
CLASS = '''
from kljax.generators.base import FDivergence


@generator
class Triangular(FDivergence):
    """``Σ (p − q)²/(p + q)``, in [0, 2]."""

    def mass_term(self, outcomes):
        return outcomes.excess**2 / (outcomes.p + outcomes.q)
'''
FOUND = """
import jax, jax.numpy as jnp, numpy as np
import kljax.divergences as kd
from kljax.divergences import estimators

assert "triangular" in kd.names() and kd.get("triangular") == kd.Triangular()
assert {"Triangular", "triangular"} <= {*kd.__all__} & {*dir(kd)}
rng = np.random.default_rng(0)
p, q = np.float32(rng.normal(size=(2, 5, 7)))
p[0, 0] = q[1, 2] = -np.inf

@jax.jit
def every(p, q):
    one = jax.value_and_grad(lambda p, q: jnp.sum(kd.triangular(p, q)), (0, 1))
    two = jax.value_and_grad(lambda p, q: 2 * jnp.sum(kd.le_cam(p, q)), (0, 1))
    log_p, log_q = jax.nn.log_softmax(p[3]), jax.nn.log_softmax(q[3])
    of = lambda name: estimators.f_divergence(
        name, log_p=log_p, log_q=log_q, log_behavior=log_q
    )
    return (one(p, q), of("triangular")), (two(p, q), 2 * of("le_cam"))

got, want = every(p, q)
for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
l = jnp.array([-3.0, 1e-3, 2.0])
for member in ("value", "grad_p", "grad_q", "slope", "curvature"):
    a, b = (getattr(d, member)(l) for d in (kd.Triangular(), kd.LeCam()))
    np.testing.assert_allclose(a, 2 * b, rtol=2e-4)
"""


def test_a_class_and_a_row_are_all_that_the_library_needs(tmp_path):
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "kljax", tmp_path / "kljax", ignore=skip)
    family = tmp_path / "kljax" / "generators" / "bounded.py"
    family.write_text(family.read_text() + CLASS)
    table = family.with_name("__init__.py")
    row = '        "le_cam": LeCam,\n'
    text = table.read_text()
    assert text.count(row) == 1
    table.write_text(text.replace(row, f'{row}        "triangular": Triangular,\n'))
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", FOUND], cwd=tmp_path, check=True, env=env)
    # The suite goes over the names and takes what it knows of them from one table.
    suite = (ROOT / "tests" / "divergences" / "test_conformance.py").read_text()
    assert "for name in kd.names()" in suite and "references.VALUES[name]" in suite


def test_functions_of_the_table_show_their_arguments():
    for name in kd.names():
        shown = [*inspect.signature(getattr(kd, name)).parameters]
        own = [f.name for f in dataclasses.fields(kd.get(name))]
        shared = ["axis", "temperature", "where", "pad_vocab"]
        assert shown == ["p_logits", "q_logits", *shared, *own]
