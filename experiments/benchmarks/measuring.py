"""Time, memory and floors, all taken in one process.

On a CPU the time is that of the process, over all cores: the wall clock of a shared
machine says little. Calls of the things compared are interleaved and the least is kept.
On an accelerator a chain of calls is timed by the wall clock, the median is kept.
"""

import ctypes
import dataclasses
import functools
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

__all__ = [
    "Contender",
    "Floors",
    "Group",
    "Question",
    "Reason",
    "compiled",
    "floors",
    "resident_growth",
    "seconds",
    "temporary_bytes",
]

_CHAIN = 20
"""Calls between two looks at the clock, on an accelerator."""

_LOOK = 1e-3
"""Seconds between two looks at the clock of a CPU, at least: its tick is a µs."""

_LEAST = 3
"""Times that are taken of everything that is not long, whatever they cost."""

_LONG = 1.0
"""Seconds from which on a call is taken once more after it was warmed up, by turns."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """One of the things compared."""

    name: str
    function: Callable[..., Any] | None
    """Called with the group's arguments; `None` if what it needs is not installed."""
    compiled: bool = True
    """Whether JAX compiles it; other libraries come as they are to be called."""
    error: Callable[[], Mapping[str, float]] | None = None
    """Relative errors against float64, by what was looked at."""
    arguments: Sequence[Any] | None = None
    """Its own form of the group's arguments."""
    notes: Callable[[], Mapping[str, float]] | None = None
    """Other numbers that belong to it, by name, as what its process holds in memory."""
    peer: bool = True
    """Whether it does the same work; no peer is what only shows a part or a floor."""


@dataclasses.dataclass(frozen=True)
class Group:
    """What is compared at one size."""

    title: str
    sizes: Mapping[str, Any]
    arguments: Callable[[], Sequence[Any]]
    """Makes the arguments; shapes alone are asked for where nothing is run."""
    contenders: Sequence[Contender]
    floor: Callable[["Floors"], float]
    """Least seconds that the machine's rates allow."""
    timed: bool = True
    """Whether to run it, or only to compile and look at the memory."""
    elsewhere: Callable[[float], Mapping[str, float]] | None = None
    """Seconds by contender, taken in other processes, for as long as it is told to."""


@dataclasses.dataclass(frozen=True)
class Question:
    """Groups that answer it together: one picture and one table."""

    name: str
    text: str
    groups: Sequence[str]
    """Their titles."""


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why others are ahead, in words; where they are is found from the numbers."""

    words: str
    groups: str = "*"
    """Of these titles; asterisks stand for anything."""
    sizes: str = "*"
    """At these, written as 512×32768."""
    peers: str = "*"
    """Behind these."""


@dataclasses.dataclass(frozen=True)
class Floors:
    """Rates of this machine, measured in this process."""

    copy: float
    """Bytes a second, read and written."""
    read: float
    """Bytes a second, read alone."""
    write: float
    """Bytes a second, written to memory that is new, as a result's is."""
    gemm: float
    """Float32 operations a second of a matrix product."""
    exp: float
    """Exponentials a second."""


def on_cpu() -> bool:
    """Whether times are process CPU times."""
    return jax.default_backend() == "cpu"


def _once(call: Callable[[], Any], calls: int) -> float:
    clock = time.process_time if on_cpu() else time.perf_counter
    start = clock()
    for _ in range(calls - 1):
        call()
    jax.block_until_ready(call())
    return (clock() - start) / calls


def seconds(calls: Mapping[str, Callable[[], Any]], budget: float) -> dict[str, float]:
    """Seconds of each call: interleaved, warmed up, compile time not counted.

    Each is called until `budget` seconds of the wall clock have gone into it, and three
    times are taken at least; two of what takes longer than a second.
    """
    chains, taken, least = {}, {}, {}
    for name, call in calls.items():
        jax.block_until_ready(call())
        first = _once(call, 1)
        chains[name] = max(1, int(_LOOK / first)) if on_cpu() else _CHAIN
        taken[name] = [first] if chains[name] == 1 else []
        least[name] = 2 if first > _LONG else _LEAST
    spent = dict.fromkeys(calls, 0.0)
    while left := [
        name for name in calls if spent[name] < budget or len(taken[name]) < least[name]
    ]:
        for name in left:
            start = time.perf_counter()
            # Twice: what the one before gave back to the system is charged to the
            # first of the two.
            again = range(1 if least[name] < _LEAST else 2)
            taken[name] += [_once(calls[name], chains[name]) for _ in again]
            spent[name] += time.perf_counter() - start
    keep = min if on_cpu() else statistics.median
    return {name: keep(times) for name, times in taken.items()}


def compiled(function: Callable[..., Any], shapes: Sequence[Any]) -> Any:
    """The program for arguments of these shapes; nothing is run."""
    return jax.jit(function).lower(*shapes).compile()


def temporary_bytes(program: Any) -> int:
    """What a compiled program needs beside its arguments and results."""
    return int(program.memory_analysis().temp_size_in_bytes)


def resident_growth(call: Callable[[], Any]) -> int | None:
    """By how many bytes the process grows while it calls; None where none can tell.

    Of what JAX does not compile. Results count; what a library keeps from one call to
    the next does not, if it has been called before. Linux alone.
    """
    status = pathlib.Path("/proc/self/status")

    def kib(field: str) -> int:
        lines = status.read_text().splitlines()
        return next(int(x.split()[1]) for x in lines if x.startswith(f"{field}:"))

    try:
        ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system
        # Sets the high-water mark back to what is resident now.
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        before = kib("VmRSS")
        call()
        return 1024 * (kib("VmHWM") - before)
    except (OSError, AttributeError, StopIteration):
        return None


def floors(budget: float = 0.5, *, small: bool = False) -> Floors:
    """Rates of a copy, a matrix product, an exponential."""
    items, side = (2**20, 256) if small else (2**24, 1024)
    x = jax.random.normal(jax.random.key(0), (items,))
    a = jax.random.normal(jax.random.key(1), (side, side))
    block, rounds = x[: 2**16], jnp.arange(items / 2**16)
    programs: dict[str, tuple[Callable[..., Any], Any]] = {
        "copy": (lambda x: x + 1, x),
        "gemm": (lambda a: a @ a, a),
        "read": (lambda x: jnp.sum(x.reshape(64, -1), axis=-1), x),
        "write": (lambda s: jnp.broadcast_to(s, (items,)), rounds[0]),
        # Of a block that stays in the cache, so that reading is not what is timed.
        "exp": (
            lambda r: jax.lax.map(lambda s: jnp.sum(jnp.exp(block + s)), r),
            rounds,
        ),
    }
    calls = {
        name: functools.partial(jax.jit(function), argument)
        for name, (function, argument) in programs.items()
    }
    taken = seconds(calls, budget)
    return Floors(
        copy=8 * items / taken["copy"],
        read=4 * items / taken["read"],
        write=4 * items / taken["write"],
        gemm=2 * side**3 / taken["gemm"],
        exp=items / taken["exp"],
    )
