"""The next token from a row of logits, and its log-probability.

Settings act in this order: repetition penalty, temperature, top-k, top-p, min-p. Each
filter sees what the one before it kept, renormalised. None of them sorts on a CPU: a
sort of a row of 50,000 logits costs a third of a step of a small model. Top-k and top-p
find their thresholds by bisection, over bit patterns, so they end at the exact one.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kljax.arguments import floats, whole
from kljax.typing import Array, Float, Int, Key

__all__ = ["Sample", "Sampling", "greedy", "sample", "warp"]

Logits = Float[Array, "*b v"]
_BLOCK = 256
"""Outcomes summed at once when a token is drawn."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is drawn. It hashes, so it may be a static argument of `jax.jit`.

    Example:
      >>> Sampling(temperature=0.7, top_p=0.9)
      Sampling(temperature=0.7, top_k=None, top_p=0.9, min_p=None, \
repetition_penalty=1.0)
      >>> Sampling(temperature=0).greedy
      True
    """

    temperature: Any = 1.0
    """Divides the logits; ≥ 0. The Python number 0 takes the largest logit. A traced
    value must be > 0."""
    top_k: int | None = None
    """Keep the k largest; those equal to the k-th stay as well."""
    top_p: Any = None
    """Keep the fewest, most probable outcomes of joint probability ≥ top_p in (0, 1];
    those equal to the last one stay as well. 1 keeps all."""
    min_p: Any = None
    """Keep outcomes of probability ≥ min_p × the largest, min_p in [0, 1]."""
    repetition_penalty: Any = 1.0
    """> 0; divides positive and multiplies negative logits of tokens seen before. It
    depends on where the logits' zero is."""

    def __post_init__(self) -> None:
        """Checks Python numbers, lets tracers and arrays through."""
        bounds = {
            "temperature": (self.temperature, lambda x: 0 <= x < jnp.inf, "≥ 0"),
            "top_p": (self.top_p, lambda x: 0 < x <= 1, "in (0, 1]"),
            "min_p": (self.min_p, lambda x: 0 <= x <= 1, "in [0, 1]"),
            "repetition_penalty": (
                self.repetition_penalty,
                lambda x: 0 < x < jnp.inf,
                "> 0",
            ),
        }
        for name, (value, legal, words) in bounds.items():
            if isinstance(value, int | float) and not legal(value):
                raise ValueError(f"{name}: expected {words}, got {value}")
        if self.top_k is not None:
            whole("top_k", self.top_k)

    @property
    def greedy(self) -> bool:
        """Whether the largest logit is taken."""
        return _is(self.temperature, 0)

    @property
    def penalizes(self) -> bool:
        """Whether it matters which tokens a row has had."""
        return not _is(self.repetition_penalty, 1)


class Sample(NamedTuple):
    """Tokens, and their log-probabilities in nats under the law they come from."""

    token: Int[Array, "*b"]
    log_probability: Float[Array, "*b"]


def sample(
    key: Key[Array, "*k"],
    logits: Logits,
    sampling: Sampling = Sampling(),
    *,
    seen: Array | None = None,
) -> Sample:
    """Draws one token per row: v ~ softmax(`warp(logits)`).

    Args:
      key: one random key, or one per row (then a row's draw does not depend on which
        other rows are in the batch). Not used when greedy.
      logits: unnormalised, -inf for tokens that must not come; any float type.
      sampling: the settings.
      seen: [*b, v] booleans or counts of the tokens that the penalty holds for.

    Returns:
      Tokens [*b], int32, and log-probabilities [*b] under the law that was drawn from,
      filters and temperature included: what importance weights need. Greedy: under the
      softmax of the (penalised) logits at temperature 1. A row without any possible
      token gives token 0 and log-probability -inf; one without a law, as it holds a NaN
      or +inf, gives token -1, which no vocabulary has, and NaN.

    Raises:
      ValueError: for logits without a vocabulary axis, `seen` of another shape, or a
        penalty without `seen`.

    Example:
      >>> logits = jnp.log(jnp.array([[0.1, 0.6, 0.3]]))
      >>> token, log_p = sample(jax.random.key(0), logits, Sampling(top_p=0.5))
      >>> int(token[0]), float(log_p[0])
      (1, 0.0)
    """
    warped = warp(logits, sampling, seen=seen)
    token = greedy(warped) if sampling.greedy else _draw(key, warped)
    chosen = jnp.take_along_axis(warped, token[..., None], axis=-1)[..., 0]
    total = jax.nn.logsumexp(warped, axis=-1)
    possible, lawful = chosen > -jnp.inf, total < jnp.inf
    log_p = jnp.where(possible, chosen - jnp.where(possible, total, 0), -jnp.inf)
    return Sample(jnp.where(lawful, token, -1), jnp.where(lawful, log_p, jnp.nan))


