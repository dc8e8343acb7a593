"""Shared set-up: one compilation cache for all workers, float64 on request."""

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
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax
import pytest


@pytest.fixture
def x64():
    """Double precision for the duration of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", autouse=True)
def quick(request):
    """Modules marked `quick` compile with few optimizations: 40 % less of the time.

    For properties alone: never where memory, compiled programs, collectives or the last
    digits are looked at. What was compiled so is forgotten afterwards.
    """
    if request.node.get_closest_marker("quick") is None:
        yield
        return
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
