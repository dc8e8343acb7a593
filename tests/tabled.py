"""Tables of inputs, each with its right value or the text of its error."""

import jax
import numpy as np
import pytest


def refused(cases):
    """The names of the inputs that raise."""
    return [name for name, (_, want) in cases.items() if isinstance(want, str)]


def check_refused(ask, expected):
    with pytest.raises((ValueError, TypeError), match=expected):
        ask()


def check_right(cases, **tolerance):
    """All the others, in one program but for those that are traced by themselves."""
    asked = {n: ask for n, (ask, want) in cases.items() if not isinstance(want, str)}
    alone = {name: asked.pop(name) for name in [*asked] if "traced" in name}

    # One program: of each operation alone one would be made.
    @jax.jit
    def answers():
        return {name: ask() for name, ask in asked.items()}

    found = {**answers(), **{name: ask() for name, ask in alone.items()}}
    for name, answer in found.items():
        np.testing.assert_allclose(answer, cases[name][1], err_msg=name, **tolerance)
