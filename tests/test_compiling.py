"""The options of `compiling` reach XLA, and those tests alone that want them."""

import compiling
import jax
import pytest


@pytest.fixture
def unknown(monkeypatch):
    jax.clear_caches()
    monkeypatch.setitem(compiling.CHEAPLY, "no_such_option", 1)


def both():
    return jax.jit(lambda x: x + 1)(1.0), 3.0 - jax.numpy.ones(7)


def test_cheap_options_reach_the_compiler(unknown):
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        jax.jit(lambda x: x + 1)(1.0)
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        jax.numpy.ones(7) + 3


@pytest.mark.optimized
def test_optimized_tests_are_compiled_without_them(unknown):
    assert jax.jit(lambda x: x + 1)(1.0) == 2
