"""What a bug report and a stored result need to know about the machine."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

__all__ = ["commit", "environment"]

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


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(pathlib.Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def commit() -> str | None:
    """The repository's commit, or `None` outside of one."""
    return _git("rev-parse", "HEAD")


def _processor() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _devices() -> dict[str, Any]:
    import jax

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


def environment() -> dict[str, Any]:
    """Versions, machine, devices and the commit, as plain values.

    Packages that are not installed are left out; `commit` is `None` outside a
    repository, `dirty` says whether tracked files differ from the commit.
    """
    head = commit()
    changes = _git("status", "--porcelain", "--untracked-files=no")
    versions = {name: _version(name) for name in _PACKAGES}
    # An allowed set of cores is what the run had, not what the machine has.
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        **_devices(),
        "versions": {name: v for name, v in versions.items() if v is not None},
        "commit": head,
        "dirty": bool(changes) if head else None,
        "variables": {k: os.environ[k] for k in _VARIABLES if k in os.environ},
    }
