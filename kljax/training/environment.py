"""What a bug report and a stored result need to know about the machine."""

import importlib.metadata
import os
import pathlib
import platform
from typing import Any

import jax

__all__ = ["environment"]

_PACKAGES = (
    "kljax",
    "jax",
    "jaxlib",
    "jax-cuda12-plugin",
    "libtpu",
    "flax",
    "optax",
    "orbax-checkpoint",
    "chex",
    "jaxtyping",
    "numpy",
    "scikit-learn",
    "matplotlib",
    "mlxtend",
    "tyro",
    "rich",
)
# Only variables that change numbers or speed: the others may hold private paths.
_VARIABLES = (
    "JAX_PLATFORMS",
    "JAX_ENABLE_X64",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_DEFAULT_PRNG_IMPL",
    "XLA_FLAGS",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)


def environment() -> dict[str, Any]:
    """Versions, machine and devices, plain: what bit-identity is promised for.

    Packages that are not installed and variables that are not set are left out.

    Example:
        >>> environment()["versions"]["jax"] == jax.__version__
        True
    """
    # An allowed set of cores is what the run had, not what the machine has.
    affinity = getattr(os, "sched_getaffinity", None)
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        **_devices(),
        "versions": {name: v for name, v in versions.items() if v is not None},
        "variables": {k: os.environ[k] for k in _VARIABLES if k in os.environ},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _devices() -> dict[str, Any]:
    try:
        kinds = [device.device_kind for device in jax.devices()]
    except RuntimeError as error:  # a plugin that does not start is worth reporting
        return {"backend": f"none ({error})", "devices": []}
    counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    return {
        "backend": jax.default_backend(),
        "devices": [f"{count} x {kind}" for kind, count in counts.items()],
        "processes": jax.process_count(),
        "x64": bool(jax.config.read("jax_enable_x64")),
    }
