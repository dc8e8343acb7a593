"""Every public function has its call, and the call fits its annotations."""

import pathlib
import subprocess
import sys

from public_calls import OTHERS, TABLE, public_functions

TESTS = pathlib.Path(__file__).resolve().parents[1]


def test_every_public_function_has_a_row():
    homes = {}
    for function, name in public_functions():
        homes.setdefault(function, name)
    assert set(homes.values()) - OTHERS == set(TABLE)


def test_annotations_hold():
    out = subprocess.run(
        [sys.executable, TESTS / "annotated.py"], capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    assert not out.stdout, out.stdout
