"""The options of `compiling` reach XLA, and those tests alone that want them."""

import compiling
import jax
import numpy as np
import pytest


@pytest.fixture
def unknown(monkeypatch):
    monkeypatch.setitem(compiling.CHEAPLY, "no_such_option", 1)


def test_cheap_options_reach_the_compiler(unknown):
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        jax.jit(lambda x: x + 1)(1.0)
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        jax.numpy.asarray(np.ones((7, 5, 3, 1))) + 3  # of no other test's shape


@pytest.mark.optimized
def test_optimized_tests_are_compiled_without_them(unknown):
    assert jax.jit(lambda x: x + 1)(1.0) == 2
