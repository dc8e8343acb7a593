"""Rotary position embedding, with the scalings that published checkpoints use.

The half-split form: number `i` of a head is paired with number `i + d/2`.

References: Su et al. 2021, "RoFormer" (Eq. 15); Chen et al. 2023, "Extending context
window of large language models via position interpolation" (linear); Peng et al. 2023,
"YaRN" (Eqs. 17 to 23); Grattafiori et al. 2024, "The Llama 3 herd of models".
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from kljax.arguments import expect, whole
from kljax.typing import Array, Float, Int

__all__ = ["Rope", "rotate", "rotation"]


@dataclass(frozen=True)
class Rope:
    """Frequencies of the rotation: `base^(-2i/d)`, scaled for a longer context.

    Args:
      base: the period's base, above 1 (`rope_theta`).
      scaling: None, "linear", "llama3", "yarn" or "factors".
      factor: how many times longer the context became, at least 1.
      original_length: context that the model was first trained with, in tokens
        ("llama3", "yarn").
      low_frequency_factor: "llama3" divides by `factor` all frequencies with fewer
        turns than this in the original context.
      high_frequency_factor: "llama3" leaves those with more turns than this alone.
      beta_fast: "yarn" leaves frequencies with more turns than this alone.
      beta_slow: "yarn" divides those with fewer turns than this by `factor`.
      attention_factor: "yarn" multiplies queries and keys by it; None is
        `1 + 0.1 ln(factor)`.
      factors: "factors" divides every frequency by its own, `head_dim / 2` numbers.

    Raises:
      ValueError: an unknown scaling, or a number out of its range.

    Example:
      >>> Rope(base=100.0).frequencies(4)
      array([1. , 0.1])
    """

    base: float = 10_000.0
    scaling: str | None = None
    factor: float = 1.0
    original_length: int = 8192
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    factors: tuple[float, ...] = ()

    def __post_init__(self):
        words = f"expected None or one of {sorted(SCALINGS)}"
        expect("scaling", self.scaling, self.scaling in (None, *SCALINGS), words)
        expect("base", self.base, self.base > 1, "it must be above 1")
        expect("factor", self.factor, self.factor >= 1, "it must be at least 1")
        whole("original_length", self.original_length)
        if not 0 < self.low_frequency_factor < self.high_frequency_factor:
            raise ValueError(
                f"low_frequency_factor is {self.low_frequency_factor} and "
                f"high_frequency_factor {self.high_frequency_factor}; expected "
                "0 < low < high"
            )
        for name in ("beta_fast", "beta_slow", "attention_factor"):
            value = getattr(self, name)
            none = value is None and name == "attention_factor"
            expect(name, value, none or 0 < value < math.inf, "it must be above 0")
        legal = all(0 < factor < math.inf for factor in self.factors)
        legal &= (self.scaling == "factors") == bool(self.factors)
        words = "it must be positive numbers, and goes with scaling 'factors'; scaling"
        expect("factors", self.factors, legal, f"{words} is {self.scaling!r}")

    def frequencies(self, head_dim: int) -> np.ndarray:
        """Radians per token of the `head_dim / 2` pairs, in float64."""
        plain = self.base ** (-np.arange(0, head_dim, 2) / head_dim)
        if self.scaling is None:
            return plain
        return SCALINGS[self.scaling](self, plain, head_dim)

    @property
    def magnitude(self) -> float:
        """What sines and cosines are multiplied by; 1 but for "yarn"."""
        if self.scaling != "yarn":
            return 1.0
        if self.attention_factor is None:
            return 1.0 + 0.1 * math.log(self.factor)
        return self.attention_factor


def _linear(rope: Rope, plain: np.ndarray, head_dim: int) -> np.ndarray:
    return plain / rope.factor


def _llama3(rope: Rope, plain: np.ndarray, head_dim: int) -> np.ndarray:
    turns = rope.original_length * plain / (2 * np.pi)
    low, high = rope.low_frequency_factor, rope.high_frequency_factor
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return plain * (kept + (1 - kept) / rope.factor)


def _yarn(rope: Rope, plain: np.ndarray, head_dim: int) -> np.ndarray:
    def pair(turns: float) -> float:
        """The (real-valued) pair that makes so many turns in the original context."""
        ratio = rope.original_length / (turns * 2 * np.pi)
        return head_dim * math.log(ratio) / (2 * math.log(rope.base))

    first = max(math.floor(pair(rope.beta_fast)), 0)
    last = min(math.ceil(pair(rope.beta_slow)), head_dim - 1)
    slope = np.arange(len(plain)) - first
    scaled = np.clip(slope / ((last - first) or 0.001), 0.0, 1.0)
    return plain * (1 - scaled + scaled / rope.factor)


def _factors(rope: Rope, plain: np.ndarray, head_dim: int) -> np.ndarray:
    if len(rope.factors) != len(plain):
        raise ValueError(
            f"rope has {len(rope.factors)} factors; a head of {head_dim} numbers needs "
            f"{len(plain)}"
        )
    return plain / np.array(rope.factors)


SCALINGS: dict[str, Callable[[Rope, np.ndarray, int], np.ndarray]] = {
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "factors": _factors,
}


def rotation(
    rope: Rope, positions: Int[Array, "b t"], head_dim: int
) -> tuple[Float[Array, "b t 1 half"], Float[Array, "b t 1 half"]]:
    """Cosines and sines of every position's angles, in float32.

    Args:
      rope: base and scaling.
      positions: integers from 0.
      head_dim: numbers per head, even.

    Returns:
      `(cos, sin)`, each `[b, t, 1, head_dim / 2]`; the axis of 1 is for the heads.

    Example:
      >>> rotation(Rope(), jnp.zeros((1, 3), int), 8)[0].shape
      (1, 3, 1, 4)
    """
    frequencies = jnp.asarray(rope.frequencies(head_dim), jnp.float32)
    angles = positions.astype(jnp.float32)[:, :, None, None] * frequencies
    return rope.magnitude * jnp.cos(angles), rope.magnitude * jnp.sin(angles)


def rotate(
    x: Float[Array, "b t h d"], turn: tuple[Array, Array]
) -> Float[Array, "b t h d"]:
    """Rotates the pairs `(x_i, x_{i + d/2})` of every head by the position's angles.

    Args:
      x: queries or keys.
      turn: cosines and sines from `rotation`.

    Returns:
      The rotated array, in the dtype of `x`.

    Example:
      >>> turn = rotation(Rope(), jnp.arange(3)[None], 4)
      >>> rotate(jnp.ones((1, 3, 2, 4)), turn)[0, 0, 0]
      Array([1., 1., 1., 1.], dtype=float32)
    """
    cos, sin = turn
    first, second = jnp.split(x.astype(jnp.promote_types(x.dtype, cos.dtype)), 2, -1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
