"""Keys and values of the tokens a model has read, in slots of a fixed number.

All rows write at the same slot, so that a step updates the arrays in place. A row that
has nothing to write (left padding, a rejected draft) leaves a hole: a slot that nobody
reads.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

from kljax.arguments import whole
from kljax.models.attention import write
from kljax.typing import Array, Bool, Float, Int, PyTree

__all__ = ["Cache"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """What a model remembers of `b` rows.

    Attributes:
      keys: per layer `[b, kv_heads, slots, head_dim]`, rotated already.
      values: per layer, likewise.
      valid: which slots hold a token of that row.
      cursor: the next slot, the same for all rows.
      next_position: the position of every row's next token.
      memory: what attention reads beside the slots, such as keys and values of a text
        or a picture that an encoder read; the methods here carry it along.
      limit: tokens that a row may have, the model's context; None: any number.
    """

    keys: tuple[Float[Array, "b k s d"], ...]
    values: tuple[Float[Array, "b k s d"], ...]
    valid: Bool[Array, "b s"]
    cursor: Int[Array, ""]
    next_position: Int[Array, " b"]
    memory: PyTree = None
    limit: int | None = field(default=None, metadata={"static": True})

    @classmethod
    def empty(
        cls,
        layers: int,
        shape: tuple[int, int, int, int],
        dtype: Any = jnp.float32,
        *,
        memory: PyTree = None,
        limit: int | None = None,
    ) -> "Cache":
        """Nothing read yet; the cursor and all positions are 0.

        A call of a model with a cache takes as many slots as it is given tokens,
        padding included; what runs over the end is not noticed inside a jitted program.

        Args:
          layers: of the model.
          shape: of the keys and of the values: rows, heads, slots, numbers per head.
          dtype: of keys and values.
          memory, limit: see `Cache`.

        Raises:
          ValueError: no row, or no slot.

        Example:
          >>> cache = Cache.empty(3, (2, 2, 16, 4))
          >>> len(cache.keys), cache.keys[0].shape, cache.slots
          (3, (2, 2, 16, 4), 16)
        """
        batch, _, slots, _ = shape
        whole("batch", batch)
        whole("slots", slots)

        def zeros() -> tuple[Array, ...]:
            # One array each: buffers that are donated must not be shared.
            return tuple(jnp.zeros(shape, dtype) for _ in range(layers))

        return cls(
            keys=zeros(),
            values=zeros(),
            valid=jnp.zeros((batch, slots), bool),
            cursor=jnp.zeros((), jnp.int32),
            next_position=jnp.zeros(batch, jnp.int32),
            memory=memory,
            limit=limit,
        )

    @property
    def slots(self) -> int:
        """How many tokens (and holes) there is room for."""
        return self.valid.shape[1]

    def advance(
        self, where: Bool[Array, "b t"]
    ) -> tuple[Bool[Array, "b t s"], Int[Array, "b t"], "Cache"]:
        """Makes room for a block: what it sees, its positions, the cache after it.

        Args:
          where: which tokens of the block count.

        Returns:
          The slots that every token of the block sees: valid ones, up to its own;
          the positions of the tokens; the cache with `valid`, `cursor` and
          `next_position` moved on, and the old keys and values.

        Raises:
          ValueError: the block is longer than the cache, or, where the cursor is
            known, than what is left of it.
        """
        b, t = where.shape
        if b != self.valid.shape[0] or t > self.slots:
            raise ValueError(
                f"a block of {t} tokens and {b} rows does not fit a cache of "
                f"{self.slots} slots and {self.valid.shape[0]} rows"
            )
        known = not isinstance(self.cursor, jax.core.Tracer)
        if known and int(self.cursor) + t > self.slots:
            raise ValueError(
                f"a block of {t} tokens does not fit a cache of {self.slots} slots, of "
                f"which {int(self.cursor)} are taken; make it larger, or call grow"
            )
        valid = write(self.valid, where, self.cursor, axis=1)
        last = self.cursor + jnp.arange(t, dtype=jnp.int32)
        visible = valid[:, None] & (jnp.arange(self.slots) <= last[:, None])
        count = jnp.cumsum(where.astype(jnp.int32), axis=1)
        positions = jnp.maximum(self.next_position[:, None] + count - 1, 0)
        return (
            visible,
            positions,
            replace(
                self,
                valid=valid,
                cursor=self.cursor + t,
                next_position=self.next_position + count[:, -1],
            ),
        )

    def keep(self, counts: Int[Array, " b"], block: int) -> "Cache":
        """Takes back the tail of the block that was written last.

        The first `counts[i]` slots of row `i` stay; the others become holes, and
        the row's next position moves back. The cursor moves back to the end of the
        longest kept part, so that one row alone leaves no holes.

        Args:
          counts: slots to keep per row, 0 to `block`.
          block: tokens of the last call.

        Returns:
          The cache as if only the kept tokens had been read.

        Raises:
          ValueError: `block` is not within 1 and the number of slots, or `counts`
            has another shape than `[b]`.

        Example:
          >>> cache = Cache.empty(1, (2, 2, 8, 4))
          >>> _, _, cache = cache.advance(jnp.ones((2, 4), bool))
          >>> kept = cache.keep(jnp.array([3, 1]), 4)
          >>> kept.next_position.tolist(), int(kept.cursor)
          ([3, 1], 3)
        """
        if not 1 <= block <= self.slots:
            raise ValueError(f"block is {block}; expected 1 to {self.slots}, the slots")
        counts = jnp.asarray(counts, jnp.int32)
        if counts.shape != self.next_position.shape:
            raise ValueError(
                f"counts has shape {counts.shape}; expected {self.next_position.shape},"
                " one per row"
            )
        start = self.cursor - block
        offset = jnp.arange(self.slots) - start
        dropped = self.valid & (offset >= counts[:, None])
        return replace(
            self,
            valid=self.valid & ~dropped,
            cursor=start + jnp.max(counts),
            next_position=self.next_position - dropped.sum(axis=1, dtype=jnp.int32),
        )

    def grow(self, slots: int) -> "Cache":
        """The same memory with room for more: empty slots at the end.

        Raises:
          ValueError: fewer slots than there are.
        """
        more = slots - self.slots
        if more < 0:
            raise ValueError(f"slots is {slots}; the cache has {self.slots} already")

        def pad(x: Array) -> Array:
            return jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0)))

        keys, values = (tuple(map(pad, part)) for part in (self.keys, self.values))
        valid = jnp.pad(self.valid, ((0, 0), (0, more)))
        return replace(self, keys=keys, values=values, valid=valid)

    def packed(self) -> "Cache":
        """The same memory without holes: every row's tokens moved to the front."""
        order = jnp.argsort(~self.valid, axis=1, stable=True)

        def moved(x: Array) -> Array:
            return jnp.take_along_axis(x, order[:, None, :, None], axis=2)

        keys, values = (tuple(map(moved, part)) for part in (self.keys, self.values))
        return replace(
            self,
            keys=keys,
            values=values,
            valid=jnp.take_along_axis(self.valid, order, axis=1),
            cursor=jnp.max(jnp.sum(self.valid, axis=1, dtype=jnp.int32)),
        )
