"""Kernel sums over pairs of points: log-density, its gradient, divergences of samples.

The floor is one exponential and 2d operations a pair. Peers in their best documented
form: plain JAX that holds the pairs, `jax.scipy.stats.gaussian_kde`, KeOps' lazy
tensors, torch's `cdist` with a log-sum-exp.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.measuring import Contender, Floors, Group, Question, Reason
from kljax.divergences import samples

__all__ = ["PRESETS", "QUESTIONS", "REASONS", "groups"]

_BANDWIDTH = 0.7
_DENSE_PAIRS = 2**28
"""What the other forms are asked for: 1 GiB of float32 if they hold the pairs."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Numbers of points, the same on both sides, and dimensions."""

    points: tuple[int, ...]
    dims: tuple[int, ...]
    memory: tuple[int, ...] = ()
    """Compiled, not run."""
    errors: int = 512


PRESETS = {
    "smoke": Sizes((64, 128), (2,), errors=64),
    "cpu": Sizes((2048, 8192, 32768), (2, 16), memory=(1_000_000,)),
    "gpu": Sizes((32768, 262144, 1_000_000), (2, 16)),
}


def _exponents(y: jax.Array, x: jax.Array) -> jax.Array:
    """By one matrix product: what fits a plain form best."""
    y, x = y / _BANDWIDTH, x / _BANDWIDTH
    highest = jax.lax.Precision.HIGHEST
    half = 0.5 * jnp.sum(y**2, -1)[:, None] + 0.5 * jnp.sum(x**2, -1)
    return jnp.matmul(y, x.T, precision=highest) - half


def _constant(x: Any) -> float:
    n, d = x.shape
    return float(np.log(n) + d * np.log(_BANDWIDTH) + d / 2 * np.log(2 * np.pi))


def _dense(y, x):
    return jax.nn.logsumexp(_exponents(y, x), axis=-1) - _constant(x)


def _scipys(y, x):
    # With Scott's bandwidth: other values, the same work.
    return jax.scipy.stats.gaussian_kde(x.T).logpdf(y.T)


def _ours(y, x):
    return samples.kde_log_density(y, x, _BANDWIDTH)


def _slope(function: Callable) -> Callable:
    return lambda y, x: jax.grad(lambda *sides: jnp.sum(function(*sides)), (0, 1))(y, x)


def _dense_cauchy_schwarz(y, x):
    def log_mean(y, x):
        return jax.nn.logsumexp(_exponents(y, x) / 2) - jnp.log(1.0 * len(y) * len(x))

    return log_mean(y, y) + log_mean(x, x) - 2 * log_mean(y, x)


def _dense_mmd(y, x):
    def mean(y, x):
        return jnp.mean(jnp.exp(_exponents(y, x)))

    return mean(y, y) + mean(x, x) - 2 * mean(y, x)


def _cauchy_schwarz(y, x):
    return samples.cauchy_schwarz(y, x, _BANDWIDTH)


def _mmd(y, x):
    return samples.mmd(y, x, _BANDWIDTH)


def _ours_mean(y, x):
    return samples.kernel_mean(y, x, _BANDWIDTH)


def _dense_mean(y, x):
    return jnp.mean(jnp.exp(_exponents(y, x)), axis=-1)


def _installed(*modules: str) -> bool:
    cpu = jax.default_backend() == "cpu"
    return cpu and all(importlib.util.find_spec(name) for name in modules)


def _keops() -> Callable | None:
    if not _installed("pykeops"):
        return None
    # It greets, and compiles its formula when it is first called.
    with contextlib.redirect_stdout(io.StringIO()):
        from pykeops.numpy import LazyTensor  # pyrefly: ignore[missing-import]

    def of(y, x):
        queries: Any = LazyTensor((y / _BANDWIDTH)[:, None, :])
        points: Any = LazyTensor((x / _BANDWIDTH)[None, :, :])
        exponents = -(queries - points).sqnorm2() / 2
        return exponents.logsumexp(axis=1)[:, 0] - _constant(x)

    return of


def _torch(slope: bool = False) -> Callable | None:
    if not _installed("torch"):
        return None
    import torch  # pyrefly: ignore[missing-import]

    def density(y, x):
        squared = torch.cdist(y / _BANDWIDTH, x / _BANDWIDTH) ** 2
        return torch.logsumexp(-squared / 2, dim=-1) - _constant(x)

    def gradient(y, x):
        y, x = (z.detach().requires_grad_() for z in (y, x))
        density(y, x).sum().backward()
        return y.grad.numpy(), x.grad.numpy()

    return gradient if slope else lambda y, x: density(y, x).numpy()


