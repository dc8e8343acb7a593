"""Times are taken in turns, and the least of every call counts."""

import time

import jax.numpy as jnp

from kljax.decoding.fusion import Fusion
from kljax.decoding.timing import solving_call, timed


def test_calls_take_turns_and_the_least_time_counts():
    order, turns = [], []

    def slow():
        order.append("slow")
        time.sleep(0.02 if len(turns) == 1 else 0.2)

    calls = {"slow": slow, "fast": lambda: order.append("fast")}
    found = timed(calls, per=2, repeats=3, after=lambda: turns.append(1))
    assert order == ["slow", "fast"] * 3 and len(turns) == 3
    assert 10 <= found["slow"]["wall_ms"] < 100
    assert found["slow"]["cpu_ms"] < found["slow"]["wall_ms"]
    assert found["fast"]["wall_ms"] < found["slow"]["wall_ms"]


def test_solves_wait_for_each_other():
    call = solving_call(2, 32, Fusion(rule="kl_ball"), 3)
    assert 0 < float(call()) < 3 * 2 and float(call()) == float(call())
    assert call().dtype == jnp.float32
