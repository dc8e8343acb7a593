"""Every public function has its call, and the call fits its annotations."""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import public_rooms as rooms
from public_calls import OTHERS, TABLE, VARIANTS, public_functions
from public_plain import PLAIN

TESTS = pathlib.Path(__file__).resolve().parents[1]


def test_every_public_function_has_a_row():
    homes = {}
    for function, name in public_functions():
        homes.setdefault(function, name)
    assert set(homes.values()) - OTHERS == set(TABLE)


def test_every_public_function_of_arrays_of_the_other_rooms_has_a_row():
    known = {*rooms.TRACED, *PLAIN, *rooms.OTHERS}
    assert not {*rooms.public_functions()} - known


def test_annotations_hold():
    out = subprocess.run(
        [sys.executable, TESTS / "annotated.py"], capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    assert not out.stdout, out.stdout


def test_lists_and_numbers_are_accepted_where_arrays_are():
    for name, (function, arrays) in {**TABLE, **VARIANTS}.items():
        if "." not in name:
            continue
        leaves, shape = jax.tree.flatten(arrays)
        lists = shape.unflatten([np.asarray(x).tolist() for x in leaves])
        given, plain = (
            jax.make_jaxpr(lambda x=x, call=function: call(**x))().out_avals
            for x in (arrays, lists)
        )
        assert str(given) == str(plain), name
