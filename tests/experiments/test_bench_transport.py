"""The benchmark of transport: what is compared computes the same."""

import jax
import numpy as np

from experiments.benchmarks import measuring, transport


def test_contenders_agree_and_floors_are_positive(monkeypatch):
    # Importing the other libraries would be most of the time.
    monkeypatch.setattr(transport, "_ott", lambda *args, **options: None)
    monkeypatch.setattr(transport, "_pot", lambda *args, **options: [])
    rates = measuring.Floors(1e9, 1e9, 1e9, 1e9, 1e9)
    seen = []
    for group in transport.groups("smoke"):
        seen.append(group.title)
        assert group.floor(rates) > 0
        if group.title == "matrix value+grad":
            continue
        by_name = {c.name: c for c in group.contenders}
        arguments = group.arguments()
        chosen = [by_name[k] for k in ("kljax", "plain JAX, log domain")]
        ours, plain = (jax.jit(c.function)(*arguments) for c in chosen)
        for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
            # The plain gradient is that of the iterations, ours of the fixed point.
            loose = 0.05 * np.max(np.abs(y)) if np.ndim(y) else 1e-5
            np.testing.assert_allclose(x, y, atol=loose, rtol=1e-5)
    assert seen == ["matrix value", "matrix value+grad", "points value+grad"]
