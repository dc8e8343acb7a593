"""The same text in blocks: a small model drafts, the others check the block at once.

A round: the drafter (the expert) makes γ tokens, one by one; every other model reads
them in one call; the logits of the γ + 1 positions become one law each, fusion weights
included, by one call of `combine`. Drafts are kept up to the first that the law
rejects, whose place a token of the law takes; if all are kept, one more comes free.

Greedy, a draft is kept where it is the law's likeliest token: the output is that of
`kljax.decoding.generation.generate`, token for token. Sampled, draft d ~ q is kept with
probability min(1, p(d)/q(d)), and the token in a rejected one's place comes from
max(p − q, 0), normalised: then every token is distributed as p, exactly.

References:
  Leviathan et al., "Fast inference from transformers via speculative decoding" (2023),
  Algorithm 1; Chen et al., "Accelerating large language model decoding with speculative
  sampling" (2023).
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from kljax.arguments import traced, whole
from kljax.decoding import generation
from kljax.decoding.decoders import Model
from kljax.decoding.fusion.logits import padded
from kljax.decoding.job import checked
from kljax.decoding.lockstep import Block, Plan, Readers, Values
from kljax.decoding.sampling import Sampling, greedy, sample, warp
from kljax.decoding.settings import Decoding
from kljax.typing import Array, ArrayLike, Bool, Float, Int, Key

__all__ = ["Drafting", "Round", "Speculation", "one_round", "speculate"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Speculation(Block):
    """Text of all rows, and what it took.

    Attributes:
      tokens: the pad token after a row's end.
      log_probabilities: in nats, under the law of every token; 0 after the end.
      lengths: tokens of every row, its stop token included.
      diagnostics: what `combine` returned for every token, 0 after the end.
      calls: calls of the large model until the row ended; the prompt's is not counted.
      accepted: drafts that were kept.
    """

    calls: Int[Array, " b"]
    accepted: Int[Array, " b"]

    @property
    def calls_per_token(self) -> Float[Array, " b"]:
        """1 without any use, 1 / (γ + 1) where every draft is kept."""
        return self.calls / jnp.maximum(self.lengths, 1)


@dataclasses.dataclass(frozen=True)
class Drafting:
    """How many tokens are drafted per round, and by which of the models."""

    tokens: int
    drafter: int


def speculate(
    models: Sequence[Model],
    prompt: Int[ArrayLike, "b t"],
    settings: Decoding,
    *,
    draft: int = 4,
    drafter: int = 2,
    where: Bool[ArrayLike, "b t"] | None = None,
    key: Key[Array, "*k"] | None = None,
    caches: Sequence[Any] | None = None,
) -> Speculation:
    """Continues every row of the prompt as `generate` would, in fewer large calls.

    Args:
      models, prompt, settings, where, key, caches: as for `generate`; `combine` is
        given logits [b, t, v]. Drafts are sampled with the same settings. No
        repetition penalty.
      draft: γ ≥ 1, tokens per round that are drafted.
      drafter: which of the models drafts, not the first. For speculation without
        fusion: two models, 1, and a `combine` that returns ``(logits[0], {})``.

    Returns:
      Tokens, their log-probabilities and diagnostics, [b, max_new_tokens]; calls of the
      large model and drafts kept per row.

    Raises:
      TypeError, ValueError: as `generate`; for a draft length below 1, a drafter that
        is no model, or a repetition penalty, which would change within a block. Not to
        be called inside `jax.jit`.

    Example:
      >>> from kljax.decoding.fusion import Fusion
      >>> from kljax.models.language.transformer import TransformerConfig, transformer
      >>> config = TransformerConfig(vocab_size=31, width=16, depth=1, heads=2)
      >>> apply, initial = transformer(config)
      >>> models = [(apply, initial(jax.random.key(seed))) for seed in range(3)]
      >>> settings = Decoding(6, Sampling(temperature=0), combine=Fusion())
      >>> out = speculate(models, jnp.array([[5, 2, 3]]), settings)
      >>> out.tokens.shape, out.diagnostics["alpha"].shape, bool(out.calls[0] <= 6)
      ((1, 6), (1, 6, 1), True)

    References:
      Fan et al., "On giant's shoulders" (2024), for the fused law.
    """
    draft, drafter = whole("draft", draft), whole("drafter", drafter)
    if not 1 <= drafter < len(models):
        raise ValueError(
            f"drafter: expected 1 to {len(models) - 1}, any of the {len(models)} "
            f"models but the first, got {drafter}"
        )
    if traced((prompt, [params for _, params in models])):
        raise TypeError(
            "prompt or models: traced, and what comes next is decided between calls; "
            "call speculate outside of jax.jit, or generate inside"
        )
    if settings.sampling.penalizes:
        raise ValueError(
            f"repetition_penalty is {settings.sampling.repetition_penalty}: it changes "
            "from token to token, which a block cannot follow; use generate"
        )
    job = checked(models, prompt, settings, where, key, caches)
    rows, total = len(job.prompt), job.total
    # Rows that keep fewer drafts than others leave holes: some room for these, and
    # when it is used up they are squeezed out.
    room = total // 2 if rows > 1 else 0
    state = job.begun(generation.bucket(job.read + total + draft + 1 + room))
    plan, drafting = job.plan, Drafting(draft, drafter)
    out = jax.eval_shape(partial(one_round, plan, drafting), job.values, state)
    written = jax.tree.map(
        lambda leaf: jnp.zeros((rows, total + draft + 1, *leaf.shape[2:]), leaf.dtype),
        out.block,
    )
    counts = jnp.zeros((3, rows), jnp.int32)
    limit = jnp.asarray(total, jnp.int32)
    while True:
        state, written, counts = _rounds(
            plan, drafting, job.values, state, written, counts, limit
        )
        if bool(jnp.all(state.done)):
            break
        caches = tuple(_squeezed(cache) for cache in state.caches)
        state = dataclasses.replace(state, caches=caches)
    lengths, calls, accepted = counts
    return _finished(written, lengths, calls, accepted, job.values.pad_id, total)


@partial(jax.jit, static_argnums=5)
def _finished(
    written: tuple, lengths: Array, calls: Array, accepted: Array, pad: Array, n: int
) -> Speculation:
    made = jnp.arange(n) < lengths[:, None]

    def cut(leaf: Array) -> Array:
        mask = made.reshape(*made.shape, *(1,) * (leaf.ndim - 2))
        return jnp.where(mask, leaf[:, :n], 0)

    tokens, log_p, noted = jax.tree.map(cut, written)
    tokens = jnp.where(made, tokens, pad)
    return Speculation(tokens, log_p, lengths, noted, calls, accepted)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Round:
    """Tokens, log-probabilities and diagnostics [b, γ + 1] of a round, how many of them
    hold [b], and the caches with the whole block in them."""

    block: tuple[Array, Array, dict[str, Array]]
    count: Int[Array, " b"]
    caches: tuple[Any, ...]


def one_round(plan: Plan, drafting: Drafting, values: Values, state: Readers) -> Round:
    """Drafts, reads, accepts."""
    sampling, drafter = values.sampled(plan), drafting.drafter
    active = ~state.done
    keys = _folded(state.keys, state.made)

    def one(carry: tuple[Any, Array], i: Array) -> tuple[tuple, tuple]:
        cache, token = carry
        logits, cache = plan.readers[drafter].read(
            values.params[drafter], token[:, None], cache, active[:, None]
        )
        token = sample(_folded(keys, i), logits[:, 0], sampling).token
        token = jnp.maximum(token, 0)  # what has no law is seen when it is verified
        return (cache, token), (logits[:, 0], token)

    # One more than is drafted: the last draft has to be read, and gives the logits that
    # fusion needs behind it.
    start, draft = (state.caches[drafter], state.token), drafting.tokens
    (cache, _), (logits, drafts) = jax.lax.scan(one, start, jnp.arange(draft + 1))
    own, drafts = jnp.moveaxis(logits, 0, 1), drafts[:draft].T
    block = jnp.concatenate([state.token[:, None], drafts], axis=1)
    where = jnp.broadcast_to(active[:, None], block.shape)
    found, caches = [], []
    for i, reader in enumerate(plan.readers):
        read = own, cache
        if i != drafter:
            read = reader.read(values.params[i], block, state.caches[i], where)
        found.append(read[0])
        caches.append(read[1])
    combine = plan.combine
    assert combine is not None  # several models never come without it
    fused, noted = combine(tuple(found))
    own = padded(own[:, :draft], fused.shape[-1])
    tokens, log_p, count = _accept(keys, fused, own, drafts, sampling)
    return Round((tokens, log_p, noted), count, tuple(caches))


def _accept(
    keys: Array, fused: Array, own: Array, drafts: Array, sampling: Sampling
) -> tuple[Array, Array, Array]:
    """Tokens and log-probabilities [b, γ + 1], and how many of them hold [b].

    Of the logits that are fused [b, γ + 1, v] and the drafter's own [b, γ, v].
    """
    draft = drafts.shape[1]
    law = jax.nn.log_softmax(warp(fused, sampling))
    if sampling.greedy:
        tokens = greedy(fused)
        kept = _leading(drafts == tokens[:, :draft])
    else:
        p, q = jnp.exp(law), jax.nn.softmax(warp(own, sampling))
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (draft,), p.dtype))
        chance = uniform(_folded(keys, draft + 1))
        of_p = jnp.take_along_axis(p[:, :draft], drafts[..., None], axis=-1)[..., 0]
        of_q = jnp.take_along_axis(q, drafts[..., None], axis=-1)[..., 0]
        kept = _leading(chance * of_q < of_p)
        # At the first rejected draft; behind the last one nothing is taken off.
        here = kept[:, None, None]
        p = jnp.take_along_axis(p, here, axis=1)[:, 0]
        q = jnp.pad(q, ((0, 0), (0, 1), (0, 0)))
        rest = jnp.maximum(p - jnp.take_along_axis(q, here, axis=1)[:, 0], 0)
        rest = jnp.where(jnp.sum(rest, axis=-1, keepdims=True) > 0, rest, p)
        last = sample(_folded(keys, draft + 2), jnp.log(rest)).token
        filled = jnp.pad(drafts, ((0, 0), (0, 1)))
        tokens = jnp.where(jnp.arange(draft + 1) < kept[:, None], filled, last[:, None])
    log_p = jnp.take_along_axis(law, jnp.maximum(tokens, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(jnp.isnan(log_p), -1, tokens), log_p, kept + 1


def _leading(kept: Bool[Array, "b m"]) -> Int[Array, " b"]:
    """How many hold before the first that does not."""
    return jnp.sum(jnp.cumprod(kept.astype(jnp.int32), axis=1), axis=1, dtype=jnp.int32)


def _folded(keys: Array, number: Any) -> Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


@partial(
    jax.jit,
    static_argnames=("plan", "drafting"),
    donate_argnames=("state", "written", "counts"),
)
def _rounds(
    plan: Plan,
    drafting: Drafting,
    values: Values,
    state: Readers,
    written: tuple,
    counts: Int[Array, "3 b"],
    limit: Int[Array, ""],
) -> tuple[Readers, tuple, Int[Array, "3 b"]]:
    """Rounds until all rows are done or the caches have no room for another."""
    block = drafting.tokens + 1
    rows = jnp.arange(counts.shape[1])[:, None]

    def body(carry: tuple) -> tuple:
        state, written, counts = carry
        new = one_round(plan, drafting, values, state)
        lengths, calls, accepted = counts
        active = ~state.done
        tokens = new.block[0]
        ends = jnp.any(tokens[..., None] == values.stop_tokens, axis=-1)
        stops = ends | (tokens < 0)
        first = jnp.where(jnp.any(stops, axis=1), jnp.argmax(stops, axis=1), block)
        count = jnp.minimum(jnp.minimum(new.count, first + 1), limit - lengths)
        count = jnp.where(active, count, 0).astype(jnp.int32)
        # What lies behind the count is written over by the next round.
        at = lengths[:, None] + jnp.arange(block)
        written = jax.tree.map(
            lambda whole, part: whole.at[rows, at].set(part, mode="drop"),
            written,
            new.block,
        )
        last = jnp.maximum(count - 1, 0)[:, None]
        token = jnp.take_along_axis(tokens, last, axis=1)[:, 0]
        kept = jnp.minimum(new.count - 1, count)
        counts = jnp.stack(
            [lengths + count, calls + active, accepted + jnp.where(active, kept, 0)]
        )
        done = state.done | (active & ((first < count) | (counts[0] >= limit)))
        state = Readers(
            caches=tuple(cache.keep(count, block) for cache in new.caches),
            token=jnp.where(active, token, state.token),
            done=done,
            seen=None,
            keys=state.keys,
            made=state.made + 1,
        )
        return state, written, counts

    def go_on(carry: tuple) -> Array:
        state = carry[0]
        taken = jnp.max(jnp.stack([cache.cursor for cache in state.caches]))
        room = taken + block <= state.caches[0].slots
        return room & ~jnp.all(state.done)

    return jax.lax.while_loop(go_on, body, (state, written, counts))


@partial(jax.jit, donate_argnums=0)
def _squeezed(cache: Any) -> Any:
    return cache.packed()
