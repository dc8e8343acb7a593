"""Spaces of the policy tests, drawn once, in float64."""

import jax
import pytest

from kljax.objectives.policy.space import Space


@pytest.fixture(autouse=True)
def doubled(x64):
    """All of these are of exact gradients."""


@pytest.fixture(scope="session")
def spaces():
    """By how they are sampled; the third has an end token."""
    with jax.enable_x64(True):
        away = Space.drawn(jax.random.key(1), 4, 5, off=0.1)
        return {
            "on": away.on_policy,
            "off": away,
            "another": Space.drawn(jax.random.key(7), 4, 5, off=0.3),
            "ended": Space.drawn(jax.random.key(3), 4, 4, off=0.2, end=0),
        }
