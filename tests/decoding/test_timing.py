"""Times are taken in turns, and the least of every call counts."""

import time

import jax.numpy as jnp
import numpy as np
import pytest

from kljax.decoding.fusion import Fusion
from kljax.decoding.timing import (
    ALONE,
    PARTS,
    SOLVE,
    TimingConfig,
    fusion_times,
    solving_call,
    timed,
)


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


def test_a_fused_step_is_timed_part_by_part():
    sizes = {"width": 16, "depth": 1, "heads": 2, "kv_heads": 1, "hidden": 24}
    small = {"small_width": 8, "small_depth": 1, "small_heads": 2}
    short = {"batches": (2,), "prompt": 3, "tokens": 2, "repeats": 2}
    config = TimingConfig(64, **sizes, **small, **short, parts=("dynamic",))
    turns = []
    found = fusion_times(config, after=lambda: turns.append(1))
    assert len(turns) == config.turns() == 2 + 2
    large, one = found.parameters
    # Head; per layer queries and output, keys and values, the gated MLP, two norms.
    assert large == 64 * 16 + 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24 + 3 * 16
    assert one == 64 * 8 + 4 * 8 * 8 + 3 * 8 * 32 + 3 * 8
    (times,) = found.batches.values()
    assert set(times) == {ALONE, "dynamic", SOLVE}
    assert all(part["wall_ms"] > 0 for part in times.values())
    with pytest.raises(ValueError, match="did you mean 'dynamic'"):
        TimingConfig(parts=("dynamik",))


def test_parts_read_and_combine_what_they_say():
    z, s, expert = (jnp.asarray(x) for x in ([[0.0, 2.0]], [[1.0, 0.0]], [[3.0, 0.0]]))
    models = ("large", "base", "expert")
    readers, combine = PARTS["both small ones"]
    assert models[readers] == ("base", "expert")
    assert combine((s, expert))[0] is s
    for name in ("static", "dynamic", "grid"):
        assert models[PARTS[name][0]] == models
    fused, _ = PARTS["static"][1]((z, s, expert))
    assert fused.tolist() == [[2.0, 2.0]]
    fused, info = PARTS["grid"][1]((z, s, expert))
    alpha = float(info["alpha"][0, 0])
    assert 0 < alpha < 2 and abs(alpha * 10 - round(alpha * 10)) < 1e-5
    np.testing.assert_allclose(fused, z + alpha * (expert - s), rtol=1e-6)