def _points(n: int, dims: int) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(0))
    shape = n, dims
    return jax.random.normal(keys[0], shape), 0.2 + jax.random.normal(keys[1], shape)


def _exact(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Log-density in float64, from the definition."""
    y, x = y.astype(np.float64), x.astype(np.float64)
    gap = (y[:, None] - x) / _BANDWIDTH
    s = -0.5 * np.sum(gap**2, axis=-1)
    top = s.max(axis=1)
    return top + np.log(np.exp(s - top[:, None]).sum(axis=1)) - _constant(x)


def _errors(function: Callable, form: Callable, n: int, d: int) -> Mapping[str, float]:
    """Worst absolute error of the log-density, at two offsets of all points."""
    found = {}
    for offset in (0.0, 1e4):
        y, x = (np.asarray(z + np.float32(offset)) for z in _points(n, d))
        got = np.asarray(function(form(y), form(x)), np.float64)
        label = "nats" + (" at 1e4" if offset else "")
        found[label] = float(np.max(np.abs(got - _exact(y, x))))
    return found


QUESTIONS = (
    Question(
        "log-density",
        "Log-density of a kernel estimate",
        ("log-density", "log-density gradients"),
    ),
    Question(
        "sums",
        "Kernel sums and divergences of samples",
        ("kernel mean", "Cauchy-Schwarz", "MMD"),
    ),
)
REASONS: tuple[Reason, ...] = ()


def groups(preset: str) -> Iterator[Group]:
    """What is compared, one size after the other."""
    settings = PRESETS[preset]
    made = {
        "log-density": ({"kljax": _ours, "plain JAX": _dense}, 1.0),
        "log-density gradients": (
            {"kljax": _slope(_ours), "plain JAX": _slope(_dense)},
            2.0,
        ),
        "kernel mean": ({"kljax": _ours_mean, "plain JAX": _dense_mean}, 1.0),
        "Cauchy-Schwarz": (
            {"kljax": _cauchy_schwarz, "plain JAX": _dense_cauchy_schwarz},
            2.0,
        ),
        "MMD": ({"kljax": _mmd, "plain JAX": _dense_mmd}, 2.0),
    }
    for title, (functions, passes) in made.items():
        for dims in settings.dims:
            for n in (*settings.points, *settings.memory):
                timed = n in settings.points
                if title != "log-density" and n == max(settings.points) > 1024:
                    continue
                first = title == "log-density" and n == settings.points[0]
                yield Group(
                    title,
                    {"n": n, "d": dims, "dtype": "float32"},
                    functools.partial(_points, n, dims),
                    _compared(title, functions, n, dims, first, settings.errors),
                    functools.partial(_floor, n, dims, passes),
                    timed,
                )


def _floor(n: int, dims: int, passes: float, rates: Floors) -> float:
    return passes * n * n * (1 / rates.exp + 2 * dims / rates.gemm)


def _compared(
    title: str, functions: Mapping, n: int, dims: int, look: bool, errors: int
) -> list[Contender]:
    def contender(name, function, form=None):
        error = None
        if look and function is not None:
            called = jax.jit(function) if form is None else function
            error = functools.partial(
                _errors, called, form or jnp.asarray, errors, dims
            )
        if form is None:
            return Contender(name, function, error=error)
        given = None if function is None else [form(z) for z in _points(n, dims)]
        return Contender(name, function, compiled=False, error=error, arguments=given)

    small = n * n <= _DENSE_PAIRS
    compared = [
        contender(name, function)
        for name, function in functions.items()
        if small or name == "kljax"
    ]
    if title == "log-density" and small:
        compared.append(Contender("jax.scipy gaussian_kde", _scipys))
    if title == "log-density" and small:
        compared.append(contender("KeOps", _keops(), np.array))
    if title.startswith("log-density") and small:
        slope = title != "log-density"
        compared.append(contender("torch cdist", _torch(slope), _tensor))
    return compared


def _tensor(x: Any) -> Any:
    import torch  # pyrefly: ignore[missing-import]

    return torch.from_numpy(np.array(x))