def warp(
    logits: Logits, sampling: Sampling = Sampling(), *, seen: Array | None = None
) -> Logits:
    """The logits of the law that `sample` draws from.

    Args:
      logits, sampling, seen: as in `sample`.

    Returns:
      Logits [*b, v], float32 or float64, -inf where a filter took the token away.
      Greedy settings only apply the penalty: the filters keep the largest anyway.

    Raises:
      ValueError: as `sample`.

    Example:
      >>> warp(jnp.array([2.0, 1.0, 0.0]), Sampling(temperature=0.5, top_k=2)).tolist()
      [4.0, 2.0, -inf]

    References:
      Holtzman et al., "The curious case of neural text degeneration" (2020), top-p;
      Keskar et al., "CTRL" (2019), the penalty; Nguyen et al., "Turning up the heat:
      min-p sampling" (2024).
    """
    logits = floats("logits", logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits: expected [*b, v], v ≥ 1, got shape {logits.shape}")
    x = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    x = _penalized(x, sampling.repetition_penalty, seen)
    if sampling.greedy:
        return x
    if not (
        isinstance(sampling.temperature, int | float) and sampling.temperature == 1
    ):
        x = _divided(x, sampling.temperature)
    if sampling.top_k is not None and sampling.top_k < x.shape[-1]:
        least = jax.lax.platform_dependent(
            x,
            cpu=functools.partial(_least_of_largest, count=sampling.top_k),
            default=lambda x: jax.lax.top_k(x, sampling.top_k)[0][..., -1:],
        )
        x = jnp.where(x < least, -jnp.inf, x)
    top_p = None if _is(sampling.top_p, 1) else sampling.top_p
    min_p = None if _is(sampling.min_p, 0) else sampling.min_p
    if top_p is None and min_p is None:
        return x
    weights = _weights(x)
    # A NaN is below nothing, so it stays where it shows.
    drop = jnp.zeros(x.shape, bool)
    if top_p is not None:
        least = _nucleus_threshold(weights, top_p)
        # Rounded sums may reach the whole mass before the last outcome.
        drop = weights < jnp.where(jnp.asarray(top_p) < 1, least, 0)
    if min_p is not None:
        drop |= weights < jnp.asarray(min_p, x.dtype)
    return jnp.where(drop, -jnp.inf, x)


def greedy(logits: Logits) -> Int[Array, "*b"]:
    """The index of the largest logit, the lowest among equals.

    Four times faster on a CPU than `argmax`, which carries pairs through its loop.

    Args:
      logits: [*b, v]. A row with a NaN gives 0.

    Returns:
      Indices [*b], int32.

    Example:
      >>> int(greedy(jnp.array([1.0, 3.0, 3.0])))
      1
    """
    logits = floats("logits", logits)
    top = jnp.max(logits, axis=-1, keepdims=True)
    index = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    at_top = (logits == top) | (top != top)
    return jnp.min(jnp.where(at_top, index, logits.shape[-1] - 1), axis=-1)


def _is(value: Any, number: int) -> bool:
    """Whether a setting is known, at trace time, to be this number."""
    return isinstance(value, int | float) and value == number


def _divided(x: Array, temperature: Any) -> Array:
    """x/temperature, less its maximum where a tiny temperature would overflow."""
    divided, top = x / temperature, jnp.max(x, axis=-1, keepdims=True)
    over = jnp.isfinite(top) & jnp.isinf(top / temperature)
    return jnp.where(over, (x - top) / temperature, divided)


def _penalized(x: Array, penalty: Any, seen: Array | None) -> Array:
    off = _is(penalty, 1)
    if seen is None:
        if not off:
            raise ValueError(
                f"repetition_penalty {penalty} needs `seen` [*b, v]: which tokens the "
                "penalty holds for"
            )
        return x
    if seen.shape != x.shape:
        raise ValueError(f"seen: expected shape {x.shape}, got {seen.shape}")
    if off:
        return x
    penalty = jnp.asarray(penalty, x.dtype)
    return jnp.where(seen > 0, jnp.where(x > 0, x / penalty, x * penalty), x)


def _weights(x: Array) -> Array:
    """exp(x − max), 0 everywhere in a row of -inf."""
    top = jnp.max(x, axis=-1, keepdims=True)
    return jnp.exp(x - jnp.where(top > -jnp.inf, top, 0))


def _nucleus_threshold(weights: Array, top_p: Any) -> Array:
    """The largest t with Σ weights[weights ≥ t] ≥ top_p Σ weights, [*b, 1].

    Non-negative floats are ordered like their bits read as integers, so a bisection
    over these ends at the float itself after as many passes as there are bits.
    """
    double = weights.dtype == jnp.float64
    integer, passes = (jnp.int64, 62) if double else (jnp.int32, 30)
    # A sum as a dot product: a plain sum is one scalar chain on a CPU.
    mass = functools.partial(jnp.einsum, "...v,...v->...", weights)
    goal = jnp.asarray(top_p, weights.dtype) * mass(jnp.ones_like(weights))
    as_float = functools.partial(jax.lax.bitcast_convert_type, new_dtype=weights.dtype)

    def enough(bits: Array) -> Array:
        kept = weights >= as_float(bits)[..., None]
        return mass(kept.astype(weights.dtype)) >= goal

    low = jnp.zeros(goal.shape, integer)  # t = 0 keeps all
    above = jax.lax.bitcast_convert_type(jnp.ones(goal.shape, weights.dtype), integer)
    low = _last(enough, low, above + 1, passes)
    # Rounding of the sums must not take the largest weight, which is 1, away.
    return jnp.minimum(as_float(low), 1)[..., None]


def _least_of_largest(x: Array, count: int) -> Array:
    """The `count`-th largest of each row, [*b, 1]; -inf in rows with too few numbers.

    Bits of negative floats fall as they rise: all but the sign are turned over.
    """
    double = x.dtype == jnp.float64
    integer, passes = (jnp.int64, 64) if double else (jnp.int32, 32)
    turn = jnp.iinfo(integer).max

    def turned(bits: Array) -> Array:
        return jnp.where(bits < 0, bits ^ turn, bits)

    def as_float(bits: Array) -> Array:
        return jax.lax.bitcast_convert_type(turned(bits), x.dtype)[..., None]

    def enough(bits: Array) -> Array:
        return jnp.sum(x >= as_float(bits), axis=-1, dtype=jnp.int32) >= count

    ends = jnp.full((2, *x.shape[:-1]), jnp.inf, x.dtype).at[0].set(-jnp.inf)
    low, high = turned(jax.lax.bitcast_convert_type(ends, integer))
    return as_float(_last(enough, low, high + 1, passes))


def _last(
    enough: Callable[[Array], Array], low: Array, above: Array, passes: int
) -> Array:
    """The largest integer that is `enough`, as `low` is and `above` is not."""

    def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, above = bounds
        # Their mean, which does not overflow.
        middle = (low & above) + ((low ^ above) >> 1)
        yes = enough(middle)
        return jnp.where(yes, middle, low), jnp.where(yes, above, middle)

    return jax.lax.fori_loop(0, passes, halve, (low, above))[0]


def _draw(key: Array, x: Array) -> Array:
    """Inverse transform, block by block: one uniform number a row.

    A cumulative sum of block sums finds the block, one within the block the token, so
    no rounding piles up over the vocabulary and no token of weight 0 can come out.
    """
    batch, size = x.shape[:-1], x.shape[-1]
    if key.shape == ():
        uniform = jax.random.uniform(key, batch, x.dtype)
    elif key.shape == batch:
        one = functools.partial(jax.random.uniform, dtype=x.dtype)
        uniform = jax.vmap(one)(key.reshape(-1)).reshape(batch)
    else:
        raise ValueError(
            f"key: expected one key or one per row {batch}, got shape {key.shape}"
        )
    block = min(_BLOCK, size)
    weights = jnp.pad(_weights(x), [(0, 0)] * len(batch) + [(0, -size % block)])
    blocks = weights.reshape(*batch, -1, block)
    sums = jnp.einsum("...nb,b->...n", blocks, jnp.ones(block, x.dtype))
    index, rest = _first_above(sums, uniform * jnp.sum(sums, axis=-1))
    inside = jnp.take_along_axis(blocks, index[..., None, None], axis=-2)[..., 0, :]
    within, _ = _first_above(inside, rest)
    return (index * block + within).astype(jnp.int32)


def _first_above(weights: Array, level: Array) -> tuple[Array, Array]:
    """The first index whose cumulative sum exceeds `level`, and what is left of it."""
    upto = jnp.cumsum(weights, axis=-1)
    size = weights.shape[-1]
    reached = upto > level[..., None]
    first = jnp.argmax(reached, axis=-1)
    # Rounding may leave the level above the last sum: the last that has any weight.
    last = size - 1 - jnp.argmax(jnp.flip(weights > 0, axis=-1), axis=-1)
    last = jnp.where(jnp.any(weights > 0, axis=-1), last, 0)
    index = jnp.where(jnp.any(reached, axis=-1), first, last)
    before = jnp.take_along_axis(upto - weights, index[..., None], axis=-1)[..., 0]
    return index, jnp.maximum(level - before, 0)
