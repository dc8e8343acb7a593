"""Wall and CPU time on so many cores, in a process that has no more of them.

XLA sizes its pool of threads by the cores that its process may use when it starts, so
every number of cores takes a process of its own.
"""

import contextlib
import functools
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

__all__ = ["Times", "available", "one", "times"]

_LEAST = 2
"""Rounds that are timed, whatever they cost."""

Times = Mapping[str, tuple[float, float]]
"""Seconds of the wall clock and of the process's CPU time, by contender."""


_ALL = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def available() -> int:
    """How many cores this process was given; 1 where the system cannot say."""
    return len(_ALL)


@contextlib.contextmanager
def one() -> Generator[None]:
    """This process keeps to one core, where the system can say so.

    Threads that wait for each other spin: with two cores, the CPU time of a small call
    is up to twice its work.
    """
    if len(_ALL) == 1:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _ALL[-1:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@functools.cache
def times(cores: int, source: str, key: tuple, budget: float) -> Times:
    """Times of what ``source(*key)`` compares, on the first `cores` cores.

    Args:
      cores: at most `available()`.
      source: a function as "module:name" which gives functions by name, and arguments.
      key: what it is called with, plain numbers and words.
      budget: seconds of the wall clock for each.

    Raises:
      subprocess.CalledProcessError: where the process fails.
    """
    words = [json.dumps(x) for x in (_ALL[:cores], source, key, budget)]
    command = [sys.executable, "-m", "experiments.benchmarks.cores", *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {name: tuple(pair) for name, pair in json.loads(done.stdout).items()}


def _taken(calls: Mapping[str, Callable[[], Any]], budget: float) -> Times:
    """The least of each, called by turns."""
    import jax

    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    end = time.perf_counter() + budget * len(calls)
    while time.perf_counter() < end or len(min(taken.values(), key=len)) < _LEAST:
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: tuple(map(min, zip(*pairs))) for name, pairs in taken.items()}


def _main(words: Sequence[str]) -> None:
    cores, source, key, budget = map(json.loads, words)
    os.sched_setaffinity(0, cores)
    import jax

    module, name = source.split(":")
    functions, arguments = getattr(importlib.import_module(module), name)(*key)
    calls = {
        who: functools.partial(jax.jit(function), *arguments)
        for who, function in functions.items()
    }
    json.dump(_taken(calls, budget), sys.stdout)


if __name__ == "__main__":
    _main(sys.argv[1:])
