"""On which text a student learns: given text, its own, or a mixture of both.

A student that is trained on given text alone meets at decoding time prefixes that it
has never seen: its own. Generalized distillation lets it write a share of the batches
and asks the teacher about those. Nothing is differentiated through the sampling; the
losses are those of `kljax.objectives.distillation`.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from kljax.arguments import as_array, concrete
from kljax.typing import Array, ArrayLike, Bool, Float, Int, Key, PyTree

__all__ = ["mixed_batch", "next_token", "student_turn"]

Metrics = dict[str, Array]
Sampler = Callable[[Array, Any], Any]


def next_token(
    tokens: Int[ArrayLike, "*b t"], where: Bool[ArrayLike, "*b t"] | None = None
) -> tuple[Int[Array, "*b t"], Float[Array, "*b t"]]:
    """What each position has to predict, and whether it counts.

    Args:
      tokens: prompt and continuation, `[*b, t]`.
      where: which tokens are to be learned: the continuation's, without padding. None
        for all; the first token can never be.

    Returns:
      `labels`: the token that follows, -1 where none does or it is not to be learned;
      `weights`: 1.0 where there is a label, else 0.0. Positions stay where they are, so
      both fit the model's outputs for `tokens`.

    Raises:
      ValueError: `where` of another shape.
      TypeError: tokens that are not integers.

    Example:
      >>> labels, weights = next_token([[5, 6, 7]], jnp.array([[False, False, True]]))
      >>> labels.tolist(), weights.tolist()
      ([[-1, 7, -1]], [[0.0, 1.0, 0.0]])
    """
    tokens = as_array("tokens", tokens, "integers")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"tokens: expected integers, got {tokens.dtype}")
    kept = jnp.ones(tokens.shape, bool) if where is None else jnp.asarray(where, bool)
    if kept.shape != tokens.shape:
        raise ValueError(f"where: expected {tokens.shape}, got {kept.shape}")
    found = jnp.where(kept, tokens, -1)[..., 1:]
    labels = jnp.concatenate([found, jnp.full_like(tokens[..., :1], -1)], axis=-1)
    return labels, (labels >= 0).astype(jnp.float32)


def student_turn(key: Key[Array, ""], fraction: ArrayLike) -> Bool[Array, ""]:
    """Whether the student writes this batch: true with probability `fraction`.

    For a loop that samples outside of its step: fold the step's number into the key.

    Example:
      >>> bool(student_turn(jax.random.key(0), 1.0))
      True
    """
    _check_fraction(fraction)
    return jax.random.uniform(key) < fraction


def mixed_batch(
    key: Key[Array, ""],
    batch: PyTree,
    sampler: Sampler,
    *,
    fraction: ArrayLike,
    per: Literal["batch", "example"] = "batch",
) -> tuple[PyTree, Metrics]:
    """The batch that was given, or one written by the student, or rows of both.

    The expected loss is ``(1 - f) E_data[D] + f E_student[D]`` for both settings of
    `per`; per batch the student only writes when it is its turn.

    Args:
      key: random key; the sampler's own is derived from it.
      batch: given batch, a pytree of arrays `[b, ...]`.
      sampler: ``sampler(key, batch)`` returns a batch of the same shapes and types:
        the given prompts, continued by the student. Let it see its parameters through
        `jax.lax.stop_gradient` where the caller differentiates in them.
      fraction: f in [0, 1], the student's share; may be traced (a schedule). At the
        number 0 the sampler is not called, at 1 it always is.
      per: ``"batch"`` draws once, ``"example"`` once per row.

    Returns:
      The batch, without gradient, and "distillation/on_policy": the share of rows that
      the student wrote; NaN if the fraction is.

    Raises:
      ValueError: `fraction` or `per` out of range; a sampler that returns another
        structure, shape or type.

    Example:
      >>> batch = {"tokens": jnp.zeros((2, 3), int)}
      >>> write = lambda key, batch: {"tokens": batch["tokens"] + 1}
      >>> mixed, _ = mixed_batch(jax.random.key(0), batch, write, fraction=1.0)
      >>> mixed["tokens"].tolist()
      [[1, 1, 1], [1, 1, 1]]

    References:
      Agarwal et al., "On-policy distillation of language models" (2024), algorithm 1
      (their lambda is `fraction`, drawn per batch).
    """
    _check_fraction(fraction)
    if per not in ("batch", "example"):
        raise ValueError(f"per: expected 'batch' or 'example', got {per!r}")
    batch = jax.tree.map(lambda x: jax.lax.stop_gradient(jnp.asarray(x)), batch)
    turn_key, write_key = jax.random.split(key)

    def write(batch):
        written = jax.tree.map(jnp.asarray, sampler(write_key, batch))
        _check_like(written, batch)
        return jax.lax.stop_gradient(written)

    static = isinstance(fraction, int | float)
    if static and fraction in (0, 1):
        mixed = write(batch) if fraction else batch
        share = jnp.asarray(fraction, jnp.float32)
    elif per == "batch":
        turn = student_turn(turn_key, fraction)
        mixed = jax.lax.cond(turn, write, lambda batch: batch, batch)
        share = turn.astype(jnp.float32)
    else:
        size = jax.tree.leaves(batch)[0].shape[0]
        turns = jax.random.uniform(turn_key, (size,)) < fraction

        def choose(mine, given):
            row = turns.reshape(-1, *(1,) * (given.ndim - 1))
            return jnp.where(row, mine, given)

        mixed = jax.tree.map(choose, write(batch), batch)
        share = jnp.mean(turns.astype(jnp.float32))
    share = jnp.where(jnp.isnan(fraction), jnp.nan, share)
    return mixed, {"distillation/on_policy": share}


def _check_fraction(fraction: Any) -> None:
    known = concrete(fraction)
    if known is not None and not ((known >= 0) & (known <= 1)).all():
        raise ValueError(f"fraction: expected 0 to 1, got {fraction}")


def _check_like(written: PyTree, batch: PyTree) -> None:
    describe = lambda tree: jax.tree.map(  # noqa: E731
        lambda x: f"{x.dtype}{list(x.shape)}", tree
    )
    if (got := describe(written)) != (wanted := describe(batch)):
        raise ValueError(
            f"sampler: must return a batch like the given one, {wanted}; got {got}"
        )
