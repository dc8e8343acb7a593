"""Shared set-up: cheap compiles but where asked, one cache, float64 on request.

Nearly all the time of the suite is XLA's, spent on making programs fast that run once.
So all of them, operations called alone included, are compiled as `compiling` says. What
users have is seen by tests marked `inspected`, of memory and of compiled programs and
their collectives, and by those marked `optimized`, or whose module is, of last digits
and of every divergence's value and gradients in one place.
"""

import gc
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
# Outside the clone, so that a new one starts warm; JAX keys it by its own version.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"),
        "kljax",
        "jax",
    ),
)
# Equal programs of different tests, and of both workers, are compiled once.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# No line of a program says which Python line it is from: a tenth of the lowering.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import compiling
import jax
import pytest


def kind(item):
    marked = (k for k in compiling.KINDS if item.get_closest_marker(k))
    return next(marked, "cheap")


def pytest_collection_modifyitems(items):
    """Sorted, as programs of one kind are forgotten for another; the optimized last."""
    items.sort(key=lambda item: [*compiling.KINDS].index(kind(item)))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Nothing that tests import is garbage: it is not searched, then or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(200_000, 20, 100)  # tracing makes few cycles and many objects
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before a module's fixtures compile
def pytest_runtest_setup(item):
    compiling.switch(kind(item))


@pytest.fixture
def x64():
    """Double precision for the duration of one test."""
    with jax.enable_x64(True):
        yield
